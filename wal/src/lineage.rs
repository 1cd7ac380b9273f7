//! Is the server at the other end still the one whose WAL we archive? Asked on every connect, before anything is uploaded.
//!
//! System identifier and timeline do not identify a history: a data directory that was rolled back to an older copy keeps both,
//! and stock tools splice its WAL into the archive without a word. So the newest archived WAL is read from the server once more
//! and compared by keyed digest; what does not compare begins a new lineage.

use pg::lsn::Lsn;
use pg::replication::{ReplicationError, ReplicationSession, StreamEvent, SystemIdentity};
use pg::segment::SegmentSize;
use pg::timeline::{TimelineHistory, TimelineId};
use store::StoreError;
use store::catalog::Coverage;
use store::envelope::Kind;
use store::layout::WalRange;
use store::limits::WAL_OBJECT_BYTES_MAX;
use store::records::Lineage;
use store::repository::Repository;

/// What is to be done, from names and identities alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// Nothing of this lineage is archived yet.
    Fresh,
    /// Go on behind `archived` on `timeline`.
    GoOn {
        /// The newest archived timeline.
        timeline: TimelineId,
        /// End of its WAL.
        archived: Lsn,
    },
    /// This timeline is archived up to where the server left it; go on with the server's.
    Switch {
        /// The newest archived timeline.
        from: TimelineId,
        /// Where the server's history left it.
        switch_point: Lsn,
    },
    /// A standby that has not got as far as the archive yet.
    Wait(String),
    /// The server has another history than the archive.
    Diverged(String),
}

/// Decides from the server's identity, its timeline history, what is archived and where the slot holds WAL back. Pure.
///
/// Uploads finish out of order, so after a crash an object can lie behind a missing one. What was confirmed is contiguous, and the
/// slot knows it: from there on the contiguous end counts, not the highest one. All that is archived is compared all the same.
#[must_use]
pub fn plan_resume(
    server: &SystemIdentity,
    is_standby: bool,
    history: &TimelineHistory,
    coverage: &Coverage,
    slot_restart: Option<Lsn>,
) -> Resume {
    let Some(timeline) = coverage.newest_timeline() else {
        return Resume::Fresh;
    };
    let Some(on_timeline) = coverage.timelines.get(&timeline) else {
        return Resume::Fresh;
    };
    let Some(highest) = on_timeline.end() else {
        return Resume::Fresh;
    };
    let archived = match slot_restart.filter(|restart| restart.is_valid() && *restart < highest) {
        Some(restart) => on_timeline.contiguous_end(restart).unwrap_or(restart),
        None => highest,
    };
    // Nor does a slot prove that there is no hole below it: it may have been made again since. What names show to be missing is asked
    // for once more; if the server does not have it either, it is declared lost then.
    let archived = coverage
        .first_undeclared_hole(timeline)
        .map_or(archived, |start| start.min(archived));
    // What was declared lost does not come again.
    let archived = coverage.behind_declared_hole(timeline, archived).unwrap_or(archived);
    if server.timeline == timeline {
        if server.flush_lsn < highest && is_standby {
            return Resume::Wait(format!(
                "the standby's WAL ends at {}, but {highest} is archived",
                server.flush_lsn
            ));
        }
        if server.flush_lsn < highest {
            return Resume::Diverged(format!(
                "the server's WAL ends at {} on timeline {timeline}, but {highest} is archived: it was rolled back",
                server.flush_lsn
            ));
        }
        return Resume::GoOn { timeline, archived };
    }
    if server.timeline < timeline && is_standby {
        return Resume::Wait(format!(
            "the standby is on timeline {}, but timeline {timeline} is archived",
            server.timeline
        ));
    }
    if server.timeline < timeline {
        return Resume::Diverged(format!(
            "the server is on timeline {}, but timeline {timeline} is archived",
            server.timeline
        ));
    }
    match history.switch_point_after(timeline) {
        Some(switch_point) if archived >= switch_point => Resume::Switch {
            from: timeline,
            switch_point,
        },
        Some(_) => Resume::GoOn { timeline, archived },
        None => Resume::Diverged(format!(
            "timeline {timeline} is archived, but is not in the history of the server's timeline {}",
            server.timeline
        )),
    }
}

/// What the comparison showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overlap {
    /// The server's bytes are the archived ones; the start of the last archived record and its end, if known.
    Same {
        /// Start and end of the last record in what was compared.
        last_record: Option<(Lsn, Lsn)>,
    },
    /// They differ.
    Different(String),
    /// The server does not have them any more.
    Gone(String),
}

/// Why a comparison could not be made.
#[derive(Debug, thiserror::Error)]
pub enum OverlapError {
    /// The connection failed.
    #[error("the newest archived WAL could not be read again from the server")]
    Replication(#[from] ReplicationError),
    /// The repository failed.
    #[error("the newest archived WAL could not be looked up in the repository")]
    Store(#[from] StoreError),
}

/// Reads the newest archived WAL of `timeline` before `until` from the server again, without a slot, and compares keyed digests:
/// up to 16 objects of the segment that holds the last archived byte, because the newest may be a lone record that any history has.
///
/// # Errors
/// The connection or the repository failed; nothing is known then.
pub async fn compare_overlap(
    session: ReplicationSession,
    repository: &Repository,
    coverage: &Coverage,
    timeline: TimelineId,
    until: Lsn,
    size: SegmentSize,
) -> Result<Overlap, OverlapError> {
    let ranges = newest_before(coverage, timeline, until, size);
    let (Some(start), Some(end)) = (
        ranges.iter().map(|range| range.start).min(),
        ranges.iter().map(|range| range.end).max(),
    ) else {
        return Ok(Overlap::Gone("nothing is archived".into()));
    };
    let mut headers = Vec::new();
    for range in ranges {
        let header = match repository.read_wal_header(&range, size).await {
            Err(error) if error.is_damage() => {
                tracing::error!(%error, "archived WAL is damaged; the server is compared with the rest");
                continue;
            }
            header => header?,
        };
        match header {
            Some(header) => headers.push((range, header)),
            // A tail that its whole range has replaced meanwhile.
            None if range.tail => {}
            None => {
                return Ok(Overlap::Gone(format!(
                    "the object of {} to {} vanished",
                    range.start, range.end
                )));
            }
        }
    }
    if headers.is_empty() {
        return Ok(Overlap::Gone("nothing of the newest archived WAL can be read".into()));
    }
    let bytes = match read_again(session, start, end, timeline).await {
        Ok(bytes) => bytes,
        Err(error) if error.is_wal_removed() => return Ok(Overlap::Gone(error.to_string())),
        Err(error) if error.is_ahead_of_server() || error.is_not_in_history() => {
            return Ok(Overlap::Different(error.to_string()));
        }
        Err(error) => return Err(error.into()),
    };
    let mut last_record = None;
    for (range, header) in &headers {
        let at = |lsn: Lsn| usize::try_from(lsn.distance_from(start)).unwrap_or(usize::MAX);
        let Some(part) = bytes.get(at(range.start)..at(range.end)) else {
            return Ok(Overlap::Different(format!(
                "the server has {} bytes from {start} on",
                bytes.len()
            )));
        };
        if repository.keys().digest(Kind::Wal.digest_kind(), part) != header.digest {
            return Ok(Overlap::Different(format!(
                "the server's WAL from {} to {} differs from the archived",
                range.start, range.end
            )));
        }
        let facts = header.wal.clone().unwrap_or_default();
        let record = facts.last_record.zip(facts.last_record_end);
        last_record = last_record.max(record.map(|(start, end)| (Lsn::new(start), Lsn::new(end))));
    }
    Ok(Overlap::Same { last_record })
}

/// Objects compared at most.
const COMPARED_MAX: usize = 16;

/// The newest objects that end at or before `until`, all of the segment that holds the last archived byte, within 16 MiB.
fn newest_before(coverage: &Coverage, timeline: TimelineId, until: Lsn, size: SegmentSize) -> Vec<WalRange> {
    let Some(on_timeline) = coverage.timelines.get(&timeline) else {
        return Vec::new();
    };
    let mut ranges: Vec<WalRange> = on_timeline
        .ranges
        .iter()
        .filter(|range| range.end <= until)
        .copied()
        .collect();
    // Newest end first; of those that end together the smaller one.
    ranges.sort_by(|a, b| b.end.cmp(&a.end).then(b.start.cmp(&a.start)));
    let Some(newest) = ranges.first().copied() else {
        return Vec::new();
    };
    let segment = size.start_containing(newest.start);
    let near = newest
        .end
        .as_u64()
        .saturating_sub(WAL_OBJECT_BYTES_MAX)
        .max(segment.as_u64());
    ranges.retain(|range| range.start.as_u64() >= near);
    ranges.truncate(COMPARED_MAX);
    ranges
}

async fn read_again(
    session: ReplicationSession,
    start: Lsn,
    end: Lsn,
    timeline: TimelineId,
) -> Result<Vec<u8>, ReplicationError> {
    let mut stream = session.start_physical(None, start, timeline).await?;
    let wanted = usize::try_from(end.distance_from(start)).unwrap_or(usize::MAX);
    let mut bytes: Vec<u8> = Vec::with_capacity(wanted);
    while bytes.len() < wanted {
        match stream.next().await? {
            StreamEvent::Wal { data, .. } => {
                let room = wanted - bytes.len();
                bytes.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
            }
            StreamEvent::Keepalive { .. } => {}
            StreamEvent::TimelineEnded { .. } => break,
            // Says nothing about the bytes.
            StreamEvent::ServerClosed => return Err(ReplicationError::Closed),
        }
    }
    Ok(bytes)
}

/// Refuses a server that cannot be this lineage's: another cluster, another major version, another segment size.
///
/// # Errors
/// What differs, as [`StoreError::Foreign`].
pub fn check_identity(
    lineage: &Lineage,
    server: &SystemIdentity,
    major: u32,
    size: SegmentSize,
) -> Result<(), StoreError> {
    let foreign = |what, expected: String, found: String| Err(StoreError::Foreign { what, expected, found });
    if server.system_identifier.as_u64() != lineage.system_identifier {
        return foreign(
            "the server's system identifier",
            lineage.system_identifier.to_string(),
            server.system_identifier.to_string(),
        );
    }
    if major != lineage.server_version / 10_000 {
        return foreign(
            "the server's major version",
            (lineage.server_version / 10_000).to_string(),
            major.to_string(),
        );
    }
    if size.bytes() != lineage.segment_bytes {
        return foreign(
            "the WAL segment size",
            lineage.segment_bytes.to_string(),
            size.bytes().to_string(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use store::id::LineageId;

    use super::*;

    fn timeline(id: u32) -> TimelineId {
        TimelineId::new(id).unwrap()
    }

    fn server(id: u32, flush: u64) -> SystemIdentity {
        SystemIdentity {
            system_identifier: pg::identity::SystemIdentifier(7),
            timeline: timeline(id),
            flush_lsn: Lsn::new(flush),
        }
    }

    fn archived(id: u32, end: u64) -> Coverage {
        let range = WalRange {
            lineage: LineageId::default(),
            timeline: timeline(id),
            start: Lsn::new(0x100),
            end: Lsn::new(end),
            epoch: 1,
            tail: false,
        };
        Coverage::of_ranges(LineageId::default(), [range])
    }

    fn history(of: u32, left: u32, at: u64) -> TimelineHistory {
        let text = format!("{left}\t{}\tno reason\n", Lsn::new(at));
        TimelineHistory::parse(timeline(of), text.as_bytes()).unwrap()
    }

    #[test]
    fn a_primary_behind_the_archive_was_rolled_back_and_a_standby_is_waited_for() {
        let root = TimelineHistory::root(timeline(1));
        assert!(matches!(
            plan_resume(&server(1, 0x200), false, &root, &archived(1, 0x300), None),
            Resume::Diverged(_)
        ));
        assert!(matches!(
            plan_resume(&server(1, 0x200), true, &root, &archived(1, 0x300), None),
            Resume::Wait(_)
        ));
        assert!(matches!(
            plan_resume(&server(1, 0x300), false, &root, &archived(1, 0x300), None),
            Resume::GoOn { .. }
        ));
    }

    #[test]
    fn behind_a_missing_object_nothing_counts_as_archived() {
        let range = |start, end| WalRange {
            lineage: LineageId::default(),
            timeline: timeline(1),
            start: Lsn::new(start),
            end: Lsn::new(end),
            epoch: 1,
            tail: false,
        };
        let coverage = Coverage::of_ranges(LineageId::default(), [range(0x100, 0x200), range(0x300, 0x400)]);
        let root = TimelineHistory::root(timeline(1));
        let resume = |slot| plan_resume(&server(1, 0x500), false, &root, &coverage, Some(Lsn::new(slot)));
        let go_on = |archived| Resume::GoOn {
            timeline: timeline(1),
            archived: Lsn::new(archived),
        };
        assert_eq!(resume(0x200), go_on(0x200), "the slot holds the missing WAL");
        assert_eq!(resume(0x180), go_on(0x200));
        assert_eq!(resume(0x80), go_on(0x80), "not even the first object came");
        assert_eq!(resume(0x380), go_on(0x200), "the hole is asked for again, or declared");
        assert_eq!(resume(0x400), go_on(0x200), "a slot that was made again proves nothing");
        let rolled_back = plan_resume(&server(1, 0x380), false, &root, &coverage, Some(Lsn::new(0x200)));
        assert!(
            matches!(rolled_back, Resume::Diverged(_)),
            "all that is archived counts for a rollback"
        );
    }

    #[test]
    fn the_stream_goes_on_behind_a_declared_hole() {
        let mut coverage = archived(1, 0x300);
        coverage.add_hole(store::catalog::Hole {
            timeline: timeline(1),
            start: Lsn::new(0x300),
            end: Lsn::new(0x800),
        });
        let root = TimelineHistory::root(timeline(1));
        let resume = |slot: Option<u64>| plan_resume(&server(1, 0x900), false, &root, &coverage, slot.map(Lsn::new));
        let behind = Resume::GoOn {
            timeline: timeline(1),
            archived: Lsn::new(0x800),
        };
        assert_eq!(resume(None), behind);
        assert_eq!(resume(Some(0x800)), behind);
        assert_eq!(
            resume(Some(0x200)),
            behind,
            "also with a slot that was made again too far back"
        );
    }

    #[test]
    fn a_timeline_is_followed_only_along_the_servers_history() {
        let child = history(2, 1, 0x300);
        let switch = Resume::Switch {
            from: timeline(1),
            switch_point: Lsn::new(0x300),
        };
        assert_eq!(
            plan_resume(&server(2, 0x400), false, &child, &archived(1, 0x300), None),
            switch
        );
        assert_eq!(
            plan_resume(&server(2, 0x400), false, &child, &archived(1, 0x380), None),
            switch,
            "both branches are kept"
        );
        assert!(matches!(
            plan_resume(&server(2, 0x400), false, &child, &archived(1, 0x280), None),
            Resume::GoOn { .. }
        ));
        let stranger = history(5, 4, 0x300);
        assert!(matches!(
            plan_resume(&server(5, 0x400), false, &stranger, &archived(3, 0x280), None),
            Resume::Diverged(_)
        ));
    }
}
