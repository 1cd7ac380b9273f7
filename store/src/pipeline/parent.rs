//! The backup that a new one is compared with: its file table and the page maps of its files.
//!
//! A page map may be a delta upon deltas. Maps are loaded for many files at once, one level of all chains after the other, so that
//! a metadata pack is visited once a batch and not once a file.

use std::collections::HashMap;

use super::fetch::metadata_chunks;
use super::job::PackFilter;
use crate::chunk::{ChunkKind, ChunkReference};
use crate::error::StoreError;
use crate::file_table::{EntryClass, FileEntry, decode_chunk_list, decode_piece};
use crate::id::Digest;
use crate::limits::PAGE_MAP_DEPTH_MAX;
use crate::manifest::Manifest;
use crate::page_map::{Digests, Extents, Form, ParentMap, decode_digests, decode_extents};
use crate::repository::Repository;

/// An earlier backup, ready to be compared with.
#[derive(Debug)]
pub struct Parent {
    pub(super) manifest: Manifest,
    pub(super) entries: HashMap<Vec<u8>, FileEntry>,
    /// Pieces of its file table and its chunk lists: id and place.
    pub(super) known_metadata: HashMap<Digest, ChunkReference>,
}

impl Parent {
    /// Reads the file table of a backup.
    ///
    /// # Errors
    /// The store failed; [`StoreError::Damaged`] when the backup cannot be used as a parent.
    pub async fn load(repository: &Repository, manifest: Manifest) -> Result<Self, StoreError> {
        let mut known_metadata = HashMap::new();
        let pieces = metadata_chunks(repository, manifest.file_table.iter().copied()).await?;
        let missing =
            |at: ChunkReference| StoreError::damaged(at.pack, format!("metadata chunk {} cannot be read", at.number));
        let mut entries = HashMap::new();
        let mut lists = Vec::new();
        for at in &manifest.file_table {
            let bytes = pieces.get(at).ok_or_else(|| missing(*at))?;
            known_metadata.insert(
                repository.keys().metadata_chunk_id(ChunkKind::FileTable as u8, bytes),
                *at,
            );
            for entry in decode_piece(&format!("{}/{}", at.pack, at.number), bytes)? {
                lists.extend(entry.content_list);
                entries.insert(entry.path.to_vec(), entry);
            }
        }
        let lists = metadata_chunks(repository, lists).await?;
        for entry in entries.values_mut() {
            let Some(at) = entry.content_list else { continue };
            let bytes = lists.get(&at).ok_or_else(|| missing(at))?;
            known_metadata.insert(
                repository.keys().metadata_chunk_id(ChunkKind::ChunkList as u8, bytes),
                at,
            );
            entry.content = decode_chunk_list(&format!("{}/{}", at.pack, at.number), bytes)?;
        }
        Ok(Parent {
            manifest,
            entries,
            known_metadata,
        })
    }

    /// The backup.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(super) fn relation(&self, path: &[u8]) -> Option<&FileEntry> {
        self.entries
            .get(path)
            .filter(|entry| entry.class == EntryClass::Relation)
    }
}

/// A file's page map in the parent, and the metadata chunks that it consists of.
#[derive(Clone, Debug, Default)]
pub(super) struct ChainedMap {
    pub(super) map: ParentMap,
    pub(super) extents_chain: Vec<ChunkReference>,
    pub(super) digests_chain: Vec<ChunkReference>,
}

impl ChainedMap {
    /// Forgets where maps are stored whose packs may not be used again, so that they are written whole.
    pub(super) fn restrict(&mut self, filter: &PackFilter) {
        if !filter.accepts_all(self.extents_chain.iter().map(|at| at.pack)) {
            self.map.extents_at = None;
        }
        if !filter.accepts_all(self.digests_chain.iter().map(|at| at.pack)) {
            self.map.digests_at = None;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    Extents,
    Digests,
}

type Chunks = HashMap<ChunkReference, Vec<u8>>;

/// Page maps of files of the parent, in order; `None` for one that cannot be read.
///
/// # Errors
/// The store failed.
pub(super) async fn load_maps(
    repository: &Repository,
    files: &[&FileEntry],
) -> Result<Vec<Option<ChainedMap>>, StoreError> {
    let mut chunks = Chunks::new();
    let mut wanted: Vec<(Part, ChunkReference)> = Vec::new();
    for file in files {
        wanted.extend(file.extents.map(|at| (Part::Extents, at)));
        wanted.extend(file.digests.map(|at| (Part::Digests, at)));
    }
    for _ in 0..=PAGE_MAP_DEPTH_MAX {
        wanted.retain(|(_, at)| !chunks.contains_key(at));
        if wanted.is_empty() {
            break;
        }
        let got = metadata_chunks(repository, wanted.iter().map(|(_, at)| *at)).await?;
        wanted = wanted
            .iter()
            .filter_map(|(part, at)| Some((*part, parent_of(*part, got.get(at)?)?)))
            .collect();
        chunks.extend(got);
    }
    Ok(files.iter().map(|file| resolve(file, &chunks)).collect())
}

fn parent_of(part: Part, bytes: &[u8]) -> Option<ChunkReference> {
    match part {
        Part::Extents => match decode_extents(bytes)?.form {
            Form::Whole => None,
            Form::Delta { parent, .. } => Some(parent),
        },
        Part::Digests => {
            let mut parent = None;
            let parsed = decode_digests::<()>(bytes, |asked| {
                parent = Some(asked);
                Err(())
            });
            parsed.err().and(parent)
        }
    }
}

fn resolve(file: &FileEntry, chunks: &Chunks) -> Option<ChainedMap> {
    let mut out = ChainedMap::default();
    let (Some(extents_at), Some(digests_at)) = (file.extents, file.digests) else {
        return Some(out);
    };
    let (extents, depth) = resolve_extents(extents_at, chunks, &mut out.extents_chain)?;
    out.map.extents = extents;
    out.map.extents_at = Some((extents_at, depth));
    let (digests, depth) = resolve_digests(digests_at, chunks, &mut out.digests_chain)?;
    out.map.digests = digests.pages;
    out.map.digests_at = Some((digests_at, depth));
    (out.map.digests.len() == out.map.extents.pages as usize).then_some(out)
}

fn resolve_extents(at: ChunkReference, chunks: &Chunks, chain: &mut Vec<ChunkReference>) -> Option<(Extents, u16)> {
    let mut deltas = Vec::new();
    let mut next = at;
    let mut depth_here = 0;
    let whole = loop {
        chain.push(next);
        let parsed = decode_extents(chunks.get(&next)?)?;
        match parsed.form {
            Form::Whole => break parsed.content,
            Form::Delta { .. } if chain.len() > usize::from(PAGE_MAP_DEPTH_MAX) => return None,
            Form::Delta { parent, depth } => {
                if next == at {
                    depth_here = depth;
                }
                deltas.push(parsed.content);
                next = parent;
            }
        }
    };
    let map = deltas.iter().rev().fold(whole, |base, delta| base.with_delta(delta));
    map.is_whole().then_some((map, depth_here))
}

fn resolve_digests(at: ChunkReference, chunks: &Chunks, chain: &mut Vec<ChunkReference>) -> Option<(Digests, u16)> {
    let mut next = at;
    loop {
        chain.push(next);
        match parent_of(Part::Digests, chunks.get(&next)?) {
            None => break,
            Some(_) if chain.len() > usize::from(PAGE_MAP_DEPTH_MAX) => return None,
            Some(parent) => next = parent,
        }
    }
    let mut base = Digests::default();
    let mut depth = 0;
    for at in chain.iter().rev() {
        let parsed =
            decode_digests::<std::convert::Infallible>(chunks.get(at)?, |_| Ok(std::mem::take(&mut base))).ok()??;
        depth = match parsed.form {
            Form::Whole => 0,
            Form::Delta { depth, .. } => depth,
        };
        base = parsed.content;
    }
    Some((base, depth))
}
