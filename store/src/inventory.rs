//! Everything that lies in a cluster's part of a repository, by one listing: what verifying and sweeping start from.

use std::collections::BTreeMap;

use pg::timeline::TimelineId;

use crate::error::StoreError;
use crate::id::{BackupId, LineageId, PackId};
use crate::layout::WalRange;
use crate::object::{ObjectMeta, ObjectName, list_all};
use crate::repository::Repository;

/// What an object is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// Public keys of a period.
    Keys(u64),
    /// A lineage.
    Lineage(LineageId),
    /// A writer epoch.
    Lease(u64),
    /// A backup that has begun.
    Intent(BackupId),
    /// How far it has come, for the so-manieth time.
    Progress(BackupId, u32),
    /// A pack.
    Pack(PackId),
    /// The content-defined chunks that a backup added.
    Index(BackupId),
    /// A manifest.
    Manifest(BackupId),
    /// A WAL object or tail.
    Wal(WalRange),
    /// A timeline history.
    History(LineageId, TimelineId),
    /// A declared hole.
    Hole,
    /// An entry of the ledger.
    Ledger,
    /// What was verified, and when.
    Proof,
    /// A list of what is to be deleted.
    Condemned,
    /// A backup that stays.
    Pin(BackupId),
    /// What stands in for a damaged object.
    Spare,
}

/// The objects of a cluster.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Those whose names the format knows, in the order of names.
    pub objects: Vec<(Named, ObjectMeta)>,
    /// The others.
    pub foreign: Vec<ObjectName>,
}

impl Inventory {
    /// Lists the cluster's part.
    ///
    /// # Errors
    /// The store failed: nothing may be concluded from a part of a listing.
    pub async fn of(repository: &Repository) -> Result<Self, StoreError> {
        let listed = list_all(repository.store().as_ref(), &repository.layout().prefix_of_all()).await?;
        let mut inventory = Inventory::default();
        for meta in listed {
            match repository.layout().parse(meta.name.as_str()) {
                Some(named) => inventory.objects.push((named, meta)),
                None => inventory.foreign.push(meta.name),
            }
        }
        Ok(inventory)
    }

    /// Bytes of all objects whose names are known.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.objects.iter().map(|(_, meta)| meta.size).sum()
    }

    /// The packs.
    #[must_use]
    pub fn packs(&self) -> BTreeMap<PackId, &ObjectMeta> {
        let packs = self.objects.iter().filter_map(|(named, meta)| match named {
            Named::Pack(id) => Some((*id, meta)),
            _ => None,
        });
        packs.collect()
    }
}
