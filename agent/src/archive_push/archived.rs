//! What is archived of a segment and right before it, from names and headers; and what of a file is still missing.
//!
//! Nothing archived has to be decrypted: headers carry keyed digests, and those are compared with digests of the file's bytes.

use std::sync::Arc;

use pg::lsn::Lsn;
use pg::segment::{SegmentNumber, SegmentSize, segment_name};
use pg::timeline::{TimelineHistory, TimelineId};
use store::StoreError;
use store::catalog::Coverage;
use store::envelope::{Header, WalFacts};
use store::id::LineageId;
use store::layout::{Lane, WalName, WalRange};
use store::object::list_all;
use store::repository::Repository;
use tokio::task::JoinSet;
use wal::segment_file::SegmentFile;

use super::error::PushError;
use super::file::{Planned, Verified};

/// Headers read at a time.
const HEADERS_IN_FLIGHT: usize = 8;
/// How often a segment is listed again because a tail was replaced meanwhile.
const LISTINGS_MAX: u32 = 5;

/// What the repository holds.
#[derive(Debug)]
pub(super) struct Archived {
    /// Of the segment, on its timeline.
    ranges: Vec<WalRange>,
    /// Headers of what can be compared with the file, also of the timelines that the segment's one came from.
    headers: Vec<(WalRange, Header)>,
    /// Where the WAL of the segment before ends, and what its last object says.
    pub(super) before: Option<(Lsn, WalFacts)>,
}

/// Where to look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) repository: &'a Arc<Repository>,
    pub(super) lineage: LineageId,
    pub(super) size: SegmentSize,
    pub(super) history: &'a TimelineHistory,
}

impl Archived {
    /// Looks up everything that the file can be held against; of the file itself the part up to `planned_end` counts.
    pub(super) async fn look(place: Place<'_>, segment: &SegmentFile, planned_end: Lsn) -> Result<Self, PushError> {
        for _ in 0..LISTINGS_MAX {
            if let Some(archived) = Self::look_once(place, segment, planned_end).await? {
                return Ok(archived);
            }
        }
        Err(PushError::Stopped("list what is archived"))
    }

    /// `None` when a tail was listed and is gone: its whole range has replaced it.
    async fn look_once(place: Place<'_>, segment: &SegmentFile, planned_end: Lsn) -> Result<Option<Self>, PushError> {
        let (ranges, before) = tokio::try_join!(
            place.list(segment.timeline(), segment.number()),
            place.list_before(segment)
        )?;
        let mut comparable = comparable(&ranges, planned_end);
        for (ancestor, until) in ancestors(place.history, segment) {
            let shared = place.list(ancestor, segment.number()).await?;
            comparable.extend(self::comparable(&shared, until.min(planned_end)));
        }
        let last = before
            .into_iter()
            .max_by_key(|range| (range.end, !range.tail, range.epoch));
        let Some(headers) = place.headers(comparable).await? else {
            return Ok(None);
        };
        let before = match last {
            None => None,
            Some(last) => match place.repository.read_wal_header(&last, place.size).await? {
                Some(header) => Some((last.end, header.wal.unwrap_or_default())),
                None => return Ok(None),
            },
        };
        Ok(Some(Archived {
            ranges,
            headers,
            before,
        }))
    }

    /// Insists that what is archived is what the file holds.
    pub(super) fn compare(&self, repository: &Repository, file: &Verified) -> Result<(), PushError> {
        for (range, header) in &self.headers {
            if file.digest(repository.keys(), range)? != header.digest {
                return Err(PushError::Conflict {
                    start: range.start,
                    end: range.end,
                    object: repository.layout().wal(range, file.segment.size())?.to_string(),
                });
            }
        }
        Ok(())
    }

    /// The pieces that are not archived yet: a whole range only by whole objects, so that the segment becomes complete.
    pub(super) fn missing<'a>(&self, pieces: &'a [Planned]) -> impl Iterator<Item = &'a Planned> {
        let cover = |tails: bool| {
            let counted = self.ranges.iter().filter(|range| tails || !range.tail).copied();
            Coverage::of_ranges(LineageId::default(), counted)
        };
        let (wholes, all) = (cover(false), cover(true));
        pieces.iter().filter(move |piece| {
            let range = &piece.range;
            let coverage = if range.tail { &all } else { &wholes };
            let of_timeline = coverage.timelines.get(&range.timeline);
            of_timeline.is_none_or(|there| there.cover(range.start, range.end).is_none())
        })
    }
}

/// Timelines that the segment's one came from within the segment, and where each was left.
fn ancestors(history: &TimelineHistory, segment: &SegmentFile) -> Vec<(TimelineId, Lsn)> {
    let spans = history.ancestry().into_iter();
    spans
        .filter_map(|(timeline, begin, end)| {
            let end = end.filter(|end| *end > segment.start() && begin < segment.end())?;
            Some((timeline, end))
        })
        .collect()
}

/// What to compare: all whole objects, and the tails that nothing else contains (each second of a quiet server makes one).
fn comparable(ranges: &[WalRange], until: Lsn) -> Vec<WalRange> {
    let within: Vec<WalRange> = ranges.iter().filter(|range| range.end <= until).copied().collect();
    let contains = |outer: &WalRange, inner: &WalRange| {
        let same = (outer.start, outer.end) == (inner.start, inner.end);
        outer.start <= inner.start && inner.end <= outer.end && (!same || !outer.tail)
    };
    let kept = |range: &&WalRange| !range.tail || !within.iter().any(|other| contains(other, range));
    within.iter().filter(kept).copied().collect()
}

impl Place<'_> {
    /// Objects and tails of a segment on a timeline, of all epochs.
    async fn list(&self, timeline: TimelineId, number: SegmentNumber) -> Result<Vec<WalRange>, PushError> {
        let layout = self.repository.layout();
        let segment = segment_name(timeline, number, self.size);
        let store = self.repository.store().as_ref();
        let prefix = |lane| layout.segment_prefix(lane, self.lineage, timeline, &segment);
        let (wholes, tails) = (prefix(Lane::Wal), prefix(Lane::Tail));
        let (wholes, tails) =
            tokio::try_join!(list_all(store, &wholes), list_all(store, &tails)).map_err(StoreError::from)?;
        let range = |name: &str| match layout.parse_wal(name) {
            Some(WalName::Range(range)) => Some(range),
            _ => None,
        };
        Ok(wholes
            .iter()
            .chain(&tails)
            .filter_map(|meta| range(meta.name.as_str()))
            .collect())
    }

    /// The same of the segment before, on the timeline that it belongs to.
    async fn list_before(&self, segment: &SegmentFile) -> Result<Vec<WalRange>, PushError> {
        match segment.previous() {
            None => Ok(Vec::new()),
            Some(number) => self.list(timeline_before(self.history, segment), number).await,
        }
    }

    async fn headers(&self, ranges: Vec<WalRange>) -> Result<Option<Vec<(WalRange, Header)>>, PushError> {
        let mut headers = Vec::with_capacity(ranges.len());
        for window in ranges.chunks(HEADERS_IN_FLIGHT) {
            let mut reads = JoinSet::new();
            for range in window.iter().copied() {
                let (repository, size) = (Arc::clone(self.repository), self.size);
                reads.spawn(async move { (range, repository.read_wal_header(&range, size).await) });
            }
            while let Some(read) = reads.join_next().await {
                let (range, header) = read.map_err(|_| PushError::Stopped("read a header"))?;
                match header? {
                    Some(header) => headers.push((range, header)),
                    None => return Ok(None),
                }
            }
        }
        Ok(Some(headers))
    }
}

/// The timeline that holds the byte before a segment.
pub(super) fn timeline_before(history: &TimelineHistory, segment: &SegmentFile) -> TimelineId {
    let last = segment.start().as_u64().saturating_sub(1);
    history.timeline_at(Lsn::new(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64, tail: bool, epoch: u64) -> WalRange {
        WalRange {
            lineage: LineageId::default(),
            timeline: TimelineId::FIRST,
            start: Lsn::new(start),
            end: Lsn::new(end),
            epoch,
            tail,
        }
    }

    fn planned(start: u64, end: u64, tail: bool) -> Planned {
        Planned {
            range: range(start, end, tail, 0),
            facts: WalFacts::default(),
            digest: store::id::Digest::default(),
            bytes: None,
        }
    }

    #[test]
    fn tails_within_others_are_not_compared_but_every_whole_object_is() {
        let ranges = [
            range(0, 16, false, 1),
            range(0, 16, false, 2),
            range(0, 16, true, 1),
            range(0, 4, true, 1),
            range(16, 20, true, 1),
            range(16, 20, true, 2),
            range(16, 18, true, 1),
            range(18, 22, true, 1),
        ];
        let kept = comparable(&ranges, Lsn::new(32));
        let names: Vec<(u64, u64, bool, u64)> = kept
            .iter()
            .map(|kept| (kept.start.as_u64(), kept.end.as_u64(), kept.tail, kept.epoch))
            .collect();
        assert_eq!(
            names,
            [
                (0, 16, false, 1),
                (0, 16, false, 2),
                (16, 20, true, 1),
                (16, 20, true, 2),
                (18, 22, true, 1)
            ]
        );
        // Of a file that is valid up to 18 nothing behind that can be compared, and what contained the rest does not count.
        let kept = comparable(&ranges[3..], Lsn::new(18));
        assert_eq!(kept, [range(0, 4, true, 1), range(16, 18, true, 1)]);
    }

    #[test]
    fn a_whole_range_is_missing_until_whole_objects_cover_it() {
        let archived = |ranges: &[WalRange]| Archived {
            ranges: ranges.to_vec(),
            headers: Vec::new(),
            before: None,
        };
        let pieces = [planned(0, 16, false), planned(16, 32, false), planned(32, 40, true)];
        let missing = |ranges: &[WalRange]| -> Vec<u64> {
            let archived = archived(ranges);
            archived
                .missing(&pieces)
                .map(|piece| piece.range.start.as_u64())
                .collect()
        };
        assert_eq!(missing(&[]), [0, 16, 32]);
        assert_eq!(missing(&[range(0, 16, false, 7), range(16, 32, true, 7)]), [16, 32]);
        assert_eq!(missing(&[range(16, 24, false, 7), range(24, 32, false, 8)]), [0, 32]);
        assert_eq!(missing(&[range(32, 36, true, 7)]), [0, 16, 32]);
        assert_eq!(missing(&[range(32, 48, false, 7)]), [0, 16]);
    }
}
