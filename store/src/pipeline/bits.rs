//! Sets of chunk numbers, a bit each.

use std::collections::HashMap;

use crate::chunk::ChunkReference;
use crate::id::PackId;
use crate::limits::PACK_CHUNKS_MAX;

/// A set of small numbers; those past the format's most chunks are not taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn set(&mut self, at: u32) {
        let word = at as usize / 64;
        if word >= self.0.len() && (at as usize) < PACK_CHUNKS_MAX {
            self.0.resize(word + 1, 0);
        }
        if let Some(bits) = self.0.get_mut(word) {
            *bits |= 1 << (at % 64);
        }
    }

    pub(super) fn has(&self, at: u32) -> bool {
        self.0
            .get(at as usize / 64)
            .is_some_and(|bits| bits >> (at % 64) & 1 == 1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add_all(&mut self, other: &Bits) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        self.0.iter_mut().zip(&other.0).for_each(|(to, from)| *to |= from);
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        let words = self.0.iter().enumerate().flat_map(|(word, bits)| {
            (0..64)
                .filter(move |bit| bits >> bit & 1 == 1)
                .map(move |bit| word * 64 + bit)
        });
        words.filter_map(|at| u32::try_from(at).ok())
    }
}

/// Chunks of many packs.
#[derive(Debug, Default)]
pub(super) struct ChunkSet(pub(super) HashMap<PackId, Bits>);

impl ChunkSet {
    pub(super) fn add(&mut self, at: ChunkReference) {
        self.0.entry(at.pack).or_default().set(at.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_gives_back_what_was_put_into_it() {
        let mut bits = Bits::default();
        for number in [5, 64, 3, 64] {
            bits.set(number);
        }
        assert_eq!(bits.numbers().collect::<Vec<_>>(), [3, 5, 64]);
        assert!(bits.has(64) && !bits.has(63) && !bits.has(4000));
        let mut more = Bits::default();
        more.set(200);
        bits.add_all(&more);
        assert_eq!(bits.numbers().collect::<Vec<_>>(), [3, 5, 64, 200]);
        more.set(u32::MAX);
        assert_eq!(more.numbers().collect::<Vec<_>>(), [200]);
    }
}
