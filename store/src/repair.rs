//! Making up for damage. Adds objects, never changes or deletes one.
//!
//! What is damaged gets a spare ([`crate::repository::MadeUp`]): the same object out of a copy of the repository, byte for byte; or, for a
//! pack, its chunks made anew from pages and files that the live cluster still has as they were; or, for an index, what the footers of
//! packs say. What is missing and whole elsewhere comes back under its own name. Everything that is brought back was checked against
//! what its writer signed, or against the digest that names it.

mod places;
mod rebuild;

pub use places::{ChunkPlaces, Places, places_of};
pub use rebuild::{Rebuilt, rebuild_index, rebuild_pack};

use bytes::Bytes;

use crate::error::StoreError;
use crate::id::BackupId;
use crate::inventory::Named;
use crate::object::{ByteRange, ObjectMeta, ObjectName, PutNew};
use crate::repository::Repository;
use crate::verify;

/// The object out of a copy, when it is whole there and counts here.
///
/// # Errors
/// The store of the copy failed.
pub async fn whole_in(copy: &Repository, name: &ObjectName) -> Result<Option<Bytes>, StoreError> {
    let Some(named) = copy.layout().parse(name.as_str()) else {
        return Ok(None);
    };
    let Some(meta) = copy.store().head(name).await? else {
        return Ok(None);
    };
    if verify::is_damaged(copy, named, &meta).await? {
        return Ok(None);
    }
    match copy.read_checked(name).await {
        // Where it is stored later, what a revoked signer wrote counts no more.
        Ok((bytes, is_revoked)) => Ok((!is_revoked).then_some(bytes)),
        Err(error) if verify::is_wrong(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// True when nothing lies under a name.
///
/// # Errors
/// The store failed.
pub async fn is_missing(repository: &Repository, name: &ObjectName) -> Result<bool, StoreError> {
    Ok(repository.store().head(name).await?.is_none())
}

/// Brings a whole object back: under its own name when nothing is there, as a spare when something is. Reads it back. Gives the name under
/// which it lies; none when what is left of the object does not tell that this is the same, so that no spare would count.
///
/// # Errors
/// The store failed; or what was stored does not read as it should.
pub async fn bring_back(
    repository: &Repository,
    name: &ObjectName,
    bytes: Bytes,
    now_us: i64,
) -> Result<Option<ObjectName>, StoreError> {
    if is_missing(repository, name).await? && repository.store().put_new(name, bytes.clone()).await? == PutNew::Created
    {
        read_back(repository, name).await?;
        return Ok(Some(name.clone()));
    }
    add_spare(repository, name, bytes, now_us).await
}

/// True when [`bring_back`] would: nothing is there, or what is there tells that this is the same.
///
/// # Errors
/// The store failed.
pub async fn would_come_back(repository: &Repository, name: &ObjectName, bytes: &Bytes) -> Result<bool, StoreError> {
    Ok(is_missing(repository, name).await? || repository.would_count(name, bytes).await?)
}

/// Stores a spare of an object, and reads it back. Gives its name; none when it would not count.
///
/// # Errors
/// As [`bring_back`]; or there can be no spare of such an object.
pub async fn add_spare(
    repository: &Repository,
    name: &ObjectName,
    bytes: Bytes,
    now_us: i64,
) -> Result<Option<ObjectName>, StoreError> {
    let unix_ms = u64::try_from(now_us / 1000).unwrap_or(0);
    let id = BackupId::from_parts(unix_ms, crate::entropy::bytes()?);
    let spare = repository.layout().spare(name, id)?;
    if !repository.would_count(name, &bytes).await? {
        return Ok(None);
    }
    if repository.store().put_new(&spare, bytes.clone()).await? == PutNew::AlreadyExists
        && repository.store().get(&spare, ByteRange::All).await? != bytes
    {
        return Err(StoreError::Conflict {
            name: spare.to_string(),
        });
    }
    repository.refresh_spares().await?;
    read_back(repository, &spare).await?;
    Ok(Some(spare))
}

async fn read_back(repository: &Repository, name: &ObjectName) -> Result<(), StoreError> {
    let missing = || StoreError::damaged(name, "it was stored and is not there");
    let meta: ObjectMeta = repository.store().head(name).await?.ok_or_else(missing)?;
    let named = repository.layout().parse(name.as_str()).unwrap_or(Named::Spare);
    match verify::object(repository, named, &meta).await? {
        Err(finding) if finding.severity == verify::Severity::Damage => Err(StoreError::damaged(name, finding.reason)),
        _ => Ok(()),
    }
}
