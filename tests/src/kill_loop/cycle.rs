//! One cycle: an agent is started, works, and somebody dies; then it is looked at what the repository holds.
//!
//! A cycle begins and ends with a server and without an agent. When only the server is killed, the agent is frozen for the
//! moment of the look, so that it does not ship what was not yet safe; afterwards it must find back by itself.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rustix::process::Signal;
use store::crash::CrashPoint;

use super::archive::{Compared, Look, ServerWal};
use super::judge::{CaughtUp, Evidence, SLACK, Verdict, judge};
use super::plan::{CyclePlan, Kind, Mode, Trigger, Victim};
use super::stage::{SHIP_INTERVAL, Stage, Watch};
use super::summary::Outcome;
use crate::child::Child;
use crate::wait::{DEADLINE, moment, wait_for, wait_until};

/// From catching up on, how long an armed point may take to be passed.
const POINT_LIMIT: Duration = Duration::from_millis(1500);

/// What an agent may say when servers die around it.
const EXPECTED_WARNINGS: [&str; 4] = [
    "not streaming; trying again",
    "the server closed the connection; reconnecting",
    "the WAL lane failed; trying again",
    "the slot is missing; making it again",
];

/// An agent at the moment before the kill.
struct Life {
    agent: Child,
    watch: Watch,
    caught_up: Option<CaughtUp>,
    /// The armed point ended it.
    hit: bool,
    put: Duration,
}

/// A kill and what was there right after it.
struct Death {
    died_at: Instant,
    look: Look,
    /// The agent that survived its server.
    survivor: Option<Child>,
}

/// Plays one cycle. An error is a failure of the product or of the loop; a loss is in the outcome.
pub async fn play(stage: &mut Stage, plan: &CyclePlan) -> Result<Outcome> {
    let start = Instant::now();
    let before = stage.recorder.acknowledged();
    let warned = stage.recorder.warned();
    stage.recorder.set_mode(plan.mode);
    if plan.kind == Kind::SlotDropped {
        stage.cluster.exec("select pg_drop_replication_slot('seawall')").await?;
    }
    let mut life = live(stage, plan).await?;
    let (hit, put, caught_up) = (life.hit, life.put, life.caught_up);
    let death = kill(stage, plan, life.agent).await?;
    let commits = stage.recorder.commits();
    if plan.victim == Victim::Agent && caught_up.is_some() {
        life.watch.look_at_slot().await?;
    }
    if plan.kind != Kind::HostLoss && plan.victim != Victim::Agent {
        stage.cluster.start().await?;
    }
    if let Some(agent) = death.survivor {
        find_back(stage, agent).await?;
    }
    let compared = read(stage, &death.look).await?;
    let evidence = Evidence {
        died_at: death.died_at,
        caught_up,
        confirmed: caught_up.map_or(0, |_| life.watch.confirmed),
        archived: stage.archive.end(stage.timeline),
        bound: SHIP_INTERVAL + put + SLACK,
    };
    let on_timeline: Vec<_> = commits
        .iter()
        .filter(|commit| commit.timeline == stage.timeline)
        .copied()
        .collect();
    let verdict = judge(&on_timeline, |commit| stage.archive.holds(commit), &evidence);
    let acknowledged = stage.recorder.acknowledged();
    let mut outcome = Outcome {
        acknowledged: acknowledged.all - before.all,
        acknowledged_synchronous: acknowledged.synchronous - before.synchronous,
        warned: stage.recorder.warned() - warned,
        put,
        took: start.elapsed(),
        hit,
        ..of(&verdict, compared)
    };
    if plan.mode == Mode::Asynchronous {
        outcome.bound = evidence.bound;
    }
    if verdict != Verdict::default() {
        let rows = verdict.lost.iter().chain(&verdict.too_old);
        let of = |n: &i64| commits.iter().find(|commit| commit.n == *n).copied();
        let first: Vec<_> = rows.filter_map(of).take(5).collect();
        outcome.detail = format!("{evidence:?}, first rows {first:?}");
    }
    Ok(outcome)
}

fn of(verdict: &Verdict, compared: Compared) -> Outcome {
    Outcome {
        lost: verdict.lost.len() as u64,
        too_old: verdict.too_old.len() as u64,
        confirmed_ahead: verdict.confirmed_ahead,
        unarchived: verdict.unarchived,
        objects: compared.objects,
        compared_bytes: compared.bytes,
        divergent_bytes: compared.divergent,
        ..Outcome::default()
    }
}

async fn read(stage: &mut Stage, look: &Look) -> Result<Compared> {
    let flushed = stage.server_wal().await?.flushed;
    let server = ServerWal {
        data_directory: stage.cluster.data_directory(),
        flushed,
    };
    stage.archive.read(look, server).await
}

/// Starts an agent and lets it live until the moment of the trigger.
async fn live(stage: &mut Stage, plan: &CyclePlan) -> Result<Life> {
    let mut life = Life {
        agent: stage.start_agent(plan.mode, Some(plan.trigger))?,
        watch: stage.watch().await?,
        caught_up: None,
        hit: false,
        put: Duration::ZERO,
    };
    match plan.trigger {
        Trigger::Starting(after) => moment(after).await,
        Trigger::Working(after) => {
            life.catch_up().await?;
            life.put = stage.measure_put().await?;
            moment(after).await;
            life.watch.look().await?;
        }
        Trigger::AfterCommit(after) => {
            life.catch_up().await?;
            stage.recorder.wait_for_commit().await?;
            moment(after).await;
        }
        Trigger::Point(CrashPoint::BeforeLastStatus, _) => {
            life.catch_up().await?;
            life.agent.terminate(DEADLINE).await?;
            life.hit = true;
        }
        Trigger::Point(..) => {
            life.until_point().await?;
            if life.caught_up.is_some() {
                life.put = stage.measure_put().await?;
            }
        }
    }
    life.check(plan)?;
    Ok(life)
}

impl Life {
    async fn catch_up(&mut self) -> Result<()> {
        let Life { agent, watch, .. } = self;
        let mut early_end = None;
        let caught_up = wait_for("the agent to catch up", DEADLINE, async || {
            early_end = agent.ended();
            match early_end {
                Some(_) => Some(None),
                None => watch.look().await.ok().flatten().map(Some),
            }
        })
        .await?;
        let Some(caught_up) = caught_up else {
            bail!("the agent ended by itself: {early_end:?}\n{}", self.agent.log());
        };
        self.caught_up = Some(caught_up);
        Ok(())
    }

    /// Until the armed point has ended it, or has not for too long.
    async fn until_point(&mut self) -> Result<()> {
        let Life {
            agent,
            watch,
            caught_up,
            ..
        } = self;
        self.hit = wait_for("the armed point", DEADLINE, async || {
            if agent.ended().is_some() {
                return Some(true);
            }
            if let Ok(Some(now)) = watch.look().await {
                let since = caught_up.get_or_insert(now);
                if since.at.elapsed() > POINT_LIMIT {
                    return Some(false);
                }
            }
            None
        })
        .await?;
        Ok(())
    }

    /// It died where it should, and nowhere else.
    fn check(&mut self, plan: &CyclePlan) -> Result<()> {
        let ended = self.agent.ended();
        let log = self.agent.log();
        match (plan.trigger, self.hit) {
            (Trigger::Point(point, _), true) => {
                let killed = ended.is_some_and(|status| status.signal() == Some(Signal::KILL.as_raw()));
                let said = log.contains(&format!("point=\"{}\"", point.name()));
                ensure!(killed && said, "not ended by {}: {ended:?}\n{log}", point.name());
            }
            _ => ensure!(ended.is_none(), "the agent ended by itself: {ended:?}\n{log}"),
        }
        let allowed: &[&str] = match plan.kind {
            Kind::SlotDropped => &EXPECTED_WARNINGS[3..],
            _ => &[],
        };
        self.agent.assert_no_unexpected_warnings(allowed)
    }
}

/// Kills whom the plan names, and looks at the repository when nothing can be added to it any more.
async fn kill(stage: &Stage, plan: &CyclePlan, mut agent: Child) -> Result<Death> {
    let died_at = Instant::now();
    let is_dead = agent.ended().is_some();
    let mut survivor = None;
    match plan.victim {
        Victim::Agent => kill_agent(agent, is_dead)?,
        Victim::Server => {
            agent.freeze()?;
            stage.cluster.kill9()?;
            survivor = Some(agent);
        }
        // A lost host takes nothing along that the agent could still ship.
        Victim::Both if is_dead || plan.agent_first || plan.kind == Kind::HostLoss => {
            kill_agent(agent, is_dead)?;
            stage.cluster.kill9()?;
        }
        Victim::Both => {
            stage.cluster.kill9()?;
            kill_agent(agent, is_dead)?;
        }
    }
    let look = stage.archive.look().await?;
    if let Some(agent) = &survivor {
        agent.thaw()?;
    }
    Ok(Death {
        died_at,
        look,
        survivor,
    })
}

fn kill_agent(agent: Child, is_dead: bool) -> Result<()> {
    if is_dead { Ok(()) } else { agent.kill9() }
}

/// The agent that survived its server finds the new one, archives what is there, and stops in order.
async fn find_back(stage: &Stage, agent: Child) -> Result<()> {
    stage.catch_up().await?;
    agent.assert_no_unexpected_warnings(&EXPECTED_WARNINGS[..3])?;
    let mut agent = agent;
    let status = agent.terminate(DEADLINE).await?;
    ensure!(status.success(), "the agent ended with {status}\n{}", agent.log());
    // Its slot must be free for the next one.
    wait_until("the slot to be free", DEADLINE, async || {
        let sql = "select active from pg_replication_slots where slot_name = 'seawall'";
        stage.cluster.query_one(sql).await.is_ok_and(|active| active == "f")
    })
    .await
}
