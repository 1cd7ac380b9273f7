//! Filling a copy of a repository: what is missing there is copied as it is, sealed and signed, each object checked on its way.
//!
//! In an order in which dying anywhere leaves a copy whose backups are whole: description, keys and records → WAL → backup by backup, the oldest
//! first: its intent, its packs, its index, its manifest. So a backup takes no longer there, by that store's clock, than its own packs do.
//! Lists of what is to be deleted stay where they are: each place has its own times.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::error::StoreError;
use crate::id::{BackupId, PackId};
use crate::inventory::Named;
use crate::layout::WalRange;
use crate::limits::READS_IN_FLIGHT;
use crate::object::{ByteRange, ErrorClass, ObjectMeta, ObjectName, ObjectStore, PutNew, list_all};
use crate::repository::Repository;
use crate::repository::create::description_name;

/// Packs that are copied at once.
const PACKS_IN_FLIGHT: usize = 3;

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Backups that the copy has are taken to be whole.
    Missing,
    /// Their packs and indexes are looked for as well.
    Needed,
}

/// What was copied, and what could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Objects copied.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Backups that the copy has now and had not.
    pub backups: u64,
    /// What does not count in the repository itself, with the reason: it is not copied.
    pub left_out: Vec<(ObjectName, String)>,
    /// Backups that have to wait, with the reason.
    pub waiting: Vec<(BackupId, String)>,
}

impl Filled {
    /// True when nothing that counts is missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.waiting.is_empty()
    }

    fn add(&mut self, other: Filled) {
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.backups += other.backups;
        self.left_out.extend(other.left_out);
        self.waiting.extend(other.waiting);
    }
}

/// Copies what is missing in `to`. `progress` hears of each object and its bytes.
///
/// # Errors
/// One of the stores failed; or `to` is another repository, or has something else under a name.
pub async fn fill(
    from: &Repository,
    to: &Arc<dyn ObjectStore>,
    depth: Depth,
    progress: impl Fn(u64) + Sync,
) -> Result<Filled, StoreError> {
    description(from, to).await?;
    let cluster = from.layout().prefix_of_all();
    let here = list_all(from.store().as_ref(), &cluster).await?;
    let there = list_all(to.as_ref(), &cluster).await?;
    let there: BTreeMap<ObjectName, u64> = there.into_iter().map(|meta| (meta.name, meta.size)).collect();
    let copying = Copying {
        from,
        to,
        there: &there,
        done: Mutex::default(),
        progress: &progress,
    };
    let here = Sorted::of(from, here);
    let mut filled = Filled::default();
    for records in here.records.values() {
        filled.add(copying.all(records, 1).await?);
    }
    filled.add(copying.all(&here.wal(), READS_IN_FLIGHT).await?);
    filled.add(copying.backups(&here, depth).await?);
    Ok(filled)
}

/// Is it a copy of this repository, or nothing yet?
async fn description(from: &Repository, to: &Arc<dyn ObjectStore>) -> Result<(), StoreError> {
    let name = description_name()?;
    let ours = from.store().get(&name, ByteRange::All).await?;
    if to.put_new(&name, ours.clone()).await? == PutNew::Created {
        return Ok(());
    }
    let theirs = to.get(&name, ByteRange::All).await?;
    if theirs == ours {
        return Ok(());
    }
    Err(StoreError::Foreign {
        what: "the copy, which is a repository of its own,",
        expected: from.id().to_string(),
        found: String::from_utf8_lossy(&theirs).into_owned(),
    })
}

/// The objects of the repository, in the order in which they are copied.
#[derive(Default)]
struct Sorted {
    /// Keys first, in their order; then what else is small.
    records: BTreeMap<u8, Vec<ObjectMeta>>,
    whole: Vec<(WalRange, ObjectMeta)>,
    tails: Vec<(WalRange, ObjectMeta)>,
    histories: Vec<ObjectMeta>,
    packs: BTreeMap<PackId, ObjectMeta>,
    indexes: BTreeMap<BackupId, ObjectMeta>,
    intents: BTreeMap<BackupId, ObjectMeta>,
    manifests: BTreeMap<BackupId, ObjectMeta>,
}

impl Sorted {
    fn of(from: &Repository, objects: Vec<ObjectMeta>) -> Self {
        let mut sorted = Sorted::default();
        let mut keys = BTreeMap::new();
        for meta in objects {
            let Some(named) = from.layout().parse(meta.name.as_str()) else {
                continue;
            };
            let mut record = |order: u8, meta| sorted.records.entry(order).or_default().push(meta);
            match named {
                Named::Keys(period) => drop(keys.insert(period, meta)),
                Named::Lineage(_) => record(1, meta),
                Named::Lease(_) | Named::Hole | Named::Ledger | Named::Proof | Named::Pin(_) => record(2, meta),
                Named::Wal(range) if range.tail => sorted.tails.push((range, meta)),
                Named::Wal(range) => sorted.whole.push((range, meta)),
                Named::History(..) => sorted.histories.push(meta),
                Named::Pack(id) => drop(sorted.packs.insert(id, meta)),
                Named::Index(id) => drop(sorted.indexes.insert(id, meta)),
                Named::Intent(id) => drop(sorted.intents.insert(id, meta)),
                Named::Manifest(id) => drop(sorted.manifests.insert(id, meta)),
                Named::Progress(..) | Named::Condemned => {}
            }
        }
        sorted.records.insert(0, keys.into_values().collect());
        sorted
    }

    /// Histories, whole ranges, and the tails that none of them covers.
    fn wal(&self) -> Vec<ObjectMeta> {
        let covers = |whole: &WalRange, tail: &WalRange| {
            (whole.lineage, whole.timeline) == (tail.lineage, tail.timeline)
                && whole.start <= tail.start
                && tail.end <= whole.end
        };
        let mut whole: BTreeMap<_, Vec<&WalRange>> = BTreeMap::new();
        for (range, _) in &self.whole {
            whole.entry((range.lineage, range.timeline)).or_default().push(range);
        }
        let is_covered = |tail: &WalRange| {
            let ranges = whole.get(&(tail.lineage, tail.timeline));
            ranges.is_some_and(|ranges| {
                let until = ranges.partition_point(|range| range.start <= tail.start);
                ranges
                    .iter()
                    .take(until)
                    .rev()
                    .take(COVERING_MAX)
                    .any(|range| covers(range, tail))
            })
        };
        let tails = self.tails.iter().filter(|(range, _)| !is_covered(range));
        let histories = self.histories.iter();
        histories
            .chain(self.whole.iter().map(|(_, meta)| meta))
            .chain(tails.map(|(_, meta)| meta))
            .cloned()
            .collect()
    }
}

/// Whole ranges that begin before a tail, of which one may cover it: those of its segment.
const COVERING_MAX: usize = 8;

struct Copying<'a, P> {
    from: &'a Repository,
    to: &'a Arc<dyn ObjectStore>,
    /// What the copy has, and how long it is.
    there: &'a BTreeMap<ObjectName, u64>,
    /// What was copied in this run: backups share packs.
    done: Mutex<BTreeSet<ObjectName>>,
    progress: &'a P,
}

impl<P: Fn(u64) + Sync> Copying<'_, P> {
    /// Those that are missing.
    async fn all(&self, objects: &[ObjectMeta], at_once: usize) -> Result<Filled, StoreError> {
        let missing: Vec<ObjectName> = {
            let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            let is_missing = |meta: &&ObjectMeta| !self.there.contains_key(&meta.name) && !done.contains(&meta.name);
            objects
                .iter()
                .filter(is_missing)
                .map(|meta| meta.name.clone())
                .collect()
        };
        let mut copies = stream::iter(missing)
            .map(|name| async move { self.one(&name).await })
            .buffered(at_once);
        let mut all = Filled::default();
        while let Some(one) = copies.try_next().await? {
            all.add(one);
        }
        drop(copies);
        for meta in objects {
            if let Some(size) = self.there.get(&meta.name).filter(|size| **size != meta.size) {
                let reason = format!("something else is there: {size} bytes where {} belong", meta.size);
                all.left_out.push((meta.name.clone(), reason));
            }
        }
        Ok(all)
    }

    async fn one(&self, name: &ObjectName) -> Result<Filled, StoreError> {
        let mut filled = Filled::default();
        let bytes = match self.from.read_checked(name).await {
            Ok(bytes) => bytes,
            // Deleted since it was listed.
            Err(StoreError::Object(error)) if error.class() == ErrorClass::NotFound => return Ok(filled),
            Err(error) if error.is_untrusted() => {
                filled.left_out.push((name.clone(), error.to_string()));
                return Ok(filled);
            }
            Err(error) => return Err(error),
        };
        if self.to.put_new(name, bytes.clone()).await? == PutNew::AlreadyExists
            && self.to.get(name, ByteRange::All).await? != bytes
        {
            return Err(StoreError::Conflict { name: name.to_string() });
        }
        self.done
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.clone());
        filled.objects = 1;
        filled.bytes = bytes.len() as u64;
        (self.progress)(filled.bytes);
        Ok(filled)
    }

    async fn backups(&self, here: &Sorted, depth: Depth) -> Result<Filled, StoreError> {
        let mut filled = Filled::default();
        let is_asked = |meta: &ObjectMeta| depth == Depth::Needed || !self.there.contains_key(&meta.name);
        let asked: Vec<_> = here.manifests.iter().filter(|(_, meta)| is_asked(meta)).collect();
        if asked.is_empty() {
            return Ok(filled);
        }
        let condemned = self.from.over(Arc::clone(self.to)).condemned_packs().await?;
        for (backup, meta) in asked {
            filled.add(self.backup(here, *backup, meta, &condemned).await?);
        }
        Ok(filled)
    }

    async fn backup(
        &self,
        here: &Sorted,
        backup: BackupId,
        meta: &ObjectMeta,
        condemned: &BTreeSet<PackId>,
    ) -> Result<Filled, StoreError> {
        let mut filled = Filled::default();
        let manifest = match self.from.manifest(backup).await {
            Ok(manifest) => manifest,
            Err(StoreError::Object(error)) if error.class() == ErrorClass::NotFound => return Ok(filled),
            Err(error) if error.is_untrusted() => {
                filled.left_out.push((meta.name.clone(), error.to_string()));
                return Ok(filled);
            }
            Err(error) => return Err(error),
        };
        let is_new = !self.there.contains_key(&meta.name);
        if is_new && let Some(need) = manifest.packs.iter().find(|need| condemned.contains(&need.id)) {
            let why = format!(
                "pack {} is about to be deleted there: a prune has to end first",
                need.id
            );
            filled.waiting.push((backup, why));
            return Ok(filled);
        }
        let lost = manifest.packs.iter().find(|need| !here.packs.contains_key(&need.id));
        if is_new && let Some(need) = lost {
            filled
                .left_out
                .push((meta.name.clone(), format!("its pack {} is missing", need.id)));
            return Ok(filled);
        }
        if is_new {
            let intent: Vec<ObjectMeta> = here.intents.get(&backup).cloned().into_iter().collect();
            filled.add(self.all(&intent, 1).await?);
        }
        let packs = manifest
            .packs
            .iter()
            .filter_map(|need| here.packs.get(&need.id).cloned());
        let packs: Vec<ObjectMeta> = packs.collect();
        let copied = self.all(&packs, PACKS_IN_FLIGHT).await?;
        let spoilt = copied.left_out.first().cloned();
        filled.add(copied);
        let index: Vec<ObjectMeta> = here.indexes.get(&backup).cloned().into_iter().collect();
        filled.add(self.all(&index, 1).await?);
        if !is_new {
            return Ok(filled);
        }
        if let Some((name, _)) = spoilt {
            filled
                .left_out
                .push((meta.name.clone(), format!("{name} cannot be copied")));
            return Ok(filled);
        }
        filled.add(self.one(&meta.name).await?);
        filled.backups += 1;
        Ok(filled)
    }
}

#[cfg(test)]
mod tests;
