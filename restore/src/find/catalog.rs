//! The catalog of one database, followed through WAL: `pg_class`, `pg_namespace`, and `pg_database` beside them.
//!
//! `VACUUM FULL` gives them new files while it runs; which, is only known when it commits. A transient relation `pg_temp_<oid>`
//! announces it, and from then on the new files are followed beside the old ones (`make_new_heap`, commands/cluster.c).

mod files;

use std::collections::{HashMap, HashSet, VecDeque};

use pg::catalog::{ClassRow, DatabaseRow, NamespaceRow, PG_NAMESPACE};
use pg::lsn::Lsn;
use wal::block::{RecordBody, RelationLocator};
use wal::heap::HeapChange;

use super::heap::{Changes, Heap, Seen, Unreadable};

/// See the module.
#[derive(Debug)]
pub(crate) struct Catalog {
    /// Major version of the server.
    pub(crate) major: u32,
    /// Oid of the database.
    pub(crate) database: u32,
    /// Its tablespace.
    pub(crate) tablespace: u32,
    pub(crate) class: Heap,
    pub(crate) namespace: Heap,
    pub(crate) databases: Heap,
    /// Files of the catalogs that the relation mapper knows, now or before.
    pub(crate) mapped: HashSet<u32>,
    /// Names of schemas.
    pub(crate) schemas: HashMap<u32, Vec<u8>>,
    /// Which relation a file belongs to.
    pub(crate) files: HashMap<RelationLocator, u32>,
    /// A `DROP DATABASE` of this one made it invalid here.
    pub(crate) invalid_at: Option<Lsn>,
    /// Files that may be the new ones of a catalog, and the transaction that makes them.
    shadows: HashMap<RelationLocator, Heap>,
    rewriter: Option<u32>,
    new_files: VecDeque<RelationLocator>,
    /// Where the database is copied to by `ALTER DATABASE ... SET TABLESPACE`.
    moving_to: Option<u32>,
}

/// What a transaction did to relations, rows by what they are; names are those that were true for it.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) before: HashMap<u32, ClassRow>,
    pub(crate) after: HashMap<u32, ClassRow>,
    pub(crate) between: Vec<ClassRow>,
    /// The database itself is gone.
    pub(crate) is_database_dropped: bool,
    /// Schemas that have another name now: their tables have it too, and no row of theirs says so.
    pub(crate) renamed_schemas: Vec<u32>,
    /// Rows that could not be read.
    pub(crate) unreadable: usize,
}

impl Catalog {
    /// Empty.
    pub(crate) fn new(major: u32, database: u32, tablespace: u32, databases: Heap) -> Self {
        let nowhere = |relfilenode| RelationLocator {
            tablespace,
            database,
            relfilenode,
        };
        Catalog {
            major,
            database,
            tablespace,
            class: Heap::new(nowhere(0)),
            namespace: Heap::new(nowhere(0)),
            databases,
            mapped: HashSet::new(),
            schemas: HashMap::new(),
            files: HashMap::new(),
            invalid_at: None,
            shadows: HashMap::new(),
            rewriter: None,
            new_files: VecDeque::new(),
            moving_to: None,
        }
    }

    /// Where the files of a relation are; none where it has no files of its own.
    pub(crate) fn locator(&self, row: &ClassRow) -> Option<RelationLocator> {
        let tablespace = match row.tablespace {
            0 => self.tablespace,
            other => other,
        };
        (row.relfilenode != 0).then_some(RelationLocator {
            tablespace,
            database: self.database,
            relfilenode: row.relfilenode,
        })
    }

    /// Takes what the rows of the backup say, once all pages are loaded.
    pub(crate) fn learn(&mut self) {
        let schemas = self.namespace.all().filter_map(|row| NamespaceRow::parse(row).ok());
        self.schemas = schemas.map(|row| (row.oid, row.name)).collect();
        let rows: Vec<ClassRow> = self
            .class
            .all()
            .filter_map(|row| ClassRow::parse(row, self.major).ok())
            .collect();
        self.learn_files(rows.iter());
    }

    fn learn_files<'a>(&mut self, rows: impl Iterator<Item = &'a ClassRow>) {
        for row in rows {
            if let Some(file) = self.locator(row) {
                self.files.insert(file, row.oid);
            }
        }
    }

    /// The name of a schema.
    pub(crate) fn schema(&self, oid: u32) -> &[u8] {
        self.schemas.get(&oid).map_or(b"?", Vec::as_slice)
    }

    /// Is it one of the files that are followed?
    pub(crate) fn follows(&self, file: RelationLocator) -> bool {
        file == self.class.file
            || file == self.namespace.file
            || file == self.databases.file
            || self.shadows.contains_key(&file)
    }

    /// Follows a record that touches one of these files.
    pub(crate) fn apply(
        &mut self,
        file: RelationLocator,
        xid: u32,
        (start, end): (Lsn, Lsn),
        body: &RecordBody<'_>,
        change: &HeapChange<'_>,
    ) -> Result<(), Unreadable> {
        let mut seen = Vec::new();
        if file == self.class.file {
            let done = self.class.apply(xid, end, body, change, |row| seen.push(row));
            self.look_for_rewrites(xid, &seen);
            return done;
        }
        if file == self.namespace.file {
            return self.namespace.apply(xid, end, body, change, |_| {});
        }
        if file == self.databases.file {
            let done = self.databases.apply(xid, end, body, change, |row| seen.push(row));
            self.look_for_invalid(start, &seen);
            return done;
        }
        let Some(shadow) = self.shadows.get_mut(&file) else {
            return Ok(());
        };
        let done = shadow.apply(xid, end, body, change, |_| {});
        let major = self.major;
        let is_of_class = |row: &[u8]| ClassRow::parse(row, major).is_ok_and(|row| is_plausible(&row));
        let is_of_namespace = |row: &[u8]| NamespaceRow::parse(row).is_ok_and(|row| row.oid != 0);
        let is_other = shadow
            .touched(body)
            .any(|row| !is_of_class(row) && !is_of_namespace(row));
        if is_other || done.is_err() {
            self.shadows.remove(&file); // if it was the one, its taking over is reported
        }
        Ok(())
    }

    fn look_for_invalid(&mut self, start: Lsn, seen: &[Seen]) {
        let is_ours = |seen: &Seen| {
            let Seen::Inplace(row) = seen else { return false };
            DatabaseRow::parse(row, self.major).is_ok_and(|row| row.oid == self.database && row.is_invalid)
        };
        if self.invalid_at.is_none() && seen.iter().any(is_ours) {
            self.invalid_at = Some(start);
        }
    }

    /// What transactions did that commit together.
    pub(crate) fn commit(&mut self, xids: &HashSet<u32>) -> Settled {
        let schemas = self.namespace.commit(xids);
        let mut renamed_schemas = Vec::new();
        for row in schemas.after.iter().filter_map(|row| NamespaceRow::parse(row).ok()) {
            let old = self.schemas.insert(row.oid, row.name);
            if old.is_some() && old.as_ref() != self.schemas.get(&row.oid) {
                renamed_schemas.push(row.oid);
            }
        }
        let databases = self.databases.commit(xids);
        let mut settled = self.settle(self.major, xids, &databases);
        settled.renamed_schemas = renamed_schemas;
        self.learn_files(settled.after.values().chain(&settled.between));
        self.shadows.values_mut().for_each(|shadow| drop(shadow.commit(xids)));
        if let Some(namespace) = settled.after.get(&PG_NAMESPACE)
            && let Some(file) = self.locator(namespace)
            && file != self.namespace.file
        {
            self.namespace = self.shadows.remove(&file).unwrap_or_else(|| Heap::new(file));
        }
        self.forget_rewriter(xids);
        settled
    }

    fn settle(&mut self, major: u32, xids: &HashSet<u32>, databases: &Changes) -> Settled {
        let changes = self.class.commit(xids);
        let mut settled = Settled::default();
        let mut read = |rows: &[Box<[u8]>]| -> Vec<ClassRow> {
            let read: Vec<ClassRow> = rows.iter().filter_map(|row| ClassRow::parse(row, major).ok()).collect();
            settled.unreadable += rows.len() - read.len();
            read
        };
        let (before, after) = (read(&changes.before), read(&changes.after));
        settled.between = read(&changes.between);
        settled.before = before.into_iter().map(|row| (row.oid, row)).collect();
        settled.after = after.into_iter().map(|row| (row.oid, row)).collect();
        let has = |rows: &[Box<[u8]>]| {
            let mut rows = rows.iter().filter_map(|row| DatabaseRow::parse(row, major).ok());
            rows.any(|row| row.oid == self.database)
        };
        settled.is_database_dropped = has(&databases.before) && !has(&databases.after);
        settled
    }

    /// Forgets what transactions did that abort together.
    pub(crate) fn abort(&mut self, xids: &HashSet<u32>) {
        let own = [&mut self.class, &mut self.namespace, &mut self.databases];
        own.into_iter()
            .chain(self.shadows.values_mut())
            .for_each(|heap| heap.abort(xids));
        self.forget_rewriter(xids);
    }
}

/// Does it look like a row of `pg_class` and not like one of some table?
fn is_plausible(row: &ClassRow) -> bool {
    row.oid != 0 && !row.name.is_empty() && b"put".contains(&row.persistence) && b"rpmvfSitcI".contains(&row.kind)
}
