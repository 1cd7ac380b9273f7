//! Heads of WAL objects. A name says which WAL it is; whether that counts, only the head says: who has signed it, and when that ended.

use futures::{StreamExt as _, TryStreamExt as _};

use super::object::says_the_same;
use super::{Finding, judge};
use crate::error::StoreError;
use crate::inventory::{Inventory, Named};
use crate::object::ObjectMeta;
use crate::repository::Repository;

/// Heads read at once: each is two small requests, and there may be very many.
const READS_IN_FLIGHT: usize = 64;

/// Reads the heads of all WAL objects.
///
/// # Errors
/// The store failed.
pub(super) async fn wal_heads(repository: &Repository, inventory: &Inventory) -> Result<Vec<Finding>, StoreError> {
    let wal = inventory
        .objects
        .iter()
        .filter(|(named, _)| matches!(named, Named::Wal(_)));
    let looks = wal.map(|(named, meta)| head(repository, *named, meta));
    let looks: Vec<_> = futures::stream::iter(looks)
        .buffered(READS_IN_FLIGHT)
        .try_collect()
        .await?;
    Ok(looks.into_iter().flatten().collect())
}

/// What is wrong with one, as it lies there; nothing when it was deleted since it was listed.
async fn head(repository: &Repository, named: Named, meta: &ObjectMeta) -> Result<Option<Finding>, StoreError> {
    let read = match repository.read_header_at(&meta.name, &meta.name).await {
        Err(error) if error.is_not_found() => Ok(None),
        read => read,
    };
    let fits = read.and_then(|found| match found {
        Some((_, header)) if !says_the_same(named, &header) => Err(StoreError::damaged(
            &meta.name,
            "its header speaks of something else than its name",
        )),
        _ => Ok(()),
    });
    Ok(judge(&meta.name, fits)?.err())
}
