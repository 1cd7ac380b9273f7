//! One object: read whole, hashed again, compared with what its name and its parts say.

use super::{Finding, Severity, judge};
use crate::envelope::{Header, Kind};
use crate::error::StoreError;
use crate::inventory::Named;
use crate::object::ObjectMeta;
use crate::repository::{ReadObject, Repository};

/// How far down an object was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Its stored bytes are those that its writer signed. Needs no key that opens data.
    Stored,
    /// It was decrypted, decompressed and compared with the keyed digests of its content.
    Content,
}

/// Reads an object and hashes it again, as deep as the keys at hand go.
///
/// # Errors
/// The store failed. What is wrong with the object is the finding.
pub async fn object(
    repository: &Repository,
    named: Named,
    meta: &ObjectMeta,
) -> Result<Result<Depth, Finding>, StoreError> {
    let of = match named {
        Named::Spare => repository.layout().original_of(meta.name.as_str()),
        _ => None,
    };
    let of = of.unwrap_or_else(|| meta.name.clone());
    let named = repository.layout().parse(of.as_str()).unwrap_or(named);
    // As it lies there: what a spare makes up for is damaged all the same.
    let read = repository.read_at(&of, &meta.name).await;
    let checked = read.and_then(|(bytes, read)| {
        let is_padded = read.head.object_bytes() == meta.size;
        let is_padded = is_padded && read.head.padding_of(&bytes).iter().all(|byte| *byte == 0);
        Ok((check(repository, named, meta, read)?, is_padded))
    });
    if checked.as_ref().is_err_and(StoreError::is_not_found) && repository.store().head(&meta.name).await?.is_none() {
        // Whoever needs it all the same is found by his reference.
        return Ok(Err(Finding::notice(&meta.name, "was deleted while this was verified")));
    }
    let (depth, is_padded) = match judge(&meta.name, checked)? {
        Ok(read) => read,
        Err(finding) => return Ok(Err(finding)),
    };
    if !is_padded {
        let reason = "its padding was changed or cut, which no reader looks at";
        return Ok(Err(Finding::notice(&meta.name, reason)));
    }
    if of != meta.name && !repository.counts(&of, &meta.name).await? {
        let reason = "counts for nothing: what is left of the object does not say that it is the same";
        return Ok(Err(Finding::notice(&meta.name, reason)));
    }
    Ok(Ok(depth))
}

/// True when what lies there does not read as it should.
///
/// # Errors
/// As [`object`].
pub async fn is_damaged(repository: &Repository, named: Named, meta: &ObjectMeta) -> Result<bool, StoreError> {
    let found = object(repository, named, meta).await?;
    Ok(found.is_err_and(|finding| finding.severity == Severity::Damage))
}

fn check(repository: &Repository, named: Named, meta: &ObjectMeta, read: ReadObject) -> Result<Depth, StoreError> {
    if !read.head.fits(meta.size) {
        let reason = format!("{} bytes where {} were written", meta.size, read.head.object_bytes());
        return Err(StoreError::damaged(&meta.name, reason));
    }
    if !belongs(named, read.head.kind) {
        let reason = format!("is a {:?}, which does not belong there", read.head.kind);
        return Err(StoreError::damaged(&meta.name, reason));
    }
    if !says_the_same(named, &read.header) {
        return Err(StoreError::damaged(
            &meta.name,
            "its header speaks of something else than its name",
        ));
    }
    if matches!(named, Named::Pack(_)) {
        return repository.check_pack(&meta.name, read);
    }
    match repository.read_plain_of(read) {
        Ok((header, plain)) if header.plain_bytes == plain.len() as u64 => Ok(Depth::Content),
        Ok(_) => Err(StoreError::damaged(
            &meta.name,
            "its content has another length than its header says",
        )),
        Err(StoreError::KeyMissing { .. }) => Ok(Depth::Stored),
        Err(error) => Err(error),
    }
}

fn belongs(named: Named, kind: Kind) -> bool {
    match named {
        Named::Keys(_) => kind == Kind::Keys,
        Named::Lineage(_) => kind == Kind::Lineage,
        Named::Lease(_) => kind == Kind::Lease,
        Named::Intent(_) => kind == Kind::Intent,
        Named::Progress(..) => kind == Kind::Progress,
        Named::Pack(_) => matches!(kind, Kind::DataPack | Kind::MetadataPack),
        Named::Index(_) => kind == Kind::Index,
        Named::Manifest(_) => kind == Kind::Manifest,
        Named::Wal(range) => kind == if range.tail { Kind::Tail } else { Kind::Wal },
        Named::History(..) => kind == Kind::History,
        Named::Hole => kind == Kind::Hole,
        Named::Ledger => kind == Kind::Ledger,
        Named::Proof => kind == Kind::Proof,
        Named::Condemned => kind == Kind::Condemned,
        Named::Pin(_) => kind == Kind::Pin,
        // A spare is looked at as what it stands in for.
        Named::Spare => false,
    }
}

/// True when the header of an object speaks of what its name does.
pub(super) fn says_the_same(named: Named, header: &Header) -> bool {
    match named {
        Named::Wal(range) => {
            header.lineage == Some(range.lineage)
                && header.timeline == Some(range.timeline.as_u32())
                && header.start == Some(range.start.as_u64())
                && header.end == Some(range.end.as_u64())
                && header.plain_bytes == range.end.as_u64() - range.start.as_u64()
        }
        Named::History(lineage, timeline) => {
            header.lineage == Some(lineage) && header.timeline == Some(timeline.as_u32())
        }
        _ => true,
    }
}
