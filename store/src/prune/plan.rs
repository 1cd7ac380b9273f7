//! What is to be done now, and what will be when its grace is over. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use pg::lsn::Lsn;
use pg::timeline::TimelineId;

use super::orphans::orphans;
use super::{Going, ListSeen, Looked, Policy};
use crate::error::StoreError;
use crate::id::{BackupId, LineageId, PackId};
use crate::inventory::Named;
use crate::layout::WalRange;
use crate::limits::SEGMENT_BYTES_MAX;
use crate::object::{ObjectMeta, ObjectName};
use crate::records::{Condemned, GIVEN_UP, KeptRange, KeptWal, LostWal};
use crate::retention::{self, Reason, RetentionPlan, TimelineOf, plan_retention};
use crate::sweep::{self, ManifestSeen, plan_sweep};

const DAY_MS: i64 = 86_400_000;
const WEEK_MS: i64 = 7 * DAY_MS;

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
    /// The lists to write; none when there is nothing new to write down.
    pub lists: Vec<Condemned>,
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
    refuse_what_times_cannot_judge(looked, policy)?;
    let is_old = |stored_ms: i64| looked.sweep.now_ms.saturating_sub(stored_ms) > times.grace_ms;
    let late = late(looked);
    let retention = retain(looked, policy, &late)?;
    let mut retire: BTreeSet<BackupId> = retention.going().collect();
    // What cannot be relied on goes when there is something newer that can.
    let mut newest_good: BTreeMap<Option<&str>, i64> = BTreeMap::new();
    for backup in looked.backups.iter().filter(|backup| !late.contains_key(&backup.id)) {
        let newest = newest_good.entry(backup.component.as_deref()).or_insert(i64::MIN);
        *newest = backup.stored_ms.max(*newest);
    }
    let is_replaced = |backup: &&super::BackupSeen| {
        let newest = newest_good.get(&backup.component.as_deref());
        is_old(backup.stored_ms) && newest.is_some_and(|newest| *newest > backup.stored_ms)
    };
    let all_late = looked.backups.iter().filter(|backup| late.contains_key(&backup.id));
    retire.extend(all_late.filter(is_replaced).map(|backup| backup.id));
    retire.retain(|id| !looked.pinned.contains(id));
    let sweep = plan_sweep(&looked.sweep, &retire, times).map_err(|error| StoreError::Limit {
        what: "the grace",
        detail: error.to_string(),
    })?;
    let kept = kept_wal(looked, &retention);
    let (wal, wal_waiting) = wal_that_goes(looked, &kept, &is_old);
    let holes = holes(looked, &wal, host, now_us);
    let wal = wal.into_iter().map(|(_, meta)| Going::from(meta)).collect();
    let mut plan = Plan {
        verdicts: verdicts(looked, &retention, &late),
        packs: looked.going(&sweep.delete),
        tails: covered_tails(looked, &is_old),
        leftovers: leftovers(looked, &is_old)
            .into_iter()
            .chain(orphans(looked, &is_old))
            .collect(),
        close: close(looked, &sweep.close, &is_old),
        waiting: looked.waiting(&sweep, &is_old),
        reprieved: sweep.reprieved.len(),
        retire: retire.into_iter().collect(),
        bytes: looked.bytes,
        wal,
        holes,
        wal_waiting,
        indexes: Vec::new(),
        lists: Vec::new(),
    };
    plan.indexes = orphaned(looked, &plan.retire, &is_old);
    let packs = |numbers: &BTreeSet<sweep::PackNumber>| -> Vec<PackId> {
        numbers
            .iter()
            .filter_map(|number| looked.numbers.pack(*number))
            .collect()
    };
    let list = |packs, retired, looked_ms| Condemned {
        time_us: now_us,
        host: host.to_owned(),
        packs,
        retired,
        wal: Some(kept.clone()),
        looked_ms,
    };
    let unneeded = packs(&sweep.condemn);
    if !unneeded.is_empty() || !plan.wal_waiting.is_empty() {
        plan.lists.push(list(unneeded, Vec::new(), Some(looked.sweep.now_ms)));
    }
    if !plan.retire.is_empty() {
        plan.lists
            .push(list(packs(&sweep.condemn_last), plan.retire.clone(), None));
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
            && self.lists.is_empty()
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
        numbers.extend(plan.condemn.iter().chain(&plan.condemn_last));
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

/// Backups whose manifest came later after their intent than they say themselves. Where the intent is not there nothing is known of that.
fn late(looked: &Looked) -> BTreeMap<BackupId, i64> {
    let is_late = |manifest: &&ManifestSeen| {
        let begun = manifest.intent_stored_ms;
        begun.is_some_and(|begun| manifest.stored_ms.saturating_sub(begun) > manifest.duration_max_ms)
    };
    let late = looked.sweep.manifests.iter().filter(is_late);
    late.map(|manifest| (manifest.backup, manifest.stored_ms)).collect()
}

/// Everything is judged by when the store received it. Where that says nothing, nothing may be deleted.
fn refuse_what_times_cannot_judge(looked: &Looked, policy: &Policy) -> Result<(), StoreError> {
    let refused = |detail: String| StoreError::Limit {
        what: "what times of the store can say",
        detail,
    };
    // Of the cluster and of each component the newest: what was allowed before the configuration changed is over.
    let mut newest: BTreeMap<Option<&str>, &ManifestSeen> = BTreeMap::new();
    for (seen, manifest) in looked.backups.iter().zip(&looked.sweep.manifests) {
        let of_it = newest.entry(seen.component.as_deref()).or_insert(manifest);
        if manifest.stored_ms > of_it.stored_ms {
            *of_it = manifest;
        }
    }
    let protected_ms = policy.times().duration_max_ms;
    let unprotected = newest
        .into_values()
        .find(|newest| (protected_ms + 1..i64::MAX).contains(&newest.duration_max_ms));
    if let Some(newest) = unprotected {
        return Err(refused(format!(
            "backup {} was allowed to take {} s, and retention.grace protects it for {} s only: raise it to four thirds of that, or wait for a backup with a lower duration_max",
            newest.backup,
            newest.duration_max_ms / 1000,
            protected_ms / 1000
        )));
    }
    let came = looked.backups.iter().zip(&looked.sweep.manifests);
    let mut came_long_after = came.filter(|(seen, manifest)| came_long_after(seen, manifest));
    match came_long_after.next() {
        Some((seen, _)) if !policy.is_copy => Err(refused(format!(
            "backup {} was stored long after it had ended: the repository was copied, or the clock of its host was wrong",
            seen.id
        ))),
        _ => Ok(()),
    }
}

fn came_long_after(seen: &super::BackupSeen, manifest: &ManifestSeen) -> bool {
    let limit_ms = manifest.duration_max_ms.min(WEEK_MS).saturating_add(DAY_MS);
    seen.stored_ms.saturating_sub(seen.finished_us / 1000) > limit_ms
}

/// Late ones count for nothing.
fn retain(looked: &Looked, policy: &Policy, late: &BTreeMap<BackupId, i64>) -> Result<RetentionPlan, StoreError> {
    let time = |ms: i64| {
        Timestamp::from_millisecond(ms).map_err(|error| StoreError::Limit {
            what: "a time of the store",
            detail: error.to_string(),
        })
    };
    let backup = |(seen, manifest): (&super::BackupSeen, &ManifestSeen)| {
        let came_ms = match policy.is_copy && came_long_after(seen, manifest) {
            true => seen.finished_us / 1000,
            false => seen.stored_ms,
        };
        Ok::<_, StoreError>(retention::Backup {
            id: seen.id,
            lineage: seen.lineage,
            timeline: seen.timeline,
            start_lsn: seen.start_lsn,
            end_lsn: seen.end_lsn,
            stored_at: time(came_ms)?,
            end_time: time(seen.finished_us / 1000)?,
            pinned: looked.pinned.contains(&seen.id),
            proven: looked.proven.contains(&seen.id),
        })
    };
    let all = looked.backups.iter().zip(&looked.sweep.manifests);
    let counting = all.filter(|(seen, _)| !late.contains_key(&seen.id));
    let mut backups: BTreeMap<Option<&str>, Vec<retention::Backup>> = BTreeMap::new();
    for one in counting {
        let of = backups.entry(one.0.component.as_deref()).or_default();
        of.push(backup(one)?);
    }
    let now = time(looked.sweep.now_ms)?;
    let of_cluster = backups.remove(&None).unwrap_or_default();
    let mut all = plan_retention(&policy.rules, &of_cluster, &looked.timelines, now);
    for (component, backups) in backups {
        let rules = component
            .and_then(|name| policy.components.get(name))
            .copied()
            .unwrap_or_default();
        all.verdicts
            .extend(plan_retention(&rules, &backups, &without_wal(&backups), now).verdicts);
    }
    Ok(all)
}

/// What a component's backups came from is known: from nothing.
fn without_wal(backups: &[retention::Backup]) -> Vec<TimelineOf> {
    let lineages: BTreeSet<(LineageId, u32)> = backups.iter().map(|backup| (backup.lineage, backup.timeline)).collect();
    let alone = lineages.into_iter().map(|(lineage, timeline)| TimelineOf {
        lineage,
        timeline,
        parent: None,
        ended_at: None,
    });
    alone.collect()
}

fn verdicts(looked: &Looked, retention: &RetentionPlan, late: &BTreeMap<BackupId, i64>) -> Vec<Verdict> {
    let kept = retention.verdicts.iter().map(|verdict| (verdict.id, &verdict.kept));
    let kept: BTreeMap<BackupId, &Vec<Reason>> = kept.collect();
    let verdicts = looked.backups.iter().map(|seen| Verdict {
        id: seen.id,
        kept: kept.get(&seen.id).copied().cloned().unwrap_or_default(),
        is_late: late.contains_key(&seen.id),
    });
    verdicts.collect()
}

/// Recovery asks for whole segments: each stretch is kept from the beginning of its segment, also where that lies on the timeline before.
fn kept_wal(looked: &Looked, retention: &RetentionPlan) -> Vec<KeptWal> {
    let begin = |lineage: LineageId, lsn: u64| {
        let segment = looked.segment_bytes.get(&lineage).copied().unwrap_or(SEGMENT_BYTES_MAX);
        lsn - lsn % segment.max(1)
    };
    let mut kept: BTreeMap<(LineageId, u32), Vec<KeptRange>> = BTreeMap::new();
    for keep in &retention.wal {
        let ranges = keep.ranges.iter().map(|range| {
            let (start, end) = match *range {
                retention::WalRange::StartToEnd { start, end } => (start, Some(end)),
                retention::WalRange::Continuous { from } => (from, None),
            };
            let start = begin(keep.lineage, start);
            KeptRange { start, end }
        });
        kept.insert((keep.lineage, keep.timeline), ranges.collect());
    }
    // From the youngest timeline to the oldest: each may need the end of the one before.
    for timeline in looked.timelines.iter().rev() {
        let Some((parent, switch)) = timeline.parent else {
            continue;
        };
        let child = kept.get(&(timeline.lineage, timeline.timeline));
        let reaches = child.is_some_and(|ranges| ranges.iter().any(|range| range.start <= switch));
        if reaches && let Some(ranges) = kept.get_mut(&(timeline.lineage, parent)) {
            let start = begin(timeline.lineage, switch);
            let end = Some(switch);
            ranges.push(KeptRange { start, end });
        }
    }
    let all = kept.into_iter().map(|((lineage, timeline), ranges)| KeptWal {
        lineage,
        timeline,
        ranges,
    });
    all.collect()
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
    // What covers a tail must have been there for long, too: who puts something there today must not make the only copy go.
    let is_whole = |(range, meta): &&(WalRange, ObjectMeta)| !range.tail && is_old(meta.modified_unix_ms);
    for object in looked.wal.iter().filter(is_whole) {
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
fn orphaned(looked: &Looked, retire: &[BackupId], is_old: &impl Fn(i64) -> bool) -> Vec<BackupId> {
    let stays: BTreeSet<BackupId> = looked.backups.iter().map(|backup| backup.id).collect();
    let young = looked
        .intents
        .iter()
        .filter(|(_, _, meta)| !is_old(meta.modified_unix_ms));
    let running: BTreeSet<BackupId> = young.map(|(id, _, _)| *id).collect();
    let ids: BTreeSet<BackupId> = looked.indexes.iter().copied().collect();
    let is_orphan = |id: &&BackupId| retire.contains(id) || !(stays.contains(id) || running.contains(id));
    ids.iter().filter(is_orphan).copied().collect()
}
