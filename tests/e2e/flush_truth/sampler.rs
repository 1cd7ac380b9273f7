//! Reads what PostgreSQL shows of us, every ten milliseconds.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tests::Cluster;
use tests::wait::Pace;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const EVERY: Duration = Duration::from_millis(10);

/// `pg_stat_replication` shows nothing where a position was never reported.
const QUESTION: &str = "
    select (write_lsn - '0/0')::int8, (flush_lsn - '0/0')::int8, (replay_lsn - '0/0')::int8,
           (pg_current_wal_flush_lsn() - '0/0')::int8, coalesce(sync_state, '')
    from pg_stat_replication where application_name = 'seawall' and state = 'streaming'";

/// What was shown once.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub mode: &'static str,
    /// After the answer had come: what it says was true before.
    pub received: Instant,
    pub write: u64,
    pub flush: u64,
    pub replay: Option<u64>,
    /// The server's own end of WAL.
    pub server: u64,
    pub is_sync: bool,
}

pub(crate) struct Sampler {
    samples: Arc<Mutex<Vec<Sample>>>,
    mode: watch::Sender<&'static str>,
    task: JoinHandle<Result<()>>,
}

impl Sampler {
    pub(crate) async fn start(cluster: &Cluster) -> Result<Self> {
        let client = cluster.connect().await?;
        let (mode, current) = watch::channel("");
        let samples = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&samples);
        let task = tokio::spawn(async move {
            let question = client.prepare(QUESTION).await?;
            let mut pace = Pace::every(EVERY);
            loop {
                pace.tick().await;
                let rows = client.query(&question, &[]).await?;
                let received = Instant::now();
                for row in rows {
                    let lsn = |at: usize| row.get::<_, Option<i64>>(at).map(|lsn| lsn as u64);
                    let (Some(write), Some(flush)) = (lsn(0), lsn(1)) else {
                        continue;
                    };
                    into.lock().unwrap().push(Sample {
                        mode: *current.borrow(),
                        received,
                        write,
                        flush,
                        replay: lsn(2),
                        server: lsn(3).unwrap_or(0),
                        is_sync: row.get::<_, &str>(4) == "sync",
                    });
                }
            }
        });
        Ok(Self { samples, mode, task })
    }

    pub(crate) fn set_mode(&self, mode: &'static str) {
        self.mode.send_replace(mode);
    }

    pub(crate) fn count(&self) -> usize {
        self.samples.lock().unwrap().len()
    }

    pub(crate) async fn stop(self) -> Result<Vec<Sample>> {
        if self.task.is_finished() {
            self.task.await?.context("the sampler ended early")?;
        } else {
            self.task.abort();
        }
        Ok(std::mem::take(&mut self.samples.lock().unwrap()))
    }
}
