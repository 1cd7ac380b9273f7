//! What WAL says about time: ends of transactions and restore points.
//!
//! Place in the path: [`crate::reader`] emits these beside the records, and the search for a stop point lives on
//! them. PostgreSQL's `getRecordTimestamp` (`xlog.c`, later `xlogrecovery.c`) takes the time of commits, aborts,
//! both of prepared transactions, and of restore points; so does this. Pure: no I/O.

use std::borrow::Cow;

use pg::lsn::Lsn;

use crate::page::Fields;
use crate::record::{MalformedRecord, RecordHeader, main_data};

/// `TimestampTz`: microseconds since 2000-01-01 00:00:00 UTC (`datatype/timestamp.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTimestamp(pub i64);

/// Microseconds from 1970 to 2000: `POSTGRES_EPOCH_JDATE` minus `UNIX_EPOCH_JDATE`, 10957 days
/// (`datatype/timestamp.h`).
const EPOCH_UNIX_MICROS: i64 = 10_957 * 86_400 * 1_000_000;

impl PgTimestamp {
    /// Microseconds since 1970-01-01 UTC; the last 30 years that an `i64` could name end at its maximum.
    pub fn to_unix_micros(self) -> i64 {
        self.0.saturating_add(EPOCH_UNIX_MICROS)
    }

    /// From microseconds since 1970-01-01 UTC; the first 30 years that an `i64` could name end at its minimum.
    pub fn from_unix_micros(micros: i64) -> PgTimestamp {
        PgTimestamp(micros.saturating_sub(EPOCH_UNIX_MICROS))
    }
}

/// What happened to a transaction (`access/xact.h`, `XLOG_XACT_OPMASK`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum XactKind {
    /// `XLOG_XACT_COMMIT`.
    Commit,
    /// `XLOG_XACT_PREPARE`.
    Prepare,
    /// `XLOG_XACT_ABORT`.
    Abort,
    /// `XLOG_XACT_COMMIT_PREPARED`.
    CommitPrepared,
    /// `XLOG_XACT_ABORT_PREPARED`.
    AbortPrepared,
}

impl XactKind {
    /// The kind of an `RM_XACT_ID` record with this `xl_info`; `None` for the others of that resource manager.
    pub fn of(info: u8) -> Option<XactKind> {
        match info & 0x70 {
            0x00 => Some(XactKind::Commit),
            0x10 => Some(XactKind::Prepare),
            0x20 => Some(XactKind::Abort),
            0x30 => Some(XactKind::CommitPrepared),
            0x40 => Some(XactKind::AbortPrepared),
            _ => None,
        }
    }

    /// Whether recovery to a time looks at it: all but `PREPARE` (`getRecordTimestamp` in `xlogrecovery.c`).
    pub fn counts_for_target_time(self) -> bool {
        self != XactKind::Prepare
    }
}

/// A transaction was committed, aborted or prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XactEvent {
    /// What happened.
    pub kind: XactKind,
    /// Start of the record.
    pub lsn_start: Lsn,
    /// End of the record.
    pub lsn_end: Lsn,
    /// The transaction: for a prepared one the one that was prepared, not the one that ends it, as
    /// `recoveryStopsBefore` compares it (`xlogrecovery.c`).
    pub xid: u32,
    /// `xact_time`, or `prepared_at` of a preparation.
    pub time: PgTimestamp,
}

/// `pg_create_restore_point` (`xl_restore_point`, `access/xlog_internal.h`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePoint {
    /// Its name, in the server's encoding.
    pub name: Vec<u8>,
    /// `rp_time`.
    pub time: PgTimestamp,
    /// Start of the record.
    pub lsn_start: Lsn,
    /// End of the record.
    pub lsn_end: Lsn,
}

/// `MAXFNAMELEN` (`access/xlog_internal.h`).
const RESTORE_POINT_NAME_BYTES: usize = 64;

impl RestorePoint {
    /// The name as text, for messages.
    pub fn name_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.name)
    }

    pub(crate) fn parse(main: &[u8], lsn_start: Lsn, lsn_end: Lsn) -> Result<RestorePoint, MalformedRecord> {
        const SHORT: MalformedRecord = MalformedRecord("it is too short for a restore point");
        let time = time_at(main, 0).ok_or(SHORT)?;
        let name = main.get(8..8 + RESTORE_POINT_NAME_BYTES).ok_or(SHORT)?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        Ok(RestorePoint {
            name,
            time,
            lsn_start,
            lsn_end,
        })
    }
}

fn time_at(bytes: &[u8], at: usize) -> Option<PgTimestamp> {
    Fields::new(bytes.get(at..)?)
        .u64()
        .map(|time| PgTimestamp(time.cast_signed()))
}

/// `XLOG_XACT_HAS_INFO` (`access/xact.h`).
const HAS_INFO: u8 = 0x80;
/// `XACT_XINFO_HAS_DBINFO` and `XACT_XINFO_HAS_TWOPHASE` (`access/xact.h`).
const HAS_DBINFO: u32 = 1 << 0;
const HAS_TWOPHASE: u32 = 1 << 4;
/// `XLOG_PAGE_MAGIC` of PostgreSQL 18 (`access/xlog_internal.h`).
const MAGIC_18: u16 = 0xD118;

/// The arrays between `xl_xact_xinfo` and `xl_xact_twophase`, in their order in the record: flag and size of an
/// item; each is led by a 4-byte count (`ParseCommitRecord` in `xactdesc.c`).
const ARRAYS: [(u32, Item); 4] = [
    (1 << 1, Item::Bytes(4)),     // XACT_XINFO_HAS_SUBXACTS: TransactionId
    (1 << 2, Item::Bytes(12)),    // XACT_XINFO_HAS_RELFILELOCATORS: RelFileLocator
    (1 << 8, Item::DroppedStats), // XACT_XINFO_HAS_DROPPED_STATS (15 and later): xl_xact_stats_item
    (1 << 3, Item::Bytes(16)),    // XACT_XINFO_HAS_INVALS: SharedInvalidationMessage
];

#[derive(Clone, Copy)]
enum Item {
    Bytes(u64),
    /// 12 bytes, 16 since 18 made the object's id 8 bytes wide.
    DroppedStats,
}

/// Reads time and transaction id out of a transaction record of any length. The id of a prepared transaction lies
/// behind arrays that can be megabytes, so it is reached by hopping from count to count, 4 bytes at a time.
#[derive(Debug)]
pub(crate) struct XactScan {
    kind: XactKind,
    time: PgTimestamp,
    xid: Option<u32>,
    next: Next,
    xinfo: u32,
    stats_item_bytes: u64,
    /// Offset in the body of the next 4 bytes that are wanted, and what was seen of them.
    at: u64,
    word: u32,
    word_bytes: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Xinfo,
    /// The count of the array with this number, or what follows the last one.
    Count(usize),
    Xid,
    Nothing,
}

impl XactScan {
    /// Starts with the first bytes of the record's body, which hold at least the time.
    pub(crate) fn begin(
        kind: XactKind,
        header: &RecordHeader,
        prefix: &[u8],
        magic: u16,
    ) -> Result<XactScan, MalformedRecord> {
        const SHORT: MalformedRecord = MalformedRecord("it is too short for a transaction record");
        let body_bytes = header.len.saturating_sub(crate::record::RECORD_HEADER_BYTES as u32);
        let offset = main_data(prefix, body_bytes, magic)?.offset;
        let main = prefix.get(offset as usize..).ok_or(SHORT)?;
        // xl_xact_prepare: magic, total_len, xid, database, prepared_at; else xact_time comes first.
        let time_offset = if kind == XactKind::Prepare { 16 } else { 0 };
        let is_second_phase = matches!(kind, XactKind::CommitPrepared | XactKind::AbortPrepared);
        let mut scan = XactScan {
            kind,
            time: time_at(main, time_offset).ok_or(SHORT)?,
            xid: (!is_second_phase).then_some(header.xid),
            next: if is_second_phase && header.info & HAS_INFO != 0 {
                Next::Xinfo
            } else {
                Next::Nothing
            },
            xinfo: 0,
            stats_item_bytes: if magic < MAGIC_18 { 12 } else { 16 },
            at: u64::from(offset) + 8,
            word: 0,
            word_bytes: 0,
        };
        scan.feed(0, prefix);
        Ok(scan)
    }

    /// Takes the bytes of the body from offset `at` on. Bytes come in order and none is left out.
    pub(crate) fn feed(&mut self, at: u64, bytes: &[u8]) {
        while self.next != Next::Nothing {
            let wanted = self.at + u64::from(self.word_bytes);
            let Some(byte) = wanted
                .checked_sub(at)
                .and_then(|skip| bytes.get(usize::try_from(skip).ok()?))
            else {
                return;
            };
            self.word |= u32::from(*byte) << (8 * self.word_bytes);
            self.word_bytes += 1;
            if self.word_bytes == 4 {
                self.at += 4;
                self.word_bytes = 0;
                let word = std::mem::take(&mut self.word);
                self.step(word);
            }
        }
    }

    fn step(&mut self, word: u32) {
        match self.next {
            Next::Xinfo => {
                self.xinfo = word;
                if word & HAS_DBINFO != 0 {
                    self.at += 8;
                }
                self.go_on(0);
            }
            Next::Count(array) => {
                let item_bytes = match ARRAYS.get(array) {
                    Some((_, Item::Bytes(bytes))) => *bytes,
                    Some((_, Item::DroppedStats)) => self.stats_item_bytes,
                    None => 0,
                };
                self.at += u64::from(word) * item_bytes;
                self.go_on(array + 1);
            }
            Next::Xid => {
                self.xid = Some(word);
                self.next = Next::Nothing;
            }
            Next::Nothing => {}
        }
    }

    /// Finds the next array that is there, from the one with this number on.
    fn go_on(&mut self, from: usize) {
        let present = ARRAYS
            .iter()
            .enumerate()
            .skip(from)
            .find(|(_, (flag, _))| self.xinfo & flag != 0);
        self.next = match present {
            Some((array, _)) => Next::Count(array),
            None if self.xinfo & HAS_TWOPHASE != 0 => Next::Xid,
            None => Next::Nothing,
        };
    }

    /// What the record says, once all of it was fed.
    pub(crate) fn finish(self, lsn_start: Lsn, lsn_end: Lsn) -> Result<XactEvent, MalformedRecord> {
        let xid = self
            .xid
            .ok_or(MalformedRecord("it does not name the prepared transaction"))?;
        Ok(XactEvent {
            kind: self.kind,
            lsn_start,
            lsn_end,
            xid,
            time: self.time,
        })
    }
}

#[cfg(test)]
mod tests;
