//! A steady writer: one small row a commit, a fixed number of commits a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tests::Cluster;
use tests::cluster::parse_lsn;
use tests::seed::Rng;
use tests::wait::{Pace, within};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;

/// The table that is written to.
pub(crate) const TABLE: &str = "create table load (n bigserial primary key, payload text not null)";

/// As many as a slow disk needs to reach the rate: each waits for its own flush.
const CONNECTIONS: u32 = 8;

/// An acknowledged commit: its record ends at or before the LSN.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Commit {
    pub(crate) lsn: u64,
    pub(crate) acknowledged: Instant,
}

/// The connections that write.
#[derive(Debug)]
pub(crate) struct Writer {
    stop: tokio::sync::watch::Sender<bool>,
    connections: JoinSet<Result<u64>>,
}

impl Writer {
    /// `wal_mb_s`: as much WAL beside the rows, of text that compresses about two to one.
    pub(crate) async fn start(
        cluster: &Cluster,
        rate: u32,
        wal_mb_s: u32,
        commits: UnboundedSender<Commit>,
    ) -> Result<Self> {
        let bytes = u64::from(wal_mb_s) * 1_000_000 / u64::from(rate);
        let filler: Arc<str> = random_text(usize::try_from(bytes)?).into();
        let stop = tokio::sync::watch::Sender::new(false);
        let mut connections = JoinSet::new();
        let interval = Duration::from_secs(1) * CONNECTIONS / rate;
        for _ in 0..CONNECTIONS {
            let client = cluster.connect().await?;
            let insert = client
                .prepare(
                    "with filler as materialized (select pg_logical_emit_message(true, 'load', $1::text) as lsn) \
                     insert into load (payload) select repeat(md5(random()::text), 8) from filler where lsn is not null",
                )
                .await?;
            let after = client.prepare("select pg_current_wal_flush_lsn()::text").await?;
            let (commits, stopped, filler) = (commits.clone(), stop.subscribe(), Arc::clone(&filler));
            connections.spawn(async move {
                let mut pace = Pace::every(interval);
                let mut count = 0;
                while !*stopped.borrow() {
                    pace.tick().await;
                    client.execute(&insert, &[&&*filler]).await?;
                    let acknowledged = Instant::now();
                    let row = client.query_one(&after, &[]).await?;
                    let lsn = parse_lsn(row.get(0))?;
                    commits.send(Commit { lsn, acknowledged })?;
                    count += 1;
                }
                Ok(count)
            });
        }
        Ok(Self { stop, connections })
    }

    /// Writes for that long; returns how many commits were acknowledged.
    pub(crate) async fn stop_after(mut self, duration: Duration) -> Result<u64> {
        let first_end = within("the writer", duration, self.connections.join_next()).await;
        self.stop.send_replace(true);
        let mut count = 0;
        // It ends by itself only when it failed.
        if let Ok(Some(ended)) = first_end {
            count += ended??;
        }
        while let Some(ended) = self.connections.join_next().await {
            count += ended??;
        }
        Ok(count)
    }
}

fn random_text(bytes: usize) -> String {
    let mut rng = Rng::named("filler");
    (0..bytes)
        .map(|_| char::from(b"0123456789abcdef"[usize::try_from(rng.below(16)).unwrap_or(0)]))
        .collect()
}
