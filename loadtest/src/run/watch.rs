//! What is archived, seen from outside: `pg_stat_replication.flush_lsn`, which the agent reports only for what is durable in the repository.

use std::time::{Duration, Instant};

use ::tests::cluster::{connect, parse_lsn};
use ::tests::wait::{Pace, within};
use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config};

/// The error of the measurement.
const LOOK_EVERY: Duration = Duration::from_millis(4);
/// Of the figures about WAL.
const WAL_EVERY: Duration = Duration::from_millis(250);
const LOOK: &str = "
    select coalesce((select max(flush_lsn) from pg_stat_replication where application_name = 'seawall'), '0/0')::text,
        pg_current_wal_lsn()::text";

/// From then on, until the next step, WAL before `flushed` was known to be archived. 0: nobody said anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) at: Duration,
    pub(crate) flushed: u64,
}

/// All that was seen in a run.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) steps: Vec<Step>,
    /// Where the server wrote, now and then.
    pub(crate) wal: Vec<(Duration, u64)>,
}

/// A task that looks all the time.
#[derive(Debug)]
pub(crate) struct Watch {
    goal: watch::Sender<Option<u64>>,
    task: JoinHandle<Result<Seen>>,
}

impl Watch {
    pub(crate) fn start(server: &Config, begin: Instant) -> Self {
        let goal = watch::Sender::new(None);
        let task = tokio::spawn(look(server.clone(), begin, goal.subscribe()));
        Self { goal, task }
    }

    /// Waits until that is archived; 0 waits for nothing.
    pub(crate) async fn finish(self, goal: u64, deadline: Duration) -> Result<Seen> {
        self.goal.send_replace(Some(goal));
        within("the last commit to be archived", deadline, self.task)
            .await?
            .context("the watch panicked")?
    }
}

async fn look(server: Config, begin: Instant, goal: watch::Receiver<Option<u64>>) -> Result<Seen> {
    let mut seen = Seen::default();
    let mut client = None;
    let mut pace = Pace::every(LOOK_EVERY);
    loop {
        pace.tick().await;
        let looked = look_once(&server, &mut client).await;
        // A server that is away says nothing, and the next one may know less.
        let (flushed, written) = looked.unwrap_or((0, None));
        let at = begin.elapsed();
        seen.note(at, flushed, written);
        if goal.borrow().is_some_and(|goal| flushed >= goal) {
            return Ok(seen);
        }
    }
}

async fn look_once(server: &Config, client: &mut Option<Client>) -> Result<(u64, Option<u64>)> {
    let open = match client.take() {
        Some(open) => open,
        None => connect(server).await?,
    };
    let row = open.query_one(LOOK, &[]).await?;
    *client = Some(open);
    Ok((parse_lsn(row.get(0))?, Some(parse_lsn(row.get(1))?)))
}

impl Seen {
    fn note(&mut self, at: Duration, flushed: u64, written: Option<u64>) {
        if self.steps.last().is_none_or(|last| last.flushed != flushed) {
            self.steps.push(Step { at, flushed });
        }
        if let Some(written) = written
            && self.wal.last().is_none_or(|(last, _)| at >= *last + WAL_EVERY)
        {
            self.wal.push((at, written));
        }
    }

    /// When a commit was archived that was acknowledged then. What another server had archived before does not count.
    pub(crate) fn archived(&self, acknowledged: Duration, lsn: u64) -> Option<Duration> {
        let next = self.steps.partition_point(|step| step.at <= acknowledged);
        let relevant = self.steps.get(next.saturating_sub(1)..)?;
        let step = relevant.iter().find(|step| step.flushed >= lsn)?;
        Some(step.at.max(acknowledged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_archived_when_its_server_says_so_and_not_by_what_another_said() {
        let mut seen = Seen::default();
        let ms = Duration::from_millis;
        // The first server archives up to 900 and goes away; its successor goes on from 500.
        for (at, flushed) in [(0, 100), (10, 100), (20, 900), (30, 0), (40, 500), (50, 700)] {
            seen.note(ms(at), flushed, None);
        }
        assert_eq!(seen.steps.len(), 5, "the same again is no step");
        assert_eq!(seen.archived(ms(5), 100), Some(ms(5)));
        assert_eq!(seen.archived(ms(5), 101), Some(ms(20)));
        assert_eq!(seen.archived(ms(35), 600), Some(ms(50)));
        assert_eq!(seen.archived(ms(35), 800), None);
    }
}
