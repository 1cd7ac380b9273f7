//! A segment's file as PostgreSQL gives it to an `archive_command`: which WAL it must be, whether it is that, and which pieces of it
//! are to be stored.
//!
//! Two passes, so that nothing is stored of a file that turns out to be wrong and never more than one range is held: [`Survey`]
//! verifies every page and every record and says where valid WAL ends, [`Cutter`] cuts that into the ranges, with the facts, that
//! streaming would have made of the same bytes ([`crate::assemble`]). Where the segment before is at hand both begin there, so that
//! the record that crosses the boundary is verified and counted as well. [`check_splice`] holds the segment against what is archived
//! right before it. Pure: no I/O, no clock; a crash leaves nothing.

mod splice;
#[cfg(test)]
mod tests;

use pg::identity::{ServerVersion, SystemIdentifier, wal_page_magic};
use pg::lsn::Lsn;
use pg::segment::{SegmentNumber, SegmentSize, SegmentSizeError};
use pg::timeline::TimelineId;
use store::id::LineageId;
use store::records::Lineage;

pub use self::splice::check_splice;
use crate::assemble::{Assembler, Piece};
use crate::page::{LONG_HEADER_BYTES, PAGE_BYTES, PageExpectation, PageHeader, WalPageError};
use crate::reader::{WalError, WalItem, WalReader, WalReaderConfig};
use crate::record::RecordInfo;

/// Bytes of a file that [`SegmentFile::check_head`] looks at.
pub const HEAD_BYTES: usize = LONG_HEADER_BYTES;

/// Why a file is not the segment that it claims to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentFileError {
    /// The lineage is of a server whose WAL format is unknown.
    #[error("PostgreSQL {0} is not supported")]
    Version(u32),
    /// The lineage's segment size is none.
    #[error("the lineage's segment size makes no sense")]
    Size(#[from] SegmentSizeError),
    /// Too short or too long.
    #[error("the file has {found} bytes where a segment has {expected}")]
    Length {
        /// Segment size of the lineage.
        expected: u64,
        /// Length of the file.
        found: u64,
    },
    /// A file of another cluster.
    #[error("the file is of another cluster: its system identifier is {found}, the repository's {expected}")]
    OtherCluster {
        /// System identifier of the lineage.
        expected: u64,
        /// System identifier in the file.
        found: u64,
    },
    /// The first page is not this segment's.
    #[error("the file does not begin as this segment must")]
    Head(#[source] WalPageError),
    /// A page or a record is damaged or foreign.
    #[error("the file is not whole")]
    Damaged(#[source] WalError),
    /// The WAL does not go on where archived WAL ends.
    #[error("the server's history is not the archived one: {0}")]
    Splice(String),
}

/// The segment that a file must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentFile {
    lineage: LineageId,
    config: WalReaderConfig,
}

/// What the first page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The segment begins with the rest of a record.
    pub continues: bool,
    /// The segment begins where a record was given up after a crash.
    pub overwrites: bool,
}

impl SegmentFile {
    /// The segment of this number and timeline in a lineage.
    ///
    /// # Errors
    /// The lineage is of a server that is not supported.
    pub fn new(lineage: &Lineage, timeline: TimelineId, number: SegmentNumber) -> Result<Self, SegmentFileError> {
        let major = ServerVersion(lineage.server_version).major();
        let size = SegmentSize::new(lineage.segment_bytes)?;
        let config = WalReaderConfig {
            magic: wal_page_magic(major).ok_or(SegmentFileError::Version(major))?,
            system_identifier: SystemIdentifier(lineage.system_identifier),
            segment_size: size,
            timeline,
            start: size.start_of(number),
        };
        Ok(SegmentFile {
            lineage: lineage.id,
            config,
        })
    }

    /// Its lineage.
    #[must_use]
    pub fn lineage(&self) -> LineageId {
        self.lineage
    }

    /// Its size.
    #[must_use]
    pub fn size(&self) -> SegmentSize {
        self.config.segment_size
    }

    /// Its timeline.
    #[must_use]
    pub fn timeline(&self) -> TimelineId {
        self.config.timeline
    }

    /// Its first byte.
    #[must_use]
    pub fn start(&self) -> Lsn {
        self.config.start
    }

    /// The byte after its last.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.config.start.saturating_add(self.config.segment_size.bytes())
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> SegmentNumber {
        self.config.segment_size.segment_of(self.config.start)
    }

    /// The segment before; `None` for the first one of all WAL.
    #[must_use]
    pub fn previous(&self) -> Option<SegmentNumber> {
        self.number().0.checked_sub(1).map(SegmentNumber)
    }

    /// Holds length and first page of a file against the segment.
    ///
    /// # Errors
    /// What differs.
    pub fn check_head(&self, file_bytes: u64, head: &[u8]) -> Result<Head, SegmentFileError> {
        let size = self.config.segment_size;
        if file_bytes != size.bytes() {
            return Err(SegmentFileError::Length {
                expected: size.bytes(),
                found: file_bytes,
            });
        }
        let header = PageHeader::parse(head).map_err(SegmentFileError::Head)?;
        let expected = PageExpectation {
            magic: self.config.magic,
            system_identifier: self.config.system_identifier,
            segment_size: size,
            timeline: self.config.timeline,
            page_lsn: self.config.start,
        };
        header.check(&expected).map_err(|error| match error {
            WalPageError::System { expected, found } => SegmentFileError::OtherCluster { expected, found },
            error => SegmentFileError::Head(error),
        })?;
        Ok(Head {
            continues: header.continues(),
            overwrites: header.overwrites(),
        })
    }
}

/// The first page of `bytes`, which begin with the page at `start`, on which a record begins: reading can start there. By page headers
/// alone, which whoever reads from there holds against the stream.
#[must_use]
pub fn first_record_page(bytes: &[u8], start: Lsn) -> Option<Lsn> {
    let pages = bytes.chunks_exact(PAGE_BYTES as usize);
    let starts = (0u64..).map(|page| start.saturating_add(page * PAGE_BYTES));
    pages.zip(starts).find_map(|(page, at)| {
        let header = PageHeader::parse(page).ok()?;
        let begins = u64::from(header.remaining_bytes) < PAGE_BYTES - LONG_HEADER_BYTES as u64;
        (header.page_lsn == at && begins).then_some(at)
    })
}

/// The first pass. Takes the file from its start, or from the start of the segment before.
#[derive(Debug)]
pub struct Survey {
    file: SegmentFile,
    reader: WalReader,
    before: Option<RecordInfo>,
    first: Option<RecordInfo>,
    record_end: Lsn,
    zeros_end: Option<Lsn>,
    error: Option<WalError>,
}

/// What a [`Survey`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surveyed {
    /// The last record that ended before the segment, when the segment before was read as well.
    pub before: Option<RecordInfo>,
    /// The first record that begins in the segment.
    pub first: Option<RecordInfo>,
    /// Where the last complete record ends, or the zeros behind it after a segment switch; the segment's start if there is none.
    pub valid_end: Lsn,
    /// Why reading ended early.
    pub error: Option<WalError>,
}

impl Survey {
    /// Begins at `from`: the segment's start, or the start of the segment before.
    ///
    /// # Errors
    /// `from` is no page boundary.
    pub fn new(file: &SegmentFile, from: Lsn) -> Result<Self, SegmentFileError> {
        let config = WalReaderConfig {
            start: from,
            ..file.config
        };
        Ok(Survey {
            file: *file,
            reader: WalReader::new(config).map_err(SegmentFileError::Damaged)?,
            before: None,
            first: None,
            record_end: file.start(),
            zeros_end: None,
            error: None,
        })
    }

    /// Takes the next bytes; false once reading has ended early, and then they do not count.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        if self.error.is_some() {
            return false;
        }
        let (start, end) = (self.file.start(), self.file.end());
        let (before, first) = (&mut self.before, &mut self.first);
        let (record_end, zeros_end) = (&mut self.record_end, &mut self.zeros_end);
        let position = self.reader.position();
        let read = self.reader.push(position, bytes, &mut |item| match item {
            WalItem::Record(record) if record.end <= start => *before = Some(record),
            WalItem::Record(record) => {
                if record.start >= start {
                    first.get_or_insert(record);
                }
                *record_end = record.end.min(end);
                *zeros_end = None;
            }
            WalItem::Switch { segment_end, .. } => *zeros_end = Some(segment_end),
            _ => {}
        });
        self.error = read.err();
        self.error.is_none()
    }

    /// True once the segment itself has been reached.
    #[must_use]
    pub fn has_reached_segment(&self) -> bool {
        self.reader.position() >= self.file.start()
    }

    /// What was found.
    #[must_use]
    pub fn finish(self) -> Surveyed {
        let is_at_end = self.error.is_none() && self.reader.position() == self.file.end();
        let zeros_end = self.zeros_end.filter(|end| is_at_end && *end == self.file.end());
        Surveyed {
            before: self.before,
            first: self.first,
            valid_end: zeros_end.unwrap_or(self.record_end),
            error: self.error,
        }
    }
}

impl Surveyed {
    /// Insists on a file that is valid to its end, as one that PostgreSQL has finished is.
    ///
    /// # Errors
    /// Where it is not.
    pub fn whole(&self) -> Result<(), SegmentFileError> {
        match &self.error {
            None => Ok(()),
            Some(error) => Err(SegmentFileError::Damaged(error.clone())),
        }
    }
}

/// The second pass: pieces of the segment up to `until`.
#[derive(Debug)]
pub struct Cutter {
    assembler: Assembler,
    start: Lsn,
    until: Lsn,
}

impl Cutter {
    /// Begins at `from` as the [`Survey`] did; ends at `until`, which is the segment's end or where valid WAL ends.
    ///
    /// # Errors
    /// `from` is no page boundary.
    pub fn new(file: &SegmentFile, from: Lsn, until: Lsn) -> Result<Self, SegmentFileError> {
        let config = WalReaderConfig {
            start: from,
            ..file.config
        };
        Ok(Cutter {
            assembler: Assembler::new(file.lineage, config, None)
                .map_err(SegmentFileError::Damaged)?
                .with_all_at_hand(),
            start: file.start(),
            until,
        })
    }

    /// Takes the next bytes; pushes the whole ranges of the segment that they complete.
    ///
    /// # Errors
    /// The bytes are not those that were surveyed.
    pub fn push(&mut self, bytes: &[u8], pieces: &mut Vec<Piece>) -> Result<(), SegmentFileError> {
        let position = self.assembler.position();
        let room = usize::try_from(self.until.distance_from(position)).unwrap_or(usize::MAX);
        let (mut cut, mut commits) = (Vec::new(), Vec::new());
        let bytes = bytes.get(..room).unwrap_or(bytes);
        self.assembler
            .push(position, bytes, &mut cut, &mut commits)
            .map_err(SegmentFileError::Damaged)?;
        pieces.extend(cut.into_iter().filter(|piece| piece.range.start >= self.start));
        Ok(())
    }

    /// What is left of a segment that ends early, as a tail.
    #[must_use]
    pub fn finish(mut self) -> Option<Piece> {
        self.assembler
            .cut_tail()
            .filter(|piece| piece.range.start >= self.start)
    }
}
