//! One connection of the oracle: a transaction after the other, through crashes of the server.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use tokio_postgres::{Client, Statement};

use super::{Commit, Shared, payload};
use crate::cluster::{connect, parse_lsn};
use crate::seed::Rng;
use crate::wait::Pace;

const RECONNECT_INTERVAL: Duration = Duration::from_millis(50);
const ROLLBACK_ONE_IN: u64 = 16;

/// Goes on until it is told to stop. A lost connection is normal: servers are killed on purpose.
pub(super) async fn run(shared: Arc<Shared>, connection: u32) {
    let mut rng = Rng::new(shared.seed ^ u64::from(connection));
    let mut reconnect = Pace::every(RECONNECT_INTERVAL);
    while !shared.stop.load(Ordering::Relaxed) {
        reconnect.tick().await;
        let Ok(session) = Session::open(&shared, connection).await else {
            continue;
        };
        let mut pace = (shared.options.rate > 0).then(|| Pace::every(Duration::from_secs(1) / shared.options.rate));
        while !shared.stop.load(Ordering::Relaxed) {
            if let Some(pace) = &mut pace {
                pace.tick().await;
            }
            let _gate = shared.gate.read().await;
            let commits = !rng.one_in(ROLLBACK_ONE_IN);
            if session.transaction(commits).await.is_err() {
                break;
            }
        }
    }
}

struct Session<'a> {
    shared: &'a Shared,
    connection: u32,
    client: Client,
    insert: Statement,
    count: Statement,
    after: Statement,
}

impl<'a> Session<'a> {
    async fn open(shared: &'a Shared, connection: u32) -> Result<Self> {
        let client = connect(&shared.client).await?;
        let insert = client
            .prepare("insert into oracle values ($1, $2, $3, md5($3))")
            .await?;
        let count = client
            .prepare(
                "update oracle_connection set last = $1, rows = rows + 1 where connection = $2
                 returning pg_current_xact_id()::text, pg_current_wal_insert_lsn()::text",
            )
            .await?;
        let after = client
            .prepare(
                "select pg_current_wal_insert_lsn()::text,
                        (extract(epoch from pg_xact_commit_timestamp($1::text::xid)) * 1000000)::bigint",
            )
            .await?;
        Ok(Self {
            shared,
            connection,
            client,
            insert,
            count,
            after,
        })
    }

    async fn transaction(&self, commits: bool) -> Result<()> {
        let shared = self.shared;
        let n = shared.next.fetch_add(1, Ordering::Relaxed);
        let connection = self.connection as i32;
        let payload = payload(shared.seed, n, shared.options.payload_bytes_max);

        self.client.batch_execute("begin").await?;
        self.client.execute(&self.insert, &[&n, &connection, &payload]).await?;
        let row = self.client.query_one(&self.count, &[&n, &connection]).await?;
        if !commits {
            self.client.batch_execute("rollback").await?;
            return Ok(());
        }
        let xid: String = row.get(0);
        // Noted before it is sent: whatever happens from here on, the row may exist.
        let index = self.note(Commit {
            n,
            connection: self.connection,
            xid: xid.clone(),
            sent_at: SystemTime::now(),
            acknowledged_at: None,
            lsn_before: parse_lsn(row.get(1))?,
            lsn_after: None,
            committed_us: None,
        });
        self.client.batch_execute("commit").await?;
        let acknowledged_at = SystemTime::now();
        self.amend(index, |commit| commit.acknowledged_at = Some(acknowledged_at));
        shared.acknowledged.send_modify(|count| *count += 1);

        let row = self.client.query_one(&self.after, &[&xid]).await?;
        let lsn = parse_lsn(row.get(0))?;
        self.amend(index, |commit| {
            commit.lsn_after = Some(lsn);
            commit.committed_us = row.get(1);
        });
        Ok(())
    }

    fn note(&self, commit: Commit) -> usize {
        let mut commits = self.shared.commits.lock().unwrap();
        commits.push(commit);
        commits.len() - 1
    }

    fn amend(&self, index: usize, change: impl FnOnce(&mut Commit)) {
        change(&mut self.shared.commits.lock().unwrap()[index]);
    }
}
