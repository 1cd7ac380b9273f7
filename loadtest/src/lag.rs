//! The stopwatch: from the acknowledgement of a commit until the server has heard that it is archived.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ::tests::Cluster;
use ::tests::cluster::parse_lsn;
use ::tests::wait::{Pace, within};
use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use crate::writer::Commit;

/// The error of the measurement.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Longer is counted as that: an hour in microseconds.
const LAG_MAX_US: u64 = 3_600_000_000;

/// A task that looks at the server all the time.
#[derive(Debug)]
pub(crate) struct Lag {
    commits: UnboundedSender<Commit>,
    task: JoinHandle<Result<Histogram<u64>>>,
}

impl Lag {
    pub(crate) async fn watch(cluster: &Cluster) -> Result<Self> {
        let (sender, receiver) = unbounded_channel();
        let client = cluster.connect().await?;
        let task = tokio::spawn(async move {
            let flushed = client
                .prepare("select coalesce(max(flush_lsn), '0/0')::text from pg_stat_replication")
                .await?;
            let mut watch = Watch::new(receiver)?;
            let mut pace = Pace::every(LOOK_EVERY);
            while watch.is_wanted() {
                pace.tick().await;
                let row = client.query_one(&flushed, &[]).await?;
                watch.see(parse_lsn(row.get(0))?);
            }
            Ok(watch.figures)
        });
        Ok(Self { commits: sender, task })
    }

    /// Where acknowledged commits are reported.
    pub(crate) fn sender(&self) -> UnboundedSender<Commit> {
        self.commits.clone()
    }

    /// Waits until all commits are archived; the writer must be gone.
    pub(crate) async fn finish(self, deadline: Duration) -> Result<Histogram<u64>> {
        drop(self.commits);
        within("the last commit to be archived", deadline, self.task)
            .await?
            .context("the stopwatch failed")?
    }
}

struct Watch {
    receiver: UnboundedReceiver<Commit>,
    is_open: bool,
    waiting: BTreeMap<u64, Vec<Instant>>,
    figures: Histogram<u64>,
}

impl Watch {
    fn new(receiver: UnboundedReceiver<Commit>) -> Result<Self> {
        Ok(Self {
            receiver,
            is_open: true,
            waiting: BTreeMap::new(),
            figures: Histogram::new_with_bounds(1, LAG_MAX_US, 3)?,
        })
    }

    fn is_wanted(&self) -> bool {
        self.is_open || !self.waiting.is_empty()
    }

    /// Everything up to `flushed` is archived now.
    fn see(&mut self, flushed: u64) {
        use tokio::sync::mpsc::error::TryRecvError;
        let now = Instant::now();
        loop {
            match self.receiver.try_recv() {
                Ok(commit) => {
                    let at = self.waiting.entry(commit.lsn).or_default();
                    at.push(commit.acknowledged);
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    self.is_open = false;
                    break;
                }
            }
        }
        let late = self.waiting.split_off(&(flushed + 1));
        for acknowledged in std::mem::replace(&mut self.waiting, late).into_values().flatten() {
            let lag = now.saturating_duration_since(acknowledged).as_micros();
            let lag = u64::try_from(lag).unwrap_or(LAG_MAX_US);
            self.figures.saturating_record(lag.clamp(1, LAG_MAX_US));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_counts_when_its_end_is_archived_and_not_before() {
        let (sender, receiver) = unbounded_channel();
        let mut watch = Watch::new(receiver).unwrap();
        let acknowledged = Instant::now();
        for lsn in [100, 200] {
            sender.send(Commit { lsn, acknowledged }).unwrap();
        }
        drop(sender);
        watch.see(99);
        assert_eq!(watch.figures.len(), 0);
        watch.see(100);
        assert_eq!(watch.figures.len(), 1);
        assert!(watch.is_wanted());
        watch.see(1000);
        assert_eq!(watch.figures.len(), 2);
        assert!(!watch.is_wanted());
    }
}
