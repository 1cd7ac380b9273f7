//! Reading packs: whole where most of it is needed, by ranges where little is.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::{ReadObject, Repository};
use crate::chunk::ChunkReference;
use crate::envelope::Kind;
use crate::error::StoreError;
use crate::file_table::{FileEntry, decode_chunk_list, decode_piece};
use crate::id::PackId;
use crate::manifest::Manifest;
use crate::object::ByteRange;
use crate::pack::{ChunkOpener, Footer, FooterEntry, check_id, footer_bytes};
use crate::page_map::{Digests, Extents, Form, decode_digests, decode_extents};

/// Ranges closer together than this are fetched in one GET.
const COALESCE_BYTES: u64 = 256 << 10;
/// How much of the end of a pack is fetched to find its footer.
const FOOTER_GUESS_BYTES: u64 = 256 << 10;
/// Metadata packs kept in memory.
const RECENT_PACKS: usize = 3;

/// A pack, or the parts of it that were asked for.
#[derive(Debug)]
pub struct FetchedPack {
    name: String,
    opener: ChunkOpener,
    footer: Footer,
    /// Parts of the body: where they begin, and the bytes; sorted.
    parts: Vec<(u64, Bytes)>,
    fetched_bytes: u64,
}

/// The last few metadata packs.
#[derive(Debug, Default)]
pub(super) struct RecentPacks {
    packs: HashMap<PackId, Arc<FetchedPack>>,
    order: VecDeque<PackId>,
}

impl FetchedPack {
    /// What the footer says about a chunk.
    ///
    /// # Errors
    /// There is no such chunk.
    pub fn entry(&self, number: u32) -> Result<&FooterEntry, StoreError> {
        self.footer
            .entries
            .get(number as usize)
            .ok_or_else(|| StoreError::damaged(&self.name, format!("no chunk {number}")))
    }

    /// All entries.
    #[must_use]
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// Bytes that were read from the store.
    #[must_use]
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes
    }

    /// Plaintext of a chunk, decrypted and decompressed, not yet checked against its id.
    ///
    /// # Errors
    /// Damaged, or not among the parts that were fetched.
    pub fn chunk_unchecked(&self, number: u32) -> Result<Vec<u8>, StoreError> {
        let entry = self.entry(number)?;
        let (at, len) = (u64::from(entry.at), entry.stored_bytes as usize);
        let part = self
            .parts
            .partition_point(|(begin, _)| *begin <= at)
            .checked_sub(1)
            .and_then(|index| self.parts.get(index));
        let sealed = part.and_then(|(begin, bytes)| {
            let from = usize::try_from(at - begin).ok()?;
            bytes.get(from..from.checked_add(len)?)
        });
        let sealed =
            sealed.ok_or_else(|| StoreError::damaged(&self.name, format!("chunk {number} was not fetched")))?;
        self.opener.open(number, entry, sealed)
    }

    /// Plaintext of a chunk, checked against its id.
    ///
    /// # Errors
    /// As [`FetchedPack::chunk_unchecked`], or the content differs from the id.
    pub fn chunk(&self, number: u32, repository: &Repository) -> Result<Vec<u8>, StoreError> {
        let plain = self.chunk_unchecked(number)?;
        check_id(&self.name, self.entry(number)?, &plain, repository.keys())?;
        Ok(plain)
    }
}

impl Repository {
    /// Reads a whole pack with one GET.
    ///
    /// # Errors
    /// The store failed, or the pack is damaged.
    pub async fn fetch_pack(&self, id: PackId) -> Result<FetchedPack, StoreError> {
        let name = self.layout.pack(id)?;
        let ReadObject { head, header, body } = self.read(&name).await?;
        if !matches!(head.kind, Kind::DataPack | Kind::MetadataPack) {
            return Err(StoreError::damaged(&name, "not a pack"));
        }
        let footer = Footer::of_body(&head, &body, &self.keys)?;
        let session = self.session_secret(&head, &header)?;
        let opener = ChunkOpener::new(&head, header.lineage, session.as_ref(), &self.keys)?;
        Ok(FetchedPack {
            name: name.to_string(),
            opener,
            footer,
            fetched_bytes: head.object_bytes(),
            parts: vec![(0, body)],
        })
    }

    /// Reads some chunks of a pack: head, footer, then the ranges that hold them.
    ///
    /// # Errors
    /// As [`Repository::fetch_pack`].
    pub async fn fetch_chunks(&self, id: PackId, numbers: &[u32]) -> Result<FetchedPack, StoreError> {
        let name = self.layout.pack(id)?;
        let Some((head, header)) = self.read_header(&name).await? else {
            return Err(StoreError::damaged(&name, "the pack is missing"));
        };
        let body_end = head.body_start() + head.body_bytes;
        let slice = |start: u64, len: u64| ByteRange::Slice { start, len };
        let guess = FOOTER_GUESS_BYTES.min(head.body_bytes);
        let mut end = self.store.get(&name, slice(body_end - guess, guess)).await?;
        let sealed_bytes = footer_bytes(
            name.as_str(),
            end.get(end.len().saturating_sub(8)..).unwrap_or_default(),
        )? as u64;
        if sealed_bytes + 8 > head.body_bytes {
            return Err(StoreError::damaged(&name, "the footer claims more than the body"));
        }
        if sealed_bytes + 8 > guess {
            end = self
                .store
                .get(&name, slice(body_end - sealed_bytes - 8, sealed_bytes + 8))
                .await?;
        }
        let footer_at = end
            .len()
            .saturating_sub(usize::try_from(sealed_bytes).unwrap_or(usize::MAX) + 8);
        let footer = Footer::open(
            &head,
            end.get(footer_at..end.len().saturating_sub(8)).unwrap_or_default(),
            &self.keys,
        )?;
        let session = self.session_secret(&head, &header)?;
        let opener = ChunkOpener::new(&head, header.lineage, session.as_ref(), &self.keys)?;
        let mut parts = Vec::with_capacity(1);
        let mut fetched_bytes = 0;
        for (start, len) in coalesce(&footer, numbers) {
            fetched_bytes += len;
            parts.push((
                start,
                self.store.get(&name, slice(head.body_start() + start, len)).await?,
            ));
        }
        Ok(FetchedPack {
            name: name.to_string(),
            opener,
            footer,
            parts,
            fetched_bytes,
        })
    }

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

/// Ranges of the body that hold the chunks, joined where they are close.
fn coalesce(footer: &Footer, numbers: &[u32]) -> Vec<(u64, u64)> {
    let mut wanted: Vec<(u64, u64)> = numbers
        .iter()
        .filter_map(|number| footer.entries.get(*number as usize))
        .map(|entry| (u64::from(entry.at), u64::from(entry.at) + u64::from(entry.stored_bytes)))
        .collect();
    wanted.sort_unstable();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for (start, end) in wanted {
        match ranges.last_mut() {
            Some((_, last_end)) if start <= *last_end + COALESCE_BYTES => *last_end = (*last_end).max(end),
            _ => ranges.push((start, end)),
        }
    }
    ranges.into_iter().map(|(start, end)| (start, end - start)).collect()
}
