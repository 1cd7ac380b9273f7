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

#[cfg(test)]
mod tests {
    use super::super::{BackupSeen, ListSeen};
    use super::*;
    use crate::id::{BackupId, LineageId, PackId};
    use crate::object::{ObjectMeta, ObjectName};
    use crate::records::Condemned;
    use crate::sweep::ManifestSeen;

    fn meta(modified_unix_ms: i64) -> ObjectMeta {
        ObjectMeta {
            name: ObjectName::new(format!("spare/{modified_unix_ms}")).unwrap(),
            size: 1,
            modified_unix_ms,
        }
    }

    #[test]
    fn old_spares_of_what_is_gone_go_and_no_others() {
        let lineage = LineageId::from_parts(1, [1; 10]);
        let [there, gone] = [1, 2].map(|number| BackupId::from_parts(number, [1; 10]));
        let [needed, unneeded] = [PackId([1; 16]), PackId([2; 16])];
        let mut looked = Looked::default();
        let number = looked.numbers.number(needed);
        looked.sweep.manifests.push(ManifestSeen {
            backup: there,
            stored_ms: 0,
            intent_stored_ms: Some(0),
            duration_max_ms: 0,
            packs: [number].into_iter().collect(),
        });
        looked.backups.push(BackupSeen {
            id: there,
            lineage,
            timeline: 1,
            start_lsn: 0,
            end_lsn: 0,
            finished_us: 0,
            stored_ms: 0,
            logical_bytes: 0,
            component: None,
            label: None,
        });
        looked.indexes.push(there);
        let of = [
            (Named::Manifest(gone), 1),
            (Named::Manifest(there), 2),
            (Named::Index(gone), 3),
            (Named::Index(there), 4),
            (Named::Pack(needed), 5),
            (Named::Pack(unneeded), 6),
            (Named::Lineage(lineage), 7),
            (Named::Manifest(gone), 200),
        ];
        looked.spares = of.map(|(named, stored_ms)| (named, meta(stored_ms))).to_vec();
        let is_old = |stored_ms: i64| stored_ms < 100;
        let names = |looked: &Looked| -> Vec<String> {
            let going = orphans(looked, &is_old);
            going.into_iter().map(|going| going.name.to_string()).collect()
        };
        assert_eq!(names(&looked), ["spare/1", "spare/3", "spare/6"]);
        // A restore of what was given up just now may still read what its packs were made of anew.
        let list = Condemned {
            retired: vec![gone],
            ..Condemned::default()
        };
        looked.lists.push(ListSeen { meta: meta(150), list });
        assert_eq!(names(&looked), ["spare/1", "spare/3"]);
    }
}
