//! Carrying a plan out. Each step may fail or be the last one before a crash.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::look::{pinned, put_list};
use super::{Going, Looked, Plan};
use crate::envelope::Kind;
use crate::error::StoreError;
use crate::id::BackupId;
use crate::index::ChunkIndex;
use crate::layout::WalRange;
use crate::object::{ErrorClass, ObjectName};
use crate::repository::{NewObject, Repository, Writer};
use crate::session::to_cbor;

/// Objects that are deleted at once.
const DELETES_IN_FLIGHT: usize = 16;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Objects deleted.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Backups given up.
    pub retired: u64,
    /// Objects that may not be deleted yet: a later run does it.
    pub locked: u64,
}

/// Carries a plan out. `progress` hears of each object that is gone.
///
/// # Errors
/// The store failed.
pub async fn carry_out(
    writer: &Writer,
    looked: &Looked,
    plan: &Plan,
    progress: impl Fn(&Going) + Sync,
) -> Result<Done, StoreError> {
    let repository = writer.repository();
    let mut done = Done::default();
    for hole in &plan.holes {
        let name = repository.layout().hole(hole, writer.epoch())?;
        let plain = to_cbor(hole)?;
        match writer
            .put(&name, NewObject::metadata(Kind::Hole, &plain, hole.found_us))
            .await
        {
            // By a run that died before it deleted that WAL.
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let mut delete = async |going: &[Going]| delete_all(repository, going, &progress, &mut done).await;
    delete(&plan.packs).await?;
    delete(&plan.wal).await?;
    delete(&covered(repository, &plan.tails).await?).await?;
    delete(&plan.leftovers).await?;
    // What stays stays written down.
    if done.locked == 0 {
        delete_all(repository, &without_bytes(&plan.close), &progress, &mut done).await?;
    }
    for list in &plan.lists {
        put_list(writer, list).await?;
    }
    let pinned = pinned(repository).await?;
    for backup in plan.retire.iter().filter(|backup| !pinned.contains(backup)) {
        retire(repository, *backup, &progress, &mut done).await?;
    }
    indexes(repository, looked, plan, &progress, &mut done).await?;
    Ok(done)
}

/// The manifest first: from then on the backup is not there. Its intent is needed no more then.
async fn retire(
    repository: &Repository,
    backup: BackupId,
    progress: &(impl Fn(&Going) + Sync),
    done: &mut Done,
) -> Result<(), StoreError> {
    let layout = repository.layout();
    let before = done.locked;
    delete_all(repository, &without_bytes(&[layout.manifest(backup)?]), progress, done).await?;
    if done.locked > before {
        return Ok(());
    }
    done.retired += 1;
    delete_all(repository, &without_bytes(&[layout.intent(backup)?]), progress, done).await
}

async fn delete_all(
    repository: &Repository,
    going: &[Going],
    progress: &(impl Fn(&Going) + Sync),
    done: &mut Done,
) -> Result<(), StoreError> {
    let deletes = going
        .iter()
        .map(async |one| Ok::<_, StoreError>(delete_with_spares(repository, &one.name).await?.then_some(one)));
    let mut deletes = stream::iter(deletes).buffer_unordered(DELETES_IN_FLIGHT);
    while let Some(deleted) = deletes.try_next().await? {
        let Some(one) = deleted else {
            done.locked += 1;
            continue;
        };
        done.objects += 1;
        done.bytes += one.bytes;
        progress(one);
    }
    Ok(())
}

/// What stands in for it goes behind it: what is left when this dies in between, or what is locked, stands in for nothing, and a later run finds
/// it. False when the object itself is locked.
async fn delete_with_spares(repository: &Repository, name: &ObjectName) -> Result<bool, StoreError> {
    let is_gone = async |name: &ObjectName| match repository.store().delete(name).await {
        Ok(()) => Ok(true),
        Err(error) if error.class() == ErrorClass::Locked => Ok(false),
        Err(error) => Err(StoreError::from(error)),
    };
    if !is_gone(name).await? {
        return Ok(false);
    }
    for spare in repository.spares_of(name) {
        is_gone(&spare).await?;
    }
    Ok(true)
}

fn without_bytes(names: &[ObjectName]) -> Vec<Going> {
    let going = names.iter().map(|name| Going {
        name: name.clone(),
        bytes: 0,
    });
    going.collect()
}

/// Tails whose whole objects are what their names say: whole, signed by one of ours, of that range.
async fn covered(
    repository: &Repository,
    tails: &[(Going, Vec<(WalRange, ObjectName)>)],
) -> Result<Vec<Going>, StoreError> {
    let mut out = Vec::new();
    let mut known: BTreeMap<&ObjectName, bool> = BTreeMap::new();
    for (tail, whole) in tails {
        let mut is_held = true;
        for (range, name) in whole {
            let is_good = match known.get(name) {
                Some(is_good) => *is_good,
                None => says_its_range(repository, name, range).await?,
            };
            known.insert(name, is_good);
            is_held &= is_good;
        }
        if is_held {
            out.push(tail.clone());
        }
    }
    Ok(out)
}

async fn says_its_range(repository: &Repository, name: &ObjectName, range: &WalRange) -> Result<bool, StoreError> {
    // As it lies there: who puts something beside it now must not make the only other copy go.
    match repository.read_at(name, name).await {
        Ok((_, read)) => Ok(read.header.lineage == Some(range.lineage)
            && read.header.timeline == Some(range.timeline.as_u32())
            && read.header.start == Some(range.start.as_u64())
            && read.header.end == Some(range.end.as_u64())),
        Err(StoreError::Object(error)) if error.class() == ErrorClass::NotFound => Ok(false),
        Err(error) if error.is_untrusted() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Indexes of backups that are gone, once all packs that they name are gone.
async fn indexes(
    repository: &Repository,
    looked: &Looked,
    plan: &Plan,
    progress: &(impl Fn(&Going) + Sync),
    done: &mut Done,
) -> Result<(), StoreError> {
    for backup in &plan.indexes {
        let name = repository.layout().index(*backup)?;
        let index = match repository.read_plain(&name).await {
            Ok((_, plain)) => ChunkIndex::decode(name.as_str(), &plain)?,
            Err(StoreError::Object(error)) if error.class() == ErrorClass::NotFound => continue,
            // It is of no use to anybody.
            Err(error) if error.is_untrusted() => ChunkIndex::default(),
            Err(error) => return Err(error),
        };
        if index.packs().all(|pack| !looked.has_pack(pack)) {
            delete_all(repository, &without_bytes(&[name]), progress, done).await?;
        }
    }
    Ok(())
}
