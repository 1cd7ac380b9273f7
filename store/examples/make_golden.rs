//! Writes the frozen repository of format 1 that `tests/golden.rs` reads for ever: run once for each format version, by hand, into
//! an empty directory. `cargo run -p store --example make_golden -- DIRECTORY`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pg::lsn::Lsn;
use pg::segment::SegmentSize;
use pg::timeline::TimelineId;
use store::StoreError;
use store::envelope::{Kind, WalFacts};
use store::file_table::{EntryClass, EntryType, FileEntry};
use store::id::{BackupId, LineageId};
use store::index::ChunkIndex;
use store::keys::file::{read_host, write_host, write_opening};
use store::keys::{Role, SigningKey};
use store::layout::WalRange;
use store::manifest::Manifest;
use store::object::local::LocalStore;
use store::pipeline::commit::{put_index, put_intent, put_manifest};
use store::pipeline::{BelieveAll, FileJob, Listed, PackFilter, Parent, Pipeline, PipelineInputs, Progress};
use store::records::{Intent, Lineage};
use store::repository::{NewObject, NewRepository, Repository, Writer, create};
use store::session::{Purpose, Session};
use store::testing::manifest::empty_manifest;
use store::wal_object;

type Failure = Box<dyn std::error::Error>;

const NOW_US: i64 = 1_795_000_000_000_000;

/// Bytes that look random and are always the same.
fn noise(seed: &str, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new()
        .update(seed.as_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

/// Pages of a relation file: text that compresses, one page of zero bytes, noise; `changed` gives some pages other content.
fn relation(pages: u32, changed: &[u32]) -> Vec<u8> {
    let mut out = Vec::new();
    for page in 0..pages {
        let generation = if changed.contains(&page) { "second" } else { "first" };
        out.extend(match page % 7 {
            6 => vec![0; 8192],
            3 => noise(&format!("{generation} {page}"), 8192),
            _ => format!("{generation} content of page {page}; ")
                .bytes()
                .cycle()
                .take(8192)
                .collect(),
        });
    }
    out
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let directory = PathBuf::from(std::env::args().nth(1).ok_or("name a directory")?);
    let keys = directory.join("keys");
    std::fs::create_dir_all(&keys)?;
    let store = Arc::new(LocalStore::create(directory.join("repository"))?);
    let new = NewRepository {
        cluster: "golden",
        host: "host",
        now_us: NOW_US,
        now_text: "2026-11-18T12:26:40Z",
        creator: "seawall golden",
    };
    let (_, repository) = create(store, new, |created| {
        write_opening(&keys.join("restore.key"), Role::Restore, &created.restore)?;
        write_opening(&keys.join("maintenance.key"), Role::Maintenance, &created.maintenance)?;
        write_host(&keys.join("host.key"), &created.host)
    })
    .await?;
    let host = read_host(&keys.join("host.key"))?;
    let signing = Arc::new(SigningKey::from_seed(host.signing.seed().clone())?);
    let writer = Arc::new(Writer::new(Arc::clone(&repository), signing, 0));
    let lineage = LineageId::from_parts(u64::try_from(NOW_US / 1000)?, [7; 10]);
    write_lineage(&writer, lineage).await?;
    write_wal(&repository, &writer, lineage).await?;
    for (number, changed) in [(1u8, &[][..]), (2, &[5, 17, 40][..])] {
        let session = repository.begin_session(lineage, Purpose::Backup)?;
        let data = directory.join("data");
        write_data(&data, changed)?;
        write_backup(&repository, &writer, session, lineage, number, &data).await?;
    }
    std::fs::remove_dir_all(directory.join("data"))?;
    println!("wrote {}", directory.display());
    Ok(())
}

async fn write_lineage(writer: &Writer, id: LineageId) -> Result<(), Failure> {
    let lineage = Lineage {
        id,
        system_identifier: 7_300_000_000_000_000_001,
        server_version: 150_018,
        segment_bytes: 1 << 20,
        parent: None,
        fork_lsn: None,
        reason: "init".into(),
        created_us: NOW_US,
        timeline: 1,
        begin_lsn: 0x10_0000,
    };
    let plain = minicbor::to_vec(&lineage)?;
    let object = NewObject {
        lineage: Some(id),
        ..NewObject::metadata(Kind::Lineage, &plain, NOW_US)
    };
    writer.put(&writer.repository().layout().lineage(id)?, object).await?;
    Ok(())
}

async fn write_wal(repository: &Repository, writer: &Writer, lineage: LineageId) -> Result<(), Failure> {
    let size = SegmentSize::new(1 << 20)?;
    let timeline = TimelineId::new(1).ok_or("timeline")?;
    let session = repository.begin_session(lineage, Purpose::Wal)?;
    let wal: Vec<u8> = b"this stands for WAL "
        .iter()
        .copied()
        .cycle()
        .take(0x10_0000 + 0x2000)
        .collect();
    for (from, to, tail) in [(0, 0x10_0000, false), (0x10_0000, 0x10_2000, true)] {
        let at = |offset: u64| Lsn::new(0x10_0000 + offset);
        let range = WalRange {
            lineage,
            timeline,
            start: at(from),
            end: at(to),
            epoch: 0,
            tail,
        };
        let facts = WalFacts {
            first_record: Some(at(from).as_u64() + 40),
            time_highest_us: Some(NOW_US),
            ..WalFacts::default()
        };
        let plain = wal.get(usize::try_from(from)?..usize::try_from(to)?).ok_or("range")?;
        let encoded = wal_object::encode(writer, &session, &range, size, facts, plain, NOW_US)?;
        writer.create(&encoded.name, encoded.bytes, encoded.digest).await?;
    }
    Ok(())
}

fn write_data(data: &Path, changed: &[u32]) -> Result<(), Failure> {
    std::fs::create_dir_all(data.join("base/5"))?;
    std::fs::write(data.join("base/5/16384"), relation(64, changed))?;
    std::fs::write(data.join("PG_VERSION"), "15\n")?;
    std::fs::write(data.join("content"), noise("content", 300_000))?;
    Ok(())
}

async fn write_backup(
    repository: &Arc<Repository>,
    writer: &Arc<Writer>,
    session: Session,
    lineage: LineageId,
    number: u8,
    data: &Path,
) -> Result<(), Failure> {
    let backup = BackupId::from_parts(u64::try_from(NOW_US / 1000)? + u64::from(number), [number; 10]);
    put_intent(
        writer,
        &Intent {
            backup,
            host: "host".into(),
            begun_us: NOW_US,
        },
    )
    .await?;
    let parent = match repository.backup_ids().await?.last() {
        Some(id) => Some(Parent::load(repository, Some(repository.manifest(*id).await?), None).await?),
        None => None,
    };
    let parent_id = parent.as_ref().and_then(|parent| Some(parent.manifest()?.backup));
    let index: ChunkIndex = repository.chunk_index().await?;
    let mut pipeline = Pipeline::start(PipelineInputs {
        backup,
        pace: Arc::default(),
        writer: Arc::clone(writer),
        session,
        lineage,
        parent,
        index,
        filter: PackFilter::default(),
        check: Arc::new(BelieveAll),
        jobs: 1,
        uploads_in_flight: 1,
        milestones_every: std::time::Duration::from_secs(3600),
        progress: Arc::new(Progress::default()),
        now_us: Arc::new(|| NOW_US),
    })?;
    let job = |path: &str, class| FileJob {
        path: path.as_bytes().to_vec(),
        on_disk: data.join(path),
        mode: 0o600,
        size: 0,
        class,
        first_block: 0,
        is_judged: true,
        may_vanish: false,
        attributes: None,
    };
    let listed = [
        Listed::File(job("PG_VERSION", EntryClass::Content)),
        Listed::Entry(FileEntry::bare(b"base".to_vec(), EntryType::Directory, 0o700)),
        Listed::File(job("base/5/16384", EntryClass::Relation)),
        Listed::File(job("content", EntryClass::Content)),
    ];
    drop(pipeline.copy(listed.into_iter().map(Ok)).await?);
    let outcome = pipeline.finish().await?;
    put_index(writer, backup, &outcome.index, NOW_US).await?;
    put_manifest(writer, &manifest(backup, lineage, parent_id, &outcome)).await?;
    Ok::<(), StoreError>(())?;
    Ok(())
}

fn manifest(
    backup: BackupId,
    lineage: LineageId,
    parent: Option<BackupId>,
    outcome: &store::pipeline::Outcome,
) -> Manifest {
    Manifest {
        start_lsn: 0x10_0028,
        end_lsn: 0x10_0100,
        started_us: NOW_US,
        finished_us: NOW_US,
        server_version: 150_018,
        system_identifier: 7_300_000_000_000_000_001,
        segment_bytes: 1 << 20,
        backup_label: b"label".to_vec().into(),
        file_table: outcome.file_table.clone(),
        packs: outcome.packs.clone(),
        totals: outcome.totals,
        settings: std::collections::BTreeMap::from([("max_connections".to_owned(), "100".to_owned())]),
        parent,
        ..empty_manifest(backup, lineage)
    }
}
