//! What is decided from names and identities.

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
        plan_resume(&server(1, 0x200), false, &root, &archived(1, 0x300), None, None),
        Resume::Diverged(_)
    ));
    assert!(matches!(
        plan_resume(&server(1, 0x200), true, &root, &archived(1, 0x300), None, None),
        Resume::Wait(_)
    ));
    assert!(matches!(
        plan_resume(&server(1, 0x300), false, &root, &archived(1, 0x300), None, None),
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
    let resume = |slot| plan_resume(&server(1, 0x500), false, &root, &coverage, Some(Lsn::new(slot)), None);
    let go_on = |archived| Resume::GoOn {
        timeline: timeline(1),
        archived: Lsn::new(archived),
    };
    assert_eq!(resume(0x200), go_on(0x200), "the slot holds the missing WAL");
    assert_eq!(resume(0x180), go_on(0x200));
    assert_eq!(resume(0x80), go_on(0x80), "not even the first object came");
    assert_eq!(resume(0x380), go_on(0x200), "the hole is asked for again, or declared");
    assert_eq!(resume(0x400), go_on(0x200), "a slot that was made again proves nothing");
    let rolled_back = plan_resume(&server(1, 0x380), false, &root, &coverage, Some(Lsn::new(0x200)), None);
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
    let asked = |slot: Option<u64>, removed: Option<u64>| {
        let removed = removed.map(|until| (timeline(1), Lsn::new(until)));
        plan_resume(&server(1, 0x900), false, &root, &coverage, slot.map(Lsn::new), removed)
    };
    let resume = |slot: Option<u64>| asked(slot, Some(0x800));
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
    let before = Resume::GoOn {
        timeline: timeline(1),
        archived: Lsn::new(0x300),
    };
    assert_eq!(asked(None, None), before, "another server may have declared it");
    assert_eq!(asked(None, Some(0x700)), before);
}

#[test]
fn a_timeline_is_followed_only_along_the_servers_history() {
    let child = history(2, 1, 0x300);
    let switch = Resume::Switch {
        from: timeline(1),
        switch_point: Lsn::new(0x300),
    };
    assert_eq!(
        plan_resume(&server(2, 0x400), false, &child, &archived(1, 0x300), None, None),
        switch
    );
    assert_eq!(
        plan_resume(&server(2, 0x400), false, &child, &archived(1, 0x380), None, None),
        switch,
        "both branches are kept"
    );
    assert!(matches!(
        plan_resume(&server(2, 0x400), false, &child, &archived(1, 0x280), None, None),
        Resume::GoOn { .. }
    ));
    let stranger = history(5, 4, 0x300);
    assert!(matches!(
        plan_resume(&server(5, 0x400), false, &stranger, &archived(3, 0x280), None, None),
        Resume::Diverged(_)
    ));
}
