//! The end of a backup's packs: long chunk lists and the file table.

use super::packer::Packer;
use crate::chunk::{ChunkKind, ChunkReference};
use crate::error::StoreError;
use crate::file_table::{encode_chunk_list, encode_piece, piece_ends};
use crate::limits::INLINE_CONTENT_REFERENCES_MAX;

impl Packer {
    /// Writes the file table; returns its pieces, in order. Pieces that the parent has too are referenced.
    ///
    /// # Errors
    /// Two entries of one path; a limit; an upload that failed.
    pub(super) fn write_table(&mut self) -> Result<Vec<ChunkReference>, StoreError> {
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        if let Some([twice, _]) = entries.array_windows().find(|[a, b]| a.path == b.path) {
            let detail = format!("\"{}\" twice", String::from_utf8_lossy(&twice.path));
            return Err(StoreError::Limit {
                what: "a file table",
                detail,
            });
        }
        for entry in &mut entries {
            if entry.content.len() > INLINE_CONTENT_REFERENCES_MAX {
                let list = encode_chunk_list(&std::mem::take(&mut entry.content))?;
                entry.content_list = Some(self.place_metadata(ChunkKind::ChunkList, list)?);
            }
        }
        let mut pieces = Vec::new();
        let mut begin = 0;
        for end in piece_ends(&entries) {
            let piece = encode_piece(entries.get(begin..end).unwrap_or_default())?;
            pieces.push(self.place_metadata(ChunkKind::FileTable, piece)?);
            begin = end;
        }
        self.entries = entries;
        Ok(pieces)
    }
}
