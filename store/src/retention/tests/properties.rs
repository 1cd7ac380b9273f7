//! Random histories and random nonsense against the [`Model`], and what must hold of any plan. `SEAWALL_RETENTION_CASES` sets how
//! many (default 2000).

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::model::{Case, Model};
use super::*;

mod invariants;
mod world;

use world::{Moment, World};

/// No LSN of a case is this high.
const LSN_END: u64 = 96;

/// Bytes of WAL that stay, one bit for each LSN.
type Bytes = u128;

fn run<S: Strategy>(strategy: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let cases = std::env::var("SEAWALL_RETENTION_CASES")
        .ok()
        .and_then(|text| text.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(2000),
        failure_persistence: None,
        ..Config::default()
    };
    if let Err(failure) = TestRunner::new(config).run(strategy, test) {
        panic!("{failure}");
    }
}

fn bytes(plan: &RetentionPlan, (lineage, timeline): (LineageId, u32)) -> Bytes {
    let kept = (0..LSN_END).filter(|lsn| plan.keeps_wal(lineage, timeline, *lsn, lsn + 1));
    kept.fold(0, |bits, lsn| bits | 1 << lsn)
}

fn plan(case: &Case, rules: &Rules) -> RetentionPlan {
    plan_retention(rules, &case.backups, &case.ancestry, case.now)
}

/// What is left when a plan has been carried out.
fn left(case: &Case, plan: &RetentionPlan) -> Case {
    let stays = |b: &&Backup| plan.verdicts.iter().any(|v| v.id == b.id && !v.kept.is_empty());
    Case {
        backups: case.backups.iter().filter(stays).copied().collect(),
        ..case.clone()
    }
}

/// Rules out of small numbers; 0 leaves one out.
fn rules() -> impl Strategy<Value = Rules> {
    let hours = |n: u8| {
        [
            None,
            Some(0),
            Some(1),
            Some(24),
            Some(100),
            Some(900),
            Some(9000),
            Some(u64::MAX / 3600),
        ][usize::from(n)]
    };
    let span = move |n: u8| hours(n).map(|hours| Duration::from_secs(hours * 3600));
    let number = |n: u8| NonZeroU32::new(u32::from(n.saturating_sub(3)));
    (0u8..8, 0u8..8, proptest::array::uniform5(0u8..7)).prop_map(move |(within, window, counts)| {
        let [last, daily, weekly, monthly, yearly] = counts.map(number);
        Rules {
            keep_within: span(if within > 5 { 0 } else { within }),
            keep_last: last,
            keep_daily: daily,
            keep_weekly: weekly,
            keep_monthly: monthly,
            keep_yearly: yearly,
            window: span(window),
        }
    })
}

/// Is a moment restored by some backup of the case with WAL of which `has` knows every byte?
fn restorable(case: &Case, moment: &Moment, has: impl Fn(u32, u64) -> bool) -> bool {
    let parent = |timeline| {
        let entry = case
            .ancestry
            .iter()
            .find(|e| e.lineage == moment.lineage && e.timeline == timeline);
        entry.and_then(|e| e.parent)
    };
    case.backups
        .iter()
        .filter(|b| b.lineage == moment.lineage && b.end_lsn <= moment.lsn)
        .any(|backup| {
            // Backwards from the moment, byte by byte, to the start of the backup.
            let (mut timeline, mut lsn) = (moment.timeline, moment.lsn);
            loop {
                if timeline == backup.timeline && lsn <= backup.start_lsn {
                    return true;
                }
                match parent(timeline) {
                    // What lies before the switch comes from the parent; the backup must have ended by then.
                    Some((before, switch)) if lsn <= switch => {
                        if timeline == backup.timeline || backup.end_lsn > switch {
                            return false;
                        }
                        timeline = before;
                    }
                    _ if lsn == 0 || !has(timeline, lsn - 1) => return false,
                    _ => lsn -= 1,
                }
            }
        })
}

#[test]
fn every_moment_in_the_window_stays_restorable_also_when_it_is_done_again_later() {
    run(
        &(world::worlds(), rules(), 0i64..2000),
        |(world, rules, hours_later)| {
            let Some(window) = rules.window else { return Ok(()) };
            let before = &world.case;
            let first = plan(before, &rules);
            let after = left(before, &first);
            let later = Case {
                now: after.now + jiff::SignedDuration::from_hours(hours_later),
                ..after.clone()
            };
            let second = plan(&later, &rules);
            let at_last = left(&later, &second);
            let start = |case: &Case| case.now.checked_sub(window).unwrap_or(Timestamp::MIN);
            for (at, moment) in world.moments.iter().enumerate() {
                if !world.is_moment_since(at, start(before)) {
                    continue;
                }
                if !restorable(before, moment, |_, _| true) {
                    continue;
                }
                let has = |plan: &RetentionPlan, timeline, lsn| plan.keeps_wal(moment.lineage, timeline, lsn, lsn + 1);
                prop_assert!(
                    restorable(&after, moment, |t, lsn| has(&first, t, lsn)),
                    "lost {moment:?}\n{first:#?}"
                );
                if world.is_moment_since(at, start(&later)) {
                    let has = |t, lsn| has(&first, t, lsn) && has(&second, t, lsn);
                    prop_assert!(
                        restorable(&at_last, moment, has),
                        "lost later {moment:?}\n{first:#?}\n{second:#?}"
                    );
                }
            }
            Ok(())
        },
    );
}

#[test]
fn the_newest_moment_stays_restorable_whatever_the_rules() {
    run(&(world::worlds(), rules()), |(world, rules)| {
        let World { case, moments } = &world;
        let plan = plan(case, &rules);
        let Some(newest) = moments.last().filter(|moment| restorable(case, moment, |_, _| true)) else {
            return Ok(());
        };
        let has = |timeline, lsn| plan.keeps_wal(newest.lineage, timeline, lsn, lsn + 1);
        prop_assert!(
            restorable(&left(case, &plan), newest, has),
            "lost {newest:?}\n{plan:#?}"
        );
        Ok(())
    });
}
