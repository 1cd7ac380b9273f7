//! The oracle of acknowledged commits: it commits rows all the time and remembers what the server
//! promised. After a restore it says which rows must be there, which may, and which must not.
//!
//! A row is a function of the seed and its number, so the oracle knows every byte. Every transaction
//! also counts up its connection's own row: a transaction that was restored in part would show. One
//! in sixteen rolls back, and its row must never appear.
//!
//! Exact points are made by [`Oracle::mark`]: it holds all connections between two transactions.
//! For any other LSN or time, [`History`] knows each commit only between the LSN before it was sent
//! and the LSN after it was acknowledged, and calls the rest "may".
//!
//! The cluster must have `track_commit_timestamp = on`.

mod expected;
mod worker;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use tokio::sync::{RwLock, watch};
use tokio::task::JoinSet;

pub use expected::{Comparison, Expected, History};

use crate::cluster::{Cluster, connect, parse_lsn, query_one};
use crate::seed::{Rng, seed};
use crate::wait::{DEADLINE, within};

const TABLES: &str = "
    create table oracle (n bigint primary key, connection int not null, payload text not null, hash text not null);
    create table oracle_connection (connection int primary key, last bigint not null, rows bigint not null);";

/// How hard the oracle works.
#[derive(Debug, Clone)]
pub struct Options {
    pub connections: u32,
    /// Transactions a second of each connection; 0 is as fast as it goes.
    pub rate: u32,
    pub payload_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections: 4,
            rate: 100,
            payload_bytes_max: 256,
        }
    }
}

/// One transaction whose commit was sent.
#[derive(Debug, Clone)]
pub struct Commit {
    pub n: i64,
    pub connection: u32,
    pub xid: String,
    /// Our clock, just before COMMIT was sent.
    pub sent_at: SystemTime,
    /// Our clock when the server had acknowledged; `None`: the connection broke first, so the row may
    /// or may not be there.
    pub acknowledged_at: Option<SystemTime>,
    /// The commit record starts at or after this.
    pub lsn_before: u64,
    /// The commit record ends at or before this.
    pub lsn_after: Option<u64>,
    /// The server's time in the commit record, in microseconds since 1970.
    pub committed_us: Option<i64>,
}

/// A point between transactions: what is committed before it is known exactly.
#[derive(Debug, Clone)]
pub struct Mark {
    pub lsn: u64,
    pub time_us: i64,
    /// The same time as a recovery target: `2026-11-21 05:24:00.123456+00`.
    pub time: String,
    pub restore_point: Option<String>,
    pub expected: Expected,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    seed: u64,
    client: tokio_postgres::Config,
    /// Read-locked by each transaction, write-locked by a mark.
    gate: RwLock<()>,
    next: AtomicI64,
    stop: AtomicBool,
    commits: Mutex<Vec<Commit>>,
    acknowledged: watch::Sender<u64>,
}

/// The running oracle. Dropping it ends its connections; [`Oracle::stop`] gives the history.
#[derive(Debug)]
pub struct Oracle {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
}

impl Oracle {
    /// Makes the oracle's tables in the database `postgres` and starts to commit.
    pub async fn start(cluster: &Cluster, options: Options) -> Result<Self> {
        let client = cluster.connect().await?;
        let tracking = query_one(&client, "show track_commit_timestamp").await?;
        ensure!(
            tracking == "on",
            "the oracle needs .setting(\"track_commit_timestamp\", \"on\")"
        );
        client.batch_execute(TABLES).await?;
        for connection in 0..options.connections {
            let sql = format!("insert into oracle_connection values ({connection}, 0, 0)");
            client.batch_execute(&sql).await?;
        }
        let shared = Arc::new(Shared {
            options,
            seed: seed(),
            client: cluster.client_config("postgres"),
            gate: RwLock::new(()),
            next: AtomicI64::new(1),
            stop: AtomicBool::new(false),
            commits: Mutex::new(Vec::new()),
            acknowledged: watch::Sender::new(0),
        });
        let mut workers = JoinSet::new();
        for connection in 0..shared.options.connections {
            workers.spawn(worker::run(Arc::clone(&shared), connection));
        }
        Ok(Self { shared, workers })
    }

    /// How many commits were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        *self.shared.acknowledged.borrow()
    }

    /// Waits until `more` further commits are acknowledged.
    pub async fn wait_for(&self, more: u64) -> Result<()> {
        let mut count = self.shared.acknowledged.subscribe();
        let goal = *count.borrow_and_update() + more;
        let reached = count.wait_for(|count| *count >= goal);
        within(&format!("{more} commits"), DEADLINE, reached).await??;
        Ok(())
    }

    /// Holds all connections between two transactions, notes LSN and time, optionally names a restore
    /// point there, and lets them go on.
    pub async fn mark(&self, restore_point: Option<&str>) -> Result<Mark> {
        let _held = within("open transactions to end", DEADLINE, self.shared.gate.write()).await?;
        let client = connect(&self.shared.client).await?;
        let row = client
            .query_one(
                "select to_char(now_, 'YYYY-MM-DD HH24:MI:SS.US') || '+00', (extract(epoch from now_) * 1000000)::bigint
                 from (select clock_timestamp() at time zone 'UTC' as now_) t",
                &[],
            )
            .await?;
        if let Some(name) = restore_point {
            let sql = format!("select pg_create_restore_point('{name}')");
            client.batch_execute(&sql).await?;
        }
        let lsn = query_one(&client, "select pg_current_wal_insert_lsn()").await?;
        Ok(Mark {
            lsn: parse_lsn(&lsn)?,
            time_us: row.get(1),
            time: row.get(0),
            restore_point: restore_point.map(str::to_owned),
            expected: self.shared.history().expected_now(),
        })
    }

    /// A copy of what is known now.
    pub fn history(&self) -> History {
        self.shared.history()
    }

    /// Ends all connections after their current transaction.
    pub async fn stop(mut self) -> Result<History> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let all = async {
            while let Some(ended) = self.workers.join_next().await {
                ended.context("a worker of the oracle panicked")?;
            }
            anyhow::Ok(())
        };
        // A server that hangs keeps its workers; what they sent counts as not acknowledged.
        if let Ok(ended) = within("the oracle to stop", Duration::from_secs(10), all).await {
            ended?;
        }
        self.workers.abort_all();
        Ok(self.shared.history())
    }
}

impl Shared {
    fn history(&self) -> History {
        let commits = self.commits.lock().unwrap().clone();
        History::new(self.seed, self.options.payload_bytes_max, commits)
    }
}

/// The row with number `n`, always the same for a seed.
fn payload(seed: u64, n: i64, bytes_max: u64) -> String {
    let mut rng = Rng::new(seed ^ (n as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93));
    let len = rng.between(8.min(bytes_max), bytes_max);
    rng.words(len as usize)
}
