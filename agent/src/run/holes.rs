//! WAL that is lost is said to be lost: an object with the exact range, an alarm, and a new backup.

use pg::lsn::Lsn;
use pg::segment::{SegmentSize, WalFileName, segment_name};
use pg::timeline::TimelineId;
use store::StoreError;
use store::crash::{self, CrashPoint};
use store::envelope::Kind;
use store::records::{Lineage, LostWal};
use store::repository::{NewObject, Writer};
use tokio_postgres::Client;

use crate::open::host_name;
use crate::output;

/// Declares `[start, end)` lost. The same hole declared before is no error.
pub async fn declare(
    writer: &Writer,
    lineage: &Lineage,
    timeline: TimelineId,
    (start, end): (Lsn, Lsn),
    reason: &str,
) -> anyhow::Result<()> {
    if start >= end {
        return Ok(());
    }
    let lost = LostWal {
        lineage: lineage.id,
        timeline: timeline.as_u32(),
        start: start.as_u64(),
        end: end.as_u64(),
        reason: reason.to_owned(),
        found_us: output::now_us(),
        host: host_name(),
    };
    let plain = minicbor::to_vec(&lost)?;
    let object = NewObject {
        lineage: Some(lineage.id),
        ..NewObject::metadata(Kind::Hole, &plain, lost.found_us)
    };
    let name = writer.repository().layout().hole(&lost, writer.epoch())?;
    match writer.put(&name, object).await {
        // The time in it differs; the range is in the name.
        Ok(_) | Err(StoreError::Conflict { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    tracing::error!(
        timeline = lost.timeline, start = %start, end = %end, bytes = end.distance_from(start), %reason,
        "WAL is lost: a hole is declared. What was committed in it can be restored from the next backup only"
    );
    crash::point(CrashPoint::AfterHole);
    Ok(())
}

/// Where WAL behind `from` begins again on the server: its oldest segment of the timeline that is not older, else where the slot
/// holds WAL back. On a timeline that the server has left it is where it left it.
pub async fn next_available(
    client: &Client,
    size: SegmentSize,
    timeline: TimelineId,
    from: Lsn,
    slot_restart: Option<Lsn>,
) -> Option<Lsn> {
    let slot = slot_restart.filter(|restart| *restart > from);
    match oldest_segment(client, size, timeline, from).await {
        Ok(oldest) => oldest.or(slot),
        // Without pg_monitor the directory cannot be listed; the slot's promise is enough.
        Err(error) => {
            tracing::debug!(%error, "pg_wal cannot be listed");
            slot
        }
    }
}

async fn oldest_segment(
    client: &Client,
    size: SegmentSize,
    timeline: TimelineId,
    from: Lsn,
) -> Result<Option<Lsn>, tokio_postgres::Error> {
    // Segments of the future (recycled ones) are newer than the one being written, which is there.
    let row = client
        .query_one(
            "SELECT min(name) FROM pg_catalog.pg_ls_waldir() \
             WHERE name ~ '^[0-9A-F]{24}$' AND substr(name, 1, 8) = $1 AND name >= $2",
            &[&timeline.hex8(), &segment_name(timeline, size.segment_of(from), size)],
        )
        .await?;
    let name: Option<String> = row.get(0);
    Ok(match name.and_then(|name| WalFileName::parse(&name, size)) {
        Some(WalFileName::Segment { number, .. }) => Some(size.start_of(number).max(from)),
        _ => None,
    })
}
