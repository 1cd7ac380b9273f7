//! A backup of a component, read piece by piece: any number of files in the memory of one piece of the table.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use store::StoreError;
use store::chunk::{ChunkReference, ContentReference};
use store::file_table::{FileEntry, decode_chunk_list, decode_piece};
use store::id::{Digest, PackId};
use store::manifest::Manifest;
use store::repository::{OpenPack, Repository};

use crate::ComponentError;

/// Longest part of a pack that is read at once.
const PART_BYTES_MAX: u64 = 4 << 20;
/// Parts that are read ahead.
const PARTS_IN_FLIGHT: usize = 4;
/// Packs that are kept open: head and footer.
const OPEN_MAX: usize = 32;

/// A backup, and how far its table was read.
#[derive(Debug, Clone)]
pub struct Stored {
    repository: Arc<Repository>,
    manifest: Arc<Manifest>,
    next: usize,
    /// Packs that [`Self::ids`] has opened: very many small files lie in one, and opening it decodes the places of all.
    opened: Arc<Mutex<HashMap<PackId, Arc<OpenPack>>>>,
}

/// Where a chunk goes: which of the entries, where in it, how long it is.
type Place = (usize, u64, u32);

/// A chunk of a file: which of the entries, where in it, its plaintext.
pub type Part = (usize, u64, Bytes);

impl Stored {
    /// From the first piece on.
    #[must_use]
    pub fn new(repository: Arc<Repository>, manifest: Manifest) -> Self {
        Stored {
            repository,
            manifest: Arc::new(manifest),
            next: 0,
            opened: Arc::default(),
        }
    }

    /// What the backup says of itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The entries of the next piece, with their content; none behind the last.
    ///
    /// # Errors
    /// The repository failed, or a piece is damaged.
    pub async fn next_piece(&mut self) -> Result<Option<Vec<FileEntry>>, ComponentError> {
        let Some(at) = self.manifest.file_table.get(self.next) else {
            return Ok(None);
        };
        self.next += 1;
        let name = |at: &ChunkReference| format!("{}/{}", at.pack, at.number);
        let mut entries = decode_piece(&name(at), &self.repository.metadata_chunk(*at).await?)?;
        for entry in &mut entries {
            if let Some(list) = entry.content_list {
                entry.content = decode_chunk_list(&name(&list), &self.repository.metadata_chunk(list).await?)?;
            }
            let bytes: u64 = entry.content.iter().map(|at| u64::from(at.plain_bytes)).sum();
            if bytes != entry.size {
                let path = entry.path.escape_ascii();
                return Err(
                    StoreError::damaged(name(at), format!("\"{path}\" has another size than its chunks")).into(),
                );
            }
        }
        Ok(Some(entries))
    }

    /// Reads what entries hold, each needed range of a pack once, and gives it to `take`, in any order.
    ///
    /// # Errors
    /// The repository failed, something is damaged, the restore key is missing, or what `take` returns.
    pub async fn content(
        &self,
        entries: &[FileEntry],
        take: impl Fn(Part) -> Result<(), ComponentError> + Send + Sync + Clone + 'static,
    ) -> Result<(), ComponentError> {
        let mut wanted: BTreeMap<PackId, HashMap<u32, Vec<Place>>> = BTreeMap::new();
        for (number, entry) in entries.iter().enumerate() {
            let mut at = 0;
            for content in &entry.content {
                let of_pack = wanted.entry(content.pack).or_default();
                let places = of_pack.entry(content.number).or_default();
                places.push((number, at, content.plain_bytes));
                at += u64::from(content.plain_bytes);
            }
        }
        for (id, mut chunks) in wanted {
            let pack = Arc::new(self.repository.open_pack(id).await?);
            let numbers: Vec<u32> = chunks.keys().copied().collect();
            let parts = pack.ranges(&numbers, PART_BYTES_MAX)?.into_iter().map(|range| {
                let places = range
                    .numbers
                    .iter()
                    .filter_map(|number| Some((*number, chunks.remove(number)?)));
                let (pack, take, places) = (Arc::clone(&pack), take.clone(), places.collect::<Vec<_>>());
                async move {
                    let bytes = self.repository.fetch_part(&pack, &range).await?;
                    let repository = Arc::clone(&self.repository);
                    let decode = tokio::task::spawn_blocking(move || {
                        for (number, places) in places {
                            let plain = Bytes::from(pack.chunk(number, &bytes, &repository)?);
                            for (entry, at, length) in places {
                                refuse_other_length(id, number, &plain, length)?;
                                take((entry, at, plain.clone()))?;
                            }
                        }
                        Ok::<_, ComponentError>(())
                    });
                    decode.await.map_err(|_| ComponentError::Stopped)?
                }
            });
            let parts: Vec<_> = parts.collect();
            stream::iter(parts)
                .buffer_unordered(PARTS_IN_FLIGHT)
                .try_collect::<()>()
                .await?;
        }
        Ok(())
    }

    /// Ids and lengths of the chunks of a file, in order.
    ///
    /// # Errors
    /// The repository failed, or a pack is damaged.
    pub async fn ids(&self, entry: &FileEntry) -> Result<Vec<(Digest, u32)>, ComponentError> {
        let mut ids = Vec::with_capacity(entry.content.len());
        for at in &entry.content {
            let pack = self.opened(at.pack).await?;
            ids.push((pack.entry(at.number)?.id, at.plain_bytes));
        }
        Ok(ids)
    }

    async fn opened(&self, id: PackId) -> Result<Arc<OpenPack>, ComponentError> {
        let known = || self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pack) = known().get(&id) {
            return Ok(Arc::clone(pack));
        }
        let pack = Arc::new(self.repository.open_pack(id).await?);
        let mut known = known();
        if known.len() >= OPEN_MAX {
            known.clear();
        }
        known.insert(id, Arc::clone(&pack));
        Ok(pack)
    }

    /// Reads one file from its beginning to its end, a chunk after the other.
    ///
    /// # Errors
    /// As [`Self::content`].
    pub async fn in_order(
        &self,
        entry: &FileEntry,
        mut take: impl AsyncFnMut(Bytes) -> Result<(), ComponentError>,
    ) -> Result<(), ComponentError> {
        let mut reader = self.reader(entry);
        while let Some(chunks) = reader.next().await? {
            for plain in chunks {
                take(plain).await?;
            }
        }
        Ok(())
    }

    /// The same, as far as it is asked for.
    #[must_use]
    pub fn reader<'s>(&'s self, entry: &'s FileEntry) -> FileReader<'s> {
        FileReader {
            stored: self,
            rest: &entry.content,
            open: Vec::new(),
        }
    }

    /// Chunks of one pack that lie one after the other.
    async fn run(&self, pack: &Arc<OpenPack>, run: &[ContentReference]) -> Result<Vec<Bytes>, ComponentError> {
        let mut numbers: Vec<u32> = run.iter().map(|at| at.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut plain: HashMap<u32, Bytes> = HashMap::new();
        for range in pack.ranges(&numbers, PART_BYTES_MAX)? {
            let bytes = self.repository.fetch_part(pack, &range).await?;
            for number in &range.numbers {
                plain.insert(*number, Bytes::from(pack.chunk(*number, &bytes, &self.repository)?));
            }
        }
        let of = |at: &ContentReference| {
            let plain = plain.get(&at.number).cloned().unwrap_or_default();
            refuse_other_length(at.pack, at.number, &plain, at.plain_bytes)?;
            Ok(plain)
        };
        run.iter().map(of).collect()
    }
}

/// A file that is read in order.
#[derive(Debug)]
pub struct FileReader<'s> {
    stored: &'s Stored,
    rest: &'s [ContentReference],
    open: Vec<(PackId, Arc<OpenPack>)>,
}

impl FileReader<'_> {
    /// The next chunks, [`PART_BYTES_MAX`] at most or one; none behind the last.
    ///
    /// # Errors
    /// As [`Stored::content`].
    pub async fn next(&mut self) -> Result<Option<Vec<Bytes>>, ComponentError> {
        let Some(first) = self.rest.first() else {
            return Ok(None);
        };
        let pack = match self.open.iter().find(|(id, _)| *id == first.pack) {
            Some((_, pack)) => Arc::clone(pack),
            None => {
                let pack = Arc::new(self.stored.repository.open_pack(first.pack).await?);
                if self.open.len() >= OPEN_MAX {
                    self.open.remove(0);
                }
                self.open.push((first.pack, Arc::clone(&pack)));
                pack
            }
        };
        let (run, behind) = self.rest.split_at(run_of(self.rest));
        self.rest = behind;
        self.stored.run(&pack, run).await.map(Some)
    }
}

/// How many of the first chunks lie in one pack, up to what is read at once.
fn run_of(content: &[ContentReference]) -> usize {
    let (mut bytes, mut count) = (0, 0);
    for at in content {
        bytes += u64::from(at.plain_bytes);
        if count > 0 && (at.pack != content.first().map_or(at.pack, |first| first.pack) || bytes > PART_BYTES_MAX) {
            break;
        }
        count += 1;
    }
    count
}

fn refuse_other_length(pack: PackId, number: u32, plain: &Bytes, length: u32) -> Result<(), ComponentError> {
    if plain.len() == length as usize {
        return Ok(());
    }
    let reason = format!("chunk {number} has another length than the file table says");
    Err(StoreError::damaged(pack, reason).into())
}
