//! What keeps lineages apart: the companion slot that leaves something to compare with, and the birth of a new lineage.

use std::sync::Arc;
use std::time::Duration;

use pg::conninfo::ConnectOptions;
use pg::lsn::Lsn;
use pg::replication::{ReplicationSession, SlotName};
use pg::segment::{SegmentNumber, SegmentSize};
use store::StoreError;
use store::crash::{self, CrashPoint};
use store::envelope::Kind;
use store::id::LineageId;
use store::records::Lineage;
use store::repository::{NewObject, Repository, Writer};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wal::lane::{self, LaneEnd, LaneError, LaneInputs, Opened};
use wal::receive::{ReceiveOptions, StreamStatus};

use crate::exit::{self, Failure, OTHER_SERVER_HINT};
use crate::open::{Context, segment_size};
use crate::{init, output, sql};

/// Between two looks whether the companion slot may move.
const EVERY: Duration = Duration::from_secs(5);
/// Older lineages are not asked whether the server belongs to them.
const ASKED_MAX: usize = 8;

/// Moves the companion slot along, so that exactly the newest archived segment stays on the server.
pub fn keep_overlap(
    context: &Context,
    lineage: &Lineage,
    server: watch::Receiver<Option<ConnectOptions>>,
    status: watch::Receiver<StreamStatus>,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<JoinHandle<()>> {
    let size = segment_size(lineage)?;
    let slot = init::overlap_slot(&context.cluster.wal.slot);
    Ok(tokio::spawn(async move {
        let mut advanced = Lsn::ZERO;
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let archived = status.borrow().archived;
            let target = overlap_target(archived, size);
            let Some(connect) = server.borrow().clone().filter(|_| target > advanced) else {
                continue;
            };
            let moved = async { sql::advance_slot(&sql::connect(&connect).await?, &slot, target).await };
            match moved.await {
                Ok(()) => advanced = target,
                Err(error) => {
                    tracing::debug!(%error, slot = %slot, "the companion slot could not be moved; trying again")
                }
            }
        }
    }))
}

/// Start of the segment that holds the last archived byte.
fn overlap_target(archived: Lsn, size: SegmentSize) -> Lsn {
    match archived.as_u64().checked_sub(1) {
        Some(last) => size.start_of(SegmentNumber(last / size.bytes())),
        None => Lsn::ZERO,
    }
}

/// What the lane needs for a server and a lineage, as far as nothing is known of the slot and the server is a primary.
pub fn inputs(
    context: &Context,
    connect: &ConnectOptions,
    repository: &Arc<Repository>,
    lineage: Lineage,
) -> anyhow::Result<LaneInputs> {
    let wal = &context.cluster.wal;
    Ok(LaneInputs {
        connect: connect.clone(),
        slot: SlotName::new(&wal.slot)?,
        repository: Arc::clone(repository),
        lineage,
        options: ReceiveOptions {
            ship_interval: wal.ship_interval,
            tail_bytes_max: wal.tail_bytes_max.bytes(),
            memory_bytes_max: wal.memory_max.bytes(),
            shutdown_timeout: wal.shutdown_timeout,
        },
        uploads_in_flight: wal.uploads_in_flight,
        clock: Arc::new(output::now_us),
        slot_restart: None,
        slot_is_proof: false,
        removed_until: None,
        is_standby: false,
    })
}

/// What came of opening the lane in the lineage that the server belongs to.
pub enum Opening {
    /// It can be streamed from, with these inputs.
    Ready(Box<LaneInputs>, Box<Opened>),
    /// It cannot be continued.
    Ended(LaneEnd),
}

/// Opens the lane. The newest lineage need not be this server's: a clone that was started with our keys has begun it. So where the
/// newest does not fit, or nothing is archived of it yet, the others are asked; the comparison of the bytes decides.
pub async fn open(inputs: Box<LaneInputs>) -> anyhow::Result<Opening> {
    let opening = lane::open(&inputs).await;
    if let Ok(lane::Opening::Ready(opened)) = &opening
        && (!opened.is_fresh() || inputs.lineage.parent.is_none())
    {
        return ready(inputs, opening?);
    }
    let may_be_anothers = matches!(
        &opening,
        Ok(_)
            | Err(LaneError::Behind(_)) // a clone that is a standby's primary, perhaps
            | Err(LaneError::Store(StoreError::Foreign { .. })) // the server before an upgrade that was given up
    );
    if may_be_anothers && let Some((inputs, opened)) = continued(&inputs).await? {
        return Ok(Opening::Ready(inputs, opened));
    }
    ready(inputs, opening?)
}

fn ready(inputs: Box<LaneInputs>, opening: lane::Opening) -> anyhow::Result<Opening> {
    Ok(match opening {
        lane::Opening::Ready(opened) => Opening::Ready(inputs, opened),
        lane::Opening::Ended(end) => Opening::Ended(end),
    })
}

/// The newest other lineage whose archived WAL the server has, if any.
async fn continued(inputs: &LaneInputs) -> anyhow::Result<Option<(Box<LaneInputs>, Box<Opened>)>> {
    let mut others = inputs.repository.lineages().await?;
    others.retain(|other| other.id != inputs.lineage.id);
    others.sort_by_key(|other| std::cmp::Reverse(other.id));
    for lineage in others.into_iter().take(ASKED_MAX) {
        let inputs = Box::new(LaneInputs {
            lineage,
            // What is known of the slot is known for the other lineage.
            slot_is_proof: false,
            removed_until: None,
            ..inputs.clone()
        });
        match lane::open(&inputs).await {
            Ok(lane::Opening::Ready(opened)) if !opened.is_fresh() => return Ok(Some((inputs, opened))),
            Ok(_) | Err(LaneError::Behind(_)) => {}
            Err(error) => {
                let failure = anyhow::Error::from(error);
                // Who cannot be reached now is asked again: a lineage must not begin for that.
                if exit::code(&failure) == exit::UNREACHABLE {
                    return Err(failure);
                }
                // Another major version's or another cluster's before it; or one that cannot be read must not stand in the way.
                tracing::debug!(lineage = %inputs.lineage.id, error = %failure, "another lineage could not be compared");
            }
        }
    }
    Ok(None)
}

/// Begins a new lineage beside the old one, with what the server is: the cluster with this system identifier, or nothing is begun. Who asked
/// the server before may meet another one now. A base backup must follow.
pub async fn begin(
    server: &ConnectOptions,
    system_identifier: u64,
    writer: &Writer,
    old: &Lineage,
    reason: &str,
    archived: Lsn,
) -> anyhow::Result<Lineage> {
    let mut session = ReplicationSession::connect(server).await?;
    let identity = session.identify_system().await?;
    let found = identity.system_identifier.as_u64();
    if found != system_identifier {
        return Err(Failure::refused(
            format!("another server answers by now: its system identifier is {found}, and was {system_identifier}"),
            OTHER_SERVER_HINT,
        )
        .into());
    }
    let segment_bytes = session.segment_size().await?.bytes();
    let server_version = session.server_version().0;
    let _ = session.close().await;
    let now_us = output::now_us();
    // The newest is the one with the highest id, also when the clock was set back since.
    let now_ms = u64::try_from(now_us / 1000).unwrap_or(0);
    let id = LineageId::from_parts(now_ms.max(old.id.unix_ms() + 1), store::entropy::bytes()?);
    let lineage = Lineage {
        id,
        system_identifier: identity.system_identifier.as_u64(),
        server_version,
        segment_bytes,
        parent: Some(old.id),
        fork_lsn: Some(archived.as_u64()),
        reason: reason.to_owned(),
        created_us: now_us,
        timeline: identity.timeline.as_u32(),
        begin_lsn: identity.flush_lsn.as_u64(),
    };
    let plain = minicbor::to_vec(&lineage)?;
    let object = NewObject {
        lineage: Some(id),
        ..NewObject::metadata(Kind::Lineage, &plain, now_us)
    };
    writer.put(&writer.repository().layout().lineage(id)?, object).await?;
    crash::point(CrashPoint::AfterLineage);
    Ok(lineage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_companion_slot_keeps_the_segment_of_the_last_archived_byte() {
        let size = SegmentSize::new(1 << 20).unwrap();
        assert_eq!(overlap_target(Lsn::new(0x30_0000), size), Lsn::new(0x20_0000));
        assert_eq!(overlap_target(Lsn::new(0x30_0001), size), Lsn::new(0x30_0000));
        assert_eq!(overlap_target(Lsn::ZERO, size), Lsn::ZERO);
    }
}
