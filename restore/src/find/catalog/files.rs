//! Files of the catalog that change: new ones after `VACUUM FULL`, other places after `ALTER DATABASE ... SET TABLESPACE`.

use std::collections::HashSet;

use pg::catalog::{ClassRow, PG_CLASS, PG_DATABASE, PG_NAMESPACE};
use pg::relation_map::RelationMap;
use wal::block::RelationLocator;

use super::Catalog;
use crate::find::heap::{Heap, Seen};

/// New files that are remembered: where more are made between the file of a transient relation and its row, it is lost.
const NEW_FILES_MAX: usize = 64;

impl Catalog {
    pub(super) fn look_for_rewrites(&mut self, xid: u32, seen: &[Seen]) {
        for seen in seen {
            let Seen::New(row) = seen else { continue };
            let Ok(row) = ClassRow::parse(row, self.major) else {
                continue;
            };
            let is_transient = |oid: u32| row.name == format!("pg_temp_{oid}").as_bytes();
            if self.rewriter == Some(xid) || !(is_transient(PG_CLASS) || is_transient(PG_NAMESPACE)) {
                continue;
            }
            self.rewriter = Some(xid);
            let known: Vec<RelationLocator> = match self.locator(&row) {
                Some(file) => vec![file],
                None => self.new_files.iter().copied().collect(),
            };
            for file in known.into_iter().filter(|file| !self.files.contains_key(file)) {
                self.shadows.insert(file, Heap::new(file));
            }
        }
    }

    /// A relation's first file was made (`xl_smgr_create`, catalog/storage_xlog.h). False: it is one that the catalog had in the backup
    /// already, so it was rewritten while that was taken.
    pub(crate) fn file_made(&mut self, file: RelationLocator) -> bool {
        if file.database == self.database {
            self.new_files.push_back(file);
            if self.new_files.len() > NEW_FILES_MAX {
                self.new_files.pop_front();
            }
        }
        file != self.class.file && file != self.namespace.file
    }

    /// The relation mapper has a new map (`xl_relmap_update`, utils/relmapper.h). False: a catalog went on in a file that was not seen.
    pub(crate) fn mapped_anew(&mut self, database: u32, map: &RelationMap) -> bool {
        let (oid, heap) = match database {
            0 => (PG_DATABASE, &mut self.databases),
            _ if database == self.database => (PG_CLASS, &mut self.class),
            _ => return true,
        };
        if database != 0 {
            self.mapped.extend(map.relfilenodes());
        }
        let Some(number) = map.relfilenode(oid).filter(|number| *number != heap.file.relfilenode) else {
            return true;
        };
        let file = RelationLocator {
            relfilenode: number,
            ..heap.file
        };
        let shadow = self.shadows.remove(&file);
        let is_known = shadow.is_some() || oid == PG_DATABASE;
        *heap = shadow.unwrap_or_else(|| Heap::new(file));
        is_known
    }

    /// `XLOG_DBASE_CREATE` from one tablespace to another.
    pub(crate) fn database_copied(&mut self, from: u32, to: (u32, u32)) {
        if from == self.database && to.0 == self.database {
            self.moving_to = Some(to.1);
        }
    }

    /// The files of the database were removed where it was: it lives where it was copied to (`movedb`, commands/dbcommands.c).
    pub(crate) fn database_moved(&mut self) {
        let Some(to) = self.moving_to.take() else { return };
        let from = std::mem::replace(&mut self.tablespace, to);
        let moved = |file: RelationLocator| RelationLocator {
            tablespace: if file.tablespace == from { to } else { file.tablespace },
            ..file
        };
        self.class.file = moved(self.class.file);
        self.namespace.file = moved(self.namespace.file);
        self.files = self.files.drain().map(|(file, oid)| (moved(file), oid)).collect();
    }

    pub(super) fn forget_rewriter(&mut self, xids: &HashSet<u32>) {
        if self.rewriter.is_some_and(|xid| xids.contains(&xid)) {
            self.rewriter = None;
            self.shadows.clear();
        }
    }
}
