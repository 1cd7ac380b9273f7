//! How fast is a backlog of WAL shipped, against bare zstd and against the sum of its own stages, on the same bytes in the same run?

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bench::measure::{Took, median, memory_growth, once};
use bench::null_store::NullStore;
use bench::summary::Summary;
use bench::wal_data::WalData;
use bench::wal_stages::{CHECKS, COMPRESS, STAGES, WalStages, composed};
use store::id::LineageId;
use store::keys::SigningKey;
use store::repository::{Created, Fence, NewRepository, Repository, Writer, create};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wal::assemble::Assembler;
use wal::progress::Progress;
use wal::ship::{Clock, Shipper};

const WAL_BYTES: u64 = 256 << 20;
const RUNS: usize = 5;
/// The agent's defaults: `uploads_in_flight` and `memory_max` of `[cluster.<name>.wal]`.
const UPLOADS_IN_FLIGHT: usize = 4;
const MEMORY_MAX: usize = 64 << 20;
/// Unit of the byte permits, as the receiver has it.
const PERMIT_BYTES: usize = 4096;
/// CPU of the best peer for a segment at zstd 3, with nothing checked before sending. Measured on machine A of docs/MEASUREMENTS.md
/// while it was quiet, on pgbench's WAL of the same ratio: elsewhere, or beside other work, it says nothing.
const PEER_CPU_MS: f64 = 53.0;
const SEGMENT_BYTES: f64 = (16 << 20) as f64;

type Failed = Box<dyn std::error::Error>;

struct Setting {
    repository: Arc<Repository>,
    created: Created,
    lineage: LineageId,
    clock: Clock,
}

/// What one run of the path gave.
#[derive(Clone, Copy, Default)]
struct Shipment {
    stored_bytes: u64,
    /// Most bytes that were held by permits at once.
    held_bytes: usize,
}

fn main() -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut summary = Summary::default();
    let wal = WalData::find(WAL_BYTES)?;
    let bytes = wal.bytes.len();
    println!(
        "{} cores, {} MiB of WAL, {} records, {UPLOADS_IN_FLIGHT} uploads in flight, medians of {RUNS}\n",
        std::thread::available_parallelism()?,
        bytes >> 20,
        wal.records,
    );
    let setting = runtime.block_on(setting())?;

    // Before anything else, so that no memory of an earlier run is used again.
    let mut shipment = Ok(Shipment::default());
    let memory = memory_growth(|| shipment = runtime.block_on(ship(&setting, &wal)));
    let shipment = shipment?;

    let prepared = WalStages::new(&wal, setting.repository.keys())?;
    let (mut rounds, mut paths) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        rounds.push(prepared.run());
        let mut outcome = Ok(shipment);
        paths.push(once(|| outcome = runtime.block_on(ship(&setting, &wal))));
        outcome?;
    }
    let mut stages = Vec::new();
    for (at, stage) in STAGES.iter().enumerate() {
        let took = median(rounds.iter().filter_map(|round| round.get(at).copied()).collect());
        summary.add(*stage, took.mb_s(bytes), "MB/s", None);
        stages.push(took);
    }
    let ratio = |stored: f64| bytes as f64 / stored;
    let bare_ratio = ratio(prepared.compressed_bytes() as f64);
    summary.add("ratio of bare zstd", bare_ratio, ": 1", None);

    let path = median(paths);
    let zstd = stages.get(COMPRESS).copied().ok_or("no zstd")?;
    report_speed(&mut summary, path, &stages, zstd, bytes);
    report_cpu(&mut summary, path, &stages, zstd, bytes);
    summary.add(
        "path, ratio with envelope",
        ratio(shipment.stored_bytes as f64),
        ": 1",
        Some((bare_ratio, "bare zstd")),
    );
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let limit = Some((mib(MEMORY_MAX as f64), "memory_max"));
    summary.add(
        "path, most bytes in flight",
        mib(shipment.held_bytes as f64),
        "MiB",
        limit,
    );
    if let Some(memory) = memory {
        summary.add("path, growth of the process", mib(memory as f64), "MiB", limit);
    }
    println!("\nwritten to {}", summary.write("wal_backlog")?.display());
    Ok(())
}

fn report_speed(summary: &mut Summary, path: Took, stages: &[Took], zstd: Took, bytes: usize) {
    let in_turn = Took {
        wall_s: stages.iter().map(|took| took.wall_s).sum(),
        cpu_s: 0.0,
    };
    for (name, bound, bound_is) in [
        ("path", composed(stages), "composed bound, goal 0.8"),
        ("path against the stages", in_turn, "one after the other"),
        ("path against bare zstd", zstd, "bare zstd"),
    ] {
        let bound = Some((bound.mb_s(bytes), bound_is));
        summary.add(name, path.mb_s(bytes), "MB/s", bound);
    }
}

fn report_cpu(summary: &mut Summary, path: Took, stages: &[Took], zstd: Took, bytes: usize) {
    let ms = |cpu_s: f64| cpu_s * 1e3 * SEGMENT_BYTES / bytes as f64;
    for (stage, took) in STAGES.iter().zip(stages) {
        summary.add(format!("ms a segment: {stage}"), ms(took.cpu_s), "ms CPU", None);
    }
    let checks = CHECKS.iter().filter_map(|at| stages.get(*at));
    let unchecked = path.cpu_s - checks.map(|took| took.cpu_s).sum::<f64>();
    let all = ms(composed(stages).cpu_s);
    for (name, cpu_s, bound, bound_is) in [
        ("path", path.cpu_s, all, "CPU of all stages"),
        ("path, zstd", path.cpu_s, ms(zstd.cpu_s), "CPU of bare zstd"),
        ("path, peer", path.cpu_s, PEER_CPU_MS, "peer, from docs, goal 1.0"),
        ("path less checks", unchecked, PEER_CPU_MS, "peer, from docs, goal 0.8"),
    ] {
        summary.add(
            format!("ms a segment: {name}"),
            ms(cpu_s),
            "ms CPU",
            Some((bound, bound_is)),
        );
    }
}

async fn setting() -> Result<Setting, Failed> {
    let new = NewRepository {
        cluster: "bench",
        host: "bench",
        now_us: now_us(),
        now_text: "2026-09-21T00:00:00Z",
        creator: "bench",
    };
    let (created, repository) = create(Arc::new(NullStore::default()), new, |_| Ok(())).await?;
    Ok(Setting {
        repository,
        created,
        lineage: LineageId::from_parts(1, [1; 10]),
        clock: Arc::new(now_us),
    })
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// All of the WAL, as the receiver does it with a server that is never slow: a message is taken when there are permits for it, a
/// report when there is one, no tail is ever due.
async fn ship(setting: &Setting, wal: &WalData) -> Result<Shipment, Failed> {
    let signing = SigningKey::from_seed(setting.created.host.signing.seed().clone())?;
    let writer = Arc::new(Writer::new(Arc::clone(&setting.repository), Arc::new(signing), 1));
    let fence = Arc::new(Fence::new(Arc::clone(&setting.repository), 1, setting.lineage));
    let (mut shipper, mut reports) = Shipper::new(
        (writer, fence),
        setting.lineage,
        wal.config.segment_size,
        UPLOADS_IN_FLIGHT,
    )?;
    let mut assembler = Assembler::new(setting.lineage, wal.config, None)?;
    let mut progress = Progress::new(wal.config.start, pg::lsn::Lsn::ZERO, pg::lsn::Lsn::ZERO);
    let total = MEMORY_MAX / PERMIT_BYTES;
    let permits = Arc::new(Semaphore::new(total));
    let mut held: Option<OwnedSemaphorePermit> = None;
    let mut shipment = Shipment::default();
    let (mut pieces, mut commits) = (Vec::new(), Vec::new());
    let mut messages = wal.messages();
    let mut pending = messages.next();
    while pending.is_some() || shipper.in_flight() > 0 {
        let taken = pending
            .as_ref()
            .is_some_and(|(_, message)| take_permits(&permits, &mut held, assembler.buffered_bytes(), message.len()));
        if taken && let Some((lsn, message)) = pending.take() {
            shipment.held_bytes = shipment
                .held_bytes
                .max((total - permits.available_permits()) * PERMIT_BYTES);
            assembler.push(lsn, &message, &mut pieces, &mut commits)?;
            progress.receive(assembler.position());
            commits.clear();
            for piece in pieces.drain(..) {
                let keep = usize::try_from(assembler.buffered_bytes())?.div_ceil(PERMIT_BYTES);
                let permit = held.as_mut().and_then(|held| held.split(held.num_permits() - keep));
                shipper.ship(piece, &setting.clock, permit, pg::lsn::Lsn::default())?;
            }
            pending = messages.next();
        }
        let report = match reports.try_recv() {
            Ok(report) => Some(report),
            Err(_) if taken => None,
            Err(_) => reports.recv().await,
        };
        if let Some(report) = report {
            shipper.settle(&report);
            shipment.stored_bytes += report.outcome?;
            progress.make_durable(report.start, report.end);
        }
    }
    if !progress.is_settled() || assembler.unshipped_bytes() > 0 {
        return Err("not all of the WAL was shipped".into());
    }
    Ok(shipment)
}

/// Makes `held` enough for a message behind what is buffered; false when there are too few permits left.
fn take_permits(
    permits: &Arc<Semaphore>,
    held: &mut Option<OwnedSemaphorePermit>,
    buffered_bytes: u64,
    message_bytes: usize,
) -> bool {
    let needed = (buffered_bytes + message_bytes as u64).div_ceil(PERMIT_BYTES as u64);
    let has = held.as_ref().map_or(0, |held| held.num_permits() as u64);
    let wanted = u32::try_from(needed.saturating_sub(has)).unwrap_or(u32::MAX);
    let Ok(permit) = Arc::clone(permits).try_acquire_many_owned(wanted) else {
        return false;
    };
    match held {
        Some(held) => held.merge(permit),
        None => *held = Some(permit),
    }
    true
}
