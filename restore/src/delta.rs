//! What the target holds already: pages of relation files that are what the backup has there need not be fetched.
//!
//! A page is judged by its digest and by nothing else: no length, date or LSN says that it is the same. Only reading; nothing is changed
//! here.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use pg::page::PAGE_BYTES;
use store::buffer::PageBuffer;
use store::id::PageDigest;
use store::keys::ClusterKeys;
use store::page_map::Extents;
use store::pipeline::read_up_to;
use store::repository::{Maps, Repository};
use tokio::task::JoinHandle;

use crate::error::{RestoreError, Result};
use crate::tree::Tree;
use crate::work::{RelationMap, Work};

/// Pages that are read at once: 1 MiB.
const READ_PAGES: usize = 128;

/// What a relation file holds already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Pages that it has, a part of one at its end among them.
    pub(crate) pages: u32,
    /// Those that are right, in order.
    pub(crate) same: Vec<Range<u32>>,
}

/// A file that is being compared.
struct Comparing {
    map: RelationMap,
    extents: Extents,
    task: JoinHandle<std::io::Result<Held>>,
}

/// Adds the pages of all relation files to the work, without those that are in `tree` already, where there is one.
pub(crate) async fn plan_pages(
    repository: &Arc<Repository>,
    tree: Option<&Tree>,
    work: &mut Work,
    maps: Vec<RelationMap>,
    jobs: usize,
) -> Result<()> {
    let mut reader = Maps::new(repository);
    let mut comparing = VecDeque::new();
    for map in maps {
        let extents = reader.extents(map.extents).await?.content;
        let on_disk = match tree {
            Some(tree) => tree.open_existing(work.place(map.file)?)?,
            None => None,
        };
        let (Some(on_disk), Some(at)) = (on_disk, map.digests) else {
            work.add_pages(map, &extents, None)?;
            continue;
        };
        let digests = reader.digests(at).await?.content.pages;
        let keys = repository.keys().clone();
        comparing.push_back(Comparing {
            map,
            extents,
            task: tokio::task::spawn_blocking(move || compare(&on_disk, &digests, &keys)),
        });
        if comparing.len() >= jobs {
            add_compared(comparing.pop_front(), work).await?;
        }
    }
    while !comparing.is_empty() {
        add_compared(comparing.pop_front(), work).await?;
    }
    Ok(())
}

async fn add_compared(compared: Option<Comparing>, work: &mut Work) -> Result<()> {
    let Some(Comparing { map, extents, task }) = compared else {
        return Ok(());
    };
    let held = task
        .await
        .map_err(|_| RestoreError::Failed("a worker of the restore stopped".into()))?;
    // What cannot be read is fetched, into a new file.
    work.add_pages(map, &extents, held.ok())
}

/// Compares a file, page by page, with what it should be.
fn compare(file: &File, digests: &[PageDigest], keys: &ClusterKeys) -> std::io::Result<Held> {
    let pages = file.metadata()?.len().div_ceil(PAGE_BYTES as u64);
    let mut held = Held {
        pages: u32::try_from(pages).unwrap_or(u32::MAX),
        same: Vec::new(),
    };
    let mut buffer = PageBuffer::new(READ_PAGES * PAGE_BYTES);
    let mut first = 0;
    for expected in digests.chunks(READ_PAGES) {
        let got = read_up_to(file, &mut buffer, first as u64 * PAGE_BYTES as u64)?;
        let whole = buffer.get(..got).unwrap_or_default().chunks_exact(PAGE_BYTES);
        for (number, (page, digest)) in (first..).zip(whole.zip(expected)) {
            if keys.page_digest(page) == *digest {
                push(&mut held.same, number);
            }
        }
        first += expected.len() as u32;
    }
    Ok(held)
}

fn push(ranges: &mut Vec<Range<u32>>, page: u32) {
    match ranges.last_mut() {
        Some(last) if last.end == page => last.end += 1,
        _ => ranges.push(page..page + 1),
    }
}

/// The parts of `[from, to)` that are in none of these ranges, which are in order.
pub(crate) fn without(from: u32, to: u32, ranges: &[Range<u32>]) -> Vec<Range<u32>> {
    let mut out = Vec::new();
    let mut next = from;
    let begin = ranges.partition_point(|range| range.end <= from);
    for range in ranges.iter().skip(begin).take_while(|range| range.start < to) {
        if range.start > next {
            out.push(next..range.start);
        }
        next = range.end.max(next);
    }
    if next < to {
        out.push(next..to);
    }
    out
}

#[cfg(test)]
mod tests {
    use store::id::RepositoryId;
    use store::seal::Secret32;

    use super::*;

    #[test]
    fn what_is_held_is_left_out() {
        let held = [2..4, 6..7, 9..20];
        assert_eq!(without(0, 12, &held), [0..2, 4..6, 7..9]);
        assert_eq!(without(3, 8, &held), [4..6, 7..8]);
        assert_eq!(without(9, 20, &held), [0..0; 0]);
        assert_eq!(without(20, 25, &[2..4, 22..23]), [20..22, 23..25]);
        assert!(without(0, 0, &[]).is_empty());
    }

    #[test]
    fn pages_are_judged_by_what_they_are_and_a_part_of_one_is_none() {
        let keys = ClusterKeys::derive(Secret32::new([7; 32]), RepositoryId::from_parts(1, [1; 10])).unwrap();
        let page = |fill: u8| vec![fill; PAGE_BYTES];
        let digests: Vec<PageDigest> = (0..130).map(|fill| keys.page_digest(&page(fill))).collect();
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut bytes: Vec<u8> = (0..129).flat_map(page).collect();
        bytes[5 * PAGE_BYTES + 17] ^= 1;
        bytes.extend_from_slice(&page(129)[..100]);
        std::fs::write(path.path(), &bytes).unwrap();
        let held = compare(path.as_file(), &digests, &keys).unwrap();
        assert_eq!(held.pages, 130);
        assert_eq!(held.same, [0..5, 6..129]);
    }
}
