//! One connection that writes row after row through an address, whoever answers there, and knows what was acknowledged.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::cluster::{connect, parse_lsn, query_one};
use tests::wait::{DEADLINE, Pace, within};
use tests::{Address, Cluster};
use tokio::sync::{RwLock, watch};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config};

/// About 2 kB of WAL a row: a few hundred rows cross a segment of 1 MB.
const PAYLOAD: &str = "repeat(md5(n::text), 60)";
const EVERY: Duration = Duration::from_millis(8);

pub(crate) const TABLE: &str = "create table t (n bigint primary key, payload text not null)";

/// Row numbers of a primary that was written to although it had been replaced.
pub(crate) const ZOMBIE: i64 = 1_000_000_000;

/// A point between two rows, and what the server held then.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) timeline: u32,
    pub(crate) lsn: u64,
    pub(crate) time: String,
    pub(crate) rows: BTreeSet<i64>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    /// Read-locked by each row, write-locked to hold the writer.
    gate: RwLock<()>,
    /// Counts moves of the address: an open connection leads to the old server.
    moves: AtomicU64,
    stop: AtomicBool,
    rows: Mutex<Rows>,
    acknowledged: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Rows {
    acknowledged: BTreeSet<i64>,
    /// Sent, and the connection broke.
    unknown: BTreeSet<i64>,
    /// Acknowledged by a server that was replaced by one that had not got them.
    lost: BTreeSet<i64>,
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Writer {
    pub(crate) fn start(address: &Address) -> Self {
        let mut config = Config::new();
        config
            .host_path(address.host())
            .port(address.port())
            .user("postgres")
            .dbname("postgres")
            .connect_timeout(Duration::from_secs(10));
        let shared = Arc::new(Shared {
            config,
            gate: RwLock::new(()),
            moves: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            rows: Mutex::default(),
            acknowledged: watch::Sender::new(0),
        });
        let task = tokio::spawn(write(Arc::clone(&shared)));
        Self { shared, task }
    }

    /// Waits until `more` further rows are acknowledged.
    pub(crate) async fn wait_for(&self, more: u64) -> Result<()> {
        let mut count = self.shared.acknowledged.subscribe();
        let goal = *count.borrow_and_update() + more;
        let reached = count.wait_for(|count| *count >= goal);
        within(&format!("{more} rows"), DEADLINE, reached).await??;
        Ok(())
    }

    /// Holds the writer between two rows while `during` runs.
    pub(crate) async fn held<T>(&self, during: impl Future<Output = Result<T>>) -> Result<T> {
        let _held = within("a row to end", DEADLINE, self.shared.gate.write()).await?;
        during.await
    }

    /// The address leads to another server from now on.
    pub(crate) fn moved(&self) {
        self.shared.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks at `cluster` between two rows. All that was acknowledged is there.
    pub(crate) async fn mark(&self, cluster: &Cluster) -> Result<Mark> {
        self.mark_and(cluster, async |_| Ok(())).await
    }

    /// The same, and holds the writer there until `then` is done.
    pub(crate) async fn mark_and(
        &self,
        cluster: &Cluster,
        then: impl AsyncFnOnce(&Mark) -> Result<()>,
    ) -> Result<Mark> {
        let looked = async {
            let mark = look(cluster).await?;
            self.judge(&mark.rows, false)?;
            then(&mark).await?;
            Ok(mark)
        };
        self.held(looked).await
    }

    /// The same on a server that took over without the last rows. They are lost from here on.
    pub(crate) async fn mark_after_loss(&self, cluster: &Cluster) -> Result<Mark> {
        let looked = async {
            let mark = look(cluster).await?;
            let lost = self.judge(&mark.rows, true)?;
            ensure!(lost > 0, "nothing was lost: the standby was not cut off");
            Ok(mark)
        };
        self.held(looked).await
    }

    fn judge(&self, present: &BTreeSet<i64>, may_lose: bool) -> Result<usize> {
        let mut rows = self.shared.rows.lock().unwrap();
        let is_missing = |n: &&i64| !present.contains(n) && !rows.lost.contains(n);
        let missing: Vec<i64> = rows.acknowledged.iter().filter(is_missing).copied().collect();
        ensure!(
            may_lose || missing.is_empty(),
            "acknowledged and not there: {missing:?}"
        );
        rows.lost.extend(&missing);
        let strange = |n: &&i64| !rows.acknowledged.contains(n) && !rows.unknown.contains(n) && **n < ZOMBIE;
        let strange: Vec<&i64> = present.iter().filter(strange).collect();
        ensure!(strange.is_empty(), "never written: {strange:?}");
        Ok(missing.len())
    }

    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        within("the writer to stop", DEADLINE, &mut self.task)
            .await?
            .context("the writer")
    }
}

async fn write(shared: Arc<Shared>) {
    let mut pace = Pace::every(EVERY);
    let mut session: Option<(u64, Client)> = None;
    let mut next = 1;
    while !shared.stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let _gate = shared.gate.read().await;
        let moves = shared.moves.load(Ordering::Relaxed);
        if session.as_ref().is_none_or(|(of, _)| *of != moves) {
            session = connect(&shared.config).await.ok().map(|client| (moves, client));
        }
        let Some((_, client)) = &session else { continue };
        let n = next;
        next += 1;
        // Noted before it is sent: whatever happens from here on, the row may exist.
        shared.rows.lock().unwrap().unknown.insert(n);
        let sql = format!("insert into t select n, {PAYLOAD} from (values ({n}::bigint)) v (n)");
        if client.batch_execute(&sql).await.is_err() {
            session = None;
            continue;
        }
        let mut rows = shared.rows.lock().unwrap();
        rows.unknown.remove(&n);
        rows.acknowledged.insert(n);
        shared.acknowledged.send_modify(|count| *count += 1);
    }
}

async fn look(cluster: &Cluster) -> Result<Mark> {
    let client = cluster.connect().await?;
    let time = "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'";
    let time = query_one(&client, time).await?;
    let lsn = query_one(&client, "select pg_current_wal_insert_lsn()").await?;
    let timeline = query_one(&client, "select left(pg_walfile_name(pg_current_wal_lsn()), 8)").await?;
    Ok(Mark {
        timeline: u32::from_str_radix(&timeline, 16)?,
        lsn: parse_lsn(&lsn)?,
        time,
        rows: rows(&client).await?,
    })
}

/// Every row, after a look at its content.
pub(crate) async fn rows(client: &Client) -> Result<BTreeSet<i64>> {
    let damaged = format!("select count(*) from t where payload <> {PAYLOAD}");
    let damaged = query_one(client, &damaged).await?;
    ensure!(damaged == "0", "{damaged} rows have another content than was written");
    let rows = client.query("select n from t", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Writes rows to a server directly, past the address.
pub(crate) async fn write_zombies(cluster: &Cluster, count: i64) -> Result<()> {
    let sql = format!("insert into t select n, {PAYLOAD} from generate_series({ZOMBIE}, {ZOMBIE} + {count} - 1) n");
    cluster.exec(&sql).await
}
