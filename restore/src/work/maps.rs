//! Page maps with their parents.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use store::StoreError;
use store::chunk::ChunkReference;
use store::id::{PackId, PageDigest};
use store::limits::PAGE_MAP_DEPTH_MAX;
use store::page_map::{Digests, Extents, Form, decode_digests, decode_extents};
use store::repository::{FetchedPack, Repository};

use crate::error::{RestoreError, Result};

/// Memory for metadata packs while page maps are read.
const METADATA_BYTES_MAX: u64 = 32 << 20;

/// Page maps with their parents, metadata packs kept within a bound.
#[derive(Debug)]
pub(crate) struct Maps<'a> {
    repository: &'a Repository,
    packs: HashMap<PackId, Arc<FetchedPack>>,
    order: VecDeque<PackId>,
    bytes: u64,
}

impl<'a> Maps<'a> {
    /// An empty cache.
    pub(crate) fn new(repository: &'a Repository) -> Self {
        Maps {
            repository,
            packs: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
        }
    }

    async fn pack(&mut self, id: PackId) -> Result<Arc<FetchedPack>> {
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

    /// The whole map at a reference.
    pub(crate) async fn extents(&mut self, at: ChunkReference) -> Result<Extents> {
        let damaged = |reason: &str| RestoreError::from(StoreError::damaged(at.pack, reason));
        let mut deltas = Vec::new();
        let mut next = at;
        loop {
            let bytes = self.pack(next.pack).await?.chunk(next.number, self.repository)?;
            let parsed = decode_extents(&bytes).ok_or_else(|| damaged("extents make no sense"))?;
            match parsed.form {
                Form::Whole => {
                    let whole = deltas
                        .iter()
                        .rev()
                        .fold(parsed.content, |base: Extents, delta| base.with_delta(delta));
                    return if whole.is_whole() {
                        Ok(whole)
                    } else {
                        Err(damaged("extents do not cover their file"))
                    };
                }
                Form::Delta { .. } if deltas.len() >= usize::from(PAGE_MAP_DEPTH_MAX) => {
                    return Err(damaged("a chain of page maps is too long"));
                }
                Form::Delta { parent, .. } => {
                    deltas.push(parsed.content);
                    next = parent;
                }
            }
        }
    }

    /// The whole digests at a reference, one a page.
    pub(crate) async fn digests(&mut self, at: ChunkReference) -> Result<Vec<PageDigest>> {
        let damaged = |reason: &str| RestoreError::from(StoreError::damaged(at.pack, reason));
        let nonsense = || damaged("digests make no sense");
        let mut deltas = Vec::new();
        let mut next = at;
        let mut whole = loop {
            let bytes = self.pack(next.pack).await?.chunk(next.number, self.repository)?;
            match decode_digests(&bytes, Err) {
                Ok(Some(whole)) => break whole.content,
                Ok(None) => return Err(nonsense()),
                Err(_) if deltas.len() >= usize::from(PAGE_MAP_DEPTH_MAX) => {
                    return Err(damaged("a chain of page maps is too long"));
                }
                Err(parent) => {
                    deltas.push(bytes);
                    next = parent;
                }
            }
        };
        for delta in deltas.iter().rev() {
            let parsed = decode_digests(delta, |_| Ok::<Digests, ChunkReference>(std::mem::take(&mut whole)));
            whole = parsed.ok().flatten().ok_or_else(nonsense)?.content;
        }
        Ok(whole.pages)
    }
}
