//! What can fail in a restore, with its exit code and what to do about it.

use std::path::Path;

use components::ComponentError;
use store::StoreError;
use wal::reader::WalError;

use crate::exit;

/// An error of this program. `Display` prints itself only; the chain is printed once, in `main`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    /// The command line asks for something that makes no sense.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
    },
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] config::ConfigErrors),
    /// Refused before anything was changed.
    #[error("{message}")]
    Refused {
        /// Why.
        message: String,
        /// What to do.
        hint: String,
    },
    /// The repository failed.
    #[error("{}", of_store(.0))]
    Store(#[from] StoreError),
    /// The file that opens secrets.
    #[error("cannot use the identity")]
    Identity(#[source] StoreError),
    /// Archived WAL is not what a server writes.
    #[error("archived WAL is damaged")]
    Wal(#[from] WalError),
    /// A file or directory.
    #[error("cannot {action} \"{path}\"")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The restored server did not do what it must.
    #[error("{message}")]
    Server {
        /// What happened.
        message: String,
        /// What to do.
        hint: String,
    },
    /// A tail that was listed is gone, because its whole range has replaced it: listing again finds that.
    #[error("the tail from {start} to {end} was replaced while it was read")]
    Vanished {
        /// First byte.
        start: pg::lsn::Lsn,
        /// Byte after the last.
        end: pg::lsn::Lsn,
    },
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// Result of everything here.
pub(crate) type Result<T> = std::result::Result<T, RestoreError>;

impl From<ComponentError> for RestoreError {
    fn from(error: ComponentError) -> Self {
        let hint = error.hint().unwrap_or_default().to_owned();
        match error {
            ComponentError::Store(error) => RestoreError::Store(error),
            ComponentError::Io { action, path, source } => RestoreError::Io { action, path, source },
            ComponentError::Refused { message, hint } => RestoreError::Refused { message, hint },
            ComponentError::System { .. } => RestoreError::Server {
                message: error.to_string(),
                hint,
            },
            ComponentError::TooLong(_) | ComponentError::Stopped => RestoreError::Failed(error.to_string()),
        }
    }
}

impl RestoreError {
    /// A refusal.
    pub(crate) fn refused(message: impl Into<String>, hint: impl Into<String>) -> Self {
        RestoreError::Refused {
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// A wrong command line.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        RestoreError::Usage {
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// Stored bytes that contradict themselves.
    pub(crate) fn damaged(name: impl ToString, reason: impl ToString) -> Self {
        RestoreError::Store(StoreError::damaged(name, reason))
    }

    /// Turns an I/O error into one that says what was tried.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RestoreError {
        let path = path.display().to_string();
        move |source| RestoreError::Io { action, path, source }
    }

    /// Adds a sentence to the hint of a refusal.
    pub(crate) fn with_more_hint(mut self, more: &str) -> Self {
        if let RestoreError::Refused { hint, .. } = &mut self {
            hint.push(' ');
            hint.push_str(more);
        }
        self
    }

    /// The exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            RestoreError::Usage { .. } | RestoreError::Config(_) => exit::USAGE,
            RestoreError::Refused { .. } => exit::REFUSED,
            RestoreError::Store(error) | RestoreError::Identity(error) => exit::of_store(error),
            RestoreError::Wal(_) => exit::DAMAGED,
            RestoreError::Io { .. }
            | RestoreError::Server { .. }
            | RestoreError::Vanished { .. }
            | RestoreError::Failed(_) => exit::FAILURE,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            RestoreError::Usage { hint, .. }
            | RestoreError::Refused { hint, .. }
            | RestoreError::Server { hint, .. } => (!hint.is_empty()).then(|| hint.clone()),
            RestoreError::Store(error) => error.hint().or_else(|| match exit::of_store(error) {
                exit::DAMAGED => StoreError::damaged("", "").hint(),
                exit::UNREACHABLE => Some(
                    "Check the repository's url, the network and the credentials in the configuration, then try again."
                        .into(),
                ),
                _ => None,
            }),
            RestoreError::Identity(_) => {
                Some("`wal-restore identity FILE` makes one, once, and never writes over one: secrets that were sealed to it open with that file alone.".into())
            }
            RestoreError::Wal(_) => Some("Choose an earlier stop point, or another backup with --backup.".into()),
            RestoreError::Io { source, .. } => io_hint(source.kind()).map(str::to_owned),
            RestoreError::Config(_) | RestoreError::Vanished { .. } | RestoreError::Failed(_) => None,
        }
    }

    /// This error and its causes, joined by colons, without control characters.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text.chars()
            .map(|c| if c.is_control() && c != '\n' { ' ' } else { c })
            .collect()
    }
}

/// What failed: without its key a repository was not even asked.
fn of_store(error: &StoreError) -> &'static str {
    match error {
        StoreError::KeyFile { .. } | StoreError::KeyAway { .. } => "cannot use the key file",
        _ => "cannot read the repository",
    }
}

/// What to do about an I/O error.
fn io_hint(kind: std::io::ErrorKind) -> Option<&'static str> {
    use std::io::ErrorKind;
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(
            "Make room and run the same command again: what an interrupted restore left is recognised and gone on with.",
        ),
        ErrorKind::PermissionDenied => Some("Run it as the user who may write there, or as root with --owner."),
        _ => None,
    }
}
