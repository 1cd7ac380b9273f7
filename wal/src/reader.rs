//! The WAL reader: bytes in any split in, verified records out.
//!
//! Place in the path: between a source of WAL (the replication socket, archived objects) and whoever must know what
//! it says. It never blocks, never copies what it passes over and never holds more than a few KiB, however long a
//! record is; only who asks for whole records ([`RecordSink`]) has up to [`WHOLE_BYTES_MAX`] held for him.
//!
//! Invariants: every page header is held against the stream (`XLogReaderValidatePageHeader`), every record against
//! its CRC and its predecessor (`ValidXLogRecord`, `ValidXLogRecordHeader`, all in `xlogreader.c`). An item is
//! emitted only for a record that passed all of that. The first failure is final: the same error comes back until a
//! new reader is made. Half a record at the end is no error, it is just not there yet.

mod error;
mod item;
mod pages;
mod partial;
mod whole;

use pg::identity::SystemIdentifier;
use pg::lsn::Lsn;
use pg::segment::SegmentSize;
use pg::timeline::TimelineId;

pub use self::error::WalError;
pub use self::item::WalItem;
use self::partial::PartialRecord;
use self::whole::Items;
pub use self::whole::{RecordSink, WHOLE_BYTES_MAX};
use crate::page::{LONG_HEADER_BYTES, PAGE_BYTES};
use crate::record::{RECORD_ALIGNMENT, RECORD_BYTES_MAX, RECORD_HEADER_BYTES, RecordInfo};

/// What the stream must be, and where reading starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalReaderConfig {
    /// Page magic of the server's major version, [`pg::identity::wal_page_magic`].
    pub magic: u16,
    /// Cluster the WAL belongs to.
    pub system_identifier: SystemIdentifier,
    /// Segment size of the cluster.
    pub segment_size: SegmentSize,
    /// Timeline of the stream; pages of its ancestors may come first.
    pub timeline: TimelineId,
    /// First byte to be read: a page boundary that does not lie in the zeros behind an `XLOG_SWITCH`; best the start
    /// of a segment. The rest of a record that began before it is skipped.
    pub start: Lsn,
}

/// Where the reader stands between page headers.
#[derive(Debug)]
enum Phase {
    /// In the rest of a record that began before the start: bytes left of it.
    Skip(u32),
    /// At the start of a record (or in the alignment before it), or within its header.
    Header,
    /// Within the body of a record.
    Body,
    /// In the zeros behind an `XLOG_SWITCH`, until this LSN.
    Zeros(u64),
}

/// Set by a page with the overwrite flag until the record that must follow was read.
#[derive(Debug)]
struct Overwrite {
    /// Start of the record that was dropped, where the reader saw it.
    dropped: Option<u64>,
}

/// Incremental reader of one timeline's WAL.
#[derive(Debug)]
pub struct WalReader {
    config: WalReaderConfig,
    position: u64,
    page_header: [u8; LONG_HEADER_BYTES],
    /// Timeline of the last page; it never goes down (`XLogReaderValidatePageHeader`).
    page_timeline: u32,
    phase: Phase,
    record: PartialRecord,
    overwrite: Option<Overwrite>,
    expected_prev: Option<Lsn>,
    first: Option<RecordInfo>,
    last: Option<RecordInfo>,
    failed: Option<WalError>,
}

impl WalReader {
    /// A reader that expects its first byte at `config.start`.
    pub fn new(config: WalReaderConfig) -> Result<WalReader, WalError> {
        if !config.start.as_u64().is_multiple_of(PAGE_BYTES) {
            return Err(WalError::StartNotOnPage { start: config.start });
        }
        Ok(WalReader {
            config,
            position: config.start.as_u64(),
            page_header: [0; LONG_HEADER_BYTES],
            page_timeline: 0,
            phase: Phase::Header,
            record: PartialRecord::new(config.magic),
            overwrite: None,
            expected_prev: None,
            first: None,
            last: None,
            failed: None,
        })
    }

    /// The first record must name `prev` as the one before it; to be called before the first push. Without this,
    /// only the records after the first are held against their predecessor.
    pub fn expect_prev(&mut self, prev: Lsn) {
        self.expected_prev = Some(prev);
    }

    /// LSN of the next byte.
    pub fn position(&self) -> Lsn {
        Lsn::new(self.position)
    }

    /// Start of the first complete record; its `prev` is in [`Self::first_record`].
    pub fn first_record_start(&self) -> Option<Lsn> {
        self.first.map(|record| record.start)
    }

    /// The first complete record.
    pub fn first_record(&self) -> Option<RecordInfo> {
        self.first
    }

    /// The last complete record.
    pub fn last_complete_record(&self) -> Option<RecordInfo> {
        self.last
    }

    /// Start of the record of which only a part was read so far.
    pub fn partial_record_start(&self) -> Option<Lsn> {
        self.record.is_open().then(|| Lsn::new(self.record.start))
    }

    /// Reads `bytes`, which must lie at `lsn`, the current [`Self::position`]. Items go to `sink` in the order of
    /// WAL; those before an error are delivered.
    pub fn push(&mut self, lsn: Lsn, bytes: &[u8], sink: &mut impl FnMut(WalItem)) -> Result<(), WalError> {
        self.push_to(lsn, bytes, &mut Items(sink))
    }

    /// As [`Self::push`], for a sink that can ask for whole records.
    pub fn push_to(&mut self, lsn: Lsn, bytes: &[u8], sink: &mut impl RecordSink) -> Result<(), WalError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        if lsn != self.position() {
            return Err(WalError::NotContiguous {
                expected: self.position(),
                found: lsn,
            });
        }
        if self
            .position
            .checked_add(bytes.len() as u64)
            .is_none_or(|end| end > LSN_MAX)
        {
            return Err(WalError::EndOfLsns { lsn });
        }
        let read = self.read(bytes, sink);
        self.failed = read.as_ref().err().cloned();
        read
    }

    fn read(&mut self, mut bytes: &[u8], sink: &mut impl RecordSink) -> Result<(), WalError> {
        while !bytes.is_empty() {
            let in_page = self.position % PAGE_BYTES;
            let header_bytes = self.page_header_bytes();
            let is_zeros = matches!(self.phase, Phase::Zeros(_));
            let taken = if in_page < header_bytes as u64 && !is_zeros {
                self.read_page_header(in_page as usize, header_bytes, bytes)?
            } else {
                let page_rest = (PAGE_BYTES - in_page) as usize;
                self.read_content(bytes.get(..page_rest).unwrap_or(bytes), sink)?
            };
            bytes = bytes.get(taken..).unwrap_or_default();
            if matches!(self.phase, Phase::Body) && self.record.missing_bytes() == 0 {
                self.finish_record(sink)?;
            }
        }
        Ok(())
    }

    fn read_content(&mut self, bytes: &[u8], sink: &impl RecordSink) -> Result<usize, WalError> {
        let taken = match self.phase {
            Phase::Skip(left) => {
                let taken = bytes.len().min(left as usize);
                let left = left - taken as u32;
                self.phase = if left == 0 { Phase::Header } else { Phase::Skip(left) };
                taken
            }
            Phase::Zeros(end) => {
                let left = usize::try_from(end - self.position).unwrap_or(usize::MAX);
                let zeros = bytes.get(..left).unwrap_or(bytes);
                if let Some(at) = first_non_zero(zeros) {
                    return Err(WalError::SwitchPadding {
                        lsn: Lsn::new(self.position + at as u64),
                    });
                }
                if zeros.len() == left {
                    self.phase = Phase::Header;
                }
                zeros.len()
            }
            Phase::Header => return self.read_record_header(bytes, sink),
            Phase::Body => {
                let left = self.record.missing_bytes() as usize;
                let body = bytes.get(..left).unwrap_or(bytes);
                self.record.take_body(body);
                body.len()
            }
        };
        self.position += taken as u64;
        Ok(taken)
    }

    fn read_record_header(&mut self, bytes: &[u8], sink: &impl RecordSink) -> Result<usize, WalError> {
        if !self.record.is_open() {
            let padding = self.position.next_multiple_of(RECORD_ALIGNMENT) - self.position;
            if padding > 0 {
                let taken = bytes.len().min(padding as usize);
                self.position += taken as u64;
                return Ok(taken);
            }
            self.record.open(self.position);
        }
        let taken = self.record.take_header(bytes);
        self.position += taken as u64;
        if self.record.has_header() {
            self.check_length()?;
            self.check_prev()?;
            if sink.wants(&self.record.header()) {
                self.record.keep_whole();
            }
            self.phase = Phase::Body;
        }
        Ok(taken)
    }

    fn check_length(&self) -> Result<(), WalError> {
        let len = self.record.len();
        if (RECORD_HEADER_BYTES as u32..=RECORD_BYTES_MAX).contains(&len) {
            return Ok(());
        }
        Err(WalError::RecordLength {
            lsn: Lsn::new(self.record.start),
            len,
        })
    }

    fn check_prev(&self) -> Result<(), WalError> {
        let (lsn, prev) = (Lsn::new(self.record.start), self.record.header().prev);
        let is_right = self.expected_prev.map_or(prev < lsn, |expected| prev == expected);
        if is_right {
            Ok(())
        } else {
            Err(WalError::RecordPrev {
                lsn,
                expected: self.expected_prev,
                found: prev,
            })
        }
    }
}

/// Beyond the last whole segment of the largest size no LSN is served, so that rounding up never overflows.
const LSN_MAX: u64 = u64::MAX - ((1 << 30) - 1);

fn first_non_zero(bytes: &[u8]) -> Option<usize> {
    // Without an early exit, so that it runs at the speed of memory.
    let or = bytes.iter().fold(0, |or, byte| or | byte);
    if or == 0 {
        None
    } else {
        bytes.iter().position(|byte| *byte != 0)
    }
}

#[cfg(test)]
pub(crate) mod tests;
