//! What the new backup is compared with, and which packs of earlier backups it may use again.

use std::collections::{HashMap, HashSet};

use store::StoreError;
use store::id::{BackupId, PackId, unhex};
use store::index::ChunkIndex;
use store::manifest::{Manifest, PackNeed};
use store::object::list_all;
use store::pipeline::{PackFilter, Parent};
use store::records::BackupProgress;
use store::repository::Repository;

use super::error::BackupError;

/// At most this part of what a backup needs, or [`REWRITE_BYTES_LEAST`], is stored anew to empty packs and chunks that are mostly dead.
const REWRITE_PART: u64 = 50;
const REWRITE_BYTES_LEAST: u64 = 64 << 20;
/// `PackNeed::kind` of a data pack.
const DATA_PACK: u8 = 1;

/// Everything that earlier backups contribute.
#[derive(Debug)]
pub(super) struct Earlier {
    pub(super) parent: Option<Parent>,
    pub(super) index: ChunkIndex,
    pub(super) filter: PackFilter,
}

impl Earlier {
    /// The backup that is compared with; what is left of one that did not end has no manifest.
    pub(super) fn backup(&self) -> Option<BackupId> {
        Some(self.parent.as_ref()?.manifest()?.backup)
    }
}

/// The newest backup of the cluster that can be read, of any lineage: pages are compared one by one, so it need not be an ancestor.
/// A damaged one is passed over, loudly: then more is stored, and nothing is lost.
pub(super) async fn load(repository: &Repository) -> Result<Earlier, BackupError> {
    let sizes = existing_packs(repository).await?;
    let mut ids = repository.backup_ids().await?.into_iter().rev().peekable();
    let unfinished = repository.unfinished(ids.peek().copied()).await?;
    if let Some(unfinished) = &unfinished {
        tracing::info!(unfinished = %unfinished.backup, "goes on from a backup that did not end; its pages are compared like any others");
    }
    let mut parent = None;
    for backup in ids {
        parent = load_one(repository, Some(backup), unfinished.as_ref()).await?;
        if parent.is_some() {
            break;
        }
    }
    if parent.is_none() && unfinished.is_some() {
        parent = load_one(repository, None, unfinished.as_ref()).await?;
    }
    let manifest = parent.as_ref().and_then(Parent::manifest);
    let needs = manifest.map(|manifest| manifest.packs.as_slice()).unwrap_or_default();
    let lost: HashSet<PackId> = needs
        .iter()
        .filter(|need| is_lost(need, &sizes))
        .map(|need| need.id)
        .collect();
    if !lost.is_empty() {
        tracing::error!(
            packs = lost.len(),
            "packs that earlier backups need are missing from the repository, or cut short; this backup stores their content anew"
        );
    }
    let existing = sizes.into_iter().filter(|(id, size)| *size > 0 && !lost.contains(id));
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

/// A backup with what there is of a later one; without that when it cannot be read; `None` when the backup cannot.
async fn load_one(
    repository: &Repository,
    backup: Option<BackupId>,
    unfinished: Option<&BackupProgress>,
) -> Result<Option<Parent>, BackupError> {
    let load = async |unfinished| {
        let manifest = match backup {
            Some(backup) => Some(repository.manifest(backup).await?),
            None => None,
        };
        Parent::load(repository, manifest, unfinished).await
    };
    let mut loaded = load(unfinished).await;
    if let (Err(error), Some(unfinished)) = (&loaded, unfinished)
        && error.is_untrusted()
    {
        tracing::warn!(unfinished = %unfinished.backup, %error, "cannot go on from a backup that did not end");
        loaded = load(None).await;
    }
    match loaded {
        Ok(parent) => Ok(Some(parent)),
        Err(error) if error.is_untrusted() => {
            let backup = backup.map(tracing::field::display);
            tracing::error!(backup, %error, "cannot compare with a backup; an older one is taken, or none");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// True when a pack is not there, or shorter than what it must hold.
fn is_lost(need: &PackNeed, sizes: &HashMap<PackId, u64>) -> bool {
    sizes.get(&need.id).is_none_or(|size| *size < need.body_bytes)
}

/// Packs that are there, and their sizes.
async fn existing_packs(repository: &Repository) -> Result<HashMap<PackId, u64>, BackupError> {
    let prefix = repository.layout().prefix("packs");
    let listed = list_all(repository.store().as_ref(), &prefix)
        .await
        .map_err(StoreError::from)?;
    let id_of = |name: &str| unhex::<16>(name.rsplit('/').next()?).map(PackId);
    let with_size = listed.iter().map(|meta| Some((id_of(meta.name.as_str())?, meta.size)));
    Ok(with_size.flatten().collect())
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
