//! The first backup of a cluster of relation files of 1 GiB, as two workers would have left it.
//!
//! Real: keys, lineage, WAL, intent, page maps, file table, manifest. Data packs, and the metadata packs of all page digests but
//! [`DIGEST_CHUNKS`], are names with a length: digests of one file stand in for those of many, since they are read one file after the other.

use pg::lsn::Lsn;
use pg::segment::SegmentSize;
use pg::timeline::TimelineId;
use store::chunk::{ChunkKind, ChunkReference, EncodedChunk};
use store::codec::{Codec, Compressor};
use store::envelope::{Kind, WalFacts};
use store::file_table::{EntryClass, EntryType, FileEntry, encode_piece, ends_piece};
use store::id::{BackupId, Digest, PackId, PageDigest};
use store::layout::WalRange;
use store::limits::{
    METADATA_PACK_BYTES, PACK_BYTES, PAGE_BYTES, RELATION_CHUNK_BYTES_MAX, RELATION_CHUNK_PAGES_MAX,
    RELATION_ZSTD_LEVEL, WAL_ZSTD_LEVEL,
};
use store::manifest::{Manifest, PackNeed, Totals};
use store::pack::{PackBody, PackWriter};
use store::page_map::{Extent, Extents, Form, Source, encode_digests_whole, encode_extents};
use store::pipeline::commit;
use store::records::{Intent, Lineage};
use store::repository::{NewObject, Writer};
use store::seal::TAG_BYTES;
use store::session::Purpose;
use store::testing::bytes_of;
use store::testing::manifest::empty_manifest;
use store::wal_object;

use super::hollow::sparse;
use super::place::{Failed, Place, SERVER_VERSION, SYSTEM};
use crate::dataset::{Dataset, Random};

/// Pages of one file: 1 GiB.
pub const FILE_PAGES: u32 = 131_072;
/// Files whose page digests exist.
pub const DIGEST_CHUNKS: u32 = 16;
/// Pages that are read at once.
pub const UNIT_PAGES: u32 = 128;
/// Units that one worker reads one after the other.
const STRETCH_UNITS: u32 = 16;
const UNIT_CHUNKS: u64 = 8;
const FILE_CHUNKS: u64 = 8192;
const WAL_START: u64 = 0x100_0028;
const WAL_BYTES: usize = 8192;
const SEGMENT_BYTES: u64 = 16 << 20;

/// What a backup took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Built {
    /// Data packs.
    pub data_packs: u64,
    /// Metadata packs, with those that are names only.
    pub metadata_packs: u64,
    /// Bytes of data packs.
    pub data_bytes: u64,
    /// Bytes of extents and of the file table, in their packs.
    pub map_bytes: u64,
    /// Bytes of packs of page digests.
    pub digest_bytes: u64,
    /// Bytes of the manifest before it is compressed.
    pub manifest_bytes: u64,
    /// Extents of all files.
    pub extents: u64,
}

/// Path of a file, by its number from 0 on; in the order of numbers.
#[must_use]
pub fn path_of(file: u32) -> Vec<u8> {
    format!("base/5/{}", 10_000_000 + file).into_bytes()
}

/// One unit of relation pages, as a worker would read it.
#[must_use]
pub fn sample() -> Vec<u8> {
    Dataset::Mix.pages(UNIT_PAGES)
}

/// How many chunks of such pages fit into a pack.
fn chunks_of_pack() -> Result<u64, Failed> {
    let mut compressor = Compressor::new(RELATION_ZSTD_LEVEL)?;
    let (mut out, sample) = (Vec::new(), sample());
    for chunk in sample.chunks(RELATION_CHUNK_BYTES_MAX) {
        compressor.encode(chunk, &mut out)?;
    }
    let stored = out.len() / (sample.len() / RELATION_CHUNK_BYTES_MAX) + TAG_BYTES;
    // Each has an entry in the footer.
    Ok((PACK_BYTES / (stored + 48)) as u64)
}

/// Packs of metadata, as a packer fills them.
struct MetadataPacks<'a> {
    writer: &'a Writer,
    place: &'a Place,
    open: Option<PackWriter>,
    compressor: Compressor,
    needs: Vec<PackNeed>,
    now_us: i64,
}

impl MetadataPacks<'_> {
    async fn add(&mut self, kind: ChunkKind, plain: Vec<u8>) -> Result<ChunkReference, Failed> {
        let keys = self.writer.repository().keys().clone();
        let id = keys.metadata_chunk_id(kind as u8, &plain);
        let plain_bytes = u32::try_from(plain.len())?;
        let (mut payload, mut codec) = (plain, Codec::Stored);
        if kind != ChunkKind::Digests {
            let mut out = Vec::new();
            codec = self.compressor.encode(&payload, &mut out)?;
            payload = out;
        }
        let is_full = |pack: &PackWriter| pack.object_bytes_with(payload.len()) > METADATA_PACK_BYTES;
        if self.open.as_ref().is_some_and(is_full) {
            self.close().await?;
        }
        if self.open.is_none() {
            self.open = Some(PackWriter::metadata(&keys, self.place.lineage(), METADATA_PACK_BYTES)?);
        }
        let pack = self.open.as_mut().ok_or("no pack")?;
        let chunk = EncodedChunk {
            kind,
            id,
            plain_bytes,
            codec,
            payload,
        };
        let number = pack.append(chunk)?;
        Ok(ChunkReference {
            pack: pack.id(),
            number,
        })
    }

    async fn close(&mut self) -> Result<(), Failed> {
        let Some(pack) = self.open.take() else { return Ok(()) };
        let body = pack.finish(self.writer.repository().keys())?;
        self.needs.push(need_of(&body));
        put_pack(self.writer, body, None, self.now_us).await
    }
}

fn need_of(body: &PackBody) -> PackNeed {
    let stored = body.footer.entries.iter().map(|entry| u64::from(entry.stored_bytes));
    PackNeed {
        id: body.id,
        kind: body.kind as u8,
        body_bytes: body.body().len() as u64,
        live_bytes: stored.sum(),
    }
}

async fn put_pack(
    writer: &Writer,
    body: PackBody,
    session: Option<&store::session::Session>,
    now_us: i64,
) -> Result<(), Failed> {
    let digest = body.digest;
    let (name, bytes) = writer.encode_pack(body, session, now_us)?;
    writer.create(&name, bytes, digest).await?;
    Ok(())
}

/// Ids of packs that are names only, below all real ones of [`last_pack`].
fn names(seed: u64, count: u64) -> Vec<PackId> {
    let mut random = Random(seed);
    let mut id = || {
        let mut bytes = (u128::from(random.number()) << 64 | u128::from(random.number())).to_le_bytes();
        bytes[0] %= 0xF0;
        PackId(bytes)
    };
    (0..count).map(|_| id()).collect()
}

fn name_packs(place: &Place, writer: &Writer, ids: &[PackId], bytes: u64) -> Result<(), Failed> {
    for id in ids {
        let name = writer.repository().layout().pack(*id)?;
        sparse(&place.repo().join(name.as_str()), bytes)?;
    }
    Ok(())
}

/// Where the pages of a file are: units of two stretches alternate, each unit eight whole chunks, and packs end where they end.
fn extents_of(file: u32, chunks_of_pack: u64, packs: &[PackId]) -> Result<Extents, Failed> {
    let mut map = Extents::default();
    let units = FILE_PAGES / UNIT_PAGES;
    for unit in 0..units {
        let (stretch, within) = (unit / STRETCH_UNITS, unit % STRETCH_UNITS);
        let order = stretch / 2 * (2 * STRETCH_UNITS) + within * 2 + stretch % 2;
        let first = u64::from(file) * FILE_CHUNKS + u64::from(order) * UNIT_CHUNKS;
        for chunk in 0..UNIT_CHUNKS {
            let (pack, number) = ((first + chunk) / chunks_of_pack, (first + chunk) % chunks_of_pack);
            let per_chunk = u32::try_from(RELATION_CHUNK_PAGES_MAX)?;
            map.push(Extent {
                first: unit * UNIT_PAGES + u32::try_from(chunk)? * per_chunk,
                count: per_chunk,
                source: Source::Pack {
                    pack: *packs.get(usize::try_from(pack)?).ok_or("too few packs")?,
                    chunk: u32::try_from(number)?,
                    page: 0,
                },
            });
        }
    }
    Ok(map)
}

/// Makes the repository and a backup of so many files in it.
///
/// # Errors
/// Anything that fails.
pub async fn build(place: &Place, files: u32, now_us: i64) -> Result<Built, Failed> {
    place.create(now_us).await?;
    let writer = place.as_host(place.store()?).await?;
    let backup = BackupId::from_parts(u64::try_from(now_us / 1000)?, [1; 10]);
    let intent = Intent {
        backup,
        host: "bench".into(),
        begun_us: now_us,
    };
    put_lineage(place, &writer, now_us).await?;
    put_wal(place, &writer, now_us).await?;
    commit::put_intent(&writer, &intent).await?;
    let chunks_of_pack = chunks_of_pack()?;
    let data = names(1, (u64::from(files) * FILE_CHUNKS).div_ceil(chunks_of_pack));
    name_packs(place, &writer, &data, PACK_BYTES as u64)?;
    let mut packs = MetadataPacks {
        writer: &writer,
        place,
        open: None,
        compressor: Compressor::new(WAL_ZSTD_LEVEL)?,
        needs: Vec::new(),
        now_us,
    };
    let mut digests = Vec::new();
    for file in 0..files.min(DIGEST_CHUNKS) {
        let random = bytes_of(u64::from(file) + 100, FILE_PAGES as usize * 16);
        let pages: Vec<PageDigest> = random.as_chunks::<16>().0.iter().copied().map(PageDigest).collect();
        digests.push(packs.add(ChunkKind::Digests, encode_digests_whole(&pages)).await?);
    }
    packs.close().await?;
    let digest_pack_bytes = packs.needs.iter().map(|need| need.body_bytes).max().unwrap_or(0);
    let (table, extents) = files_of(&mut packs, files, chunks_of_pack, &data, &digests).await?;
    packs.close().await?;
    let map_bytes = packs.needs.iter().skip(digests.len()).map(|need| need.body_bytes).sum();
    let mut needs = packs.needs;
    let more_digests = names(2, u64::from(files.saturating_sub(DIGEST_CHUNKS)));
    name_packs(place, &writer, &more_digests, digest_pack_bytes + 4096)?;
    let named = |id: &PackId, kind: Kind, bytes: u64| PackNeed {
        id: *id,
        kind: kind as u8,
        body_bytes: bytes,
        live_bytes: bytes - bytes / 20,
    };
    needs.extend(
        more_digests
            .iter()
            .map(|id| named(id, Kind::MetadataPack, digest_pack_bytes)),
    );
    let metadata_packs = needs.len() as u64;
    needs.extend(
        data.iter()
            .map(|id| named(id, Kind::DataPack, PACK_BYTES as u64 - 4096)),
    );
    needs.push(last_pack(place, &writer, now_us).await?);
    needs.sort_unstable_by_key(|need| need.id);
    let manifest = manifest_of(place, backup, now_us, table, needs, files);
    let manifest_bytes = minicbor::to_vec(&manifest)?.len() as u64;
    commit::put_manifest(&writer, &manifest).await?;
    Ok(Built {
        data_packs: data.len() as u64,
        metadata_packs,
        data_bytes: data.len() as u64 * PACK_BYTES as u64,
        map_bytes,
        digest_bytes: u64::from(files) * digest_pack_bytes,
        manifest_bytes,
        extents,
    })
}

/// Page maps and file table; the pieces of the table, and how many extents there are.
async fn files_of(
    packs: &mut MetadataPacks<'_>,
    files: u32,
    chunks_of_pack: u64,
    data: &[PackId],
    digests: &[ChunkReference],
) -> Result<(Vec<ChunkReference>, u64), Failed> {
    let directory = |path: &str| FileEntry::bare(path.into(), EntryType::Directory, 0o700);
    let mut piece = vec![directory("base"), directory("base/5")];
    let (mut table, mut extents) = (Vec::new(), 0);
    for file in 0..files {
        let map = extents_of(file, chunks_of_pack, data)?;
        extents += map.runs.len() as u64;
        let at = packs
            .add(ChunkKind::Extents, encode_extents(Form::Whole, map.pages, &map.runs)?)
            .await?;
        let path = path_of(file);
        let is_end = ends_piece(&path, piece.len() + 1);
        piece.push(FileEntry {
            size: u64::from(FILE_PAGES) * PAGE_BYTES as u64,
            class: EntryClass::Relation,
            extents: Some(at),
            digests: digests.get((file % DIGEST_CHUNKS) as usize).copied(),
            crc32c: Some(0),
            ..FileEntry::bare(path, EntryType::File, 0o600)
        });
        if is_end || file + 1 == files {
            let bytes = encode_piece(&std::mem::take(&mut piece))?;
            table.push(packs.add(ChunkKind::FileTable, bytes).await?);
        }
    }
    Ok((table, extents))
}

/// The data pack with the highest id is one that can be opened: a restore looks whether its key still fits.
async fn last_pack(place: &Place, writer: &Writer, now_us: i64) -> Result<PackNeed, Failed> {
    let session = writer.repository().begin_session(place.lineage(), Purpose::Backup)?;
    let mut pack = PackWriter::spare(PackId([0xFF; 16]), session.key(), place.lineage(), Vec::new())?;
    pack.append(EncodedChunk {
        kind: ChunkKind::Relation,
        id: Digest::default(),
        plain_bytes: u32::try_from(PAGE_BYTES)?,
        codec: Codec::Stored,
        payload: vec![7; PAGE_BYTES],
    })?;
    let body = pack.finish(writer.repository().keys())?;
    let need = need_of(&body);
    put_pack(writer, body, Some(&session), now_us).await?;
    Ok(need)
}

async fn put_lineage(place: &Place, writer: &Writer, now_us: i64) -> Result<(), Failed> {
    let lineage = Lineage {
        id: place.lineage(),
        system_identifier: SYSTEM,
        server_version: SERVER_VERSION,
        segment_bytes: SEGMENT_BYTES,
        parent: None,
        fork_lsn: None,
        reason: "bench".into(),
        created_us: now_us,
        timeline: 1,
        begin_lsn: WAL_START,
    };
    let name = writer.repository().layout().lineage(lineage.id)?;
    let plain = minicbor::to_vec(&lineage)?;
    let object = NewObject {
        lineage: Some(lineage.id),
        ..NewObject::metadata(Kind::Lineage, &plain, now_us)
    };
    writer.put(&name, object).await?;
    Ok(())
}

/// The WAL of all backups here: one range, whose bytes nobody reads.
async fn put_wal(place: &Place, writer: &Writer, now_us: i64) -> Result<(), Failed> {
    let session = writer.repository().begin_session(place.lineage(), Purpose::Wal)?;
    let size = SegmentSize::new(SEGMENT_BYTES)?;
    let range = WalRange {
        lineage: place.lineage(),
        timeline: TimelineId::FIRST,
        start: Lsn::new(SEGMENT_BYTES),
        end: Lsn::new(SEGMENT_BYTES + WAL_BYTES as u64),
        epoch: 0,
        tail: false,
    };
    let plain = vec![0; WAL_BYTES];
    let encoded = wal_object::encode(writer, &session, &range, size, WalFacts::default(), &plain, now_us)?;
    writer.create(&encoded.name, encoded.bytes, encoded.digest).await?;
    Ok(())
}

/// A manifest of these packs and files.
#[must_use]
pub fn manifest_of(
    place: &Place,
    backup: BackupId,
    now_us: i64,
    file_table: Vec<ChunkReference>,
    packs: Vec<PackNeed>,
    files: u32,
) -> Manifest {
    let pages = u64::from(files) * u64::from(FILE_PAGES);
    Manifest {
        start_lsn: WAL_START,
        end_lsn: WAL_START + 0x100,
        started_us: now_us,
        finished_us: now_us,
        server_version: SERVER_VERSION,
        system_identifier: SYSTEM,
        totals: Totals {
            logical_bytes: pages * PAGE_BYTES as u64,
            files: u64::from(files),
            pages,
            needed_bytes: packs.iter().map(|need| need.live_bytes).sum(),
            ..Totals::default()
        },
        file_table,
        packs,
        ..empty_manifest(backup, place.lineage())
    }
}
