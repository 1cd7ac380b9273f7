//! What can go wrong with a component.

use std::io;
use std::path::Path;

use store::StoreError;

/// Why a component was not captured, or not restored.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// The repository failed.
    #[error("the repository failed")]
    Store(#[from] StoreError),
    /// A file could not be read or written.
    #[error("cannot {action} \"{path}\"")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The system cannot be reached, or said no.
    #[error("{what}: {detail}")]
    System {
        /// Which system, and what was asked of it.
        what: String,
        /// What it answered.
        detail: String,
        /// What to do.
        hint: String,
    },
    /// Something must not be done.
    #[error("{message}")]
    Refused {
        /// What, and why.
        message: String,
        /// What to do.
        hint: String,
    },
    /// It took longer than it may.
    #[error("it took longer than {0} s")]
    TooLong(u64),
    /// Another part failed first, and says why.
    #[error("stopped, because something else failed")]
    Stopped,
}

impl ComponentError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_string_lossy().escape_debug().to_string();
        move |source| ComponentError::Io { action, path, source }
    }

    pub(crate) fn refused(message: impl Into<String>, hint: impl Into<String>) -> Self {
        ComponentError::Refused {
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// What to do about it; none where the message says it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            ComponentError::System { hint, .. } | ComponentError::Refused { hint, .. } => Some(hint),
            ComponentError::TooLong(_) => {
                Some("Raise \"duration_max\" of the component, or find out what holds it up.")
            }
            _ => None,
        }
    }
}
