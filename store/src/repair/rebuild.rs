//! Making lost chunks anew: from the live cluster, and indexes from the footers of packs.

use bytes::Bytes;

use super::places::{ChunkPlaces, Places};
use crate::chunk::{ChunkKind, ChunkReference, ContentReference};
use crate::codec::Compressor;
use crate::envelope::Kind;
use crate::error::StoreError;
use crate::id::{BackupId, Digest, LineageId, PackId};
use crate::index::ChunkIndex;
use crate::keys::ClusterKeys;
use crate::limits::{PAGE_BYTES, RELATION_CHUNK_PAGES_MAX, RELATION_ZSTD_LEVEL};
use crate::manifest::Manifest;
use crate::object::ObjectName;
use crate::pack::{FooterEntry, PackWriter, room_bytes};
use crate::pipeline::{commit, encode};
use crate::repository::{Repository, Writer};
use crate::session::{Purpose, Session};
use crate::verify::is_wrong;

/// A pack as far as it could be made anew.
#[derive(Debug)]
pub struct Rebuilt {
    /// The object: to be stored as a spare, or under its own name where nothing is and nothing of it is missing.
    pub bytes: Bytes,
    /// Chunks that are in it.
    pub held: u32,
    /// Chunks that the pack had, as far as is known.
    pub chunks: u32,
}

/// Makes a data pack anew from files that are as they were when it was written. `read` gives so many bytes of a file of the backup from an
/// offset on, when it has them. None when nothing of it is left.
///
/// # Errors
/// The store failed; or it cannot be sealed.
pub async fn rebuild_pack(
    writer: &Writer,
    (pack, lineage): (PackId, LineageId),
    places: &Places,
    read: impl FnMut(&[u8], u64, usize) -> Option<Vec<u8>>,
    now_us: i64,
) -> Result<Option<Rebuilt>, StoreError> {
    let repository = writer.repository();
    let name = repository.layout().pack(pack)?;
    let left = repository.head_left_of(&name).await?;
    if left.as_ref().is_some_and(|(head, _)| head.kind != Kind::DataPack) {
        return Ok(None);
    }
    let shape = match repository.pack_facts(pack).await {
        Ok(facts) => Shape {
            lineage: facts.lineage().unwrap_or(lineage),
            entries: facts.footer.entries,
        },
        Err(error) if is_wrong(&error) => Shape {
            lineage,
            entries: derived(pack, places, repository.keys()),
        },
        Err(error) => return Err(error),
    };
    let session = repository.begin_session(shape.lineage, Purpose::Backup)?;
    let digest = left.map(|(_, header)| header.digest);
    shape.fill(writer, (pack, digest), &session, places, read, now_us)
}

/// Which chunks a pack had.
struct Shape {
    lineage: LineageId,
    entries: Vec<FooterEntry>,
}

impl Shape {
    fn fill(
        &self,
        writer: &Writer,
        (pack, digest): (PackId, Option<Digest>),
        session: &Session,
        places: &Places,
        mut read: impl FnMut(&[u8], u64, usize) -> Option<Vec<u8>>,
        now_us: i64,
    ) -> Result<Option<Rebuilt>, StoreError> {
        let keys = writer.repository().keys();
        let (mut compressor, mut scratch) = (Compressor::new(RELATION_ZSTD_LEVEL)?, Vec::new());
        let room = Vec::with_capacity(room_bytes(0));
        let mut spare = PackWriter::spare(pack, session.key(), self.lineage, room)?;
        let mut held = 0;
        for (number, entry) in (0..).zip(&self.entries) {
            let known = places.chunks.get(&ChunkReference { pack, number });
            match known.and_then(|places| plain_of(places, entry, keys, &mut read)) {
                Some(plain) => {
                    spare.append(encode(&mut compressor, &mut scratch, entry.kind, entry.id, &plain)?)?;
                    held += 1;
                }
                None => spare.append_absent(entry),
            }
        }
        if held == 0 {
            return Ok(None);
        }
        let spare = spare.finish(keys)?;
        // Its signed header tells of which chunks the pack was: others do not count.
        if digest.is_some_and(|digest| digest != spare.digest) {
            return Ok(None);
        }
        let (_, bytes) = writer.encode_pack(spare, Some(session), now_us)?;
        Ok(Some(Rebuilt {
            bytes,
            held,
            chunks: u32::try_from(self.entries.len()).unwrap_or(u32::MAX),
        }))
    }
}

/// What is known of a pack whose footer is lost: the chunks that backups need of it, named by what page maps and indexes say.
fn derived(pack: PackId, places: &Places, keys: &ClusterKeys) -> Vec<FooterEntry> {
    let of_pack = ChunkReference { pack, number: 0 }..=ChunkReference { pack, number: u32::MAX };
    let mut entries = Vec::new();
    for (at, places) in places.chunks.range(of_pack) {
        entries.resize(at.number as usize, nothing(ChunkKind::Relation));
        entries.push(places.derived(keys).unwrap_or(nothing(ChunkKind::Relation)));
    }
    entries
}

fn nothing(kind: ChunkKind) -> FooterEntry {
    FooterEntry {
        id: Digest::default(),
        at: 0,
        stored_bytes: 0,
        plain_bytes: 0,
        kind,
        codec: crate::codec::Codec::Stored,
    }
}

impl ChunkPlaces {
    fn derived(&self, keys: &ClusterKeys) -> Option<FooterEntry> {
        if let (Some(id), Some(plain_bytes)) = (self.id, self.plain_bytes) {
            return Some(FooterEntry {
                id,
                plain_bytes,
                ..nothing(ChunkKind::Content)
            });
        }
        let mut digests = vec![None; RELATION_CHUNK_PAGES_MAX];
        for here in &self.pages {
            for (slot, digest) in digests.iter_mut().skip(here.page as usize).zip(&here.digests) {
                *slot = Some(*digest);
            }
        }
        // As long as its last page that somebody needs; before it, none may be unknown.
        let pages = digests.iter().rposition(Option::is_some)? + 1;
        let digests: Vec<_> = digests.into_iter().take(pages).collect::<Option<_>>()?;
        Some(FooterEntry {
            id: keys.relation_chunk_id(&digests),
            plain_bytes: u32::try_from(pages * PAGE_BYTES).ok()?,
            ..nothing(ChunkKind::Relation)
        })
    }
}

/// A chunk's plaintext, when it is still somewhere as its id says.
fn plain_of(
    places: &ChunkPlaces,
    entry: &FooterEntry,
    keys: &ClusterKeys,
    read: &mut impl FnMut(&[u8], u64, usize) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    match entry.kind {
        ChunkKind::Content => places.content.iter().find_map(|(path, offset)| {
            let plain = read(path, *offset, entry.plain_bytes as usize)?;
            (keys.content_chunk_id(&plain) == entry.id).then_some(plain)
        }),
        ChunkKind::Relation => {
            let pages = entry.plain_bytes as usize / PAGE_BYTES;
            let mut plain: Vec<Option<Vec<u8>>> = vec![None; pages];
            let mut digests = vec![Default::default(); pages];
            for here in &places.pages {
                for ((at, page), digest) in (here.first..).zip(here.page as usize..).zip(&here.digests) {
                    let Some(slot) = plain.get_mut(page).filter(|slot| slot.is_none()) else {
                        continue;
                    };
                    let found = read(&here.path, u64::from(at) * PAGE_BYTES as u64, PAGE_BYTES);
                    *slot = found.filter(|found| keys.page_digest(found) == *digest);
                    if let Some(known) = digests.get_mut(page) {
                        *known = *digest;
                    }
                }
            }
            let plain: Vec<Vec<u8>> = plain.into_iter().collect::<Option<_>>()?;
            (keys.relation_chunk_id(&digests) == entry.id).then(|| plain.concat())
        }
        _ => None,
    }
}

/// Stores an index of the content chunks of the packs that a backup needs, as far as footers can be read and no index names them. It gets a name
/// of its own: indexes are read together. None when there are none.
///
/// # Errors
/// The store failed.
pub async fn rebuild_index(
    writer: &Writer,
    manifest: &Manifest,
    dry_run: bool,
    now_us: i64,
) -> Result<Option<ObjectName>, StoreError> {
    let repository: &Repository = writer.repository();
    let known = repository.chunk_index().await?;
    let mut index = ChunkIndex::default();
    for need in manifest.packs.iter().filter(|need| need.kind == Kind::DataPack as u8) {
        let facts = match repository.pack_facts(need.id).await {
            Ok(facts) => facts,
            // What it does not name is stored anew.
            Err(error) if is_wrong(&error) => continue,
            Err(error) => return Err(error),
        };
        for (number, entry) in (0..).zip(&facts.footer.entries) {
            if entry.kind == ChunkKind::Content && entry.is_held() && known.get(&entry.id).is_none() {
                let at = ContentReference {
                    pack: need.id,
                    number,
                    plain_bytes: entry.plain_bytes,
                };
                index.insert(entry.id, at);
            }
        }
    }
    if index.is_empty() {
        return Ok(None);
    }
    let unix_ms = u64::try_from(now_us / 1000).unwrap_or(0);
    let id = BackupId::from_parts(unix_ms, crate::entropy::bytes()?);
    if !dry_run {
        commit::put_index(writer, id, &index, now_us).await?;
    }
    Ok(Some(repository.layout().index(id)?))
}
