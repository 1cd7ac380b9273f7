//! Tablespaces that were created after the backup: replay makes them at their original place, which nothing can remap.
//!
//! Beside the running original that place is the original's own, and replay would write into it. So a segment with such a record is
//! not handed over while the directory is there and not ours. Record: `xl_tblspc_create_rec` in PostgreSQL's `commands/tablespace.h`.
//! A record that begins in the segment before and ends here is not seen.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use pg::identity::SystemIdentifier;
use pg::lsn::Lsn;
use pg::segment::SegmentSize;
use pg::timeline::TimelineId;
use wal::page::{LONG_HEADER_BYTES, PAGE_BYTES, PageHeader, SHORT_HEADER_BYTES};
use wal::reader::{WalItem, WalReader, WalReaderConfig};
use wal::record::RecordInfo;

use crate::error::{RestoreError, Result};
use crate::state::State;

/// `RM_TBLSPC_ID` in `access/rmgrlist.h`.
const RM_TABLESPACE: u8 = 5;
/// `XLOG_TBLSPC_CREATE`.
const CREATE: u8 = 0x00;
/// A record header and the longest path that fits.
const RECORD_PREFIX_BYTES: usize = 2048;

/// A tablespace that replay creates.
#[derive(Debug, PartialEq, Eq)]
struct Created {
    record: Lsn,
    oid: u32,
    location: PathBuf,
}

/// Refuses a segment whose replay would create a tablespace in a directory that somebody else uses.
pub(crate) fn refuse_foreign(
    state: &State,
    pgdata: &Path,
    segment: &[u8],
    start: Lsn,
    timeline: TimelineId,
) -> Result<()> {
    for created in created_in(segment, start, timeline, state.route.size) {
        let is_replayed =
            created.record >= state.start && state.needed_until.is_none_or(|until| created.record < until);
        let link = pgdata.join("pg_tblspc").join(created.oid.to_string());
        let is_ours = std::fs::read_link(&link).is_ok_and(|target| target == created.location);
        if is_replayed && !is_ours && is_in_use(&created.location) {
            return Err(RestoreError::Server {
                message: format!(
                    "replay at {} creates tablespace {} in \"{}\", which is in use on this host",
                    created.record,
                    created.oid,
                    created.location.display()
                ),
                hint: "It was created after the backup, so it cannot be mapped elsewhere. Restore on another host, \
                       from a backup taken after it was created, or to a stop point before it."
                    .into(),
            });
        }
    }
    Ok(())
}

fn is_in_use(location: &Path) -> bool {
    std::fs::read_dir(location).is_ok_and(|mut entries| entries.next().is_some())
}

fn created_in(segment: &[u8], start: Lsn, timeline: TimelineId, size: SegmentSize) -> Vec<Created> {
    let mut out = Vec::new();
    let Some((header, long)) = PageHeader::parse(segment)
        .ok()
        .and_then(|header| Some((header, header.long?)))
    else {
        return out;
    };
    let config = WalReaderConfig {
        magic: header.magic,
        system_identifier: SystemIdentifier::new(long.system_identifier),
        segment_size: size,
        timeline,
        start,
    };
    let Ok(mut reader) = WalReader::new(config) else {
        return out;
    };
    let mut found = Vec::new();
    // The zeros behind an open segment end the reading; what comes before them was read.
    let _ = reader.push(start, segment, &mut |item| {
        if let WalItem::Record(record) = item
            && record.rmid == RM_TABLESPACE
            && record.info & 0xF0 == CREATE
        {
            found.push(record);
        }
    });
    out.extend(
        found
            .iter()
            .filter_map(|record| parse(&prefix(segment, start, record), record)),
    );
    out
}

/// The first bytes of a record, without the page headers in between.
fn prefix(segment: &[u8], start: Lsn, record: &RecordInfo) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = usize::try_from(record.start.distance_from(start)).unwrap_or(usize::MAX);
    while out.len() < RECORD_PREFIX_BYTES {
        if (at as u64).is_multiple_of(PAGE_BYTES) {
            at += if at == 0 { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES };
        }
        let Some(byte) = segment.get(at) else { break };
        out.push(*byte);
        at += 1;
    }
    out
}

fn parse(bytes: &[u8], record: &RecordInfo) -> Option<Created> {
    // Behind the 24 bytes of the header: XLR_BLOCK_ID_DATA_SHORT and a length byte, or XLR_BLOCK_ID_DATA_LONG and four.
    let data = match bytes.get(24)? {
        255 => bytes.get(26..)?,
        254 => bytes.get(29..)?,
        _ => return None,
    };
    let (oid, path) = data.split_at_checked(4)?;
    let path = path.split(|byte| *byte == 0).next()?;
    let location = PathBuf::from(std::ffi::OsStr::from_bytes(path));
    // In-place tablespaces (15 and later) have no location of their own.
    location.is_absolute().then_some(Created {
        record: record.start,
        oid: u32::from_le_bytes(oid.try_into().ok()?),
        location,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(main_data: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 24];
        out.extend_from_slice(&[255, u8::try_from(main_data.len()).unwrap()]);
        out.extend_from_slice(main_data);
        out
    }

    #[test]
    fn a_created_tablespace_is_read_from_its_record() {
        let info = RecordInfo {
            start: Lsn::new(0x28),
            end: Lsn::new(0x60),
            prev: Lsn::ZERO,
            xid: 0,
            rmid: RM_TABLESPACE,
            info: CREATE,
            len: 0,
        };
        let bytes = record(b"\x39\x30\x00\x00/data/ts\0");
        let created = parse(&bytes, &info).unwrap();
        assert_eq!(
            (created.oid, created.location.as_path()),
            (12345, Path::new("/data/ts"))
        );
        assert!(parse(&record(b"\x39\x30\x00\x00\0"), &info).is_none(), "in place");
        assert!(parse(&bytes[..25], &info).is_none());
    }
}
