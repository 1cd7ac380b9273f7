//! The brake: a backup holds back while the database answers more slowly than it did before.
//!
//! A session of our own asks for nothing, twenty times a second, and times the answer. Where the ninth of ten answers of the last second
//! takes much longer than before the copy began, the workers rest more; else they work more again. Nothing is written to the database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use store::pipeline::Pace;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

const PROBE_EVERY: Duration = Duration::from_millis(50);
/// Probes before the copy, for what is usual.
const PROBES_BEFORE: usize = 20;
const PROBE_EVERY_BEFORE: Duration = Duration::from_millis(10);
/// Probes between two decisions.
const WINDOW: usize = 20;
/// An answer is slow when it takes this many times the usual time, and at least [`SLOWER_BY`] more.
const TIMES_USUAL: u32 = 3;
const SLOWER_BY: Duration = Duration::from_millis(3);
/// Part of the time, in thousandths.
const GENTLE: u32 = 500;

/// Watches until it is dropped.
#[derive(Debug)]
pub(crate) struct Brake(Option<JoinHandle<()>>);

impl Brake {
    /// No brake.
    pub(crate) fn off() -> Self {
        Brake(None)
    }

    /// Half of the time, whatever happens.
    pub(crate) fn gentle(pace: &Pace) -> Self {
        pace.set_duty(GENTLE);
        Brake(None)
    }

    /// By what the server's answers take. Returns when it knows what is usual.
    pub(crate) async fn auto(client: Client, pace: Arc<Pace>) -> Self {
        let mut before = Vec::with_capacity(PROBES_BEFORE);
        for _ in 0..PROBES_BEFORE {
            match probe(&client).await {
                Some(took) => before.push(took),
                None => return Brake(None),
            }
            tokio::time::sleep(PROBE_EVERY_BEFORE).await;
        }
        let slow = slow_from(quantile(&mut before, 50));
        tracing::debug!(
            slow_us = u64::try_from(slow.as_micros()).unwrap_or(u64::MAX),
            "brake is on"
        );
        Brake(Some(tokio::spawn(watch(client, pace, slow))))
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

async fn watch(client: Client, pace: Arc<Pace>, slow: Duration) {
    let mut window = Vec::with_capacity(WINDOW);
    // A session that ends leaves the pace as it is; the backup's own session will say what happened.
    while let Some(took) = probe(&client).await {
        window.push(took);
        if window.len() == WINDOW {
            let duty = next_duty(pace.duty(), quantile(&mut window, 90), slow);
            pace.set_duty(duty);
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

/// Down by a third while answers are slow, up by a twentieth of all of the time while they are not.
fn next_duty(duty: u32, took: Duration, slow: Duration) -> u32 {
    if took > slow { duty * 2 / 3 } else { duty + 50 }
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
        assert_eq!(next_duty(900, quantile(&mut window, 90), slow), 600);
        let mut window = vec![MS / 5; 19];
        window.push(MS * 50);
        assert_eq!(next_duty(900, quantile(&mut window, 90), slow), 950);
    }

    #[test]
    fn a_server_that_is_slow_anyway_is_measured_by_itself() {
        assert_eq!(slow_from(MS * 10), MS * 30);
    }
}
