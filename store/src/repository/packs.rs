//! Metadata out of packs: single chunks and file tables. Page maps are `maps`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};

use super::Repository;
use super::parts::FetchedPack;
use crate::chunk::ChunkReference;
use crate::error::StoreError;
use crate::file_table::{FileEntry, decode_chunk_list, decode_piece};
use crate::id::PackId;
use crate::manifest::Manifest;

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
