//! Where in the files of the kept backups the chunks of lost packs are.

use std::collections::{BTreeMap, BTreeSet};

use crate::chunk::ChunkReference;
use crate::error::StoreError;
use crate::file_table::{EntryClass, EntryType, FileEntry};
use crate::id::{Digest, PackId, PageDigest};
use crate::limits::PACK_CHUNKS_MAX;
use crate::manifest::Manifest;
use crate::page_map::Source;
use crate::repository::{Maps, Repository};
use crate::verify::is_wrong;

/// Some pages of a chunk, in a file of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PagesAt {
    pub(super) path: Vec<u8>,
    /// First page in the file.
    pub(super) first: u32,
    /// First page in the chunk.
    pub(super) page: u32,
    /// What they were.
    pub(super) digests: Vec<PageDigest>,
}

/// Where a chunk is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkPlaces {
    /// Of a chunk of pages: its pages, together or apart.
    pub(super) pages: Vec<PagesAt>,
    /// Of a chunk of content: paths and offsets.
    pub(super) content: Vec<(Vec<u8>, u64)>,
    /// Its plaintext bytes, where the file table says so.
    pub(super) plain_bytes: Option<u32>,
    /// Its id, where an index says so.
    pub(super) id: Option<Digest>,
}

/// Places of the chunks that kept backups need of some packs.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// By chunk.
    pub(super) chunks: BTreeMap<ChunkReference, ChunkPlaces>,
    /// All that backups need is known: nothing had to be passed over.
    pub is_complete: bool,
}

/// More places of one chunk say nothing new.
const PLACES_MAX: usize = 8;

/// Looks through the backups that need these packs. What cannot be read of them is passed over.
///
/// # Errors
/// The store failed.
pub async fn places_of(
    repository: &Repository,
    manifests: &[Manifest],
    packs: &BTreeSet<PackId>,
) -> Result<Places, StoreError> {
    let mut places = Places {
        is_complete: true,
        ..Places::default()
    };
    let needs = |manifest: &&Manifest| manifest.packs.iter().any(|need| packs.contains(&need.id));
    // The newest first: it is the most like the live cluster.
    for manifest in manifests.iter().rev().filter(needs) {
        let table = match repository.file_table(manifest).await {
            Ok(table) => table,
            Err(error) if is_wrong(&error) => {
                tracing::warn!(backup = %manifest.backup, %error, "its file table cannot be read: it does not say where lost chunks were");
                places.is_complete = false;
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut maps = Maps::new(repository);
        for entry in table.iter().filter(|entry| entry.entry_type == EntryType::File) {
            content_of(&mut places, entry, packs);
            match pages_of(&mut places, &mut maps, entry, packs).await {
                Err(error) if is_wrong(&error) => places.is_complete = false,
                done => done?,
            }
        }
    }
    if !places.chunks.is_empty() {
        for (id, at) in repository.chunk_index().await?.chunks() {
            let at = ChunkReference {
                pack: at.pack,
                number: at.number,
            };
            if let Some(place) = places.chunks.get_mut(&at) {
                place.id = Some(*id);
            }
        }
    }
    Ok(places)
}

fn content_of(places: &mut Places, entry: &FileEntry, packs: &BTreeSet<PackId>) {
    let mut offset = 0;
    for part in &entry.content {
        // No pack has more: a list that says so is of no use.
        if packs.contains(&part.pack) && (part.number as usize) < PACK_CHUNKS_MAX {
            let at = ChunkReference {
                pack: part.pack,
                number: part.number,
            };
            let place = places.chunks.entry(at).or_default();
            place.plain_bytes = Some(part.plain_bytes);
            let here = (entry.path.to_vec(), offset);
            if place.content.len() < PLACES_MAX && !place.content.contains(&here) {
                place.content.push(here);
            }
        }
        offset += u64::from(part.plain_bytes);
    }
}

async fn pages_of(
    places: &mut Places,
    maps: &mut Maps<'_>,
    entry: &FileEntry,
    packs: &BTreeSet<PackId>,
) -> Result<(), StoreError> {
    let (EntryClass::Relation, Some(extents), Some(digests)) = (entry.class, entry.extents, entry.digests) else {
        return Ok(());
    };
    let extents = maps.extents(extents).await?.content;
    let is_lost = |source: Source| matches!(source, Source::Pack { pack, .. } if packs.contains(&pack));
    if !extents.runs.iter().any(|run| is_lost(run.source)) {
        return Ok(());
    }
    let digests = maps.digests(digests).await?.content.pages;
    for run in extents.runs.iter().filter(|run| is_lost(run.source)) {
        run.each_part(|at, page, pages| {
            let here = PagesAt {
                path: entry.path.to_vec(),
                first: pages.start,
                page,
                digests: digests
                    .get(pages.start as usize..pages.end as usize)
                    .unwrap_or_default()
                    .to_vec(),
            };
            let place = places.chunks.entry(at).or_default();
            if !place.pages.contains(&here) {
                place.pages.push(here);
            }
        });
    }
    Ok(())
}
