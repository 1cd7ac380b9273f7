//! Which WAL and which tails go, and when.

use std::num::NonZeroU32;
use std::time::Duration;

use pg::lsn::Lsn;
use pg::timeline::TimelineId;

use crate::id::{BackupId, LineageId};
use crate::inventory::Named;
use crate::layout::WalRange;
use crate::object::{ObjectMeta, ObjectName};
use crate::prune::{BackupSeen, ListSeen, Looked, Plan, Policy, plan};
use crate::records::Condemned;
use crate::retention::{Rules, TimelineOf};
use crate::sweep::ManifestSeen;

const HOUR_MS: i64 = 3_600_000;

fn lineage() -> LineageId {
    LineageId::from_parts(1, [1; 10])
}

fn backup(number: u64) -> BackupId {
    BackupId::from_parts(number, [1; 10])
}

fn policy() -> Policy {
    Policy {
        rules: Rules {
            keep_last: NonZeroU32::new(1),
            keep_yearly: NonZeroU32::new(9),
            ..Rules::default()
        },
        grace: Duration::from_secs(4 * 3600),
        components: std::collections::BTreeMap::new(),
        is_copy: false,
    }
}

fn meta(name: &str, stored_ms: i64) -> ObjectMeta {
    ObjectMeta {
        name: ObjectName::new(name).unwrap(),
        size: 10,
        modified_unix_ms: stored_ms,
    }
}

fn wal(start: u64, end: u64, tail: bool, stored_ms: i64) -> (WalRange, ObjectMeta) {
    let range = WalRange {
        lineage: lineage(),
        timeline: TimelineId::new(1).unwrap(),
        start: Lsn::new(start),
        end: Lsn::new(end),
        epoch: 1,
        tail,
    };
    let lane = if tail { "tail" } else { "wal" };
    (range, meta(&format!("{lane}/{start}-{end}"), stored_ms))
}

/// One backup of last year at 100 to 120 and one of today at 500 to 510; WAL from 0 to 600 in pieces of 50.
fn looked(now_ms: i64) -> Looked {
    let year_ms = 366 * 24 * HOUR_MS;
    let seen = |number: u64, start_lsn, end_lsn, stored_ms: i64| BackupSeen {
        id: backup(number),
        lineage: lineage(),
        timeline: 1,
        start_lsn,
        end_lsn,
        finished_us: stored_ms * 1000,
        stored_ms,
        logical_bytes: 1,
        component: None,
        label: None,
    };
    let mut looked = Looked {
        backups: vec![
            seen(1, 100, 120, now_ms - year_ms),
            seen(2, 500, 510, now_ms - 10 * HOUR_MS),
        ],
        wal: (0..12)
            .map(|n| wal(n * 50, n * 50 + 50, false, now_ms - 9 * HOUR_MS))
            .collect(),
        timelines: vec![TimelineOf {
            lineage: lineage(),
            timeline: 1,
            parent: None,
            ended_at: None,
        }],
        ..Looked::default()
    };
    looked.sweep.now_ms = now_ms;
    looked.segment_bytes.insert(lineage(), 50);
    for seen in &looked.backups {
        looked.sweep.manifests.push(ManifestSeen {
            backup: seen.id,
            stored_ms: seen.stored_ms,
            intent_stored_ms: Some(seen.stored_ms - 1000),
            duration_max_ms: HOUR_MS,
            packs: roaring::RoaringBitmap::new(),
        });
    }
    looked
}

fn planned(looked: &Looked) -> Plan {
    plan(looked, &policy(), "h", 0).unwrap()
}

fn names(going: &[crate::prune::Going]) -> Vec<&str> {
    going.iter().map(|one| one.name.as_str()).collect()
}

const NOW_MS: i64 = 1_800_000_000_000;

#[test]
fn wal_between_two_kept_backups_goes_after_the_grace_and_its_place_is_written_down() {
    let mut looked = looked(NOW_MS);
    let first = planned(&looked);
    assert!(first.wal.is_empty() && first.holes.is_empty());
    assert_eq!(first.wal_waiting.len(), 9);
    let list = first.lists[0].clone();
    assert!(list.packs.is_empty() && list.retired.is_empty());
    looked.lists.push(ListSeen {
        meta: meta("condemned/1", NOW_MS - 4 * HOUR_MS),
        list,
    });
    looked.sweep.lists = vec![crate::sweep::ListSeen {
        stored_ms: NOW_MS - 4 * HOUR_MS,
        looked_ms: None,
        packs: Vec::new(),
    }];
    assert!(planned(&looked).wal.is_empty(), "the grace is not over");
    looked.sweep.now_ms += 1;
    let due = planned(&looked);
    assert_eq!(
        names(&due.wal),
        [
            "wal/0-50",
            "wal/50-100",
            "wal/150-200",
            "wal/200-250",
            "wal/250-300",
            "wal/300-350",
            "wal/350-400",
            "wal/400-450",
            "wal/450-500"
        ]
    );
    // What lies before everything that stays leaves no hole.
    let holes: Vec<_> = due.holes.iter().map(|hole| (hole.start, hole.end)).collect();
    assert_eq!(holes, [(150, 500)]);
    assert!(due.close.is_empty(), "WAL is judged by that list");
}

#[test]
fn wal_that_a_younger_list_keeps_waits_for_it() {
    let mut looked = looked(NOW_MS);
    let list = planned(&looked).lists.remove(0);
    let all_kept = Condemned {
        wal: Some(Vec::new()),
        ..list.clone()
    };
    for (name, age, list) in [("condemned/1", 5, list), ("condemned/2", 1, all_kept)] {
        looked.lists.push(ListSeen {
            meta: meta(name, NOW_MS - age * HOUR_MS),
            list,
        });
    }
    assert!(planned(&looked).wal.is_empty());
}

#[test]
fn a_tail_goes_when_it_is_old_and_whole_objects_hold_all_of_it() {
    let mut looked = looked(NOW_MS);
    looked.wal = vec![
        wal(500, 550, false, NOW_MS - 5 * HOUR_MS),
        wal(550, 600, false, NOW_MS - 5 * HOUR_MS),
        wal(600, 650, false, NOW_MS - 3 * HOUR_MS),
        wal(510, 560, true, NOW_MS - 5 * HOUR_MS),
        wal(520, 560, true, NOW_MS - 3 * HOUR_MS),
        wal(590, 610, true, NOW_MS - 5 * HOUR_MS),
    ];
    let plan = planned(&looked);
    let tails: Vec<_> = plan.tails.iter().map(|(tail, _)| tail.name.as_str()).collect();
    assert_eq!(tails, ["tail/510-560"]);
    let whole: Vec<_> = plan.tails[0].1.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(whole, ["wal/500-550", "wal/550-600"]);
}

#[test]
fn what_dead_backups_left_goes_and_what_running_ones_need_stays() {
    let mut looked = looked(NOW_MS);
    let intent = |number, named, age: i64| {
        let last = if matches!(named, Named::Intent(_)) {
            "start"
        } else {
            "1"
        };
        let meta = meta(&format!("intents/{number}/{last}"), NOW_MS - age * HOUR_MS);
        (backup(number), named, meta)
    };
    looked.intents = vec![
        intent(2, Named::Intent(backup(2)), 11),
        intent(2, Named::Progress(backup(2), 1), 10),
        intent(3, Named::Intent(backup(3)), 5),
        intent(3, Named::Progress(backup(3), 1), 5),
        intent(4, Named::Intent(backup(4)), 3),
        intent(4, Named::Progress(backup(4), 1), 3),
    ];
    let plan = planned(&looked);
    assert_eq!(
        names(&plan.leftovers),
        ["intents/2/1", "intents/3/start", "intents/3/1"]
    );
}

#[test]
fn a_pinned_backup_is_never_given_up_even_when_it_came_too_late() {
    let mut looked = looked(NOW_MS);
    looked.sweep.manifests[0].intent_stored_ms = None;
    assert!(planned(&looked).retire.is_empty(), "nobody knows how long it took");
    let stored_ms = looked.sweep.manifests[0].stored_ms;
    looked.sweep.manifests[0].intent_stored_ms = Some(stored_ms - 2 * HOUR_MS);
    assert_eq!(planned(&looked).retire, [backup(1)]);
    looked.pinned.insert(backup(1));
    let plan = planned(&looked);
    assert!(plan.retire.is_empty() && plan.verdicts[0].is_late);
}

#[test]
fn a_late_backup_displaces_no_good_one_and_the_only_one_is_never_given_up() {
    let mut looked = looked(NOW_MS);
    let late = |looked: &mut Looked, at: usize| {
        let stored_ms = looked.sweep.manifests[at].stored_ms;
        looked.sweep.manifests[at].intent_stored_ms = Some(stored_ms - 2 * HOUR_MS);
    };
    // The newest one is late: the old one is what `keep_last` keeps.
    late(&mut looked, 1);
    assert!(planned(&looked).retire.is_empty());
    late(&mut looked, 0);
    assert!(planned(&looked).retire.is_empty());
}

#[test]
fn wal_is_kept_from_the_beginning_of_its_segment() {
    let mut looked = looked(NOW_MS);
    looked.segment_bytes.insert(lineage(), 400);
    // The backup of today begins at 500, in the segment of 400 to 800; that of last year in the one of 0 to 400.
    let waiting = planned(&looked).wal_waiting;
    assert_eq!(
        names(&waiting),
        [
            "wal/150-200",
            "wal/200-250",
            "wal/250-300",
            "wal/300-350",
            "wal/350-400"
        ]
    );
}

#[test]
fn nothing_is_judged_by_times_of_a_copy_nor_under_a_grace_that_is_too_short() {
    let mut copied = looked(NOW_MS);
    copied.backups[0].stored_ms = NOW_MS - 100;
    let refused = plan(&copied, &policy(), "h", 0).unwrap_err().to_string();
    assert!(refused.contains("was copied"), "{refused}");
    // A copy knows that it is one.
    let of_copy = Policy {
        is_copy: true,
        ..policy()
    };
    let as_it_was = plan(&looked(NOW_MS), &policy(), "h", 0).unwrap();
    assert_eq!(plan(&copied, &of_copy, "h", 0).unwrap().verdicts, as_it_was.verdicts);
    let mut longer = looked(NOW_MS);
    longer.sweep.manifests[1].duration_max_ms = 4 * HOUR_MS;
    let refused = plan(&longer, &policy(), "h", 0).unwrap_err().to_string();
    assert!(refused.contains("grace"), "{refused}");
}
