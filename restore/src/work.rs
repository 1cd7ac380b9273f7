//! From the file table to work: which bytes of which pack go where. Pure but for reading page maps.
//!
//! Of a large cluster, or of one that has been changed here and there for long, all runs of pages would be more than memory: 24 bytes for each,
//! and 1 % of changed pages of 10 TB are 26 million of them. So no more than [`RUNS_MAX`] are there at once. What is planned beyond that is
//! [`Later`], whose page maps are read once more when their turn comes.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::ops::Range;

use pg::page::PAGE_BYTES;
use store::chunk::ChunkReference;
use store::file_table::{EntryClass, EntryType, FileEntry};
use store::id::PackId;
use store::limits::RELATION_CHUNK_PAGES_MAX;
use store::page_map::{Extent, Extents, Source};

use crate::delta::{Held, without};
use crate::error::{RestoreError, Result};
use crate::paths::{Place, captured, place};

/// Runs of pages that are in memory at once, unless one file has more: 96 MiB, and up to as much again for the room that vectors keep.
const RUNS_MAX: usize = 4 << 20;

/// What to take from each pack.
pub(crate) type Runs = BTreeMap<PackId, Vec<Run>>;

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

/// A relation file whose page map is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RelationMap {
    /// Index of the file.
    pub(crate) file: u32,
    /// Where its extents are stored.
    pub(crate) extents: ChunkReference,
    /// Where its page digests are stored.
    pub(crate) digests: Option<ChunkReference>,
}

/// A relation file whose runs did not fit.
#[derive(Debug)]
pub(crate) struct Later {
    /// Its page map.
    pub(crate) map: RelationMap,
    held: Option<Held>,
}

/// Everything to be made and fetched.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Directories, parents first: place and mode.
    pub(crate) directories: Vec<(Place, u32)>,
    /// Files: place, size, mode.
    pub(crate) files: Vec<(Place, u64, u32)>,
    /// What to take from each pack, of the files that come first.
    pub(crate) packs: Runs,
    /// Runs of pages in them.
    runs: usize,
    /// The other files, in order.
    pub(crate) later: Vec<Later>,
    /// `global/pg_control`.
    pub(crate) control: Option<FileEntry>,
    /// Captured configuration files: original path and index in `files`.
    pub(crate) configuration: Vec<(Vec<u8>, usize)>,
    /// Bytes that will be written.
    pub(crate) bytes: u64,
    /// Bytes that are there already.
    pub(crate) held_bytes: u64,
    /// Pages that hold something where the backup has zeros: index of the file, pages.
    pub(crate) zeroes: Vec<(u32, Range<u32>)>,
    /// Files that are there and stay.
    held: HashSet<u32>,
    /// What is left out, in words.
    pub(crate) left_out: Vec<String>,
}

impl Work {
    /// Sorts the entries; page maps are added by [`Work::add_pages`].
    pub(crate) fn of(table: &[FileEntry], linked: &[u32]) -> Result<(Work, Vec<RelationMap>)> {
        let mut work = Work::default();
        let mut maps = Vec::new();
        for entry in table.iter().filter(|entry| !is_written_anew(&entry.path)) {
            match (entry.class, entry.entry_type) {
                (EntryClass::Configuration, EntryType::File) => work.add_configuration(entry)?,
                (EntryClass::Configuration, _) => {}
                (_, EntryType::Directory) => work.directories.push((place(&entry.path, linked)?, entry.mode)),
                (_, EntryType::Link) => work.add_link(entry, linked)?,
                (_, EntryType::Other) => return Err(contradiction(entry, "is no file of a cluster")),
                (EntryClass::Control, EntryType::File) => work.control = Some(entry.clone()),
                (EntryClass::Content, EntryType::File) => {
                    work.add_file(place(&entry.path, linked)?, entry, entry.mode)?;
                }
                (EntryClass::Relation, EntryType::File) => {
                    let index = work.add_file(place(&entry.path, linked)?, entry, entry.mode)?;
                    match entry.extents {
                        Some(extents) => maps.push(RelationMap {
                            file: index,
                            extents,
                            digests: entry.digests,
                        }),
                        None if entry.size == 0 => {}
                        None => return Err(contradiction(entry, "has pages and no page map")),
                    }
                }
            }
        }
        work.directories.sort();
        Ok((work, maps))
    }

    /// A file from outside the data directory. Older agents wrote its path as some include line had it: the first of a path counts.
    fn add_configuration(&mut self, entry: &FileEntry) -> Result<()> {
        let path = pg::path::canonical(&entry.path);
        if self.configuration.iter().all(|(found, _)| *found != path) {
            let index = self.add_file(captured(&path)?, entry, 0o600)?;
            self.configuration.push((path, index as usize));
        }
        Ok(())
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
                let run = Run::Content {
                    file: index,
                    at,
                    chunk: chunk.number,
                    bytes: chunk.plain_bytes,
                };
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
        let target = entry
            .target
            .as_ref()
            .map(|target| target.escape_ascii().to_string())
            .unwrap_or_default();
        self.left_out.push(format!(
            "symbolic link \"{}\" to \"{target}\" is not restored",
            place.show()
        ));
        Ok(())
    }

    /// Adds the pages of a relation file; what is `held` of it on disk is neither fetched nor created anew.
    pub(crate) fn add_pages(&mut self, map: RelationMap, extents: &Extents, held: Option<Held>) -> Result<()> {
        let (place, size, _) = self.files.get(map.file as usize).ok_or_else(no_such_file)?;
        if u64::from(extents.pages) * PAGE_BYTES as u64 != *size {
            return Err(RestoreError::damaged(
                "the file table",
                format!("\"{}\" has another size than its page map", place.show()),
            ));
        }
        let is_later = self.runs >= RUNS_MAX;
        let mut fetched = 0;
        for_each_missing(extents, held.as_ref(), |part| match run_of(map.file, part) {
            Some((pack, run)) => {
                fetched += u64::from(part.count);
                if !is_later {
                    self.packs.entry(pack).or_default().push(run);
                    self.runs += 1;
                }
            }
            None => {
                let on_disk = held.as_ref().map_or(0, |held| held.pages);
                if part.first < on_disk {
                    self.zeroes.push((map.file, part.first..part.end().min(on_disk)));
                }
            }
        });
        self.bytes += fetched * PAGE_BYTES as u64;
        if let Some(held) = &held {
            self.held.insert(map.file);
            let pages: u64 = held.same.iter().map(|range| u64::from(range.end - range.start)).sum();
            self.held_bytes += pages * PAGE_BYTES as u64;
        }
        if is_later && fetched > 0 {
            self.later.push(Later { map, held });
        }
        Ok(())
    }

    /// Where a file goes.
    pub(crate) fn place(&self, file: u32) -> Result<&Place> {
        let found = self.files.get(file as usize).map(|(place, _, _)| place);
        found.ok_or_else(no_such_file)
    }

    /// True when the file is there and stays.
    pub(crate) fn is_held(&self, file: u32) -> bool {
        self.held.contains(&file)
    }

    /// Files that are there and in which something is written.
    pub(crate) fn partly_held(&self) -> impl Iterator<Item = &Place> {
        let runs = self.packs.values().flatten().map(|run| match run {
            Run::Pages { file, .. } | Run::Content { file, .. } => *file,
        });
        let written: HashSet<u32> = runs
            .chain(self.zeroes.iter().map(|(file, _)| *file))
            .chain(self.later.iter().map(|later| later.map.file))
            .filter(|file| self.is_held(*file))
            .collect();
        written.into_iter().filter_map(|file| self.place(file).ok())
    }

    /// Names at the top of a tablespace that this restore writes.
    pub(crate) fn tops_of(&self, tablespace: u32) -> impl Iterator<Item = &OsStr> {
        let directories = self.directories.iter().map(|(place, _)| place);
        let of = directories.filter(move |place| place.tablespace == Some(tablespace));
        of.filter_map(|place| Some(&**place.names.first()?))
    }

    /// Names at the top of the data directory that this restore writes.
    pub(crate) fn top_names(&self) -> Vec<String> {
        let places = self
            .directories
            .iter()
            .map(|(place, _)| place)
            .chain(self.files.iter().map(|(place, _, _)| place));
        let tops = places
            .filter(|place| place.tablespace.is_none())
            .filter_map(|place| place.names.first());
        let mut names: Vec<String> = tops.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// The runs of the next of these files, as many as fit; nothing when none is left. `extents` reads a page map.
pub(crate) async fn next_runs<'a>(
    later: &mut impl Iterator<Item = &'a Later>,
    mut extents: impl AsyncFnMut(ChunkReference) -> Result<Extents>,
) -> Result<Runs> {
    let (mut runs, mut count) = (Runs::new(), 0);
    while count < RUNS_MAX
        && let Some(Later { map, held }) = later.next()
    {
        for_each_missing(&extents(map.extents).await?, held.as_ref(), |part| {
            if let Some((pack, run)) = run_of(map.file, part) {
                runs.entry(pack).or_default().push(run);
                count += 1;
            }
        });
    }
    Ok(runs)
}

/// The parts of a file that are not right on disk.
fn for_each_missing(extents: &Extents, held: Option<&Held>, mut visit: impl FnMut(Extent)) {
    let same = held.map(|held| held.same.as_slice()).unwrap_or_default();
    for extent in &extents.runs {
        let missing = without(extent.first, extent.end(), same).into_iter();
        let parts = missing.filter_map(|missing| extent.clip(missing.start, missing.end));
        parts.for_each(&mut visit);
    }
}

/// What is to be taken from which pack for a part of a file; nothing for zeros.
fn run_of(file: u32, part: Extent) -> Option<(PackId, Run)> {
    let Source::Pack { pack, chunk, page } = part.source else {
        return None;
    };
    let run = Run::Pages {
        file,
        first: part.first,
        count: part.count,
        chunk,
        page,
    };
    Some((pack, run))
}

/// Files that a restore writes itself, or that belong to the life of another server.
pub(crate) fn is_written_anew(path: &[u8]) -> bool {
    matches!(
        path,
        b"backup_label"
            | b"backup_label.old"
            | b"tablespace_map"
            | b"tablespace_map.old"
            | b"backup_manifest"
            | b"recovery.signal"
            | b"standby.signal"
            | b"postmaster.pid"
            | b"postmaster.opts"
    )
}

fn no_such_file() -> RestoreError {
    RestoreError::Failed("no such file".into())
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
                chunks.entry(chunk).or_default().push(Destination {
                    file,
                    at,
                    from: 0,
                    bytes: bytes as usize,
                });
            }
            Run::Pages {
                file,
                mut first,
                mut count,
                mut chunk,
                page,
            } => {
                let mut page = usize::from(page);
                while count > 0 {
                    let here = (count as usize).min(RELATION_CHUNK_PAGES_MAX.saturating_sub(page).max(1));
                    let at = u64::from(first) * PAGE_BYTES as u64;
                    chunks.entry(chunk).or_default().push(Destination {
                        file,
                        at,
                        from: page * PAGE_BYTES,
                        bytes: here * PAGE_BYTES,
                    });
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

#[cfg(test)]
mod tests;
