//! What keeps lineages apart: the companion slot that leaves something to compare with, and the birth of a new lineage.

use std::time::Duration;

use anyhow::Context as _;
use pg::conninfo::ConnectOptions;
use pg::lsn::Lsn;
use pg::replication::ReplicationSession;
use pg::segment::{SegmentNumber, SegmentSize};
use store::crash::{self, CrashPoint};
use store::envelope::Kind;
use store::id::LineageId;
use store::records::Lineage;
use store::repository::{NewObject, Writer};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wal::lane::{self, LaneEnd, LaneError, LaneInputs, Opened};
use wal::receive::StreamStatus;

use crate::open::Context;
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
    let size = SegmentSize::new(lineage.segment_bytes).context("the lineage's segment size makes no sense")?;
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
        Ok(_) | Err(LaneError::Behind(_)) // a clone that is a standby's primary, perhaps
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
            // Another major version's or another cluster's before it; or one that cannot be read must not stand in the way.
            Err(error) => {
                tracing::debug!(lineage = %inputs.lineage.id, %error, "another lineage could not be compared")
            }
        }
    }
    Ok(None)
}

/// Begins a new lineage beside the old one. Loud; a base backup must follow.
pub async fn begin(
    server: &ConnectOptions,
    writer: &Writer,
    old: &Lineage,
    reason: &str,
    archived: Lsn,
) -> anyhow::Result<Lineage> {
    let mut session = ReplicationSession::connect(server).await?;
    let identity = session.identify_system().await?;
    let now_us = output::now_us();
    // The newest is the one with the highest id, also when the clock was set back since.
    let now_ms = u64::try_from(now_us / 1000).unwrap_or(0);
    let id = LineageId::from_parts(now_ms.max(old.id.unix_ms() + 1), store::entropy::bytes()?);
    let lineage = Lineage {
        id,
        parent: Some(old.id),
        fork_lsn: Some(archived.as_u64()),
        reason: reason.to_owned(),
        created_us: now_us,
        timeline: identity.timeline.as_u32(),
        begin_lsn: identity.flush_lsn.as_u64(),
        ..old.clone()
    };
    let plain = minicbor::to_vec(&lineage)?;
    let object = NewObject {
        lineage: Some(id),
        ..NewObject::metadata(Kind::Lineage, &plain, now_us)
    };
    writer.put(&writer.repository().layout().lineage(id)?, object).await?;
    crash::point(CrashPoint::AfterLineage);
    tracing::error!(
        lineage = %id,
        parent = %old.id,
        lsn = %archived,
        "a new lineage begins; the old one is kept. Take a base backup now: `wal-agent backup`"
    );
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
