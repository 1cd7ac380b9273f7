//! From a committed transaction to events.

use std::collections::{HashMap, HashSet};

use pg::catalog::ClassRow;
use pg::lsn::Lsn;
use wal::block::RelationLocator;
use wal::commit::XactEvent;
use wal::xact_end::XactEnd;

use super::{EVENTS_MAX, Watch};
use crate::find::catalog::Settled;
use crate::find::event::{Event, EventKind};
use crate::find::name::show;

impl Watch {
    pub(super) fn commit(&mut self, xact: &XactEvent, xids: &HashSet<u32>, end: &XactEnd) {
        let Some(catalog) = &mut self.catalog else { return };
        let settled = catalog.commit(xids);
        if settled.unreadable > 0 {
            let text = format!(
                "{} rows of pg_class that transaction {} changed make no sense",
                settled.unreadable, xact.xid
            );
            self.note(text);
        }
        self.track(&settled);
        self.deleted(xact, xids);
        self.changed(xact, &settled);
        self.files_gone(xact, &settled, end);
        let drops: Vec<Lsn> = xids.iter().filter_map(|xid| self.database_drops.remove(xid)).collect();
        if settled.is_database_dropped || !drops.is_empty() {
            self.database_dropped(xact, drops.into_iter().min());
        }
    }

    fn name_of(&self, row: &ClassRow) -> String {
        let schema = self
            .catalog
            .as_ref()
            .map_or(&b"?"[..], |catalog| catalog.schema(row.namespace));
        show(schema, &row.name)
    }

    fn is_asked(&self, row: &ClassRow) -> bool {
        match (&self.asked.table, &self.catalog) {
            (Some(name), Some(catalog)) => row.is_named() && name.is(catalog.schema(row.namespace), &row.name),
            _ => false,
        }
    }

    /// Remembers a table that has the name.
    pub(crate) fn track_row(&mut self, row: &ClassRow) {
        if self.is_asked(row) {
            let name = self.name_of(row);
            let is_known = self.tracked.insert(row.oid, name.clone()).is_some();
            self.was_tracked = true;
            match (row.kind, row.persistence) {
                _ if is_known => {}
                (b'p', _) => self.note(format!(
                    "{name} is partitioned: its rows are in its partitions, ask for those"
                )),
                (_, b'u') => self.note(format!("{name} is unlogged: deletes from it are in no WAL")),
                _ => {}
            }
        }
    }

    fn track(&mut self, settled: &Settled) {
        if let Some(catalog) = self.catalog.as_ref().filter(|_| !settled.renamed_schemas.is_empty()) {
            let rows = catalog
                .class
                .all()
                .filter_map(|row| ClassRow::parse(row, catalog.major).ok());
            let rows: Vec<ClassRow> = rows
                .filter(|row| settled.renamed_schemas.contains(&row.namespace))
                .collect();
            rows.iter().for_each(|row| self.track_row(row));
        }
        settled
            .before
            .values()
            .chain(settled.after.values())
            .for_each(|row| self.track_row(row));
    }

    /// Do people want to know of this relation?
    fn is_meant(&self, row: &ClassRow) -> bool {
        match self.asked.table {
            Some(_) => self.tracked.contains_key(&row.oid),
            None => row.is_named(),
        }
    }

    pub(super) fn emit(&mut self, kind: EventKind, xact: &XactEvent, fill: impl FnOnce(&mut Event)) {
        let time_us = xact.time.to_unix_micros();
        let is_early = self.asked.from_us.is_some_and(|from| time_us < from);
        let is_late = self.asked.to_us.is_some_and(|to| time_us > to);
        if is_early || is_late || !self.asked.events.contains(&kind) || self.events.len() >= EVENTS_MAX {
            return;
        }
        let mut event = Event {
            event: kind,
            table: None,
            rows: None,
            time_us: Some(time_us),
            commit_lsn: xact.lsn_start,
            xid: xact.xid,
            note: None,
            stop_before: xact.lsn_start,
            restore: None,
        };
        fill(&mut event);
        self.events.push(event);
    }

    fn deleted(&mut self, xact: &XactEvent, xids: &HashSet<u32>) {
        let mut counts: HashMap<u32, u64> = HashMap::new();
        let files = self.catalog.as_ref().map(|catalog| &catalog.files);
        for (file, count) in xids.iter().filter_map(|xid| self.deletes.remove(xid)).flatten() {
            if let Some(oid) = files.and_then(|files| files.get(&file)) {
                *counts.entry(*oid).or_default() += count;
            }
        }
        for (oid, rows) in counts {
            if let Some(name) = self.tracked.get(&oid).cloned()
                && rows >= self.asked.rows_min
            {
                self.emit(EventKind::Delete, xact, |event| {
                    event.table = Some(name);
                    event.rows = Some(rows);
                });
            }
        }
    }

    fn changed(&mut self, xact: &XactEvent, settled: &Settled) {
        let mut before: Vec<&ClassRow> = settled.before.values().filter(|row| self.is_meant(row)).collect();
        before.sort_by_key(|row| row.oid);
        for row in before {
            let name = self.name_of(row);
            let Some(now) = settled.after.get(&row.oid) else {
                self.tracked.remove(&row.oid);
                self.emit(EventKind::Drop, xact, |event| event.table = Some(name));
                continue;
            };
            if (row.relfilenode, row.tablespace) != (now.relfilenode, now.tablespace) {
                let kind = kind_of_change(row, now, settled);
                self.emit(kind, xact, |event| event.table = Some(name.clone()));
            }
            let new_name = self.name_of(now);
            if new_name != name {
                self.tracked.insert(row.oid, new_name.clone());
                self.emit(EventKind::Rename, xact, |event| {
                    event.table = Some(name);
                    event.note = Some(format!("to {new_name}"));
                });
            }
        }
    }

    /// Files that the commit removes and that no row of it explains: the change of the row was not seen.
    fn files_gone(&mut self, xact: &XactEvent, settled: &Settled, end: &XactEnd) {
        let Some(catalog) = &mut self.catalog else { return };
        let rows = settled
            .before
            .values()
            .chain(settled.after.values())
            .chain(&settled.between);
        let explained: HashSet<RelationLocator> = rows.filter_map(|row| catalog.locator(row)).collect();
        let mut gone = Vec::new();
        for file in end.dropped.iter().filter(|file| file.database == catalog.database) {
            let oid = catalog.files.remove(file);
            if !explained.contains(file) && !catalog.mapped.contains(&file.relfilenode) {
                gone.push((*file, oid));
            }
        }
        for (file, oid) in gone {
            let name = oid.and_then(|oid| self.tracked.get(&oid).cloned());
            if name.is_none() && self.asked.table.is_some() {
                continue;
            }
            self.emit(EventKind::Drop, xact, |event| {
                event.table = Some(name.unwrap_or_else(|| format!("relation file {file}")));
                event.note = Some("seen by its file alone: dropped, emptied or rewritten".into());
            });
        }
    }

    fn database_dropped(&mut self, xact: &XactEvent, files_gone: Option<Lsn>) {
        let invalid_at = self.catalog.as_ref().and_then(|catalog| catalog.invalid_at);
        // Not the commit: by then the files are gone, and before that the database was made invalid for good.
        let begun = [invalid_at, files_gone].into_iter().flatten();
        let stop_before = begun.fold(xact.lsn_start, Lsn::min);
        let mut names: Vec<Option<String>> = self.tracked.drain().map(|(_, name)| Some(name)).collect();
        names.sort();
        if self.asked.table.is_none() {
            names.push(None);
        }
        for name in names {
            self.emit(EventKind::Drop, xact, |event| {
                event.note = Some(match name {
                    Some(_) => "with its database".into(),
                    None => "the database itself".into(),
                });
                event.table = name;
                event.stop_before = stop_before;
            });
        }
    }
}

/// `TRUNCATE` gives a table new, empty files and no statistics (`RelationSetNewRelfilenode`, relcache.c). What rewrites one fills a
/// transient relation first and swaps the files (`make_new_heap`, `swap_relation_files`, cluster.c).
fn kind_of_change(before: &ClassRow, now: &ClassRow, settled: &Settled) -> EventKind {
    let transient = format!("pg_temp_{}", now.oid);
    let is_swapped = settled.between.iter().any(|row| row.name == transient.as_bytes());
    let is_moved = before.tablespace != now.tablespace;
    let is_empty = now.pages == 0 && (now.tuples == 0.0 || now.tuples == -1.0);
    match is_swapped || is_moved || !is_empty {
        true => EventKind::Rewrite,
        false => EventKind::Truncate,
    }
}
