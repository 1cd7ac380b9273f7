//! How fast a backup may be: a limit on bytes, the part of the time that workers work, and their niceness.
//!
//! Bytes are limited by a bucket that all workers draw from. Whoever watches the database lowers [`Pace::set_duty`] while it suffers:
//! after each unit a worker rests for so long that it has worked that part of the time, whatever the kernel makes of its niceness.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// All of the time, in thousandths.
const ALWAYS: u32 = 1000;
/// Least part of the time: a backup must come to its end while the database is overloaded, too.
const LEAST: u32 = 80;
/// Longest rest after one unit.
const REST_MAX: Duration = Duration::from_secs(2);

/// What does not change while a backup runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PaceLimits {
    /// Bytes a second that may be read, all workers together; `None` for no limit.
    pub bytes_per_second: Option<u64>,
    /// Niceness of the workers, 0 to 19 (setpriority(2)). The kernel derives the I/O priority from it (ioprio_set(2)).
    pub nice: i32,
}

/// When a worker began with a unit.
#[derive(Debug)]
pub(super) struct Begun {
    at: Instant,
    /// Where workers rest: how long the thread had waited for a processor by then.
    waited: Option<Duration>,
}

impl Begun {
    /// How long it has worked. Waiting for a processor is no work: where others have them all, it is rest enough.
    fn worked(&self) -> Duration {
        let elapsed = self.at.elapsed();
        match (self.waited, waited_for_processor()) {
            (Some(before), Some(now)) => elapsed.saturating_sub(now.saturating_sub(before)),
            _ => elapsed,
        }
    }
}

/// How long this thread has waited for a processor in all: the second number of its `schedstat` (Linux,
/// Documentation/scheduler/sched-stats). `None` where the kernel does not count.
fn waited_for_processor() -> Option<Duration> {
    let line = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

/// The pace of one backup.
#[derive(Debug)]
pub struct Pace {
    limits: PaceLimits,
    duty: AtomicU32,
    /// When the bytes that were read so far may all have been read.
    paid_until: Mutex<Option<Instant>>,
}

impl Default for Pace {
    fn default() -> Self {
        Pace::new(PaceLimits::default())
    }
}

impl Pace {
    /// Full speed within the limits.
    #[must_use]
    pub fn new(limits: PaceLimits) -> Self {
        Pace {
            limits,
            duty: AtomicU32::new(ALWAYS),
            paid_until: Mutex::default(),
        }
    }

    /// Sets the part of the time that workers work, in thousandths.
    pub fn set_duty(&self, thousandths: u32) {
        self.duty.store(thousandths.clamp(LEAST, ALWAYS), Ordering::Relaxed);
    }

    /// The part of the time that workers work, in thousandths.
    #[must_use]
    pub fn duty(&self) -> u32 {
        self.duty.load(Ordering::Relaxed)
    }

    /// A thread of ours begins.
    pub(super) fn begin_thread(&self) {
        if self.limits.nice > 0 {
            // Lowering is always allowed; where it fails nothing is lost but courtesy.
            let _ = rustix::process::setpriority_process(None, self.limits.nice);
        }
    }

    /// Before a unit.
    pub(super) fn begin(&self) -> Begun {
        let rests = self.duty() < ALWAYS;
        Begun {
            waited: rests.then(waited_for_processor).flatten(),
            at: Instant::now(),
        }
    }

    /// Rests as long as it must after work on so many bytes.
    pub(super) fn after(&self, bytes: usize, begun: &Begun) {
        let duty = self.duty();
        let mut rest = Duration::ZERO;
        if duty < ALWAYS {
            rest = begun.worked() * (ALWAYS - duty) / duty.max(1);
        }
        if let Some(rate) = self.limits.bytes_per_second {
            rest = rest.max(self.owed(bytes, rate));
        }
        if !rest.is_zero() {
            std::thread::sleep(rest.min(REST_MAX));
        }
    }

    /// How long until `bytes` more are within the rate.
    fn owed(&self, bytes: usize, rate: u64) -> Duration {
        let now = Instant::now();
        let cost = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let until = paid_until.unwrap_or(now).max(now) + cost;
        *paid_until = Some(until);
        until - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_paid_for_by_all_workers_together() {
        let pace = Pace::new(PaceLimits {
            bytes_per_second: Some(1000),
            nice: 0,
        });
        let first = pace.owed(500, 1000);
        let second = pace.owed(500, 1000);
        assert!(
            first <= Duration::from_millis(500) && first > Duration::from_millis(400),
            "{first:?}"
        );
        assert!(
            second <= Duration::from_secs(1) && second > Duration::from_millis(900),
            "{second:?}"
        );
    }

    #[test]
    fn waiting_for_a_processor_is_no_work() {
        let before = waited_for_processor();
        let begun = Begun {
            at: Instant::now(),
            // As if all of the next ten milliseconds had been spent waiting.
            waited: before.map(|waited| waited.saturating_sub(Duration::from_millis(10))),
        };
        std::thread::sleep(Duration::from_millis(10));
        if before >= Some(Duration::from_millis(10)) {
            assert!(begun.worked() < Duration::from_millis(10), "{:?}", begun.worked());
        }
        let whole = Begun {
            at: begun.at,
            waited: None,
        };
        assert!(whole.worked() >= Duration::from_millis(10));
    }

    #[test]
    fn a_backup_never_stands_still() {
        let pace = Pace::default();
        assert_eq!(pace.duty(), ALWAYS);
        pace.set_duty(0);
        assert_eq!(pace.duty(), LEAST);
        pace.set_duty(5000);
        assert_eq!(pace.duty(), ALWAYS);
    }
}
