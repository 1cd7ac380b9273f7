//! Page maps: where each page of a relation file is (extents) and what it was (digests). FORMAT 8.1, 8.2.
//!
//! Both are stored as deltas against a parent with a whole one now and then. In memory a map is always whole.

mod delta;
mod encoding;

use std::ops::Range;

pub use delta::{plan_digests, plan_extents};
pub use encoding::{
    Form, Parsed, decode_digests, decode_extents, encode_digests_delta, encode_digests_whole, encode_extents,
};

use crate::chunk::ChunkReference;
use crate::id::{PackId, PageDigest};

/// Where a run of pages is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a pack, from a page of a chunk on; runs on into the chunks that follow.
    Pack {
        /// The pack.
        pack: PackId,
        /// First chunk.
        chunk: u32,
        /// First page within it.
        page: u16,
    },
    /// Pages of zero bytes, stored nowhere.
    Zero,
}

/// A run of pages of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First page in the file.
    pub first: u32,
    /// Pages.
    pub count: u32,
    /// Where they are.
    pub source: Source,
}

impl Extent {
    /// Page after the last.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.first.saturating_add(self.count)
    }

    /// Its parts that lie in one chunk each: chunk, first page of the chunk, pages of the file. Nothing when it is zero.
    pub fn each_part(&self, mut visit: impl FnMut(ChunkReference, u32, Range<u32>)) {
        let Source::Pack { pack, chunk, page } = self.source else {
            return;
        };
        let per_chunk = u32::try_from(crate::limits::RELATION_CHUNK_PAGES_MAX).unwrap_or(16);
        let mut done = 0;
        while done < self.count {
            let absolute = u32::from(page) + done;
            let (number, page) = (chunk + absolute / per_chunk, absolute % per_chunk);
            let count = (per_chunk - page).min(self.count - done);
            let from = self.first + done;
            visit(ChunkReference { pack, number }, page, from..from + count);
            done += count;
        }
    }

    /// The part of this extent within `[from, to)`.
    #[must_use]
    pub fn clip(&self, from: u32, to: u32) -> Option<Extent> {
        let first = self.first.max(from);
        let end = self.end().min(to);
        if first >= end {
            return None;
        }
        let skip = first - self.first;
        let source = match self.source {
            Source::Zero => Source::Zero,
            Source::Pack { pack, chunk, page } => {
                let per_chunk = u32::try_from(crate::limits::RELATION_CHUNK_PAGES_MAX).unwrap_or(16);
                // Pages left in the first chunk of a run are unknown only when the run began inside it; runs begin where chunks do
                // unless they were clipped, and chunks of a run are full, so counting in 16s from the chunk's start is right.
                let absolute = u32::from(page) + skip;
                Source::Pack {
                    pack,
                    chunk: chunk + absolute / per_chunk,
                    page: u16::try_from(absolute % per_chunk).unwrap_or(0),
                }
            }
        };
        Some(Extent {
            first,
            count: end - first,
            source,
        })
    }
}

/// Whole map of a relation file: extents sorted by first page, covering every page once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents {
    /// Pages of the file.
    pub pages: u32,
    /// Runs.
    pub runs: Vec<Extent>,
}

impl Extents {
    /// True when the runs cover `[0, pages)` once, in order.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let mut next = 0u32;
        for run in &self.runs {
            if run.first != next || run.count == 0 {
                return false;
            }
            next = match run.first.checked_add(run.count) {
                Some(end) => end,
                None => return false,
            };
        }
        next == self.pages
    }

    /// Appends a run, joining it to the last one where both are one piece.
    pub fn push(&mut self, run: Extent) {
        if let Some(last) = self.runs.last_mut()
            && last.end() == run.first
            && continues(last, &run)
        {
            last.count += run.count;
        } else {
            self.runs.push(run);
        }
        self.pages = run.end();
    }

    /// The runs within `[from, to)`.
    #[must_use]
    pub fn slice(&self, from: u32, to: u32) -> Vec<Extent> {
        let begin = self.runs.partition_point(|run| run.end() <= from);
        self.runs
            .iter()
            .skip(begin)
            .take_while(|run| run.first < to)
            .filter_map(|run| run.clip(from, to))
            .collect()
    }
}

fn continues(last: &Extent, next: &Extent) -> bool {
    match (last.source, next.source) {
        (Source::Zero, Source::Zero) => true,
        (Source::Pack { .. }, Source::Pack { .. }) => {
            // The place right behind `last`, were it one page longer.
            let longer = Extent {
                count: last.count + 1,
                ..*last
            };
            longer
                .clip(last.end(), last.end() + 1)
                .is_some_and(|after| after.source == next.source)
        }
        _ => false,
    }
}

/// Whole digests of a relation file and how deep the chain is that they came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// One a page.
    pub pages: Vec<PageDigest>,
}

/// A stored map with its place: what the next backup compares with and builds on.
#[derive(Clone, Debug, Default)]
pub struct ParentMap {
    /// Extents.
    pub extents: Extents,
    /// Digests, one a page.
    pub digests: Vec<PageDigest>,
    /// Where the extents are stored, and how deep.
    pub extents_at: Option<(ChunkReference, u16)>,
    /// Where the digests are stored, and how deep.
    pub digests_at: Option<(ChunkReference, u16)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_run_lie_in_one_chunk_each() {
        let mut map = Extents::default();
        map.push(Extent {
            first: 3,
            count: 40,
            source: Source::Pack {
                pack: PackId([1; 16]),
                chunk: 5,
                page: 10,
            },
        });
        let mut parts = Vec::new();
        map.runs[0].each_part(|at, page, places| parts.push((at.number, page, places)));
        assert_eq!(parts, [(5, 10, 3..9), (6, 0, 9..25), (7, 0, 25..41), (8, 0, 41..43)]);
    }
}
