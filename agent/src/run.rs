//! `wal-agent run`: the daemon. Supervises the WAL lane, tells systemd, writes its state, ends in order.
//!
//! A crash here loses nothing: PostgreSQL keeps what was not confirmed, and the next start goes on from what the repository holds.
//! `adopt` runs the same for as long as its backup needs it.

mod after_loss;
mod copies;
mod daemon;
mod holes;
mod lease;
mod ledger;
pub mod lineages;
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
use ledger::{Event, Ledger};
use state::Supervision;
use store::keys::SigningKey;
use store::object::mirrored::Mirrored;
use store::records::Lineage;
use store::repository::Writer;
use store::retry::RetryPolicy;
use supervise::supervise;
use tokio::sync::watch;
use wal::lag::Lag;
use wal::receive::{Orders, StreamStatus};
use watching::{Seen, Watching};

use crate::open::{Context, current_lineage};

/// How long an end in order waits for copies.
const COPIES_WAIT: Duration = Duration::from_secs(2);

/// Runs the command.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let _alone = state::alone(&context)?;
    let running = Running::prepare(Arc::new(context), None).await?;
    let stop = stop_signal()?;
    // Type=notify: from here on the agent does its work, whether the server is up yet or not.
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
    running.until_stopped(stop).await
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
            lag: Lag::default(),
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

    /// Runs until `stop` is true, or until it must leave; ends in order.
    pub async fn until_stopped(self, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        let Running {
            context,
            mut daemon,
            places,
            status,
            supervision,
        } = self;
        let copies = copies::start(&context, &daemon.repository, places.as_ref());
        let seen = watch::Sender::new(Seen::default());
        let state = state::Keeper::start(&context, status.subscribe(), supervision.subscribe(), seen.subscribe());
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
        let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
        for task in [overlap, watching].into_iter().chain(copies) {
            task.abort();
        }
        crate::copies::settle(places.as_ref(), COPIES_WAIT).await;
        answering.finish();
        daemon.ledger.finish().await;
        state.finish().await;
        result
    }
}

/// Turns true on SIGTERM and SIGINT.
fn stop_signal() -> anyhow::Result<watch::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (sender, receiver) = watch::channel(false);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        let _ = sender.send(true);
        // Kept open so that waiters see `true`, not a closed channel.
        std::future::pending::<()>().await;
    });
    Ok(receiver)
}
