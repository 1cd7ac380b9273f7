//! What the records of a run amount to: histograms, seconds, shares.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;

use crate::run::{Commit, Measured, Role};

/// Longer counts as an hour.
const MAX_US: u64 = 3_600_000_000;

type BySecond = BTreeMap<u64, Vec<Duration>>;

/// Of one second of the run, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Second {
    pub(crate) at_seconds: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

/// All that thresholds and report are made of. Times are microseconds from the intended moment, unless something else is said.
pub(crate) struct Figures {
    pub(crate) lag: Histogram<u64>,
    pub(crate) commit: Histogram<u64>,
    /// From when it was sent: what a closed loop would have measured.
    pub(crate) commit_from_sent: Histogram<u64>,
    pub(crate) lag_seconds: Vec<Second>,
    pub(crate) commit_seconds: Vec<Second>,
    /// Acknowledged, but never seen to be archived.
    pub(crate) not_archived: u64,
    pub(crate) put_p99: Duration,
    pub(crate) longest_strain: Duration,
    /// From the end of an outage or COPY until everything before it was archived.
    pub(crate) catch_ups: Vec<Duration>,
    pub(crate) agent_cpu_share: f64,
    pub(crate) agent_rss_peak_mib: f64,
    pub(crate) backup_rss_peak_mib: Option<f64>,
    pub(crate) tps: f64,
    /// Commits acknowledged in the time of the phases, of those that were due.
    pub(crate) kept_up: f64,
    pub(crate) wal_mb_per_second: f64,
    /// With, of without.
    pub(crate) effect: Option<Effect>,
}

/// The same load with an agent and without.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effect {
    pub(crate) tps_without: f64,
    pub(crate) p99_without_ms: f64,
}

impl Figures {
    pub(crate) fn of(measured: &Measured) -> Result<Self> {
        let (mut lag, mut commit, mut from_sent) = (empty()?, empty()?, empty()?);
        let (mut lag_by_second, mut commit_by_second) = (BySecond::new(), BySecond::new());
        let mut not_archived = 0;
        for one in &measured.commits {
            let second = one.intended.as_secs();
            let waited = one.acknowledged.saturating_sub(one.intended);
            record(&mut commit, waited);
            record(&mut from_sent, one.acknowledged.saturating_sub(one.sent));
            commit_by_second.entry(second).or_default().push(waited);
            match measured.seen.archived(one.acknowledged, one.lsn) {
                Some(at) => {
                    let late = at.saturating_sub(one.intended);
                    record(&mut lag, late);
                    lag_by_second.entry(second).or_default().push(late);
                }
                None => not_archived += 1,
            }
        }
        let length = measured.plan.length();
        let in_time = measured.commits.iter().filter(|one| one.acknowledged <= length).count();
        let written = match (measured.seen.wal.first(), measured.seen.wal.last()) {
            (Some((from, first)), Some((to, last))) if to > from => {
                last.saturating_sub(*first) as f64 / 1e6 / (*to - *from).as_secs_f64()
            }
            _ => 0.0,
        };
        Ok(Self {
            lag_seconds: seconds(lag_by_second),
            commit_seconds: seconds(commit_by_second),
            not_archived,
            put_p99: Duration::from_micros(measured.puts.value_at_quantile(0.99)),
            longest_strain: measured
                .strains
                .iter()
                .map(|(from, to)| *to - *from)
                .max()
                .unwrap_or_default(),
            catch_ups: measured
                .strains
                .iter()
                .map(|(_, to)| caught_up(measured, *to))
                .collect(),
            agent_cpu_share: cpu_share(measured, Role::Agent),
            agent_rss_peak_mib: rss_peak_mib(measured, Role::Agent).unwrap_or(0.0),
            backup_rss_peak_mib: rss_peak_mib(measured, Role::Backup),
            tps: tps(&measured.commits),
            kept_up: in_time as f64 / (measured.plan.due() as f64).max(1.0),
            wal_mb_per_second: written,
            effect: effect(measured)?,
            lag,
            commit,
            commit_from_sent: from_sent,
        })
    }
}

pub(crate) fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

fn empty() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, MAX_US, 3)?)
}

fn record(histogram: &mut Histogram<u64>, time: Duration) {
    let us = u64::try_from(time.as_micros()).unwrap_or(MAX_US);
    histogram.saturating_record(us.clamp(1, MAX_US));
}

fn seconds(by_second: BySecond) -> Vec<Second> {
    let of = |(second, mut all): (u64, Vec<Duration>)| {
        all.sort_unstable();
        let at = |share: f64| {
            let place = ((all.len() as f64 * share).ceil() as usize).clamp(1, all.len()) - 1;
            all.get(place).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
        };
        Second {
            at_seconds: second as f64 + 0.5,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
        }
    };
    by_second.into_iter().map(of).collect()
}

/// How long after `end` the last commit from before it was archived.
fn caught_up(measured: &Measured, end: Duration) -> Duration {
    let before = measured.commits.iter().filter(|one| one.acknowledged <= end);
    let archived = before.filter_map(|one| measured.seen.archived(one.acknowledged, one.lsn));
    archived.max().unwrap_or_default().saturating_sub(end)
}

fn tps(commits: &[Commit]) -> f64 {
    let end = commits.iter().map(|one| one.acknowledged).max().unwrap_or_default();
    commits.len() as f64 / end.as_secs_f64().max(0.001)
}

fn effect(measured: &Measured) -> Result<Option<Effect>> {
    if measured.without.is_empty() {
        return Ok(None);
    }
    let mut times = empty()?;
    for one in measured.without.iter().flatten() {
        record(&mut times, one.acknowledged.saturating_sub(one.intended));
    }
    let all: f64 = measured.without.iter().map(|commits| tps(commits)).sum();
    Ok(Some(Effect {
        tps_without: all / measured.without.len() as f64,
        p99_without_ms: ms(times.value_at_quantile(0.99)),
    }))
}

/// CPU seconds a second, of all processes of that role.
fn cpu_share(measured: &Measured, role: Role) -> f64 {
    let samples = || measured.samples.iter().filter(|sample| sample.role == role);
    let mut spent: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
    for sample in samples() {
        // One that was started during the run has spent nothing before.
        let before = if sample.at.is_zero() { sample.cpu_seconds } else { 0.0 };
        spent.entry(sample.pid).or_insert((before, 0.0)).1 = sample.cpu_seconds;
    }
    let all: f64 = spent.values().map(|(before, after)| after - before).sum();
    let length = samples().map(|sample| sample.at.as_secs_f64()).fold(0.0, f64::max);
    all / length.max(0.001)
}

fn rss_peak_mib(measured: &Measured, role: Role) -> Option<f64> {
    let samples = measured.samples.iter().filter(|sample| sample.role == role);
    samples
        .map(|sample| sample.rss_peak_kib as f64 / 1024.0)
        .reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_its_own_percentiles() {
        let ms = |ms: u64| Duration::from_millis(ms);
        let all = [(3, (1..=100).map(ms).collect::<Vec<_>>()), (7, vec![ms(5)])];
        let seconds = seconds(all.into_iter().collect());
        let [third, seventh] = seconds.as_slice() else {
            panic!("{seconds:?}");
        };
        assert_eq!((third.p50_ms, third.p99_ms, third.max_ms), (50.0, 99.0, 100.0));
        assert_eq!((seventh.at_seconds, seventh.p50_ms, seventh.max_ms), (7.5, 5.0, 5.0));
    }
}
