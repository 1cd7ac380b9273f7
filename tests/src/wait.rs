//! The one place where a test lets time pass. Tests wait for conditions, never for durations.

use std::future::Future;
use std::ops::AsyncFnMut;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Long enough for a server on a busy two-core machine; a wait that takes this long has failed.
pub const DEADLINE: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Polls `condition` until it holds. The error names what was waited for.
pub async fn wait_until(what: &str, deadline: Duration, mut condition: impl AsyncFnMut() -> bool) -> Result<()> {
    wait_for(what, deadline, async || condition().await.then_some(())).await
}

/// Polls `probe` until it has a value, and returns it.
pub async fn wait_for<T>(what: &str, deadline: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    let mut pace = Pace::every(POLL_INTERVAL);
    loop {
        pace.tick().await;
        // A probe that hangs must not outlive the deadline either.
        let left = deadline.saturating_sub(start.elapsed());
        match tokio::time::timeout(left.max(POLL_INTERVAL), probe()).await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) if start.elapsed() < deadline => {}
            Ok(None) | Err(_) => bail!("gave up after {:.1?} waiting for {what}", start.elapsed()),
        }
    }
}

/// Ends `future` at the deadline, with an error that names it.
pub async fn within<T>(what: &str, deadline: Duration, future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(deadline, future)
        .await
        .with_context(|| format!("{what} took longer than {deadline:.0?}"))
}

/// Time that a fault takes. Not for waiting until something has happened.
pub async fn delay(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// A steady beat for load generators. The first tick is immediate; a missed one is not made up.
#[derive(Debug)]
pub struct Pace(tokio::time::Interval);

impl Pace {
    pub fn every(interval: Duration) -> Self {
        let mut interval = tokio::time::interval(interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self(interval)
    }

    pub async fn tick(&mut self) {
        self.0.tick().await;
    }
}

/// The drawn moment at which a fault strikes: the one pause that waits for nothing.
pub async fn moment(after: Duration) {
    let mut beat = Pace::every(after.max(Duration::from_millis(1)));
    beat.tick().await;
    beat.tick().await;
}
