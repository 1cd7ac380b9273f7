//! The base backup lane, from the agent's side: the orchestrator is a list of steps.
//!
//! A backup is PostgreSQL's non-exclusive low-level backup: the server is told to start, its files are read beside it, `pg_control` last,
//! the server is told to stop, and the WAL in between makes the copy consistent. Law 1: the manifest is created last, after every pack,
//! the index and every byte of WAL from start to end. On any error the session is closed, which ends the backup on the server, and
//! nothing is listed; what was uploaded is swept later. A crash anywhere here is the same case.

mod begin;
mod brake;
mod checksum;
mod configuration;
mod copy;
mod display;
mod end;
mod error;
mod last_known_good;
mod list;
mod local;
mod owner;
mod remote;
mod report;
mod running;
mod sql;
mod tablespaces;
mod versions;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use begin::read_control;
pub(crate) use brake::Brake;
pub(crate) use display::{Bar, show_progress};
pub(crate) use error::BackupError;
pub(crate) use report::BackupReport;
pub(crate) use running::{Announcement, RunningBackup};
pub(crate) use store::pipeline::{Pace, PaceLimits, Progress};

use pg::conninfo::ConnectOptions;
use pg::control::ControlFile;
use pg::identity::ServerVersion;
use store::id::BackupId;
use store::keys::SigningKey;
use store::manifest::{ConfigurationPaths, KnownGood, Manifest, Tablespace};
use store::pipeline::{Clock, Outcome, Pipeline, commit};
use store::records::Lineage;
use store::repository::{Repository, Writer};

use crate::archive_push;

/// Everything a backup needs.
pub(crate) struct BackupInputs {
    /// Where it goes.
    pub(crate) repository: Arc<Repository>,
    /// Signs what is written.
    pub(crate) signing: Arc<SigningKey>,
    /// Whom the session key is sealed to.
    /// A session of our own on the server; its connection task runs already. Closed when the backup ends, however it ends.
    pub(crate) sql: tokio_postgres::Client,
    /// Where its files are read.
    pub(crate) source: Source,
    /// The server compresses what it sends (15 and later).
    pub(crate) compressed_stream: bool,
    /// The lineage that the server's WAL is archived under.
    pub(crate) lineage: Lineage,
    /// `server_version_num` as the caller knows it.
    pub(crate) server_version: u32,
    /// Threads that read and encode.
    pub(crate) jobs: usize,
    /// Packs on their way at the same time.
    pub(crate) uploads_in_flight: usize,
    /// How often it is noted how far the backup has come.
    pub(crate) milestones_every: Duration,
    /// How fast it may be.
    pub(crate) pace: Arc<Pace>,
    /// Holds it back.
    pub(crate) brake: Brake,
    /// Checkpoint at once instead of spread out.
    pub(crate) fast_checkpoint: bool,
    /// The operator's label.
    pub(crate) label: Option<String>,
    /// Queries whose answers are recorded.
    pub(crate) last_known_good: Vec<String>,
    /// Limit for the whole backup.
    pub(crate) duration_max: Duration,
    /// Counters for people.
    pub(crate) progress: Arc<Progress>,
    /// Name of this host.
    pub(crate) host_name: String,
    /// Microseconds since 1970.
    pub(crate) now_us: Clock,
    /// How long to wait at the end for more of the backup's WAL to be archived.
    pub(crate) wal_wait: Duration,
    /// WAL arrives by `archive_command`, not from a slot.
    pub(crate) is_pushed: bool,
}

/// Where the files of a server are read.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// Its data directory, on this machine.
    Local(PathBuf),
    /// Over its replication protocol.
    Replication(ConnectOptions),
}

/// What a copy leaves, when the backup is ended on the server.
struct Copied {
    pipeline: Pipeline,
    checker: Arc<checksum::Checker>,
    parent: Option<BackupId>,
    stopped: end::Stopped,
    control: ControlFile,
    owner: (Option<String>, Option<String>),
    tablespaces: Vec<Tablespace>,
    configuration: ConfigurationPaths,
    took: Duration,
}

/// Facts that go into the manifest and do not come from the pipeline.
struct Facts {
    backup: BackupId,
    parent: Option<BackupId>,
    begun_us: i64,
    server: begin::Server,
    settings: std::collections::BTreeMap<String, String>,
    control: ControlFile,
    owner: (Option<String>, Option<String>),
    tablespaces: Vec<Tablespace>,
    configuration: ConfigurationPaths,
    known_good: Vec<KnownGood>,
}

/// Takes a base backup of the server beside us.
///
/// # Errors
/// Whatever failed: then no backup is listed.
pub(crate) async fn run(inputs: BackupInputs) -> Result<BackupReport, BackupError> {
    let limit = inputs.duration_max;
    match tokio::time::timeout(limit, Box::pin(steps(inputs))).await {
        Ok(result) => result,
        Err(_) => Err(BackupError::TooLong { limit }),
    }
}

async fn steps(inputs: BackupInputs) -> Result<BackupReport, BackupError> {
    let begun = Instant::now();
    let begun_us = (inputs.now_us)();
    let BackupInputs {
        sql,
        source,
        lineage,
        repository,
        ..
    } = &inputs;
    let writer = Arc::new(Writer::new(Arc::clone(repository), Arc::clone(&inputs.signing), 0));

    // Is this the cluster that the repository knows, and can it be backed up?
    begin::prepare_session(sql, ServerVersion(inputs.server_version)).await?;
    let server = begin::identify(sql, lineage).await?;
    let mut settings = begin::settings(sql).await?;
    versions::add(sql, &mut settings).await?;

    // Announced before the first pack.
    let backup = commit::announce(&writer, begun_us, &inputs.host_name).await?;
    let copying = copying_of(&inputs, &writer, backup);
    let copied = match source {
        Source::Local(directory) => Box::pin(local::copy(&inputs, copying, directory, server)).await?,
        Source::Replication(connect) => Box::pin(remote::copy(&inputs, copying, connect, server)).await?,
    };
    let known_good = last_known_good::ask(sql, &inputs.last_known_good, || (inputs.now_us)()).await?;

    // Packs, index, WAL, manifest: in this order.
    let stopped = &copied.stopped;
    let mut outcome = copied.pipeline.finish().await?;
    outcome.totals.new_stored_bytes += commit::put_index(&writer, backup, &outcome.index, (inputs.now_us)()).await?;
    let range = (stopped.label.start_lsn, stopped.end_lsn);
    let timeline = stopped.label.start_timeline;
    end::wait_for_wal(repository, lineage.id, timeline, range, inputs.wal_wait).await?;
    if let (true, false, Source::Local(directory)) = (inputs.is_pushed, server.is_standby, source) {
        // Whatever is archived under the last segment's name must be this server's: no stream ties the two. `pg_backup_stop` ended it.
        let pg_wal = directory.join("pg_wal");
        archive_push::compare_segment(repository, lineage, timeline, range.1, &pg_wal).await?;
    }
    let impossible = copied.checker.impossible_pages(stopped.end_lsn);
    outcome.corrupt_pages.extend(impossible);
    let facts = Facts {
        backup,
        parent: copied.parent,
        begun_us,
        server,
        settings,
        control: copied.control,
        owner: copied.owner,
        tablespaces: copied.tablespaces,
        configuration: copied.configuration,
        known_good,
    };
    let manifest = manifest(&inputs, facts, outcome, stopped);
    // Hours may have passed since it was asked whether what this host signs counts.
    repository.refresh().await?;
    writer.refuse_revoked()?;
    commit::keep_locked(repository, &manifest).await?;
    commit::put_manifest(&writer, &manifest).await?;
    // By the store's clock: ours may have slept with the host.
    if !repository.is_in_time(&manifest).await? {
        return Err(BackupError::TooLong {
            limit: inputs.duration_max,
        });
    }
    say(&manifest);
    Ok(BackupReport::new(&manifest, begun.elapsed(), copied.took))
}

fn copying_of(inputs: &BackupInputs, writer: &Arc<Writer>, backup: BackupId) -> copy::Copying {
    copy::Copying {
        backup,
        writer: Arc::clone(writer),
        lineage: inputs.lineage.id,
        jobs: inputs.jobs,
        uploads_in_flight: inputs.uploads_in_flight,
        milestones_every: inputs.milestones_every,
        pace: Arc::clone(&inputs.pace),
        progress: Arc::clone(&inputs.progress),
        now_us: Arc::clone(&inputs.now_us),
    }
}

fn manifest(inputs: &BackupInputs, facts: Facts, outcome: Outcome, stopped: &end::Stopped) -> Manifest {
    Manifest {
        backup: facts.backup,
        lineage: inputs.lineage.id,
        timeline: stopped.label.start_timeline.as_u32(),
        start_lsn: stopped.label.start_lsn.as_u64(),
        end_lsn: stopped.end_lsn.as_u64(),
        started_us: facts.begun_us,
        finished_us: (inputs.now_us)(),
        server_version: facts.server.version.0,
        system_identifier: facts.control.system_identifier.0,
        segment_bytes: facts.control.segment_size.bytes(),
        relation_segment_blocks: facts.control.relation_segment_blocks,
        checksum_version: facts.control.data_checksum_version,
        backup_label: stopped.label_bytes.clone().into(),
        tablespace_map: stopped.map_bytes.clone().into(),
        tablespaces: facts.tablespaces,
        file_table: outcome.file_table,
        packs: outcome.packs,
        totals: outcome.totals,
        corrupt_pages: outcome.corrupt_pages,
        settings: facts.settings,
        parent: facts.parent,
        owner_user: facts.owner.0,
        owner_group: facts.owner.1,
        source: match inputs.source {
            Source::Local(_) => "local".into(),
            Source::Replication(_) => "replication".into(),
        },
        from_standby: facts.server.is_standby,
        configuration: facts.configuration,
        vanished: outcome.vanished,
        label: inputs.label.clone(),
        known_good: facts.known_good,
        duration_max_us: u64::try_from(inputs.duration_max.as_micros()).unwrap_or(u64::MAX),
        component: None,
    }
}

/// Corruption in the database is for the operator to hear of at once; files that the server removed are for the record.
fn say(manifest: &Manifest) {
    for page in &manifest.corrupt_pages {
        let path = String::from_utf8_lossy(&page.path);
        tracing::error!(backup = %manifest.backup, %path, block = page.block, reason = %page.reason, "a page of the database is corrupt");
    }
    let totals = manifest.totals;
    tracing::info!(
        backup = %manifest.backup,
        logical_bytes = totals.logical_bytes,
        new_stored_bytes = totals.new_stored_bytes,
        new_pages = totals.new_pages,
        vanished = manifest.vanished.len(),
        "backup is complete"
    );
}
