//! The brake: a backup holds back while the database answers more slowly than it did before, or could use the processors that it takes.
//!
//! A session of our own asks for nothing, forty times a second, and times the answer; and the processors are looked at. Where the ninth
//! of ten answers takes much longer than before the copy began, or hardly a processor is idle and others than us are at work, the workers
//! rest more; else they work more again. Nothing is written to the database.

mod processors;

use std::sync::Arc;
use std::time::{Duration, Instant};

use store::pipeline::Pace;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use self::processors::{Load, Watch};

const PROBE_EVERY: Duration = Duration::from_millis(25);
/// Probes at the beginning, for what is usual: a twentieth of a second, most of which the steps before the copy take anyway.
const PROBES_BEFORE: usize = 20;
const PROBE_EVERY_BEFORE: Duration = Duration::from_millis(2);
/// Probes between two decisions.
const WINDOW: usize = 10;
/// An answer is slow when it takes this many times the usual time, and at least [`SLOWER_BY`] more.
const TIMES_USUAL: u32 = 3;
const SLOWER_BY: Duration = Duration::from_millis(3);
/// The machine is full when less than this part of its processors is idle.
const IDLE_LEAST: f64 = 0.25;
/// Others are at work when they take at least this part: less is housekeeping, ours among it.
const OTHERS_LEAST: f64 = 0.2;
/// We are alone while others take less than this, in processors: about what counting by ticks gets wrong.
const ALONE_MOST: f64 = 0.12;
/// Part of the time, in thousandths.
const GENTLE: u32 = 500;
/// The same where the machine is full already when the copy begins.
const FULL_FROM_THE_START: u32 = 200;

/// Watches until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Brake(Option<Watcher>);

#[derive(Debug)]
struct Watcher {
    task: JoinHandle<()>,
    /// Turns true when it knows what is usual.
    knows: watch::Receiver<bool>,
}

impl Brake {
    /// No brake.
    pub(crate) fn off() -> Self {
        Brake::default()
    }

    /// Half of the time, whatever happens.
    pub(crate) fn gentle(pace: &Pace) -> Self {
        pace.set_duty(GENTLE);
        Brake::default()
    }

    /// By what the server's answers take. What is usual is found out while the backup is prepared; the copy begins after that
    /// ([`Brake::until_ready`]).
    pub(crate) fn auto(client: Client, pace: Arc<Pace>) -> Self {
        let (learnt, knows) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut processors = Watch::begin();
            let Some(slow) = slow(&client).await else { return };
            if processors.look().is_some_and(is_full) {
                pace.set_duty(FULL_FROM_THE_START);
            }
            learnt.send_replace(true);
            hold_back(client, pace, slow, processors).await;
        });
        Brake(Some(Watcher { task, knows }))
    }

    /// Returns when it knows what is usual, or never will.
    pub(crate) async fn until_ready(&self) {
        if let Some(watcher) = &self.0 {
            let _ = watcher.knows.clone().wait_for(|knows| *knows).await;
        }
    }
}

/// An answer that takes longer than this is a slow one; `None` when the session ended.
async fn slow(client: &Client) -> Option<Duration> {
    let mut before = Vec::with_capacity(PROBES_BEFORE);
    for _ in 0..PROBES_BEFORE {
        before.push(probe(client).await?);
        tokio::time::sleep(PROBE_EVERY_BEFORE).await;
    }
    let slow = slow_from(quantile(&mut before, 50));
    tracing::debug!(
        slow_us = u64::try_from(slow.as_micros()).unwrap_or(u64::MAX),
        "brake is on"
    );
    Some(slow)
}

impl Drop for Brake {
    fn drop(&mut self) {
        if let Some(watcher) = &self.0 {
            watcher.task.abort();
        }
    }
}

async fn hold_back(client: Client, pace: Arc<Pace>, slow: Duration, mut processors: Watch) {
    let mut window = Vec::with_capacity(WINDOW);
    // A session that ends leaves the pace as it is; the backup's own session will say what happened.
    while let Some(took) = probe(&client).await {
        window.push(took);
        if window.len() == WINDOW {
            let (took, load) = (quantile(&mut window, 90), processors.look());
            pace.set_duty(next_duty(pace.duty(), suffers(took, slow, load)));
            tracing::trace!(?took, ?load, duty = pace.duty(), "braked");
            window.clear();
        }
        tokio::time::sleep(PROBE_EVERY).await;
    }
}

async fn probe(client: &Client) -> Option<Duration> {
    let begun = Instant::now();
    client.simple_query("SELECT").await.ok()?;
    Some(begun.elapsed())
}

fn slow_from(usual: Duration) -> Duration {
    (usual * TIMES_USUAL).max(usual + SLOWER_BY)
}

/// Somebody is kept waiting. Where nobody but us does anything it is our own question that waits, for the end of a time slice.
fn suffers(took: Duration, slow: Duration, load: Option<Load>) -> bool {
    let is_alone = |load: Load| load.others * (load.processors as f64) < ALONE_MOST;
    load.is_some_and(is_full) || (took > slow && !load.is_some_and(is_alone))
}

/// Hardly a processor is left, and we are not the only ones.
fn is_full(load: Load) -> bool {
    load.idle < IDLE_LEAST && load.others > OTHERS_LEAST
}

/// Half as much while somebody suffers, up by a twentieth of all of the time while nobody does.
fn next_duty(duty: u32, suffers: bool) -> u32 {
    if suffers { duty / 2 } else { duty + 50 }
}

fn quantile(all: &mut [Duration], percent: usize) -> Duration {
    all.sort_unstable();
    let at = (all.len() * percent / 100).min(all.len().saturating_sub(1));
    all.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_few_slow_answers_do_not_brake_and_many_do() {
        let mut window = vec![MS / 5; 18];
        window.extend([MS * 50, MS * 60]);
        let slow = slow_from(MS / 5);
        assert_eq!(slow, MS * 3 + MS / 5);
        assert!(quantile(&mut window, 90) > slow);
        let mut window = vec![MS / 5; 19];
        window.push(MS * 50);
        assert!(quantile(&mut window, 90) < slow);
        assert_eq!((next_duty(900, true), next_duty(900, false)), (450, 950));
    }

    fn load(idle: f64, others: f64) -> Load {
        Load {
            idle,
            others,
            processors: 2,
        }
    }

    #[test]
    fn a_full_machine_brakes_when_it_is_others_that_fill_it() {
        assert!(is_full(load(0.01, 0.5)));
        assert!(!is_full(load(0.01, 0.1)));
        assert!(!is_full(load(0.3, 0.5)));
    }

    #[test]
    fn nobody_suffers_where_nobody_else_is_at_work() {
        assert!(suffers(MS * 9, MS * 3, Some(load(0.5, 0.1))));
        assert!(suffers(MS * 9, MS * 3, None));
        assert!(!suffers(MS * 9, MS * 3, Some(load(0.0, 0.05))));
        assert!(!suffers(MS * 2, MS * 3, Some(load(0.5, 0.4))));
    }

    #[test]
    fn a_server_that_is_slow_anyway_is_measured_by_itself() {
        assert_eq!(slow_from(MS * 10), MS * 30);
    }
}
