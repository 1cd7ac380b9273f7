//! WAL records: header, checksum, kinds, and the way to a record's main data.
//!
//! Place in the path: [`crate::reader`] cuts the stream into records and emits a [`RecordInfo`] for each one whose
//! checksum is right. Pure: no I/O, no state.

use pg::lsn::Lsn;

use crate::commit::XactKind;
use crate::page::Fields;

/// Size of the `XLogRecord` header (`SizeOfXLogRecord`, `access/xlogrecord.h`).
pub const RECORD_HEADER_BYTES: usize = 24;
/// Records start at multiples of this (`MAXALIGN` of 64-bit servers, `XLogRecPtr` arithmetic in `xlogreader.c`).
pub const RECORD_ALIGNMENT: u64 = 8;
/// Longest record that any supported server can read back: `MaxAllocSize` (`utils/memutils.h`), which bounds
/// `allocate_recordbuf` in `xlogreader.c`. PostgreSQL 16 and later write at most `XLogRecordMaxSize`, 1020 MiB
/// (`access/xlogrecord.h`); earlier ones know no such limit.
pub const RECORD_BYTES_MAX: u32 = 0x3fff_ffff;
/// How much of a record's body is kept. More than all block headers of a record can take (33 of 27 bytes).
pub const PREFIX_BYTES_MAX: usize = 4096;

/// `RM_XLOG_ID` (`access/rmgrlist.h`).
pub const RM_XLOG: u8 = 0;
/// `RM_XACT_ID` (`access/rmgrlist.h`).
pub const RM_XACT: u8 = 1;
/// `XLOG_SWITCH` (`catalog/pg_control.h`).
const XLOG_SWITCH: u8 = 0x40;
/// `XLOG_RESTORE_POINT` (`catalog/pg_control.h`).
const XLOG_RESTORE_POINT: u8 = 0x70;
/// `XLOG_OVERWRITE_CONTRECORD` (`catalog/pg_control.h`).
const XLOG_OVERWRITE_CONTRECORD: u8 = 0xD0;
/// The record manager's part of `xl_info`: the complement of `XLR_INFO_MASK` (`access/xlogrecord.h`).
const OPERATION_MASK: u8 = 0xF0;

/// `XLogRecord`, decoded (`access/xlogrecord.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// `xl_tot_len`: header and body, without page headers.
    pub len: u32,
    /// `xl_xid`.
    pub xid: u32,
    /// `xl_prev`: start of the record before.
    pub prev: Lsn,
    /// `xl_info`.
    pub info: u8,
    /// `xl_rmid`.
    pub rmid: u8,
    /// `xl_crc`: CRC-32C over the body, then over the header up to this field.
    pub crc: u32,
}

impl RecordHeader {
    /// Decodes a header; any 24 bytes are one.
    pub fn parse(bytes: &[u8; RECORD_HEADER_BYTES]) -> RecordHeader {
        let b = bytes;
        RecordHeader {
            len: u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            xid: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
            prev: Lsn::new(u64::from_le_bytes([
                b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15],
            ])),
            info: b[16],
            rmid: b[17],
            crc: u32::from_le_bytes([b[20], b[21], b[22], b[23]]),
        }
    }

    /// What the record is to Seawall.
    pub fn kind(&self) -> RecordKind {
        RecordKind::of(self.rmid, self.info)
    }
}

/// The records that mean something to archiving and to stop points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// `XLOG_SWITCH`: the rest of the segment is zeros (`ReserveXLogSwitch` in `xlog.c`).
    Switch,
    /// `XLOG_RESTORE_POINT` (`pg_create_restore_point`).
    RestorePoint,
    /// `XLOG_OVERWRITE_CONTRECORD`: the record before it was lost in a crash (`xlog.c`).
    OverwriteContrecord,
    /// The end of a transaction, or its preparation (`access/xact.h`).
    Xact(XactKind),
    /// Everything else.
    Other,
}

impl RecordKind {
    /// The kind of a record with these `xl_rmid` and `xl_info`.
    pub fn of(rmid: u8, info: u8) -> RecordKind {
        match (rmid, info & OPERATION_MASK) {
            (RM_XLOG, XLOG_SWITCH) => RecordKind::Switch,
            (RM_XLOG, XLOG_RESTORE_POINT) => RecordKind::RestorePoint,
            (RM_XLOG, XLOG_OVERWRITE_CONTRECORD) => RecordKind::OverwriteContrecord,
            (RM_XACT, _) => XactKind::of(info).map_or(RecordKind::Other, RecordKind::Xact),
            _ => RecordKind::Other,
        }
    }
}

/// A complete record whose checksum was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordInfo {
    /// First byte of its header.
    pub start: Lsn,
    /// Where its bytes end, rounded up to [`RECORD_ALIGNMENT`]. The next record starts here, or after the page
    /// header where this is a page boundary, or on the next segment after an `XLOG_SWITCH`.
    pub end: Lsn,
    /// Start of the record before; 0 in the first record of a cluster.
    pub prev: Lsn,
    /// Transaction, 0 without one.
    pub xid: u32,
    /// Resource manager.
    pub rmid: u8,
    /// Flags and operation of the resource manager.
    pub info: u8,
    /// Bytes of header and body, without page headers.
    pub len: u32,
}

impl RecordInfo {
    /// What the record is to Seawall.
    pub fn kind(&self) -> RecordKind {
        RecordKind::of(self.rmid, self.info)
    }
}

/// The content of a record contradicts itself although its checksum is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("WAL record is malformed: {0}")]
pub struct MalformedRecord(pub &'static str);

const CUT: MalformedRecord = MalformedRecord("its headers are cut off");

/// `XLR_MAX_BLOCK_ID` and the reserved ids of `access/xlogrecord.h`.
const BLOCK_ID_MAX: u8 = 32;
const BLOCK_ID_DATA_SHORT: u8 = 255;
const BLOCK_ID_DATA_LONG: u8 = 254;
const BLOCK_ID_ORIGIN: u8 = 253;
const BLOCK_ID_TOPLEVEL_XID: u8 = 252;
/// `BKPBLOCK_HAS_IMAGE` and `BKPBLOCK_SAME_REL` (`access/xlogrecord.h`).
const BLOCK_HAS_IMAGE: u8 = 0x10;
const BLOCK_SAME_REL: u8 = 0x80;
/// `BKPIMAGE_HAS_HOLE` (`access/xlogrecord.h`).
const IMAGE_HAS_HOLE: u8 = 0x01;
/// Size of `RelFileNode`, later `RelFileLocator` (`storage/relfilelocator.h`).
const RELATION_BYTES: usize = 12;
/// `XLOG_PAGE_MAGIC` of PostgreSQL 15 (`access/xlog_internal.h`).
const MAGIC_15: u16 = 0xD110;

/// Where a record's main data lies in its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MainData {
    /// Bytes of the body before it.
    pub offset: u32,
    /// Its length; 0 where a record has none.
    pub len: u32,
}

/// Walks the block and data headers at the start of a record's body, `DecodeXLogRecord` in `xlogreader.c`.
/// `prefix` is the body or its first bytes, `body_bytes` the length of all of it; `magic` tells the version apart,
/// as the flags of page images moved in PostgreSQL 15.
pub fn main_data(prefix: &[u8], body_bytes: u32, magic: u16) -> Result<MainData, MalformedRecord> {
    let mut fields = Fields::new(prefix);
    let mut data_bytes: u64 = 0; // announced by the headers so far
    let mut main_bytes = 0;
    let mut blocks = BlockWalk {
        compressed: compressed_flags(magic),
        last_id: None,
        has_relation: false,
    };
    loop {
        let header_bytes = (prefix.len() - fields.remaining()) as u64;
        let announced = header_bytes + data_bytes;
        if announced > u64::from(body_bytes) {
            return Err(MalformedRecord("its headers announce more data than it has"));
        }
        if announced == u64::from(body_bytes) {
            return Ok(MainData {
                offset: body_bytes - main_bytes,
                len: main_bytes,
            });
        }
        if main_bytes != 0 {
            return Err(MalformedRecord("it has more data than its headers announce"));
        }
        match fields.u8().ok_or(CUT)? {
            BLOCK_ID_DATA_SHORT => main_bytes = u32::from(fields.u8().ok_or(CUT)?),
            BLOCK_ID_DATA_LONG => main_bytes = fields.u32().ok_or(CUT)?,
            BLOCK_ID_ORIGIN => fields.skip(2).ok_or(CUT)?,
            BLOCK_ID_TOPLEVEL_XID => fields.skip(4).ok_or(CUT)?,
            id if id <= BLOCK_ID_MAX => data_bytes += blocks.step(id, &mut fields)?,
            _ => return Err(MalformedRecord("it has a header of an unknown kind")),
        }
        data_bytes += u64::from(main_bytes);
    }
}

/// The bits that say that a page image is compressed: `BKPIMAGE_IS_COMPRESSED` up to 14, `BKPIMAGE_COMPRESS_PGLZ`,
/// `_LZ4` and `_ZSTD` from 15 on (`access/xlogrecord.h`).
fn compressed_flags(magic: u16) -> u8 {
    if magic < MAGIC_15 { 0x02 } else { 0x04 | 0x08 | 0x10 }
}

/// What one block header says about the next.
struct BlockWalk {
    compressed: u8,
    last_id: Option<u8>,
    has_relation: bool,
}

impl BlockWalk {
    /// Walks over one `XLogRecordBlockHeader` behind its id; returns the bytes of data that belong to it.
    fn step(&mut self, id: u8, fields: &mut Fields<'_>) -> Result<u64, MalformedRecord> {
        if self.last_id.is_some_and(|last| id <= last) {
            return Err(MalformedRecord("its block references are out of order"));
        }
        self.last_id = Some(id);
        let flags = fields.u8().ok_or(CUT)?;
        let mut data_bytes = u64::from(fields.u16().ok_or(CUT)?);
        if flags & BLOCK_HAS_IMAGE != 0 {
            data_bytes += u64::from(fields.u16().ok_or(CUT)?);
            fields.skip(2).ok_or(CUT)?; // hole_offset
            let image = fields.u8().ok_or(CUT)?;
            if image & IMAGE_HAS_HOLE != 0 && image & self.compressed != 0 {
                fields.skip(2).ok_or(CUT)?; // hole_length
            }
        }
        if flags & BLOCK_SAME_REL == 0 {
            fields.skip(RELATION_BYTES).ok_or(CUT)?;
            self.has_relation = true;
        } else if !self.has_relation {
            return Err(MalformedRecord("its first block reference has no relation"));
        }
        fields.skip(4).ok_or(CUT)?; // block number
        Ok(data_bytes)
    }
}

#[cfg(test)]
mod tests;
