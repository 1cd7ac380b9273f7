//! What `wal-get` answers, as a pure decision over names: the file, "it does not exist", or "stop".
//!
//! PostgreSQL takes an exit code of 1 for the end of WAL and promotes what it has. So 1 is answered only where the listing proves
//! that nothing is there and this restore does not need it, or for a segment that lies wholly behind the explicit stop point: the
//! server reads ahead, and ends with an error rather than before its target (xlogrecovery.c, since 13).

use pg::lsn::Lsn;
use pg::segment::SegmentNumber;
use pg::timeline::TimelineId;
use store::catalog::Coverage;

use crate::route::Piece;
use crate::state::State;

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Give these bytes; zeros behind them up to the segment's size.
    Serve {
        /// In order, from the segment's start.
        pieces: Vec<Piece>,
        /// The segment ends before its size.
        is_open: bool,
    },
    /// It does not exist and is not needed.
    Absent,
    /// Recovery must stop: why.
    Stop(String),
}

/// A segment. `coverage` holds every object of that segment on its timeline and its ancestors; `has_later` says whether that
/// timeline has WAL behind the segment.
pub(crate) fn segment(
    state: &State,
    coverage: &Coverage,
    timeline: TimelineId,
    number: SegmentNumber,
    has_later: bool,
) -> Verdict {
    let size = state.route.size;
    let (start, end) = (size.start_of(number), size.end_of(number));
    if state
        .route
        .part(timeline)
        .and_then(|part| part.end)
        .is_some_and(|part_end| part_end <= start)
    {
        return Verdict::Absent; // another branch of history, which this recovery does not take
    }
    let needed = state.needs(timeline, number);
    // The server reads ahead of what it replays. What it meets there ends nothing: with an explicit target it never promotes before that.
    let is_behind_stop = state.needed_until.is_some_and(|until| until <= start);
    let own = coverage
        .timelines
        .get(&timeline)
        .map(|own| own.ranges.as_slice())
        .unwrap_or_default();
    if !own.iter().any(|range| range.start < end && range.end > start) {
        // The server asks the newest timeline first and goes on to the older ones.
        let is_last = state.route.timelines_of(number).last() == Some(timeline);
        if needed && (is_last || has_later) {
            return Verdict::Stop(format!(
                "the segment is needed up to {}, and it is missing",
                needed_until(state, timeline, end)
            ));
        }
        return if has_later
            && !is_behind_stop
            && state.route.part(timeline).is_some()
            && number >= size.segment_of(state.start)
            && !is_before(state, timeline, number)
        {
            Verdict::Stop("the segment is missing although later WAL of its timeline is there".into())
        } else {
            Verdict::Absent
        };
    }
    let pieces = state.route_to(timeline).pieces(coverage, start, end);
    let covered = pieces.last().map_or(start, |piece| piece.to);
    if covered == end {
        return Verdict::Serve { pieces, is_open: false };
    }
    if is_behind_stop && covered == start {
        return Verdict::Absent;
    }
    if covered == start {
        return Verdict::Stop("the beginning of the segment is missing".into());
    }
    let until = needed_until(state, timeline, end);
    // Where the stop point lies before what is missing, recovery ends before it as well.
    let is_enough = is_behind_stop || (state.needed_until.is_some() && covered >= until && until < end);
    let is_followed = has_later || own.iter().any(|range| range.start >= covered && range.start < end);
    if is_followed && !is_enough {
        return Verdict::Stop(format!(
            "WAL is missing from {covered} although later WAL of its timeline is there"
        ));
    }
    if needed && covered < until {
        return Verdict::Stop(format!("the segment is needed up to {until}, and it ends at {covered}"));
    }
    Verdict::Serve { pieces, is_open: true }
}

/// Does the timeline begin only behind this segment?
fn is_before(state: &State, timeline: TimelineId, number: SegmentNumber) -> bool {
    state
        .route
        .part(timeline)
        .is_some_and(|part| number < state.route.size.segment_of(part.begin))
}

/// Up to where a segment is needed: the stop point, or where the next timeline begins, or its end.
fn needed_until(state: &State, timeline: TimelineId, end: Lsn) -> Lsn {
    let stop = state.needed_until.map_or(end, |until| until.min(end));
    state
        .route
        .part(timeline)
        .and_then(|part| part.end)
        .map_or(stop, |part_end| part_end.min(stop))
}

/// A history file that is not in the listing: may the server go on without it?
pub(crate) fn missing_history(state: &State, timeline: TimelineId) -> Verdict {
    if timeline != TimelineId::FIRST && state.route.part(timeline).is_some() && state.route.timeline() == timeline {
        return Verdict::Stop("recovery follows this timeline, and its history is missing".into());
    }
    if timeline != TimelineId::FIRST && state.route.parts.iter().skip(1).any(|part| part.timeline == timeline) {
        return Verdict::Stop("recovery passes through this timeline, and its history is missing".into());
    }
    Verdict::Absent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::tests::{MIB, coverage, tli};
    use crate::state::tests::state;

    type Ranges<'a> = &'a [(u32, u64, u64, bool)];

    fn answer(ranges: Ranges<'_>, timeline: u32, number: u64, has_later: bool) -> &'static str {
        match segment(
            &state(),
            &coverage(ranges, &[]),
            tli(timeline),
            SegmentNumber(number),
            has_later,
        ) {
            Verdict::Serve { is_open: false, .. } => "whole",
            Verdict::Serve { is_open: true, .. } => "open",
            Verdict::Absent => "absent",
            Verdict::Stop(_) => "stop",
        }
    }

    #[test]
    fn every_row_of_the_decision_table_for_segments() {
        let s = MIB;
        let table: &[(Ranges<'_>, u32, u64, bool, &str)] = &[
            // Whole, on either timeline, from one object or several.
            (&[(1, s, 2 * s, false)], 1, 1, true, "whole"),
            (
                &[(1, s, s + 8192, true), (1, s + 8192, 2 * s, true)],
                1,
                1,
                false,
                "whole",
            ),
            // Needed and missing.
            (&[], 1, 1, false, "stop"),
            (&[], 1, 2, true, "stop"),
            (&[], 2, 4, false, "stop"),
            (&[], 2, 5, false, "stop"),
            // Behind the stop point.
            (&[], 2, 6, false, "absent"),
            (&[], 1, 7, false, "absent"),
            (&[], 2, 6, true, "absent"),
            (&[(2, 6 * s + 8192, 7 * s, false)], 2, 6, true, "absent"),
            (&[(2, 6 * s, 6 * s + 8192, true)], 2, 6, true, "open"),
            // The segment of the fork: the server goes on to the older timeline.
            (&[], 2, 3, false, "absent"),
            (&[(1, 3 * s, 3 * s + 8192, true)], 1, 3, false, "open"),
            (&[(1, 3 * s, 3 * s + 1024, true)], 1, 3, false, "stop"),
            // ... but not when the newer one has WAL behind it and lost this segment.
            (&[], 2, 3, true, "stop"),
            // A timeline that begins later does not have earlier segments.
            (&[], 2, 1, true, "absent"),
            // The open segment with the stop point: enough, too little; enough although something is missing or follows behind it.
            (&[(2, 5 * s, 5 * s + 8192, true)], 2, 5, false, "open"),
            (&[(2, 5 * s, 5 * s + 4096, true)], 2, 5, false, "stop"),
            (
                &[(2, 5 * s, 5 * s + 8192, true), (2, 5 * s + 16384, 6 * s, true)],
                2,
                5,
                false,
                "open",
            ),
            (&[(2, 5 * s, 5 * s + 8192, true)], 2, 5, true, "open"),
            // ... and too little with more behind.
            (
                &[(2, 5 * s, 5 * s + 4096, true), (2, 5 * s + 16384, 6 * s, true)],
                2,
                5,
                false,
                "stop",
            ),
            (&[(2, 5 * s, 5 * s + 4096, true)], 2, 5, true, "stop"),
            (&[(2, 5 * s + 8192, 6 * s, true)], 2, 5, false, "stop"),
            // The older timeline went on after the fork: that branch is not taken.
            (&[(1, 4 * s, 5 * s, false)], 1, 4, false, "absent"),
            // Not on the way.
            (&[], 9, 4, false, "absent"),
            (&[(9, 4 * s, 5 * s, false)], 9, 4, false, "whole"),
        ];
        for (row, (ranges, timeline, number, has_later, expected)) in table.iter().enumerate() {
            assert_eq!(answer(ranges, *timeline, *number, *has_later), *expected, "row {row}");
        }
    }

    #[test]
    fn the_fork_segment_is_completed_from_the_older_timeline() {
        let fork = 3 * MIB + 4096;
        let all = coverage(&[(1, 3 * MIB, 3 * MIB + 8192, true), (2, fork, 4 * MIB, false)], &[]);
        let Verdict::Serve { pieces, is_open: false } = segment(&state(), &all, tli(2), SegmentNumber(3), false) else {
            panic!("not whole")
        };
        assert_eq!((pieces[0].range.timeline, pieces[0].to), (tli(1), Lsn::new(fork)));
    }

    #[test]
    fn a_history_is_absent_only_off_the_way() {
        assert!(matches!(missing_history(&state(), tli(2)), Verdict::Stop(_)));
        assert_eq!(missing_history(&state(), tli(1)), Verdict::Absent);
        assert_eq!(missing_history(&state(), tli(3)), Verdict::Absent);
    }

    #[test]
    fn a_standby_needs_nothing_in_particular() {
        let standby = State {
            needed_until: None,
            ..state()
        };
        let verdict = segment(&standby, &coverage(&[], &[]), tli(2), SegmentNumber(4), false);
        assert_eq!(verdict, Verdict::Absent);
    }
}
