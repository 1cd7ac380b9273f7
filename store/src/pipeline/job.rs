//! What the pipeline is asked to copy, and how it asks back about a page.

use std::collections::HashSet;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::LazyLock;

use super::worker::UNIT_BYTES;
use crate::chunk::ContentReference;
use crate::error::StoreError;
use crate::file_table::{Attributes, EntryClass, EntryType, FileEntry};
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
    /// Bytes when it was listed; only for progress, the size when it is opened counts. Of a file that is handed over, what will come, or
    /// [`UNKNOWN_SIZE`].
    pub size: u64,
    /// Pages or not.
    pub class: EntryClass,
    /// Block number of its first page within the relation's fork.
    pub first_block: u32,
    /// False for pages that are not covered by full-page images (free space and visibility maps): a bad one is no finding.
    pub is_judged: bool,
    /// True when the server may remove it while we copy. Then its absence is recorded; otherwise it fails the backup.
    pub may_vanish: bool,
    /// Of a component's file: it is opened with care, looked at again when it was read, and keeps what its file system knows of it.
    pub attributes: Option<Box<Attributes>>,
}

/// Size of a file that is handed over up to its end.
pub const UNKNOWN_SIZE: u64 = u64::MAX;

/// What was read of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Measured {
    /// Bytes.
    pub(super) size: u64,
    /// CRC-32C of them.
    pub(super) crc32c: u32,
}

impl Measured {
    /// With more bytes behind.
    pub(super) fn and(self, bytes: &[u8]) -> Self {
        Measured {
            size: self.size + bytes.len() as u64,
            crc32c: crc32c::crc32c_append(self.crc32c, bytes),
        }
    }

    /// With more bytes behind that were measured already.
    pub(super) fn then(self, next: Measured) -> Self {
        Measured {
            size: self.size + next.size,
            crc32c: if next.size == UNIT_BYTES as u64 {
                UNIT_BEHIND.of(self.crc32c) ^ next.crc32c
            } else {
                crc32c::crc32c_combine(self.crc32c, next.crc32c, next.size as usize)
            },
        }
    }
}

/// What becomes of a checksum when zeros come behind. To combine two is to do that to the first, and to add the second; the general way
/// is slow, and nearly all parts of a file are as long as a unit.
struct ZerosBehind([u32; 32]);

static UNIT_BEHIND: LazyLock<ZerosBehind> = LazyLock::new(|| {
    let of_bit = |bit| crc32c::crc32c_combine(1u32 << bit, 0, UNIT_BYTES);
    ZerosBehind(std::array::from_fn(of_bit))
});

impl ZerosBehind {
    /// It is linear: the sum of what becomes of each bit.
    fn of(&self, checksum: u32) -> u32 {
        let bits = (0..32).zip(&self.0).filter(|(bit, _)| checksum >> bit & 1 == 1);
        bits.fold(0, |sum, (_, shifted)| sum ^ shifted)
    }
}

/// What a source of files lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// A file to copy.
    File(FileJob),
    /// A directory or link.
    Entry(FileEntry),
    /// A file whose content is known to be what an earlier backup has stored. It is copied all the same when that must not be referred to.
    Same(FileJob, Stored),
    /// As that, of content that cannot be read here another time: it is referred to wherever it exists, though its pack were better not used.
    /// [`Pipeline::may_refer_to`](super::Pipeline::may_refer_to) was asked.
    Kept(FileJob, Stored),
}

/// Content of a file of an earlier backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Where it lies, in order.
    pub content: Vec<ContentReference>,
    /// CRC-32C of it.
    pub crc32c: u32,
}

impl Stored {
    pub(super) fn measured(&self) -> Measured {
        Measured {
            size: self.content.iter().map(|at| u64::from(at.plain_bytes)).sum(),
            crc32c: self.crc32c,
        }
    }
}

impl FileJob {
    pub(super) fn entry(&self, measured: Measured) -> FileEntry {
        let bare = FileEntry::bare(self.path.clone(), EntryType::File, self.mode);
        FileEntry {
            size: measured.size,
            crc32c: Some(measured.crc32c),
            class: self.class,
            attributes: self.attributes.clone(),
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
    /// Bytes of pages that may be stored anew because little else is needed of their chunks.
    pub rewrite_bytes: u64,
}

impl PackFilter {
    /// True when the pack may be referenced.
    #[must_use]
    pub fn is_usable(&self, pack: PackId) -> bool {
        !self.avoid.contains(&pack) && self.exists(pack)
    }

    /// True when the pack is there, and will stay.
    pub(super) fn exists(&self, pack: PackId) -> bool {
        self.existing.as_ref().is_none_or(|existing| existing.contains(&pack))
    }

    /// True when no pack is refused, so that nobody need ask.
    pub(super) fn accepts_all(&self, needed: impl IntoIterator<Item = PackId>) -> bool {
        needed.into_iter().all(|pack| self.is_usable(pack))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_are_measured_apart_make_the_whole() {
        let bytes: Vec<u8> = (0..3 * UNIT_BYTES as u64).map(|at| (at * 7 % 251) as u8).collect();
        let whole = Measured::default().and(&bytes);
        for cut in [0, 1, 8192, UNIT_BYTES, 2 * UNIT_BYTES, bytes.len() - 1, bytes.len()] {
            let (head, tail) = bytes.split_at(cut);
            let parts = Measured::default().and(head).then(Measured::default().and(tail));
            assert_eq!(parts, whole, "{cut}");
        }
        assert_eq!(whole.crc32c, crc32c::crc32c(&bytes));
    }
}
