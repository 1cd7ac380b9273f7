//! Which pages of a file are stored anew although they did not change.
//!
//! What lies in a pack that may not be referenced again; and, as far as the budget goes, what is left of chunks that are mostly dead. A
//! restore reads a chunk whole for the one page of it that is still needed, and no pack looks dead while each of its chunks has one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::job::PackFilter;
use crate::chunk::ChunkReference;
use crate::limits::{PAGE_BYTES, RELATION_CHUNK_PAGES_MAX};
use crate::page_map::{Extents, Source};

/// A chunk is mostly dead when at most this part of it is needed: a third.
const ALIVE_PART: u32 = 3;
const WHOLE_CHUNK_PAGES: u32 = RELATION_CHUNK_PAGES_MAX as u32;

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

/// Pages of a file that are needed of one chunk.
#[derive(Default)]
struct Alive {
    count: u32,
    /// The chunk has at least so many pages.
    at_least: u32,
    places: Vec<Range<u32>>,
}

/// The stale pages of a file, in order.
pub(super) fn stale_pages(filter: &PackFilter, budget: &RewriteBudget, map: &Extents) -> Vec<Range<u32>> {
    let mut stale = Vec::new();
    let mut chunks: BTreeMap<ChunkReference, Alive> = BTreeMap::new();
    for run in &map.runs {
        match run.source {
            Source::Pack { pack, .. } if !filter.is_usable(pack) => stale.push(run.first..run.end()),
            _ => run.each_part(|at, page, places| {
                let count = places.end - places.start;
                if count < WHOLE_CHUNK_PAGES {
                    let alive = chunks.entry(at).or_default();
                    alive.count += count;
                    alive.at_least = alive.at_least.max(page + count);
                    alive.places.push(places);
                }
            }),
        }
    }
    let is_mostly_dead = |alive: &Alive| alive.count * ALIVE_PART <= alive.at_least;
    for alive in chunks.into_values().filter(is_mostly_dead) {
        if !budget.take(alive.count) {
            break;
        }
        stale.extend(alive.places);
    }
    stale.sort_unstable_by_key(|places| places.start);
    stale
}

/// True when one of these ranges, which are in order, has the page.
pub(super) fn has(ranges: &[Range<u32>], page: u32) -> bool {
    let at = ranges.partition_point(|range| range.end <= page);
    ranges.get(at).is_some_and(|range| range.contains(&page))
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

    fn stale(map: &Extents, budget: u64) -> Vec<Range<u32>> {
        stale_pages(&PackFilter::default(), &RewriteBudget::new(budget), map)
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
        assert_eq!(stale(&map, 1 << 20), [144..146, 146..149]);
        assert_eq!(stale(&map, 4 * 8192), [0..0; 0]);
    }

    #[test]
    fn a_chunk_of_pages_from_all_over_the_file_is_alive() {
        let map = map(&[
            (0, 1, 9, 0),
            (1, 1000, 10, 0),
            (1001, 1, 9, 1),
            (1002, 1000, 100, 0),
            (2002, 1, 9, 2),
        ]);
        assert_eq!(stale(&map, 1 << 20), [0..0; 0]);
    }

    #[test]
    fn a_page_is_found_in_its_range() {
        let ranges = [3..5, 5..6, 9..12];
        let found: Vec<u32> = (0..15).filter(|page| has(&ranges, *page)).collect();
        assert_eq!(found, [3, 4, 5, 9, 10, 11]);
        assert!(!has(&[], 0));
    }
}
