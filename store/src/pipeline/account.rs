//! Which chunks of which packs a backup needs, and how many stored bytes they are (manifest, key 16).
//!
//! Chunks of our own packs are counted when they are placed. For packs of earlier backups one bit a chunk is kept, for the parent
//! and for the new backup; where both say the same, the parent's figure holds, and only for the others a footer is read.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::{StreamExt, TryStreamExt};

use super::bits::{Bits, ChunkSet};
use crate::chunk::ChunkReference;
use crate::envelope::Kind;
use crate::error::StoreError;
use crate::id::PackId;
use crate::manifest::{Manifest, PackNeed};
use crate::page_map::Extents;
use crate::repository::Repository;

const FOOTERS_IN_FLIGHT: usize = 8;

#[derive(Debug, Default)]
struct OldPack {
    now: Bits,
    parent: Bits,
}

#[derive(Debug, Default)]
struct OwnPack {
    closed: Option<(Kind, u64)>,
    live_bytes: u64,
}

/// The books of one backup.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    old: HashMap<PackId, OldPack>,
    own: BTreeMap<PackId, OwnPack>,
    /// Set when a map of the parent could not be read: then its sets are incomplete.
    parent_is_incomplete: bool,
}

impl Accounts {
    /// A chunk was placed in one of our own packs and is needed.
    pub(super) fn placed(&mut self, pack: PackId, stored_bytes: u64) {
        self.own.entry(pack).or_default().live_bytes += stored_bytes;
    }

    /// Of the chunks that were placed for a file only those count that its map names.
    pub(super) fn drop_unneeded(&mut self, map: &Extents, placed: &[(ChunkReference, u64)]) {
        let mut needed = HashSet::new();
        each_chunk(map, |at| needed.extend([at]));
        for (at, stored_bytes) in placed.iter().filter(|(at, _)| !needed.contains(at)) {
            let own = self.own.entry(at.pack).or_default();
            own.live_bytes = own.live_bytes.saturating_sub(*stored_bytes);
        }
    }

    /// One of our own packs is full.
    pub(super) fn closed(&mut self, pack: PackId, kind: Kind, body_bytes: u64) {
        self.own.entry(pack).or_default().closed = Some((kind, body_bytes));
    }

    /// The new backup needs a chunk; one of our own packs was counted already.
    pub(super) fn needs(&mut self, at: ChunkReference) {
        if !self.own.contains_key(&at.pack) {
            self.old.entry(at.pack).or_default().now.set(at.number);
        }
    }

    /// The parent needs a chunk.
    pub(super) fn parent_needs(&mut self, at: ChunkReference) {
        self.old.entry(at.pack).or_default().parent.set(at.number);
    }

    /// The parent needs these chunks.
    pub(super) fn parent_needs_all(&mut self, chunks: &ChunkSet) {
        for (pack, bits) in &chunks.0 {
            self.old.entry(*pack).or_default().parent.add_all(bits);
        }
    }

    /// The new backup needs all chunks that a map names.
    pub(super) fn needs_pages(&mut self, map: &Extents) {
        each_chunk(map, |at| self.needs(at));
    }

    /// The parent needs all chunks that a map names.
    pub(super) fn parent_needs_pages(&mut self, map: &Extents) {
        each_chunk(map, |at| self.parent_needs(at));
    }

    /// The parent's sets cannot be relied on.
    pub(super) fn distrust_parent(&mut self) {
        self.parent_is_incomplete = true;
    }

    /// Every pack that the backup needs, ours and older ones.
    ///
    /// # Errors
    /// A referenced pack is missing or damaged, or the store failed.
    pub(super) async fn settle(
        &self,
        repository: &Repository,
        parent: Option<&Manifest>,
    ) -> Result<Vec<PackNeed>, StoreError> {
        let own = self.own.iter().filter(|(_, own)| own.live_bytes > 0).map(|(id, own)| {
            let (kind, body_bytes) = own.closed.ok_or(StoreError::Stage("pack"))?;
            Ok(PackNeed {
                id: *id,
                kind: kind as u8,
                body_bytes,
                live_bytes: own.live_bytes,
            })
        });
        let mut needs = own.collect::<Result<Vec<_>, StoreError>>()?;
        let of_parent: HashMap<PackId, &PackNeed> = parent
            .iter()
            .flat_map(|manifest| manifest.packs.iter())
            .map(|need| (need.id, need))
            .collect();
        let mut unknown = Vec::new();
        for (id, old) in self.old.iter().filter(|(_, old)| !old.now.is_empty()) {
            match of_parent.get(id) {
                Some(need) if old.now == old.parent && !self.parent_is_incomplete => needs.push((*need).clone()),
                _ => unknown.push((*id, &old.now)),
            }
        }
        let counts = unknown.into_iter().map(|(id, bits)| count(repository, id, bits));
        needs.extend(
            futures::stream::iter(counts)
                .buffer_unordered(FOOTERS_IN_FLIGHT)
                .try_collect::<Vec<_>>()
                .await?,
        );
        needs.sort_unstable_by_key(|need| need.id);
        Ok(needs)
    }
}

async fn count(repository: &Repository, id: PackId, needed: &Bits) -> Result<PackNeed, StoreError> {
    let facts = repository.pack_facts(id).await?;
    // The length of the pack itself, where a spare of it had to be asked.
    let left = match facts.is_spare() {
        true => repository.head_left_of(&facts.name).await?,
        false => None,
    };
    let body_bytes = left.map_or(facts.head.body_bytes, |(head, _)| head.body_bytes);
    let mut live_bytes = 0;
    for number in needed.numbers() {
        let entry = facts
            .footer
            .entries
            .get(number as usize)
            .filter(|entry| entry.is_held());
        live_bytes += u64::from(
            entry
                .ok_or_else(|| StoreError::damaged(id, format!("has no chunk {number}")))?
                .stored_bytes,
        );
    }
    Ok(PackNeed {
        id,
        kind: facts.head.kind as u8,
        body_bytes,
        live_bytes,
    })
}

fn each_chunk(map: &Extents, mut visit: impl FnMut(ChunkReference)) {
    for run in &map.runs {
        run.each_part(|at, _, _| visit(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page_map::{Extent, Source};

    #[test]
    fn a_run_needs_every_chunk_that_it_touches() {
        let mut map = Extents::default();
        map.push(Extent {
            first: 0,
            count: 18,
            source: Source::Pack {
                pack: PackId([1; 16]),
                chunk: 3,
                page: 15,
            },
        });
        map.push(Extent {
            first: 18,
            count: 5,
            source: Source::Zero,
        });
        let mut seen = Vec::new();
        each_chunk(&map, |at| seen.push(at.number));
        assert_eq!(seen, [3, 4, 5]);
    }
}
