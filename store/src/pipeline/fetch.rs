//! Reading many metadata chunks and pack footers with few requests. Everything here works with a host's keys.

use std::collections::{BTreeMap, HashMap};

use futures::{StreamExt, TryStreamExt};

use crate::chunk::ChunkReference;
use crate::envelope::{Head, Kind};
use crate::error::StoreError;
use crate::id::PackId;
use crate::object::ByteRange;
use crate::pack::{Footer, footer_bytes};
use crate::repository::Repository;

/// Packs that are read at the same time.
const READS_IN_FLIGHT: usize = 4;
/// How much of the end of a pack is read to find its footer: enough for 1,300 chunks.
const FOOTER_GUESS_BYTES: u64 = 64 << 10;

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
        Err(error @ StoreError::Damaged { .. }) => {
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

/// What a pack is and which chunks it has.
#[derive(Debug)]
pub(super) struct PackFacts {
    pub(super) kind: Kind,
    pub(super) body_bytes: u64,
    pub(super) footer: Footer,
}

/// Head and footer of a pack, of data packs as well.
///
/// # Errors
/// Missing or damaged, or the store failed.
pub(super) async fn pack_facts(repository: &Repository, pack: PackId) -> Result<PackFacts, StoreError> {
    let name = repository.layout().pack(pack)?;
    let Some((head, _)) = repository.read_header(&name).await? else {
        return Err(StoreError::damaged(&name, "the pack is missing"));
    };
    let footer = read_footer(repository, &head, &name).await?;
    Ok(PackFacts {
        kind: head.kind,
        body_bytes: head.body_bytes,
        footer,
    })
}

async fn read_footer(
    repository: &Repository,
    head: &Head,
    name: &crate::object::ObjectName,
) -> Result<Footer, StoreError> {
    let end_of_body = |len: u64| ByteRange::Slice {
        start: head.body_start() + head.body_bytes - len,
        len,
    };
    let guess = FOOTER_GUESS_BYTES.min(head.body_bytes);
    let mut end = repository.store().get(name, end_of_body(guess)).await?;
    let trailer = end.get(end.len().saturating_sub(8)..).unwrap_or_default();
    let sealed_bytes = footer_bytes(head.name(), trailer)? as u64;
    if sealed_bytes + 8 > head.body_bytes {
        return Err(StoreError::damaged(name, "the footer claims more than the body"));
    }
    if sealed_bytes + 8 > guess {
        end = repository.store().get(name, end_of_body(sealed_bytes + 8)).await?;
    }
    let until = end.len().saturating_sub(8);
    let from = until.saturating_sub(usize::try_from(sealed_bytes).unwrap_or(usize::MAX));
    Footer::open(head, end.get(from..until).unwrap_or_default(), repository.keys())
}
