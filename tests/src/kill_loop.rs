//! The kill loop: agent, server or both die by SIGKILL, at any moment and at every named crash point, again and again; after each
//! kill the repository alone is asked whether it holds what was promised.
//!
//! [`plan`] draws what a cycle does from one seed; [`stage`] is what it plays on; [`cycle`] plays it; [`archive`] reads the
//! repository; [`judge`] says what a kill has cost; [`summary`] adds up over runs. Every 20th cycle is followed by a real restore
//! that must hold exactly the archived commits, and in every 50th the host is lost and the cluster goes on as a restore.

pub mod archive;
pub mod cycle;
pub mod judge;
pub mod plan;
pub mod recorder;
pub mod stage;
pub mod summary;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use self::plan::{CyclePlan, ERA, Kind, Plan};
use self::stage::Stage;
use self::summary::{Outcome, Summary};
use crate::cluster::Cluster;
use crate::wait::DEADLINE;

/// Cycles between two lines for whoever watches.
const GROUP: u64 = 10;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    pub cycles: u64,
    pub seed: u64,
    pub major: u32,
    /// The file that runs add to; none: the figures are only returned.
    pub summary: Option<PathBuf>,
    /// Forget the runs before.
    pub fresh: bool,
}

/// Runs that many cycles. Anything lost, divergent or broken is an error that names seed and cycle.
pub async fn run(options: &Options) -> Result<Summary> {
    let mut summary = match &options.summary {
        Some(path) if !options.fresh => Summary::load(path)?,
        _ => Summary::default(),
    };
    summary.begin(options.seed, options.major);
    let mut number = 0;
    while number < options.cycles {
        let until = options.cycles.min(number + ERA);
        let mut era = Era {
            options,
            summary: &mut summary,
            number,
        };
        let played = Box::pin(era.play(until)).await;
        let failed_at = era.number;
        if let Err(error) = played {
            let text = format!("{error:#}");
            summary.add_failure(options.seed, failed_at, &text);
            save(&summary, options.summary.as_deref())?;
            return Err(error.context(format!("seed {}, cycle {failed_at}", options.seed)));
        }
        number = until;
    }
    save(&summary, options.summary.as_deref())?;
    Ok(summary)
}

fn save(summary: &Summary, path: Option<&Path>) -> Result<()> {
    path.map_or(Ok(()), |path| summary.save(path))
}

/// The cycles on one cluster and one repository.
struct Era<'a> {
    options: &'a Options,
    summary: &'a mut Summary,
    /// The cycle that is played.
    number: u64,
}

impl Era<'_> {
    async fn play(&mut self, until: u64) -> Result<()> {
        let mut stage = Stage::create(self.options.major).await?;
        let played = self.play_on(&mut stage, until).await;
        if played.is_err() {
            eprintln!("{}", stage.scratch.log_tails());
        }
        played
    }

    async fn play_on(&mut self, stage: &mut Stage, until: u64) -> Result<()> {
        let plan = Plan::new(self.options.seed);
        while self.number < until {
            let cycle = plan.cycle(self.number);
            let outcome = cycle::play(stage, &cycle).await.with_context(|| format!("{cycle:?}"))?;
            self.summary.add(&cycle, &outcome);
            save(self.summary, self.options.summary.as_deref())?;
            check(&cycle, &outcome)?;
            self.follow(stage, &cycle, until).await?;
            self.number += 1;
            if self.number.is_multiple_of(GROUP) || self.number == self.options.cycles {
                let (number, all) = (self.number, self.options.cycles);
                println!("{number:>5} of {all}; in all runs {}", self.summary.line());
            }
        }
        Ok(())
    }

    /// What follows a cycle: the restore of a lost host, a restore to compare with, or the end of the era.
    async fn follow(&mut self, stage: &mut Stage, cycle: &CyclePlan, until: u64) -> Result<()> {
        let is_last = self.number + 1 == until;
        if cycle.kind == Kind::HostLoss {
            let restored = self.replace_host(stage).await?;
            if is_last {
                return stage.recorder.stop().await;
            }
            return stage.move_to(restored).await;
        }
        if is_last {
            return self.finish(stage).await;
        }
        if cycle.restore {
            discard(&stage.restore(self.summary).await?)?;
            stage.backup().await?;
        }
        Ok(())
    }

    /// The host is gone with its disk: all that is left are the repository and the restore key.
    async fn replace_host(&mut self, stage: &mut Stage) -> Result<Cluster> {
        ensure!(!stage.cluster.is_running(), "the server of a lost host runs");
        let divergent = stage.read_archive().await?;
        ensure!(divergent == 0, "{divergent} divergent bytes on a lost host");
        stage.cluster.destroy_data_directory()?;
        std::fs::remove_dir_all(stage.scratch.join("state"))?;
        stage.scratch.dir("state")?;
        stage.restore(self.summary).await
    }

    /// All that was ever acknowledged comes out of the repository.
    async fn finish(&mut self, stage: &mut Stage) -> Result<()> {
        let agent = stage.start_agent(plan::Mode::Synchronous, None)?;
        stage.catch_up().await?;
        stage.recorder.stop().await?;
        stage.catch_up().await?;
        agent.stop(DEADLINE).await?;
        let divergent = stage.read_archive().await?;
        ensure!(divergent == 0, "{divergent} divergent bytes at the end");
        let promised =
            |commit: &&recorder::Commit| commit.acknowledged_at.is_some() && commit.timeline == stage.timeline;
        let commits = stage.recorder.commits();
        let lost: Vec<i64> = commits
            .iter()
            .filter(promised)
            .filter(|commit| !stage.archive.holds(commit))
            .map(|commit| commit.n)
            .collect();
        ensure!(lost.is_empty(), "never archived: {lost:?}");
        discard(&stage.restore(self.summary).await?)
    }
}

fn discard(restored: &Cluster) -> Result<()> {
    restored.kill9()?;
    restored.destroy_data_directory()
}

fn check(cycle: &CyclePlan, outcome: &Outcome) -> Result<()> {
    let costs = [
        ("divergent bytes", outcome.divergent_bytes),
        ("acknowledged commits lost", outcome.lost),
        ("commits not archived although older than the bound", outcome.too_old),
        ("bytes confirmed that are not archived", outcome.confirmed_ahead),
    ];
    for (what, count) in costs {
        ensure!(count == 0, "{count} {what} in {cycle:?}: {}", outcome.detail);
    }
    Ok(())
}
