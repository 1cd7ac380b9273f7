//! The objects around a backup's packs, in the order of law 1: intent, (packs), index, manifest.
//!
//! A crash before the manifest leaves packs and perhaps an index that no manifest needs: space, nothing else. The caller proves
//! between index and manifest that the WAL is archived.

use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::envelope::Kind;
use crate::error::StoreError;
use crate::id::BackupId;
use crate::index::ChunkIndex;
use crate::limits::{FRAME_BYTES_MAX, LOCKS_IN_FLIGHT};
use crate::manifest::Manifest;
use crate::object::list_all;
use crate::records::Intent;
use crate::repository::create::description_name;
use crate::repository::{NewObject, Put, Repository, Writer};
use crate::session::to_cbor;

/// Draws the id of a backup and announces it. Before its first pack.
///
/// # Errors
/// As [`put_intent`].
pub async fn announce(writer: &Writer, begun_us: i64, host: &str) -> Result<BackupId, StoreError> {
    let unix_ms = u64::try_from(begun_us / 1000).unwrap_or(0);
    let backup = BackupId::from_parts(unix_ms, crate::entropy::bytes()?);
    let intent = Intent {
        backup,
        host: host.to_owned(),
        begun_us,
    };
    put_intent(writer, &intent).await?;
    Ok(backup)
}

/// Announces a backup. Before its first pack.
///
/// # Errors
/// The store failed, or the id is taken by another backup.
pub async fn put_intent(writer: &Writer, intent: &Intent) -> Result<Put, StoreError> {
    let name = writer.repository().layout().intent(intent.backup)?;
    let plain = to_cbor(intent)?;
    writer
        .put(&name, NewObject::metadata(Kind::Intent, &plain, intent.begun_us))
        .await
}

/// Writes the content chunks that a backup added; nothing when there are none. After its last pack is durable. Returns its bytes.
///
/// # Errors
/// The store failed.
pub async fn put_index(writer: &Writer, backup: BackupId, index: &ChunkIndex, now_us: i64) -> Result<u64, StoreError> {
    if index.is_empty() {
        return Ok(0);
    }
    let name = writer.repository().layout().index(backup)?;
    let plain = index.encode();
    check_frame("the index of a backup", plain.len())?;
    let (bytes, digest) = writer.encode(&name, NewObject::metadata(Kind::Index, &plain, now_us))?;
    let stored = bytes.len() as u64;
    writer.create(&name, bytes, digest).await?;
    Ok(stored)
}

/// Locks what a backup needs of what was stored before as long as what it has stored itself, where objects are locked. Before its manifest.
///
/// # Errors
/// The store failed, or something that is needed is not there.
pub async fn keep_locked(repository: &Repository, manifest: &Manifest) -> Result<(), StoreError> {
    let store = repository.store();
    if !store.capabilities().locks {
        return Ok(());
    }
    let layout = repository.layout();
    let mut names = vec![description_name()?];
    for directory in ["keys", "lineages"] {
        let listed = list_all(store.as_ref(), &layout.prefix(directory)).await?;
        names.extend(listed.into_iter().map(|meta| meta.name));
    }
    for need in &manifest.packs {
        names.push(layout.pack(need.id)?);
    }
    let locks = stream::iter(names).map(async |name| store.keep_locked(&name).await);
    locks.buffer_unordered(LOCKS_IN_FLIGHT).try_collect::<()>().await?;
    Ok(())
}

/// Makes the backup exist. Last, and only when all of its WAL is archived.
///
/// # Errors
/// The store failed.
pub async fn put_manifest(writer: &Writer, manifest: &Manifest) -> Result<Put, StoreError> {
    let name = writer.repository().layout().manifest(manifest.backup)?;
    let plain = to_cbor(manifest)?;
    check_frame("a manifest", plain.len())?;
    let object = NewObject {
        lineage: Some(manifest.lineage),
        ..NewObject::metadata(Kind::Manifest, &plain, manifest.finished_us)
    };
    writer.put(&name, object).await
}

fn check_frame(what: &'static str, bytes: usize) -> Result<(), StoreError> {
    if bytes <= FRAME_BYTES_MAX {
        return Ok(());
    }
    Err(StoreError::Limit {
        what,
        detail: format!("{bytes} bytes where {FRAME_BYTES_MAX} are allowed"),
    })
}
