//! The relation files of a cluster, read beside the server: which pages have really changed, and a sample for the stages.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pg::page::PAGE_BYTES;
use pg::relation::{FileClass, excluded};
use rayon::prelude::*;

use crate::peers::files::Files;
use crate::stages::READ_BYTES;

/// Pages that are compressed together, as in a backup.
const GROUP_PAGES: usize = 16;
const ZSTD_LEVEL: i32 = 1;
/// Bytes that the stages work on: enough that they take seconds, and few enough to be held three times.
const SAMPLE_BYTES: usize = 512 << 20;
/// Blocks of a relation file: 1 GiB.
const FILE_BLOCKS: u32 = 131_072;

type PageId = [u8; 16];

/// What every page was.
#[derive(Debug, Default)]
pub struct Images(BTreeMap<PathBuf, Vec<PageId>>);

/// Pages that are not what they were.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changed {
    /// How many.
    pub pages: u64,
    /// Of how many.
    pub of_pages: u64,
    /// Bytes of the changed ones, compressed in groups and nothing else.
    pub compressed_bytes: u64,
}

impl Images {
    /// Reads every page; the server must be at rest and its changes on disk.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn take(data: &Path) -> io::Result<Self> {
        let mut images = Images::default();
        images.look_again(data)?;
        Ok(images)
    }

    /// Reads every page again, and says which are new or other than they were the last time.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn look_again(&mut self, data: &Path) -> io::Result<Changed> {
        let mut changed = Changed::default();
        for (path, _) in relation_files(data)? {
            let bytes = std::fs::read(&path)?;
            let ids: Vec<PageId> = bytes.par_chunks(PAGE_BYTES).with_min_len(128).map(page_id).collect();
            let before = self.0.insert(path, ids.clone()).unwrap_or_default();
            let mut new = Vec::new();
            for (at, (page, id)) in bytes.chunks(PAGE_BYTES).zip(&ids).enumerate() {
                if before.get(at) != Some(id) {
                    new.push(page);
                }
            }
            changed.of_pages += ids.len() as u64;
            changed.pages += new.len() as u64;
            for group in new.chunks(GROUP_PAGES) {
                changed.compressed_bytes += zstd::bulk::compress(&group.concat(), ZSTD_LEVEL)?.len() as u64;
            }
        }
        Ok(changed)
    }
}

fn page_id(page: &[u8]) -> PageId {
    let mut id = PageId::default();
    id.iter_mut()
        .zip(blake3::hash(page).as_bytes())
        .for_each(|(to, from)| *to = *from);
    id
}

/// Whole units of relation files, taken evenly from all of them.
#[derive(Debug)]
pub struct Sample {
    /// All of it in one file, to be read.
    pub file: File,
    /// The same in memory.
    pub bytes: Vec<u8>,
    /// Block number of the first page of each unit.
    pub first_blocks: Vec<u32>,
    /// Where each unit lies: files that a server has written page by page are read more slowly than one that was written at once.
    pub places: Vec<(Arc<File>, u64)>,
}

impl Sample {
    /// Takes a sample, or everything where there is less; `file` is made.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn take(data: &Path, file: &Path) -> io::Result<Self> {
        let mut units = Vec::new();
        for (path, first_block) in relation_files(data)? {
            let count = std::fs::metadata(&path)?.len() / READ_BYTES as u64;
            units.extend((0..count).map(|unit| (path.clone(), first_block, unit)));
        }
        let wanted = (SAMPLE_BYTES / READ_BYTES).min(units.len());
        let (mut bytes, mut first_blocks, mut places) = (Vec::new(), Vec::new(), Vec::new());
        let mut open: Option<(&PathBuf, Arc<File>)> = None;
        for at in 0..wanted {
            let Some((path, first_block, unit)) = units.get(at * units.len() / wanted) else {
                continue;
            };
            let mut buffer = vec![0; READ_BYTES];
            let offset = unit * READ_BYTES as u64;
            let source = match &open {
                Some((of, source)) if *of == path => Arc::clone(source),
                _ => Arc::new(File::open(path)?),
            };
            std::os::unix::fs::FileExt::read_exact_at(&*source, &mut buffer, offset)?;
            open = Some((path, Arc::clone(&source)));
            places.push((source, offset));
            bytes.extend_from_slice(&buffer);
            let block = u32::try_from(offset / PAGE_BYTES as u64).map_err(io::Error::other)?;
            first_blocks.push(first_block + block);
        }
        File::create(file)?.write_all(&bytes)?;
        Ok(Sample {
            file: File::open(file)?,
            bytes,
            first_blocks,
            places,
        })
    }
}

/// The files of pages that a backup has, each with the number of its first block.
pub(crate) fn relation_files(data: &Path) -> io::Result<Vec<(PathBuf, u32)>> {
    let mut found = Vec::new();
    for path in Files::below(data, |_| true)?.paths() {
        let Ok(name) = path.strip_prefix(data) else { continue };
        let name = name.as_os_str().as_bytes();
        if excluded(name).is_some() {
            continue;
        }
        if let FileClass::Relation(relation) = FileClass::of(name) {
            found.push((path.clone(), relation.first_block(FILE_BLOCKS).unwrap_or(0)));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changed_pages_count_and_only_in_relation_files() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("base/5");
        std::fs::create_dir_all(&base).unwrap();
        let mut pages = vec![7; 40 * PAGE_BYTES];
        std::fs::write(base.join("16384"), &pages).unwrap();
        std::fs::write(base.join("PG_VERSION"), b"15\n").unwrap();
        let mut images = Images::take(directory.path()).unwrap();
        let same = images.look_again(directory.path()).unwrap();
        assert_eq!((same.pages, same.of_pages, same.compressed_bytes), (0, 40, 0));

        pages[3 * PAGE_BYTES] = 8;
        pages[39 * PAGE_BYTES] = 8;
        pages.extend_from_slice(&[9; PAGE_BYTES]);
        std::fs::write(base.join("16384"), &pages).unwrap();
        std::fs::write(base.join("PG_VERSION"), b"16\n").unwrap();
        let changed = images.look_again(directory.path()).unwrap();
        assert_eq!((changed.pages, changed.of_pages), (3, 41));
        assert!(changed.compressed_bytes > 0);
    }

    #[test]
    fn a_sample_knows_where_its_units_were() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("base/5");
        std::fs::create_dir_all(&base).unwrap();
        std::fs::write(base.join("16384"), vec![1; 3 * READ_BYTES]).unwrap();
        std::fs::write(base.join("16384.1"), vec![2; READ_BYTES]).unwrap();
        let sample = Sample::take(directory.path(), &directory.path().join("sample")).unwrap();
        let unit = u32::try_from(READ_BYTES / PAGE_BYTES).unwrap();
        assert_eq!(sample.first_blocks, [0, unit, 2 * unit, FILE_BLOCKS]);
        assert_eq!(sample.bytes.len(), 4 * READ_BYTES);
    }
}
