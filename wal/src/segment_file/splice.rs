//! Does a segment go on where the archived WAL before it ends? Decided from the records at the boundary alone.
//!
//! A record names the one before it (`xl_prev`), and the header of an archived object names the last record that ends in it. So two
//! histories that part before the boundary are told apart without reading, let alone decrypting, what is archived.

use pg::lsn::Lsn;
use store::envelope::WalFacts;

use super::{Head, SegmentFile, SegmentFileError, Surveyed};
use crate::page::{LONG_HEADER_BYTES, PAGE_BYTES, SHORT_HEADER_BYTES};
use crate::record::RECORD_HEADER_BYTES;

/// A switch record is a header and nothing else; a page header may lie within it.
const SWITCH_BYTES_MAX: u64 = (RECORD_HEADER_BYTES + LONG_HEADER_BYTES) as u64;

/// Holds a segment against the archived WAL before it: where that ends, and what the header of its last object says.
///
/// # Errors
/// [`SegmentFileError::Splice`] when they cannot be one history. What tells nothing (no record ends in the object, none begins in the
/// segment) is no error.
pub fn check_splice(
    file: &SegmentFile,
    head: Head,
    surveyed: &Surveyed,
    archived_end: Lsn,
    facts: &WalFacts,
) -> Result<(), SegmentFileError> {
    let (Some(last), Some(last_end)) = (facts.last_record.map(Lsn::new), facts.last_record_end.map(Lsn::new)) else {
        return Ok(());
    };
    let named = surveyed.first.map(|first| first.prev);
    if archived_end < file.start() {
        // Something is missing in between; what is there must at least not lie behind.
        return match named {
            Some(named) if named < last => Err(other(named, format_args!("a later one, at {last}, is archived"))),
            _ => Ok(()),
        };
    }
    if let Some(before) = surveyed.before
        && before.start != last
    {
        let archived = format_args!("the archived one is at {last}");
        return Err(differs(
            format_args!("the last record before the segment is at {}", before.start),
            archived,
        ));
    }
    if !head.continues {
        // Between the last record and the segment there is nothing, unless that record is a segment switch.
        let is_switch = last_end.distance_from(last) <= SWITCH_BYTES_MAX;
        if last_end < file.start() && !is_switch && !head.overwrites {
            return Err(differs(
                format_args!("the segment begins with a record"),
                format_args!("the archived WAL before it ends within one"),
            ));
        }
        return match named {
            Some(named) if named != last => Err(other(named, format_args!("the last archived one is at {last}"))),
            _ => Ok(()),
        };
    }
    // The record that crosses the boundary begins right behind the last one that ended before it.
    let crossing = next_start(file, last_end);
    if crossing >= file.start() {
        return Err(differs(
            format_args!("the segment begins within a record"),
            format_args!("the archived WAL before it ends with a whole one"),
        ));
    }
    match named {
        Some(named) if named != crossing => Err(other(
            named,
            format_args!("behind the archived WAL it must be at {crossing}"),
        )),
        _ => Ok(()),
    }
}

/// Where the record behind one that ends at `end` begins: aligned already, behind a page header where a page begins.
fn next_start(file: &SegmentFile, end: Lsn) -> Lsn {
    if !end.as_u64().is_multiple_of(PAGE_BYTES) {
        return end;
    }
    let is_segment = end.as_u64().is_multiple_of(file.config.segment_size.bytes());
    let header = if is_segment {
        LONG_HEADER_BYTES
    } else {
        SHORT_HEADER_BYTES
    };
    end.saturating_add(header as u64)
}

fn other(named: Lsn, archived: std::fmt::Arguments<'_>) -> SegmentFileError {
    differs(
        format_args!("the first record of the segment names {named} as the one before it"),
        archived,
    )
}

fn differs(found: std::fmt::Arguments<'_>, archived: std::fmt::Arguments<'_>) -> SegmentFileError {
    SegmentFileError::Splice(format!("{found}, but {archived}"))
}
