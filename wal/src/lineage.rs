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
    removed_until: Option<(TimelineId, Lsn)>,
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
    // What was declared lost may be here all the same: who declared it may have been another server. Only what this one has been asked
    // for and had removed is gone on behind.
    let gone = removed_until.filter(|(of, until)| *of == timeline && *until <= server.flush_lsn);
    let archived = match (gone, coverage.behind_declared_hole(timeline, archived)) {
        (Some((_, until)), Some(behind)) if behind <= until => behind,
        _ => archived,
    };
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
            Err(error) if error.is_untrusted() => {
                tracing::error!(%error, "archived WAL is damaged, or does not count; the server is compared with the rest");
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
mod tests;
