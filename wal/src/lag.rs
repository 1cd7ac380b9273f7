//! Commit to archived: how long each transaction was unprotected, and how old the oldest unprotected one is (the RPO, measured).

use std::collections::VecDeque;

use hdrhistogram::Histogram;
use pg::lsn::Lsn;

use crate::assemble::CommitSeen;

/// Commits waiting at most; beyond that only the oldest and every further one that fits are kept, so memory is bounded.
const WAITING_MAX: usize = 65_536;
/// Longest lag that is told apart: one day in microseconds.
const LAG_US_MAX: u64 = 86_400_000_000;

/// Lag of commits.
#[derive(Debug)]
pub struct Lag {
    waiting: VecDeque<CommitSeen>,
    /// Commits from before then have waited for somebody to come, not for us: they make the RPO, and are in no figure of our speed.
    counted_from_us: i64,
    histogram: Option<Histogram<u64>>,
}

/// A summary of lag, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LagSummary {
    /// Commits counted.
    pub commits: u64,
    /// Median.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// Longest.
    pub max_us: u64,
}

impl Default for Lag {
    fn default() -> Self {
        Lag {
            waiting: VecDeque::new(),
            counted_from_us: i64::MIN,
            histogram: Histogram::new_with_bounds(1, LAG_US_MAX, 3).ok(),
        }
    }
}

impl Lag {
    /// Counts the lag of commits from this time on, microseconds since 1970.
    #[must_use]
    pub fn since(us: i64) -> Self {
        Lag {
            counted_from_us: us,
            ..Lag::default()
        }
    }

    /// A transaction ended in the WAL that came in.
    pub fn see(&mut self, commit: CommitSeen) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(commit);
        }
    }

    /// Everything up to `archived` is protected at `now_us` (the same clock as the commits', on the same host).
    pub fn settle(&mut self, archived: Lsn, now_us: i64) {
        while self.waiting.front().is_some_and(|commit| commit.end <= archived) {
            if let Some(commit) = self.waiting.pop_front()
                && commit.time_us >= self.counted_from_us
                && let Some(histogram) = &mut self.histogram
            {
                histogram.saturating_record(u64::try_from(now_us - commit.time_us).unwrap_or(0).max(1));
            }
        }
    }

    /// Age of the oldest transaction that is not protected, in microseconds; 0 when all are.
    #[must_use]
    pub fn oldest_us(&self, now_us: i64) -> u64 {
        self.waiting
            .front()
            .map_or(0, |commit| u64::try_from(now_us - commit.time_us).unwrap_or(0))
    }

    /// What was measured so far.
    #[must_use]
    pub fn summary(&self) -> LagSummary {
        self.histogram
            .as_ref()
            .map_or_else(LagSummary::default, |histogram| LagSummary {
                commits: histogram.len(),
                p50_us: histogram.value_at_quantile(0.5),
                p99_us: histogram.value_at_quantile(0.99),
                max_us: histogram.max(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_counts_when_its_end_is_archived() {
        let mut lag = Lag::default();
        lag.see(CommitSeen {
            end: Lsn::new(100),
            time_us: 1_000,
        });
        lag.see(CommitSeen {
            end: Lsn::new(200),
            time_us: 2_000,
        });
        lag.settle(Lsn::new(150), 6_000);
        assert_eq!(lag.summary().commits, 1);
        assert_eq!(lag.oldest_us(10_000), 8_000);
        lag.settle(Lsn::new(200), 7_000);
        assert_eq!(lag.oldest_us(10_000), 0);
        assert!(lag.summary().max_us >= 5_000);
    }

    #[test]
    fn what_came_before_us_makes_the_rpo_and_no_figure_of_our_speed() {
        let mut lag = Lag::since(5_000);
        for (end, time_us) in [(100, 1_000), (200, 6_000)] {
            lag.see(CommitSeen {
                end: Lsn::new(end),
                time_us,
            });
        }
        assert_eq!(lag.oldest_us(7_000), 6_000);
        lag.settle(Lsn::new(200), 7_000);
        assert_eq!((lag.summary().commits, lag.summary().max_us < 2_000), (1, true));
    }
}
