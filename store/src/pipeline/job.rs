//! What the pipeline is asked to copy, and how it asks back about a page.

use std::collections::HashSet;
use std::fmt::Debug;
use std::path::PathBuf;

use crate::error::StoreError;
use crate::file_table::{EntryClass, EntryType, FileEntry};
use crate::id::PackId;
use crate::manifest::CorruptPage;

/// One file to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileJob {
    /// Path as the file table names it.
    pub path: Vec<u8>,
    /// Where it is now.
    pub on_disk: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Bytes when it was listed; only for progress, the size when it is opened counts.
    pub size: u64,
    /// Pages or not.
    pub class: EntryClass,
    /// Block number of its first page within the relation's fork.
    pub first_block: u32,
    /// False for pages that are not covered by full-page images (free space and visibility maps): a bad one is no finding.
    pub is_judged: bool,
    /// True when the server may remove it while we copy. Then its absence is recorded; otherwise it fails the backup.
    pub may_vanish: bool,
}

impl FileJob {
    pub(super) fn entry(&self, size: u64) -> FileEntry {
        let bare = FileEntry::bare(self.path.clone(), EntryType::File, self.mode);
        FileEntry {
            size,
            class: self.class,
            ..bare
        }
    }

    pub(super) fn io_error(&self, action: &'static str, source: std::io::Error) -> StoreError {
        StoreError::Io {
            action,
            path: self.on_disk.display().to_string(),
            source,
        }
    }
}

/// Reads one page of a file anew into the buffer; false when the file no longer has that page.
pub type Reread<'a> = dyn FnMut(&mut [u8]) -> Result<bool, StoreError> + 'a;

/// Decides whether a page can be believed. Called for every page that is not all zero, from many threads.
pub trait PageCheck: Debug + Send + Sync {
    /// Looks at page `page` of a file (counted from the file's start). May replace the bytes by what `reread` gives: what is in
    /// `bytes` afterwards is what is stored. A page that is reported as corrupt is stored as it is.
    ///
    /// # Errors
    /// Those of `reread`.
    fn examine(
        &self,
        file: &FileJob,
        page: u32,
        bytes: &mut [u8],
        reread: &mut Reread<'_>,
    ) -> Result<Option<CorruptPage>, StoreError>;
}

/// Believes every page.
#[derive(Debug, Clone, Copy)]
pub struct BelieveAll;

impl PageCheck for BelieveAll {
    fn examine(
        &self,
        _: &FileJob,
        _: u32,
        _: &mut [u8],
        _: &mut Reread<'_>,
    ) -> Result<Option<CorruptPage>, StoreError> {
        Ok(None)
    }
}

/// Which packs of earlier backups may be referenced again. What lies in others is stored anew.
#[derive(Clone, Debug, Default)]
pub struct PackFilter {
    /// Packs that exist; `None` when that was not looked up.
    pub existing: Option<HashSet<PackId>>,
    /// Packs that exist and are better not used: condemned, or mostly dead.
    pub avoid: HashSet<PackId>,
}

impl PackFilter {
    /// True when the pack may be referenced.
    #[must_use]
    pub fn is_usable(&self, pack: PackId) -> bool {
        !self.avoid.contains(&pack) && self.existing.as_ref().is_none_or(|existing| existing.contains(&pack))
    }

    /// True when no pack is refused, so that nobody need ask.
    pub(super) fn accepts_all(&self, needed: impl IntoIterator<Item = PackId>) -> bool {
        needed.into_iter().all(|pack| self.is_usable(pack))
    }
}
