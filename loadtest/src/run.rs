//! One scenario from an empty directory to its figures.
//!
//! With `effect` the same load runs three times: without an agent, with it, without it (A B A), so that what the machine does meanwhile
//! falls on both. Then the host is lost, and what a restore brings back is compared with what was acknowledged.

mod events;
#[cfg(test)]
mod example;
mod load;
mod process;
mod put_probe;
mod stage;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::tests::Scratch;
use ::tests::fault_s3::{End, Entry, Method};
use ::tests::wait::{DEADLINE, within};
use anyhow::{Result, ensure};
use hdrhistogram::Histogram;

pub(crate) use events::Mark;
#[cfg(test)]
pub(crate) use example::example;
pub(crate) use load::Commit;
pub(crate) use process::{Role, Sample};
pub(crate) use watch::Seen;

use crate::scenario::{Plan, Scenario};
use events::{Events, Happened};
use load::Load;
use process::Sampler;
use put_probe::Probe;
use stage::Stage;
use watch::Watch;

/// Beside the measured time: setting up, the backup, the restore.
const OVERHEAD: Duration = Duration::from_secs(300);
/// What is archived of a phase that has just ended, as multiples of the ship interval.
const IDLE_AFTER_INTERVALS: u32 = 3;

/// Everything that one run of a scenario left behind.
pub(crate) struct Measured {
    pub(crate) scenario: Scenario,
    pub(crate) plan: Arc<Plan>,
    pub(crate) commits: Vec<Commit>,
    pub(crate) seen: Seen,
    pub(crate) samples: Vec<Sample>,
    pub(crate) marks: Vec<Mark>,
    /// Outages and COPYs.
    pub(crate) strains: Vec<(Duration, Duration)>,
    pub(crate) backups: Vec<Duration>,
    /// Microseconds a PUT.
    pub(crate) puts: Histogram<u64>,
    /// At an S3 store, with their begin since the begin of the run; PUTs and all.
    pub(crate) requests: Option<Requests>,
    /// Of the same load without an agent.
    pub(crate) without: Vec<Vec<Commit>>,
    /// Acknowledged commits that the restored server has not got.
    pub(crate) not_restored: u64,
    pub(crate) restored_in: Duration,
    /// Lines of WARN and ERROR that our programs wrote.
    pub(crate) warnings: Vec<String>,
}

/// What an S3 store was asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requests {
    pub(crate) all: u64,
    pub(crate) puts: u64,
    /// PUTs below `wal/` and `tail/`.
    pub(crate) wal_puts: u64,
    pub(crate) failed: u64,
    /// While nothing was committed: each one by name, and for how long that was.
    pub(crate) idle: Vec<String>,
    pub(crate) idle_seconds: f64,
}

/// Runs it. The error says what broke; a threshold that is broken is none.
pub(crate) async fn run(scratch: &Scratch, scenario: Scenario) -> Result<Measured> {
    let length = Plan::new(&scenario).length();
    within("the scenario", length * 6 + OVERHEAD, Box::pin(play(scratch, scenario))).await?
}

async fn play(scratch: &Scratch, scenario: Scenario) -> Result<Measured> {
    let mut stage = Stage::set_up(scratch, &scenario).await?;
    let mut without = Vec::new();
    if scenario.effect {
        without.push(alone(&stage, &scenario, 0).await?);
    }
    stage.start_agent().await?;
    stage.seawall.backup().await?;
    stage.seawall.wait_archived(&stage.primary).await?;
    stage.make_store_slow(scenario.store);
    let mut measured = Box::pin(with_agent(&mut stage, scenario)).await?;
    stage.stop_agent().await?;
    if measured.scenario.effect {
        without.push(alone(&stage, &measured.scenario, 2).await?);
    }
    let (restored_in, not_restored) = restore(&mut stage, &measured.commits).await?;
    measured.without = without;
    (measured.restored_in, measured.not_restored) = (restored_in, not_restored);
    measured.warnings = std::mem::take(&mut stage.warnings);
    Ok(measured)
}

/// The load without an agent, looked at as the other one is.
async fn alone(stage: &Stage, scenario: &Scenario, run: i64) -> Result<Vec<Commit>> {
    stage.primary.exec("checkpoint").await?;
    let plan = Arc::new(Plan::new(scenario));
    let (load, begin) = Load::start(&stage.clients(), &plan, run).await?;
    let watch = Watch::start(&stage.clients(), begin);
    let commits = load.finish().await?;
    watch.finish(0, DEADLINE).await?;
    Ok(commits)
}

async fn with_agent(stage: &mut Stage, scenario: Scenario) -> Result<Measured> {
    stage.primary.exec("checkpoint").await?;
    let plan = Arc::new(Plan::new(&scenario));
    let probe = stage
        .store
        .is_none()
        .then(|| stage.scratch.dir("probe").map(Probe::start));
    let probe = probe.transpose()?;
    let (load, begin) = Load::start(&stage.clients(), &plan, 1).await?;
    let watch = Watch::start(&stage.clients(), begin);
    let sampler = Sampler::start(&stage.watched, begin);
    let Happened {
        marks,
        strains,
        backups,
    } = Events::new(stage, begin).run(&scenario.events).await?;
    let commits = load.finish().await?;
    ensure!(!commits.is_empty(), "nothing was committed");
    let goal = stage.flushed().await?;
    let seen = watch.finish(goal, DEADLINE * 3).await?;
    let samples = sampler.finish().await?;
    let during = |entries: Vec<Entry>| entries.into_iter().filter(|entry| entry.begun >= begin).collect();
    let entries: Option<Vec<Entry>> = stage.store.as_ref().map(|store| during(store.log().entries()));
    let puts = match (probe, &entries) {
        (Some(probe), _) => probe.finish().await?,
        (None, Some(entries)) => put_times(entries)?,
        (None, None) => put_probe::histogram()?,
    };
    Ok(Measured {
        requests: entries.map(|entries| count(&entries, begin, &plan, scenario.ship_interval())),
        scenario,
        plan,
        commits,
        seen,
        samples,
        marks,
        strains,
        backups,
        puts,
        without: Vec::new(),
        not_restored: 0,
        restored_in: Duration::ZERO,
        warnings: Vec::new(),
    })
}

fn put_times(entries: &[Entry]) -> Result<Histogram<u64>> {
    let mut times = put_probe::histogram()?;
    for entry in entries.iter().filter(|entry| entry.method == Method::Put) {
        if let (Some(ended), End::Status(200)) = (entry.ended, entry.end) {
            let us = u64::try_from((ended - entry.begun).as_micros())?;
            times.saturating_record(us.max(1));
        }
    }
    Ok(times)
}

fn count(entries: &[Entry], begin: Instant, plan: &Plan, interval: Duration) -> Requests {
    let mut requests = Requests::default();
    let idle = |stretch: &&crate::scenario::Stretch| stretch.is_idle();
    let idle: Vec<(Duration, Duration)> = plan
        .stretches
        .iter()
        .filter(idle)
        .map(|stretch| (stretch.begin + interval * IDLE_AFTER_INTERVALS, stretch.end))
        .filter(|(from, to)| from < to)
        .collect();
    requests.idle_seconds = idle.iter().map(|(from, to)| (*to - *from).as_secs_f64()).sum();
    for entry in entries {
        let at = entry.begun.saturating_duration_since(begin);
        requests.all += 1;
        requests.failed += u64::from(!matches!(entry.end, End::Status(200..=299 | 404 | 412)));
        if idle.iter().any(|(from, to)| (*from..*to).contains(&at)) {
            requests.idle.push(format!("{:?} {}", entry.method, entry.key));
        }
        if entry.method == Method::Put {
            requests.puts += 1;
            let is_wal = entry.key.contains("/wal/") || entry.key.contains("/tail/");
            requests.wal_puts += u64::from(is_wal);
        }
    }
    requests
}

/// How long the restore took, and how many acknowledged commits it lacks.
async fn restore(stage: &mut Stage, commits: &[Commit]) -> Result<(Duration, u64)> {
    let (took, restored) = stage.lose_and_restore().await?;
    let client = restored.connect().await?;
    let rows = client.query("select n from load", &[]).await?;
    let there: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    let missing = commits.iter().filter(|commit| !there.contains(&commit.row)).count();
    Ok((took, missing as u64))
}
