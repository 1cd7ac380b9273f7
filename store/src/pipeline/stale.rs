//! Which pages of a unit are stored anew although they did not change.
//!
//! What lies in a pack that may not be referenced again; and, as far as the budget goes, what is left of chunks that are mostly dead. A
//! restore reads a chunk whole for the one page of it that is still needed, and no pack looks dead while each of its chunks has one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::job::PackFilter;
use crate::chunk::ChunkReference;
use crate::limits::PAGE_BYTES;
use crate::page_map::{Extents, Source};

/// A chunk is mostly dead when at most this part of it is needed: a third.
const ALIVE_PART: u32 = 3;

/// What one backup may store anew for the sake of later restores.
#[derive(Debug)]
pub(super) struct RewriteBudget(AtomicU64);

impl RewriteBudget {
    pub(super) fn new(bytes: u64) -> Self {
        RewriteBudget(AtomicU64::new(bytes))
    }

    fn take(&self, pages: u32) -> bool {
        let bytes = u64::from(pages) * PAGE_BYTES as u64;
        let less = |left: u64| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// Pages of the unit that are needed of one chunk.
#[derive(Default)]
struct Alive {
    count: u32,
    /// The chunk has at least so many pages.
    at_least: u32,
    places: Vec<Range<u32>>,
}

/// A flag for each of the unit's pages; empty when none is stale.
pub(super) fn stale_pages(
    filter: &PackFilter,
    budget: &RewriteBudget,
    map: &Extents,
    first: u32,
    pages: u32,
) -> Vec<bool> {
    let mut stale = Vec::new();
    let mut mark = |places: Range<u32>| {
        stale.resize(pages as usize, false);
        let range = (places.start - first) as usize..(places.end - first) as usize;
        stale.get_mut(range).unwrap_or_default().fill(true);
    };
    let mut chunks: BTreeMap<ChunkReference, Alive> = BTreeMap::new();
    for run in map.slice(first, first + pages) {
        match run.source {
            Source::Pack { pack, .. } if !filter.is_usable(pack) => mark(run.first..run.end()),
            _ => run.each_part(|at, page, places| {
                let alive = chunks.entry(at).or_default();
                let count = places.end - places.start;
                alive.count += count;
                alive.at_least = alive.at_least.max(page + count);
                alive.places.push(places);
            }),
        }
    }
    let is_mostly_dead = |alive: &&Alive| alive.count * ALIVE_PART <= alive.at_least;
    for alive in chunks.values().filter(is_mostly_dead) {
        if !budget.take(alive.count) {
            break;
        }
        alive.places.iter().cloned().for_each(&mut mark);
    }
    stale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PackId;
    use crate::page_map::Extent;

    fn map(runs: &[(u32, u32, u32, u16)]) -> Extents {
        let mut map = Extents::default();
        for (first, count, chunk, page) in runs {
            map.push(Extent {
                first: *first,
                count: *count,
                source: Source::Pack {
                    pack: PackId([1; 16]),
                    chunk: *chunk,
                    page: *page,
                },
            });
        }
        map
    }

    fn stale(map: &Extents, first: u32, pages: u32, budget: u64) -> Vec<u32> {
        let budget = RewriteBudget::new(budget);
        let flags = stale_pages(&PackFilter::default(), &budget, map, first, pages);
        (first..)
            .zip(flags)
            .filter(|(_, stale)| *stale)
            .map(|(page, _)| page)
            .collect()
    }

    #[test]
    fn what_is_left_of_a_chunk_that_is_mostly_dead_is_stored_anew() {
        // A whole chunk, one of sixteen with five left, one with six, and a small one that is whole.
        let map = map(&[
            (128, 16, 0, 0),
            (144, 2, 1, 3),
            (146, 3, 1, 12),
            (149, 6, 2, 10),
            (155, 2, 7, 0),
        ]);
        assert_eq!(stale(&map, 128, 128, 1 << 20), [144, 145, 146, 147, 148]);
        assert_eq!(stale(&map, 128, 128, 4 * 8192), [0; 0]);
    }
}
