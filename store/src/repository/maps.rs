//! Page maps with what they are deltas upon.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::{FetchedPack, Repository};
use crate::chunk::ChunkReference;
use crate::error::StoreError;
use crate::id::PackId;
use crate::limits::PAGE_MAP_DEPTH_MAX;
use crate::page_map::{Digests, Extents, Form, decode_digests, decode_extents};

/// Memory for metadata packs while page maps are read: the chain of a map leads through as many packs as it is deep.
const METADATA_BYTES_MAX: u64 = 32 << 20;

/// A whole map, and the chunks that it was put together from, its own first.
#[derive(Debug)]
pub struct WholeMap<T> {
    /// The map.
    pub content: T,
    /// Where it came from.
    pub chunks: Vec<ChunkReference>,
}

impl<T> WholeMap<T> {
    /// Deltas above the whole map below.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.chunks.len() - 1
    }
}

/// Reads page maps, metadata packs kept within a bound.
#[derive(Debug)]
pub struct Maps<'a> {
    repository: &'a Repository,
    packs: HashMap<PackId, Arc<FetchedPack>>,
    order: VecDeque<PackId>,
    bytes: u64,
}

impl<'a> Maps<'a> {
    /// An empty cache.
    #[must_use]
    pub fn new(repository: &'a Repository) -> Self {
        Maps {
            repository,
            packs: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
        }
    }

    async fn pack(&mut self, id: PackId) -> Result<Arc<FetchedPack>, StoreError> {
        if let Some(pack) = self.packs.get(&id) {
            return Ok(Arc::clone(pack));
        }
        let pack = Arc::new(self.repository.fetch_pack(id).await?);
        self.bytes += pack.fetched_bytes();
        self.packs.insert(id, Arc::clone(&pack));
        self.order.push_back(id);
        while self.bytes > METADATA_BYTES_MAX
            && self.order.len() > 1
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.packs.remove(&oldest).map_or(0, |pack| pack.fetched_bytes());
        }
        Ok(pack)
    }

    async fn chunk(&mut self, at: ChunkReference) -> Result<Vec<u8>, StoreError> {
        self.pack(at.pack).await?.chunk(at.number, self.repository)
    }

    /// The whole extents at a reference.
    ///
    /// # Errors
    /// Damaged, or a parent is missing.
    pub async fn extents(&mut self, at: ChunkReference) -> Result<WholeMap<Extents>, StoreError> {
        let damaged = |reason: &str| StoreError::damaged(at.pack, reason);
        let (mut deltas, mut chunks) = (Vec::new(), vec![at]);
        let mut next = at;
        loop {
            let bytes = self.chunk(next).await?;
            let parsed = decode_extents(&bytes).ok_or_else(|| damaged("extents make no sense"))?;
            match parsed.form {
                Form::Whole => {
                    let content = deltas
                        .iter()
                        .rev()
                        .fold(parsed.content, |base: Extents, delta| base.with_delta(delta));
                    return if content.is_whole() {
                        Ok(WholeMap { content, chunks })
                    } else {
                        Err(damaged("extents do not cover their file"))
                    };
                }
                Form::Delta { .. } if deltas.len() >= usize::from(PAGE_MAP_DEPTH_MAX) => {
                    return Err(damaged("a chain of page maps is too long"));
                }
                Form::Delta { parent, .. } => {
                    deltas.push(parsed.content);
                    chunks.push(parent);
                    next = parent;
                }
            }
        }
    }

    /// The whole digests at a reference, one a page.
    ///
    /// # Errors
    /// Damaged, or a parent is missing.
    pub async fn digests(&mut self, at: ChunkReference) -> Result<WholeMap<Digests>, StoreError> {
        let damaged = |reason: &str| StoreError::damaged(at.pack, reason);
        let nonsense = || damaged("digests make no sense");
        let (mut deltas, mut chunks) = (Vec::new(), vec![at]);
        let mut next = at;
        let mut content = loop {
            let bytes = self.chunk(next).await?;
            match decode_digests(&bytes, Err) {
                Ok(Some(whole)) => break whole.content,
                Ok(None) => return Err(nonsense()),
                Err(_) if deltas.len() >= usize::from(PAGE_MAP_DEPTH_MAX) => {
                    return Err(damaged("a chain of page maps is too long"));
                }
                Err(parent) => {
                    deltas.push(bytes);
                    chunks.push(parent);
                    next = parent;
                }
            }
        };
        for delta in deltas.iter().rev() {
            let parsed = decode_digests(delta, |_| Ok::<Digests, ChunkReference>(std::mem::take(&mut content)));
            content = parsed.ok().flatten().ok_or_else(nonsense)?.content;
        }
        Ok(WholeMap { content, chunks })
    }
}
