//! The copy of a server that only its port leads to: `BASE_BACKUP` over the replication protocol, decoded while it arrives.
//!
//! What the server sends is stored like what is read from disk, page by page against the backup before. It is sent once: a page that
//! fails its check cannot be read again, so one that was being written just then, and had not changed since the last checkpoint, is
//! reported as corrupt although it is not; WAL repairs it on recovery all the same.

mod entries;

use std::sync::Arc;
use std::time::{Duration, Instant};

use pg::conninfo::ConnectOptions;
use pg::control::ControlFile;
use pg::label::{BackupLabel, TablespaceMap};
use pg::lsn::Lsn;
use pg::replication::ReplicationSession;
use pg::replication::{BaseBackup, BaseBackupEvent, BaseBackupOptions, BaseBackupStart, Checkpoint, Zstd};
use store::pipeline::{Streamed, earlier};
use tokio::sync::mpsc::Sender;

use self::entries::Entries;
use super::begin::{self, Server};
use super::checksum::Checker;
use super::error::BackupError;
use super::{BackupInputs, Copied, configuration, copy, end};

/// Parts of the stream that wait for the pipeline.
const LANE: usize = 64;
/// How long the server may be silent within its archives.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// Copies everything; the backup is ended on the server when this returns.
pub(super) async fn copy(
    inputs: &BackupInputs,
    copying: copy::Copying,
    connect: &ConnectOptions,
    server: Server,
) -> Result<Copied, BackupError> {
    let sql = &inputs.sql;
    let shape = begin::shape(sql).await?;
    let session = ReplicationSession::connect(connect).await?;
    let options = options(inputs, &copying);
    // While the server checkpoints, what there is to compare with is read.
    let started = async { Ok::<_, BackupError>(session.start_base_backup(&options).await?) };
    let (backup, earlier) = tokio::try_join!(started, async { Ok(earlier::load(&inputs.repository, None).await?) })?;
    inputs.brake.until_ready().await;
    let parent = earlier.backup();
    let start = backup.start().clone();
    tracing::info!(backup = %copying.backup, parent = parent.map(tracing::field::display), start_lsn = %start.lsn, "the copy begins");
    expect(inputs, &start);

    let checker = Arc::new(Checker::new(start.lsn, shape.has_checksums));
    let begun = Instant::now();
    let mut pipeline = copy::start(copying, earlier, Arc::clone(&checker))?;
    let (lane, stream) = tokio::sync::mpsc::channel(LANE);
    let entries = Entries::new(&start, shape.relation_segment_blocks);
    let (copied, received) = tokio::join!(pipeline.copy_stream(stream), receive(backup, entries, lane));
    // Where the pipeline fails the lane is closed, and the receiver only says that.
    copied?;
    let received = received?;
    let took = begun.elapsed();

    let configuration = configuration::ask(sql, &shape.data_directory).await?;
    for (job, bytes) in configuration.files {
        pipeline.add_content(job, bytes).await?;
    }
    let control = ControlFile::parse(&received.control.1).map_err(|source| BackupError::Control {
        directory: shape.data_directory.clone(),
        source,
    })?;
    if control.system_identifier.0 != inputs.lineage.system_identifier {
        return Err(BackupError::Identity {
            what: "the server that sent its files is of another cluster than the repository's lineage",
            expected: inputs.lineage.system_identifier.to_string(),
            found: control.system_identifier.to_string(),
        });
    }
    pipeline.add_content(received.control.0, received.control.1).await?;
    end::judge_role(sql, server.is_standby).await?;
    let stopped = end::Stopped {
        end_lsn: received.end_lsn,
        label: BackupLabel::parse(&received.label)?,
        label_bytes: received.label,
        map_bytes: received.map,
    };
    TablespaceMap::parse(&stopped.map_bytes)?;
    end::judge_label(&stopped, start.lsn, server.is_standby)?;
    end::judge_timeline(&stopped, server.is_standby, &control)?;
    Ok(Copied {
        pipeline,
        checker,
        parent,
        stopped,
        control,
        owner: (None, None),
        tablespaces: received.tablespaces,
        configuration: configuration.paths,
        took,
    })
}

fn options(inputs: &BackupInputs, copying: &copy::Copying) -> BaseBackupOptions {
    BaseBackupOptions {
        checkpoint: if inputs.fast_checkpoint {
            Checkpoint::Fast
        } else {
            Checkpoint::Spread
        },
        sizes: true,
        compression: inputs.compressed_stream.then(Zstd::default),
        silence_timeout: SILENCE_MAX,
        ..BaseBackupOptions::new(format!("seawall {}", copying.backup))
    }
}

/// What the server thinks is to come, for people.
fn expect(inputs: &BackupInputs, start: &BaseBackupStart) {
    let tablespaces = start.tablespaces.iter().filter_map(|tablespace| tablespace.size_kib);
    let kib: u64 = tablespaces.chain(start.data_directory_size_kib).sum();
    inputs.progress.expect(0, kib.saturating_mul(1024));
}

/// What came beside the files that went into the pipeline.
struct Received {
    end_lsn: Lsn,
    label: Vec<u8>,
    map: Vec<u8>,
    control: (store::pipeline::FileJob, Vec<u8>),
    tablespaces: Vec<store::manifest::Tablespace>,
}

/// Hands over everything that the server sends; returns when it said that this was all.
async fn receive(
    mut backup: BaseBackup,
    mut entries: Entries,
    lane: Sender<Streamed>,
) -> Result<Received, BackupError> {
    let closed = |_| BackupError::Stopped("copy");
    for entry in entries.of_tablespaces() {
        lane.send(Streamed::Entry(entry)).await.map_err(closed)?;
    }
    let mut end_lsn = None;
    while let Some(event) = backup.next().await? {
        match event {
            BaseBackupEvent::ArchiveStarted { tablespace } => entries.enter(tablespace),
            BaseBackupEvent::Entry(entry) => {
                if let Some(item) = entries.entry(entry)? {
                    lane.send(item).await.map_err(closed)?;
                }
            }
            BaseBackupEvent::Data(bytes) => {
                if let Some(bytes) = entries.data(bytes)? {
                    lane.send(Streamed::Data(bytes)).await.map_err(closed)?;
                }
            }
            BaseBackupEvent::FileEnded => {
                if entries.file_ended() {
                    lane.send(Streamed::FileEnded).await.map_err(closed)?;
                }
            }
            BaseBackupEvent::ArchiveEnded => {}
            BaseBackupEvent::Notice(notice) => tracing::info!(message = %notice.message, "the server says"),
            BaseBackupEvent::Ended { lsn, .. } => end_lsn = Some(lsn),
        }
    }
    let missing = |what: &str| BackupError::Answer {
        what: format!("a base backup without {what}"),
    };
    let end_lsn = end_lsn.ok_or_else(|| missing("an end"))?;
    let kept = entries.finish();
    Ok(Received {
        end_lsn,
        label: kept.label.ok_or_else(|| missing("backup_label"))?,
        map: kept.map.unwrap_or_default(),
        control: kept.control.ok_or_else(|| missing("global/pg_control"))?,
        tablespaces: kept.tablespaces,
    })
}
