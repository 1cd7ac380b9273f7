//! One plain example for each rule.

mod model;
mod simulation;

use super::*;

const TIMES: Times = Times {
    duration_max_ms: 100,
    grace_ms: 150,
};

fn set(numbers: &[PackNumber]) -> BTreeSet<PackNumber> {
    numbers.iter().copied().collect()
}

fn manifest(backup: u128, stored_ms: i64, needs: &[PackNumber]) -> ManifestSeen {
    ManifestSeen {
        backup: BackupId::from_number(backup),
        stored_ms,
        intent_stored_ms: Some(stored_ms - 50),
        duration_max_ms: TIMES.duration_max_ms,
        packs: needs.iter().collect(),
    }
}

/// Packs 1 to 5, stored at 0, 100, 200, ...; manifest 1 needs 1 and 2.
fn seen(now_ms: i64) -> Seen {
    Seen {
        now_ms,
        packs: (1..=5u32).map(|n| (n, i64::from(n - 1) * 100)).collect(),
        lists: Vec::new(),
        manifests: vec![manifest(1, 120, &[1, 2])],
    }
}

fn plan(seen: &Seen) -> SweepPlan {
    plan_sweep(seen, &BTreeSet::new(), TIMES).unwrap()
}

#[test]
fn a_pack_has_one_number() {
    let mut numbers = PackNumbers::default();
    let given: Vec<PackNumber> = [7, 9, 7].into_iter().map(|n| numbers.number(PackId([n; 16]))).collect();
    assert_eq!(given, [0, 1, 0]);
    assert_eq!((numbers.pack(1), numbers.pack(2)), (Some(PackId([9; 16])), None));
}

#[test]
fn what_nobody_needs_is_condemned_when_no_running_backup_can_have_written_it() {
    assert_eq!(plan(&seen(350)).condemn, set(&[]));
    assert_eq!(plan(&seen(351)).condemn, set(&[3]));
    assert_eq!(plan(&seen(10_000)).condemn, set(&[3, 4, 5]));
    assert!(plan(&seen(10_000)).delete.is_empty());
}

#[test]
fn what_was_condemned_goes_after_the_grace_and_its_list_with_it() {
    let mut seen = seen(1000);
    seen.lists = vec![ListSeen {
        stored_ms: 850,
        looked_ms: Some(0),
        packs: vec![3, 9],
    }];
    let young = plan(&seen);
    assert_eq!(
        (young.delete, young.close, young.condemn),
        (set(&[]), vec![], set(&[4, 5]))
    );
    seen.now_ms = 1001;
    let old = plan(&seen);
    assert_eq!((old.delete, old.close, old.condemn), (set(&[3]), vec![0], set(&[4, 5])));
}

#[test]
fn what_a_manifest_needs_again_stays_whatever_list_it_stands_in() {
    let mut seen = seen(2000);
    seen.lists = vec![ListSeen {
        stored_ms: 500,
        looked_ms: Some(0),
        packs: vec![3, 4],
    }];
    seen.manifests.push(manifest(2, 560, &[3]));
    let plan = plan(&seen);
    assert_eq!(
        (plan.delete, plan.reprieved, plan.close),
        (set(&[4]), set(&[3]), vec![0])
    );
    assert_eq!(plan.condemn, set(&[5]));
}

#[test]
fn a_pack_waits_for_the_youngest_list_that_names_it() {
    let mut seen = seen(2000);
    for stored_ms in [500, 1900] {
        seen.lists.push(ListSeen {
            stored_ms,
            looked_ms: Some(0),
            packs: vec![3],
        });
    }
    let plan = plan(&seen);
    assert_eq!((plan.delete, plan.close), (set(&[]), vec![0]));
}

#[test]
fn the_packs_of_a_manifest_that_goes_are_written_down_anew() {
    let mut seen = seen(2000);
    seen.manifests.push(manifest(2, 560, &[2, 3]));
    seen.lists = vec![ListSeen {
        stored_ms: 1900,
        looked_ms: Some(0),
        packs: vec![3],
    }];
    let retire = BTreeSet::from([BackupId::from_number(2), BackupId::from_number(77)]);
    let plan = plan_sweep(&seen, &retire, TIMES).unwrap();
    assert_eq!((plan.condemn, plan.condemn_last), (set(&[4, 5]), set(&[3])));
    assert_eq!(plan.retire, BTreeSet::from([BackupId::from_number(2)]));
    assert!(plan.delete.is_empty());
    // Even when its own list would be due: somebody may be restoring from it right now.
    seen.lists[0].stored_ms = 0;
    let plan = plan_sweep(&seen, &retire, TIMES).unwrap();
    assert_eq!((plan.delete, plan.reprieved), (set(&[]), set(&[3])));
    assert_eq!((plan.condemn, plan.condemn_last), (set(&[4, 5]), set(&[3])));
}

#[test]
fn what_a_retired_manifest_needed_is_deleted_only_when_it_was_seen_to_be_gone_since() {
    let list = |stored_ms, looked_ms| ListSeen {
        stored_ms,
        looked_ms,
        packs: vec![3],
    };
    let mut seen = seen(5000);
    seen.lists = vec![list(500, None)];
    let unseen = plan(&seen);
    assert_eq!(
        (unseen.delete, unseen.close, unseen.condemn),
        (set(&[]), vec![], set(&[3, 4, 5]))
    );
    // Whoever looked before it was retired has seen nothing.
    seen.lists.push(list(600, Some(400)));
    assert_eq!(plan(&seen).condemn, set(&[3, 4, 5]));
    seen.lists.push(list(800, Some(700)));
    let due = plan(&seen);
    assert_eq!((due.delete, due.close), (set(&[3]), vec![0, 1, 2]));
}

#[test]
fn a_retirement_stays_written_down_as_long_as_an_older_sighting_of_its_packs() {
    let mut seen = seen(5000);
    let list = |stored_ms, looked_ms, packs| ListSeen {
        stored_ms,
        looked_ms,
        packs,
    };
    // 3 was seen to be unneeded, was taken up again, and its backup retired by somebody who sleeps since; 4 keeps the first list open.
    seen.lists = vec![list(100, Some(50), vec![3, 4]), list(600, None, vec![3])];
    seen.manifests.push(manifest(2, 160, &[3]));
    seen.manifests.push(ManifestSeen {
        intent_stored_ms: Some(10),
        ..manifest(3, 300, &[4])
    });
    assert_eq!(plan(&seen).close, Vec::<usize>::new());
    // He wakes: nobody has seen that it is gone.
    seen.manifests.remove(1);
    let woken = plan(&seen);
    assert_eq!((woken.delete, woken.condemn), (set(&[]), set(&[3, 5])));
}

#[test]
fn a_late_manifest_is_named_and_its_packs_are_spared() {
    let mut seen = seen(2000);
    seen.manifests.push(ManifestSeen {
        intent_stored_ms: Some(0),
        ..manifest(2, 101, &[3])
    });
    seen.manifests.push(ManifestSeen {
        intent_stored_ms: None,
        ..manifest(3, 101, &[4])
    });
    // It says itself that it may take no longer than 49.
    seen.manifests.push(ManifestSeen {
        duration_max_ms: 49,
        ..manifest(4, 101, &[4])
    });
    let plan = plan(&seen);
    assert_eq!(plan.late, [2, 3, 4].map(BackupId::from_number));
    assert_eq!(plan.condemn, set(&[5]));
}

#[test]
fn what_only_a_late_manifest_needs_stays_in_its_list() {
    let mut seen = seen(2000);
    seen.lists = vec![ListSeen {
        stored_ms: 500,
        looked_ms: Some(0),
        packs: vec![3, 4],
    }];
    seen.manifests.push(ManifestSeen {
        intent_stored_ms: Some(400),
        ..manifest(2, 1990, &[3])
    });
    // A sweep that looked at 1980 deletes both; so nobody may begin to refer to 3.
    let plan = plan(&seen);
    assert_eq!(
        (plan.delete, plan.reprieved, plan.close),
        (set(&[4]), set(&[3]), vec![])
    );
}

#[test]
fn times_that_protect_nothing_are_refused_and_a_clock_that_went_back_deletes_nothing() {
    let times = Times { grace_ms: 100, ..TIMES };
    let none = BTreeSet::new();
    assert_eq!(plan_sweep(&seen(0), &none, times), Err(SweepError::GraceTooShort));
    // A clock that went back makes everything young.
    assert_eq!(plan(&seen(-1_000_000)), SweepPlan::default());
}
