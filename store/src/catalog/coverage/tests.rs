//! Arithmetic over names.

use super::*;

fn coverage(ranges: &[(u64, u64, bool)]) -> TimelineCoverage {
    let mut out = TimelineCoverage::default();
    for (start, end, tail) in ranges {
        out.ranges.push(WalRange {
            lineage: LineageId::default(),
            timeline: TimelineId::new(1).unwrap(),
            start: Lsn::new(*start),
            end: Lsn::new(*end),
            epoch: 1,
            tail: *tail,
        });
    }
    out.sort();
    out
}

#[test]
fn holes_and_contiguous_ends_follow_from_the_names_alone() {
    let all = coverage(&[(0, 16, false), (16, 20, true), (20, 24, true), (32, 48, false)]);
    assert_eq!(all.contiguous_end(Lsn::new(3)), Some(Lsn::new(24)));
    assert_eq!(all.contiguous_end(Lsn::new(24)), None);
    assert_eq!(all.holes(), [(Lsn::new(24), Lsn::new(32))]);
    assert_eq!(all.end(), Some(Lsn::new(48)));
}

#[test]
fn a_reader_takes_the_whole_object_where_it_meets_both() {
    let all = coverage(&[
        (0, 16, false),
        (0, 4, true),
        (4, 16, true),
        (16, 18, true),
        (16, 20, true),
    ]);
    let cover = all.cover(Lsn::new(2), Lsn::new(19)).unwrap();
    assert_eq!(cover.len(), 2);
    assert!(!cover[0].tail);
    assert_eq!(cover[1].end, Lsn::new(20));
    assert!(all.cover(Lsn::new(2), Lsn::new(21)).is_none());
}

#[test]
fn an_object_whose_wal_others_hold_can_be_done_without() {
    let ranges = coverage(&[(0, 16, false), (0, 9, true), (9, 16, true), (16, 20, true)]).ranges;
    let all = Coverage::of_ranges(LineageId::default(), ranges.clone());
    let can = |start: u64| {
        let of = |range: &&WalRange| range.start == Lsn::new(start);
        all.can_do_without(ranges.iter().find(of).unwrap())
    };
    assert!(can(0) && can(9));
    assert!(!can(16), "nothing else holds it");
}

#[test]
fn a_declared_hole_is_shown_once_and_only_where_nothing_covers_it() {
    let timeline = TimelineId::new(1).unwrap();
    let range = |start, end| WalRange {
        lineage: LineageId::default(),
        timeline,
        start: Lsn::new(start),
        end: Lsn::new(end),
        epoch: 1,
        tail: false,
    };
    let hole = |start, end| Hole {
        timeline,
        start: Lsn::new(start),
        end: Lsn::new(end),
    };
    let mut all = Coverage::of_ranges(LineageId::default(), [range(0, 16), range(32, 48)]);
    assert_eq!(all.holes(), [hole(16, 32)]);
    all.add_hole(hole(16, 32));
    assert_eq!(all.holes(), [hole(16, 32)], "declared and seen is one hole");
    all.add_hole(hole(40, 64));
    assert_eq!(
        all.holes(),
        [hole(16, 32), hole(48, 64)],
        "what came in later is no hole"
    );
    assert_eq!(all.behind_declared_hole(timeline, Lsn::new(48)), Some(Lsn::new(64)));
    assert_eq!(all.behind_declared_hole(timeline, Lsn::new(64)), None);
}
