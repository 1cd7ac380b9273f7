//! `wal-agent backup`: from the command line to the base backup lane and back to a report.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use config::{BackupSource, Checkpoint};
use pg::conninfo::ConnectOptions;
use pg::lsn::Lsn;
use pg::replication::{ReplicationSession, SystemIdentity};
use pg::segment::SegmentSize;
use pg::timeline::{TimelineHistory, TimelineId};
use store::catalog::Coverage;
use store::id::LineageId;
use store::records::Lineage;
use store::repository::Repository;
use wal::lineage::{Overlap, Resume, compare_overlap, plan_resume};

use crate::archiver::{self, Archiver};
use crate::backup::{self, Announcement, BackupInputs, BackupReport, Brake, Pace, PaceLimits, Progress};
use crate::cli::{BackupOptions, Source};
use crate::exit::{self, Failure};
use crate::open::{Context, backup_policy, current_lineage, host_name, lineage_of, refuse_other_cluster};
use crate::{copies, output, preflight, sql, status};

/// How long the end of a backup waits for its WAL to be archived by the daemon.
const WAL_WAIT: Duration = Duration::from_secs(120);

/// How long the end of a backup waits for copies.
const COPIES_WAIT: Duration = Duration::from_secs(60);

/// How long a daemon may be reconnecting when a backup begins.
const AGENT_WAIT: Duration = Duration::from_secs(10);

/// Runs the command.
pub async fn run(context: &Context, options: &BackupOptions) -> anyhow::Result<()> {
    let progress = Arc::new(Progress::default());
    let bar = backup::show_progress(&progress, options.json);
    let source = options.source.map(|source| match source {
        Source::Local => BackupSource::Local,
        Source::Replication => BackupSource::Replication,
    });
    let report = take(context, None, options.label.clone(), source, progress).await;
    bar.finish();
    print(&report?, options.json)
}

/// Takes a backup; the daemon does so too.
pub async fn take(
    context: &Context,
    lineage: Option<LineageId>,
    label: Option<String>,
    source: Option<BackupSource>,
    progress: Arc<Progress>,
) -> anyhow::Result<BackupReport> {
    let keys = context.host_keys()?;
    let (repository, places) = context.writing(backup_policy(), &keys).await?;
    let lineage = match lineage {
        Some(id) => lineage_of(&repository, id).await?,
        None => current_lineage(context, &repository).await?,
    };
    let connect_options = context.connect_options()?;
    let (client, connect) = sql::choose(&connect_options).await?;
    let archiver = archiver::pushing(&client).await?;
    match archiver {
        None => drop(preflight::refuse_errors(&client, &connect).await?),
        Some(_) => drop(preflight::refuse_errors_without_slots(&client, &connect).await?),
    }
    let policy = &context.cluster.backup;
    let pace = Arc::new(Pace::new(PaceLimits {
        bytes_per_second: policy.rate_max.map(config::ByteSize::bytes),
        nice: policy.nice,
    }));
    let brake = begin_brake(policy.brake, &connect, &pace).await;
    same_history(&connect, &repository, &lineage, &client, archiver.is_some()).await?;
    let arrival = wal_arrives(context, &client, archiver.as_ref()).await?;
    let source = match source.unwrap_or(policy.source) {
        BackupSource::Replication if arrival == Arrival::Pushed => {
            return Err(Failure::refused(
                "a backup over the replication protocol needs WAL that is streamed: nothing would tie what archive_command pushed to it",
                "Start `wal-agent run`, or take the backup on the server's host with --source local.",
            )
            .into());
        }
        BackupSource::Replication => backup::Source::Replication(connect.clone()),
        BackupSource::Local => backup::Source::Local(match &context.cluster.postgres.data_directory {
            Some(directory) => directory.clone(),
            None => preflight::show(&client, "data_directory").await?.into(),
        }),
    };
    let server_version = preflight::show(&client, "server_version_num")
        .await?
        .parse()
        .context("the server's version makes no sense")?;
    let _announcement = Announcement::begin(context, Arc::clone(&progress), Arc::clone(&pace));
    let inputs = BackupInputs {
        repository: Arc::clone(&repository),
        signing: Arc::new(keys.signing),
        sql: client,
        source,
        compressed_stream: policy.stream_compression,
        lineage,
        server_version,
        jobs: policy.jobs.unwrap_or_else(cores),
        uploads_in_flight: policy.uploads_in_flight,
        milestones_every: policy.progress_interval,
        pace,
        brake,
        last_known_good: policy.last_known_good.clone(),
        fast_checkpoint: policy.checkpoint == Checkpoint::Fast,
        label,
        duration_max: policy.duration_max,
        progress,
        host_name: host_name(),
        now_us: Arc::new(output::now_us),
        wal_wait: WAL_WAIT,
        is_pushed: arrival == Arrival::Pushed,
    };
    let taken = backup::run(inputs).await;
    copies::settle(places.as_ref(), COPIES_WAIT).await;
    let report = taken?;
    copies::fill_all(places.as_ref(), &repository).await;
    Ok(report)
}

/// A brake with a session of its own, where it needs one.
async fn begin_brake(kind: config::Brake, connect: &ConnectOptions, pace: &Arc<Pace>) -> Brake {
    match kind {
        config::Brake::Off => Brake::off(),
        config::Brake::Gentle => Brake::gentle(pace),
        config::Brake::Auto => match sql::choose(connect).await {
            Ok((client, _)) => Brake::auto(client, Arc::clone(pace)),
            Err(failure) => {
                let error = exit::describe(&failure);
                tracing::warn!(%error, "no session for the brake; the backup goes on without it");
                Brake::off()
            }
        },
    }
}

/// How WAL comes into the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    /// From the slot, by the daemon.
    Streamed,
    /// From the server's archiver, by `archive_command`.
    Pushed,
}

/// Without the daemon, or an archiver that pushes, the WAL of the backup would never be archived: better said now than after the copy.
async fn wal_arrives(
    context: &Context,
    client: &tokio_postgres::Client,
    archiver: Option<&Archiver>,
) -> anyhow::Result<Arrival> {
    let slot = context.cluster.wal.slot.as_str();
    let begun = std::time::Instant::now();
    // A daemon that is between two attempts is told apart from none at all: what keeps it from streaming will speak for itself.
    while !status::is_running(context) && !sql::slot(client, slot).await?.is_some_and(|slot| slot.active) {
        match archiver.map(|archiver| archiver.failing_since.as_deref()) {
            Some(None) => return Ok(Arrival::Pushed),
            Some(Some(since)) => {
                return Err(Failure::refused(
                    format!("archive_command fails since {since}: the WAL of a backup would not be archived"),
                    "The server's log has its answer. Once it succeeds (pg_stat_archiver), take the backup again.",
                )
                .into());
            }
            None => {}
        }
        if begun.elapsed() > AGENT_WAIT {
            return Err(Failure::refused(
                format!("nobody streams from slot \"{slot}\": the WAL of a backup would not be archived"),
                "Start `wal-agent run` first, or let archive_command push it (docs/OPERATIONS.md, \"Without a slot\").",
            )
            .into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(Arrival::Streamed)
}

/// The server must be the one whose WAL is archived: after a rollback of its data directory the archive holds another history, and a
/// backup would be listed with WAL that does not belong to it.
async fn same_history(
    connect: &ConnectOptions,
    repository: &Repository,
    lineage: &Lineage,
    client: &tokio_postgres::Client,
    is_pushed: bool,
) -> anyhow::Result<()> {
    // First what is archived, then the server's position: the daemon goes on meanwhile.
    let coverage = repository.coverage(lineage.id).await?;
    let mut session = ReplicationSession::connect(connect)
        .await
        .context("cannot open a replication connection")?;
    let server = session.identify_system().await?;
    let size = session.segment_size().await?;
    refuse_other_cluster(server.system_identifier.as_u64(), lineage)?;
    let history = if server.timeline == TimelineId::FIRST {
        TimelineHistory::root(server.timeline)
    } else {
        let (_, bytes) = session.timeline_history(server.timeline).await?;
        TimelineHistory::parse(server.timeline, &bytes).context("the server's timeline history makes no sense")?
    };
    let diverged = |reason: String| {
        Failure::refused(
            format!("the server's history is not the archived one: {reason}"),
            "Start `wal-agent run`: it begins a new lineage; then take the backup.",
        )
    };
    if let Some(archived) = coverage.histories.get(&server.timeline)
        && *archived != history
    {
        let timeline = server.timeline;
        return Err(diverged(format!("the archived history of timeline {timeline} is another one")).into());
    }
    let is_standby = sql::is_standby(client).await?;
    let timeline = match plan_resume(&server, is_standby, &history, &coverage, None, None) {
        // Nothing is archived yet: the end of the backup waits for the WAL.
        Resume::Fresh => return Ok(()),
        Resume::Wait(_) => return standby_behind(session, repository, &coverage, &server, size).await,
        Resume::Diverged(reason) => return Err(diverged(reason).into()),
        Resume::GoOn { timeline, .. } | Resume::Switch { from: timeline, .. } => timeline,
    };
    let until = history.switch_point_after(timeline).unwrap_or(Lsn::new(u64::MAX));
    match compare_overlap(session, repository, &coverage, timeline, until, size).await? {
        Overlap::Same { .. } => Ok(()),
        // No slot keeps the newest archived segment on the server. The backup begins behind it, and at its end the server's own file is
        // held against what is archived.
        Overlap::Gone(reason) if is_pushed && !is_standby => {
            tracing::debug!(%reason, "nothing is left on the server to compare with");
            Ok(())
        }
        Overlap::Different(reason) | Overlap::Gone(reason) => Err(diverged(reason).into()),
    }
}

/// A standby that is behind waits for nothing: what it will replay must be what is archived already, as far as it can be compared.
async fn standby_behind(
    session: ReplicationSession,
    repository: &Repository,
    coverage: &Coverage,
    server: &SystemIdentity,
    size: SegmentSize,
) -> anyhow::Result<()> {
    match compare_overlap(session, repository, coverage, server.timeline, server.flush_lsn, size).await? {
        Overlap::Same { .. } => Ok(()),
        Overlap::Gone(reason) => {
            tracing::debug!(%reason, "nothing can be compared with the standby's WAL");
            Ok(())
        }
        Overlap::Different(reason) => Err(Failure::refused(
            format!("the standby is behind the archive, and its WAL is not the archived one: {reason}"),
            "It was made from another history than the one that is archived. Let its agent begin a new lineage, or rebuild the standby.",
        )
        .into()),
    }
}

/// Cores of this machine.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

fn print(report: &BackupReport, json: bool) -> anyhow::Result<()> {
    if json {
        return output::print_json(&serde_json::to_value(report)?);
    }
    println!(
        "Backup {} is complete: {} to {}.",
        report.backup, report.start_lsn, report.end_lsn
    );
    println!(
        "{} in {} files, {} of {} pages new, {} added to the repository, {:.0} MB/s.",
        output::bytes(report.logical_bytes),
        report.files,
        report.new_pages,
        report.pages,
        output::bytes(report.new_stored_bytes),
        report.mb_s
    );
    for page in &report.corrupt_pages {
        println!("CORRUPT in the database itself: {page}");
    }
    Ok(())
}
