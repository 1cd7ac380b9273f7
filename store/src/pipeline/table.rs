//! The file table, written while the files are copied.
//!
//! Files are finished in another order than they were begun. An entry waits until all before it are there; then it goes into the
//! open piece, and a full piece becomes a chunk. So the table of any number of files takes no more memory than the files in flight.
//! A source that does not come in the order of paths keeps its entries until the end, encoded.

use std::collections::BTreeMap;

use super::packer::Packer;
use crate::chunk::{ChunkKind, ChunkReference};
use crate::error::StoreError;
use crate::file_table::{FileEntry, encode_chunk_list, encode_piece, ends_piece};
use crate::limits::INLINE_CONTENT_REFERENCES_MAX;

/// Entries on their way into pieces.
#[derive(Debug, Default)]
pub(super) struct TableWriter {
    /// Number of the entry that comes next.
    next: u64,
    /// Entries that are finished while earlier ones are not; `None` for files that went away.
    waiting: BTreeMap<u64, Option<FileEntry>>,
    /// Behind all others, in the order of paths: what is read last, and what comes in no order.
    late: Vec<FileEntry>,
    last_path: Vec<u8>,
    in_any_order: bool,
    piece: Vec<FileEntry>,
    pieces: Vec<ChunkReference>,
}

impl TableWriter {
    /// From now on entries come in no order: all of them are written at the end.
    pub(super) fn take_in_any_order(&mut self) {
        self.in_any_order = true;
    }

    /// Pieces that are written, in order, and the entries of the open one.
    pub(super) fn so_far(&self) -> (&[ChunkReference], &[FileEntry]) {
        (&self.pieces, &self.piece)
    }
}

fn twice(path: &[u8]) -> StoreError {
    StoreError::Limit {
        what: "a file table",
        detail: format!("\"{}\" twice, or out of order", String::from_utf8_lossy(path)),
    }
}

impl Packer {
    /// An entry of the source, which numbers its files in the order of their paths from 1 on; `None` for one that went away.
    ///
    /// # Errors
    /// Two entries of one path, or a path before an earlier one; a limit; an upload that failed.
    pub(super) fn enter(&mut self, number: u64, entry: Option<FileEntry>) -> Result<(), StoreError> {
        if self.table.in_any_order {
            self.table.late.extend(entry);
            return Ok(());
        }
        self.table.waiting.insert(number, entry);
        while let Some(entry) = self.table.waiting.remove(&(self.table.next + 1)) {
            self.table.next += 1;
            if let Some(entry) = entry {
                self.write_entry(entry)?;
            }
        }
        Ok(())
    }

    /// An entry that stands behind all of the source.
    pub(super) fn enter_late(&mut self, entry: FileEntry) {
        self.table.late.push(entry);
    }

    fn write_entry(&mut self, entry: FileEntry) -> Result<(), StoreError> {
        if !self.table.last_path.is_empty() && *self.table.last_path >= **entry.path {
            return Err(twice(&entry.path));
        }
        self.table.last_path.clone_from(&entry.path);
        self.append_entry(entry)
    }

    fn append_entry(&mut self, mut entry: FileEntry) -> Result<(), StoreError> {
        if entry.content.len() > INLINE_CONTENT_REFERENCES_MAX {
            let list = encode_chunk_list(&std::mem::take(&mut entry.content))?;
            entry.content_list = Some(self.place_metadata(ChunkKind::ChunkList, list)?);
        }
        let is_end = ends_piece(&entry.path, self.table.piece.len() + 1);
        self.table.piece.push(entry);
        if is_end { self.write_piece() } else { Ok(()) }
    }

    fn write_piece(&mut self) -> Result<(), StoreError> {
        let entries = std::mem::take(&mut self.table.piece);
        if !entries.is_empty() {
            let at = self.place_metadata(ChunkKind::FileTable, encode_piece(&entries)?)?;
            self.table.pieces.push(at);
        }
        Ok(())
    }

    /// Writes what is left of the table; returns its pieces, in order. A piece that the parent has too is referenced.
    ///
    /// # Errors
    /// As [`Packer::enter`]; a file that was begun and not finished.
    pub(super) fn write_table(&mut self) -> Result<Vec<ChunkReference>, StoreError> {
        if !self.table.waiting.is_empty() {
            return Err(StoreError::Stage("pack"));
        }
        let mut late = std::mem::take(&mut self.table.late);
        late.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        if let Some([again, _]) = late.array_windows().find(|[a, b]| a.path == b.path) {
            return Err(twice(&again.path));
        }
        for entry in late {
            self.append_entry(entry)?;
        }
        self.write_piece()?;
        Ok(std::mem::take(&mut self.table.pieces))
    }
}
