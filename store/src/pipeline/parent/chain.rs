//! Page maps of the parent, with what they are deltas upon.

use std::collections::HashMap;

use super::super::fetch::metadata_chunks;
use super::super::job::PackFilter;
use crate::chunk::ChunkReference;
use crate::error::StoreError;
use crate::file_table::FileEntry;
use crate::limits::PAGE_MAP_DEPTH_MAX;
use crate::page_map::{Digests, Extents, Form, ParentMap, decode_digests, decode_extents};
use crate::repository::Repository;

/// A file's page map in the parent, and the metadata chunks that it consists of.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct ChainedMap {
    pub(in super::super) map: ParentMap,
    pub(in super::super) extents_chain: Vec<ChunkReference>,
    pub(in super::super) digests_chain: Vec<ChunkReference>,
}

impl ChainedMap {
    /// Forgets where maps are stored whose packs may not be used again, so that they are written whole.
    pub(in super::super) fn restrict(&mut self, filter: &PackFilter) {
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
pub(in super::super) async fn load_maps(
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
