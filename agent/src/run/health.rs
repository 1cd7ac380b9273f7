//! Puts together what everybody has seen, judges it each second, and passes on what is open: to the log, to whoever is told, to `status`, to
//! the endpoint, and to systemd's watchdog.

use std::sync::Arc;
use std::time::Duration;

use pg::conninfo::ConnectOptions;
use store::repository::Repository;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wal::receive::StreamStatus;

use super::after_loss::Losses;
use super::behind::Behind;
use super::endpoint;
use super::jobs::Jobs;
use super::looking::{Around, Looking};
use super::retained;
use super::state::{Supervision, describe};
use super::watching::Seen;
use crate::health::board::{Board, Change, Open};
use crate::health::{Alarm, Facts, Kind, judge};
use crate::notify::Telling;
use crate::open::Context;
use crate::status::state_file;
use crate::{component, copies, exit, output};

/// Between two judgements.
const EVERY: Duration = Duration::from_secs(1);
/// The past is shown in so many spans of that length.
const SPAN: Duration = Duration::from_secs(10);
const SPANS: usize = 60;
/// How long an end in order waits for those who are to be told of it.
const TELL_MAX: Duration = Duration::from_secs(8);
/// A stream in which nothing moved for so long, not even a word of the server, is stuck.
const STUCK: Duration = Duration::from_secs(180);

/// What the server has said is believed for so long.
const LOOK_COUNTS_US: i64 = 90_000_000;

/// All that is known, and what is open.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What was seen.
    pub facts: Facts,
    /// What is open, worst first.
    pub open: Vec<Open>,
    /// The highest RPO of each of the last spans of [`SPAN`], oldest first.
    pub rpo_history_ms: Vec<u64>,
}

/// What the task puts together.
pub struct Sources {
    pub context: Arc<Context>,
    pub status: watch::Receiver<StreamStatus>,
    pub supervision: watch::Receiver<Supervision>,
    pub seen: watch::Receiver<Seen>,
    pub reload_error: watch::Receiver<Option<String>>,
}

/// The tasks.
pub struct Health {
    judging: JoinHandle<()>,
    others: Vec<JoinHandle<()>>,
    telling: Option<Telling>,
    jobs: Option<Jobs>,
    report: watch::Receiver<Report>,
    open: watch::Sender<Vec<Open>>,
    cluster: String,
}

impl Health {
    /// Begins to look, to judge, to tell, to answer, and to do what is on schedule.
    pub fn start(
        sources: Sources,
        repository: &Arc<Repository>,
        server: watch::Receiver<Option<ConnectOptions>>,
        losses: &Arc<Losses>,
    ) -> anyhow::Result<Self> {
        let context = Arc::clone(&sources.context);
        let supervision = sources.supervision.clone();
        let lineage = move || supervision.borrow().lineage;
        let around = watch::Sender::new(Around::default());
        let looking = Looking::new(&context, repository, lineage, server, losses)?;
        let seen_around = around.subscribe();
        let looking = tokio::spawn(looking.run(around));
        let board = Board::load(&state_file(&context).with_extension("alarms.json"));
        let open = watch::Sender::new(board.raised());
        let telling = Telling::start(&context, &open.subscribe());
        let jobs = Jobs::start(&context);
        let report = watch::Sender::new(Report::default());
        let judging = Judging {
            sources,
            around: seen_around,
            board,
            telling: telling.states(),
            jobs: jobs.seen(),
            open: open.clone(),
            report: report.clone(),
            started_us: output::now_us(),
        };
        let endpoint = context.cluster.listen.map(|address| {
            let name = context.cluster.name.clone();
            tokio::spawn(endpoint::serve(address, name, report.subscribe()))
        });
        Ok(Health {
            judging: tokio::spawn(judging.run()),
            others: std::iter::once(looking).chain(endpoint).collect(),
            telling: Some(telling),
            jobs: Some(jobs),
            report: report.subscribe(),
            open,
            cluster: context.cluster.name.clone(),
        })
    }

    /// What is open now.
    pub fn report(&self) -> watch::Receiver<Report> {
        self.report.clone()
    }

    /// Ends. Why the agent leaves for good, if it does, is told first.
    pub async fn finish(mut self, result: &anyhow::Result<()>) {
        self.judging.abort();
        if let Some(jobs) = self.jobs.take() {
            jobs.finish().await;
        }
        match (result, self.telling.take()) {
            (Err(error), Some(telling)) => {
                self.open.send_modify(|open| open.push(stopped(&self.cluster, error)));
                telling.finish(TELL_MAX).await;
            }
            (_, telling) => drop(telling.map(Telling::abandon)),
        }
        for task in self.others {
            task.abort();
        }
    }
}

/// The agent leaves for good.
fn stopped(cluster: &str, error: &anyhow::Error) -> Open {
    let alarm = Alarm::new(
        Kind::AgentStopped,
        format!(
            "the agent of cluster \"{cluster}\" has ended: {}",
            exit::describe(error)
        ),
        "Nothing is archived until it runs again. The text says what a person must decide or mend.",
    );
    Open {
        severity: alarm.kind.severity(),
        alarm,
        since_us: output::now_us(),
        is_raised: true,
        gone_us: None,
    }
}

/// The task.
struct Judging {
    sources: Sources,
    around: watch::Receiver<Around>,
    board: Board,
    telling: crate::notify::States,
    jobs: watch::Receiver<Vec<crate::health::facts::Job>>,
    open: watch::Sender<Vec<Open>>,
    report: watch::Sender<Report>,
    started_us: i64,
}

impl Judging {
    async fn run(mut self) {
        let mut watchdog = Watchdog::new(self.sources.status.clone());
        let (mut history, mut behind) = (History::default(), Behind::default());
        // A state directory that cannot be written now may be well a moment later.
        let mut is_kept = true;
        loop {
            let mut facts = self.facts();
            facts.behind_ms = behind.look(&self.sources.status.borrow(), written(&facts), facts.now_us);
            facts.daemon.rpo_ms = facts.daemon.rpo_ms.max(facts.behind_ms);
            let changes = self
                .board
                .update(facts.now_us, judge(&facts, &self.sources.context.cluster));
            for change in &changes {
                say(change);
            }
            is_kept &= changes.is_empty();
            is_kept = is_kept || self.board.keep().is_ok();
            let open = self.board.raised();
            self.open.send_if_modified(|known| {
                let differs = *known != open;
                if differs {
                    known.clone_from(&open);
                }
                differs
            });
            watchdog.look(facts.daemon.streaming);
            history.add(facts.daemon.rpo_ms);
            self.report.send_replace(Report {
                facts,
                open,
                rpo_history_ms: history.spans.iter().copied().collect(),
            });
            tokio::time::sleep(EVERY).await;
        }
    }

    fn facts(&self) -> Facts {
        let Sources {
            context,
            status,
            supervision,
            seen,
            reload_error,
        } = &self.sources;
        let around = self.around.borrow().clone();
        let seen = seen.borrow();
        Facts {
            now_us: output::now_us(),
            started_us: self.started_us,
            daemon: describe(&status.borrow(), &supervision.borrow(), &seen, true),
            behind_ms: 0,
            retained_level: retained::level(seen.retained_bytes, &context.cluster.wal.retained) as u8,
            repository: around.repository,
            server: around.server,
            host: around.host,
            copies: copies::last_seen(context),
            jobs: self.jobs.borrow().clone(),
            channels: self.telling.seen(),
            reload_error: reload_error.borrow().clone(),
            component_ages: component::of_cluster(context)
                .into_iter()
                .filter_map(|component| Some((component.name.clone(), component.backup_age?)))
                .collect(),
        }
    }
}

/// What the RPO was lately.
#[derive(Default)]
struct History {
    spans: std::collections::VecDeque<u64>,
    begun: Option<tokio::time::Instant>,
}

impl History {
    fn add(&mut self, rpo_ms: u64) {
        if self.begun.is_none_or(|begun| begun.elapsed() >= SPAN) {
            self.begun = Some(tokio::time::Instant::now());
            self.spans.push_back(0);
            if self.spans.len() > SPANS {
                self.spans.pop_front();
            }
        }
        if let Some(last) = self.spans.back_mut() {
            *last = rpo_ms.max(*last);
        }
    }
}

/// How far the server's WAL reached, as long as that is news.
fn written(facts: &Facts) -> Option<u64> {
    let server = &facts.server;
    let is_news = server.error.is_none() && facts.now_us - server.looked_us < LOOK_COUNTS_US;
    (is_news && server.looked_us > 0).then_some(server.written_lsn)
}

fn say(change: &Change) {
    match change {
        Change::Raised(open) => {
            let (alarm, severity) = (open.alarm.kind.name(), open.severity.word());
            tracing::warn!(alarm, severity, text = %open.alarm.text, hint = %open.alarm.hint, "alarm");
        }
        Change::Cleared(open) => {
            let since = output::time_us(open.since_us);
            tracing::info!(alarm = open.alarm.kind.name(), %since, "alarm is over");
        }
    }
}

/// Tells systemd that the agent makes progress (`WatchdogSec`): its runtime turns, and a stream that is open moves. A repository that is
/// away is no reason to start again: the stream waits then, and the server's words still arrive.
struct Watchdog {
    status: watch::Receiver<StreamStatus>,
    moved: tokio::time::Instant,
}

impl Watchdog {
    fn new(status: watch::Receiver<StreamStatus>) -> Self {
        Watchdog {
            status,
            moved: tokio::time::Instant::now(),
        }
    }

    fn look(&mut self, streaming: bool) {
        if !streaming || self.status.has_changed().unwrap_or(true) {
            self.status.mark_unchanged();
            self.moved = tokio::time::Instant::now();
        }
        if self.moved.elapsed() < STUCK {
            let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Watchdog]);
        }
    }
}
