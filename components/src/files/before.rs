//! What the backup of before has, file by file, in the order of paths; and the rule by which a file need not be read again.
//!
//! A file is taken to be the one that was read before when *all* of this is so:
//! - path, size, time of the last change of its content, device and inode are the same;
//! - the time of the last change of anything of it (`ctime`, which no program can set) is the same;
//! - that time lay [`QUIET_NS`] before the moment in which it was read. A file that is written to through a mapping gets a new time only when
//!   the page is written to for the first time since it was last written back, which takes half a minute by default: within that, a change
//!   leaves no trace;
//! - it is not its turn: each backup reads one of [`TURNS`] of the unchanged files again, other ones each time.
//!
//! Otherwise it is read, and found to be the same by its content, or not.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use store::StoreError;
use store::file_table::{Attributes, EntryType, FileEntry};
use store::pipeline::Stored as StoredContent;
use tokio::runtime::Handle;

use crate::{ComponentError, Stored};

/// From the last change of a file until it is read: less is not trusted.
const QUIET_NS: i64 = 120_000_000_000;
/// One of so many unchanged files is read all the same.
const TURNS: u64 = 32;

/// The table of the backup of before.
#[derive(Debug)]
pub struct Before {
    stored: Stored,
    runtime: Handle,
    /// Which files have their turn.
    turn: u64,
    piece: Vec<FileEntry>,
    at: usize,
    is_over: bool,
}

impl Before {
    /// Reads on this runtime, from a thread that may block. `turn` is another number for each backup.
    #[must_use]
    pub fn new(stored: Stored, runtime: Handle, turn: u64) -> Self {
        Before {
            stored,
            runtime,
            turn,
            piece: Vec::new(),
            at: 0,
            is_over: false,
        }
    }

    /// The content of a file that need not be read; its stamp then says when it was. Paths must come in order.
    ///
    /// # Errors
    /// The repository failed. What is damaged is read again instead.
    pub fn same(
        &mut self,
        path: &[u8],
        size: u64,
        attributes: &mut Attributes,
    ) -> Result<Option<StoredContent>, StoreError> {
        let is_due = turn_of(path) == self.turn % TURNS;
        let Some(entry) = self.find(path)? else { return Ok(None) };
        let Some((stored, read_ns)) = same_as(entry, size, attributes) else {
            return Ok(None);
        };
        if let Some(stamp) = &mut attributes.stamp {
            // Also of one that is read again: the entry stays what it was, and a table of unchanged files is not stored anew.
            stamp.read_ns = read_ns;
        }
        Ok((!is_due).then_some(stored))
    }

    /// The entry of that path.
    fn find(&mut self, path: &[u8]) -> Result<Option<&FileEntry>, StoreError> {
        loop {
            while self
                .piece
                .get(self.at)
                .is_some_and(|entry| entry.path.as_slice() < path)
            {
                self.at += 1;
            }
            if self.at < self.piece.len() || self.is_over {
                break;
            }
            self.at = 0;
            self.piece = match self.runtime.block_on(self.stored.next_piece()) {
                Ok(Some(piece)) => piece,
                Ok(None) => {
                    self.is_over = true;
                    Vec::new()
                }
                Err(ComponentError::Store(error)) if error.damaged_object().is_some() => {
                    tracing::error!(%error, "a part of the backup before cannot be read; the files in it are read again");
                    Vec::new()
                }
                Err(ComponentError::Store(error)) => return Err(error),
                Err(_) => return Err(StoreError::Stage("compare")),
            };
        }
        Ok(self.piece.get(self.at).filter(|entry| entry.path.as_slice() == path))
    }
}

/// The content of an entry, and when it was read, where a file of that size and with these attributes is still the one that was stored then.
pub(crate) fn same_as(was: &FileEntry, size: u64, attributes: &Attributes) -> Option<(StoredContent, i64)> {
    let (before, stamp) = (was.attributes.as_ref()?, attributes.stamp?);
    let then = before.stamp?;
    let is_same = was.entry_type == EntryType::File
        && was.size == size
        && before.modified_ns == attributes.modified_ns
        && (then.device, then.inode, then.changed_ns) == (stamp.device, stamp.inode, stamp.changed_ns)
        && then.changed_ns.saturating_add(QUIET_NS) < then.read_ns;
    let crc32c = was.crc32c.filter(|_| is_same)?;
    let content = was.content.clone();
    Some((StoredContent { content, crc32c }, then.read_ns))
}

fn turn_of(path: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish() % TURNS
}
