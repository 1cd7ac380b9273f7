//! The only retry loop. [`Retrying`] wraps a store; nothing above or below it repeats a request.
//!
//! What is tried again: errors of class `Transient`, and writes and deletions whose outcome is unknown. An answer to a GET that is
//! damaged or does not fit may have been spoilt on the way: it is asked for [`READ_ATTEMPTS`] times before it is believed. Everything
//! else goes to the caller at once. The delay doubles up to a limit and is jittered (a fleet of agents must not come back in step).
//!
//! After a put whose outcome is unknown, `AlreadyExists` may be the echo of our own first attempt: the object is read and
//! compared. The same bytes mean that it is there as wished (`Created`), others that someone else was first.
//!
//! A crash inside the loop leaves what a crash inside the single call leaves.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use crate::object::{
    ByteRange, Capabilities, ErrorClass, ListPage, ObjectError, ObjectMeta, ObjectName, ObjectStore, Operation,
    Outcome, PutNew,
};

/// So many damaged answers to one GET mean that the object is damaged, or that the service works like that.
pub const READ_ATTEMPTS: u32 = 3;

/// When to try again, and when to give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Delay before the second attempt (the jitter takes up to half of it away).
    pub first_delay: Duration,
    /// Delays double up to this.
    pub max_delay: Duration,
    /// No attempt begins later than this after the first one. `None`: no end.
    pub budget: Option<Duration>,
    /// At most so many attempts. `None`: no limit.
    pub attempts: Option<u32>,
}

impl RetryPolicy {
    /// Without an end: for WAL, which must arrive. A service that is back is to be caught up with within a minute: the time of a
    /// request that it swallowed, and of one of these delays.
    #[must_use]
    pub const fn patient() -> Self {
        RetryPolicy {
            first_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(15),
            budget: None,
            attempts: None,
        }
    }

    /// Until `budget` is used up: for commands that someone waits for.
    #[must_use]
    pub const fn bounded(budget: Duration) -> Self {
        RetryPolicy {
            budget: Some(budget),
            max_delay: Duration::from_secs(10),
            ..RetryPolicy::patient()
        }
    }

    /// One attempt.
    #[must_use]
    pub const fn never() -> Self {
        RetryPolicy {
            attempts: Some(1),
            ..RetryPolicy::patient()
        }
    }

    /// Delay after `attempt` failed (1 = the first), jittered by `random`: between a half and the whole of the step.
    fn delay(&self, attempt: u32, random: u64) -> Duration {
        let doublings = 1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        let step = self.first_delay.saturating_mul(doublings).min(self.max_delay);
        let share = (random >> 40) as f64 / (1u64 << 24) as f64;
        step.mul_f64(0.5 + share / 2.0)
    }

    /// How long to wait after `attempt` failed `elapsed` after the start; `None`: give up.
    fn next(&self, attempt: u32, elapsed: Duration, random: u64) -> Option<Duration> {
        if self.attempts.is_some_and(|limit| attempt >= limit) {
            return None;
        }
        let delay = self.delay(attempt, random);
        match self.budget {
            None => Some(delay),
            Some(budget) => {
                let left = budget.saturating_sub(elapsed);
                (!left.is_zero()).then(|| delay.min(left))
            }
        }
    }
}

/// What the loop has done so far; shared with whoever shows it.
#[derive(Debug, Default)]
pub struct RetryStats {
    /// Requests sent, first attempts included.
    pub attempts: AtomicU64,
    /// Attempts after the first.
    pub retries: AtomicU64,
    /// Calls that ended with a retryable error because the policy had an end.
    pub given_up: AtomicU64,
    /// Puts whose lost answer was found out by reading the object.
    pub lost_answers: AtomicU64,
}

/// A store that tries again.
pub struct Retrying<S> {
    inner: S,
    policy: RetryPolicy,
    jitter: SplitMix,
    stats: Arc<RetryStats>,
}

impl<S: ObjectStore> Retrying<S> {
    /// Wraps `inner`. `seed` starts the jitter; different processes should pass different ones.
    pub fn new(inner: S, policy: RetryPolicy, seed: u64) -> Self {
        Retrying {
            inner,
            policy,
            jitter: SplitMix::new(seed),
            stats: Arc::default(),
        }
    }

    /// Counters, live.
    #[must_use]
    pub fn stats(&self) -> &Arc<RetryStats> {
        &self.stats
    }

    /// The store behind.
    #[must_use]
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Runs `attempt` until it succeeds, fails for good, or the policy ends.
    async fn repeat<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, ObjectError>
    where
        F: Future<Output = Result<T, ObjectError>>,
    {
        let start = Instant::now();
        let mut number = 1;
        let mut damaged = 0;
        loop {
            self.stats.attempts.fetch_add(1, Ordering::Relaxed);
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            damaged += u32::from(is_damaged_answer(&error));
            let is_doubtful = is_damaged_answer(&error) && damaged < READ_ATTEMPTS;
            if !is_retryable(&error) && !is_doubtful {
                return Err(error);
            }
            let Some(delay) = self.policy.next(number, start.elapsed(), self.jitter.next()) else {
                self.stats.given_up.fetch_add(1, Ordering::Relaxed);
                return Err(error);
            };
            warn_of(&error, number, delay);
            tokio::time::sleep(delay).await;
            self.stats.retries.fetch_add(1, Ordering::Relaxed);
            number = number.saturating_add(1);
        }
    }

    /// One attempt of a put; `in_doubt` if an earlier one may have happened.
    async fn put_attempt(&self, name: &ObjectName, body: &Bytes, in_doubt: &Doubt) -> Result<PutNew, ObjectError> {
        let answer = self.inner.put_new(name, body.clone()).await;
        match answer {
            Err(error) => {
                if error.outcome() == Outcome::Unknown {
                    in_doubt.raise();
                }
                Err(error)
            }
            Ok(PutNew::AlreadyExists) if in_doubt.is_raised() => match self.inner.get(name, ByteRange::All).await {
                Ok(stored) if stored == *body => {
                    self.stats.lost_answers.fetch_add(1, Ordering::Relaxed);
                    Ok(PutNew::Created)
                }
                Ok(_) => Ok(PutNew::AlreadyExists),
                Err(error) => Err(undecided(name, error, in_doubt)),
            },
            Ok(answer) => Ok(answer),
        }
    }
}

/// The put is answered, but what it left cannot be read: still unknown, and of the reader's class (gone again, or perhaps spoilt on
/// the way: try again).
fn undecided(name: &ObjectName, error: ObjectError, doubt: &Doubt) -> ObjectError {
    let is_doubtful = is_damaged_answer(&error) && doubt.count_damaged() < READ_ATTEMPTS;
    let class = if error.is_not_found() || is_doubtful {
        ErrorClass::Transient
    } else {
        error.class()
    };
    let detail = "it exists after an attempt of unknown outcome and cannot be compared";
    ObjectError::new(Operation::PutNew, name, Outcome::Unknown, class, detail).with_source(error)
}

/// Whether an attempt of unknown outcome lies behind, and how often what it left could not be read.
#[derive(Default)]
struct Doubt {
    raised: AtomicBool,
    damaged: AtomicU32,
}

impl Doubt {
    fn raise(&self) {
        self.raised.store(true, Ordering::Relaxed);
    }
    fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }
    /// Counts one more and returns how many there are.
    fn count_damaged(&self) -> u32 {
        self.damaged.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Read, and not what was asked for: damaged on the way, or stored like that, or the service works like that.
fn is_damaged_answer(error: &ObjectError) -> bool {
    error.operation() == Operation::Get && matches!(error.class(), ErrorClass::Corrupt | ErrorClass::Misconfigured)
}

fn is_retryable(error: &ObjectError) -> bool {
    match error.class() {
        ErrorClass::Transient => true,
        // A second attempt finds out what the first one left.
        ErrorClass::Permanent => error.outcome() == Outcome::Unknown,
        ErrorClass::NotFound
        | ErrorClass::Corrupt
        | ErrorClass::Misconfigured
        | ErrorClass::Full
        | ErrorClass::Locked => false,
    }
}

fn warn_of(error: &ObjectError, attempt: u32, delay: Duration) {
    tracing::warn!(
        operation = error.operation().as_str(),
        object = error.name(),
        attempt,
        delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        error = error.detail(),
        "object store request failed, will try again"
    );
}

impl<S: fmt::Debug> fmt::Debug for Retrying<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retrying")
            .field("inner", &self.inner)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for Retrying<S> {
    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutNew, ObjectError> {
        let doubt = Doubt::default();
        self.repeat(|| self.put_attempt(name, &body, &doubt)).await
    }
    async fn get(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, ObjectError> {
        self.repeat(|| self.inner.get(name, range)).await
    }
    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>, ObjectError> {
        self.repeat(|| self.inner.head(name)).await
    }
    async fn list_page(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, ObjectError> {
        self.repeat(|| self.inner.list_page(prefix, after, max)).await
    }
    async fn delete(&self, name: &ObjectName) -> Result<(), ObjectError> {
        self.repeat(|| self.inner.delete(name)).await
    }
    async fn keep_locked(&self, name: &ObjectName) -> Result<(), ObjectError> {
        self.repeat(|| self.inner.keep_locked(name)).await
    }
    async fn expiry_rules(&self) -> Result<Option<Vec<String>>, ObjectError> {
        self.repeat(|| self.inner.expiry_rules()).await
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

/// A small seedable generator (SplitMix64), good enough for jitter and test content and never for keys.
#[derive(Debug)]
pub(crate) struct SplitMix(AtomicU64);

impl SplitMix {
    pub(crate) fn new(seed: u64) -> Self {
        SplitMix(AtomicU64::new(seed))
    }

    pub(crate) fn next(&self) -> u64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_stay_under_the_limit_and_keep_at_least_half_of_the_step() {
        let policy = RetryPolicy::patient();
        let random = SplitMix::new(7);
        let mut step = policy.first_delay;
        for attempt in 1..80 {
            let delay = policy.delay(attempt, random.next());
            assert!(
                delay >= step / 2 && delay <= step,
                "attempt {attempt}: {delay:?} of {step:?}"
            );
            step = (step * 2).min(policy.max_delay);
        }
        assert!(policy.next(u32::MAX, Duration::MAX, u64::MAX).is_some());
    }

    #[test]
    fn a_budget_and_a_number_of_attempts_come_to_an_end() {
        let bounded = RetryPolicy::bounded(Duration::from_secs(1));
        assert_eq!(
            bounded.next(30, Duration::from_millis(999), 0),
            Some(Duration::from_millis(1))
        );
        assert_eq!(bounded.next(1, Duration::from_secs(1), 0), None);
        assert_eq!(RetryPolicy::never().next(1, Duration::ZERO, 0), None);
    }

    #[test]
    fn the_generator_is_the_published_one() {
        // First outputs for seed 1234567, from the algorithm's reference text.
        let random = SplitMix::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }
}
