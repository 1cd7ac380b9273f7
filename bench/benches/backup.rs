//! How fast is a backup, against bare zstd and against the sum of its own stages, on the same bytes in the same run?

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use bench::dataset::{Dataset, Random};
use bench::measure::{Took, median, once};
use bench::null_store::NullStore;
use bench::stages::{COMPRESS, STAGES, Stages, UNCHANGED, composed};
use bench::summary::Summary;
use pg::page::{PAGE_BYTES, PageState, checksum};
use store::StoreError;
use store::file_table::EntryClass;
use store::id::{BackupId, LineageId};
use store::keys::SigningKey;
use store::manifest::{CorruptPage, Manifest};
use store::pipeline::{
    FileJob, Listed, Outcome, PackFilter, PageCheck, Parent, Pipeline, PipelineInputs, Progress, Reread, commit,
};
use store::repository::{Created, NewRepository, Repository, Writer, create};
use store::session::Purpose;
use store::testing::manifest::empty_manifest;

/// 384 MiB a data set, in files of 64 MiB.
const PAGES: u32 = 48 << 10;
const FILE_PAGES: u32 = 8 << 10;
const RUNS: usize = 5;
const UPLOADS_IN_FLIGHT: usize = 4;
const NOW_US: i64 = 1_790_000_000_000_000;

type Failed = Box<dyn std::error::Error>;

/// The check that an agent makes, without its second look.
#[derive(Debug)]
struct Check;

impl PageCheck for Check {
    fn examine(
        &self,
        file: &FileJob,
        page: u32,
        bytes: &mut [u8],
        _: &mut Reread<'_>,
    ) -> Result<Option<CorruptPage>, StoreError> {
        let is_good = pg::page::check(bytes, file.first_block + page, true) == PageState::Ok;
        let corrupt = || CorruptPage {
            path: file.path.clone().into(),
            block: page,
            expected: 0,
            found: 0,
            reason: "checksum".into(),
        };
        Ok((!is_good).then(corrupt))
    }
}

struct Setting {
    store: Arc<NullStore>,
    repository: Arc<Repository>,
    created: Created,
    lineage: LineageId,
    jobs: usize,
}

fn main() -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut summary = Summary::default();
    let jobs = std::thread::available_parallelism()?.get();
    println!(
        "{jobs} cores, {} MiB a data set, medians of {RUNS}\n",
        (PAGES as usize * PAGE_BYTES) >> 20
    );
    for dataset in [Dataset::Mix, Dataset::Accounts] {
        runtime.block_on(one(dataset, jobs, &mut summary))?;
        println!();
    }
    println!("written to {}", summary.write("backup")?.display());
    Ok(())
}

async fn one(dataset: Dataset, jobs: usize, summary: &mut Summary) -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let mut data = dataset.pages(PAGES);
    let whole = directory.path().join("whole");
    std::fs::write(&whole, &data)?;
    let files = write_files(directory.path(), &data)?;
    let setting = setting(jobs).await?;
    let name = |what: &str| format!("{}: {what}", dataset.name());

    let whole = File::open(&whole)?;
    let prepared = Stages::new(&whole, &data, setting.repository.keys())?;
    let (mut rounds, mut full) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        rounds.push(prepared.run());
        full.push(timed_backup(&setting, &files, None).await?.0);
    }
    let bare_ratio = data.len() as f64 / prepared.compressed_bytes() as f64;
    summary.add(name("ratio of zstd 1"), bare_ratio, ": 1", None);
    drop(prepared);
    let mut stages = Vec::new();
    for (at, stage) in STAGES.iter().enumerate() {
        let took = median(rounds.iter().filter_map(|round| round.get(at).copied()).collect());
        summary.add(name(stage), took.mb_s(data.len()), "MB/s", None);
        stages.push(took);
    }
    let stored_bytes = setting.store.take_pack_bytes() as f64 / RUNS as f64;
    let (full, bound, bytes) = (median(full), composed(&stages), data.len());
    let zstd = stages.get(COMPRESS).map_or(f64::NAN, |took| took.mb_s(bytes));
    summary.add(
        name("full backup"),
        full.mb_s(bytes),
        "MB/s",
        Some((bound.mb_s(bytes), "composed bound")),
    );
    summary.add(
        name("full backup against bare zstd"),
        full.mb_s(bytes),
        "MB/s",
        Some((zstd, "zstd 1 alone")),
    );
    summary.add(
        name("full backup, CPU"),
        full.cpu_s_per_gb(bytes),
        "s/GB",
        Some((bound.cpu_s_per_gb(bytes), "CPU of all stages")),
    );
    summary.add(
        name("full backup, stored"),
        bytes as f64 / stored_bytes,
        ": 1",
        Some((bare_ratio, "zstd 1 alone")),
    );

    setting.store.keep_packs(true);
    let (_, outcome) = timed_backup(&setting, &files, None).await?;
    let parent = commit_backup(&setting, &outcome).await?;
    setting.store.keep_packs(false);
    setting.store.take_pack_bytes();
    for (what, part) in [
        ("increment, nothing changed", 0),
        ("increment, 1 % of pages changed", 100),
    ] {
        change(&mut data, part);
        write_files(directory.path(), &data)?;
        let mut increments = Vec::new();
        for _ in 0..RUNS {
            increments.push(timed_backup(&setting, &files, Some(parent)).await?.0);
        }
        let stored_bytes = setting.store.take_pack_bytes() as f64 / RUNS as f64;
        let took = median(increments);
        let bound = composed(stages.get(..UNCHANGED).unwrap_or_default());
        summary.add(
            name(what),
            took.mb_s(bytes),
            "MB/s",
            Some((bound.mb_s(bytes), "read, check and hash")),
        );
        summary.add(
            name(&format!("{what}, CPU")),
            took.cpu_s_per_gb(bytes),
            "s/GB",
            Some((bound.cpu_s_per_gb(bytes), "CPU of the same")),
        );
        summary.add(name(&format!("{what}, stored")), stored_bytes / 1e6, "MB", None);
    }
    Ok(())
}

fn write_files(directory: &Path, data: &[u8]) -> Result<Vec<FileJob>, Failed> {
    let mut jobs = Vec::new();
    for (number, bytes) in data.chunks(FILE_PAGES as usize * PAGE_BYTES).enumerate() {
        let on_disk = directory.join(number.to_string());
        std::fs::write(&on_disk, bytes)?;
        jobs.push(FileJob {
            path: format!("base/5/{}", 16_384 + number).into_bytes(),
            on_disk,
            mode: 0o600,
            size: bytes.len() as u64,
            class: EntryClass::Relation,
            first_block: u32::try_from(number)? * FILE_PAGES,
            is_judged: true,
            may_vanish: true,
            attributes: None,
        });
    }
    Ok(jobs)
}

/// Changes some bytes of one page in `part`, at random; of none for 0.
fn change(data: &mut [u8], part: u64) {
    let mut random = Random(7);
    for (block, page) in (0..).zip(data.chunks_mut(PAGE_BYTES)) {
        if part == 0 || !random.number().is_multiple_of(part) {
            continue;
        }
        for byte in page.iter_mut().skip(4000).take(16) {
            *byte = byte.wrapping_add(1);
        }
        let sum = checksum(page, block);
        page.iter_mut()
            .skip(8)
            .zip(sum.to_le_bytes())
            .for_each(|(to, from)| *to = from);
    }
}

async fn setting(jobs: usize) -> Result<Setting, Failed> {
    let store = Arc::new(NullStore::default());
    let new = NewRepository {
        cluster: "bench",
        host: "bench",
        now_us: NOW_US,
        now_text: "2026-09-21T00:00:00Z",
        creator: "bench",
    };
    let (created, repository) = create(store.clone(), new, |_| Ok(())).await?;
    Ok(Setting {
        store,
        repository,
        created,
        lineage: LineageId::from_parts(1, [1; 10]),
        jobs,
    })
}

fn writer(setting: &Setting) -> Result<Arc<Writer>, Failed> {
    let signing = SigningKey::from_seed(setting.created.host.signing.seed().clone())?;
    Ok(Arc::new(Writer::new(
        Arc::clone(&setting.repository),
        Arc::new(signing),
        0,
    )))
}

async fn timed_backup(
    setting: &Setting,
    files: &[FileJob],
    parent: Option<BackupId>,
) -> Result<(Took, Outcome), Failed> {
    let repository = &setting.repository;
    let session = repository.begin_session(setting.lineage, Purpose::Backup)?;
    let parent = match parent {
        Some(id) => Some(Parent::load(repository, Some(repository.manifest(id).await?), None).await?),
        None => None,
    };
    let inputs = PipelineInputs {
        pace: Arc::default(),
        backup: BackupId::from_parts(2, [1; 10]),
        writer: writer(setting)?,
        session,
        lineage: setting.lineage,
        parent,
        index: Default::default(),
        filter: PackFilter::default(),
        check: Arc::new(Check),
        jobs: setting.jobs,
        uploads_in_flight: UPLOADS_IN_FLIGHT,
        milestones_every: std::time::Duration::from_secs(120),
        progress: Arc::new(Progress::default()),
        now_us: Arc::new(|| NOW_US),
    };
    let mut outcome = None;
    let files = files.to_vec();
    let runtime = tokio::runtime::Handle::current();
    let took = tokio::task::block_in_place(|| {
        once(|| {
            outcome = Some(runtime.block_on(async {
                let mut pipeline = Pipeline::start(inputs)?;
                drop(
                    pipeline
                        .copy(files.into_iter().map(|job| Ok(Listed::File(job))))
                        .await?,
                );
                pipeline.finish().await
            }));
        })
    });
    let outcome = outcome.ok_or("no outcome")??;
    if !outcome.corrupt_pages.is_empty() {
        return Err("the data set has bad pages".into());
    }
    Ok((took, outcome))
}

async fn commit_backup(setting: &Setting, outcome: &Outcome) -> Result<BackupId, Failed> {
    let backup = BackupId::from_parts(1, [1; 10]);
    let manifest = Manifest {
        started_us: NOW_US,
        finished_us: NOW_US,
        file_table: outcome.file_table.clone(),
        packs: outcome.packs.clone(),
        totals: outcome.totals,
        ..empty_manifest(backup, setting.lineage)
    };
    commit::put_manifest(&*writer(setting)?, &manifest).await?;
    Ok(backup)
}
