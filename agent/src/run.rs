//! `wal-agent run`: the daemon. Supervises the WAL lane, tells systemd, writes its state, ends in order.
//!
//! A crash here loses nothing: PostgreSQL keeps what was not confirmed, and the next start goes on from what the repository holds.

mod after_loss;
mod daemon;
mod holes;
mod lease;
mod ledger;
mod lineages;
mod loss;
mod others;
mod retained;
mod server;
mod slots;
mod state;
mod supervise;
mod synchronous;
mod watching;

use std::sync::Arc;

use after_loss::Losses;
use daemon::Daemon;
use ledger::Ledger;
use state::Supervision;
use store::keys::SigningKey;
use store::repository::Writer;
use store::retry::RetryPolicy;
use supervise::supervise;
use tokio::sync::watch;
use wal::lag::Lag;
use wal::receive::{Orders, StreamStatus};
use watching::{Seen, Watching};

use crate::open::{Context, current_lineage};

/// Runs the command.
pub async fn run(context: Context) -> anyhow::Result<()> {
    let context = Arc::new(context);
    let _alone = state::alone(&context)?;
    let keys = context.host_keys()?;
    let repository = context.repository(RetryPolicy::patient(), &keys).await?;
    let lineage = current_lineage(&context, &repository).await?;
    let signing = Arc::new(SigningKey::from_seed(keys.signing.seed().clone())?);
    let control = Arc::new(Writer::new(Arc::clone(&repository), Arc::clone(&signing), 0));
    let is_open = after_loss::is_open(&repository, lineage.id).await?;
    let mut daemon = Daemon {
        repository: Arc::clone(&repository),
        ledger: Ledger::start(Arc::clone(&control)),
        signing,
        control,
        inputs: None,
        removed_until: None,
        held: None,
        recipients: keys.recipients.into(),
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
    let (status_sender, status) = watch::channel(StreamStatus::default());
    let (supervision, supervised) = watch::channel(Supervision {
        lineage: daemon.lineage.id,
        error: None,
    });
    let mut stop = stop_signal()?;
    // Type=notify: from here on the agent does its work, whether the server is up yet or not.
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
    let seen = watch::Sender::new(Seen::default());
    let state = state::Keeper::start(&context, status.clone(), supervised.clone(), seen.subscribe());
    let overlap = lineages::keep_overlap(
        &context,
        &daemon.lineage,
        daemon.server.subscribe(),
        status.clone(),
        stop.clone(),
    )?;
    let watching = Watching {
        context: Arc::clone(&context),
        server: daemon.server.subscribe(),
        status,
        supervision: supervised,
        orders: daemon.orders.clone(),
        abandon: daemon.abandon.clone(),
        seen,
        ledger: daemon.ledger.clone(),
    };
    let watching = tokio::spawn(watching.run());
    let answering = after_loss::Answering {
        context: Arc::clone(&context),
        repository,
        losses: Arc::clone(&daemon.losses),
        orders: daemon.orders.clone(),
    };
    let answering = answering.start(stop.clone())?;
    let result = supervise(&context, &mut daemon, &status_sender, &supervision, &mut stop).await;
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
    for task in [overlap, watching] {
        task.abort();
    }
    answering.finish();
    daemon.ledger.finish().await;
    state.finish().await;
    result
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
