//! How long the files of a restore will take, by a sample of what the store and this machine do right now.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use store::StoreError;
use store::manifest::{Manifest, PackNeed};
use store::repository::{OpenPack, PartRange, Repository};

/// Shorter than what a restore reads at once: a sample shall cost no memory.
const PART_BYTES: u64 = 1 << 20;
/// Parts of packs in a sample.
const PARTS: usize = 8;
/// Packs that they are taken from.
const PACKS: usize = 4;
/// Less than this is there before a sample has been taken.
const WORTH_BYTES: u64 = 64 << 20;
/// `PackNeed::kind` of packs that hold files.
const DATA: u8 = 1;

/// Time to read and decode everything that a backup needs, as a sample of it took. Writing it to a slower disk takes longer. `None`
/// for little, and where no sample can be had: the restore itself says why.
pub(crate) async fn fetch_time(repository: &Arc<Repository>, manifest: &Manifest, jobs: usize) -> Option<Duration> {
    let needed = manifest.totals.needed_bytes;
    if needed < WORTH_BYTES {
        return None;
    }
    match sample(repository, &manifest.packs, jobs).await {
        Ok((0, _)) => None,
        Ok((bytes, took)) => Some(took.mul_f64(needed as f64 / bytes as f64)),
        Err(error) => {
            tracing::debug!(%error, "no sample of the store");
            None
        }
    }
}

/// Bytes that were read, and how long it took.
async fn sample(repository: &Arc<Repository>, packs: &[PackNeed], jobs: usize) -> Result<(u64, Duration), StoreError> {
    let begun = Instant::now();
    let mut largest: Vec<&PackNeed> = packs.iter().filter(|pack| pack.kind == DATA).collect();
    largest.sort_by_key(|pack| std::cmp::Reverse(pack.live_bytes));
    let opened: Vec<Arc<OpenPack>> = stream::iter(largest.into_iter().take(PACKS))
        .map(|pack| repository.open_pack(pack.id))
        .buffered(PACKS)
        .map_ok(Arc::new)
        .try_collect()
        .await?;
    let mut parts: Vec<(Arc<OpenPack>, PartRange)> = Vec::new();
    for pack in opened {
        let numbers: Vec<u32> = (0..pack.chunks()).collect();
        let ranges = pack.ranges(&numbers, PART_BYTES)?;
        parts.extend(
            ranges
                .into_iter()
                .take(PARTS / PACKS)
                .map(|range| (Arc::clone(&pack), range)),
        );
    }
    let bytes = parts.iter().map(|(_, range)| range.len).sum();
    stream::iter(parts)
        .map(|(pack, range)| decode(repository, pack, range))
        .buffer_unordered(jobs.max(1))
        .try_collect::<Vec<()>>()
        .await?;
    Ok((bytes, begun.elapsed()))
}

async fn decode(repository: &Arc<Repository>, pack: Arc<OpenPack>, range: PartRange) -> Result<(), StoreError> {
    let part = repository.fetch_part(&pack, &range).await?;
    let repository = Arc::clone(repository);
    let decoded = tokio::task::spawn_blocking(move || {
        let check = |number: &u32| pack.chunk(*number, &part, &repository).map(drop);
        range.numbers.par_iter().try_for_each(check)
    });
    // A panic in a sample is nothing to a restore.
    decoded.await.unwrap_or(Ok(()))
}
