//! What does `prune` cost on a large repository: 100,000 packs and 1,000 backups of which each needs 20,000 of them, in a directory? Packs are
//! a few bytes each: nothing reads them. Manifests are as large as real ones.

use std::fs::File;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bench::measure::{memory_growth, once};
use bench::summary::Summary;
use store::id::{BackupId, LineageId, PackId};
use store::keys::SigningKey;
use store::manifest::{Manifest, PackNeed};
use store::object::local::LocalStore;
use store::pipeline::commit;
use store::prune::{Done, Looked, Plan, Policy, carry_out, mark_time, plan};
use store::records::Intent;
use store::repository::{Created, NewRepository, Repository, Writer, create};
use store::retention::Rules;
use store::testing::manifest::empty_manifest;
use store::testing::{RecordingStore, bytes_of};

const BACKUPS: usize = 1_000;
const PACKS: usize = 100_000;
/// Of each backup.
const PACKS_NEEDED: usize = 20_000;
const PACK_BYTES: u64 = 20 << 20;
const KEEP_LAST: u32 = 100;
const GRACE: Duration = Duration::from_secs(48 * 3600);
const MEMORY_MAX_MIB: f64 = 512.0;

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let directory = tempfile::tempdir()?;
    let root = directory.path().join("repo");
    let created = runtime.block_on(build(&root))?;
    println!("{PACKS} packs, {BACKUPS} backups of {PACKS_NEEDED} packs each; the newest {KEEP_LAST} are kept\n");
    let mut summary = Summary::default();
    for round in [
        "backups are given up",
        "they are seen to be gone",
        "their packs are deleted",
        "nothing is left to do",
    ] {
        let mut pruned = Err("nothing was done".into());
        let mut took = None;
        let memory = memory_growth(|| took = Some(once(|| pruned = runtime.block_on(prune(&root, &created)))));
        let (requests, done) = pruned?;
        println!("{round}: {} backups, {} objects", done.retired, done.objects);
        if let Some(took) = took {
            summary.add("  seconds", took.wall_s, "s", None);
            summary.add("  CPU", took.cpu_s, "s", None);
        }
        if let Some(bytes) = memory {
            let limit = Some((MEMORY_MAX_MIB, "the limit"));
            summary.add(
                "  growth of the process",
                bytes as f64 / f64::from(1 << 20),
                "MiB",
                limit,
            );
        }
        for (name, count) in [
            ("  GET and HEAD", requests.get + requests.head),
            ("  LIST", requests.list),
            ("  PUT", requests.put_new),
            ("  DELETE", requests.delete),
        ] {
            summary.add(name, count as f64, "requests", None);
        }
        age(&root)?;
    }
    println!("\nwritten to {}", summary.write("prune")?.display());
    Ok(())
}

fn now() -> Result<Duration, Failed> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

async fn build(root: &Path) -> Result<Created, Failed> {
    let store = Arc::new(LocalStore::create(root.to_owned())?);
    let new = NewRepository {
        cluster: "main",
        host: "bench",
        now_us: 0,
        now_text: "1970-01-01T00:00:00Z",
        creator: "bench",
    };
    let (created, _) = create(store.clone(), new, |_| Ok(())).await?;
    let repository = Arc::new(Repository::open_as_host(store, &created.host).await?);
    let signing = Arc::new(SigningKey::from_seed(created.host.signing.seed().clone())?);
    let writer = Writer::new(repository, signing, 0);
    let random = bytes_of(1, PACKS * 16);
    let (ids, _) = random.as_chunks::<16>();
    let packs: Vec<PackId> = ids.iter().copied().map(PackId).collect();
    for pack in &packs {
        let path = root.join(writer.repository().layout().pack(*pack)?.as_str());
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, b"pack")?;
    }
    let lineage = LineageId::from_parts(1, [1; 10]);
    let begun_ms = u64::try_from(now()?.as_millis())?;
    let new_packs = PACKS / BACKUPS;
    for number in 0..BACKUPS {
        let id = BackupId::from_parts(begun_ms + number as u64, [1; 10]);
        let intent = Intent {
            backup: id,
            host: "bench".into(),
            begun_us: 0,
        };
        commit::put_intent(&writer, &intent).await?;
        let until = (number + 1) * new_packs;
        let needed = packs.get(until.saturating_sub(PACKS_NEEDED)..until).unwrap_or_default();
        let need = |id: &PackId| PackNeed {
            id: *id,
            kind: 1,
            body_bytes: PACK_BYTES,
            live_bytes: PACK_BYTES / 2,
        };
        let manifest = Manifest {
            packs: needed.iter().map(need).collect(),
            finished_us: i64::try_from(begun_ms * 1000)? + number as i64,
            ..empty_manifest(id, lineage)
        };
        commit::put_manifest(&writer, &manifest).await?;
    }
    Ok(created)
}

async fn prune(root: &Path, created: &Created) -> Result<(store::testing::Counts, Done), Failed> {
    let store = Arc::new(RecordingStore::new(LocalStore::open(root.to_owned())?));
    let repository = Arc::new(Repository::open_as_keeper(store.clone(), &created.maintenance).await?);
    let seed = created.maintenance.signing_seed.clone().ok_or("no seed")?;
    let writer = Writer::new(Arc::clone(&repository), Arc::new(SigningKey::from_seed(seed)?), 0);
    let policy = Policy {
        rules: Rules {
            keep_last: NonZeroU32::new(KEEP_LAST),
            ..Rules::default()
        },
        grace: GRACE,
        components: std::collections::BTreeMap::new(),
        is_copy: false,
    };
    let now_us = i64::try_from(now()?.as_micros())?;
    let (mark, now_ms) = mark_time(&writer, "bench", now_us).await?;
    let looked = Looked::look(&repository, now_ms, policy.times().grace_ms).await?;
    let plan: Plan = plan(&looked, &policy, "bench", now_us)?;
    let done = carry_out(&writer, &looked, &plan, |_| ()).await?;
    repository.store().delete(&mark).await?;
    Ok((store.counts(), done))
}

/// Three days go by.
fn age(root: &Path) -> Result<(), Failed> {
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
                continue;
            }
            let file = File::options().write(true).open(entry.path())?;
            let modified = entry.metadata()?.modified()?;
            file.set_modified(modified - Duration::from_secs(3 * 86_400))?;
        }
    }
    Ok(())
}
