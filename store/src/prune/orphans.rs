//! Spares that stand in for nothing any more.

use roaring::RoaringBitmap;

use super::{Going, Looked};
use crate::inventory::Named;

/// Old spares of what was deleted since. What a pack that is missing was made of anew stays as long as a backup needs it.
pub(super) fn orphans(looked: &Looked, is_old: &impl Fn(i64) -> bool) -> Vec<Going> {
    let needed: RoaringBitmap = looked
        .sweep
        .manifests
        .iter()
        .flat_map(|manifest| &manifest.packs)
        .collect();
    // A restore of what was given up just now may still read them.
    let mut given_up = looked.lists.iter().filter(|seen| !seen.list.retired.is_empty());
    let is_quiet = given_up.all(|seen| is_old(seen.meta.modified_unix_ms));
    let is_orphan = |named: &Named| match named {
        Named::Pack(id) => {
            let number = looked.numbers.known(*id);
            is_quiet && !looked.has_pack(*id) && !number.is_some_and(|number| needed.contains(number))
        }
        Named::Manifest(id) => !looked.backups.iter().any(|backup| backup.id == *id),
        Named::Index(id) => !looked.indexes.contains(id),
        Named::Wal(range) => !looked.wal.iter().any(|(there, _)| there == range),
        _ => false,
    };
    let spares = looked.spares.iter();
    let old = spares.filter(|(_, meta)| is_old(meta.modified_unix_ms));
    old.filter(|(named, _)| is_orphan(named))
        .map(|(_, meta)| Going::from(meta))
        .collect()
}
