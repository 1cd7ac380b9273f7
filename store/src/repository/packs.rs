//! Metadata out of packs: page maps with what they are deltas upon, file tables.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};

use super::Repository;
use super::parts::FetchedPack;
use crate::chunk::ChunkReference;
use crate::error::StoreError;
use crate::file_table::{FileEntry, decode_chunk_list, decode_piece};
use crate::id::PackId;
use crate::manifest::Manifest;
use crate::page_map::{Digests, Extents, Form, decode_digests, decode_extents};

/// Metadata packs kept in memory.
const RECENT_PACKS: usize = 3;

/// The last few metadata packs.
#[derive(Debug, Default)]
pub(super) struct RecentPacks {
    packs: HashMap<PackId, Arc<FetchedPack>>,
    order: VecDeque<PackId>,
}

impl Repository {
    /// A metadata chunk, checked. Recently used packs are kept.
    ///
    /// # Errors
    /// As [`Repository::fetch_pack`].
    pub async fn metadata_chunk(&self, at: ChunkReference) -> Result<Vec<u8>, StoreError> {
        let recent = {
            let recent = self.metadata_packs.lock().unwrap_or_else(PoisonError::into_inner);
            recent.packs.get(&at.pack).cloned()
        };
        let pack = match recent {
            Some(pack) => pack,
            None => {
                let pack = Arc::new(self.fetch_pack(at.pack).await?);
                let mut recent = self.metadata_packs.lock().unwrap_or_else(PoisonError::into_inner);
                recent.packs.insert(at.pack, Arc::clone(&pack));
                recent.order.push_back(at.pack);
                if recent.order.len() > RECENT_PACKS
                    && let Some(oldest) = recent.order.pop_front()
                {
                    recent.packs.remove(&oldest);
                }
                pack
            }
        };
        pack.chunk(at.number, self)
    }

    /// The whole extents stored at a reference, parents applied; and the packs of metadata that were needed for it.
    ///
    /// # Errors
    /// Damaged, or a parent is missing.
    pub async fn extents(&self, at: ChunkReference) -> Result<(Extents, u16, Vec<ChunkReference>), StoreError> {
        let mut needed = Vec::new();
        let mut deltas = Vec::new();
        let mut next = at;
        let mut depth_here = 0;
        loop {
            needed.push(next);
            let bytes = self.metadata_chunk(next).await?;
            let parsed =
                decode_extents(&bytes).ok_or_else(|| StoreError::damaged(next.pack, "extents make no sense"))?;
            match parsed.form {
                Form::Whole => {
                    let whole = deltas
                        .iter()
                        .rev()
                        .fold(parsed.content, |base: Extents, delta| base.with_delta(delta));
                    if !whole.is_whole() {
                        return Err(StoreError::damaged(at.pack, "extents do not cover their file"));
                    }
                    return Ok((whole, depth_here, needed));
                }
                Form::Delta { parent, depth } => {
                    if next == at {
                        depth_here = depth;
                    }
                    if needed.len() > usize::from(crate::limits::PAGE_MAP_DEPTH_MAX) {
                        return Err(StoreError::damaged(at.pack, "a chain of page maps is too long"));
                    }
                    deltas.push(parsed.content);
                    next = parent;
                }
            }
        }
    }

    /// The whole digests stored at a reference, parents applied.
    ///
    /// # Errors
    /// Damaged, or a parent is missing.
    pub async fn digests(&self, at: ChunkReference) -> Result<(Digests, u16, Vec<ChunkReference>), StoreError> {
        let mut chain = Vec::new();
        let mut needed = vec![at];
        let mut next = at;
        let nonsense = |at: ChunkReference| StoreError::damaged(at.pack, "digests make no sense");
        let (mut base, depth_here) = loop {
            let bytes = self.metadata_chunk(next).await?;
            let mut parent = None;
            let parsed = decode_digests::<()>(&bytes, |asked| {
                parent = Some(asked);
                Err(())
            });
            match (parsed, parent) {
                (Err(()), Some(asked)) => {
                    chain.push(bytes);
                    needed.push(asked);
                    next = asked;
                }
                (Ok(Some(whole)), _) => break (whole.content, u16::try_from(chain.len()).unwrap_or(u16::MAX)),
                _ => return Err(nonsense(next)),
            }
            if chain.len() > usize::from(crate::limits::PAGE_MAP_DEPTH_MAX) {
                return Err(nonsense(at));
            }
        };
        for bytes in chain.iter().rev() {
            let parsed = decode_digests::<std::convert::Infallible>(bytes, |_| Ok(std::mem::take(&mut base)));
            base = match parsed {
                Ok(Some(parsed)) => parsed.content,
                _ => return Err(nonsense(at)),
            };
        }
        Ok((base, depth_here, needed))
    }

    /// The file table of a backup, with chunk lists resolved into `content`.
    ///
    /// # Errors
    /// Damaged.
    pub async fn file_table(&self, manifest: &Manifest) -> Result<Vec<FileEntry>, StoreError> {
        let mut table = Vec::new();
        for piece in &manifest.file_table {
            let name = format!("{}/{}", piece.pack, piece.number);
            table.extend(decode_piece(&name, &self.metadata_chunk(*piece).await?)?);
        }
        for entry in &mut table {
            if let Some(list) = entry.content_list {
                let name = format!("{}/{}", list.pack, list.number);
                entry.content = decode_chunk_list(&name, &self.metadata_chunk(list).await?)?;
            }
        }
        Ok(table)
    }
}
