//! Fetches the files of a backup pack by pack: every needed range is read once, decoded in parallel, its parts written to their
//! files. Bounded: at most `jobs` parts of packs are in memory, [`PART_BYTES_MAX`] each, and at most [`OPEN_FILES_MAX`] files open.
//!
//! A crash leaves files without content, the marker of an interrupted restore, and no pg_control.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use pg::page::PAGE_BYTES;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use store::chunk::ContentReference;
use store::id::PackId;
use store::repository::{Maps, OpenPack, PartRange, Repository};

use crate::error::{RestoreError, Result};
use crate::progress::Progress;
use crate::tree::Tree;
use crate::work::{Destination, Run, Runs, Work, by_chunk, next_runs};

/// Files kept open.
const OPEN_FILES_MAX: usize = 256;
/// Longest part of a pack that is read at once.
const PART_BYTES_MAX: u64 = 4 << 20;
/// Packs whose footers are read ahead.
const OPEN_AHEAD: usize = 4;

/// Figures of a fetch.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fetched {
    /// Bytes read from the repository.
    pub(crate) fetched_bytes: u64,
    /// Bytes written.
    pub(crate) written_bytes: u64,
}

#[derive(Debug, Default)]
struct OpenFiles {
    files: HashMap<u32, Arc<File>>,
    order: VecDeque<u32>,
}

#[derive(Debug)]
struct Fetch {
    repository: Arc<Repository>,
    tree: Arc<Tree>,
    work: Arc<Work>,
    progress: Progress,
    open: Mutex<OpenFiles>,
    fetched: AtomicU64,
    written: AtomicU64,
}

/// Creates directories and files and fills them: with the runs that are planned, then with those of the files that are planned later, as many
/// at a time as fit. The plan's own runs are gone afterwards.
pub(crate) async fn fetch(
    repository: &Arc<Repository>,
    tree: &Arc<Tree>,
    mut work: Work,
    jobs: usize,
    progress: Progress,
) -> Result<(Fetched, Arc<Work>)> {
    let mut runs = std::mem::take(&mut work.packs);
    let work = Arc::new(work);
    let (maker, list) = (Arc::clone(tree), Arc::clone(&work));
    tokio::task::spawn_blocking(move || create(&maker, &list))
        .await
        .map_err(|_| stopped())??;
    let fetch = Arc::new(Fetch {
        repository: Arc::clone(repository),
        tree: Arc::clone(tree),
        work: Arc::clone(&work),
        progress,
        open: Mutex::default(),
        fetched: AtomicU64::new(0),
        written: AtomicU64::new(0),
    });
    let mut maps = Maps::new(repository);
    let mut later = work.later.iter();
    while !runs.is_empty() {
        fetch_runs(&fetch, runs, jobs).await?;
        runs = next_runs(&mut later, async |at| Ok(maps.extents(at).await?.content)).await?;
    }
    fetch.progress.finish();
    let fetched = Fetched {
        fetched_bytes: fetch.fetched.load(Ordering::Relaxed),
        written_bytes: fetch.written.load(Ordering::Relaxed),
    };
    Ok((fetched, work))
}

/// Fetches what these runs need, pack by pack.
async fn fetch_runs(fetch: &Arc<Fetch>, runs: Runs, jobs: usize) -> Result<()> {
    stream::iter(runs)
        .map(|(id, runs)| parts_of(Arc::clone(fetch), id, runs))
        .buffered(OPEN_AHEAD)
        .map_ok(|parts| stream::iter(parts.into_iter().map(Ok)))
        .try_flatten()
        .map_ok(|part| fetch_part(Arc::clone(fetch), part))
        .try_buffer_unordered(jobs)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

fn stopped() -> RestoreError {
    RestoreError::Failed("a worker of the restore stopped".into())
}

fn create(tree: &Tree, work: &Work) -> Result<()> {
    for (place, mode) in &work.directories {
        tree.make_directory(place, *mode)?;
    }
    let mut above = None;
    for (index, (place, size, mode)) in (0..).zip(&work.files) {
        // Directories of captured configuration files are in no entry; those of the rest are.
        let parent = place.names.split_last().map(|(_, above)| above.to_vec());
        if parent != above && place.names.first().is_some_and(|name| **name == *crate::paths::OURS) {
            tree.make_ancestors(place, 0o700)?;
        }
        above = parent;
        if work.is_held(index) {
            tree.keep_file(place, *size, *mode | 0o600)?;
        } else {
            tree.create_file(place, *size, *mode | 0o600)?;
        }
    }
    for (file, pages) in &work.zeroes {
        let place = work.place(*file)?;
        let file = tree.open_file(place)?;
        for page in pages.clone() {
            file.write_all_at(&[0; PAGE_BYTES], u64::from(page) * PAGE_BYTES as u64)
                .map_err(RestoreError::io("write", Path::new(&place.show())))?;
        }
    }
    Ok(())
}

/// A part of a pack, and where its chunks go.
#[derive(Debug)]
struct Part {
    pack: Arc<OpenPack>,
    range: PartRange,
    chunks: Vec<(u32, Vec<Destination>)>,
}

/// Reads head and footer of a pack, and divides what is needed of it.
async fn parts_of(fetch: Arc<Fetch>, id: PackId, runs: Vec<Run>) -> Result<Vec<Part>> {
    let pack = Arc::new(fetch.repository.open_pack(id).await?);
    let mut chunks: HashMap<u32, Vec<Destination>> = by_chunk(&runs).into_iter().collect();
    let numbers: Vec<u32> = chunks.keys().copied().collect();
    let mut parts = Vec::new();
    for range in pack.ranges(&numbers, PART_BYTES_MAX)? {
        let take = |number: &u32| Some((*number, chunks.remove(number)?));
        parts.push(Part {
            pack: Arc::clone(&pack),
            chunks: range.numbers.iter().filter_map(take).collect(),
            range,
        });
    }
    Ok(parts)
}

async fn fetch_part(fetch: Arc<Fetch>, part: Part) -> Result<()> {
    let bytes = fetch.repository.fetch_part(&part.pack, &part.range).await?;
    fetch.fetched.fetch_add(part.range.len, Ordering::Relaxed);
    tokio::task::spawn_blocking(move || {
        part.chunks.par_iter().try_for_each(|(number, destinations)| {
            let plain = part.pack.chunk(*number, &bytes, &fetch.repository)?;
            fetch.write(*number, &plain, destinations)
        })
    })
    .await
    .map_err(|_| stopped())?
}

impl Fetch {
    fn write(&self, number: u32, plain: &[u8], destinations: &[Destination]) -> Result<()> {
        for part in destinations {
            let bytes = part
                .from
                .checked_add(part.bytes)
                .and_then(|end| plain.get(part.from..end))
                .ok_or_else(|| {
                    RestoreError::damaged("a pack", format!("chunk {number} is shorter than the file table says"))
                })?;
            let file = self.file(part.file)?;
            file.write_all_at(bytes, part.at).map_err(|error| {
                let path = self
                    .work
                    .files
                    .get(part.file as usize)
                    .map(|(place, _, _)| place.show())
                    .unwrap_or_default();
                RestoreError::io("write", Path::new(&path))(error)
            })?;
            self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            self.progress.add(bytes.len() as u64);
        }
        Ok(())
    }

    fn file(&self, index: u32) -> Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.files.get(&index) {
            return Ok(Arc::clone(file));
        }
        let (place, _, _) = self.work.files.get(index as usize).ok_or_else(stopped)?;
        let file = Arc::new(self.tree.open_file(place)?);
        open.files.insert(index, Arc::clone(&file));
        open.order.push_back(index);
        if open.order.len() > OPEN_FILES_MAX
            && let Some(oldest) = open.order.pop_front()
        {
            open.files.remove(&oldest);
        }
        Ok(file)
    }
}

/// The bytes of a small file.
pub(crate) async fn content(repository: &Repository, list: &[ContentReference]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for part in list {
        let pack = repository.fetch_chunks(part.pack, &[part.number]).await?;
        let plain = pack.chunk(part.number, repository)?;
        if plain.len() != part.plain_bytes as usize {
            return Err(RestoreError::damaged(
                part.pack,
                format!("chunk {} has another length than the file table says", part.number),
            ));
        }
        out.extend_from_slice(&plain);
    }
    Ok(out)
}
