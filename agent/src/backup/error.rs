//! Why a backup was not taken. Whatever fails, nothing is listed: the manifest is written last.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pg::control::ControlError;
use pg::label::LabelError;
use pg::lsn::Lsn;
use pg::replication::ReplicationError;
use store::StoreError;

use crate::archive_push::PushError;

/// A backup that failed. `Display` prints this error only.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    /// A file of the cluster cannot be read.
    #[error("cannot {action} \"{}\"", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The server refused a command, or the connection is gone.
    #[error("the server failed to {step}")]
    Sql {
        /// What it was asked for.
        step: &'static str,
        /// Its answer.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server's base backup did not come whole.
    #[error("the base backup over the replication protocol failed")]
    Stream(#[from] ReplicationError),
    /// The server answered something that makes no sense.
    #[error("the server gave an answer that cannot be understood: {what}")]
    Answer {
        /// Which answer.
        what: String,
    },
    /// The repository failed.
    #[error("the repository failed")]
    Store(#[source] StoreError),
    /// What is archived is not this server's WAL.
    #[error("the archived WAL is not this server's")]
    Pushed(#[from] PushError),
    /// `pg_control` makes no sense.
    #[error("cannot use pg_control of \"{}\"", directory.display())]
    Control {
        /// The data directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: ControlError,
    },
    /// `backup_label` or `tablespace_map` makes no sense.
    #[error("the server gave an unusable backup_label or tablespace_map")]
    Label(#[from] LabelError),
    /// Data directory, server and repository are not one cluster.
    #[error("{what}: expected {expected}, found {found}")]
    Identity {
        /// What was compared.
        what: &'static str,
        /// Expected value.
        expected: String,
        /// Found value.
        found: String,
    },
    /// The server is not one that can be backed up.
    #[error("cannot back up this server: {reason}")]
    Unsupported {
        /// Why.
        reason: String,
    },
    /// A tablespace is linked, and nothing is behind the link.
    #[error("the tablespace at \"{}\" has no directory of this server in it", location.display())]
    TablespaceMissing {
        /// Where the link leads.
        location: PathBuf,
    },
    /// A standby became a primary in between.
    #[error("the server was promoted while the backup ran")]
    Promoted,
    /// The server went on to another timeline in between.
    #[error("the server changed from timeline {from} to {to} while the backup ran")]
    TimelineChanged {
        /// At the start.
        from: u32,
        /// At the end.
        to: u32,
    },
    /// The WAL of the backup did not reach the repository in time.
    #[error("WAL from {start} to {end} on timeline {timeline} is not archived after {} s", waited.as_secs())]
    WalMissing {
        /// Timeline.
        timeline: u32,
        /// From here.
        start: Lsn,
        /// To here.
        end: Lsn,
        /// How long was waited.
        waited: Duration,
    },
    /// Longer than allowed.
    #[error("the backup took longer than {} s", limit.as_secs())]
    TooLong {
        /// `backup.duration_max`
        limit: Duration,
    },
    /// A task of ours ended without an answer.
    #[error("the step \"{0}\" stopped early")]
    Stopped(&'static str),
}

impl From<StoreError> for BackupError {
    /// A file of the cluster that the pipeline could not read is the cluster's trouble, not the repository's.
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Io { action, path, source } => BackupError::Io {
                action,
                path: path.into(),
                source,
            },
            error => BackupError::Store(error),
        }
    }
}

impl BackupError {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        BackupError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn sql(step: &'static str) -> impl Fn(tokio_postgres::Error) -> Self {
        move |source| BackupError::Sql { step, source }
    }

    /// What the operator should do.
    #[must_use]
    pub(crate) fn hint(&self) -> Option<String> {
        let text = match self {
            BackupError::Store(error) => return error.hint(),
            BackupError::Pushed(error) => return error.hint(),
            BackupError::Stream(_) => {
                "Whatever was received counts for nothing. The server's log has its side; the role needs REPLICATION, and the server a free \
                 walsender beside the agent's (max_wal_senders)."
            }
            BackupError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                "Run the agent as the operating-system user that owns the data directory, usually postgres."
            }
            BackupError::Io { .. } => {
                "A file that cannot be read fails the whole backup, because a backup without it could not be restored. Check the disk and the kernel log."
            }
            BackupError::TablespaceMissing { .. } => {
                "Is its file system mounted? A backup without it would have no row of what lies there. A tablespace that is lost for good: \
                 DROP TABLESPACE, then take the backup again."
            }
            BackupError::Sql { source, .. } => return Some(sql_hint(source)),
            BackupError::Identity { .. } => {
                "Check data_directory and the connection settings in the config: both must name one and the same server. \
                 After initdb or pg_upgrade it is another cluster: `wal-agent adopt` goes on with it."
            }
            BackupError::Promoted | BackupError::TimelineChanged { .. } => {
                "A base backup cannot span a promotion. Take the backup again."
            }
            BackupError::WalMissing { .. } => {
                "The backup is not listed, because it could not be recovered. Check that `wal-agent run` is running and streams from this \
                 cluster (`wal-agent status`), or that archive_command succeeds (pg_stat_archiver), then take the backup again."
            }
            BackupError::TooLong { .. } => {
                "Raise backup.duration_max or backup.jobs in the config, or check what slows the data directory or the repository down."
            }
            BackupError::Control { .. } | BackupError::Unsupported { .. } => {
                "PostgreSQL 13 to 18 with blocks of 8 kB on a 64-bit little-endian machine can be backed up."
            }
            _ => return None,
        };
        Some(text.into())
    }
}

fn sql_hint(error: &tokio_postgres::Error) -> String {
    use tokio_postgres::error::SqlState;
    match error.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            "Grant the role EXECUTE on pg_backup_start and pg_backup_stop (13, 14: pg_start_backup and pg_stop_backup), and pg_read_all_settings.".into()
        }
        Some(_) => "The server's message says what is wrong; the server log has the details.".into(),
        None => "The connection was lost. A restart of the server ends its backups; take the backup again.".into(),
    }
}
