//! Why WAL was not accepted: each error names the LSN and what failed there.

use pg::lsn::Lsn;

use crate::page::WalPageError;
use crate::record::MalformedRecord;

/// Errors of [`super::WalReader`]. All but the first three say that the bytes are damaged, foreign or cut off.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// Reading cannot start here.
    #[error("WAL can be read from a page boundary on, not from {start}")]
    StartNotOnPage {
        /// Where it was to start.
        start: Lsn,
    },
    /// Bytes were left out or came twice; the reader is unchanged.
    #[error("WAL bytes at {found} do not follow the last ones, which end at {expected}")]
    NotContiguous {
        /// The reader's position.
        expected: Lsn,
        /// Where the bytes lie.
        found: Lsn,
    },
    /// The bytes reach over the last LSN; the reader is unchanged.
    #[error("WAL bytes at {lsn} reach over the last LSN")]
    EndOfLsns {
        /// Where the bytes lie.
        lsn: Lsn,
    },
    /// A page header is not what the stream needs.
    #[error("invalid WAL page at {lsn}")]
    Page {
        /// Start of the page.
        lsn: Lsn,
        /// What is wrong.
        source: WalPageError,
    },
    /// The timeline of a page is lower than that of the page before.
    #[error("WAL page at {page} is of timeline {found} after a page of timeline {before}")]
    TimelineBackwards {
        /// Start of the page.
        page: Lsn,
        /// Timeline of the page before.
        before: u32,
        /// Timeline of this page.
        found: u32,
    },
    /// A page does not go on with the record that the page before left incomplete.
    #[error("WAL page at {page} continues a record with {found} bytes, expected {expected}")]
    Continuation {
        /// Start of the page.
        page: Lsn,
        /// Bytes that are missing of the record, 0 if none is open.
        expected: u32,
        /// Bytes that the page announces, 0 if it continues none.
        found: u32,
    },
    /// No record has this length. 0 is what stands behind the end of WAL in a file that is padded with zeros.
    #[error("WAL record at {lsn} has an invalid length of {len} bytes")]
    RecordLength {
        /// Start of the record.
        lsn: Lsn,
        /// Its `xl_tot_len`.
        len: u32,
    },
    /// The record does not point back to the one before it: bytes of another history, or stale ones.
    #[error("WAL record at {lsn} names {found} as the record before it, {}", expectation(.expected))]
    RecordPrev {
        /// Start of the record.
        lsn: Lsn,
        /// Start of the record before; `None` if only "below its own" is known.
        expected: Option<Lsn>,
        /// Its `xl_prev`.
        found: Lsn,
    },
    /// The bytes of the record are not those that were written.
    #[error("WAL record at {lsn} has the checksum {computed:08X}, stored is {stored:08X}")]
    RecordCrc {
        /// Start of the record.
        lsn: Lsn,
        /// Its `xl_crc`.
        stored: u32,
        /// CRC-32C of its bytes.
        computed: u32,
    },
    /// The checksum is right, the content makes no sense.
    #[error("WAL record at {lsn} cannot be decoded")]
    Malformed {
        /// Start of the record.
        lsn: Lsn,
        /// What is wrong.
        source: MalformedRecord,
    },
    /// Page flag and record of an overwritten record do not fit together.
    #[error("WAL at {lsn} does not say how an overwritten record goes on: {what}")]
    Overwrite {
        /// The page or record.
        lsn: Lsn,
        /// What is wrong.
        what: &'static str,
    },
    /// A byte behind an `XLOG_SWITCH` is not zero.
    #[error("WAL at {lsn}, behind a segment switch, is not zero")]
    SwitchPadding {
        /// The first such byte.
        lsn: Lsn,
    },
}

fn expectation(expected: &Option<Lsn>) -> String {
    match expected {
        Some(expected) => format!("expected {expected}"),
        None => String::from("which is not below its own start"),
    }
}
