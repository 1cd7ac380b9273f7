//! Where a connection's stream begins: behind what is archived, once the server has proven that its WAL is the archived one.

use pg::lsn::Lsn;
use pg::replication::{ReplicationSession, SystemIdentity};
use pg::segment::SegmentSize;
use pg::timeline::{TimelineHistory, TimelineId};
use store::catalog::Coverage;

use super::{LaneEnd, LaneError, LaneInputs};
use crate::lineage::{Overlap, Resume, compare_overlap, plan_resume};

/// Where to begin.
pub(super) struct Start {
    /// On this timeline.
    pub(super) timeline: TimelineId,
    /// First byte to stream: the start of a segment.
    pub(super) from: Lsn,
    /// End of what is archived already.
    pub(super) floor: Lsn,
    /// Start of the record before `from`, if known.
    pub(super) previous: Option<Lsn>,
}

impl Start {
    pub(super) fn new(timeline: TimelineId, from: Lsn, floor: Lsn) -> Self {
        Start {
            timeline,
            from,
            floor,
            previous: None,
        }
    }
}

/// Where to begin; or why the server's history is not ours, and where ours ends.
pub(super) async fn find(
    inputs: &LaneInputs,
    server: &SystemIdentity,
    history: &TimelineHistory,
    coverage: &Coverage,
    size: SegmentSize,
) -> Result<Result<Start, LaneEnd>, LaneError> {
    let plan = plan_resume(
        server,
        inputs.is_standby,
        history,
        coverage,
        inputs.slot_restart,
        inputs.removed_until,
    );
    let (timeline, archived, start) = match plan {
        Resume::Fresh => {
            let slot = inputs.slot_restart.filter(|lsn| lsn.is_valid());
            let from = size.start_containing(slot.unwrap_or(server.flush_lsn));
            return Ok(Ok(Start::new(server.timeline, from, Lsn::ZERO)));
        }
        Resume::Wait(reason) => return Err(LaneError::Behind(reason)),
        Resume::Diverged(reason) => {
            let archived = coverage.newest_end().unwrap_or(Lsn::ZERO);
            return Ok(Err(LaneEnd::Diverged { reason, archived }));
        }
        Resume::GoOn { timeline, archived } => {
            let from = size.start_containing(archived);
            (timeline, archived, Start::new(timeline, from, archived))
        }
        Resume::Switch { from, switch_point } => {
            // Not the server's timeline at once: others may lie in between.
            let next = history.timeline_at(switch_point);
            let begin = size.start_containing(switch_point);
            (from, switch_point, Start::new(next, begin, switch_point))
        }
    };
    let overlap_session = ReplicationSession::connect(&inputs.connect).await?;
    let repository = &inputs.repository;
    // All that is archived of the way that the server went, also what lies behind a missing object.
    let until = history.switch_point_after(timeline).unwrap_or(Lsn::new(u64::MAX));
    Ok(
        match compare_overlap(overlap_session, repository, coverage, timeline, until, size).await? {
            Overlap::Same { last_record } => {
                let previous = last_record.and_then(|(record, end)| (end == start.from).then_some(record));
                Ok(Start { previous, ..start })
            }
            Overlap::Different(reason) => Err(LaneEnd::Diverged { reason, archived }),
            Overlap::Gone(reason) => Err(LaneEnd::Untied {
                reason: format!("nothing is left on the server to compare with: {reason}"),
                timeline: start.timeline,
                archived,
            }),
        },
    )
}
