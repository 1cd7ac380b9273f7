//! The chunk index: content-defined chunks that a backup added (FORMAT 8.5). Rebuildable from pack footers.

use std::collections::HashMap;

use crate::chunk::{ChunkReference, ContentReference};
use crate::envelope::Fields;
use crate::error::StoreError;
use crate::id::{Digest, PackId};

/// Content chunks by id.
#[derive(Debug, Default, Clone)]
pub struct ChunkIndex {
    chunks: HashMap<Digest, ContentReference>,
}

impl ChunkIndex {
    /// Where a chunk is.
    #[must_use]
    pub fn get(&self, id: &Digest) -> Option<ContentReference> {
        self.chunks.get(id).copied()
    }

    /// Adds a chunk; a first place is kept.
    pub fn insert(&mut self, id: Digest, at: ContentReference) {
        self.chunks.entry(id).or_insert(at);
    }

    /// All chunks, in no order.
    pub fn chunks(&self) -> impl Iterator<Item = (&Digest, &ContentReference)> {
        self.chunks.iter()
    }

    /// The packs that it names, some several times.
    pub fn packs(&self) -> impl Iterator<Item = PackId> {
        self.chunks.values().map(|at| at.pack)
    }

    /// Number of chunks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Adds all of another index.
    pub fn extend(&mut self, other: ChunkIndex) {
        for (id, at) in other.chunks {
            self.insert(id, at);
        }
    }

    /// Bytes of the format, sorted by id.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut sorted: Vec<_> = self.chunks.iter().collect();
        sorted.sort_unstable_by_key(|(id, _)| **id);
        let mut out = Vec::with_capacity(8 + sorted.len() * 56);
        out.extend_from_slice(&u32::try_from(sorted.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for (id, at) in sorted {
            out.extend_from_slice(&id.0);
            out.extend_from_slice(&at.pack.0);
            out.extend_from_slice(&at.number.to_le_bytes());
            out.extend_from_slice(&at.plain_bytes.to_le_bytes());
        }
        out
    }

    /// From bytes of the format.
    ///
    /// # Errors
    /// They make no sense.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::damaged(name, "the index makes no sense");
        let mut fields = Fields { bytes, at: 0 };
        let count = fields.u32().ok_or_else(damaged)? as usize;
        let _ = fields.u32().ok_or_else(damaged)?;
        if bytes.len() != 8 + count * 56 {
            return Err(damaged());
        }
        let mut index = ChunkIndex::default();
        for _ in 0..count {
            let id = Digest(fields.array().ok_or_else(damaged)?);
            let at = ChunkReference {
                pack: PackId(fields.array().ok_or_else(damaged)?),
                number: fields.u32().ok_or_else(damaged)?,
            };
            let plain_bytes = fields.u32().ok_or_else(damaged)?;
            index.insert(
                id,
                ContentReference {
                    pack: at.pack,
                    number: at.number,
                    plain_bytes,
                },
            );
        }
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_survives_the_round_trip() {
        let mut index = ChunkIndex::default();
        index.insert(
            Digest([9; 32]),
            ContentReference {
                pack: PackId([1; 16]),
                number: 4,
                plain_bytes: 77,
            },
        );
        index.insert(
            Digest([1; 32]),
            ContentReference {
                pack: PackId([2; 16]),
                number: 0,
                plain_bytes: 1,
            },
        );
        let bytes = index.encode();
        let read = ChunkIndex::decode("x", &bytes).unwrap();
        assert_eq!(read.encode(), bytes);
        assert_eq!(read.get(&Digest([9; 32])).unwrap().number, 4);
        assert!(ChunkIndex::decode("x", &bytes[..bytes.len() - 1]).is_err());
    }
}
