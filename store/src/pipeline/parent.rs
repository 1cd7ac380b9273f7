//! The backup that a new one is compared with: the relation files of its table, and their page maps.
//!
//! The table is kept compressed, a piece at a time is looked into: a parent of any number of files takes a few dozen bytes a file.
//! A page map may be a delta upon deltas. Maps are loaded for many files at once, one level of all chains after the other, so that
//! a metadata pack is visited once a batch and not once a file.

mod chain;

use std::collections::HashMap;
use std::sync::Arc;

pub(super) use chain::{ChainedMap, load_maps};

use super::bits::{Bits, ChunkSet};
use super::fetch::metadata_chunks;
use crate::chunk::{ChunkKind, ChunkReference};
use crate::codec::{Codec, Compressor, decode};
use crate::error::StoreError;
use crate::file_table::{EntryClass, FileEntry, decode_chunk_list, decode_piece, encode_piece};
use crate::id::{BackupId, Digest};
use crate::limits::RELATION_ZSTD_LEVEL;
use crate::manifest::Manifest;
use crate::records::BackupProgress;
use crate::repository::Repository;

/// Pieces of a file table that are read at once.
const PIECES_AT_ONCE: usize = 256;
/// Pieces that a reader keeps decoded.
const DECODED_MAX: usize = 16;

/// An earlier backup, and perhaps a later one that never ended, ready to be compared with.
#[derive(Debug)]
pub struct Parent {
    pub(super) manifest: Option<Manifest>,
    /// The later one first; whoever has a file says what it was.
    tables: Vec<Table>,
    /// Pieces of its file table and its chunk lists: id and place.
    pub(super) known_metadata: HashMap<Digest, ChunkReference>,
    /// Chunks that it needs beside those of its page maps.
    pub(super) needs: ChunkSet,
}

/// Pieces sorted by path.
type Table = Vec<Piece>;

/// The relation files of a piece of the table.
#[derive(Debug)]
struct Piece {
    first: Vec<u8>,
    last: Vec<u8>,
    count: usize,
    codec: Codec,
    plain_bytes: usize,
    stored: Vec<u8>,
}

impl Piece {
    fn of(relations: &[FileEntry], compressor: &mut Compressor) -> Result<Option<Self>, StoreError> {
        let (Some(first), Some(last)) = (relations.first(), relations.last()) else {
            return Ok(None);
        };
        let plain = encode_piece(relations)?;
        let mut stored = Vec::new();
        let codec = compressor.encode(&plain, &mut stored)?;
        stored.shrink_to_fit();
        Ok(Some(Piece {
            first: first.path.to_vec(),
            last: last.path.to_vec(),
            count: relations.len(),
            codec,
            plain_bytes: plain.len(),
            stored,
        }))
    }

    fn decode(&self) -> Result<Vec<FileEntry>, StoreError> {
        let plain = decode(self.codec, &self.stored, self.plain_bytes).ok_or(StoreError::Stage("maps"))?;
        decode_piece("the parent's file table", &plain)
    }
}

impl Parent {
    /// Reads the file table of a backup, and what there is of that of a later one.
    ///
    /// # Errors
    /// The store failed; [`StoreError::Damaged`] when one of them cannot be used as a parent.
    pub async fn load(
        repository: &Repository,
        manifest: Option<Manifest>,
        unfinished: Option<&BackupProgress>,
    ) -> Result<Self, StoreError> {
        let mut parent = Parent {
            manifest: None,
            tables: Vec::new(),
            known_metadata: HashMap::new(),
            needs: ChunkSet::default(),
        };
        if let Some(progress) = unfinished {
            parent
                .add_table(repository, progress.backup, &progress.file_table, &progress.entries)
                .await?;
        }
        if let Some(manifest) = manifest {
            parent
                .add_table(repository, manifest.backup, &manifest.file_table, &[])
                .await?;
            parent.manifest = Some(manifest);
        }
        Ok(parent)
    }

    async fn add_table(
        &mut self,
        repository: &Repository,
        backup: BackupId,
        pieces: &[ChunkReference],
        behind: &[FileEntry],
    ) -> Result<(), StoreError> {
        let mut table = Table::new();
        let mut compressor = Compressor::new(RELATION_ZSTD_LEVEL)?;
        for some in pieces.chunks(PIECES_AT_ONCE) {
            self.add_pieces(repository, some, &mut table, &mut compressor).await?;
        }
        let behind: Vec<FileEntry> = behind.iter().filter(|entry| is_relation(entry)).cloned().collect();
        table.extend(Piece::of(&behind, &mut compressor)?);
        let is_sorted = |[a, b]: &[Piece; 2]| a.last < b.first;
        if table.iter().any(|piece| piece.first > piece.last) || !table.array_windows().all(is_sorted) {
            return Err(StoreError::damaged(backup, "the file table is not in order"));
        }
        self.tables.push(table);
        Ok(())
    }

    async fn add_pieces(
        &mut self,
        repository: &Repository,
        some: &[ChunkReference],
        table: &mut Table,
        compressor: &mut Compressor,
    ) -> Result<(), StoreError> {
        let missing =
            |at: ChunkReference| StoreError::damaged(at.pack, format!("metadata chunk {} cannot be read", at.number));
        let pieces = metadata_chunks(repository, some.iter().copied()).await?;
        let known = |kind: ChunkKind, bytes: &[u8]| repository.keys().metadata_chunk_id(kind as u8, bytes);
        let mut lists = Vec::new();
        for at in some {
            let bytes = pieces.get(at).ok_or_else(|| missing(*at))?;
            self.known_metadata.insert(known(ChunkKind::FileTable, bytes), *at);
            self.needs.add(*at);
            let mut entries = decode_piece(&format!("{}/{}", at.pack, at.number), bytes)?;
            for entry in &entries {
                lists.extend(entry.content_list);
                self.need_content(&entry.content);
            }
            entries.retain(is_relation);
            table.extend(Piece::of(&entries, compressor)?);
        }
        let contents = metadata_chunks(repository, lists.iter().copied()).await?;
        for at in lists {
            let bytes = contents.get(&at).ok_or_else(|| missing(at))?;
            self.known_metadata.insert(known(ChunkKind::ChunkList, bytes), at);
            self.needs.add(at);
            self.need_content(&decode_chunk_list(&format!("{}/{}", at.pack, at.number), bytes)?);
        }
        Ok(())
    }

    fn need_content(&mut self, content: &[crate::chunk::ContentReference]) {
        for at in content {
            self.needs.add(ChunkReference {
                pack: at.pack,
                number: at.number,
            });
        }
    }

    /// The earlier backup.
    #[must_use]
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// True when a backup that never ended is gone on from: then what the earlier backup needs is not known in full.
    pub(super) fn is_mixed(&self) -> bool {
        self.tables.len() > usize::from(self.manifest.is_some())
    }

    /// A reader that notes what was asked for.
    pub(super) fn reader(&self) -> ParentReader<'_> {
        ParentReader {
            parent: self,
            asked: HashMap::new(),
            decoded: Vec::new(),
        }
    }
}

fn is_relation(entry: &FileEntry) -> bool {
    entry.class == EntryClass::Relation
}

/// Finds files in the parent; quick when it is asked in the order of paths.
#[derive(Debug)]
pub(super) struct ParentReader<'a> {
    parent: &'a Parent,
    /// By piece: entries that were asked for.
    asked: HashMap<PieceAt, Bits>,
    /// The last pieces that were looked into, the newest at the end.
    decoded: Vec<(PieceAt, Arc<Vec<FileEntry>>)>,
}

/// Table, and piece in it.
type PieceAt = (usize, usize);

impl ParentReader<'_> {
    /// The relation file of that path.
    ///
    /// # Errors
    /// A piece cannot be decoded.
    pub(super) fn relation(&mut self, path: &[u8]) -> Result<Option<FileEntry>, StoreError> {
        for table in 0..self.parent.tables.len() {
            let found = self.relation_in(table, path)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn relation_in(&mut self, table: usize, path: &[u8]) -> Result<Option<FileEntry>, StoreError> {
        let pieces = self.parent.tables.get(table).map(Vec::as_slice).unwrap_or_default();
        let at = pieces.partition_point(|piece| *piece.last < *path);
        if pieces.get(at).is_none_or(|piece| *piece.first > *path) {
            return Ok(None);
        }
        let entries = self.decode((table, at))?;
        let Ok(number) = entries.binary_search_by(|entry| entry.path.as_slice().cmp(path)) else {
            return Ok(None);
        };
        let asked = self.asked.entry((table, at)).or_default();
        asked.set(u32::try_from(number).unwrap_or(u32::MAX));
        Ok(entries.get(number).cloned())
    }

    /// Relation files with pages that nobody asked for, of one piece after the other. Nothing when a backup is gone on from.
    ///
    /// # Errors
    /// A piece cannot be decoded.
    pub(super) fn not_asked_for(&mut self, piece: usize) -> Result<Option<Vec<FileEntry>>, StoreError> {
        let (false, Some(of)) = (
            self.parent.is_mixed(),
            self.parent.tables.first().and_then(|table| table.get(piece)),
        ) else {
            return Ok(None);
        };
        let asked = self.asked.get(&(0, piece)).cloned().unwrap_or_default();
        if asked.numbers().count() == of.count {
            return Ok(Some(Vec::new()));
        }
        let entries = self.decode((0, piece))?;
        let left = (0..).zip(entries.iter()).filter(|(at, _)| !asked.has(*at));
        let with_pages = left.map(|(_, entry)| entry).filter(|entry| entry.extents.is_some());
        Ok(Some(with_pages.cloned().collect()))
    }

    fn decode(&mut self, at: PieceAt) -> Result<Arc<Vec<FileEntry>>, StoreError> {
        if let Some(found) = self.decoded.iter().position(|(decoded, _)| *decoded == at) {
            let found = self.decoded.remove(found);
            let entries = Arc::clone(&found.1);
            self.decoded.push(found);
            return Ok(entries);
        }
        let piece = self.parent.tables.get(at.0).and_then(|table| table.get(at.1));
        let entries = Arc::new(piece.ok_or(StoreError::Stage("maps"))?.decode()?);
        if self.decoded.len() >= DECODED_MAX {
            self.decoded.remove(0);
        }
        self.decoded.push((at, Arc::clone(&entries)));
        Ok(entries)
    }
}
