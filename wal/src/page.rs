//! WAL page headers.
//!
//! Place in the path: the first thing [`crate::reader`] looks at on every 8 KiB page. A header carries no checksum
//! of its own, so each field is held against what the stream must be (cluster, timeline, address): a page of
//! another cluster, a recycled page or a zeroed page is an error here, before a record on it is believed.
//! Pure: no I/O, no state.

mod fields;

use pg::identity::SystemIdentifier;
use pg::lsn::Lsn;
use pg::segment::SegmentSize;
use pg::timeline::TimelineId;

pub(crate) use self::fields::Fields;

/// `XLOG_BLCKSZ`: the only WAL page size supported (PostgreSQL's default, `pg_config_manual.h`).
pub const PAGE_BYTES: u64 = 8192;
/// Size of `XLogPageHeaderData` with its alignment (`SizeOfXLogShortPHD`, `access/xlog_internal.h`).
pub const SHORT_HEADER_BYTES: usize = 24;
/// Size of `XLogLongPageHeaderData`, on the first page of a segment (`SizeOfXLogLongPHD`, `access/xlog_internal.h`).
pub const LONG_HEADER_BYTES: usize = 40;

/// `XLP_FIRST_IS_CONTRECORD`: the page begins with the rest of a record (`access/xlog_internal.h`).
pub const FIRST_IS_CONTRECORD: u16 = 0x0001;
/// `XLP_LONG_HEADER`: the header is the long one (`access/xlog_internal.h`).
pub const LONG_HEADER: u16 = 0x0002;
/// `XLP_BKP_REMOVABLE`: backup blocks on this page are optional (`access/xlog_internal.h`).
pub const BKP_REMOVABLE: u16 = 0x0004;
/// `XLP_FIRST_IS_OVERWRITE_CONTRECORD`: the record that should go on here was lost in a crash
/// (`access/xlog_internal.h`, set by `CreateOverwriteContrecordRecord` in `xlog.c`).
pub const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
const ALL_FLAGS: u16 = FIRST_IS_CONTRECORD | LONG_HEADER | BKP_REMOVABLE | FIRST_IS_OVERWRITE_CONTRECORD;

/// What a page header must say, `XLogReaderValidatePageHeader` in `xlogreader.c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageExpectation {
    /// Page magic of the server's major version.
    pub magic: u16,
    /// Cluster the WAL belongs to.
    pub system_identifier: SystemIdentifier,
    /// Segment size of the cluster.
    pub segment_size: SegmentSize,
    /// Timeline of the stream. Pages of its ancestors are copied at a fork and keep their lower id.
    pub timeline: TimelineId,
    /// Address at which the page was met.
    pub page_lsn: Lsn,
}

impl PageExpectation {
    /// Whether the page is the first of a segment, where PostgreSQL writes the long header
    /// (`AdvanceXLInsertBuffer` in `xlog.c`).
    pub fn is_first_of_segment(&self) -> bool {
        self.segment_size.start_containing(self.page_lsn) == self.page_lsn
    }
}

/// The additional fields of `XLogLongPageHeaderData` (`access/xlog_internal.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongFields {
    /// `xlp_sysid`.
    pub system_identifier: u64,
    /// `xlp_seg_size`.
    pub segment_bytes: u32,
    /// `xlp_xlog_blcksz`.
    pub page_bytes: u32,
}

/// `XLogPageHeaderData`, decoded but not yet believed (`access/xlog_internal.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// `xlp_magic`.
    pub magic: u16,
    /// `xlp_info`.
    pub flags: u16,
    /// `xlp_tli`.
    pub timeline: u32,
    /// `xlp_pageaddr`.
    pub page_lsn: Lsn,
    /// `xlp_rem_len`: bytes of the continued record from this page on.
    pub remaining_bytes: u32,
    /// The fields of the long form, where the flag says so.
    pub long: Option<LongFields>,
}

impl PageHeader {
    /// Decodes the header at the start of `bytes`. Little-endian only, like the servers Seawall supports.
    pub fn parse(bytes: &[u8]) -> Result<PageHeader, WalPageError> {
        PageHeader::decode(bytes).ok_or_else(|| {
            let is_long = bytes.get(2).is_some_and(|flags| u16::from(*flags) & LONG_HEADER != 0);
            let needed = if is_long { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES };
            WalPageError::Truncated {
                needed,
                found: bytes.len(),
            }
        })
    }

    fn decode(bytes: &[u8]) -> Option<PageHeader> {
        let mut fields = Fields::new(bytes);
        let mut header = PageHeader {
            magic: fields.u16()?,
            flags: fields.u16()?,
            timeline: fields.u32()?,
            page_lsn: Lsn::new(fields.u64()?),
            remaining_bytes: fields.u32()?,
            long: None,
        };
        fields.skip(4)?; // alignment
        if header.flags & LONG_HEADER != 0 {
            header.long = Some(LongFields {
                system_identifier: fields.u64()?,
                segment_bytes: fields.u32()?,
                page_bytes: fields.u32()?,
            });
        }
        Some(header)
    }

    /// Whether the page begins with the rest of a record.
    pub fn continues(&self) -> bool {
        self.flags & FIRST_IS_CONTRECORD != 0
    }

    /// Whether the record that should continue here was given up after a crash.
    pub fn overwrites(&self) -> bool {
        self.flags & FIRST_IS_OVERWRITE_CONTRECORD != 0
    }

    /// Holds the header against `expected`. As strict as `XLogReaderValidatePageHeader` (`xlogreader.c`), and in
    /// addition: the long form on the first page of a segment and nowhere else, no timeline above the stream's,
    /// a length of continuation exactly where the flag announces one, never both continuation flags.
    pub fn check(&self, expected: &PageExpectation) -> Result<(), WalPageError> {
        if self.magic != expected.magic {
            return Err(WalPageError::Magic {
                expected: expected.magic,
                found: self.magic,
            });
        }
        if self.flags & !ALL_FLAGS != 0 || (self.continues() && self.overwrites()) {
            return Err(WalPageError::Flags { found: self.flags });
        }
        if self.page_lsn != expected.page_lsn {
            return Err(WalPageError::Address {
                expected: expected.page_lsn,
                found: self.page_lsn,
            });
        }
        if self.long.is_some() != expected.is_first_of_segment() {
            return Err(WalPageError::HeaderForm {
                long: self.long.is_some(),
            });
        }
        if let Some(long) = self.long {
            long.check(expected)?;
        }
        if self.timeline == 0 || self.timeline > expected.timeline.as_u32() {
            return Err(WalPageError::Timeline {
                expected: expected.timeline,
                found: self.timeline,
            });
        }
        if self.continues() != (self.remaining_bytes != 0) {
            return Err(WalPageError::Remaining {
                flags: self.flags,
                found: self.remaining_bytes,
            });
        }
        Ok(())
    }
}

impl LongFields {
    fn check(&self, expected: &PageExpectation) -> Result<(), WalPageError> {
        if self.system_identifier != expected.system_identifier.as_u64() {
            return Err(WalPageError::System {
                expected: expected.system_identifier.as_u64(),
                found: self.system_identifier,
            });
        }
        if u64::from(self.segment_bytes) != expected.segment_size.bytes() {
            return Err(WalPageError::SegmentBytes {
                expected: expected.segment_size.bytes(),
                found: self.segment_bytes,
            });
        }
        if u64::from(self.page_bytes) != PAGE_BYTES {
            return Err(WalPageError::PageBytes { found: self.page_bytes });
        }
        Ok(())
    }
}

/// Why a WAL page header is not what the stream needs. The address of the page is in the error around it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WalPageError {
    /// Fewer bytes than a header has.
    #[error("WAL page header is cut off: {found} bytes of {needed}")]
    Truncated {
        /// Bytes a header has.
        needed: usize,
        /// Bytes at hand.
        found: usize,
    },
    /// Another major version, or no WAL page at all.
    #[error("WAL page magic is {found:04X}, expected {expected:04X}")]
    Magic {
        /// Magic of the server's version.
        expected: u16,
        /// Magic on the page.
        found: u16,
    },
    /// Flags that PostgreSQL never sets, or never sets together.
    #[error("WAL page flags {found:04X} are invalid")]
    Flags {
        /// Flags on the page.
        found: u16,
    },
    /// The page belongs elsewhere, as on a recycled segment.
    #[error("WAL page says that its address is {found}, expected {expected}")]
    Address {
        /// Where the page was met.
        expected: Lsn,
        /// What it says.
        found: Lsn,
    },
    /// Long header inside a segment, or short header at its start.
    #[error("WAL page has a {} header where the other form belongs", if *.long { "long" } else { "short" })]
    HeaderForm {
        /// Whether the header found is the long one.
        long: bool,
    },
    /// A page of another cluster.
    #[error("WAL page is of the cluster {found}, expected {expected}")]
    System {
        /// The stream's cluster.
        expected: u64,
        /// The page's cluster.
        found: u64,
    },
    /// Another segment size.
    #[error("WAL page says that segments have {found} bytes, expected {expected}")]
    SegmentBytes {
        /// The stream's segment size.
        expected: u64,
        /// The page's segment size.
        found: u32,
    },
    /// A WAL page size that is not supported.
    #[error("WAL pages of {found} bytes are not supported, only {PAGE_BYTES}")]
    PageBytes {
        /// The page size that the header names.
        found: u32,
    },
    /// A timeline that is neither the stream's nor one before it.
    #[error("WAL page is of timeline {found}, expected {} or an ancestor", expected.as_u32())]
    Timeline {
        /// The stream's timeline.
        expected: TimelineId,
        /// The page's timeline.
        found: u32,
    },
    /// A length of continuation without the flag, or the flag without a length.
    #[error("WAL page flags {flags:04X} do not go with a continuation of {found} bytes")]
    Remaining {
        /// Flags on the page.
        flags: u16,
        /// `xlp_rem_len` on the page.
        found: u32,
    },
}

#[cfg(test)]
mod tests;
