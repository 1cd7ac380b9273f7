//! Are the packs there that a restore needs?

use std::collections::HashSet;

use store::StoreError;
use store::id::PackId;
use store::object::{ObjectName, list_all};
use store::repository::Repository;

use crate::error::{RestoreError, Result};

/// Before the first byte is written: what is to be fetched must be there. A pack that a spare makes up for is.
///
/// # Errors
/// One is missing, or the store failed.
pub(crate) async fn refuse_missing(repository: &Repository, needed: impl Iterator<Item = PackId>) -> Result<()> {
    let prefix = repository.layout().prefix("packs");
    let listed = list_all(repository.store().as_ref(), &prefix).await;
    let listed = listed.map_err(StoreError::from)?;
    let there: HashSet<ObjectName> = listed.into_iter().map(|meta| meta.name).collect();
    for id in needed {
        let name = repository.layout().pack(id)?;
        if !there.contains(&name) && repository.spares_of(&name).is_empty() {
            return Err(RestoreError::damaged(name, "the pack is missing; nothing was changed"));
        }
    }
    Ok(())
}
