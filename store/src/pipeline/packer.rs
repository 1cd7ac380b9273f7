//! The one thread that fills packs and knows what every file has become.
//!
//! Order rule: a file's extents are complete when all its units are packed; only then is its page map written, as a delta upon the
//! parent's where that is shorter, or not at all where nothing changed.

use std::collections::HashMap;
use std::sync::Arc;

use minicbor::bytes::ByteVec;

use super::Clock;
use super::account::Accounts;
use super::assemble::RelationState;
use super::batch::Batch;
use super::content::Piece;
use super::job::{FileJob, Measured};
use super::milestone::Milestones;
use super::parent::ChainedMap;
use super::progress::Progress;
use super::table::TableWriter;
use super::upload::Uploads;
use super::worker::encode;
use crate::chunk::{ChunkKind, ChunkReference, ContentReference, EncodedChunk};
use crate::codec::{Codec, Compressor};
use crate::envelope::Kind;
use crate::error::StoreError;
use crate::file_table::FileEntry;
use crate::id::{Digest, LineageId};
use crate::index::ChunkIndex;
use crate::keys::ClusterKeys;
use crate::limits::{METADATA_CHUNK_BYTES_MAX, METADATA_PACK_BYTES, PACK_BYTES, WAL_ZSTD_LEVEL};
use crate::manifest::{CorruptPage, Totals};
use crate::pack::PackWriter;
use crate::seal::TAG_BYTES;

/// What the other stages tell the packer.
#[derive(Debug)]
pub(super) enum Message {
    /// Units of a relation file.
    Units(Batch),
    /// A directory or link.
    Entry(u64, FileEntry),
    /// A relation file without pages.
    Empty(u64, FileJob, ChainedMap),
    /// Some pieces of a content file, in order.
    Pieces(u64, Vec<Piece>),
    /// The file changed while it was read.
    Changed(Vec<u8>),
    /// The content file is complete.
    ContentDone(u64, FileJob, Measured),
    /// The file went away before it was opened.
    Vanished(u64, FileJob, ChainedMap),
    /// A file of the parent that is not in this backup.
    Gone(ChainedMap),
    /// The parent has a map for some file that cannot be read.
    Unreadable,
}

/// State of a backup that is being packed.
pub(super) struct Packer {
    pub(super) uploads: Uploads,
    pub(super) accounts: Accounts,
    pub(super) table: TableWriter,
    pub(super) totals: Totals,
    pub(super) corrupt: Vec<CorruptPage>,
    pub(super) vanished: Vec<ByteVec>,
    pub(super) changed: Vec<ByteVec>,
    pub(super) index: ChunkIndex,
    pub(super) known_metadata: HashMap<Digest, ChunkReference>,
    pub(super) keys: ClusterKeys,
    pub(super) progress: Arc<Progress>,
    pub(super) milestones: Milestones,
    lineage: LineageId,
    now_us: Clock,
    data: Option<PackWriter>,
    metadata: Option<PackWriter>,
    compressor: Compressor,
    scratch: Vec<u8>,
    relations: HashMap<u64, RelationState>,
    contents: HashMap<u64, Vec<ContentReference>>,
}

impl Packer {
    pub(super) fn new(
        uploads: Uploads,
        lineage: LineageId,
        now_us: Clock,
        milestones: Milestones,
        progress: Arc<Progress>,
    ) -> Result<Self, StoreError> {
        Ok(Packer {
            keys: uploads.writer().repository().keys().clone(),
            uploads,
            accounts: Accounts::default(),
            table: TableWriter::default(),
            totals: Totals::default(),
            corrupt: Vec::new(),
            vanished: Vec::new(),
            changed: Vec::new(),
            index: ChunkIndex::default(),
            known_metadata: HashMap::new(),
            progress,
            milestones,
            lineage,
            now_us,
            data: None,
            metadata: None,
            compressor: Compressor::new(WAL_ZSTD_LEVEL)?,
            scratch: Vec::new(),
            relations: HashMap::new(),
            contents: HashMap::new(),
        })
    }

    /// Takes one message. Blocks while too many packs are in flight.
    ///
    /// # Errors
    /// A limit, the encoding check, or an upload that failed.
    pub(super) fn take(&mut self, message: Message) -> Result<(), StoreError> {
        match message {
            Message::Units(batch) => self.take_units(batch),
            Message::Entry(number, entry) => self.enter(number, Some(entry)),
            Message::Empty(number, job, parent) => {
                self.accounts_of_parent(&parent);
                let nothing = Measured { size: 0, crc32c: 0 };
                self.add_file(number, job.entry(nothing))
            }
            Message::Pieces(number, pieces) => self.take_pieces(number, pieces),
            Message::Changed(path) => {
                self.changed.push(path.into());
                Ok(())
            }
            Message::ContentDone(number, job, measured) => {
                let content = self.take_content(number);
                let entry = job.entry(measured);
                self.add_file(number, FileEntry { content, ..entry })
            }
            Message::Vanished(number, job, parent) => {
                self.accounts_of_parent(&parent);
                self.vanished.push(job.path.into());
                self.progress.file_done();
                self.enter(number, None)
            }
            Message::Gone(parent) => {
                self.accounts_of_parent(&parent);
                Ok(())
            }
            Message::Unreadable => {
                self.accounts.distrust_parent();
                Ok(())
            }
        }
    }

    fn take_units(&mut self, batch: Batch) -> Result<(), StoreError> {
        let mut places = Vec::with_capacity(batch.chunks.len());
        for chunk in batch.chunks {
            places.push(self.place(chunk)?);
        }
        let Some(file) = batch.units.first().map(|unit| Arc::clone(&unit.file)) else {
            return Ok(());
        };
        let of_file = || RelationState::new(Arc::clone(&file));
        let state = self.relations.entry(file.number).or_insert_with(of_file);
        if state.add(batch.units, places)
            && let Some(state) = self.relations.remove(&file.number)
        {
            self.finish_relation(state)?;
        }
        Ok(())
    }

    pub(super) fn take_pieces(&mut self, number: u64, pieces: Vec<Piece>) -> Result<(), StoreError> {
        for piece in pieces {
            let at = match piece {
                Piece::Known(at) => {
                    self.accounts.needs(ChunkReference {
                        pack: at.pack,
                        number: at.number,
                    });
                    at
                }
                Piece::New(chunk) => match self.index.get(&chunk.id) {
                    Some(at) => at,
                    None => {
                        let (id, plain_bytes) = (chunk.id, chunk.plain_bytes);
                        let (place, _) = self.place(chunk)?;
                        let at = ContentReference {
                            pack: place.pack,
                            number: place.number,
                            plain_bytes,
                        };
                        self.index.insert(id, at);
                        at
                    }
                },
            };
            self.contents.entry(number).or_default().push(at);
        }
        Ok(())
    }

    pub(super) fn take_content(&mut self, number: u64) -> Vec<ContentReference> {
        self.contents.remove(&number).unwrap_or_default()
    }

    /// A file of the source is complete.
    pub(super) fn add_file(&mut self, number: u64, entry: FileEntry) -> Result<(), StoreError> {
        self.count(&entry);
        self.enter(number, Some(entry))
    }

    /// A file that stands behind all of the source is complete.
    pub(super) fn add_late(&mut self, entry: FileEntry) {
        self.count(&entry);
        self.enter_late(entry);
    }

    fn count(&mut self, entry: &FileEntry) {
        self.totals.files += 1;
        self.totals.logical_bytes += entry.size;
        self.progress.file_done();
    }

    pub(super) fn accounts_of_parent(&mut self, parent: &ChainedMap) {
        self.accounts.parent_needs_pages(&parent.map.extents);
        for at in parent.extents_chain.iter().chain(&parent.digests_chain) {
            self.accounts.parent_needs(*at);
        }
    }

    /// Puts a chunk into the pack for its kind; returns its place and its stored bytes.
    pub(super) fn place(&mut self, chunk: EncodedChunk) -> Result<(ChunkReference, u64), StoreError> {
        let is_metadata = chunk.kind.is_metadata();
        self.make_room(is_metadata, chunk.payload.len())?;
        let slot = if is_metadata {
            &mut self.metadata
        } else {
            &mut self.data
        };
        let pack = match slot {
            Some(pack) => pack,
            None if is_metadata => slot.insert(PackWriter::metadata(&self.keys, self.lineage, METADATA_PACK_BYTES)?),
            None => {
                let (key, room) = (self.uploads.session().key(), self.uploads.room());
                slot.insert(PackWriter::data(key, self.lineage, room)?)
            }
        };
        let stored_bytes = (chunk.payload.len() + TAG_BYTES) as u64;
        let at = ChunkReference {
            pack: pack.id(),
            number: pack.append(chunk)?,
        };
        self.accounts.placed(at.pack, stored_bytes);
        self.totals.new_chunks += u64::from(!is_metadata);
        Ok((at, stored_bytes))
    }

    /// Closes the open pack when the next chunk would make it longer than packs are: nearly all full ones have one length.
    fn make_room(&mut self, is_metadata: bool, payload_bytes: usize) -> Result<(), StoreError> {
        let (open, most) = match is_metadata {
            true => (&self.metadata, METADATA_PACK_BYTES),
            false => (&self.data, PACK_BYTES),
        };
        let is_full = |pack: &PackWriter| !pack.is_empty() && pack.object_bytes_with(payload_bytes) > most;
        if !open.as_ref().is_some_and(is_full) {
            return Ok(());
        }
        match is_metadata {
            true => self.close(Kind::MetadataPack),
            false => {
                self.close(Kind::DataPack)?;
                self.note_progress()
            }
        }
    }

    /// Writes a metadata chunk; one that the parent has already is referenced.
    pub(super) fn place_metadata(&mut self, kind: ChunkKind, plain: Vec<u8>) -> Result<ChunkReference, StoreError> {
        if plain.len() > METADATA_CHUNK_BYTES_MAX {
            return Err(StoreError::Limit {
                what: "a metadata chunk",
                detail: format!("{} bytes", plain.len()),
            });
        }
        let id = self.keys.metadata_chunk_id(kind as u8, &plain);
        if let Some(at) = self.known_metadata.get(&id) {
            self.accounts.needs(*at);
            return Ok(*at);
        }
        let chunk = if kind == ChunkKind::Digests {
            // Digests look random: no attempt to compress them.
            let plain_bytes = u32::try_from(plain.len()).unwrap_or(u32::MAX);
            EncodedChunk {
                kind,
                id,
                plain_bytes,
                codec: Codec::Stored,
                payload: plain,
            }
        } else {
            encode(&mut self.compressor, &mut self.scratch, kind, id, &plain)?
        };
        Ok(self.place(chunk)?.0)
    }

    pub(super) fn now_us(&self) -> i64 {
        (self.now_us)()
    }

    pub(super) fn close(&mut self, kind: Kind) -> Result<(), StoreError> {
        let slot = if kind == Kind::DataPack {
            &mut self.data
        } else {
            &mut self.metadata
        };
        let Some(pack) = slot.take().filter(|pack| !pack.is_empty()) else {
            return Ok(());
        };
        let body = pack.finish(&self.keys)?;
        self.accounts.closed(body.id, kind, body.body().len() as u64);
        self.totals.new_stored_bytes += self.uploads.start(body, (self.now_us)())?;
        Ok(())
    }

    /// Closes what is open. No file may be unfinished.
    ///
    /// # Errors
    /// As [`Packer::take`].
    pub(super) fn close_all(&mut self) -> Result<(), StoreError> {
        if !self.relations.is_empty() || !self.contents.is_empty() {
            return Err(StoreError::Stage("pack"));
        }
        self.close(Kind::DataPack)?;
        self.close(Kind::MetadataPack)
    }
}
