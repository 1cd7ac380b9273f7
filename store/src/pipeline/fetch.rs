//! Reading many metadata chunks and pack footers with few requests. Everything here works with a host's keys.

use std::collections::{BTreeMap, HashMap};

use futures::{StreamExt, TryStreamExt};

use crate::chunk::ChunkReference;
use crate::error::StoreError;
use crate::id::PackId;
use crate::repository::Repository;

/// Packs that are read at the same time.
const READS_IN_FLIGHT: usize = 4;

/// Metadata chunks by reference, each pack visited once. Chunks of damaged or missing packs are left out and logged: the caller
/// stores anew what it cannot compare with.
///
/// # Errors
/// The store failed.
pub(super) async fn metadata_chunks(
    repository: &Repository,
    wanted: impl IntoIterator<Item = ChunkReference>,
) -> Result<HashMap<ChunkReference, Vec<u8>>, StoreError> {
    let mut by_pack: BTreeMap<PackId, Vec<u32>> = BTreeMap::new();
    for at in wanted {
        by_pack.entry(at.pack).or_default().push(at.number);
    }
    let reads = by_pack
        .into_iter()
        .map(|(pack, numbers)| chunks_of_pack(repository, pack, numbers));
    let parts: Vec<_> = futures::stream::iter(reads)
        .buffer_unordered(READS_IN_FLIGHT)
        .try_collect()
        .await?;
    Ok(parts.into_iter().flatten().collect())
}

async fn chunks_of_pack(
    repository: &Repository,
    pack: PackId,
    mut numbers: Vec<u32>,
) -> Result<Vec<(ChunkReference, Vec<u8>)>, StoreError> {
    numbers.sort_unstable();
    numbers.dedup();
    let log = |error: &StoreError| tracing::warn!(%pack, %error, "cannot read metadata of an earlier backup; what it describes is stored anew");
    let fetched = match repository.fetch_chunks(pack, &numbers).await {
        Ok(fetched) => fetched,
        Err(error) if error.is_damage() => {
            log(&error);
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut out = Vec::with_capacity(numbers.len());
    for number in numbers {
        match fetched.chunk(number, repository) {
            Ok(plain) => out.push((ChunkReference { pack, number }, plain)),
            Err(error) => log(&error),
        }
    }
    Ok(out)
}
