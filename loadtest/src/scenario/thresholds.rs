//! What must hold, as a scenario says it. What is not said is measured and not judged.

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::{Scenario, Store};

/// Ratios where the machine decides how fast it goes, absolute figures where it does not.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Thresholds {
    /// At most so many acknowledged commits are not archived, or not in the restore.
    pub(crate) lost_commits: Option<u64>,
    /// p99 from the intended commit to its archive: at most so many times the ship interval, the PUT's p99 and the longest outage or COPY.
    pub(crate) lag_p99: Option<f64>,
    /// From the end of an outage or COPY until all before it is archived: at most so many times the same.
    pub(crate) catch_up: Option<f64>,
    /// CPU seconds of the agent in a second: at most.
    pub(crate) agent_cpu_share: Option<f64>,
    /// Peak resident memory of the agent: at most, MiB.
    pub(crate) agent_rss_mib: Option<f64>,
    /// The same of `wal-agent backup`.
    pub(crate) backup_rss_mib: Option<f64>,
    /// Commits a second with the agent, of those without: at least.
    pub(crate) tps_ratio: Option<f64>,
    /// p99 of a commit with the agent, of that without: at most.
    pub(crate) commit_p99_ratio: Option<f64>,
    /// Commits acknowledged in the time of the phases, of those that were due: at least. Lower, and it is the server that is slow.
    pub(crate) kept_up: Option<f64>,
    /// PUTs in a ship interval in which there was WAL: at most.
    pub(crate) puts_per_interval: Option<f64>,
    /// Requests a minute while nothing is committed: at most.
    pub(crate) idle_requests_per_minute: Option<f64>,
}

impl Thresholds {
    pub(super) fn check(&self, scenario: &Scenario) -> Result<()> {
        ensure!(self.lost_commits.is_some(), "thresholds.lost_commits is missing");
        for value in [
            self.lag_p99,
            self.catch_up,
            self.agent_cpu_share,
            self.agent_rss_mib,
            self.backup_rss_mib,
            self.tps_ratio,
            self.commit_p99_ratio,
            self.kept_up,
            self.puts_per_interval,
            self.idle_requests_per_minute,
        ]
        .into_iter()
        .flatten()
        {
            ensure!(value.is_finite() && value >= 0.0, "{value} is no threshold");
        }
        let of_effect = self.tps_ratio.or(self.commit_p99_ratio);
        ensure!(
            of_effect.is_none() || scenario.effect,
            "tps_ratio and commit_p99_ratio need effect = true"
        );
        let has_strain = scenario.events.iter().any(super::Event::is_strain);
        ensure!(
            self.catch_up.is_none() || has_strain,
            "catch_up needs an outage or a COPY"
        );
        ensure!(
            self.backup_rss_mib.is_none() || scenario.has_backup(),
            "backup_rss_mib needs a backup"
        );
        let of_requests = self.puts_per_interval.or(self.idle_requests_per_minute);
        let is_s3 = matches!(scenario.store, Store::S3 { .. });
        ensure!(of_requests.is_none() || is_s3, "requests are counted at an S3 store");
        let is_idle = |phase: &super::Phase| phase.commits_per_second == Some(0.0);
        let has_idle = scenario.phases.iter().any(is_idle);
        ensure!(
            self.idle_requests_per_minute.is_none() || has_idle,
            "idle_requests_per_minute needs an idle phase"
        );
        let is_paced = scenario.phases.iter().all(|phase| phase.commits_per_second.is_some());
        ensure!(
            self.kept_up.is_none() || is_paced,
            "kept_up needs commits_per_second in all phases"
        );
        Ok(())
    }
}
