//! Splitting and naming: relation pages in place, everything else content-defined (FORMAT 5.2, 7).

use crate::id::{Digest, PackId};
use crate::limits::{CONTENT_CHUNK_BYTES, FINE_CHUNK_BYTES};
use minicbor::{Decode, Encode};

/// What a chunk holds (FORMAT 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ChunkKind {
    /// 1 to 16 pages of a relation file.
    Relation = 1,
    /// A content-defined piece of a file.
    Content = 2,
    /// Extents of a relation file.
    Extents = 3,
    /// Page digests of a relation file.
    Digests = 4,
    /// A piece of a file table.
    FileTable = 5,
    /// A long list of content references.
    ChunkList = 6,
}

impl ChunkKind {
    /// From the byte in the format.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        [
            ChunkKind::Relation,
            ChunkKind::Content,
            ChunkKind::Extents,
            ChunkKind::Digests,
            ChunkKind::FileTable,
            ChunkKind::ChunkList,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }

    /// True for the kinds that live in metadata packs.
    #[must_use]
    pub fn is_metadata(self) -> bool {
        !matches!(self, ChunkKind::Relation | ChunkKind::Content)
    }

    /// Longest plaintext.
    #[must_use]
    pub fn plain_bytes_max(self) -> usize {
        match self {
            ChunkKind::Relation => crate::limits::RELATION_CHUNK_BYTES_MAX,
            ChunkKind::Content => CONTENT_CHUNK_BYTES.2,
            _ => crate::limits::METADATA_CHUNK_BYTES_MAX,
        }
    }
}

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct ChunkReference {
    /// The pack.
    #[n(0)]
    pub pack: PackId,
    /// Its number in the pack.
    #[n(1)]
    pub number: u32,
}

/// A content chunk with its length: what a file entry lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ContentReference {
    /// The pack.
    #[n(0)]
    pub pack: PackId,
    /// Its number in the pack.
    #[n(1)]
    pub number: u32,
    /// Plaintext bytes.
    #[n(2)]
    pub plain_bytes: u32,
}

/// A chunk on its way into a pack: compressed, not yet sealed.
#[derive(Debug)]
pub struct EncodedChunk {
    /// What it holds.
    pub kind: ChunkKind,
    /// Its id.
    pub id: Digest,
    /// Plaintext bytes.
    pub plain_bytes: u32,
    /// How `payload` is encoded.
    pub codec: crate::codec::Codec,
    /// Encoded bytes.
    pub payload: Vec<u8>,
}

/// How large the pieces of content are. A reader need not know: pieces have their lengths with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grain {
    /// [`CONTENT_CHUNK_BYTES`].
    #[default]
    Usual,
    /// [`FINE_CHUNK_BYTES`].
    Fine,
}

/// Lengths of the content-defined pieces of `content`, in order (FastCDC, the 2020 algorithm).
#[must_use]
pub fn content_lengths(content: &[u8], grain: Grain) -> Vec<usize> {
    let (least, nominal, most) = match grain {
        Grain::Usual => CONTENT_CHUNK_BYTES,
        Grain::Fine => FINE_CHUNK_BYTES,
    };
    if content.len() <= least {
        return if content.is_empty() {
            Vec::new()
        } else {
            vec![content.len()]
        };
    }
    fastcdc::v2020::FastCDC::new(content, least, nominal, most)
        .map(|chunk| chunk.length)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_content_and_an_insertion_moves_few_of_them() {
        let mut content = vec![0; 5 << 20];
        blake3::Hasher::new().update(b"seed").finalize_xof().fill(&mut content);
        let before = content_lengths(&content, Grain::Usual);
        assert_eq!(before.iter().sum::<usize>(), content.len());
        assert!(before.iter().all(|length| *length <= CONTENT_CHUNK_BYTES.2));
        let mut changed = content.clone();
        changed.splice(100..100, *b"inserted");
        let after = content_lengths(&changed, Grain::Usual);
        let same = before
            .iter()
            .rev()
            .zip(after.iter().rev())
            .take_while(|(a, b)| a == b)
            .count();
        assert!(
            same + 2 >= before.len(),
            "{same} of {} at the end are the same",
            before.len()
        );
        assert!(content_lengths(&[], Grain::Fine).is_empty());
    }
}
