//! Before the first byte is copied: is this the right cluster, is the session fit for hours, and where does the backup start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pg::control::{ClusterState, ControlError, ControlFile};
use pg::identity::ServerVersion;
use pg::lsn::Lsn;
use store::records::Lineage;
use tokio_postgres::Client;

use super::error::BackupError;
use super::sql::{RawText, column, parsed, row, setting};

/// pg_control is written in place, so a read may be torn (B16); it is 8 kB, so the next one is not.
const CONTROL_READS: usize = 50;
const CONTROL_PAUSE: Duration = Duration::from_millis(20);
/// Comparisons of pg_control on disk with the server's own view, between which a checkpoint may fall.
const COMPARISONS: usize = 10;
const COMPARISON_PAUSE: Duration = Duration::from_millis(300);

/// What the server said about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) version: ServerVersion,
    pub(super) is_standby: bool,
}

/// Reads pg_control until its CRC is right.
pub(crate) async fn read_control(data_directory: &Path) -> Result<(ControlFile, Vec<u8>), BackupError> {
    let path = data_directory.join("global/pg_control");
    let refused = |source| BackupError::Control {
        directory: data_directory.to_owned(),
        source,
    };
    let mut reads = 0;
    loop {
        let bytes = std::fs::read(&path).map_err(|error| BackupError::io("read", &path, error))?;
        reads += 1;
        match ControlFile::parse(&bytes) {
            Ok(control) => return Ok((control, bytes)),
            Err(ControlError::Crc { .. } | ControlError::TooShort { .. }) if reads < CONTROL_READS => {
                tokio::time::sleep(CONTROL_PAUSE).await
            }
            Err(error) => return Err(refused(error)),
        }
    }
}

/// Makes the session fit for a backup (B20): no timeout ends it, no schema is searched, and text comes as the server keeps it.
pub(super) async fn prepare_session(sql: &Client, version: ServerVersion) -> Result<(), BackupError> {
    const STEP: &str = "prepare the backup's session";
    let mut settings = vec![
        "statement_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
    ];
    if version.major() >= 14 {
        settings.push("idle_session_timeout");
    }
    if version.major() >= 17 {
        settings.push("transaction_timeout");
    }
    let sets: String = settings.iter().map(|name| format!("SET {name} = 0; ")).collect();
    sql.batch_execute(&format!("{sets}SET search_path = ''"))
        .await
        .map_err(BackupError::sql(STEP))?;
    let encoding =
        "SELECT pg_catalog.set_config('client_encoding', pg_catalog.getdatabaseencoding()::pg_catalog.text, false)";
    row(sql, STEP, encoding, &[]).await.map(|_| ())
}

fn same_identifier(what: &'static str, expected: u64, found: u64) -> Result<(), BackupError> {
    match expected == found {
        true => Ok(()),
        false => Err(BackupError::Identity {
            what,
            expected: expected.to_string(),
            found: found.to_string(),
        }),
    }
}

/// Refuses a server that is not the lineage's, or that cannot be backed up.
pub(super) async fn identify(sql: &Client, lineage: &Lineage) -> Result<Server, BackupError> {
    const STEP: &str = "say which cluster it is";
    let query = "SELECT system_identifier::pg_catalog.text, pg_catalog.current_setting('server_version_num'), \
                 pg_catalog.pg_is_in_recovery() FROM pg_catalog.pg_control_system()";
    let answer = row(sql, STEP, query, &[]).await?;
    let version = ServerVersion(parsed(&answer, 1, STEP)?);
    let is_standby = column(&answer, 2, STEP)?;
    same_identifier(
        "the server is of another cluster than the repository's lineage",
        lineage.system_identifier,
        parsed(&answer, 0, STEP)?,
    )?;
    if !version.is_supported() {
        return Err(BackupError::Unsupported {
            reason: format!("version {version}"),
        });
    }
    Ok(Server { version, is_standby })
}

/// Refuses a data directory that is not the server's.
pub(super) async fn is_same_cluster(
    sql: &Client,
    data_directory: &Path,
    control: &ControlFile,
    lineage: &Lineage,
    is_standby: bool,
) -> Result<(), BackupError> {
    same_identifier(
        "the data directory is of another cluster than the server",
        lineage.system_identifier,
        control.system_identifier.0,
    )?;
    block_size(control.block_size)?;
    is_same_instance(sql, data_directory, is_standby).await
}

fn block_size(bytes: u32) -> Result<(), BackupError> {
    if bytes as usize == pg::page::PAGE_BYTES {
        return Ok(());
    }
    Err(BackupError::Unsupported {
        reason: format!("blocks of {bytes} bytes"),
    })
}

/// What `pg_control` would say, asked of a server whose files we cannot read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) relation_segment_blocks: u32,
    pub(super) has_checksums: bool,
    pub(super) data_directory: PathBuf,
}

/// Asks for it.
pub(super) async fn shape(sql: &Client) -> Result<Shape, BackupError> {
    const STEP: &str = "say how its files are laid out";
    // Of these settings pg_settings shows numbers without a unit: bytes of a block, blocks of a segment.
    let number = async |name: &str| {
        let query = "SELECT setting FROM pg_catalog.pg_settings WHERE name = $1";
        parsed::<u32>(&row(sql, STEP, query, &[&name]).await?, 0, STEP)
    };
    block_size(number("block_size").await?)?;
    let has_checksums = setting(sql, "data_checksums")
        .await?
        .is_some_and(|text| text.0 == b"on");
    Ok(Shape {
        relation_segment_blocks: number("segment_size").await?,
        has_checksums,
        data_directory: setting(sql, "data_directory")
            .await?
            .map(RawText::path)
            .unwrap_or_default(),
    })
}

/// A primary and its standby on one machine have one system identifier. What the server reads from its pg_control must be what we
/// read from ours.
async fn is_same_instance(sql: &Client, data_directory: &Path, is_standby: bool) -> Result<(), BackupError> {
    const STEP: &str = "read its control file";
    let query = "SELECT checkpoint_lsn::pg_catalog.text, redo_lsn::pg_catalog.text, timeline_id::pg_catalog.text \
                 FROM pg_catalog.pg_control_checkpoint()";
    let mut comparisons = 0;
    loop {
        let answer = row(sql, STEP, query, &[]).await?;
        let (control, _) = read_control(data_directory).await?;
        let server: (Lsn, Lsn, u32) = (
            parsed(&answer, 0, STEP)?,
            parsed(&answer, 1, STEP)?,
            parsed(&answer, 2, STEP)?,
        );
        let disk = (control.checkpoint, control.redo, control.timeline.as_u32());
        let state = if is_standby {
            ClusterState::InArchiveRecovery
        } else {
            ClusterState::InProduction
        };
        if server == disk && control.state == state {
            return Ok(());
        }
        comparisons += 1;
        if comparisons == COMPARISONS {
            let text = |(checkpoint, redo, timeline): (Lsn, Lsn, u32), state: ClusterState| {
                format!("checkpoint {checkpoint}, redo {redo}, timeline {timeline}, {state:?}")
            };
            return Err(BackupError::Identity {
                what: "the data directory is not the one of the server that we are connected to",
                expected: text(server, state),
                found: text(disk, control.state),
            });
        }
        tokio::time::sleep(COMPARISON_PAUSE).await;
    }
}

/// Starts the backup on the server: a checkpoint, and full-page images of what changes from now on.
pub(super) async fn start(sql: &Client, version: ServerVersion, label: &str, fast: bool) -> Result<Lsn, BackupError> {
    const STEP: &str = "start a backup";
    let query = match version.major() {
        15.. => "SELECT pg_catalog.pg_backup_start($1, $2)::pg_catalog.text",
        _ => "SELECT pg_catalog.pg_start_backup($1, $2, false)::pg_catalog.text",
    };
    parsed(&row(sql, STEP, query, &[&label, &fast]).await?, 0, STEP)
}

/// True while the server is in recovery.
pub(super) async fn is_standby(sql: &Client) -> Result<bool, BackupError> {
    const STEP: &str = "say whether it is in recovery";
    column(
        &row(sql, STEP, "SELECT pg_catalog.pg_is_in_recovery()", &[]).await?,
        0,
        STEP,
    )
}

/// Settings that a restore must respect or may want to know.
pub(super) async fn settings(sql: &Client) -> Result<std::collections::BTreeMap<String, String>, BackupError> {
    const STEP: &str = "show its settings";
    // An archive_command may hold a secret: only that there was one.
    let query = "SELECT name, CASE WHEN name = 'archive_command' AND setting NOT IN ('', '(disabled)') THEN 'set' ELSE setting END \
                 FROM pg_catalog.pg_settings WHERE setting IS NOT NULL AND name IN ('max_connections', \
                 'max_worker_processes', 'max_wal_senders', 'max_prepared_transactions', 'max_locks_per_transaction', 'wal_level', \
                 'track_commit_timestamp', 'data_checksums', 'data_directory_mode', 'server_encoding', 'lc_collate', 'server_version', \
                 'port', 'listen_addresses', 'unix_socket_directories', \
                 'archive_mode', 'archive_command', 'archive_library', 'primary_slot_name', 'synchronous_standby_names')";
    let mut out = std::collections::BTreeMap::new();
    for answer in sql.query(query, &[]).await.map_err(BackupError::sql(STEP))? {
        let (name, value): (RawText, RawText) = (column(&answer, 0, STEP)?, column(&answer, 1, STEP)?);
        out.insert(name.lossy(), value.lossy());
    }
    Ok(out)
}
