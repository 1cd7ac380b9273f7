//! One plain example for each rule.

mod model;
mod properties;

use super::*;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const A: LineageId = LineageId::from_number(1);
const B: LineageId = LineageId::from_number(2);

fn number(id: BackupId) -> u128 {
    u128::from_be_bytes(id.to_bytes())
}

fn at(text: &str) -> Timestamp {
    let text = if text.contains('T') {
        format!("{text}:00Z")
    } else {
        format!("{text}T00:00:00Z")
    };
    text.parse().unwrap()
}

fn days(count: u64) -> Option<Duration> {
    Some(Duration::from_secs(count * DAY))
}

fn count(count: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(count)
}

/// A backup of 10 bytes of WAL.
fn backup(id: u128, lineage: LineageId, timeline: u32, start_lsn: u64, ended: &str) -> Backup {
    Backup {
        id: BackupId::from_number(id),
        lineage,
        timeline,
        start_lsn,
        end_lsn: start_lsn + 10,
        stored_at: at(ended),
        end_time: at(ended),
        pinned: false,
        proven: false,
    }
}

/// One backup a day at midnight from the first of January 2026 on, ids from 1, LSNs in hundreds.
fn daily(count: u128) -> Vec<Backup> {
    let first = at("2026-01-01");
    let nth = |n: u128| {
        let mut backup = backup(n, A, 1, n as u64 * 100, "2026-01-01");
        backup.stored_at = first + Duration::from_secs((n as u64 - 1) * DAY);
        backup.end_time = backup.stored_at;
        backup
    };
    (1..=count).map(nth).collect()
}

fn timeline(lineage: LineageId, timeline: u32, parent: Option<(u32, u64)>, ended_at: Option<&str>) -> TimelineOf {
    TimelineOf {
        lineage,
        timeline,
        parent,
        ended_at: ended_at.map(at),
    }
}

fn kept(plan: &RetentionPlan) -> Vec<u128> {
    let kept = plan.verdicts.iter().filter(|verdict| !verdict.kept.is_empty());
    kept.map(|verdict| number(verdict.id)).collect()
}

fn reasons(plan: &RetentionPlan, id: u128) -> Vec<Reason> {
    let verdict = plan.verdicts.iter().find(|verdict| number(verdict.id) == id);
    verdict.unwrap().kept.clone()
}

fn wal(plan: &RetentionPlan, lineage: LineageId, timeline: u32) -> Vec<WalRange> {
    let of = plan
        .wal
        .iter()
        .find(|keep| keep.lineage == lineage && keep.timeline == timeline);
    of.unwrap().ranges.clone()
}

fn piece(start: u64, end: u64) -> WalRange {
    WalRange::StartToEnd { start, end }
}

fn on(from: u64) -> WalRange {
    WalRange::Continuous { from }
}

#[test]
fn without_rules_everything_stays() {
    let plan = plan_retention(&Rules::default(), &daily(3), &[], at("2027-01-01"));
    assert_eq!(kept(&plan), [1, 2, 3]);
    assert!(reasons(&plan, 1).contains(&Reason::NoRules));
    assert_eq!(wal(&plan, A, 1), [on(0)]);
}

#[test]
fn nothing_in_gives_nothing_out() {
    let rules = Rules {
        keep_last: count(1),
        ..Rules::default()
    };
    let plan = plan_retention(&rules, &[], &[], at("2027-01-01"));
    assert_eq!((plan.verdicts.len(), plan.wal.len()), (0, 0));
    assert!(plan.keeps_wal(A, 1, 0, 1), "a timeline that it does not know");
}

#[test]
fn keep_last_counts_and_keeps_wal_from_the_oldest_on() {
    let rules = Rules {
        keep_last: count(2),
        ..Rules::default()
    };
    let plan = plan_retention(&rules, &daily(5), &[], at("2026-01-05"));
    assert_eq!(kept(&plan), [4, 5]);
    assert_eq!(reasons(&plan, 4), [Reason::Last]);
    assert_eq!(reasons(&plan, 5), [Reason::Newest, Reason::Last]);
    assert_eq!(wal(&plan, A, 1), [on(400)]);
    assert_eq!(plan.going().map(number).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn keep_within_goes_by_age_and_includes_its_limit() {
    let rules = Rules {
        keep_within: days(2),
        ..Rules::default()
    };
    let plan = plan_retention(&rules, &daily(5), &[], at("2026-01-05"));
    assert_eq!(kept(&plan), [3, 4, 5]);
    assert_eq!(wal(&plan, A, 1), [on(300)]);
    let plan = plan_retention(&rules, &daily(5), &[], at("2026-01-05T00:01"));
    assert_eq!(kept(&plan), [4, 5]);
}

#[test]
fn keep_daily_keeps_the_newest_of_each_utc_day_that_has_one() {
    let backups = [
        backup(1, A, 1, 100, "2026-01-01T12:00"),
        backup(2, A, 1, 200, "2026-01-02T00:00"),
        backup(3, A, 1, 300, "2026-01-02T23:59"),
        backup(4, A, 1, 400, "2026-01-09T00:00"),
        backup(5, A, 1, 500, "2026-01-09T01:00"),
    ];
    let rules = Rules {
        keep_daily: count(2),
        ..Rules::default()
    };
    let plan = plan_retention(&rules, &backups, &[], at("2026-03-01"));
    assert_eq!(kept(&plan), [3, 5]);
    assert_eq!(wal(&plan, A, 1), [piece(300, 310), on(500)]);
}

#[test]
fn weeks_begin_on_monday_and_belong_to_the_iso_year() {
    let backups = [
        backup(1, A, 1, 100, "2025-12-28"), // Sunday of 2025-W52
        backup(2, A, 1, 200, "2025-12-29"), // Monday of 2026-W01
        backup(3, A, 1, 300, "2026-01-04"), // Sunday of 2026-W01
        backup(4, A, 1, 400, "2026-01-05"), // Monday of 2026-W02
    ];
    let rules = Rules {
        keep_weekly: count(9),
        ..Rules::default()
    };
    assert_eq!(
        kept(&plan_retention(&rules, &backups, &[], at("2026-02-01"))),
        [1, 3, 4]
    );
}

#[test]
fn months_and_years_are_those_of_the_calendar() {
    let backups = [
        backup(1, A, 1, 100, "2024-05-31"),
        backup(2, A, 1, 200, "2025-05-31"),
        backup(3, A, 1, 300, "2025-06-01"),
        backup(4, A, 1, 400, "2026-06-30"),
        backup(5, A, 1, 500, "2026-07-01"),
    ];
    let now = at("2026-08-01");
    let monthly = Rules {
        keep_monthly: count(3),
        ..Rules::default()
    };
    assert_eq!(kept(&plan_retention(&monthly, &backups, &[], now)), [3, 4, 5]);
    let yearly = Rules {
        keep_yearly: count(2),
        ..Rules::default()
    };
    assert_eq!(kept(&plan_retention(&yearly, &backups, &[], now)), [3, 5]);
}

#[test]
fn pinned_and_the_newest_proven_stay_with_the_wal_that_they_need() {
    let mut backups = daily(6);
    backups[0].pinned = true;
    backups[1].proven = true;
    backups[2].proven = true;
    let rules = Rules {
        keep_last: count(1),
        ..Rules::default()
    };
    let plan = plan_retention(&rules, &backups, &[], at("2026-01-06"));
    assert_eq!(kept(&plan), [1, 3, 6]);
    assert_eq!(reasons(&plan, 1), [Reason::Pinned]);
    assert_eq!(reasons(&plan, 3), [Reason::NewestProven]);
    assert_eq!(wal(&plan, A, 1), [piece(100, 110), on(300)]);
}

#[test]
fn when_backups_stop_the_newest_stays() {
    let rules = Rules {
        keep_within: days(7),
        window: days(1),
        ..Rules::default()
    };
    let plan = plan_retention(&rules, &daily(3), &[], at("2030-01-01"));
    assert_eq!(kept(&plan), [3]);
    assert_eq!(wal(&plan, A, 1), [on(300)]);
}

#[test]
fn the_window_keeps_its_base_and_all_wal_from_there() {
    let rules = Rules {
        window: days(2),
        keep_last: count(5),
        ..Rules::default()
    };
    let plan = plan_retention(&rules, &daily(6), &[], at("2026-01-06T12:00"));
    assert_eq!(kept(&plan), [2, 3, 4, 5, 6]);
    assert_eq!(reasons(&plan, 4), [Reason::WindowBase, Reason::Last]);
    assert_eq!(reasons(&plan, 5), [Reason::Window, Reason::Last]);
    assert_eq!(wal(&plan, A, 1), [piece(200, 210), piece(300, 310), on(400)]);
}

#[test]
fn a_window_older_than_every_backup_keeps_all() {
    let rules = Rules {
        window: Some(Duration::MAX),
        ..Rules::default()
    };
    let plan = plan_retention(&rules, &daily(3), &[], at("2026-01-06"));
    assert_eq!(kept(&plan), [1, 2, 3]);
    assert_eq!(reasons(&plan, 1), [Reason::Window]);
}

#[test]
fn the_base_of_a_new_timeline_lies_on_the_one_it_came_from() {
    let backups = [
        backup(1, A, 1, 100, "2026-01-01"),
        backup(2, A, 1, 200, "2026-01-02"),
        backup(3, A, 1, 300, "2026-01-03"), // ended after the switch at 250
        backup(4, A, 2, 400, "2026-01-09"),
    ];
    let ancestry = [
        timeline(A, 1, None, Some("2026-01-03")),
        timeline(A, 2, Some((1, 250)), None),
    ];
    let rules = Rules {
        window: days(4),
        ..Rules::default()
    };
    let plan = plan_retention(&rules, &backups, &ancestry, at("2026-01-10"));
    assert_eq!(kept(&plan), [2, 4]);
    assert_eq!((wal(&plan, A, 1), wal(&plan, A, 2)), (vec![on(200)], vec![on(0)]));
}

#[test]
fn a_timeline_that_ended_before_the_window_needs_no_base() {
    let backups = [
        backup(1, A, 1, 100, "2026-01-01"),
        backup(2, A, 2, 200, "2026-01-02"),
        backup(3, A, 2, 300, "2026-01-03"),
    ];
    let rules = Rules {
        window: days(4),
        ..Rules::default()
    };
    let now = at("2026-01-10");
    let ended = [
        timeline(A, 1, None, Some("2026-01-02")),
        timeline(A, 2, Some((1, 150)), None),
    ];
    let plan = plan_retention(&rules, &backups, &ended, now);
    assert_eq!(kept(&plan), [3]);
    assert_eq!((wal(&plan, A, 1), wal(&plan, A, 2)), (vec![], vec![on(300)]));
    let growing = [timeline(A, 1, None, None), ended[1]];
    let plan = plan_retention(&rules, &backups, &growing, now);
    assert_eq!(kept(&plan), [1, 3], "nobody said that timeline 1 ended");
    assert_eq!((wal(&plan, A, 1), wal(&plan, A, 2)), (vec![on(100)], vec![on(0)]));
}

#[test]
fn a_lineage_that_was_left_expires_and_the_new_one_keeps_its_newest() {
    let backups = [
        backup(1, A, 1, 100, "2026-01-01"),
        backup(2, B, 1, 100, "2026-01-02"),
        backup(3, B, 1, 200, "2026-01-03"),
    ];
    let rules = Rules {
        window: days(1),
        ..Rules::default()
    };
    let ancestry = [
        timeline(A, 1, None, Some("2026-01-01T12:00")),
        timeline(B, 1, None, None),
    ];
    let plan = plan_retention(&rules, &backups, &ancestry, at("2026-02-01"));
    assert_eq!(kept(&plan), [3]);
    assert_eq!((wal(&plan, A, 1), wal(&plan, B, 1)), (vec![], vec![on(200)]));
}

#[test]
fn the_newest_of_the_newest_lineage_stays_beside_a_newer_one_of_another() {
    let backups = [
        backup(1, B, 1, 100, "2026-01-01"),
        backup(2, B, 1, 200, "2026-01-02"),
        backup(3, A, 1, 300, "2026-01-03"),
    ];
    let rules = Rules {
        keep_last: count(1),
        ..Rules::default()
    };
    let plan = plan_retention(&rules, &backups, &[], at("2026-02-01"));
    assert_eq!(kept(&plan), [2, 3]);
}

#[test]
fn a_lineage_that_begins_keeps_all_wal_for_its_first_backup() {
    let rules = Rules {
        keep_last: count(1),
        ..Rules::default()
    };
    let ancestry = [timeline(A, 1, None, Some("2026-01-04")), timeline(B, 1, None, None)];
    let plan = plan_retention(&rules, &daily(3), &ancestry, at("2026-01-05"));
    assert_eq!((wal(&plan, A, 1), wal(&plan, B, 1)), (vec![on(300)], vec![on(0)]));
}

#[test]
fn right_after_a_failover_wal_of_both_timelines_stays() {
    let ancestry = [
        timeline(A, 1, None, Some("2026-01-04")),
        timeline(A, 2, Some((1, 350)), None),
    ];
    let rules = Rules {
        keep_daily: count(2),
        ..Rules::default()
    };
    let plan = plan_retention(&rules, &daily(3), &ancestry, at("2026-01-05"));
    assert_eq!(wal(&plan, A, 1), [piece(200, 210), on(300)]);
    assert_eq!(wal(&plan, A, 2), [on(0)]);
}

#[test]
fn backups_from_the_future_stay_are_said_and_use_up_no_count() {
    let mut backups = daily(4);
    backups[1].stored_at = at("2031-01-01");
    let rules = Rules {
        keep_last: count(1),
        ..Rules::default()
    };
    let plan = plan_retention(&rules, &backups, &[], at("2026-02-01"));
    assert_eq!(kept(&plan), [2, 4]);
    assert_eq!(reasons(&plan, 2), [Reason::FromTheFuture]);
}

#[test]
fn a_clock_before_everything_deletes_nothing() {
    let rules = Rules {
        keep_last: count(1),
        window: days(1),
        ..Rules::default()
    };
    let plan = plan_retention(&rules, &daily(4), &[], at("1999-01-01"));
    assert_eq!(kept(&plan), [1, 2, 3, 4]);
    assert!(reasons(&plan, 1).contains(&Reason::FromTheFuture));
    assert_eq!(wal(&plan, A, 1), [on(0)]);
}

#[test]
fn a_lineage_with_a_missing_history_is_kept_whole() {
    let mut backups = daily(3);
    backups.push(backup(4, A, 2, 400, "2026-01-04"));
    let rules = Rules {
        keep_last: count(1),
        ..Rules::default()
    };
    let plan = plan_retention(&rules, &backups, &[], at("2026-02-01"));
    assert_eq!(kept(&plan), [1, 2, 3, 4]);
    assert_eq!(reasons(&plan, 1), [Reason::UnknownDescent]);
    assert_eq!((wal(&plan, A, 1), wal(&plan, A, 2)), (vec![on(0)], vec![on(0)]));
}

#[test]
fn ranges_that_touch_are_one() {
    let mut backups = daily(4);
    backups[0].end_lsn = 200;
    backups[2].end_lsn = 400;
    let rules = Rules {
        keep_daily: count(9),
        ..Rules::default()
    };
    let plan = plan_retention(&rules, &backups, &[], at("2026-02-01"));
    assert_eq!(wal(&plan, A, 1), [piece(100, 210), on(300)]);
    assert!(plan.keeps_wal(A, 1, 50, 101) && plan.keeps_wal(A, 1, 209, 250) && plan.keeps_wal(A, 1, 900, 901));
    assert!(!plan.keeps_wal(A, 1, 50, 100) && !plan.keeps_wal(A, 1, 210, 300));
}

#[test]
fn a_backup_that_began_before_the_switch_needs_the_timeline_before() {
    let backups = [backup(1, A, 2, 100, "2026-01-01"), backup(2, A, 2, 300, "2026-01-02")];
    let ancestry = [
        timeline(A, 1, None, Some("2026-01-01")),
        timeline(A, 2, Some((1, 105)), None),
    ];
    let rules = Rules {
        keep_daily: count(2),
        ..Rules::default()
    };
    let plan = plan_retention(&rules, &backups, &ancestry, at("2026-02-01"));
    assert_eq!(wal(&plan, A, 1), [piece(100, 105)]);
    assert_eq!(wal(&plan, A, 2), [piece(100, 110), on(300)]);
}

#[test]
fn a_timeline_that_ended_as_the_window_begins_still_has_a_moment_in_it() {
    let backups = [backup(1, A, 1, 100, "2026-01-01"), backup(2, B, 1, 100, "2026-01-09")];
    let rules = Rules {
        window: days(4),
        ..Rules::default()
    };
    let ended = |ended| [timeline(A, 1, None, Some(ended)), timeline(B, 1, None, None)];
    let now = at("2026-01-10");
    assert_eq!(
        kept(&plan_retention(&rules, &backups, &ended("2026-01-06"), now)),
        [1, 2]
    );
    assert_eq!(
        kept(&plan_retention(&rules, &backups, &ended("2026-01-05T23:59"), now)),
        [2]
    );
}
