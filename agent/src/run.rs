//! `wal-agent run`: the daemon. Supervises the WAL lane, tells systemd, writes its state, ends in order.
//!
//! A crash here loses nothing: PostgreSQL keeps what was not confirmed, and the next start goes on from what the repository holds.

mod lineages;
mod state;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use config::OnUnknownHistory;
use pg::conninfo::ConnectOptions;
use pg::replication::{ReplicationSession, SlotName};
use state::Supervision;
use store::crash::{self, CrashPoint};
use store::envelope::Kind;
use store::keys::Recipient;
use store::keys::file::HostKeys;
use store::object::list_all;
use store::records::{Lease, Lineage};
use store::repository::{NewObject, Put, Repository, Writer};
use store::retry::RetryPolicy;
use tokio::sync::watch;
use wal::lag::Lag;
use wal::lane::{LaneEnd, LaneInputs};
use wal::receive::{ReceiveOptions, StreamStatus};

use crate::exit::Failure;
use crate::open::{Context, current_lineage, host_name};
use crate::{exit, init, output, preflight, sql};

/// Pause before a reconnect: first and longest.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// Attempts to take the next writer epoch when others take it at the same time.
const LEASE_ATTEMPTS: u32 = 16;

struct Daemon {
    writer: Arc<Writer>,
    recipients: Arc<[Recipient]>,
    lineage: Lineage,
}

/// Runs the command.
pub async fn run(context: &Context) -> anyhow::Result<()> {
    let _alone = state::alone(context)?;
    let keys = context.host_keys()?;
    let repository = context.repository(RetryPolicy::patient(), &keys).await?;
    let lineage = current_lineage(&repository).await?;
    let writer = Arc::new(take_epoch(&repository, &keys).await?);
    let mut daemon = Daemon {
        writer,
        recipients: keys.recipients.into(),
        lineage,
    };
    tracing::info!(epoch = daemon.writer.epoch(), lineage = %daemon.lineage.id, "agent started");
    let (status_sender, status) = watch::channel(StreamStatus::default());
    let (supervision, supervised) = watch::channel(Supervision {
        lineage: daemon.lineage.id,
        error: None,
    });
    let mut stop = stop_signal()?;
    // Type=notify: from here on the agent does its work, whether the server is up yet or not.
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
    let state = state::Keeper::start(context, status.clone(), supervised);
    let overlap = lineages::keep_overlap(context, &daemon.lineage, status.clone(), stop.clone())?;
    let result = supervise(context, &mut daemon, &status_sender, &supervision, &mut stop).await;
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
    overlap.abort();
    state.finish().await;
    result
}

/// Keeps the lane running until told to stop.
async fn supervise(
    context: &Context,
    daemon: &mut Daemon,
    status: &watch::Sender<StreamStatus>,
    supervision: &watch::Sender<Supervision>,
    stop: &mut watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut lag = Lag::default();
    let mut pause = RECONNECT.0;
    let mut has_connected = false;
    while !*stop.borrow() {
        let before = status.borrow().archived;
        let end = connect_and_stream(context, daemon, status, supervision, &mut lag, stop, &mut has_connected).await;
        if status.borrow().archived > before {
            pause = RECONNECT.0;
        }
        match end {
            Ok(LaneEnd::Stopped { settled }) => {
                let archived = status.borrow().archived;
                if settled {
                    tracing::info!(lsn = %archived, "stopped; all that was received is archived");
                } else {
                    tracing::warn!(lsn = %archived, "stopped before all was archived; PostgreSQL keeps the rest for the next start");
                }
                return Ok(());
            }
            Ok(LaneEnd::ServerClosed) => tracing::warn!("the server closed the connection; reconnecting"),
            Ok(LaneEnd::Diverged { reason, archived }) => {
                tracing::error!(%reason, lsn = %archived, lineage = %daemon.lineage.id, "the server's history is not the archived one");
                if context.cluster.wal.on_unknown_history == OnUnknownHistory::Stop {
                    return Err(Failure::refused(
                        format!("the server's history is not the archived one: {reason}"),
                        "Decide which history is right. With on_unknown_history = \"new-lineage\" the agent begins a new lineage beside the old one.",
                    )
                    .into());
                }
                daemon.lineage = lineages::begin(context, &daemon.writer, &daemon.lineage, &reason, archived).await?;
                supervision.send_modify(|supervision| supervision.lineage = daemon.lineage.id);
            }
            Err(failure) if is_hopeless(&failure, has_connected) => return Err(failure),
            Err(failure) => {
                let text = exit::describe(&failure);
                supervision.send_modify(|supervision| supervision.error = Some(text));
                let detail = failure
                    .chain()
                    .skip(1)
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(": ");
                let hint = exit::hint(&failure).unwrap_or_default();
                let retry_ms = pause.as_millis();
                if exit::code(&failure) == exit::UNREACHABLE {
                    tracing::warn!(error = %failure, %detail, %hint, retry_ms, "not streaming; trying again");
                } else {
                    tracing::error!(error = %failure, %detail, %hint, retry_ms, "the WAL lane failed; trying again");
                }
                wait_or_stop(pause, stop).await;
                pause = (pause * 2).min(RECONNECT.1);
            }
        }
    }
    Ok(())
}

async fn connect_and_stream(
    context: &Context,
    daemon: &Daemon,
    status: &watch::Sender<StreamStatus>,
    supervision: &watch::Sender<Supervision>,
    lag: &mut Lag,
    stop: &mut watch::Receiver<bool>,
    has_connected: &mut bool,
) -> anyhow::Result<LaneEnd> {
    let connect = context.connect_options()?;
    let slot_name = &context.cluster.wal.slot;
    let client = sql::connect(&connect).await?;
    if !*has_connected {
        for warning in preflight::refuse_errors(&client, &connect).await? {
            tracing::warn!(problem = %warning.problem, hint = %warning.hint, "preflight");
        }
    }
    let is_standby = sql::is_standby(&client).await?;
    let mut slot = sql::slot(&client, slot_name).await?;
    if slot.is_none() {
        create_slots_again(context, &connect, &daemon.lineage).await?;
        slot = sql::slot(&client, slot_name).await?;
    }
    drop(client);
    let wal = &context.cluster.wal;
    let inputs = LaneInputs {
        connect,
        slot: SlotName::new(slot_name)?,
        writer: Arc::clone(&daemon.writer),
        recipients: Arc::clone(&daemon.recipients),
        lineage: daemon.lineage.clone(),
        options: ReceiveOptions {
            ship_interval: wal.ship_interval,
            tail_bytes_max: wal.tail_bytes_max.bytes(),
            memory_bytes_max: wal.memory_max.bytes(),
            shutdown_timeout: wal.shutdown_timeout,
        },
        uploads_in_flight: wal.uploads_in_flight,
        clock: Arc::new(output::now_us),
        slot_restart: slot.and_then(|slot| slot.restart),
        is_standby,
    };
    supervision.send_modify(|supervision| supervision.error = None);
    *has_connected = true;
    Ok(wal::lane::run(&inputs, status, lag, stop).await?)
}

/// On this cluster's server only: on another one the slots would hold WAL back for ever.
async fn create_slots_again(context: &Context, connect: &ConnectOptions, lineage: &Lineage) -> anyhow::Result<()> {
    let mut session = ReplicationSession::connect(connect)
        .await
        .context("cannot open a replication connection")?;
    let found = session.identify_system().await?.system_identifier.as_u64();
    if found != lineage.system_identifier {
        return Err(store::StoreError::Foreign {
            what: "the server's system identifier",
            expected: lineage.system_identifier.to_string(),
            found: found.to_string(),
        }
        .into());
    }
    tracing::error!(
        slot = %context.cluster.wal.slot,
        "the slot is missing; creating it again. WAL that was removed meanwhile is lost"
    );
    init::create_slots(context, connect).await?;
    crash::point(CrashPoint::AfterSlot);
    Ok(())
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
    refused_by_us || foreign || exit::code(failure) == exit::KEY
}

async fn wait_or_stop(pause: Duration, stop: &mut watch::Receiver<bool>) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Takes the next writer epoch: a lease that only one can create.
async fn take_epoch(repository: &Arc<Repository>, keys: &HostKeys) -> anyhow::Result<Writer> {
    let signing = Arc::new(store::keys::SigningKey::from_seed(keys.signing.seed().clone())?);
    let control = Writer::new(Arc::clone(repository), Arc::clone(&signing), 0);
    let prefix = repository.layout().prefix("leases");
    for _ in 0..LEASE_ATTEMPTS {
        let leases = list_all(repository.store().as_ref(), &prefix).await?;
        let taken = leases
            .iter()
            .filter_map(|meta| u64::from_str_radix(meta.name.file_name(), 16).ok())
            .max()
            .unwrap_or(0);
        let lease = Lease {
            epoch: taken + 1,
            host: host_name(),
            taken_us: output::now_us(),
            after: None,
        };
        let plain = minicbor::to_vec(&lease)?;
        let name = repository.layout().lease(lease.epoch)?;
        match control
            .put(&name, NewObject::metadata(Kind::Lease, &plain, lease.taken_us))
            .await
        {
            Ok(Put::Created) => {
                crash::point(CrashPoint::AfterLease);
                return Ok(Writer::new(Arc::clone(repository), signing, lease.epoch));
            }
            Ok(Put::Same) | Err(store::StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error).context("cannot take a writer epoch"),
        }
    }
    Err(Failure::refused(
        "other agents keep taking the writer epoch",
        "Run one agent for a cluster.",
    )
    .into())
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
