//! Which backups stay, which go, and which WAL stays with them. Pure: what is there and what time it is come in as arguments, a
//! plan comes out, nothing is deleted here. A crash between two deletions is met by planning again from what is left.
//!
//! # Which backups are kept
//! A backup is kept when **any** rule keeps it; it goes only when none does. Without any rule everything is kept.
//!
//! | rule | keeps |
//! |---|---|
//! | `window` | what is needed to restore every moment from `now - window` on, see below |
//! | `keep_within` | every backup that was stored at most this long ago |
//! | `keep_last` | this many of the newest |
//! | `keep_daily`, `keep_weekly`, `keep_monthly`, `keep_yearly` | the newest of each of the newest so many UTC days, ISO weeks (from Monday), months, years *that have a backup*: when backups stop, nothing expires |
//!
//! Whatever the rules say, these are kept:
//! - pinned backups;
//! - the newest proven backup, until a newer one is proven;
//! - the newest backup, the newest of the newest lineage, and the newest from which each timeline that may still grow can be
//!   reached;
//! - backups that were stored after `now`: one of the two clocks is wrong. They use up no count. When all are such, no rule is
//!   applied to anything, so a clock that jumps back deletes nothing;
//! - every backup of a lineage in which it is not known what a timeline came from (its history is missing or contradicts
//!   itself): what could be reached from where cannot be judged.
//!
//! Age and calendar go by the time of the store's clock, `window` by the time at which a backup ended.
//!
//! # The window
//! A moment is restored from a backup that ended before it, and all WAL from the start of that backup to the moment. So the
//! backup that ended last *before* the window begins, its **base**, is kept besides all that ended within: it is older than the
//! window says. There is a base for each timeline that has moments in the window; it may lie on a timeline that this one came
//! from, if it ended before the switch. A timeline has moments in the window unless its `ended_at` lies before; without an
//! `ended_at` it is taken to grow, and a base is kept for it as long as nobody says that it ended.
//!
//! Backups inside the window stay although the base and WAL would do: replaying a whole window takes long, one damaged base would
//! cost all of it, and the base could not move on before the whole window had passed once more.
//!
//! # Which WAL is kept
//! For each timeline some stretches *from start to end* of a backup, and at most one *continuous* stretch that never ends.
//! - From backups that are a base or inside the **window**, WAL is kept continuously.
//! - Where `window` is not set, WAL is kept continuously from the backups that `keep_within` and `keep_last` keep.
//! - In any case WAL is kept continuously from the newest backup, from the newest proven one (the newest may turn out not to be
//!   restorable), from the newest ones listed above, and from those from the future.
//! - Continuous WAL follows the switch to other timelines: when it covers the switch, everything of the new timeline is kept.
//! - Other backups are kept with WAL from their start to their end: they restore to their own end, and to no later moment.
//! - A timeline that may still grow, and that no backup reaches yet, keeps everything: its first backup may be under way.
//! - With no rules, or all backups from the future, or an unknown descent, everything is kept.
//!
//! Because `window` says how far back moments are restorable, adding it to `keep_within` or `keep_last` can give up WAL, though
//! never a backup. No other rule that is added, and no number that is raised, gives anything up.
//!
//! # What the caller owes
//! - Every timeline that has WAL in the repository, and each that one came from, as a [`TimelineOf`]. Of a timeline that the plan
//!   does not know, [`RetentionPlan::keeps_wal`] keeps everything.
//! - `ended_at` for each timeline that is not written any more. `None` costs space, a time that is too early costs moments.
//! - WAL is deleted by whole objects, and only those of which nothing is kept. Histories of timelines are not WAL; they stay.
//! - A backup under way is not known here. WAL from the start of the newest complete one stays; when one that began earlier still
//!   runs, the caller keeps WAL from its start.

mod by_time;
mod descent;
mod reason;
#[cfg(test)]
mod tests;
mod wal;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::Timestamp;

use crate::id::{BackupId, LineageId};

use by_time::Period;
use descent::Descent;

pub use reason::Reason;
pub use wal::{WalKeep, WalRange};

/// What to keep. A backup that any of these keeps is kept; without any, everything is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rules {
    /// Backups stored at most this long ago.
    pub keep_within: Option<Duration>,
    /// So many of the newest backups.
    pub keep_last: Option<NonZeroU32>,
    /// The newest backup of each of so many UTC days.
    pub keep_daily: Option<NonZeroU32>,
    /// The newest backup of each of so many ISO weeks.
    pub keep_weekly: Option<NonZeroU32>,
    /// The newest backup of each of so many months.
    pub keep_monthly: Option<NonZeroU32>,
    /// The newest backup of each of so many years.
    pub keep_yearly: Option<NonZeroU32>,
    /// How far back every moment stays restorable.
    pub window: Option<Duration>,
}

/// A complete backup: its manifest exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backup {
    /// Its id.
    pub id: BackupId,
    /// Lineage it was taken in.
    pub lineage: LineageId,
    /// Timeline of `start_lsn` and `end_lsn`.
    pub timeline: u32,
    /// WAL is needed from here.
    pub start_lsn: u64,
    /// Consistent from here.
    pub end_lsn: u64,
    /// When its manifest was stored, by the store's clock.
    pub stored_at: Timestamp,
    /// When it ended, by the clock of the database's host: the earliest moment that it restores.
    pub end_time: Timestamp,
    /// The operator said that it stays.
    pub pinned: bool,
    /// A server was started on a restore of it.
    pub proven: bool,
}

/// A timeline, what it came from, and whether it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimelineOf {
    /// Lineage.
    pub lineage: LineageId,
    /// Timeline.
    pub timeline: u32,
    /// Timeline it came from, and the LSN up to which it shares that one's WAL. `None` for the first of the lineage.
    pub parent: Option<(u32, u64)>,
    /// When its newest WAL was stored, if it is not written any more: it has no later moment. `None` while it may grow.
    pub ended_at: Option<Timestamp>,
}

/// What becomes of everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionPlan {
    /// One for each backup, in the order in which they came in.
    pub verdicts: Vec<Verdict>,
    /// One for each known timeline, sorted. WAL that is in none of its ranges goes.
    pub wal: Vec<WalKeep>,
}

/// What becomes of one backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The backup.
    pub id: BackupId,
    /// Why it is kept, sorted; it goes when this is empty.
    pub kept: Vec<Reason>,
}

impl RetentionPlan {
    /// The backups that go.
    pub fn going(&self) -> impl Iterator<Item = BackupId> {
        self.verdicts
            .iter()
            .filter(|verdict| verdict.kept.is_empty())
            .map(|verdict| verdict.id)
    }

    /// Must WAL from `start` to before `end` stay, in part or as a whole? Yes for a timeline that was not known.
    pub fn keeps_wal(&self, lineage: LineageId, timeline: u32, start: u64, end: u64) -> bool {
        let key = (lineage, timeline);
        match self
            .wal
            .binary_search_by_key(&key, |keep| (keep.lineage, keep.timeline))
        {
            Ok(at) => self
                .wal
                .get(at)
                .is_none_or(|keep| keep.ranges.iter().any(|range| range.overlaps(start, end))),
            Err(_) => true,
        }
    }
}

/// Reasons by backup. A backup that was listed twice is judged once.
type Kept = BTreeMap<BackupId, BTreeSet<Reason>>;

/// Judges every backup, and the WAL of every timeline.
pub fn plan_retention(rules: &Rules, backups: &[Backup], ancestry: &[TimelineOf], now: Timestamp) -> RetentionPlan {
    let (future, mut past): (Vec<&Backup>, Vec<&Backup>) = backups.iter().partition(|backup| backup.stored_at > now);
    past.sort_by_key(|backup| std::cmp::Reverse(age_order(backup)));
    let descent = Descent::new(backups, ancestry, past.first().copied());

    let mut kept = Kept::new();
    let mut keep = |id: BackupId, reason: Reason| {
        kept.entry(id).or_default().insert(reason);
    };
    future.iter().for_each(|backup| keep(backup.id, Reason::FromTheFuture));
    let nothing_applies = *rules == Rules::default() || past.is_empty();
    if *rules == Rules::default() {
        backups.iter().for_each(|backup| keep(backup.id, Reason::NoRules));
    }
    for backup in backups {
        if backup.pinned {
            keep(backup.id, Reason::Pinned);
        }
        if descent.is_unknown(backup.lineage) {
            keep(backup.id, Reason::UnknownDescent);
        }
    }
    keep_newest(&past, &descent, &mut keep);
    apply(rules, &past, now, &mut keep);
    if let Some(window) = rules.window {
        window::apply(backups, &descent, earlier(now, window), &mut keep);
    }

    let wal = if nothing_applies {
        wal::everything(&descent)
    } else {
        wal::plan(backups, &kept, &descent, rules.window.is_some())
    };
    let verdicts = backups.iter().map(|backup| Verdict {
        id: backup.id,
        kept: kept.get(&backup.id).into_iter().flatten().copied().collect(),
    });
    RetentionPlan {
        verdicts: verdicts.collect(),
        wal,
    }
}

/// What no rule may give up. `past` is sorted, newest first.
fn keep_newest(past: &[&Backup], descent: &Descent, keep: &mut impl FnMut(BackupId, Reason)) {
    if let Some(proven) = past.iter().find(|backup| backup.proven) {
        keep(proven.id, Reason::NewestProven);
    }
    let newest_lineage = past.iter().map(|backup| backup.lineage).max();
    let newest_there = past.iter().find(|backup| Some(backup.lineage) == newest_lineage);
    for newest in past.first().into_iter().chain(newest_there) {
        keep(newest.id, Reason::Newest);
    }
    for (lineage, timeline) in descent.growing() {
        if let Some(newest) = descent.reaching(past, lineage, timeline).last() {
            keep(newest.id, Reason::Newest);
        }
    }
}

/// The rules that go by count, age and calendar. `past` is sorted, newest first.
fn apply(rules: &Rules, past: &[&Backup], now: Timestamp, keep: &mut impl FnMut(BackupId, Reason)) {
    if let Some(age) = rules.keep_within {
        let since = earlier(now, age);
        let within = past.iter().filter(|backup| backup.stored_at >= since);
        within.for_each(|backup| keep(backup.id, Reason::Within));
    }
    if let Some(count) = rules.keep_last {
        let last = past.iter().take(count.get() as usize);
        last.for_each(|backup| keep(backup.id, Reason::Last));
    }
    let periods = [
        (rules.keep_daily, Period::Day, Reason::Daily),
        (rules.keep_weekly, Period::Week, Reason::Weekly),
        (rules.keep_monthly, Period::Month, Reason::Monthly),
        (rules.keep_yearly, Period::Year, Reason::Yearly),
    ];
    for (count, period, reason) in periods {
        let Some(count) = count else { continue };
        for id in by_time::newest_of_each(past, period, count) {
            keep(id, reason);
        }
    }
}

/// From old to new. The id decides between two of the same instant.
fn age_order(backup: &Backup) -> (Timestamp, BackupId) {
    (backup.stored_at, backup.id)
}

/// The instant this long before; the first that there is, if it was longer ago.
fn earlier(now: Timestamp, by: Duration) -> Timestamp {
    now.checked_sub(by).unwrap_or(Timestamp::MIN)
}
