//! From records of WAL to what transactions did; it counts when they commit.

mod settle;

use std::collections::{HashMap, HashSet};

use pg::lsn::Lsn;
use pg::relation_map::RelationMap;
use wal::block::{RecordBody, RelationLocator, first_relation};
use wal::commit::{XactEvent, XactKind};
use wal::heap::{HeapChange, RM_HEAP, RM_HEAP2};
use wal::reader::{RecordSink, WalItem};
use wal::record::{RM_XACT, RM_XLOG, RecordHeader, RecordInfo};
use wal::xact_end::XactEnd;

use super::asked::Asked;
use super::catalog::Catalog;
use super::event::{Event, EventKind};

/// `RM_SMGR_ID`, `RM_DBASE_ID`, `RM_RELMAP_ID` (`access/rmgrlist.h`).
const RM_SMGR: u8 = 2;
const RM_DBASE: u8 = 4;
const RM_RELMAP: u8 = 7;
/// `XLOG_FPI_FOR_HINT`, `XLOG_FPI` (`catalog/pg_control.h`).
const FPI_FOR_HINT: u8 = 0xA0;
const FPI: u8 = 0xB0;
/// `XLOG_SMGR_CREATE` (`catalog/storage_xlog.h`).
const SMGR_CREATE: u8 = 0x10;
/// `XLOG_DBASE_CREATE`, since 15 `XLOG_DBASE_CREATE_FILE_COPY`; `XLOG_DBASE_DROP` moved then (`commands/dbcommands_xlog.h`).
const DBASE_CREATE: u8 = 0x00;
const DBASE_DROP_14: u8 = 0x10;
const DBASE_DROP_15: u8 = 0x20;
/// Events that are kept.
const EVENTS_MAX: usize = 100_000;
/// Transactions and tables of which deleted rows are counted at once.
const COUNTS_MAX: usize = 1_000_000;
/// Notes that are kept.
const NOTES_MAX: usize = 20;
/// Clocks of two commits are never further apart than this and in the wrong order.
const CLOCKS_MAX_US: i64 = 60_000_000;

/// Follows WAL; see the module.
#[derive(Debug)]
pub(crate) struct Watch {
    asked: Asked,
    magic: u16,
    /// Records before it are part of the backup.
    start: Lsn,
    /// None: only commits are looked for.
    pub(crate) catalog: Option<Catalog>,
    /// Tables that once had the name, and the name that they have.
    pub(crate) tracked: HashMap<u32, String>,
    /// There ever was one.
    pub(crate) was_tracked: bool,
    deletes: HashMap<u32, HashMap<RelationLocator, u64>>,
    database_drops: HashMap<u32, Lsn>,
    xact: Option<XactEvent>,
    pub(crate) events: Vec<Event>,
    pub(crate) notes: Vec<String>,
    notes_more: usize,
    /// Times of the first and the last commit.
    pub(crate) times: Option<(i64, i64)>,
}

impl Watch {
    /// Begins at `start` with the catalog of a backup.
    pub(crate) fn new(asked: Asked, magic: u16, start: Lsn, catalog: Option<Catalog>) -> Self {
        Watch {
            asked,
            magic,
            start,
            catalog,
            tracked: HashMap::new(),
            was_tracked: false,
            deletes: HashMap::new(),
            database_drops: HashMap::new(),
            xact: None,
            events: Vec::new(),
            notes: Vec::new(),
            notes_more: 0,
            times: None,
        }
    }

    /// Nothing more can come.
    pub(crate) fn is_over(&self) -> bool {
        let last = self.times.map(|(_, last)| last);
        let is_past = |to: i64| last.is_some_and(|last| last > to.saturating_add(CLOCKS_MAX_US));
        self.asked.to_us.is_some_and(is_past) || self.events.len() >= EVENTS_MAX
    }

    /// Notes with a last one for those that were too many.
    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        if self.events.len() >= EVENTS_MAX {
            self.notes.push(format!(
                "more than {EVENTS_MAX} events: the rest is left out; ask for less with --from and --to"
            ));
        }
        if self.notes_more > 0 {
            self.notes.push(format!("{} more places like these", self.notes_more));
        }
        std::mem::take(&mut self.notes)
    }

    fn note(&mut self, text: String) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(text);
        } else {
            self.notes_more += 1;
        }
    }

    fn record(&mut self, record: &RecordInfo, body: &[u8]) -> Result<(), String> {
        let Some(catalog) = &mut self.catalog else {
            return Ok(());
        };
        let malformed = |error: wal::record::MalformedRecord| error.to_string();
        let operation = record.info & 0xF0;
        match record.rmid {
            RM_HEAP | RM_HEAP2 | RM_XLOG => {
                let Some(file) = first_relation(body, self.magic) else {
                    return Ok(());
                };
                let follows = catalog.follows(file);
                let is_delete = record.rmid == RM_HEAP && operation & 0x70 == 0x10 && file.database == catalog.database;
                if !follows && !is_delete {
                    return Ok(());
                }
                let body = RecordBody::decode(body, self.magic).map_err(malformed)?;
                let change = HeapChange::parse(record.rmid, record.info, &body).map_err(malformed)?;
                if follows {
                    let at = (record.start, record.end);
                    let done = catalog.apply(file, record.xid, at, &body, &change);
                    return done.map_err(|why| why.0.to_owned());
                }
                if let HeapChange::Delete { is_meant: true, .. } = change {
                    return self.count(record.xid, file);
                }
            }
            RM_SMGR if operation == SMGR_CREATE => {
                let words = words_of(body, self.magic)?;
                if let [tablespace, database, relfilenode, 0, ..] = words[..] {
                    let file = RelationLocator {
                        tablespace,
                        database,
                        relfilenode,
                    };
                    if !catalog.file_made(file) {
                        let text =
                            "the catalog got new files while the backup was taken: what happened before may be missing";
                        self.note(format!("{text} ({} to {})", self.start, record.start));
                    }
                }
            }
            RM_DBASE => self.database_record(record, &words_of(body, self.magic)?),
            RM_RELMAP => {
                let body = RecordBody::decode(body, self.magic).map_err(malformed)?;
                let database = words(body.main).next().unwrap_or_default();
                let map =
                    RelationMap::parse(body.main.get(12..).unwrap_or_default()).map_err(|error| error.to_string())?;
                if !catalog.mapped_anew(database, &map) {
                    return Err("in a new file of pg_class, whose beginning was not seen".into());
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// One row more that a transaction deleted.
    fn count(&mut self, xid: u32, file: RelationLocator) -> Result<(), String> {
        if self.deletes.len() >= COUNTS_MAX {
            self.deletes.clear();
            return Err("in more transactions at once than are counted: deletes before it may be missing".into());
        }
        *self.deletes.entry(xid).or_default().entry(file).or_default() += 1;
        Ok(())
    }

    fn database_record(&mut self, record: &RecordInfo, words: &[u32]) {
        let Some(catalog) = &mut self.catalog else { return };
        let drop = if catalog.major < 15 {
            DBASE_DROP_14
        } else {
            DBASE_DROP_15
        };
        match (record.info & 0xF0, words) {
            (DBASE_CREATE, [to, tablespace, from, ..]) => catalog.database_copied(*from, (*to, *tablespace)),
            // The one that moves a database has done with its transaction by then.
            (kind, [database, ..]) if kind == drop && *database == catalog.database => match record.xid {
                0 => catalog.database_moved(),
                xid => {
                    // The first of a transaction counts.
                    self.database_drops.entry(xid).or_insert(record.start);
                }
            },
            _ => {}
        }
    }

    fn end_of_transaction(&mut self, record: &RecordInfo, body: Option<&[u8]>) {
        let Some(xact) = self.xact.take().filter(|xact| xact.lsn_start == record.start) else {
            return;
        };
        let read = body.ok_or_else(|| "too long".to_owned()).and_then(|body| {
            let body = RecordBody::decode(body, self.magic).map_err(|error| error.to_string())?;
            XactEnd::parse(record.info, body.main).map_err(|error| error.to_string())
        });
        let end = read.unwrap_or_else(|why| {
            let text = format!(
                "what subtransactions of {} did is not known, its end at {} is {why}",
                xact.xid, record.start
            );
            self.note(text);
            XactEnd::default()
        });
        let mut xids: HashSet<u32> = end.subxacts.iter().copied().collect();
        xids.insert(xact.xid);
        match xact.kind {
            XactKind::Commit | XactKind::CommitPrepared => self.commit(&xact, &xids, &end),
            XactKind::Abort | XactKind::AbortPrepared => {
                if let Some(catalog) = &mut self.catalog {
                    catalog.abort(&xids);
                }
                for xid in &xids {
                    self.deletes.remove(xid);
                    self.database_drops.remove(xid);
                }
            }
            XactKind::Prepare => {}
        }
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word))
}

/// The main data of a record as numbers of 4 bytes; the first few are enough.
fn words_of(body: &[u8], magic: u16) -> Result<Vec<u32>, String> {
    let body = RecordBody::decode(body, magic).map_err(|error| error.to_string())?;
    Ok(words(body.main).take(8).collect())
}

impl RecordSink for Watch {
    fn item(&mut self, item: WalItem) {
        let WalItem::Xact(xact) = item else { return };
        if xact.lsn_start < self.start || xact.kind == XactKind::Prepare {
            return;
        }
        if matches!(xact.kind, XactKind::Commit | XactKind::CommitPrepared) {
            let time_us = xact.time.to_unix_micros();
            let first = self.times.map_or(time_us, |(first, _)| first);
            self.times = Some((first, time_us));
            self.emit(EventKind::Commit, &xact, |_| {});
        }
        self.xact = Some(xact);
    }

    fn wants(&self, header: &RecordHeader) -> bool {
        self.catalog.is_some()
            && match header.rmid {
                RM_XLOG => matches!(header.info & 0xF0, FPI | FPI_FOR_HINT),
                RM_XACT => XactKind::of(header.info).is_some_and(|kind| kind != XactKind::Prepare),
                RM_HEAP | RM_HEAP2 | RM_SMGR | RM_DBASE | RM_RELMAP => true,
                _ => false,
            }
    }

    fn whole(&mut self, record: &RecordInfo, body: Option<&[u8]>) {
        if record.start < self.start {
            return;
        }
        if record.rmid == RM_XACT {
            return self.end_of_transaction(record, body);
        }
        let done = match body {
            Some(body) => self.record(record, body),
            // Records about single pages are never that long.
            None => Ok(()),
        };
        if let Err(why) = done {
            let text = format!(
                "a change of the catalog at {} is {why}: what follows may be incomplete",
                record.start
            );
            self.note(text);
        }
    }
}

#[cfg(test)]
mod tests;
