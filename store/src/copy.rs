//! Filling a copy of a repository: what is missing there is copied as it is, sealed and signed, each object checked on its way.
//!
//! In an order in which dying anywhere leaves a copy whose backups are whole: description, keys and records → WAL → backup by backup, the oldest
//! first: its packs, its index, its intent, its manifest. A backup comes there as one that is taken there would: its intent is stored, then that place's lists of what is to be
//! deleted are read, everything that it needs is seen to be there and in none of them, and then its manifest is stored, in time by that store's clock. The lists stay where they are: each place
//! has its own times.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::error::StoreError;
use crate::id::{BackupId, PackId};
use crate::inventory::Named;
use crate::limits::LOCKS_IN_FLIGHT;
use crate::manifest::Manifest;
use crate::object::{ByteRange, ObjectMeta, ObjectName, ObjectStore, PutNew, list_all};
use crate::repository::Repository;
use crate::repository::create::description_name;

/// Packs and WAL objects that are copied at once: each is held in memory as a whole.
const OBJECTS_IN_FLIGHT: usize = 3;

/// How closely to look at backups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Those that the copy has are taken to be whole.
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
    /// What does not count in the repository itself, or would not in the copy, with the reason: it is not copied.
    pub left_out: Vec<(ObjectName, String)>,
    /// How many of these count in the repository: the copy lacks what the repository has.
    pub lacks: u64,
    /// Names under which the copy has something else.
    pub conflicts: Vec<(ObjectName, String)>,
    /// Backups that have to wait, with the reason.
    pub waiting: Vec<(BackupId, String)>,
}

impl Filled {
    /// True when everything was copied.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.left_out.is_empty() && self.conflicts.is_empty() && self.waiting.is_empty()
    }

    /// Adds what was copied later.
    pub fn add(&mut self, other: Filled) {
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.backups += other.backups;
        self.left_out.extend(other.left_out);
        self.lacks += other.lacks;
        self.conflicts.extend(other.conflicts);
        self.waiting.extend(other.waiting);
    }
}

/// Copies what is missing in `to`. `progress` hears of each object's bytes.
///
/// # Errors
/// One of the stores failed; or `to` is another repository.
pub async fn fill(
    from: &Repository,
    to: &Arc<dyn ObjectStore>,
    depth: Depth,
    progress: impl Fn(u64) + Sync,
) -> Result<Filled, StoreError> {
    let copying = Copying::begin(from, to, progress).await?;
    let mut filled = copying.records_and_wal().await?;
    filled.add(copying.backups(depth).await?);
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
    /// Histories, whole ranges and tails. Also those that a whole range covers by its name: a name proves nothing.
    wal: Vec<ObjectMeta>,
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
                Named::Wal(_) | Named::History(..) => sorted.wal.push(meta),
                Named::Pack(id) => drop(sorted.packs.insert(id, meta)),
                Named::Index(id) => drop(sorted.indexes.insert(id, meta)),
                Named::Intent(id) => drop(sorted.intents.insert(id, meta)),
                Named::Manifest(id) => drop(sorted.manifests.insert(id, meta)),
                // Each place has its own damage; what is copied is whole.
                Named::Progress(..) | Named::Condemned | Named::Spare => {}
            }
        }
        sorted.records.insert(0, keys.into_values().collect());
        sorted
    }
}

/// A repository and a copy of it, compared.
pub struct Copying<'a, P> {
    from: &'a Repository,
    to: Arc<dyn ObjectStore>,
    here: Sorted,
    /// What the copy has, and how long it is.
    there: BTreeMap<ObjectName, u64>,
    /// What was copied in this run: backups share packs.
    done: Mutex<BTreeSet<ObjectName>>,
    progress: P,
}

impl<'a, P: Fn(u64) + Sync> Copying<'a, P> {
    /// Compares, by names and lengths.
    ///
    /// # Errors
    /// As [`fill`].
    pub async fn begin(from: &'a Repository, to: &Arc<dyn ObjectStore>, progress: P) -> Result<Self, StoreError> {
        description(from, to).await?;
        let cluster = from.layout().prefix_of_all();
        let here = list_all(from.store().as_ref(), &cluster).await?;
        let there = list_all(to.as_ref(), &cluster).await?;
        Ok(Copying {
            from,
            to: Arc::clone(to),
            here: Sorted::of(from, here),
            there: there.into_iter().map(|meta| (meta.name, meta.size)).collect(),
            done: Mutex::default(),
            progress,
        })
    }

    /// Keys, records, and all WAL.
    ///
    /// # Errors
    /// One of the stores failed.
    pub async fn records_and_wal(&self) -> Result<Filled, StoreError> {
        let mut filled = Filled::default();
        for records in self.here.records.values() {
            filled.add(self.all(records, 1).await?);
        }
        filled.add(self.all(&self.here.wal, OBJECTS_IN_FLIGHT).await?);
        Ok(filled)
    }

    /// Backups, the oldest first. After [`Copying::records_and_wal`].
    ///
    /// # Errors
    /// One of the stores failed.
    pub async fn backups(&self, depth: Depth) -> Result<Filled, StoreError> {
        let mut filled = Filled::default();
        for (backup, meta) in &self.here.manifests {
            if depth == Depth::Needed || !self.there.contains_key(&meta.name) {
                filled.add(self.backup(*backup, meta).await?);
            }
        }
        Ok(filled)
    }

    fn done(&self) -> MutexGuard<'_, BTreeSet<ObjectName>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that are missing.
    async fn all(&self, objects: &[ObjectMeta], at_once: usize) -> Result<Filled, StoreError> {
        let missing: Vec<ObjectName> = {
            let done = self.done();
            let is_missing = |meta: &&ObjectMeta| !self.there.contains_key(&meta.name) && !done.contains(&meta.name);
            let missing = objects.iter().filter(is_missing);
            missing.map(|meta| meta.name.clone()).collect()
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
                let wanted = self.whole_bytes(meta).await?;
                if *size == wanted {
                    continue;
                }
                let reason = format!("something else is there: {size} bytes where {wanted} belong");
                all.conflicts.push((meta.name.clone(), reason));
            }
        }
        Ok(all)
    }

    async fn one(&self, name: &ObjectName) -> Result<Filled, StoreError> {
        let mut filled = Filled::default();
        let read = match self.from.was_revoked_since(name).await {
            // Its bytes are of no use there.
            Ok(true) => Ok((Bytes::new(), true)),
            Ok(false) => self.from.read_checked(name).await,
            Err(error) => Err(error),
        };
        let (bytes, is_revoked) = match read {
            Ok(read) => read,
            // Deleted since it was listed.
            Err(error) if error.is_not_found() => return Ok(filled),
            Err(error) if error.is_untrusted() => {
                filled.left_out.push((name.clone(), error.to_string()));
                return Ok(filled);
            }
            Err(error) => return Err(error),
        };
        if is_revoked {
            let reason = "its signer was revoked since: where it is stored later it would not count";
            filled.left_out.push((name.clone(), reason.to_owned()));
            filled.lacks = 1;
            return Ok(filled);
        }
        if self.to.put_new(name, bytes.clone()).await? == PutNew::AlreadyExists {
            let there = self.to.get(name, ByteRange::All).await?;
            if there != bytes && !self.from.is_same(name, &bytes, &there) {
                let reason = "something else has come there meanwhile";
                filled.conflicts.push((name.clone(), reason.to_owned()));
                return Ok(filled);
            }
        }
        self.done().insert(name.clone());
        filled.objects = 1;
        filled.bytes = bytes.len() as u64;
        (self.progress)(filled.bytes);
        Ok(filled)
    }

    /// How long an object is when it is whole: what lies here may be cut short, and what was copied came from a spare.
    async fn whole_bytes(&self, meta: &ObjectMeta) -> Result<u64, StoreError> {
        if self.from.spares_of(&meta.name).is_empty() {
            return Ok(meta.size);
        }
        match self.from.read_header(&meta.name).await {
            Ok(Some((head, _))) => Ok(head.object_bytes()),
            Ok(None) => Ok(meta.size),
            Err(error) if error.is_untrusted() => Ok(meta.size),
            Err(error) => Err(error),
        }
    }

    async fn backup(&self, backup: BackupId, meta: &ObjectMeta) -> Result<Filled, StoreError> {
        let mut filled = Filled::default();
        let manifest = match self.from.manifest(backup).await {
            Ok(manifest) => manifest,
            Err(error) if error.is_not_found() => return Ok(filled),
            Err(error) if error.is_untrusted() => {
                filled.left_out.push((meta.name.clone(), error.to_string()));
                return Ok(filled);
            }
            Err(error) => return Err(error),
        };
        let packs = manifest
            .packs
            .iter()
            .filter_map(|need| self.here.packs.get(&need.id).cloned());
        let packs: Vec<ObjectMeta> = packs.collect();
        filled.add(self.all(&packs, OBJECTS_IN_FLIGHT).await?);
        let small = |of: &BTreeMap<BackupId, ObjectMeta>| of.get(&backup).cloned().into_iter().collect::<Vec<_>>();
        filled.add(self.all(&small(&self.here.indexes), 1).await?);
        if self.there.contains_key(&meta.name) {
            return Ok(filled);
        }
        filled.add(self.all(&small(&self.here.intents), 1).await?);
        if let Some(why) = self.cannot_come(&manifest).await? {
            filled.waiting.push((backup, why));
            return Ok(filled);
        }
        self.keep_locked(&manifest).await?;
        filled.add(self.one(&meta.name).await?);
        filled.backups += 1;
        if !self.from.over(Arc::clone(&self.to)).is_in_time(&manifest).await? {
            let reason = "it took too long to come there, or an attempt long ago was broken off: it cannot be relied on in that place";
            filled.left_out.push((meta.name.clone(), reason.to_owned()));
        }
        Ok(filled)
    }

    /// Why a backup whose intent is there cannot come now: something that it needs is not there, or is about to be deleted.
    async fn cannot_come(&self, manifest: &Manifest) -> Result<Option<String>, StoreError> {
        let there = self.from.over(Arc::clone(&self.to));
        let condemned = there.condemned_packs().await?;
        if let Some(need) = manifest.packs.iter().find(|need| condemned.contains(&need.id)) {
            return Ok(Some(format!(
                "pack {} is about to be deleted there: a prune has to end first",
                need.id
            )));
        }
        let packs = list_all(self.to.as_ref(), &there.layout().prefix("packs")).await?;
        let packs: BTreeMap<ObjectName, u64> = packs.into_iter().map(|meta| (meta.name, meta.size)).collect();
        for need in &manifest.packs {
            let name = there.layout().pack(need.id)?;
            let size = match self.here.packs.get(&need.id) {
                Some(meta) if packs.get(&name) == Some(&meta.size) => continue,
                Some(meta) => Some(self.whole_bytes(meta).await?),
                None => None,
            };
            if size.is_none() || packs.get(&name).copied() != size {
                return Ok(Some(format!(
                    "its pack {} is not there, or not what it should be",
                    need.id
                )));
            }
        }
        Ok(None)
    }

    /// What was there before is locked for as long as what was copied.
    async fn keep_locked(&self, manifest: &Manifest) -> Result<(), StoreError> {
        if !self.to.capabilities().locks {
            return Ok(());
        }
        let names = manifest.packs.iter().map(|need| self.from.layout().pack(need.id));
        let names: Vec<ObjectName> = names.collect::<Result<_, _>>()?;
        let locks = stream::iter(names).map(|name| async move { self.to.keep_locked(&name).await });
        locks.buffer_unordered(LOCKS_IN_FLIGHT).try_collect::<()>().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
