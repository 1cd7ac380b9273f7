//! `wal-agent run`: the daemon. Supervises the WAL lane, tells systemd, writes its state, ends in order.
//!
//! A crash here loses nothing: PostgreSQL keeps what was not confirmed, and the next start goes on from what the repository holds.
//! `adopt` runs the same for as long as its backup needs it, without what only a daemon does: looking around, telling, schedules.

mod after_loss;
mod behind;
mod copies;
mod daemon;
mod endpoint;
pub mod health;
mod holes;
mod jobs;
mod lease;
pub mod ledger;
pub mod lineages;
mod looking;
mod loss;
mod others;
mod retained;
mod server;
mod slots;
pub mod state;
mod supervise;
mod synchronous;
mod watching;

use std::sync::Arc;
use std::time::Duration;

use after_loss::Losses;
use daemon::Daemon;
use health::{Health, Report, Sources};
use ledger::{Event, Ledger};
use state::Supervision;
use store::keys::SigningKey;
use store::object::mirrored::Mirrored;
use store::records::Lineage;
use store::repository::Writer;
use store::retry::RetryPolicy;
use supervise::supervise;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use wal::lag::Lag;
use wal::receive::{Orders, StreamStatus};
use watching::{Seen, Watching};

use crate::open::{Context, current_lineage};

/// Well within `WatchdogSec` of the unit.
const WAITING_TOLD_EVERY: Duration = Duration::from_secs(10);
/// How long an end in order waits for copies.
const COPIES_WAIT: Duration = Duration::from_secs(2);

/// Runs the command.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let _alone = state::alone(&context)?;
    let mut context = Arc::new(context);
    let reload_error = watch::Sender::new(None);
    let again = Arc::new(Notify::new());
    let mut signals: Option<Signals> = None;
    loop {
        let waiting = Waiting::begin();
        let prepared = Box::pin(Running::prepare(Arc::clone(&context), None));
        let running = match &mut signals {
            None => prepared.await?,
            // What the new configuration names may be away by now.
            Some(signals) => tokio::select! {
                prepared = prepared => prepared?,
                next = signals.next(&context, &reload_error) => match next {
                    Next::Stop => return Ok(()),
                    Next::Reload(read) => {
                        context = read;
                        continue;
                    }
                },
            },
        };
        drop(waiting);
        let signals = match &mut signals {
            Some(signals) => signals,
            none => none.insert(Signals::catch()?),
        };
        // Type=notify: from here on the agent does its work, whether the server is up yet or not.
        let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
        let stop = watch::Sender::new(false);
        let attended = Attended {
            reload_error: reload_error.subscribe(),
            again: Arc::clone(&again),
        };
        let ended = running.until_stopped(stop.subscribe(), Some(attended));
        let mut ended = Box::pin(ended);
        let next = tokio::select! {
            result = &mut ended => {
                let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
                return result;
            }
            next = signals.next(&context, &reload_error) => next,
            () = again.notified() => Next::Reload(Arc::clone(&context)),
        };
        if matches!(next, Next::Stop) {
            let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
        }
        let _ = stop.send(true);
        ended.await?;
        match next {
            Next::Stop => return Ok(()),
            // The stream is taken up again where it was: the server keeps what came in between.
            Next::Reload(read) => context = read,
        }
    }
}

/// What only who runs as a daemon has.
pub struct Attended {
    /// Why a configuration was not read again.
    reload_error: watch::Receiver<Option<String>>,
    /// Asks for another beginning: something is there now that was not at the last one.
    again: Arc<Notify>,
}

/// The daemon, ready to run. Who makes one must be alone ([`state::alone`]).
pub struct Running {
    context: Arc<Context>,
    daemon: Daemon,
    places: Option<Arc<Mirrored>>,
    status: watch::Sender<StreamStatus>,
    supervision: watch::Sender<Supervision>,
}

impl Running {
    /// Opens what is needed. Begins with the lineage that is archived, unless one is named; the server decides in the end.
    pub async fn prepare(context: Arc<Context>, lineage: Option<Lineage>) -> anyhow::Result<Self> {
        let keys = context.host_keys()?;
        let (repository, places) = context.writing(RetryPolicy::patient(), &keys).await?;
        if let Some(places) = &places {
            copies::begin(&repository, places, context.config.confirm).await?;
        }
        let lineage = match lineage {
            Some(lineage) => lineage,
            None => current_lineage(&context, &repository).await?,
        };
        let signing = Arc::new(SigningKey::from_seed(keys.signing.seed().clone())?);
        let control = Arc::new(Writer::new(Arc::clone(&repository), Arc::clone(&signing), 0));
        let is_open = after_loss::is_open(&repository, lineage.id).await?;
        let daemon = Daemon {
            repository,
            ledger: Ledger::start(Arc::clone(&control)),
            signing,
            control,
            inputs: None,
            removed_until: None,
            held: None,
            orders: watch::Sender::new(Orders {
                loss_is_open: is_open,
                ..Orders::default()
            }),
            losses: Arc::new(Losses::new(is_open.then_some(lineage.id))),
            abandon: watch::Sender::new(false),
            taken_over: Arc::new(watch::Sender::new(None)),
            server: watch::Sender::new(None),
            lineage,
            lag: Lag::since(crate::output::now_us()),
            has_connected: false,
        };
        tracing::info!(lineage = %daemon.lineage.id, "agent started");
        let supervision = watch::Sender::new(Supervision {
            lineage: daemon.lineage.id,
            error: None,
        });
        Ok(Running {
            context,
            daemon,
            places,
            status: watch::Sender::new(StreamStatus::default()),
            supervision,
        })
    }

    /// For the record: the lineage was begun on an operator's word.
    pub fn note_new_lineage(&self, reason: &str) {
        let lineage = self.daemon.lineage.id;
        self.daemon
            .ledger
            .note(Event::NewLineage, format!("lineage {lineage} begins: {reason}"));
    }

    /// Where the stream is, and what its supervisor says.
    pub fn seen(&self) -> (watch::Receiver<StreamStatus>, watch::Receiver<Supervision>) {
        (self.status.subscribe(), self.supervision.subscribe())
    }

    /// Runs until `stop` is true, or until it must leave; ends in order. A daemon is attended to.
    pub async fn until_stopped(
        self,
        mut stop: watch::Receiver<bool>,
        attended: Option<Attended>,
    ) -> anyhow::Result<()> {
        let Running {
            context,
            mut daemon,
            places,
            status,
            supervision,
        } = self;
        let again = attended.as_ref().map(|attended| Arc::clone(&attended.again));
        let copies = copies::start(&context, &daemon.repository, places.as_ref(), again);
        let seen = watch::Sender::new(Seen::default());
        let start = |Attended { reload_error, .. }| {
            let sources = Sources {
                context: Arc::clone(&context),
                status: status.subscribe(),
                supervision: supervision.subscribe(),
                seen: seen.subscribe(),
                reload_error,
            };
            Health::start(sources, &daemon.repository, daemon.server.subscribe(), &daemon.losses)
        };
        let health = attended.map(start).transpose()?;
        let report = health
            .as_ref()
            .map_or_else(|| watch::Sender::new(Report::default()).subscribe(), Health::report);
        let state = state::Keeper::start(
            &context,
            status.subscribe(),
            supervision.subscribe(),
            seen.subscribe(),
            report,
        );
        let overlap = lineages::keep_overlap(
            &context,
            &daemon.lineage,
            daemon.server.subscribe(),
            status.subscribe(),
            stop.clone(),
        )?;
        let watching = Watching {
            context: Arc::clone(&context),
            server: daemon.server.subscribe(),
            status: status.subscribe(),
            supervision: supervision.subscribe(),
            orders: daemon.orders.clone(),
            abandon: daemon.abandon.clone(),
            seen,
            ledger: daemon.ledger.clone(),
        };
        let watching = tokio::spawn(watching.run());
        let answering = after_loss::Answering {
            context: Arc::clone(&context),
            repository: Arc::clone(&daemon.repository),
            losses: Arc::clone(&daemon.losses),
            orders: daemon.orders.clone(),
        };
        let answering = answering.start(stop.clone())?;
        let result = supervise(&context, &mut daemon, &status, &supervision, &mut stop).await;
        for task in [overlap, watching].into_iter().chain(copies) {
            task.abort();
        }
        if let Some(health) = health {
            health.finish(&result).await;
        }
        crate::copies::settle(places.as_ref(), COPIES_WAIT).await;
        answering.finish();
        daemon.ledger.finish().await;
        state.finish().await;
        result
    }
}

/// While a repository is waited for that is away nothing hangs: systemd's watchdog is told so.
struct Waiting(JoinHandle<()>);

impl Waiting {
    fn begin() -> Self {
        Waiting(tokio::spawn(async {
            loop {
                let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Watchdog]);
                tokio::time::sleep(WAITING_TOLD_EVERY).await;
            }
        }))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a signal asks for.
enum Next {
    Stop,
    Reload(Arc<Context>),
}

/// SIGTERM and SIGINT end the agent in order, SIGHUP has the configuration read again.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn catch() -> anyhow::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// A configuration that is wrong changes nothing; it is said, and stays an alarm until a right one is read.
    async fn next(&mut self, context: &Context, reload_error: &watch::Sender<Option<String>>) -> Next {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
                _ = self.hangup.recv() => match context.reload().await {
                    Ok(read) => {
                        tracing::info!("the configuration was read again; going on with it");
                        reload_error.send_replace(None);
                        return Next::Reload(Arc::new(read));
                    }
                    Err(error) => {
                        let error = crate::exit::describe(&error);
                        tracing::error!(%error, "the configuration was not read again; the one before stays in force");
                        reload_error.send_replace(Some(error));
                        continue;
                    }
                },
            }
            tracing::info!("stopping");
            return Next::Stop;
        }
    }
}
