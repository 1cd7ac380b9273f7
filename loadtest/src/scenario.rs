//! A scenario as it is written in `scenarios/*.toml`: the load by phases, the store, what happens when, and what must hold.

mod plan;
mod thresholds;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

pub(crate) use plan::{Plan, Stretch};
pub(crate) use thresholds::Thresholds;

/// Every commit is remembered, in 48 bytes.
const COMMITS_MAX: f64 = 2_000_000.0;
/// A server of the harness takes 60 connections, and some are the agent's.
const CLIENTS_MAX: u32 = 40;
const WAL_OF_A_COMMIT_BYTES_MAX: f64 = 100e6;

/// One file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// The name of the file.
    #[serde(skip)]
    pub(crate) name: String,
    /// One sentence for the report.
    pub(crate) about: String,
    /// `wal.ship_interval`.
    #[serde(default = "second_ms")]
    pub(crate) ship_interval_ms: u64,
    pub(crate) store: Store,
    /// What the database holds before it begins, beside the rows that are committed.
    #[serde(default)]
    pub(crate) database_mb: u32,
    #[serde(rename = "phase")]
    pub(crate) phases: Vec<Phase>,
    #[serde(rename = "event", default)]
    pub(crate) events: Vec<Event>,
    /// The same load is also run without an agent, before and after.
    #[serde(default)]
    pub(crate) effect: bool,
    pub(crate) thresholds: Thresholds,
}

/// Where the repository is.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Store {
    /// A directory on the same disk.
    Local,
    /// The harness's S3 server, which answers so much later and fails so often.
    S3 {
        #[serde(default)]
        latency_ms: u64,
        #[serde(default)]
        errors_percent: u64,
    },
}

/// Load that stays the same for a while.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Phase {
    pub(crate) name: String,
    pub(crate) seconds: f64,
    /// At fixed moments, however late the server is; 0 is idle. Without it each client commits as fast as it can.
    pub(crate) commits_per_second: Option<f64>,
    /// WAL beside the rows, of text that compresses about two to one.
    #[serde(default)]
    pub(crate) wal_mb_per_second: f64,
    #[serde(default = "clients")]
    pub(crate) clients: u32,
}

/// What happens, and how many seconds after the begin.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Event {
    /// Nobody listens at the store for so long.
    StoreAway { at_seconds: f64, seconds: f64 },
    /// The agent is stopped in order and started again.
    RestartAgent { at_seconds: f64 },
    /// The primary is killed, its synchronous standby takes over.
    Failover { at_seconds: f64 },
    /// `wal-agent backup`.
    Backup { at_seconds: f64 },
    /// One COPY of so much.
    BulkCopy { at_seconds: f64, megabytes: u32 },
}

fn second_ms() -> u64 {
    1000
}

fn clients() -> u32 {
    8
}

impl Event {
    pub(crate) fn at(&self) -> Duration {
        let (Event::StoreAway { at_seconds, .. }
        | Event::RestartAgent { at_seconds }
        | Event::Failover { at_seconds }
        | Event::Backup { at_seconds }
        | Event::BulkCopy { at_seconds, .. }) = self;
        Duration::from_secs_f64(at_seconds.max(0.0))
    }

    /// The archive falls behind for a while, and has to catch up.
    pub(crate) fn is_strain(&self) -> bool {
        self.is_outage() || matches!(self, Event::BulkCopy { .. })
    }

    /// Nothing is archived meanwhile.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(
            self,
            Event::StoreAway { .. } | Event::RestartAgent { .. } | Event::Failover { .. }
        )
    }
}

impl Scenario {
    /// By the name of a file in `scenarios/`, or by a path.
    pub(crate) fn load(name: &str) -> Result<Self> {
        let path = if name.contains('/') || name.ends_with(".toml") {
            PathBuf::from(name)
        } else {
            directory().join(format!("{name}.toml"))
        };
        let known = || {
            let names: Vec<String> = Self::all_names().unwrap_or_default();
            format!(
                "no scenario at {}\nHINT: known are {}",
                path.display(),
                names.join(", ")
            )
        };
        let text = fs::read_to_string(&path).with_context(known)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&stem, &text).with_context(|| format!("{} cannot be used", path.display()))
    }

    /// What lies in `scenarios/`, sorted.
    pub(crate) fn all_names() -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            names.extend(name.strip_suffix(".toml").map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    pub(crate) fn parse(name: &str, text: &str) -> Result<Self> {
        let mut scenario: Self = toml::from_str(text)?;
        name.clone_into(&mut scenario.name);
        let when = |event: &Event| event.at();
        scenario.events.sort_by_key(when);
        scenario.check()?;
        Ok(scenario)
    }

    /// Everything takes so many times longer, at the same rates.
    #[must_use]
    pub(crate) fn scaled(mut self, factor: f64) -> Self {
        for phase in &mut self.phases {
            phase.seconds *= factor;
        }
        for event in &mut self.events {
            match event {
                Event::StoreAway { at_seconds, seconds } => {
                    *at_seconds *= factor;
                    *seconds *= factor;
                }
                Event::RestartAgent { at_seconds }
                | Event::Failover { at_seconds }
                | Event::Backup { at_seconds }
                | Event::BulkCopy { at_seconds, .. } => *at_seconds *= factor,
            }
        }
        self
    }

    pub(crate) fn ship_interval(&self) -> Duration {
        Duration::from_millis(self.ship_interval_ms)
    }

    pub(crate) fn has_failover(&self) -> bool {
        self.events.iter().any(|event| matches!(event, Event::Failover { .. }))
    }

    pub(crate) fn has_backup(&self) -> bool {
        self.events.iter().any(|event| matches!(event, Event::Backup { .. }))
    }

    pub(crate) fn check(&self) -> Result<()> {
        ensure!(!self.phases.is_empty(), "there is no [[phase]]");
        ensure!(self.database_mb <= 65_536, "database_mb is more than 64 GB");
        for phase in &self.phases {
            phase.check().with_context(|| format!("phase {:?}", phase.name))?;
        }
        let commits = |phase: &Phase| phase.seconds * phase.commits_per_second.unwrap_or(5000.0);
        let all: f64 = self.phases.iter().map(commits).sum();
        ensure!(all <= COMMITS_MAX, "{all:.0} commits are more than {COMMITS_MAX:.0}");
        ensure!(
            self.ship_interval_ms <= 60_000,
            "ship_interval_ms is more than a minute"
        );
        let seconds: f64 = self.phases.iter().map(|phase| phase.seconds).sum();
        for event in &self.events {
            let at = event.at().as_secs_f64();
            ensure!(
                at < seconds,
                "{event:?} comes after the last phase, which ends at {seconds} s"
            );
            if let Event::StoreAway { seconds, .. } = event {
                ensure!(matches!(self.store, Store::S3 { .. }), "only an S3 store can be away");
                ensure!((0.0..=3600.0).contains(seconds), "the store is away for up to an hour");
            }
            if let Event::BulkCopy { megabytes, .. } = event {
                ensure!((1..=4096).contains(megabytes), "COPY of 1 to 4096 MB");
            }
        }
        let failovers = self
            .events
            .iter()
            .filter(|event| matches!(event, Event::Failover { .. }));
        ensure!(failovers.count() <= 1, "there is one standby, and so one failover");
        if let Store::S3 {
            latency_ms,
            errors_percent,
        } = self.store
        {
            ensure!(latency_ms <= 10_000 && errors_percent <= 50, "that is no store");
        }
        let is_plain = self.events.iter().all(|event| !event.is_outage());
        ensure!(
            !self.effect || is_plain,
            "the effect on the database is not measured with outages"
        );
        self.thresholds.check(self)
    }
}

impl Phase {
    fn check(&self) -> Result<()> {
        ensure!((0.1..=86_400.0).contains(&self.seconds), "seconds: 0.1 to 86400");
        ensure!((1..=CLIENTS_MAX).contains(&self.clients), "clients: 1 to {CLIENTS_MAX}");
        ensure!(
            (0.0..=1000.0).contains(&self.wal_mb_per_second),
            "wal_mb_per_second: 0 to 1000"
        );
        let rate = self.commits_per_second.unwrap_or(0.0);
        ensure!((0.0..=10_000.0).contains(&rate), "commits_per_second: 0 to 10000");
        if self.wal_mb_per_second > 0.0 {
            ensure!(rate > 0.0, "wal_mb_per_second is spread over commits_per_second");
            let each = self.wal_mb_per_second * 1e6 / rate;
            ensure!(
                each <= WAL_OF_A_COMMIT_BYTES_MAX,
                "{each:.0} bytes of WAL in one commit"
            );
        }
        Ok(())
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

#[cfg(test)]
mod tests;
