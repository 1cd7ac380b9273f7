//! Keeps the lane running: connects again, answers what cannot simply be continued, and leaves when it must.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use store::StoreError;
use tokio::sync::watch;
use wal::lane::{LaneEnd, LaneInputs};
use wal::receive::{Orders, StreamStatus};

use super::daemon::Daemon;
use super::state::Supervision;
use super::{lineages, loss, server, slots, synchronous};
use crate::exit::Failure;
use crate::open::Context;
use crate::{exit, preflight, sql};

/// Pause before a reconnect: first and longest.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// How much longer than the stream's own limit a stop may take before the daemon leaves without it.
const LEAVE_MARGIN: Duration = Duration::from_secs(3);

/// Keeps the lane running until told to stop.
pub async fn supervise(
    context: &Context,
    daemon: &mut Daemon,
    status: &watch::Sender<StreamStatus>,
    supervision: &watch::Sender<Supervision>,
    stop: &mut watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut pause = RECONNECT.0;
    while !*stop.borrow() {
        let before = status.borrow().archived;
        let end = stream_or_leave(context, daemon, status, supervision, stop).await;
        if status.borrow().archived > before {
            pause = RECONNECT.0;
        }
        if daemon.control.refuse_revoked().is_err() {
            return Err(revoked());
        }
        match end {
            Ok(End::Lane(LaneEnd::Stopped { settled })) => {
                let archived = status.borrow().archived;
                if settled {
                    tracing::info!(lsn = %archived, "stopped; all that was received is archived");
                } else {
                    tracing::warn!(lsn = %archived, "stopped before all was archived; PostgreSQL keeps the rest for the next start");
                }
                return Ok(());
            }
            Ok(End::Lane(LaneEnd::ServerClosed)) => {
                tracing::warn!("the server closed the connection; reconnecting");
                not_streaming(supervision, "the server closed the connection");
            }
            Ok(End::Lane(lost)) => {
                not_streaming(supervision, "the archive cannot simply be continued; see the log");
                let answered = answer_or_leave(context, daemon, lost, stop).await;
                supervision.send_modify(|supervision| supervision.lineage = daemon.lineage.id);
                if let Err(failure) = &answered {
                    give_up_spoilt_name(failure, daemon).await?;
                }
                retry_or_leave(answered, supervision, stop).await?;
                // Also when nothing had to be done: what is found again and again must not be asked for without a pause.
                wait_or_stop(pause, stop).await;
                pause = (pause * 2).min(RECONNECT.1);
            }
            Ok(End::Abandoned) => {
                not_streaming(
                    supervision,
                    "the slot is dropped so that the server's disk does not fill; waiting for the repository",
                );
                let gone = loss::let_go(context, daemon, stop).await;
                retry_or_leave(gone, supervision, stop).await?;
            }
            Ok(End::TakenOver { by }) => {
                let epoch = daemon.held.as_ref().map_or(0, |held| held.writer.epoch());
                return Err(StoreError::TakenOver { epoch, by }.into());
            }
            Err(failure) if is_hopeless(&failure, daemon.has_connected) => return Err(failure),
            Err(failure) => {
                complain(&failure, supervision, pause);
                give_up_spoilt_name(&failure, daemon).await?;
                wait_or_stop(pause, stop).await;
                pause = (pause * 2).min(RECONNECT.1);
            }
        }
    }
    Ok(())
}

/// What we sign does not count any more. Who starts us again has us read the key file again.
fn revoked() -> anyhow::Error {
    Failure {
        code: exit::KEY,
        message: "this host's signing key was revoked: nothing is stored under it any more".into(),
        hint: Some(
            "The server keeps the WAL. With a host key that counts (`wal-agent key rotate host`, where the restore key is) start the agent again."
                .into(),
        ),
    }
    .into()
}

/// How one turn ended.
enum End {
    Lane(LaneEnd),
    /// The slot must go.
    Abandoned,
    TakenOver {
        by: u64,
    },
}

/// One connection's life, unless something ends it from outside. Leaving it at any moment loses nothing: the server keeps what was
/// not confirmed.
async fn stream_or_leave(
    context: &Context,
    daemon: &mut Daemon,
    status: &watch::Sender<StreamStatus>,
    supervision: &watch::Sender<Supervision>,
    stop: &mut watch::Receiver<bool>,
) -> anyhow::Result<End> {
    let (mut abandon, mut taken_over) = (daemon.abandon.subscribe(), daemon.taken_over.subscribe());
    let mut late = stop.clone();
    let patience = context.cluster.wal.shutdown_timeout + LEAVE_MARGIN;
    tokio::select! {
        end = connect_and_stream(context, daemon, status, supervision, stop) => end.map(End::Lane),
        Ok(_) = abandon.wait_for(|abandon| *abandon) => Ok(End::Abandoned),
        Ok(by) = next_holder(&mut taken_over) => Ok(End::TakenOver { by }),
        // A stream ends by itself when it is told to stop; what waits for server or store before there is one does not.
        () = async { let _ = late.wait_for(|stop| *stop).await; tokio::time::sleep(patience).await } => {
            Ok(End::Lane(LaneEnd::Stopped { settled: false }))
        }
    }
}

/// What a lane that cannot simply be continued needs, unless something ends it from outside. Leaving it at any moment loses nothing.
async fn answer_or_leave(
    context: &Context,
    daemon: &mut Daemon,
    lost: LaneEnd,
    stop: &mut watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let (mut abandon, mut taken_over) = (daemon.abandon.subscribe(), daemon.taken_over.subscribe());
    tokio::select! {
        answered = loss::answer(context, daemon, lost) => answered,
        _ = stop.wait_for(|stop| *stop) => Ok(()),
        // The next turn finds out.
        Ok(_) = abandon.wait_for(|abandon| *abandon) => Ok(()),
        Ok(_) = next_holder(&mut taken_over) => Ok(()),
    }
}

/// Only another epoch has other names, where one of ours is taken by something that is not what we sent. Who was taken over does not
/// take another.
async fn give_up_spoilt_name(failure: &anyhow::Error, daemon: &mut Daemon) -> anyhow::Result<()> {
    if daemon.held.is_some() && is_name_spoilt(failure) {
        if let Err(error @ StoreError::TakenOver { .. }) = daemon.look().await {
            return Err(error.into());
        }
        daemon.held = None;
    }
    Ok(())
}

async fn next_holder(taken_over: &mut watch::Receiver<Option<u64>>) -> anyhow::Result<u64> {
    let by = *taken_over.wait_for(Option::is_some).await?;
    by.context("nobody has taken over")
}

fn not_streaming(supervision: &watch::Sender<Supervision>, why: &str) {
    supervision.send_modify(|supervision| supervision.error = Some(why.to_owned()));
}

/// What failed on the way back to a stream is found again on the next turn, unless a person must decide.
async fn retry_or_leave(
    outcome: anyhow::Result<()>,
    supervision: &watch::Sender<Supervision>,
    stop: &mut watch::Receiver<bool>,
) -> anyhow::Result<()> {
    match outcome {
        Err(failure) if matches!(exit::code(&failure), exit::REFUSED | exit::TAKEN_OVER | exit::KEY) => Err(failure),
        Err(failure) => {
            complain(&failure, supervision, RECONNECT.1);
            wait_or_stop(RECONNECT.1, stop).await;
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

fn complain(failure: &anyhow::Error, supervision: &watch::Sender<Supervision>, pause: Duration) {
    let text = exit::describe(failure);
    supervision.send_modify(|supervision| supervision.error = Some(text));
    let causes = failure.chain().skip(1).map(ToString::to_string);
    let detail = causes.collect::<Vec<_>>().join(": ");
    let hint = exit::hint(failure).unwrap_or_default();
    let retry_ms = pause.as_millis();
    if exit::code(failure) == exit::UNREACHABLE {
        tracing::warn!(error = %failure, %detail, %hint, retry_ms, "not streaming; trying again");
    } else {
        tracing::error!(error = %failure, %detail, %hint, retry_ms, "the WAL lane failed; trying again");
    }
}

async fn connect_and_stream(
    context: &Context,
    daemon: &mut Daemon,
    status: &watch::Sender<StreamStatus>,
    supervision: &watch::Sender<Supervision>,
    stop: &mut watch::Receiver<bool>,
) -> anyhow::Result<LaneEnd> {
    // Everything of this turn goes to one server, also when the configuration names several.
    let (client, connect) = sql::choose(&context.connect_options()?).await?;
    let wal = &context.cluster.wal;
    if !daemon.has_connected {
        for warning in preflight::refuse_errors(&client, &connect).await? {
            tracing::warn!(problem = %warning.problem, hint = %warning.hint, "preflight");
        }
        slots::warn_of_orphans(context, &client).await?;
        if wal.degrade_after.is_some() {
            synchronous::may_degrade(&client, &connect.user, &connect.application_name).await?;
        }
    }
    let is_standby = sql::is_standby(&client).await?;
    let is_same_server = daemon.is_same_server(&connect);
    let (slot, is_new) = slots::ready(context, &client, &connect, &daemon.lineage, &daemon.ledger).await?;
    let look = server::look(&client, &wal.slot).await?;
    drop(client);
    let synchronous = synchronous::is_named(&look, &connect.application_name);
    daemon.orders.send_modify(|orders| {
        *orders = Orders {
            synchronous,
            loss_is_open: daemon.losses.is_open(),
            server_stops: false,
        };
    });
    daemon.server.send_replace(Some(connect.clone()));
    let inputs = LaneInputs {
        slot_restart: slot.and_then(|slot| slot.restart),
        slot_is_proof: daemon.has_connected && is_same_server && !is_new,
        removed_until: daemon.removed_until.filter(|_| is_same_server),
        is_standby,
        ..lineages::inputs(context, &connect, &daemon.repository, daemon.lineage.clone())?
    };
    daemon.inputs = Some(inputs.clone());
    let (inputs, opened) = match lineages::open(Box::new(inputs)).await? {
        lineages::Opening::Ready(inputs, opened) => (inputs, opened),
        lineages::Opening::Ended(end) => return Ok(end),
    };
    daemon.belong_to(&inputs.lineage, supervision).await?;
    daemon.inputs = Some((*inputs).clone());
    let held = daemon.hold().await?;
    let held = (Arc::clone(&held.writer), Arc::clone(&held.fence));
    supervision.send_modify(|supervision| supervision.error = None);
    daemon.has_connected = true;
    let orders = daemon.orders.subscribe();
    let stream = opened.stream(&inputs, (&held.0, &held.1), status, &mut daemon.lag, &orders, stop);
    Ok(stream.await?)
}

/// A name of ours is taken by something that is not what we sent.
fn is_name_spoilt(failure: &anyhow::Error) -> bool {
    failure.chain().any(|cause| {
        let error = cause.downcast_ref::<StoreError>();
        error.is_some_and(|error| error.damaged_object().is_some() || matches!(error, StoreError::Conflict { .. }))
    })
}

/// Trying again cannot help: a precondition does not hold, or this is another cluster's server or key.
fn is_hopeless(failure: &anyhow::Error, has_connected: bool) -> bool {
    let refused_by_us = !has_connected
        && failure
            .downcast_ref::<Failure>()
            .is_some_and(|failure| failure.code == exit::REFUSED);
    let foreign = failure
        .chain()
        .any(|cause| matches!(cause.downcast_ref(), Some(store::StoreError::Foreign { .. })));
    refused_by_us || foreign || matches!(exit::code(failure), exit::KEY | exit::TAKEN_OVER)
}

async fn wait_or_stop(pause: Duration, stop: &mut watch::Receiver<bool>) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}
