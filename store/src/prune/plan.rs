//! What is to be done now, and what will be when its grace is over. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use pg::lsn::Lsn;
use pg::timeline::TimelineId;

use super::{Going, ListSeen, Looked, Policy};
use crate::error::StoreError;
use crate::id::{BackupId, LineageId, PackId};
use crate::inventory::Named;
use crate::layout::WalRange;
use crate::limits::SEGMENT_BYTES_MAX;
use crate::object::{ObjectMeta, ObjectName};
use crate::records::{Condemned, GIVEN_UP, KeptRange, KeptWal, LostWal};
use crate::retention::{self, Reason, RetentionPlan, plan_retention};
use crate::sweep::{self, is_in_time, plan_sweep};

/// What becomes of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which.
    pub id: BackupId,
    /// Why it is kept; it goes when this is empty.
    pub kept: Vec<Reason>,
    /// Its manifest came too late: it cannot be relied on.
    pub is_late: bool,
}

/// What one run does, in this order.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// One for each backup, oldest first.
    pub verdicts: Vec<Verdict>,
    /// Packs to delete: their grace is over.
    pub packs: Vec<Going>,
    /// WAL to delete: its grace is over.
    pub wal: Vec<Going>,
    /// Where deleted WAL leaves a hole between what stays: it is written down first, so that nobody takes it for a loss.
    pub holes: Vec<LostWal>,
    /// Tails to delete, each with the whole objects that hold what it holds: when these are what they say.
    pub tails: Vec<(Going, Vec<(WalRange, ObjectName)>)>,
    /// What running backups have left, to delete.
    pub leftovers: Vec<Going>,
    /// Lists that are done with.
    pub close: Vec<ObjectName>,
    /// The list to write; none when there is nothing new to write down.
    pub list: Option<Condemned>,
    /// Backups to give up: their manifests are deleted, last of all.
    pub retire: Vec<BackupId>,
    /// Packs that are written down in this run, or were before, and will be deleted.
    pub waiting: Vec<Going>,
    /// WAL that will be deleted.
    pub wal_waiting: Vec<Going>,
    /// Indexes whose backup is gone; they go when all packs that they name are.
    pub indexes: Vec<BackupId>,
    /// Packs that stay, although a list named them: a backup needs them again.
    pub reprieved: usize,
    /// Bytes of everything that was seen.
    pub bytes: u64,
}

/// Plans a run.
///
/// # Errors
/// The grace is shorter than a backup may take.
pub fn plan(looked: &Looked, policy: &Policy, host: &str, now_us: i64) -> Result<Plan, StoreError> {
    let times = policy.times();
    let retention = retain(looked, policy)?;
    let is_old = |stored_ms: i64| looked.sweep.now_ms.saturating_sub(stored_ms) > times.grace_ms;
    let late = looked
        .sweep
        .manifests
        .iter()
        .filter(|manifest| !is_in_time(manifest, times));
    let late: BTreeMap<BackupId, i64> = late.map(|manifest| (manifest.backup, manifest.stored_ms)).collect();
    let mut retire: BTreeSet<BackupId> = retention.going().collect();
    retire.extend(
        late.iter()
            .filter(|(_, stored_ms)| is_old(**stored_ms))
            .map(|(id, _)| *id),
    );
    retire.retain(|id| !looked.pinned.contains(id));
    let sweep = plan_sweep(&looked.sweep, &retire, times).map_err(|error| StoreError::Limit {
        what: "the grace",
        detail: error.to_string(),
    })?;
    let kept = kept_wal(&retention);
    let (wal, wal_waiting) = wal_that_goes(looked, &kept, &is_old);
    let holes = holes(looked, &wal, host, now_us);
    let wal = wal.into_iter().map(|(_, meta)| Going::from(meta)).collect();
    let mut plan = Plan {
        verdicts: verdicts(&retention, &late),
        packs: looked.going(&sweep.delete),
        tails: covered_tails(looked, &is_old),
        leftovers: leftovers(looked, &is_old),
        close: close(looked, &sweep.close, &is_old),
        waiting: looked.waiting(&sweep, &is_old),
        reprieved: sweep.reprieved.len(),
        retire: retire.into_iter().collect(),
        bytes: looked.bytes,
        wal,
        holes,
        wal_waiting,
        indexes: Vec::new(),
        list: None,
    };
    plan.indexes = orphaned(looked, &plan.retire);
    let condemned: Vec<PackId> = sweep
        .condemn
        .iter()
        .filter_map(|number| looked.numbers.pack(*number))
        .collect();
    if !condemned.is_empty() || !plan.retire.is_empty() || !plan.wal_waiting.is_empty() {
        plan.list = Some(Condemned {
            time_us: now_us,
            host: host.to_owned(),
            packs: condemned,
            retired: plan.retire.clone(),
            wal: Some(kept),
        });
    }
    Ok(plan)
}

impl Plan {
    /// Nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let deleted = [&self.packs, &self.wal, &self.leftovers];
        deleted.iter().all(|going| going.is_empty())
            && self.tails.is_empty()
            && self.close.is_empty()
            && self.retire.is_empty()
            && self.list.is_none()
    }
}

impl Looked {
    fn going(&self, numbers: &BTreeSet<sweep::PackNumber>) -> Vec<Going> {
        let metas = numbers.iter().filter_map(|number| self.packs.get(number));
        metas.map(Going::from).collect()
    }

    /// Packs that stand in a list which is not due, or in the new one, and that nobody who stays needs.
    fn waiting(&self, plan: &sweep::SweepPlan, is_old: &impl Fn(i64) -> bool) -> Vec<Going> {
        let young = self.sweep.lists.iter().filter(|list| !is_old(list.stored_ms));
        let mut numbers: BTreeSet<sweep::PackNumber> = young.flat_map(|list| list.packs.iter().copied()).collect();
        numbers.extend(&plan.condemn);
        let stays = self
            .sweep
            .manifests
            .iter()
            .filter(|manifest| !plan.retire.contains(&manifest.backup));
        for manifest in stays {
            numbers.retain(|number| !manifest.packs.contains(*number));
        }
        self.going(&numbers)
    }
}

fn retain(looked: &Looked, policy: &Policy) -> Result<RetentionPlan, StoreError> {
    let time = |ms: i64| {
        Timestamp::from_millisecond(ms).map_err(|error| StoreError::Limit {
            what: "a time of the store",
            detail: error.to_string(),
        })
    };
    let backup = |seen: &super::BackupSeen| {
        Ok(retention::Backup {
            id: seen.id,
            lineage: seen.lineage,
            timeline: seen.timeline,
            start_lsn: seen.start_lsn,
            end_lsn: seen.end_lsn,
            stored_at: time(seen.stored_ms)?,
            end_time: time(seen.finished_us / 1000)?,
            pinned: looked.pinned.contains(&seen.id),
            proven: false,
        })
    };
    let backups: Vec<_> = looked.backups.iter().map(backup).collect::<Result<_, StoreError>>()?;
    let now = time(looked.sweep.now_ms)?;
    Ok(plan_retention(&policy.rules, &backups, &looked.timelines, now))
}

fn verdicts(retention: &RetentionPlan, late: &BTreeMap<BackupId, i64>) -> Vec<Verdict> {
    let verdicts = retention.verdicts.iter().map(|verdict| Verdict {
        id: verdict.id,
        kept: verdict.kept.clone(),
        is_late: late.contains_key(&verdict.id),
    });
    verdicts.collect()
}

fn kept_wal(retention: &RetentionPlan) -> Vec<KeptWal> {
    let range = |range: &retention::WalRange| match *range {
        retention::WalRange::StartToEnd { start, end } => KeptRange { start, end: Some(end) },
        retention::WalRange::Continuous { from } => KeptRange { start: from, end: None },
    };
    let kept = retention.wal.iter().map(|keep| KeptWal {
        lineage: keep.lineage,
        timeline: keep.timeline,
        ranges: keep.ranges.iter().map(range).collect(),
    });
    kept.collect()
}

/// By timeline, for quick questions.
struct Kept<'a>(BTreeMap<(LineageId, u32), &'a [KeptRange]>);

impl<'a> Kept<'a> {
    fn new(kept: &'a [KeptWal]) -> Self {
        let by_timeline = kept
            .iter()
            .map(|kept| ((kept.lineage, kept.timeline), kept.ranges.as_slice()));
        Kept(by_timeline.collect())
    }

    /// True for WAL of which something stays, and of a timeline that was not known.
    fn keeps(&self, range: &WalRange) -> bool {
        let (start, end) = (range.start.as_u64(), range.end.as_u64());
        let ranges = self.0.get(&(range.lineage, range.timeline.as_u32()));
        ranges.is_none_or(|ranges| {
            let mut ranges = ranges.iter();
            ranges.any(|kept| kept.start < end && kept.end.is_none_or(|kept_end| start < kept_end))
        })
    }
}

/// WAL to delete now, and WAL that waits for its grace. It goes when the newest list that is old says that it does not stay, and so does every
/// list since, and this plan: nobody who began to restore meanwhile relies on it.
fn wal_that_goes<'a>(
    looked: &'a Looked,
    kept: &[KeptWal],
    is_old: &impl Fn(i64) -> bool,
) -> (Vec<&'a (WalRange, ObjectMeta)>, Vec<Going>) {
    let now = Kept::new(kept);
    let newest_old = newest_old(&looked.lists, is_old);
    let since: Vec<Kept<'_>> = looked
        .lists
        .iter()
        .filter(|seen| !is_old(seen.meta.modified_unix_ms))
        .chain(newest_old)
        .filter_map(|seen| seen.list.wal.as_deref().map(Kept::new))
        .collect();
    let (mut delete, mut waiting) = (Vec::new(), Vec::new());
    for object in looked.wal.iter().filter(|(range, _)| !now.keeps(range)) {
        if newest_old.is_some() && since.iter().all(|kept| !kept.keeps(&object.0)) {
            delete.push(object);
        } else {
            waiting.push(Going::from(&object.1));
        }
    }
    (delete, waiting)
}

/// What is deleted behind WAL that stays, of the same timeline or of one before.
fn holes(looked: &Looked, deleted: &[&(WalRange, ObjectMeta)], host: &str, now_us: i64) -> Vec<LostWal> {
    let goes: BTreeSet<&ObjectName> = deleted.iter().map(|(_, meta)| &meta.name).collect();
    let mut first_kept: BTreeMap<LineageId, (TimelineId, Lsn)> = BTreeMap::new();
    for (range, _) in looked.wal.iter().filter(|(_, meta)| !goes.contains(&meta.name)) {
        let place = (range.timeline, range.start);
        let first = first_kept.entry(range.lineage).or_insert(place);
        *first = (*first).min(place);
    }
    let mut ranges: Vec<WalRange> = deleted.iter().map(|(range, _)| *range).collect();
    ranges.sort_by_key(|range| (range.lineage, range.timeline, range.start));
    let mut holes: Vec<LostWal> = Vec::new();
    for range in ranges {
        let is_behind = first_kept
            .get(&range.lineage)
            .is_some_and(|first| *first < (range.timeline, range.start));
        if !is_behind {
            continue;
        }
        let (timeline, start, end) = (range.timeline.as_u32(), range.start.as_u64(), range.end.as_u64());
        match holes.last_mut() {
            Some(last) if (last.lineage, last.timeline) == (range.lineage, timeline) && start <= last.end => {
                last.end = last.end.max(end);
            }
            _ => holes.push(LostWal {
                lineage: range.lineage,
                timeline,
                start,
                end,
                reason: GIVEN_UP.into(),
                found_us: now_us,
                host: host.to_owned(),
            }),
        }
    }
    holes
}

/// The newest of the lists that are old and say something about WAL.
fn newest_old<'a>(lists: &'a [ListSeen], is_old: &impl Fn(i64) -> bool) -> Option<&'a ListSeen> {
    let old = lists
        .iter()
        .filter(|seen| seen.list.wal.is_some() && is_old(seen.meta.modified_unix_ms));
    old.max_by_key(|seen| seen.meta.modified_unix_ms)
}

/// Lists without work, but the one that WAL is judged by.
fn close(looked: &Looked, done: &[usize], is_old: &impl Fn(i64) -> bool) -> Vec<ObjectName> {
    let needed = newest_old(&looked.lists, is_old).map(|seen| &seen.meta.name);
    let done = done.iter().filter_map(|place| looked.lists.get(*place));
    let names = done.map(|seen| &seen.meta.name);
    names.filter(|name| Some(*name) != needed).cloned().collect()
}

/// Old tails all of which is in whole objects too.
fn covered_tails(looked: &Looked, is_old: &impl Fn(i64) -> bool) -> Vec<(Going, Vec<(WalRange, ObjectName)>)> {
    let mut whole: BTreeMap<(LineageId, TimelineId), Vec<&(WalRange, ObjectMeta)>> = BTreeMap::new();
    for object in looked.wal.iter().filter(|(range, _)| !range.tail) {
        whole
            .entry((object.0.lineage, object.0.timeline))
            .or_default()
            .push(object);
    }
    for objects in whole.values_mut() {
        objects.sort_by_key(|(range, _)| (range.start, range.end));
    }
    let old = looked
        .wal
        .iter()
        .filter(|(range, meta)| range.tail && is_old(meta.modified_unix_ms));
    let covered = old.filter_map(|(tail, meta)| {
        let objects = whole.get(&(tail.lineage, tail.timeline))?;
        Some((Going::from(meta), covering(objects, tail)?))
    });
    covered.collect()
}

/// The whole objects that touch a tail, when they hold all of it. `objects` are sorted by their start.
fn covering(objects: &[&(WalRange, ObjectMeta)], tail: &WalRange) -> Option<Vec<(WalRange, ObjectName)>> {
    let until = objects.partition_point(|(range, _)| range.start < tail.end);
    let far = tail.start.as_u64().saturating_sub(SEGMENT_BYTES_MAX);
    let from = objects.partition_point(|(range, _)| range.start.as_u64() < far);
    let near = objects
        .get(from..until)?
        .iter()
        .filter(|(range, _)| range.end > tail.start);
    let mut held = tail.start;
    let mut out = Vec::new();
    for (range, meta) in near {
        if range.start > held {
            return None;
        }
        held = held.max(range.end);
        out.push((*range, meta.name.clone()));
    }
    (held >= tail.end).then_some(out)
}

/// Progress objects of backups that are complete or dead, and intents of dead ones: old ones only.
fn leftovers(looked: &Looked, is_old: &impl Fn(i64) -> bool) -> Vec<Going> {
    let complete: BTreeSet<BackupId> = looked.backups.iter().map(|backup| backup.id).collect();
    let starts = looked
        .intents
        .iter()
        .filter(|(_, named, _)| matches!(named, Named::Intent(_)));
    let dead: BTreeSet<BackupId> = starts
        .filter(|(id, _, meta)| !complete.contains(id) && is_old(meta.modified_unix_ms))
        .map(|(id, _, _)| *id)
        .collect();
    let goes = looked.intents.iter().filter(|(id, named, meta)| {
        let is_start = matches!(named, Named::Intent(_));
        dead.contains(id) || (!is_start && complete.contains(id) && is_old(meta.modified_unix_ms))
    });
    goes.map(|(_, _, meta)| Going::from(meta)).collect()
}

/// Backups without a manifest, or soon without one, that may have left an index.
fn orphaned(looked: &Looked, retire: &[BackupId]) -> Vec<BackupId> {
    let stays: BTreeSet<BackupId> = looked.backups.iter().map(|backup| backup.id).collect();
    let ids: BTreeSet<BackupId> = looked.indexes.iter().copied().collect();
    let is_orphan = |id: &&BackupId| !stays.contains(id) || retire.contains(id);
    ids.iter().filter(is_orphan).copied().collect()
}
