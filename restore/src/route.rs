//! Which objects hold the WAL on the way to a timeline. Pure arithmetic over names.
//!
//! PostgreSQL reads the segment that holds a switch point from the newer timeline, whose first segment repeats the older one's
//! bytes up to there. So below a switch point, within that segment, objects of both timelines are good.

use pg::lsn::Lsn;
use pg::segment::{SegmentNumber, SegmentSize};
use pg::timeline::TimelineId;
use store::catalog::Coverage;
use store::layout::WalRange;

/// One timeline on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// The timeline.
    pub(crate) timeline: TimelineId,
    /// Where it begins; zero for the oldest.
    pub(crate) begin: Lsn,
    /// Where the next one begins.
    pub(crate) end: Option<Lsn>,
}

/// The way to a timeline: its ancestors and itself, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// Oldest first; never empty.
    pub(crate) parts: Vec<Part>,
    /// The cluster's segment size.
    pub(crate) size: SegmentSize,
}

/// A part of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The object.
    pub(crate) range: WalRange,
    /// First byte that is used of it.
    pub(crate) from: Lsn,
    /// Byte after the last.
    pub(crate) to: Lsn,
}

impl Piece {
    /// Everything up to the object's end is used, so what its header says about its end holds.
    pub(crate) fn reaches_end(&self) -> bool {
        self.to == self.range.end
    }
}

impl Route {
    /// The way that the repository knows to `timeline`.
    pub(crate) fn to(coverage: &Coverage, timeline: TimelineId, size: SegmentSize) -> Route {
        let parts = coverage
            .path(timeline)
            .into_iter()
            .map(|(timeline, begin, end)| Part { timeline, begin, end })
            .collect();
        Route { parts, size }
    }

    /// The timeline it leads to.
    pub(crate) fn timeline(&self) -> TimelineId {
        self.parts.last().map_or(TimelineId::FIRST, |part| part.timeline)
    }

    /// The part of a timeline.
    pub(crate) fn part(&self, timeline: TimelineId) -> Option<&Part> {
        self.parts.iter().find(|part| part.timeline == timeline)
    }

    /// Where objects of a part are good from: the start of the segment in which it begins.
    fn good_from(&self, part: &Part) -> Lsn {
        self.size.start_containing(part.begin)
    }

    /// Does this way pass through that point of that timeline? A switch point still belongs to the older one here: WAL up to it.
    pub(crate) fn passes(&self, timeline: TimelineId, upto: Lsn) -> bool {
        self.part(timeline)
            .is_some_and(|part| part.end.is_none_or(|end| upto <= end) && upto >= part.begin)
    }

    /// The timelines from which PostgreSQL takes a segment, in the order in which it asks.
    pub(crate) fn timelines_of(&self, segment: SegmentNumber) -> impl Iterator<Item = TimelineId> + '_ {
        let start = self.size.start_of(segment);
        let holds =
            move |part: &&Part| self.size.segment_of(part.begin) <= segment && part.end.is_none_or(|end| end > start);
        self.parts.iter().rev().filter(holds).map(|part| part.timeline)
    }

    /// The object that leads on from `at`, furthest, whole ones before tails.
    fn next(&self, coverage: &Coverage, at: Lsn, until: Lsn) -> Option<Piece> {
        self.parts
            .iter()
            .filter(|part| self.good_from(part) <= at && part.end.is_none_or(|end| at < end))
            .filter_map(|part| {
                let limit = part.end.map_or(until, |end| end.min(until));
                let ranges = &coverage.timelines.get(&part.timeline)?.ranges;
                let begun = ranges.partition_point(|range| range.start <= at);
                // A range is at most 16 MiB long, so what holds `at` begins not far before it.
                let reach = at.as_u64().saturating_sub(store::limits::WAL_OBJECT_BYTES_MAX);
                ranges
                    .get(..begun)?
                    .iter()
                    .rev()
                    .take_while(|range| range.start.as_u64() >= reach)
                    .filter(|range| range.end > at)
                    .map(|range| Piece {
                        range: *range,
                        from: at,
                        to: range.end.min(limit),
                    })
                    .max_by_key(|piece| (!piece.range.tail, piece.to, piece.range.epoch))
            })
            .max_by_key(|piece| (!piece.range.tail, piece.to, piece.range.timeline))
    }

    /// Pieces from `from` on, in order, as far as they go without a hole, at most to `until`.
    pub(crate) fn pieces(&self, coverage: &Coverage, from: Lsn, until: Lsn) -> Vec<Piece> {
        let mut out = Vec::new();
        let mut at = from;
        while at < until
            && let Some(piece) = self.next(coverage, at, until)
        {
            at = piece.to;
            out.push(piece);
        }
        out
    }

    /// Whole pieces of objects between `from` and `to`, as many as there are.
    pub(crate) fn pieces_back(&self, coverage: &Coverage, to: Lsn, from: Lsn) -> Vec<Piece> {
        let within = |range: &&WalRange| range.start >= from && range.end <= to;
        let of = |part: &Part| {
            let (good_from, end) = (self.good_from(part), part.end.unwrap_or(to).min(to));
            let ranges = coverage
                .timelines
                .get(&part.timeline)
                .map(|one| one.ranges.as_slice())
                .unwrap_or_default();
            let used = ranges
                .iter()
                .filter(within)
                .filter(move |range| range.start >= good_from && range.end <= end);
            used.map(|range| Piece {
                range: *range,
                from: range.start,
                to: range.end,
            })
            .collect::<Vec<_>>()
        };
        self.parts.iter().flat_map(of).collect()
    }

    /// Where contiguous WAL from `from` on ends; `from` itself when nothing is there.
    pub(crate) fn contiguous_end(&self, coverage: &Coverage, from: Lsn) -> Lsn {
        self.pieces(coverage, from, Lsn::new(u64::MAX))
            .last()
            .map_or(from, |piece| piece.to)
    }

    /// The first byte on this way that is there again behind a hole that begins at `at`.
    pub(crate) fn resumes_after(&self, coverage: &Coverage, at: Lsn) -> Option<Lsn> {
        self.parts
            .iter()
            .filter_map(|part| {
                let ranges = &coverage.timelines.get(&part.timeline)?.ranges;
                let good_from = self.good_from(part);
                let begins = ranges
                    .iter()
                    .map(|range| range.start)
                    .filter(|start| *start > at && *start >= good_from);
                begins.filter(|start| part.end.is_none_or(|end| *start < end)).min()
            })
            .min()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use pg::timeline::{HistoryEntry, TimelineHistory};
    use std::collections::BTreeMap;
    use store::catalog::TimelineCoverage;
    use store::id::LineageId;

    pub(crate) const MIB: u64 = 1 << 20;

    pub(crate) fn tli(id: u32) -> TimelineId {
        TimelineId::new(id).unwrap()
    }

    pub(crate) fn size() -> SegmentSize {
        SegmentSize::new(MIB).unwrap()
    }

    /// (timeline, start, end, tail), and histories as (timeline, parent, switch point).
    pub(crate) fn coverage(ranges: &[(u32, u64, u64, bool)], histories: &[(u32, &[(u32, u64)])]) -> Coverage {
        let mut timelines: BTreeMap<TimelineId, TimelineCoverage> = BTreeMap::new();
        for (timeline, start, end, tail) in ranges {
            timelines.entry(tli(*timeline)).or_default().ranges.push(WalRange {
                lineage: LineageId::default(),
                timeline: tli(*timeline),
                start: Lsn::new(*start),
                end: Lsn::new(*end),
                epoch: 1,
                tail: *tail,
            });
        }
        for timeline in timelines.values_mut() {
            timeline.ranges.sort_by_key(|range| range.start);
        }
        let histories = histories
            .iter()
            .map(|(timeline, entries)| {
                let entry = |(timeline, at): &(u32, u64)| HistoryEntry {
                    timeline: tli(*timeline),
                    switch_point: Lsn::new(*at),
                    reason: String::new(),
                };
                (
                    tli(*timeline),
                    TimelineHistory {
                        timeline: tli(*timeline),
                        entries: entries.iter().map(entry).collect(),
                    },
                )
            })
            .collect();
        Coverage {
            lineage: LineageId::default(),
            timelines,
            histories,
            declared: Vec::new(),
            given_up: Vec::new(),
        }
    }

    #[test]
    fn the_newer_timeline_may_serve_the_segment_of_its_fork_from_the_start() {
        let fork = 2 * MIB + 4096;
        let all = coverage(
            &[
                (1, 0, 2 * MIB, false),
                (2, 2 * MIB, 3 * MIB, false),
                (1, 2 * MIB, 5 * MIB / 2, true),
            ],
            &[(2, &[(1, fork)])],
        );
        let route = Route::to(&all, tli(2), size());
        assert_eq!(route.contiguous_end(&all, Lsn::new(100)), Lsn::new(3 * MIB));
        let old = Route::to(&all, tli(1), size());
        assert_eq!(old.contiguous_end(&all, Lsn::new(100)), Lsn::new(5 * MIB / 2));
        assert_eq!(
            route.timelines_of(SegmentNumber(2)).collect::<Vec<_>>(),
            [tli(2), tli(1)]
        );
        assert_eq!(route.timelines_of(SegmentNumber(1)).collect::<Vec<_>>(), [tli(1)]);
    }

    #[test]
    fn a_piece_of_the_old_timeline_is_cut_at_the_switch_point() {
        let fork = MIB + 8192;
        let all = coverage(
            &[(1, 0, MIB, false), (1, MIB, 2 * MIB, false), (2, fork, 2 * MIB, false)],
            &[(2, &[(1, fork)])],
        );
        let pieces = Route::to(&all, tli(2), size()).pieces(&all, Lsn::new(0), Lsn::new(2 * MIB));
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[1].to, Lsn::new(fork));
        assert!(!pieces[1].reaches_end());
        assert_eq!(pieces[2].range.timeline, tli(2));
    }

    #[test]
    fn a_hole_ends_the_way_and_is_named() {
        let all = coverage(&[(1, 0, MIB, false), (1, 2 * MIB, 3 * MIB, false)], &[]);
        let route = Route::to(&all, tli(1), size());
        assert_eq!(route.contiguous_end(&all, Lsn::new(5)), Lsn::new(MIB));
        assert_eq!(route.resumes_after(&all, Lsn::new(MIB)), Some(Lsn::new(2 * MIB)));
        assert_eq!(route.resumes_after(&all, Lsn::new(3 * MIB)), None);
        assert!(route.passes(tli(1), Lsn::new(MIB)) && !route.passes(tli(2), Lsn::new(MIB)));
    }
}
