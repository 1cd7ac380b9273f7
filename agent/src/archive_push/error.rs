//! Why a file was not taken. PostgreSQL keeps it in every case and offers it again.

use std::path::PathBuf;

use pg::lsn::Lsn;
use pg::timeline::{TimelineError, TimelineId, history_file_name};
use store::StoreError;
use wal::segment_file::SegmentFileError;

use crate::exit;

/// A push that failed. `Display` prints this error only.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    /// Not a file that PostgreSQL archives.
    #[error("\"{}\" is not the name of a file that PostgreSQL archives", path.display())]
    Name {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read \"{}\"", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The file is not the segment that its name says, or is damaged.
    #[error("\"{name}\" is refused")]
    File {
        /// Name of the file.
        name: String,
        /// What is wrong.
        #[source]
        source: SegmentFileError,
    },
    /// Other bytes are archived.
    #[error("WAL from {start} to {end} is archived with other content in object \"{object}\"")]
    Conflict {
        /// First byte that was compared.
        start: Lsn,
        /// Byte after the last.
        end: Lsn,
        /// The archived object.
        object: String,
    },
    /// Another history of the timeline is archived.
    #[error("another history of timeline {timeline} is archived in object \"{object}\"")]
    OtherHistory {
        /// The timeline.
        timeline: TimelineId,
        /// The archived object.
        object: String,
    },
    /// The history of a segment's timeline is neither archived nor here.
    #[error("the history of timeline {timeline} is not archived, and there is no \"{}\" beside the file", history_file_name(*timeline))]
    NoHistory {
        /// The timeline.
        timeline: TimelineId,
    },
    /// A history file that makes no sense.
    #[error("the history of timeline {timeline} makes no sense")]
    History {
        /// The timeline.
        timeline: TimelineId,
        /// What is wrong.
        #[source]
        source: TimelineError,
    },
    /// What was written cannot be read again, or the file has changed meanwhile.
    #[error("object \"{object}\" is not what was written: {reason}")]
    ReadBack {
        /// The object.
        object: String,
        /// What differs.
        reason: &'static str,
    },
    /// The repository failed.
    #[error("the repository failed")]
    Store(#[from] StoreError),
    /// A task of ours ended without an answer.
    #[error("the step \"{0}\" stopped early")]
    Stopped(&'static str),
}

impl PushError {
    /// The exit code; `None` where the cause has one. All are below 126, which PostgreSQL takes for a failure of its own.
    pub(crate) fn code(&self) -> Option<u8> {
        Some(match self {
            PushError::Name { .. }
            | PushError::File { .. }
            | PushError::OtherHistory { .. }
            | PushError::NoHistory { .. }
            | PushError::History { .. } => exit::REFUSED,
            PushError::Conflict { .. } | PushError::ReadBack { .. } => exit::DAMAGED,
            PushError::Store(_) => return None,
            PushError::Read { .. } | PushError::Stopped(_) => exit::FAILURE,
        })
    }

    /// What the operator should do.
    pub(crate) fn hint(&self) -> Option<String> {
        let text = match self {
            PushError::Store(_) | PushError::Stopped(_) | PushError::ReadBack { .. } => return None,
            PushError::Name { .. } => "Use archive_command = 'wal-agent archive-push %p'.",
            PushError::Read { .. } => {
                "archive_command runs as the user of the server, in its data directory; %p is relative to that."
            }
            PushError::File { source, .. } => match source {
                SegmentFileError::OtherCluster { .. } => {
                    "Each cluster has an entry and keys of its own: name it with --cluster in archive_command, or use another configuration."
                }
                SegmentFileError::Splice(_) => OTHER_HISTORY,
                SegmentFileError::Length { .. } | SegmentFileError::Damaged(_) | SegmentFileError::Head(_) => {
                    "The file was cut off or changed on its disk, and a restore would end there. Nothing of it was stored. Check the disk; \
                     take a backup as soon as later WAL can be archived."
                }
                _ => return None,
            },
            PushError::Conflict { .. } | PushError::OtherHistory { .. } => OTHER_HISTORY,
            PushError::NoHistory { .. } => {
                "PostgreSQL archives it before the first segment of its timeline. Copy it from another server of the cluster into pg_wal, \
                 or push it first."
            }
            PushError::History { .. } => {
                "The file was changed on its disk. Copy it from another server of the cluster."
            }
        };
        Some(text.into())
    }
}

const OTHER_HISTORY: &str = "The data directory was rolled back, or two servers archive under one name. Nothing was stored, and the server keeps \
                             its WAL. Stop the wrong server. If this one is right, start `wal-agent run`: it begins a new lineage beside the \
                             old one; then take a backup.";
