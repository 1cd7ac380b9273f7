//! Units of one file that share their chunks: a chunk of two pages compresses badly, so what changed in a unit waits for what changed in
//! the next ones, until a chunk is full.

use super::worker::{UnitDone, Worker, encode};
use crate::buffer::PageBuffer;
use crate::chunk::{ChunkKind, EncodedChunk};
use crate::error::StoreError;
use crate::id::PageDigest;
use crate::limits::{PAGE_BYTES, RELATION_CHUNK_PAGES_MAX};

/// Chunks that a batch may have before it goes on although pages wait: no more than a unit of changed pages has.
const BATCH_CHUNKS: usize = 8;

/// Units that were read, and the chunks that their new pages are in: the pages of all units, one after the other, each chunk full but the
/// last.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) units: Vec<UnitDone>,
    pub(super) chunks: Vec<EncodedChunk>,
}

/// Pages that wait until there are enough for a chunk.
#[derive(Debug)]
pub(super) struct Gathered {
    pages: PageBuffer,
    digests: Vec<PageDigest>,
}

impl Default for Gathered {
    fn default() -> Self {
        Gathered {
            pages: PageBuffer::new(RELATION_CHUNK_PAGES_MAX * PAGE_BYTES),
            digests: Vec::with_capacity(RELATION_CHUNK_PAGES_MAX),
        }
    }
}

impl Gathered {
    fn push(&mut self, page: &[u8], digest: PageDigest) {
        let at = self.digests.len() * PAGE_BYTES;
        if let Some(place) = self.pages.get_mut(at..at + page.len()) {
            place.copy_from_slice(page);
        }
        self.digests.push(digest);
    }
}

impl Worker {
    /// The number of the next new page, counted through the chunks of the batch.
    pub(super) fn next_page(&self) -> u32 {
        let pages = self.batch.chunks.len() * RELATION_CHUNK_PAGES_MAX + self.gathered.digests.len();
        u32::try_from(pages).unwrap_or(u32::MAX)
    }

    /// Takes these pages of the unit into the batch; `digests` are those of all its pages.
    pub(super) fn add_pages(&mut self, mut listed: &[u32], digests: &[PageDigest]) -> Result<(), StoreError> {
        while let Some((first, later)) = listed.split_first() {
            if self.gathered.digests.is_empty()
                && let Some((group, later)) = listed.split_at_checked(RELATION_CHUNK_PAGES_MAX)
                && group.is_sorted_by(|one, next| one + 1 == *next)
            {
                self.encode_run(*first as usize, digests)?;
                listed = later;
                continue;
            }
            let at = *first as usize * PAGE_BYTES;
            let page = self.unit.get(at..at + PAGE_BYTES);
            if let (Some(page), Some(digest)) = (page, digests.get(*first as usize)) {
                self.gathered.push(page, *digest);
            }
            if self.gathered.digests.len() == RELATION_CHUNK_PAGES_MAX {
                self.encode_gathered()?;
            }
            listed = later;
        }
        Ok(())
    }

    /// The batch, when it is due: no page waits, it is large, or nothing follows that it could wait for.
    pub(super) fn take_batch(&mut self, is_last: bool) -> Result<Option<Batch>, StoreError> {
        let pages_wait = !self.gathered.digests.is_empty();
        if pages_wait && !is_last && self.batch.chunks.len() < BATCH_CHUNKS {
            return Ok(None);
        }
        if pages_wait {
            self.encode_gathered()?;
        }
        Ok(Some(std::mem::take(&mut self.batch)))
    }

    /// A chunk of pages that lie one behind the other in the unit.
    fn encode_run(&mut self, first: usize, digests: &[PageDigest]) -> Result<(), StoreError> {
        let pages = first..first + RELATION_CHUNK_PAGES_MAX;
        let id = self
            .common
            .keys
            .relation_chunk_id(digests.get(pages.clone()).unwrap_or_default());
        let plain = self.unit.get(pages.start * PAGE_BYTES..pages.end * PAGE_BYTES);
        let chunk = encode(
            &mut self.compressor,
            &mut self.encoded,
            ChunkKind::Relation,
            id,
            plain.unwrap_or_default(),
        )?;
        self.batch.chunks.push(chunk);
        Ok(())
    }

    fn encode_gathered(&mut self) -> Result<(), StoreError> {
        let id = self.common.keys.relation_chunk_id(&self.gathered.digests);
        let bytes = self.gathered.digests.len() * PAGE_BYTES;
        let plain = self.gathered.pages.get(..bytes).unwrap_or_default();
        let chunk = encode(&mut self.compressor, &mut self.encoded, ChunkKind::Relation, id, plain)?;
        self.batch.chunks.push(chunk);
        self.gathered.digests.clear();
        Ok(())
    }
}
