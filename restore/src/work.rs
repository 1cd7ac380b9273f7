//! From the file table to work: which bytes of which pack go where. Pure but for reading page maps.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use pg::page::PAGE_BYTES;
use store::StoreError;
use store::chunk::ChunkReference;
use store::file_table::{EntryClass, EntryType, FileEntry};
use store::id::PackId;
use store::limits::{PAGE_MAP_DEPTH_MAX, RELATION_CHUNK_PAGES_MAX};
use store::page_map::{Extents, Form, Source, decode_extents};
use store::repository::{FetchedPack, Repository};

use crate::error::{RestoreError, Result};
use crate::paths::{Place, captured, place};

/// Memory for metadata packs while page maps are read.
const METADATA_BYTES_MAX: u64 = 256 << 20;

/// A run of bytes out of one pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// Pages of a relation file; goes on at page 0 of the next chunk.
    Pages {
        /// Index of the file.
        file: u32,
        /// First page in the file.
        first: u32,
        /// Pages.
        count: u32,
        /// Chunk of the first one.
        chunk: u32,
        /// Its page within that chunk.
        page: u16,
    },
    /// A content chunk.
    Content {
        /// Index of the file.
        file: u32,
        /// Where it goes.
        at: u64,
        /// The chunk.
        chunk: u32,
        /// Its length.
        bytes: u32,
    },
}

/// Where a part of a chunk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Destination {
    /// Index of the file.
    pub(crate) file: u32,
    /// Byte in the file.
    pub(crate) at: u64,
    /// First byte of the chunk.
    pub(crate) from: usize,
    /// Bytes.
    pub(crate) bytes: usize,
}

/// Everything to be made and fetched.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Directories, parents first: place and mode.
    pub(crate) directories: Vec<(Place, u32)>,
    /// Files: place, size, mode.
    pub(crate) files: Vec<(Place, u64, u32)>,
    /// What to take from each pack.
    pub(crate) packs: BTreeMap<PackId, Vec<Run>>,
    /// `global/pg_control`.
    pub(crate) control: Option<FileEntry>,
    /// Captured configuration files: original path and index in `files`.
    pub(crate) configuration: Vec<(Vec<u8>, usize)>,
    /// Bytes that will be written.
    pub(crate) bytes: u64,
    /// What is left out, in words.
    pub(crate) left_out: Vec<String>,
}

impl Work {
    /// Sorts the entries; page maps are added by [`Work::add_pages`].
    pub(crate) fn of(table: &[FileEntry], linked: &[u32]) -> Result<(Work, Vec<(u32, ChunkReference)>)> {
        let mut work = Work::default();
        let mut maps = Vec::new();
        for entry in table.iter().filter(|entry| !is_written_anew(&entry.path)) {
            match (entry.class, entry.entry_type) {
                (EntryClass::Configuration, EntryType::File) => {
                    let index = work.add_file(captured(&entry.path)?, entry, 0o600)?;
                    work.configuration.push((entry.path.to_vec(), index as usize));
                }
                (EntryClass::Configuration, _) => {}
                (_, EntryType::Directory) => work.directories.push((place(&entry.path, linked)?, entry.mode)),
                (_, EntryType::Link) => work.add_link(entry, linked)?,
                (EntryClass::Control, EntryType::File) => work.control = Some(entry.clone()),
                (EntryClass::Content, EntryType::File) => {
                    work.add_file(place(&entry.path, linked)?, entry, entry.mode)?;
                }
                (EntryClass::Relation, EntryType::File) => {
                    let index = work.add_file(place(&entry.path, linked)?, entry, entry.mode)?;
                    match entry.extents {
                        Some(at) => maps.push((index, at)),
                        None if entry.size == 0 => {}
                        None => return Err(contradiction(entry, "has pages and no page map")),
                    }
                }
            }
        }
        work.directories.sort();
        Ok((work, maps))
    }

    fn add_file(&mut self, place: Place, entry: &FileEntry, mode: u32) -> Result<u32> {
        let index = u32::try_from(self.files.len()).map_err(|_| contradiction(entry, "is one of too many"))?;
        if place.names.is_empty() {
            return Err(contradiction(entry, "has the path of a directory"));
        }
        self.files.push((place, entry.size, mode));
        if entry.class != EntryClass::Relation {
            let mut at = 0u64;
            for chunk in &entry.content {
                let run = Run::Content { file: index, at, chunk: chunk.number, bytes: chunk.plain_bytes };
                self.packs.entry(chunk.pack).or_default().push(run);
                at += u64::from(chunk.plain_bytes);
            }
            if at != entry.size {
                return Err(contradiction(entry, "has other content than its size"));
            }
            self.bytes += at;
        }
        Ok(index)
    }

    /// Tablespaces are linked by us, pg_wal becomes a directory, other links are left out: the server's own tools do the same.
    fn add_link(&mut self, entry: &FileEntry, linked: &[u32]) -> Result<()> {
        let place = place(&entry.path, linked)?;
        if place.tablespace.is_some() {
            return Ok(());
        }
        if *entry.path == *b"pg_wal" {
            self.directories.push((place, 0o700));
            return Ok(());
        }
        let target = entry.target.as_ref().map(|target| target.escape_ascii().to_string()).unwrap_or_default();
        self.left_out.push(format!("symbolic link \"{}\" to \"{target}\" is not restored", place.show()));
        Ok(())
    }

    /// Adds the pages of a relation file.
    pub(crate) fn add_pages(&mut self, file: u32, extents: &Extents) -> Result<()> {
        let (place, size, _) = self.files.get(file as usize).ok_or_else(|| RestoreError::Failed("no such file".into()))?;
        if u64::from(extents.pages) * PAGE_BYTES as u64 != *size {
            return Err(RestoreError::damaged("the file table", format!("\"{}\" has another size than its page map", place.show())));
        }
        for extent in &extents.runs {
            if let Source::Pack { pack, chunk, page } = extent.source {
                let run = Run::Pages { file, first: extent.first, count: extent.count, chunk, page };
                self.packs.entry(pack).or_default().push(run);
                self.bytes += u64::from(extent.count) * PAGE_BYTES as u64;
            }
        }
        Ok(())
    }

    /// Names at the top of the data directory that this restore writes.
    pub(crate) fn top_names(&self) -> Vec<String> {
        let places = self.directories.iter().map(|(place, _)| place).chain(self.files.iter().map(|(place, _, _)| place));
        let tops = places.filter(|place| place.tablespace.is_none()).filter_map(|place| place.names.first());
        let mut names: Vec<String> = tops.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// Files that a restore writes itself, or that belong to the life of another server.
fn is_written_anew(path: &[u8]) -> bool {
    matches!(
        path,
        b"backup_label" | b"backup_label.old" | b"tablespace_map" | b"tablespace_map.old" | b"recovery.signal" | b"standby.signal" | b"postmaster.pid" | b"postmaster.opts"
    )
}

fn contradiction(entry: &FileEntry, reason: &str) -> RestoreError {
    RestoreError::damaged("the file table", format!("\"{}\" {reason}", entry.path.escape_ascii()))
}

/// The chunks of a pack that runs need, each with where its parts go.
pub(crate) fn by_chunk(runs: &[Run]) -> Vec<(u32, Vec<Destination>)> {
    let mut chunks: BTreeMap<u32, Vec<Destination>> = BTreeMap::new();
    for run in runs {
        match *run {
            Run::Content { file, at, chunk, bytes } => {
                chunks.entry(chunk).or_default().push(Destination { file, at, from: 0, bytes: bytes as usize });
            }
            Run::Pages { file, mut first, mut count, mut chunk, page } => {
                let mut page = usize::from(page);
                while count > 0 {
                    let here = (count as usize).min(RELATION_CHUNK_PAGES_MAX.saturating_sub(page).max(1));
                    let at = u64::from(first) * PAGE_BYTES as u64;
                    chunks.entry(chunk).or_default().push(Destination { file, at, from: page * PAGE_BYTES, bytes: here * PAGE_BYTES });
                    first = first.saturating_add(here as u32);
                    count -= here as u32;
                    chunk = chunk.saturating_add(1);
                    page = 0;
                }
            }
        }
    }
    chunks.into_iter().collect()
}

/// Page maps with their parents, metadata packs kept within a bound.
#[derive(Debug)]
pub(crate) struct Maps<'a> {
    repository: &'a Repository,
    packs: HashMap<PackId, Arc<FetchedPack>>,
    order: VecDeque<PackId>,
    bytes: u64,
}

impl<'a> Maps<'a> {
    /// An empty cache.
    pub(crate) fn new(repository: &'a Repository) -> Self {
        Maps { repository, packs: HashMap::new(), order: VecDeque::new(), bytes: 0 }
    }

    async fn pack(&mut self, id: PackId) -> Result<Arc<FetchedPack>> {
        if let Some(pack) = self.packs.get(&id) {
            return Ok(Arc::clone(pack));
        }
        let pack = Arc::new(self.repository.fetch_pack(id).await?);
        self.bytes += pack.fetched_bytes();
        self.packs.insert(id, Arc::clone(&pack));
        self.order.push_back(id);
        while self.bytes > METADATA_BYTES_MAX
            && self.order.len() > 1
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.packs.remove(&oldest).map_or(0, |pack| pack.fetched_bytes());
        }
        Ok(pack)
    }

    /// The whole map at a reference.
    pub(crate) async fn extents(&mut self, at: ChunkReference) -> Result<Extents> {
        let damaged = |reason: &str| RestoreError::from(StoreError::damaged(at.pack, reason));
        let mut deltas = Vec::new();
        let mut next = at;
        loop {
            let bytes = self.pack(next.pack).await?.chunk(next.number, self.repository)?;
            let parsed = decode_extents(&bytes).ok_or_else(|| damaged("extents make no sense"))?;
            match parsed.form {
                Form::Whole => {
                    let whole = deltas.iter().rev().fold(parsed.content, |base: Extents, delta| base.with_delta(delta));
                    return if whole.is_whole() { Ok(whole) } else { Err(damaged("extents do not cover their file")) };
                }
                Form::Delta { .. } if deltas.len() >= usize::from(PAGE_MAP_DEPTH_MAX) => return Err(damaged("a chain of page maps is too long")),
                Form::Delta { parent, .. } => {
                    deltas.push(parsed.content);
                    next = parent;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::page_map::Extent;

    fn entry(path: &[u8], class: EntryClass, size: u64) -> FileEntry {
        FileEntry { class, size, ..FileEntry::bare(path.to_vec(), EntryType::File, 0o600) }
    }

    #[test]
    fn a_run_of_pages_goes_on_in_the_next_chunk_from_its_first_page() {
        let run = Run::Pages { file: 3, first: 100, count: 20, chunk: 7, page: 14 };
        let chunks = by_chunk(&[run]);
        let page = PAGE_BYTES;
        let expected = [(7, 100, 14, 2), (8, 102, 0, 16), (9, 118, 0, 2)];
        assert_eq!(chunks.len(), 3);
        for ((number, parts), (chunk, first, from, count)) in chunks.iter().zip(expected) {
            assert_eq!(*number, chunk);
            assert_eq!(parts[0], Destination { file: 3, at: first * page as u64, from: from * page, bytes: count * page });
        }
    }

    #[test]
    fn a_chunk_that_is_used_twice_is_decoded_once() {
        let at = |file| Run::Content { file, at: 0, chunk: 1, bytes: 10 };
        let chunks = by_chunk(&[at(1), at(2)]);
        assert_eq!((chunks.len(), chunks[0].1.len()), (1, 2));
    }

    #[test]
    fn sizes_that_contradict_each_other_are_damage() {
        let (mut work, _) = Work::of(&[FileEntry { extents: Some(ChunkReference { pack: PackId::default(), number: 0 }), ..entry(b"base/1", EntryClass::Relation, 8192) }], &[]).unwrap();
        let extents = |pages| Extents { pages, runs: vec![Extent { first: 0, count: pages, source: Source::Zero }] };
        assert!(work.add_pages(0, &extents(2)).is_err());
        work.add_pages(0, &extents(1)).unwrap();
        assert!(work.packs.is_empty());
        assert!(Work::of(&[entry(b"base/1", EntryClass::Relation, 8192)], &[]).is_err());
        assert!(Work::of(&[entry(b"x", EntryClass::Content, 1)], &[]).is_err());
    }

    #[test]
    fn links_are_left_out_loudly_and_pg_control_waits() {
        let link = |path: &[u8]| FileEntry { target: Some(b"/etc".to_vec().into()), ..FileEntry::bare(path.to_vec(), EntryType::Link, 0o777) };
        let control = entry(b"global/pg_control", EntryClass::Control, 8192);
        let (work, _) = Work::of(&[link(b"pg_tblspc/16384"), link(b"pg_wal"), link(b"server.crt"), control], &[16384]).unwrap();
        assert_eq!(work.left_out.len(), 1);
        assert_eq!(work.directories.len(), 1);
        assert!(work.control.is_some() && work.files.is_empty());
    }
}
