//! WAL objects and tails (FORMAT 9): a range of WAL bytes in one signed, sealed object.

use bytes::Bytes;
use pg::segment::SegmentSize;

use crate::envelope::{Header, Kind, WalFacts};
use crate::error::StoreError;
use crate::id::Digest;
use crate::layout::WalRange;
use crate::limits::WAL_OBJECT_BYTES_MAX;
use crate::object::ObjectName;
use crate::repository::{NewObject, Repository, Writer};
use crate::session::Session;

/// A WAL object that is ready to be created.
#[derive(Debug)]
pub struct EncodedWal {
    /// Its name.
    pub name: ObjectName,
    /// Its bytes.
    pub bytes: Bytes,
    /// Keyed digest of the WAL in it.
    pub digest: Digest,
}

/// Compresses, seals and signs a range; CPU only.
///
/// # Errors
/// The range is empty, too long, of another length than `plain`, or spans two segments.
pub fn encode(
    writer: &Writer,
    session: &Session,
    range: &WalRange,
    size: SegmentSize,
    facts: WalFacts,
    plain: &[u8],
    now_us: i64,
) -> Result<EncodedWal, StoreError> {
    let length = range.end.distance_from(range.start);
    let one_segment = range.end <= size.end_of(size.segment_of(range.start));
    if length == 0 || length > WAL_OBJECT_BYTES_MAX || length != plain.len() as u64 || !one_segment {
        return Err(StoreError::Limit {
            what: "a WAL range",
            detail: format!("{} to {}, {} bytes", range.start, range.end, plain.len()),
        });
    }
    let name = writer.repository().layout().wal(range, size)?;
    let new = NewObject {
        kind: if range.tail { Kind::Tail } else { Kind::Wal },
        lineage: Some(range.lineage),
        range: Some((range.timeline.as_u32(), range.start.as_u64(), range.end.as_u64())),
        wal: Some(facts),
        plain,
        session: Some(session),
        now_us,
    };
    let (bytes, digest) = writer.encode(&name, new)?;
    Ok(EncodedWal { name, bytes, digest })
}

impl Repository {
    /// The WAL bytes of an object, checked against its name, signature and digest.
    ///
    /// # Errors
    /// The store failed, the object is damaged, or the restore key is missing or wrong.
    pub async fn read_wal(&self, range: &WalRange, size: SegmentSize) -> Result<Vec<u8>, StoreError> {
        let name = self.layout().wal(range, size)?;
        let (header, plain) = self.read_plain(&name).await?;
        check_range(&name, &header, range, plain.len() as u64)?;
        Ok(plain)
    }

    /// What the header of a WAL object says; `None` when it is gone (a tail that was replaced by its whole range).
    ///
    /// # Errors
    /// The store failed, or the head is damaged.
    pub async fn read_wal_header(&self, range: &WalRange, size: SegmentSize) -> Result<Option<Header>, StoreError> {
        let name = self.layout().wal(range, size)?;
        let Some((_, header)) = self.read_header(&name).await? else {
            return Ok(None);
        };
        check_range(&name, &header, range, header.plain_bytes)?;
        Ok(Some(header))
    }

    /// Reads a WAL object or tail whole and checks all that can be checked without opening it: name, signature, length, body hash,
    /// range.
    ///
    /// # Errors
    /// The store failed, or the object is damaged.
    pub async fn check_wal(&self, range: &WalRange, size: SegmentSize) -> Result<(), StoreError> {
        let name = self.layout().wal(range, size)?;
        let header = self.read(&name).await?.header;
        check_range(&name, &header, range, header.plain_bytes)
    }
}

fn check_range(name: &ObjectName, header: &Header, range: &WalRange, plain_bytes: u64) -> Result<(), StoreError> {
    let says_the_same = header.lineage == Some(range.lineage)
        && header.timeline == Some(range.timeline.as_u32())
        && header.start == Some(range.start.as_u64())
        && header.end == Some(range.end.as_u64())
        && plain_bytes == range.end.distance_from(range.start);
    if says_the_same {
        Ok(())
    } else {
        Err(StoreError::damaged(
            name,
            "its header speaks of another range than its name",
        ))
    }
}
