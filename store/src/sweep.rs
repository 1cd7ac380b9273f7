//! Which packs may be deleted, decided in two phases. Pure: what lies in the repository and what time it is there come in as arguments;
//! nothing is deleted here.
//!
//! There is no lock between whoever deletes and the hosts that write and restore. What keeps a pack that somebody relies on is time, told
//! by the store alone, never by one of our clocks:
//!
//! 1. **Condemn.** A pack that no manifest needs, and that is older than the grace, is written down in a list. So are, in a list of their own, just before a
//!    manifest is retired, the packs that no other needs.
//! 2. A writer stores its intent, then reads the lists, and refers to nothing that stands in one.
//! 3. **Sight.** That a manifest goes does not say when it is gone: whoever deletes it may sleep first. A list says of its packs that nobody needed them when its run
//!    looked; packs of a manifest that was retired are written down once more when it was seen to be gone.
//! 4. **Delete.** A pack is deleted when every list that names it is older than the grace, one of them has sighted it since the last retirement, and no manifest needs it *now*. Where one does,
//!    its backup had begun before the list was there: the pack stays. Then the list goes.
//!
//! A manifest counts only if it was stored at most `duration_max` after the intent of its backup. Whoever began before a list was written
//! has stored its manifest `duration_max` later or never, and the grace is longer: at the end of it every manifest that can count is there
//! to be seen. The same goes for the packs that a backup itself has stored. However long a writer sleeps, however the clock of a host
//! jumps, nothing changes in that. (That a pack is condemned only when it is older than the grace spares lists; nothing depends on it.)
//!
//! A restore finds its packs for as long as the grace, counted from when its manifest was last there.
//!
//! A crash anywhere leaves a list that the next run goes on with. A pack stays in its list until it is deleted: who begins meanwhile does
//! not count on it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use roaring::RoaringBitmap;

use crate::id::{BackupId, PackId};

/// A pack, by the number that [`PackNumbers`] gave it: manifests name the same packs over and over.
pub type PackNumber = u32;

/// Packs and their numbers.
#[derive(Clone, Debug, Default)]
pub struct PackNumbers {
    ids: Vec<PackId>,
    numbers: HashMap<PackId, PackNumber>,
}

impl PackNumbers {
    /// The number of a pack; a new one where it has none.
    pub fn number(&mut self, pack: PackId) -> PackNumber {
        let next = PackNumber::try_from(self.ids.len()).unwrap_or(PackNumber::MAX);
        *self.numbers.entry(pack).or_insert_with(|| {
            self.ids.push(pack);
            next
        })
    }

    /// The number of a pack that has one.
    #[must_use]
    pub fn known(&self, pack: PackId) -> Option<PackNumber> {
        self.numbers.get(&pack).copied()
    }

    /// The pack of a number that was given.
    #[must_use]
    pub fn pack(&self, number: PackNumber) -> Option<PackId> {
        self.ids.get(number as usize).copied()
    }
}

/// How long things may take, in milliseconds of the store's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// From an intent to its manifest, at most, whatever a manifest says.
    pub duration_max_ms: i64,
    /// From being written down to being deleted, at least. Longer than `duration_max`.
    pub grace_ms: i64,
}

/// A manifest, with the intent that its backup began with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestSeen {
    /// Its backup.
    pub backup: BackupId,
    /// When it was stored.
    pub stored_ms: i64,
    /// When the intent was stored; none when it is not there.
    pub intent_stored_ms: Option<i64>,
    /// How long it says that it may take.
    pub duration_max_ms: i64,
    /// The packs that it needs.
    pub packs: RoaringBitmap,
}

/// A list of condemned packs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListSeen {
    /// When it was stored.
    pub stored_ms: i64,
    /// When the run began that saw nobody need what stands in it; none: a manifest that needs it is retired.
    pub looked_ms: Option<i64>,
    /// What stands in it.
    pub packs: Vec<PackNumber>,
}

/// What lies in the repository. The order counts: first the time is read, then the manifests are listed, then the lists. A manifest that is
/// stored later belongs to a backup that began after every list that is old, or is late; and of one that was retired before it could be seen
/// the new list is seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The store's time before anything was listed.
    pub now_ms: i64,
    /// Packs, and when each was stored.
    pub packs: BTreeMap<PackNumber, i64>,
    /// Lists of condemned packs, in any order.
    pub lists: Vec<ListSeen>,
    /// All manifests. One that cannot be read makes a plan impossible: nobody knows what it needs.
    pub manifests: Vec<ManifestSeen>,
}

/// What is to be done, in this order: delete packs, remove the lists that are done with, write the new lists, delete manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepPlan {
    /// Packs to delete.
    pub delete: BTreeSet<PackNumber>,
    /// Lists (by their place in [`Seen::lists`]) that have nothing left to do once `delete` is done.
    pub close: Vec<usize>,
    /// Packs to write down: nobody needs them now.
    pub condemn: BTreeSet<PackNumber>,
    /// Packs to write down because manifests go that need them.
    pub condemn_last: BTreeSet<PackNumber>,
    /// Packs of old lists that a manifest needs: they stay.
    pub reprieved: BTreeSet<PackNumber>,
    /// Manifests to delete, last of all.
    pub retire: BTreeSet<BackupId>,
    /// Manifests that were stored too late to be relied on: no backup builds on them.
    pub late: Vec<BackupId>,
}

/// Why no plan can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SweepError {
    /// A backup may take longer than what protects it.
    #[error("the grace must be longer than the longest backup may take")]
    GraceTooShort,
}

/// True when a manifest can be relied on: it was stored in time.
#[must_use]
pub fn is_in_time(manifest: &ManifestSeen, times: Times) -> bool {
    let limit_ms = manifest.duration_max_ms.min(times.duration_max_ms);
    let begun = manifest.intent_stored_ms;
    begun.is_some_and(|begun| manifest.stored_ms.saturating_sub(begun) <= limit_ms)
}

/// Plans one run, in which these manifests are retired.
///
/// # Errors
/// Times that protect nothing.
pub fn plan_sweep(seen: &Seen, retire: &BTreeSet<BackupId>, times: Times) -> Result<SweepPlan, SweepError> {
    if times.grace_ms <= times.duration_max_ms || times.duration_max_ms < 0 {
        return Err(SweepError::GraceTooShort);
    }
    // What was stored after `now` was read, or before the store's clock went back, is young.
    let is_old = |stored_ms: i64| seen.now_ms.saturating_sub(stored_ms) > times.grace_ms;
    // A late manifest protects its packs all the same: that costs space, and not to do so could cost a backup whose intent was lost.
    let (going, staying): (Vec<_>, Vec<_>) = seen
        .manifests
        .iter()
        .partition(|manifest| retire.contains(&manifest.backup));
    let (needed_last, needed) = (packs_of(&going), packs_of(&staying));
    let (old, young): (Vec<_>, Vec<_>) = seen
        .lists
        .iter()
        .enumerate()
        .partition(|(_, list)| is_old(list.stored_ms));
    let condemned = in_lists(&young);
    let listed = in_lists(&old);
    let (counting, late): (Vec<_>, Vec<_>) = seen.manifests.iter().partition(|manifest| is_in_time(manifest, times));
    let relied_on = packs_of(&counting);
    let mut plan = SweepPlan {
        late: late.iter().map(|manifest| manifest.backup).collect(),
        retire: going.iter().map(|manifest| manifest.backup).collect(),
        ..SweepPlan::default()
    };
    let sighted = sighted(&seen.lists);
    for (pack, stored_ms) in &seen.packs {
        let (is_due, is_listed) = (
            listed.contains(*pack),
            condemned.contains(*pack) || listed.contains(*pack),
        );
        let is_young = condemned.contains(*pack);
        match (needed.contains(*pack), needed_last.contains(*pack)) {
            // What a manifest needs that goes is written down anew where it is in a list already, needed by others or not: those others may be
            // retired by somebody else at this moment.
            (true, true) if is_listed => drop(plan.condemn_last.insert(*pack)),
            (false, true) => drop(plan.condemn_last.insert(*pack)),
            (true, _) => {}
            (false, false) if is_listed && !sighted.contains(*pack) => drop(plan.condemn.insert(*pack)),
            (false, false) if is_due && !is_young => drop(plan.delete.insert(*pack)),
            (false, false) if !is_listed && is_old(*stored_ms) => drop(plan.condemn.insert(*pack)),
            (false, false) => {}
        }
        if is_due && !is_young && (needed.contains(*pack) || needed_last.contains(*pack)) {
            plan.reprieved.insert(*pack);
        }
    }
    // What only late manifests need stays in its list: a sweep that looked before they came may be about to delete it, and nobody must
    // begin to refer to it. So does what has to be sighted since.
    let stays = |pack: &PackNumber| {
        let is_only_late = plan.reprieved.contains(pack) && !relied_on.contains(*pack);
        is_only_late || plan.condemn.contains(pack)
    };
    let done = old.iter().filter(|(_, list)| !list.packs.iter().any(stays));
    let done: BTreeSet<usize> = done.map(|(place, _)| *place).collect();
    let open = seen.lists.iter().enumerate().filter(|(place, _)| !done.contains(place));
    let open: Vec<&ListSeen> = open.map(|(_, list)| list).collect();
    let is_outlived = |place: &usize| seen.lists.get(*place).is_some_and(|list| is_outlived(list, &open));
    plan.close = done.into_iter().filter(|place| !is_outlived(place)).collect();
    Ok(plan)
}

/// A list of a retirement stays as long as an older sighting of one of its packs does: without it that would count again.
fn is_outlived(list: &ListSeen, open: &[&ListSeen]) -> bool {
    if list.looked_ms.is_some() {
        return false;
    }
    let older = open
        .iter()
        .filter(|other| other.looked_ms.is_some_and(|looked_ms| looked_ms <= list.stored_ms));
    let sighted: RoaringBitmap = older.flat_map(|other| other.packs.iter().copied()).collect();
    list.packs.iter().any(|pack| sighted.contains(*pack))
}

/// Packs that were seen to be needed by nobody, by a run that began after they were last written down for a manifest that goes.
fn sighted(lists: &[ListSeen]) -> RoaringBitmap {
    let mut retired: HashMap<PackNumber, i64> = HashMap::new();
    for list in lists.iter().filter(|list| list.looked_ms.is_none()) {
        for pack in &list.packs {
            let last = retired.entry(*pack).or_insert(list.stored_ms);
            *last = list.stored_ms.max(*last);
        }
    }
    let sightings = lists.iter().filter_map(|list| Some((list.looked_ms?, &list.packs)));
    let packs = sightings.flat_map(|(looked_ms, packs)| {
        let retired = &retired;
        let is_since = move |pack: &&PackNumber| retired.get(pack).is_none_or(|retired_ms| *retired_ms < looked_ms);
        packs.iter().filter(is_since).copied()
    });
    packs.collect()
}

fn in_lists(lists: &[(usize, &ListSeen)]) -> RoaringBitmap {
    lists.iter().flat_map(|(_, list)| list.packs.iter().copied()).collect()
}

fn packs_of(manifests: &[&ManifestSeen]) -> RoaringBitmap {
    let mut all = RoaringBitmap::new();
    for manifest in manifests {
        all |= &manifest.packs;
    }
    all
}

#[cfg(test)]
mod tests;
