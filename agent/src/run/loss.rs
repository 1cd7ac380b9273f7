//! What to do when WAL was lost, or the server's history is not the archived one: say it, record it, go on without splicing.

use std::time::{Duration, Instant};

use config::OnUnknownHistory;
use pg::lsn::Lsn;
use pg::timeline::TimelineId;
use tokio::sync::watch;
use wal::lane::{self, LaneEnd};

use super::daemon::Daemon;
use super::ledger::Event;
use super::{holes, lineages, others, slots};
use crate::exit::Failure;
use crate::open::{Context, segment_size};
use crate::sql;

/// How long the server may take to let a slot go that nobody streams from any more.
const LET_GO_MAX: Duration = Duration::from_secs(60);

/// Answers the end of a lane that cannot simply connect again.
pub async fn answer(context: &Context, daemon: &mut Daemon, end: LaneEnd) -> anyhow::Result<()> {
    // Who slept in between and was taken over has an old view: it must not begin anything.
    daemon.look().await?;
    match end {
        LaneEnd::Diverged { reason, archived } => {
            tracing::error!(%reason, lsn = %archived, lineage = %daemon.lineage.id, "the server's history is not the archived one");
            begin_lineage(context, daemon, &reason, archived).await?;
        }
        LaneEnd::Untied {
            reason,
            timeline,
            archived,
        } => {
            tracing::error!(%reason, lsn = %archived, lineage = %daemon.lineage.id, "the server's history cannot be tied to the archive");
            refuse_if_told(context, &reason)?;
            if !declare(context, daemon, timeline, archived, (&reason, false)).await?
                && daemon.is_filled(archived).await?
            {
                return Ok(());
            }
            begin_lineage(context, daemon, &reason, archived).await?;
        }
        LaneEnd::WalRemoved { timeline, from } => {
            let reason = "the server no longer had it when it was asked for";
            if !declare(context, daemon, timeline, from, (reason, true)).await? {
                return Ok(());
            }
        }
        LaneEnd::Stopped { .. } | LaneEnd::ServerClosed => return Ok(()),
    }
    daemon.losses.open(daemon.lineage.id);
    daemon.orders.send_modify(|orders| orders.loss_is_open = true);
    Ok(())
}

/// The operator may want to decide which history is right.
fn refuse_if_told(context: &Context, reason: &str) -> anyhow::Result<()> {
    if context.cluster.wal.on_unknown_history == OnUnknownHistory::NewLineage {
        return Ok(());
    }
    Err(Failure::refused(
        format!("the server's history is not the archived one: {reason}"),
        "Decide which history is right. With on_unknown_history = \"new-lineage\" the agent begins a new lineage beside the old one.",
    )
    .into())
}

async fn begin_lineage(context: &Context, daemon: &mut Daemon, reason: &str, archived: Lsn) -> anyhow::Result<()> {
    refuse_if_told(context, reason)?;
    let server = daemon.server(context)?;
    if let Some(held) = &daemon.held {
        held.fence.pass().await?;
    }
    let old = daemon.lineage.id;
    let system = daemon.lineage.system_identifier;
    daemon.lineage = lineages::begin(&server, system, &daemon.control, &daemon.lineage, reason, archived).await?;
    tracing::error!(
        lineage = %daemon.lineage.id,
        parent = %old,
        lsn = %archived,
        "a new lineage begins; the old one is kept. Take a base backup now: `wal-agent backup`"
    );
    daemon.ledger.note(
        Event::NewLineage,
        format!("lineage {} begins at {archived}: {reason}", daemon.lineage.id),
    );
    Ok(())
}

/// Declares what is missing between the archive's end and the oldest WAL that the server still has, unless another server has it;
/// true when something is lost. `is_proven`: the server has the archived history, and the same lineage goes on.
async fn declare(
    context: &Context,
    daemon: &mut Daemon,
    timeline: TimelineId,
    from: Lsn,
    (reason, is_proven): (&str, bool),
) -> anyhow::Result<bool> {
    let size = segment_size(&daemon.lineage)?;
    let client = sql::connect(&daemon.server(context)?).await?;
    let restart = sql::slot(&client, &context.cluster.wal.slot)
        .await?
        .and_then(|slot| slot.restart);
    let available = holes::next_available(&client, size, timeline, from, restart).await;
    // A new lineage begins where the slot holds WAL back; what lies before that is in neither.
    let begins = restart
        .filter(|_| !is_proven)
        .map(|restart| size.start_containing(restart));
    let Some(until) = available.max(begins) else {
        return Err(anyhow::anyhow!(
            "WAL behind {from} is gone from the server, and where it begins again cannot be seen"
        ));
    };
    let inputs = daemon
        .inputs
        .clone()
        .filter(|inputs| inputs.lineage.id == daemon.lineage.id);
    if let Some(inputs) = inputs.as_ref().filter(|_| context.has_other_servers()) {
        let held = daemon.hold().await?;
        others::fill_from(context, inputs, held, timeline, (from, until)).await?;
    }
    // Listed again: what could not be seen a moment ago is not lost. Nor does what is damaged count as being there.
    let coverage = match &inputs {
        Some(inputs) => lane::proven_coverage(inputs, size).await?,
        None => daemon.repository.coverage(daemon.lineage.id).await?,
    };
    daemon.removed_until = Some((timeline, until));
    let missing = coverage.undeclared(timeline, from, until);
    let writer = match &daemon.held {
        Some(held) => {
            held.fence.pass().await?;
            &held.writer
        }
        None => &daemon.control,
    };
    for (start, end) in &missing {
        holes::declare(writer, &daemon.lineage, timeline, (*start, *end), reason).await?;
        daemon.ledger.note(
            Event::Hole,
            format!("WAL from {start} to {end} on timeline {timeline} is lost: {reason}"),
        );
    }
    Ok(!missing.is_empty())
}

/// Drops the slot, so that the server's disk does not fill, and waits for the repository; then the lane may connect again.
pub async fn let_go(context: &Context, daemon: &Daemon, stop: &mut watch::Receiver<bool>) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let dropped = async { slots::drop_both(context, &sql::connect(&daemon.server(context)?).await?).await };
        match dropped.await {
            Ok(()) => break,
            // The server's sender needs a moment to see that we have left.
            Err(error) if begun.elapsed() < LET_GO_MAX => {
                tracing::debug!(%error, "the slot cannot be dropped yet");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(error),
        }
    }
    tracing::error!(
        slot = %context.cluster.wal.slot,
        "the slot was dropped so that the server's disk does not fill; WAL from here on is lost until the repository is back"
    );
    daemon
        .ledger
        .note(Event::SlotDropped, "retained_drop was passed".to_owned());
    daemon.abandon.send_replace(false);
    tokio::select! {
        back = daemon.look() => back?,
        _ = stop.wait_for(|stop| *stop) => return Ok(()),
    }
    tracing::info!("the repository is back");
    Ok(())
}
