//! Figures held against the thresholds of their scenario.

use std::time::Duration;

use crate::figures::{Figures, ms};
use crate::run::Requests;
use crate::scenario::{Scenario, Thresholds};

/// One figure, and what it must be if that was said.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) limit: Option<Limit>,
}

/// What a figure must be.
#[derive(Debug, Clone)]
pub(crate) struct Limit {
    pub(crate) bound: f64,
    pub(crate) is_least: bool,
    /// Where the bound comes from.
    pub(crate) from: String,
}

impl Row {
    fn new(name: &'static str, value: f64, unit: &'static str) -> Self {
        Self {
            name,
            value,
            unit,
            limit: None,
        }
    }

    fn at_most(self, bound: Option<f64>, from: &str) -> Self {
        self.limited(bound, false, from)
    }

    fn at_least(self, bound: Option<f64>, from: &str) -> Self {
        self.limited(bound, true, from)
    }

    fn limited(mut self, bound: Option<f64>, is_least: bool, from: &str) -> Self {
        let from = from.to_owned();
        self.limit = bound.map(|bound| Limit { bound, is_least, from });
        self
    }

    /// Without a limit everything is well. A figure that is none is not.
    pub(crate) fn is_well(&self) -> bool {
        self.limit.as_ref().is_none_or(|limit| {
            if limit.is_least {
                self.value >= limit.bound
            } else {
                self.value <= limit.bound
            }
        })
    }

    /// Counted, not measured.
    pub(crate) fn is_count(&self) -> bool {
        matches!(self.unit, "commits" | "requests")
    }

    /// The figure of its bound.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let bound = self.limit.as_ref()?.bound;
        (bound != 0.0).then(|| self.value / bound)
    }
}

/// All figures of a scenario, those with a limit first.
pub(crate) fn rows(scenario: &Scenario, figures: &Figures, requests: Option<&Requests>, not_restored: u64) -> Vec<Row> {
    let wanted = &scenario.thresholds;
    let mut rows = vec![
        Row::new(
            "acknowledged commits that are not archived",
            figures.not_archived as f64,
            "commits",
        )
        .at_most(wanted.lost_commits.map(|lost| lost as f64), "nothing is lost"),
        Row::new(
            "acknowledged commits that the restore lacks",
            not_restored as f64,
            "commits",
        )
        .at_most(wanted.lost_commits.map(|lost| lost as f64), "nothing is lost"),
    ];
    rows.extend(lag_rows(scenario, wanted, figures));
    rows.extend(effect_rows(wanted, figures));
    rows.push(
        Row::new("CPU of the agent", figures.agent_cpu_share * 100.0, "% of a core")
            .at_most(wanted.agent_cpu_share.map(|share| share * 100.0), "absolute"),
    );
    rows.push(
        Row::new("peak memory of the agent", figures.agent_rss_peak_mib, "MiB")
            .at_most(wanted.agent_rss_mib, "absolute"),
    );
    if let Some(mib) = figures.backup_rss_peak_mib {
        rows.push(Row::new("peak memory of the backup", mib, "MiB").at_most(wanted.backup_rss_mib, "absolute"));
    }
    if let Some(requests) = requests {
        rows.extend(request_rows(scenario, figures, requests));
    }
    rows.push(Row::new("WAL written", figures.wal_mb_per_second, "MB/s"));
    rows.sort_by_key(|row| row.limit.is_none());
    rows
}

fn lag_rows(scenario: &Scenario, wanted: &Thresholds, figures: &Figures) -> Vec<Row> {
    let bound = lag_bound(scenario, figures).as_secs_f64() * 1000.0;
    let parts = if figures.longest_strain.is_zero() {
        "ship interval + PUT p99"
    } else {
        "ship interval + PUT p99 + outage or COPY"
    };
    let times = |factor: Option<f64>| factor.map(|factor| (factor * bound, format!("{factor} × ({parts})")));
    let limit = |row: Row, factor: Option<f64>| match times(factor) {
        Some((bound, from)) => row.at_most(Some(bound), &from),
        None => row,
    };
    let quantile = |share: f64| ms(figures.lag.value_at_quantile(share));
    let mut rows = vec![
        limit(Row::new("lag, p99", quantile(0.99), "ms"), wanted.lag_p99),
        Row::new("lag, p50", quantile(0.5), "ms"),
        Row::new("lag, longest", ms(figures.lag.max()), "ms"),
        Row::new("PUT, p99", figures.put_p99.as_secs_f64() * 1000.0, "ms"),
    ];
    if let Some(longest) = figures.catch_ups.iter().max() {
        let row = Row::new("outage or COPY to caught up", longest.as_secs_f64() * 1000.0, "ms");
        rows.push(limit(row, wanted.catch_up));
    }
    rows
}

/// What the lag is a multiple of.
pub(crate) fn lag_bound(scenario: &Scenario, figures: &Figures) -> Duration {
    scenario.ship_interval() + figures.put_p99 + figures.longest_strain
}

fn effect_rows(wanted: &Thresholds, figures: &Figures) -> Vec<Row> {
    let p99 = ms(figures.commit.value_at_quantile(0.99));
    let kept_up = Row::new("commits in time, of those that were due", figures.kept_up, "ratio");
    let mut rows = vec![
        Row::new("commits", figures.tps, "1/s"),
        Row::new("commit, p99", p99, "ms"),
    ];
    if wanted.kept_up.is_some() {
        rows.push(kept_up.at_least(wanted.kept_up, "absolute"));
    }
    if let Some(effect) = figures.effect {
        let (tps, latency) = (figures.tps / effect.tps_without, p99 / effect.p99_without_ms);
        let beside = "the same load without an agent";
        rows.extend([
            Row::new("commits a second, with / without agent", tps, "ratio").at_least(wanted.tps_ratio, beside),
            Row::new("commit p99, with / without agent", latency, "ratio").at_most(wanted.commit_p99_ratio, beside),
            Row::new("commits without agent", effect.tps_without, "1/s"),
            Row::new("commit without agent, p99", effect.p99_without_ms, "ms"),
        ]);
    }
    rows
}

fn request_rows(scenario: &Scenario, figures: &Figures, requests: &Requests) -> Vec<Row> {
    let wanted = &scenario.thresholds;
    let intervals = busy_intervals(scenario, figures);
    let mut rows = vec![
        Row::new(
            "PUTs of WAL in a ship interval",
            requests.wal_puts as f64 / intervals,
            "ratio",
        )
        .at_most(wanted.puts_per_interval, "ship intervals with commits"),
        Row::new("requests", requests.all as f64, "requests"),
        Row::new("requests that failed", requests.failed as f64, "requests"),
    ];
    if requests.idle_seconds > 0.0 {
        let a_minute = requests.idle.len() as f64 * 60.0 / requests.idle_seconds;
        rows.push(
            Row::new("requests a minute while idle", a_minute, "1/min")
                .at_most(wanted.idle_requests_per_minute, "absolute"),
        );
    }
    rows
}

/// Ship intervals in which there was something to ship, as far as seconds can tell.
fn busy_intervals(scenario: &Scenario, figures: &Figures) -> f64 {
    let busy_seconds = figures.commit_seconds.len() as f64;
    let interval = scenario.ship_interval().as_secs_f64();
    // A commit a second is one interval, however short that is, and a busy second has several.
    (busy_seconds / interval.max(0.01)).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_up_to_its_bound_and_from_it() {
        let row = |value| Row::new("lag", value, "ms");
        assert!(row(5.0).is_well());
        for (row, is_well, ratio) in [
            (row(5.0).at_most(Some(5.0), ""), true, Some(1.0)),
            (row(6.0).at_most(Some(5.0), ""), false, Some(1.2)),
            (row(6.0).at_least(Some(5.0), ""), true, Some(1.2)),
            (row(4.0).at_least(Some(5.0), ""), false, Some(0.8)),
            (row(0.0).at_most(Some(0.0), ""), true, None),
            (row(1.0).at_most(Some(0.0), ""), false, None),
            (row(f64::NAN).at_most(Some(5.0), ""), false, None),
            (row(f64::NAN).at_least(Some(5.0), ""), false, None),
        ] {
            assert_eq!(row.is_well(), is_well, "{row:?}");
            assert!(row.ratio().is_none_or(f64::is_nan) || row.ratio() == ratio, "{row:?}");
        }
    }

    #[test]
    fn a_run_is_judged_by_its_scenario() {
        let measured = crate::run::example();
        let figures = Figures::of(&measured).unwrap();
        let rows = rows(
            &measured.scenario,
            &figures,
            measured.requests.as_ref(),
            measured.not_restored,
        );
        let row = |name: &str| rows.iter().find(|row| row.name == name).unwrap();
        let well = |name: &str| (row(name).value.round(), row(name).limit.is_some(), row(name).is_well());
        assert_eq!(well("acknowledged commits that are not archived"), (0.0, true, true));
        assert_eq!(well("acknowledged commits that the restore lacks"), (1.0, true, false));
        // Due in the first moment of the outage, archived when it was over: 1.2 times ship interval, PUT and outage are allowed.
        let lag = row("lag, p99");
        assert!((2900.0..3020.0).contains(&lag.value), "{lag:?}");
        assert!(
            (lag.limit.as_ref().unwrap().bound - 1.2 * 3010.0).abs() < 5.0,
            "{lag:?}"
        );
        assert_eq!(well("outage or COPY to caught up"), (1005.0, true, true));
        assert_eq!(well("CPU of the agent"), (10.0, true, false));
        assert_eq!(well("peak memory of the agent"), (40.0, true, true));
        assert_eq!(well("commits"), (100.0, false, true));
    }
}
