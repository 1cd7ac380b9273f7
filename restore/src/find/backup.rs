//! The catalog out of a backup: the few files of it that say which databases, schemas and tables there were.

use std::collections::{BTreeMap, HashMap};

use pg::catalog::{ClassRow, DEFAULT_TABLESPACE, DatabaseRow, GLOBAL_TABLESPACE, PG_CLASS, PG_DATABASE, PG_NAMESPACE};
use pg::identity::ServerVersion;
use pg::lsn::Lsn;
use pg::page::{PAGE_BYTES, page_lsn};
use pg::relation::{FileClass, Fork};
use pg::relation_map::RelationMap;
use store::chunk::ChunkReference;
use store::file_table::{EntryType, FileEntry};
use store::id::PackId;
use store::manifest::Manifest;
use store::repository::{Maps, Repository};
use wal::block::RelationLocator;

use super::catalog::Catalog;
use super::heap::Heap;
use super::name::quote;
use crate::error::{RestoreError, Result};
use crate::fetch_files;

/// Largest catalog that is read: a million tables take half of it.
const CATALOG_PAGES_MAX: u32 = 65_536;
/// Chunks that are read at a time, 16 pages each.
const CHUNKS_AT_ONCE: usize = 64;
/// Transactions in a file of `pg_xact`: 32 pages, 4 a byte (access/transam/clog.c, access/transam/slru.c).
const XACTS_PER_FILE: u32 = 32 * 8192 * 4;
/// Files of `pg_xact` that are read: rows name only transactions that ended lately.
const XACT_FILES_MAX: usize = 64;
/// `TRANSACTION_STATUS_COMMITTED` (access/clog.h).
const COMMITTED: u8 = 1;

/// The files of one backup.
pub(super) struct Files<'a> {
    repository: &'a Repository,
    manifest: &'a Manifest,
    table: Vec<FileEntry>,
}

/// The catalog, and its rows that count where the backup was taken.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) catalog: Catalog,
    pub(super) tables: Vec<ClassRow>,
}

impl<'a> Files<'a> {
    pub(super) async fn of(repository: &'a Repository, manifest: &'a Manifest) -> Result<Self> {
        let table = repository.file_table(manifest).await?;
        Ok(Files {
            repository,
            manifest,
            table,
        })
    }

    /// The catalog of the database of this name; else the names that there are.
    pub(super) async fn catalog(&self, database: &str) -> Result<std::result::Result<Found, Vec<String>>> {
        let major = ServerVersion(self.manifest.server_version).major();
        let shared = self.relation_map("global/pg_filenode.map").await?;
        let mut databases = Heap::new(RelationLocator {
            tablespace: GLOBAL_TABLESPACE,
            database: 0,
            relfilenode: mapped(&shared, PG_DATABASE)?,
        });
        self.load(&mut databases).await?;
        let committed = self.committed(&databases).await?;
        let live = databases.live(|xid| committed.contains(&xid));
        let rows: Vec<DatabaseRow> = live.filter_map(|row| DatabaseRow::parse(row, major).ok()).collect();
        let Some(row) = rows.iter().find(|row| row.name == database.as_bytes()) else {
            let mut names: Vec<String> = rows.iter().map(|row| quote(&row.name)).collect();
            names.sort();
            return Ok(Err(names));
        };
        let (tablespace, map) = self.map_of(row.oid)?;
        let map = self.relation_map(&map).await?;
        let mut catalog = Catalog::new(major, row.oid, tablespace, databases);
        catalog.mapped.extend(map.relfilenodes());
        catalog.class.file.relfilenode = mapped(&map, PG_CLASS)?;
        self.load(&mut catalog.class).await?;
        let committed = self.committed(&catalog.class).await?;
        let live = catalog.class.live(|xid| committed.contains(&xid));
        let tables: Vec<ClassRow> = live.filter_map(|row| ClassRow::parse(row, major).ok()).collect();
        let namespace = tables.iter().find(|row| row.oid == PG_NAMESPACE);
        catalog.namespace.file = namespace
            .and_then(|row| catalog.locator(row))
            .ok_or_else(|| damaged("pg_class", "has no row of pg_namespace"))?;
        self.load(&mut catalog.namespace).await?;
        catalog.learn();
        Ok(Ok(Found { catalog, tables }))
    }

    /// The tablespace of a database, and the path of its map.
    fn map_of(&self, database: u32) -> Result<(u32, String)> {
        let name = format!("/{database}/pg_filenode.map");
        let paths = self
            .table
            .iter()
            .filter_map(|entry| std::str::from_utf8(&entry.path).ok());
        let path = paths.filter(|path| path.ends_with(&name)).find_map(|path| {
            let tablespace = match path.strip_prefix("pg_tblspc/") {
                Some(below) => below.split('/').next()?.parse().ok()?,
                None => path.strip_prefix("base/").map(|_| DEFAULT_TABLESPACE)?,
            };
            Some((tablespace, path.to_owned()))
        });
        path.ok_or_else(|| damaged("the file table", "has no relation map of the database"))
    }

    async fn relation_map(&self, path: &str) -> Result<RelationMap> {
        let bytes = self
            .content(path)
            .await?
            .ok_or_else(|| damaged(path, "is not in the backup"))?;
        RelationMap::parse(&bytes).map_err(|error| damaged(path, error))
    }

    /// The bytes of a small file.
    async fn content(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let is_it = |entry: &&FileEntry| *entry.path == *path.as_bytes() && entry.entry_type == EntryType::File;
        match self.table.iter().find(is_it) {
            Some(entry) => fetch_files::content(self.repository, &entry.content).await.map(Some),
            None => Ok(None),
        }
    }

    /// Fills a heap with the pages of its files.
    async fn load(&self, heap: &mut Heap) -> Result<()> {
        let file = heap.file;
        let tablespace = (file.tablespace > GLOBAL_TABLESPACE).then_some(file.tablespace);
        let mut parts: BTreeMap<u32, &FileEntry> = BTreeMap::new();
        for entry in &self.table {
            if let FileClass::Relation(part) = FileClass::of(&entry.path)
                && part.fork == Fork::Main
                && !part.temporary
                && (part.tablespace, part.database, part.relfilenode) == (tablespace, file.database, file.relfilenode)
            {
                parts.insert(part.segment, entry);
            }
        }
        if parts.is_empty() {
            return Err(damaged(format!("relation file {file}"), "is not in the backup"));
        }
        for (segment, entry) in parts {
            let first = segment
                .checked_mul(self.manifest.relation_segment_blocks)
                .filter(|first| *first < CATALOG_PAGES_MAX)
                .ok_or_else(|| too_large(&entry.path))?;
            self.load_part(heap, first, entry).await?;
        }
        Ok(())
    }

    async fn load_part(&self, heap: &mut Heap, first: u32, entry: &FileEntry) -> Result<()> {
        let Some(extents) = entry.extents else { return Ok(()) };
        let extents = Maps::new(self.repository).extents(extents).await?.content;
        if first.saturating_add(extents.pages) > CATALOG_PAGES_MAX {
            return Err(too_large(&entry.path));
        }
        let mut chunks: BTreeMap<PackId, Vec<(u32, u32, std::ops::Range<u32>)>> = BTreeMap::new();
        for run in &extents.runs {
            run.each_part(|ChunkReference { pack, number }, page, blocks| {
                chunks.entry(pack).or_default().push((number, page, blocks));
            });
        }
        for (pack, parts) in chunks {
            for parts in parts.chunks(CHUNKS_AT_ONCE) {
                let mut numbers: Vec<u32> = parts.iter().map(|(number, ..)| *number).collect();
                numbers.sort_unstable();
                numbers.dedup();
                let fetched = self.repository.fetch_chunks(pack, &numbers).await?;
                for (number, page, blocks) in parts {
                    let plain = fetched.chunk(*number, self.repository)?;
                    for (nth, block) in (*page as usize..).zip(blocks.clone()) {
                        let bytes = plain.get(nth * PAGE_BYTES..(nth + 1) * PAGE_BYTES);
                        let bytes = bytes.ok_or_else(|| damaged(pack, "a chunk is shorter than the page map says"))?;
                        self.load_page(heap, first + block, bytes, entry)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A page that was written while it was copied may make no sense: WAL has an image of it.
    fn load_page(&self, heap: &mut Heap, block: u32, bytes: &[u8], entry: &FileEntry) -> Result<()> {
        match heap.load(block, bytes) {
            Err(error) if page_lsn(bytes) < Lsn::new(self.manifest.start_lsn) => {
                let name = format!("page {block} of \"{}\"", entry.path.escape_ascii());
                Err(damaged(name, error))
            }
            _ => Ok(()),
        }
    }

    /// Of the transactions that rows leave undecided, those that committed, by `pg_xact` as it was when it was copied.
    async fn committed(&self, heap: &Heap) -> Result<std::collections::HashSet<u32>> {
        let mut by_file: HashMap<u32, Vec<u32>> = HashMap::new();
        for xid in heap.undecided() {
            by_file.entry(xid / XACTS_PER_FILE).or_default().push(xid);
        }
        if by_file.len() > XACT_FILES_MAX {
            return Err(damaged(
                format!("relation file {}", heap.file),
                "names transactions all over the place",
            ));
        }
        let mut committed = std::collections::HashSet::new();
        for (file, xids) in by_file {
            let bytes = self.content(&format!("pg_xact/{file:04X}")).await?.unwrap_or_default();
            committed.extend(xids.into_iter().filter(|xid| status(&bytes, *xid) == Some(COMMITTED)));
        }
        Ok(committed)
    }
}

/// Two bits a transaction (`TransactionIdGetStatus`, access/transam/clog.c).
fn status(file: &[u8], xid: u32) -> Option<u8> {
    let number = xid % XACTS_PER_FILE;
    let byte = file.get(usize::try_from(number / 4).ok()?)?;
    Some(byte >> (2 * (number % 4)) & 3)
}

fn mapped(map: &RelationMap, oid: u32) -> Result<u32> {
    map.relfilenode(oid)
        .ok_or_else(|| damaged("pg_filenode.map", format!("does not name the file of relation {oid}")))
}

fn damaged(name: impl ToString, reason: impl ToString) -> RestoreError {
    RestoreError::damaged(name.to_string(), reason.to_string())
}

fn too_large(path: &[u8]) -> RestoreError {
    RestoreError::refused(
        format!("the catalog is too large: \"{}\"", path.escape_ascii()),
        "VACUUM FULL pg_class makes it smaller; in its present state, restore and look.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_transaction_is_two_bits() {
        let mut file = vec![0; 256];
        file[1] = 0b10_01_11_00;
        let of = |xid| status(&file, xid);
        assert_eq!([of(4), of(5), of(6), of(7)], [Some(0), Some(3), Some(1), Some(2)]);
        assert_eq!(of(XACTS_PER_FILE + 6), Some(1));
        assert_eq!(of(1024), None);
    }
}
