//! What the new backup is compared with, and which packs of earlier backups it may use again.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{PackFilter, Parent};
use crate::error::StoreError;
use crate::id::{BackupId, PackId};
use crate::index::ChunkIndex;
use crate::inventory::Named;
use crate::manifest::{Manifest, PackNeed};
use crate::object::{ErrorClass, list_all};
use crate::records::BackupProgress;
use crate::repository::Repository;

/// At most this part of what a backup needs, or [`REWRITE_BYTES_LEAST`], is stored anew to empty packs and chunks that are mostly dead.
const REWRITE_PART: u64 = 50;
const REWRITE_BYTES_LEAST: u64 = 64 << 20;
/// `PackNeed::kind` of a data pack.
const DATA_PACK: u8 = 1;
/// Damaged packs that are read at once, each as a whole.
const PACKS_IN_FLIGHT: usize = 2;

/// Everything that earlier backups contribute.
#[derive(Debug)]
pub struct Earlier {
    /// What pages are compared with.
    pub parent: Option<Parent>,
    /// Content chunks that are stored already.
    pub index: ChunkIndex,
    /// The packs that may be referred to.
    pub filter: PackFilter,
}

impl Earlier {
    /// The backup that is compared with; what is left of one that did not end has no manifest.
    #[must_use]
    pub fn backup(&self) -> Option<BackupId> {
        Some(self.parent.as_ref()?.manifest()?.backup)
    }
}

/// Looks, once the intent is stored. The newest backup of the cluster that can be read, of any lineage: pages are compared one by one, so it need not be an ancestor.
/// Of a component, by its name, the newest of its own, and nothing that did not end: it notes no progress. A damaged one is passed over, loudly: then
/// more is stored, and nothing is lost.
///
/// # Errors
/// The store failed.
pub async fn load(repository: &Repository, component: Option<&str>) -> Result<Earlier, StoreError> {
    let sizes = existing_packs(repository).await?;
    let mut ids = repository.backup_ids().await?.into_iter().rev().peekable();
    let unfinished = match component {
        None => repository.unfinished(ids.peek().copied()).await?,
        Some(_) => None,
    };
    if let Some(unfinished) = &unfinished {
        tracing::info!(unfinished = %unfinished.backup, "goes on from a backup that did not end; its pages are compared like any others");
    }
    let mut parent = None;
    for backup in ids {
        parent = load_one(repository, Some(backup), unfinished.as_ref(), component).await?;
        if parent.is_some() {
            break;
        }
    }
    if parent.is_none() && unfinished.is_some() {
        parent = load_one(repository, None, unfinished.as_ref(), component).await?;
    }
    let manifest = parent.as_ref().and_then(Parent::manifest);
    let needs = manifest.map(|manifest| manifest.packs.as_slice()).unwrap_or_default();
    let mut lost: HashSet<PackId> = needs
        .iter()
        .filter(|need| is_lost(need, &sizes))
        .map(|need| need.id)
        .collect();
    lost.extend(not_made_up(repository, needs).await?);
    if !lost.is_empty() {
        tracing::error!(
            packs = lost.len(),
            "packs that earlier backups need are missing, damaged, or whole only together with what repaired them; this backup stores their content anew"
        );
    }
    // The intent is stored already: who writes a list after this gives us the grace.
    let condemned = match repository.condemned_packs().await {
        Ok(condemned) => Some(condemned),
        Err(error) if error.damaged_object().is_some() => {
            tracing::error!(%error, "a list of what is to be deleted cannot be read: this backup refers to nothing of before, and stores everything anew");
            None
        }
        Err(error) => return Err(error),
    };
    let may = |id: &PackId| condemned.as_ref().is_some_and(|condemned| !condemned.contains(id));
    let existing = sizes
        .into_iter()
        .filter(|(id, size)| *size > 0 && !lost.contains(id) && may(id));
    let (avoid, rewrite_bytes) = manifest.map(mostly_dead).unwrap_or_default();
    let index = repository.chunk_index().await?;
    Ok(Earlier {
        parent,
        index,
        filter: PackFilter {
            existing: Some(existing.map(|(id, _)| id).collect()),
            avoid,
            rewrite_bytes,
        },
    })
}

/// A backup with what there is of a later one; without that when it cannot be read; `None` when the backup cannot, or is of something else.
async fn load_one(
    repository: &Repository,
    backup: Option<BackupId>,
    unfinished: Option<&BackupProgress>,
    component: Option<&str>,
) -> Result<Option<Parent>, StoreError> {
    let load = async |unfinished| {
        let manifest = match backup {
            Some(backup) => match repository.manifest_to_build_on(backup).await? {
                Some(manifest) if manifest.component_name() != component => return Ok(None),
                Some(manifest) => Some(manifest),
                None => {
                    tracing::warn!(%backup, "nothing of that backup is used again: a host's key was revoked since, or it came too late to be relied on");
                    return Ok(None);
                }
            },
            None => None,
        };
        Parent::load(repository, manifest, unfinished).await.map(Some)
    };
    let mut loaded = load(unfinished).await;
    if let (Err(error), Some(unfinished)) = (&loaded, unfinished)
        && error.is_untrusted()
    {
        tracing::warn!(unfinished = %unfinished.backup, %error, "cannot go on from a backup that did not end");
        loaded = load(None).await;
    }
    match loaded {
        Ok(parent) => Ok(parent),
        Err(error) if error.is_untrusted() => {
            let backup = backup.map(tracing::field::display);
            tracing::error!(backup, %error, "cannot compare with a backup; an older one is taken, or none");
            Ok(None)
        }
        // Given up since it was listed.
        Err(StoreError::Object(error)) if error.class() == ErrorClass::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// True when a pack is not there, or shorter than what it must hold.
fn is_lost(need: &PackNeed, sizes: &HashMap<PackId, u64>) -> bool {
    sizes.get(&need.id).is_none_or(|size| *size < need.body_bytes)
}

/// Packs that were found damaged, and are not made up for wholly.
async fn not_made_up(repository: &Repository, needs: &[PackNeed]) -> Result<Vec<PackId>, StoreError> {
    let looks = needs.iter().map(|need| async {
        let name = repository.layout().pack(need.id)?;
        let is_lost = repository.is_lost_in_part(&name).await?;
        Ok::<_, StoreError>(is_lost.then_some(need.id))
    });
    let looks = stream::iter(looks).buffer_unordered(PACKS_IN_FLIGHT);
    let lost: Vec<_> = looks.try_collect().await?;
    Ok(lost.into_iter().flatten().collect())
}

/// Packs that are there, and their sizes.
async fn existing_packs(repository: &Repository) -> Result<HashMap<PackId, u64>, StoreError> {
    let prefix = repository.layout().prefix("packs");
    let listed = list_all(repository.store().as_ref(), &prefix).await?;
    let with_size = listed
        .iter()
        .filter_map(|meta| match repository.layout().parse(meta.name.as_str()) {
            Some(Named::Pack(id)) => Some((id, meta.size)),
            _ => None,
        });
    Ok(with_size.collect())
}

/// Data packs less than half of which is needed, the deadest first, as far as the budget goes; and what is left of that.
fn mostly_dead(manifest: &Manifest) -> (HashSet<PackId>, u64) {
    let is_dead = |need: &&PackNeed| need.kind == DATA_PACK && need.live_bytes.saturating_mul(2) < need.body_bytes;
    let mut dead: Vec<&PackNeed> = manifest.packs.iter().filter(is_dead).collect();
    dead.sort_by_key(|need| (need.live_bytes.saturating_mul(1000) / need.body_bytes.max(1), need.id));
    let mut budget = (manifest.totals.needed_bytes / REWRITE_PART).max(REWRITE_BYTES_LEAST);
    let mut out = HashSet::new();
    for need in dead {
        let Some(left) = budget.checked_sub(need.live_bytes) else {
            break;
        };
        budget = left;
        out.insert(need.id);
    }
    (out, budget)
}
