//! When each commit is due. An open loop: the moments are fixed before the first commit, and a server that stalls does not move them.
//! Whoever measures from these moments has no coordinated omission: the commits that had to wait behind a stall count with their wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Phase, Scenario};

/// The stretches of a run, one after another.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) stretches: Vec<Stretch>,
}

/// One phase on the clock of the run.
#[derive(Debug)]
pub(crate) struct Stretch {
    pub(crate) name: String,
    pub(crate) begin: Duration,
    pub(crate) end: Duration,
    pub(crate) clients: u32,
    /// Of WAL in each commit, beside the row.
    pub(crate) filler_bytes: usize,
    /// Commits a second; `None`: each client as fast as it can.
    rate: Option<f64>,
    taken: AtomicU64,
}

impl Plan {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let mut begin = Duration::ZERO;
        let stretch = |phase: &Phase| {
            let end = begin + Duration::from_secs_f64(phase.seconds);
            let stretch = Stretch::new(phase, begin, end);
            begin = end;
            stretch
        };
        Self {
            stretches: scenario.phases.iter().map(stretch).collect(),
        }
    }

    pub(crate) fn clients(&self) -> u32 {
        self.stretches.iter().map(|stretch| stretch.clients).max().unwrap_or(0)
    }

    /// How long all of it takes.
    pub(crate) fn length(&self) -> Duration {
        self.stretches.last().map_or(Duration::ZERO, |stretch| stretch.end)
    }

    /// How many commits are due, where that is fixed.
    pub(crate) fn due(&self) -> u64 {
        self.stretches.iter().filter_map(Stretch::due).sum()
    }
}

impl Stretch {
    fn new(phase: &Phase, begin: Duration, end: Duration) -> Self {
        let rate = phase.commits_per_second;
        let filler = rate
            .filter(|rate| *rate > 0.0)
            .map(|rate| phase.wal_mb_per_second * 1e6 / rate);
        Self {
            name: phase.name.clone(),
            begin,
            end,
            clients: phase.clients,
            // Checked to be small.
            filler_bytes: filler.unwrap_or(0.0) as usize,
            rate,
            taken: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.rate == Some(0.0)
    }

    pub(crate) fn rate(&self) -> Option<f64> {
        self.rate
    }

    fn due(&self) -> Option<u64> {
        let seconds = (self.end - self.begin).as_secs_f64();
        self.rate.map(|rate| (rate * seconds).ceil() as u64)
    }

    /// The moment of the next commit, for whichever client is free; `None` when there is none left. A commit that is late keeps its
    /// moment, and none is left out.
    pub(crate) fn take(&self, now: Duration) -> Option<Duration> {
        match (self.rate, self.due()) {
            (Some(rate), Some(due)) => {
                let number = self.taken.fetch_add(1, Ordering::Relaxed);
                (number < due).then(|| self.begin + Duration::from_secs_f64(number as f64 / rate))
            }
            _ => (now < self.end).then(|| now.max(self.begin)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(rate: Option<f64>) -> Stretch {
        let phase = Phase {
            name: "load".to_owned(),
            seconds: 10.0,
            commits_per_second: rate,
            wal_mb_per_second: 0.0,
            clients: 1,
        };
        Stretch::new(&phase, Duration::from_secs(5), Duration::from_secs(15))
    }

    /// One client, whose commits take a millisecond, but the first one after 7 s takes two seconds.
    fn simulate(stretch: &Stretch) -> (Vec<u64>, Vec<u64>) {
        let (mut from_sent, mut from_intended) = (Vec::new(), Vec::new());
        let mut now = Duration::ZERO;
        let mut has_stalled = false;
        while let Some(intended) = stretch.take(now) {
            let sent = now.max(intended);
            let stalls = sent >= Duration::from_secs(7) && !has_stalled;
            has_stalled |= stalls;
            now = sent + Duration::from_millis(if stalls { 2000 } else { 1 });
            from_sent.push((now - sent).as_millis() as u64);
            from_intended.push((now - intended).as_millis() as u64);
        }
        (from_sent, from_intended)
    }

    fn percentile(mut all: Vec<u64>, percent: usize) -> u64 {
        all.sort_unstable();
        all[all.len() * percent / 100]
    }

    #[test]
    fn a_stall_counts_for_every_commit_that_was_due_in_it() {
        let (from_sent, from_intended) = simulate(&stretch(Some(100.0)));
        assert_eq!(from_intended.len(), 1000, "none is left out");
        // Measured from when it was sent, only one commit of a thousand was slow.
        assert_eq!(percentile(from_sent, 99), 1);
        // 200 were due during the stall, and waited for a second on average.
        let p90 = percentile(from_intended.clone(), 90);
        assert!((900..=1300).contains(&p90), "{p90}");
        let slow = from_intended.iter().filter(|ms| **ms > 100).count();
        assert!((200..=240).contains(&slow), "{slow}");
        assert_eq!(from_intended.iter().max(), Some(&2000));
    }

    #[test]
    fn moments_are_fixed_and_none_comes_twice() {
        let stretch = stretch(Some(0.5));
        let moments: Vec<_> = std::iter::from_fn(|| stretch.take(Duration::from_secs(14))).collect();
        assert_eq!(moments, [5, 7, 9, 11, 13].map(Duration::from_secs));
    }

    #[test]
    fn without_a_rate_a_client_goes_on_until_the_end() {
        let stretch = stretch(None);
        assert_eq!(stretch.take(Duration::ZERO), Some(Duration::from_secs(5)));
        assert_eq!(stretch.take(Duration::from_secs(9)), Some(Duration::from_secs(9)));
        assert_eq!(stretch.take(Duration::from_secs(15)), None);
    }
}
