//! What the new backup is compared with, and which packs of earlier backups it may use again.

use std::collections::HashSet;

use store::StoreError;
use store::id::{BackupId, PackId, unhex};
use store::index::ChunkIndex;
use store::manifest::{Manifest, PackNeed};
use store::object::list_all;
use store::pipeline::{PackFilter, Parent};
use store::repository::Repository;

use super::error::BackupError;

/// At most this part of what a backup needs, or [`REWRITE_BYTES_LEAST`], is stored anew to empty packs that are mostly dead.
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

/// The newest backup of the cluster that can be read, of any lineage: pages are compared one by one, so it need not be an ancestor.
/// A damaged one is passed over, loudly: then more is stored, and nothing is lost.
pub(super) async fn load(repository: &Repository) -> Result<Earlier, BackupError> {
    let existing = existing_packs(repository).await?;
    let mut parent = None;
    for backup in repository.backup_ids().await?.into_iter().rev() {
        parent = load_one(repository, backup).await?;
        if parent.is_some() {
            break;
        }
    }
    let needs = parent
        .as_ref()
        .map(|parent| parent.manifest().packs.as_slice())
        .unwrap_or_default();
    let missing = needs.iter().filter(|need| !existing.contains(&need.id)).count();
    if missing > 0 {
        tracing::error!(
            packs = missing,
            "packs that earlier backups need are missing from the repository; this backup stores their content anew"
        );
    }
    let avoid = parent
        .as_ref()
        .map(|parent| mostly_dead(parent.manifest()))
        .unwrap_or_default();
    let index = repository.chunk_index().await?;
    Ok(Earlier {
        parent,
        index,
        filter: PackFilter {
            existing: Some(existing),
            avoid,
        },
    })
}

async fn load_one(repository: &Repository, backup: BackupId) -> Result<Option<Parent>, BackupError> {
    let loaded = match repository.manifest(backup).await {
        Ok(manifest) => Parent::load(repository, manifest).await,
        Err(error) => Err(error),
    };
    match loaded {
        Ok(parent) => Ok(Some(parent)),
        Err(error @ (StoreError::Damaged { .. } | StoreError::UnknownSigner { .. })) => {
            tracing::error!(%backup, %error, "cannot compare with a backup; an older one is taken, or none");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

async fn existing_packs(repository: &Repository) -> Result<HashSet<PackId>, BackupError> {
    let prefix = repository.layout().prefix("packs");
    let listed = list_all(repository.store().as_ref(), &prefix)
        .await
        .map_err(StoreError::from)?;
    let id_of = |name: &str| unhex::<16>(name.rsplit('/').next()?).map(PackId);
    Ok(listed.iter().filter_map(|meta| id_of(meta.name.as_str())).collect())
}

/// Data packs less than half of which is needed, the deadest first, as far as the budget goes.
fn mostly_dead(manifest: &Manifest) -> HashSet<PackId> {
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
    out
}
