//! Exit codes and how an error becomes text. The table is part of the interface (docs/OPERATIONS.md).

use std::fmt::Write;

use components::ComponentError;
use pg::replication::ReplicationError;
use pg::tls::TlsError;
use store::StoreError;
use store::object::{ErrorClass, ObjectError};

use crate::archive_push::PushError;
use crate::backup::BackupError;

/// Done.
pub const OK: u8 = 0;
/// Failed.
pub const FAILURE: u8 = 1;
/// Command line or configuration.
pub const USAGE: u8 = 2;
/// Refused: a precondition does not hold.
pub const REFUSED: u8 = 3;
/// The repository is damaged.
pub const DAMAGED: u8 = 4;
/// A key is missing or wrong.
pub const KEY: u8 = 5;
/// The object store or PostgreSQL cannot be reached.
pub const UNREACHABLE: u8 = 6;

/// Another agent has taken over; starting again would take it back.
pub const TAKEN_OVER: u8 = 7;

/// What to do when the server does not bind the password to the connection.
pub const CHANNEL_BINDING_HINT: &str = "The server needs ssl = on, a password made with password_encryption = scram-sha-256, and \
                                        scram-sha-256 in pg_hba.conf. Or set channel_binding to \"prefer\".";
/// What to do when the two ends of a connection do not see the same TLS.
pub const BETWEEN_HINT: &str =
    "Somebody may sit between this host and the server. Find out who, before anything is sent there.";
/// What to do when TLS fails.
pub const TLS_HINT: &str = "Check sslmode, sslrootcert, sslcert and sslkey in [cluster.<name>.postgres], and ssl in the server's configuration.";

/// What to do when the server is not the one of any lineage.
pub const OTHER_SERVER_HINT: &str = "If it is this cluster after pg_upgrade, or made anew, `wal-agent adopt` begins a new lineage for it. \
                                     If not, check host and port in [cluster.<name>.postgres]: each cluster has an entry and keys of its own.";

/// An error that brings its own exit code and hint.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Exit code.
    pub code: u8,
    /// Primary line: lowercase, no full stop.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// Everything was said already; only the code is left.
#[derive(Debug, thiserror::Error)]
#[error("exit code {0}")]
pub struct Said(pub u8);

impl Failure {
    /// A precondition does not hold.
    pub fn refused(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Failure {
            code: REFUSED,
            message: message.into(),
            hint: Some(hint.into()),
        }
    }

    /// Something cannot be reached.
    pub fn unreachable(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Failure {
            code: UNREACHABLE,
            message: message.into(),
            hint: Some(hint.into()),
        }
    }
}

/// The whole chain as PostgreSQL would print it, with its hint.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = format!("wal-agent: {error}");
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let line = cause.to_string();
        if line != last {
            let _ = write!(text, "\nDETAIL: {line}");
        }
        last = line;
    }
    if let Some(hint) = hint(error) {
        let _ = write!(text, "\nHINT: {hint}");
    }
    text
}

/// The most specific advice in the chain.
pub fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().rev().find_map(|cause| {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.hint.clone();
        }
        if let Some(backup) = cause.downcast_ref::<BackupError>() {
            return backup.hint();
        }
        if let Some(push) = cause.downcast_ref::<PushError>() {
            return push.hint();
        }
        if let Some(component) = cause.downcast_ref::<ComponentError>() {
            return component.hint().map(str::to_owned);
        }
        if let Some(object) = cause.downcast_ref::<ObjectError>() {
            return object.hint().map(str::to_owned);
        }
        if let Some(store) = cause.downcast_ref::<StoreError>() {
            return match store {
                StoreError::Foreign { what, .. } if what.starts_with("the server's") => {
                    Some(OTHER_SERVER_HINT.to_owned())
                }
                store => store.hint(),
            };
        }
        if let Some(replication) = cause.downcast_ref::<ReplicationError>() {
            return replication_hint(replication);
        }
        if let Some(tls) = cause.downcast_ref::<TlsError>() {
            return Some(tls.hint().to_owned());
        }
        None
    })
}

fn replication_hint(error: &ReplicationError) -> Option<String> {
    Some(match error {
        ReplicationError::Connect { .. } | ReplicationError::Timeout { .. } => {
            "Is PostgreSQL running, and do host and port in [cluster.<name>.postgres] name it?".into()
        }
        ReplicationError::Authentication { reason, .. } if reason.contains("channel binding") => BETWEEN_HINT.into(),
        ReplicationError::ChannelBinding { .. } => CHANNEL_BINDING_HINT.into(),
        ReplicationError::TlsHandshake { .. } | ReplicationError::TlsNotOffered { .. } => TLS_HINT.into(),
        ReplicationError::Authentication { .. } => {
            "Allow the role in pg_hba.conf for database \"replication\" and check its password (password_file or .pgpass).".into()
        }
        error if error.is_slot_in_use() => "Another process streams from this slot. Is a second agent running?".into(),
        error if error.is_slot_missing() => "Run `wal-agent init` again, or restart `wal-agent run`, which creates the slot.".into(),
        _ => return None,
    })
}

/// The exit code for an error.
pub fn code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(code_of).unwrap_or(FAILURE)
}

fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(failure.code);
    }
    if let Some(Said(code)) = cause.downcast_ref::<Said>() {
        return Some(*code);
    }
    if cause.downcast_ref::<config::ConfigErrors>().is_some() {
        return Some(USAGE);
    }
    if let Some(backup) = cause.downcast_ref::<BackupError>() {
        return match backup {
            BackupError::Identity { .. } | BackupError::Unsupported { .. } => Some(REFUSED),
            _ => None,
        };
    }
    if let Some(push) = cause.downcast_ref::<PushError>() {
        return push.code();
    }
    if let Some(component) = cause.downcast_ref::<ComponentError>() {
        return match component {
            ComponentError::Refused { .. } => Some(REFUSED),
            ComponentError::System { .. } => Some(UNREACHABLE),
            _ => None,
        };
    }
    if let Some(store) = cause.downcast_ref::<StoreError>() {
        return match store {
            StoreError::Damaged { .. } | StoreError::Untrusted { .. } | StoreError::Conflict { .. } => Some(DAMAGED),
            StoreError::TakenOver { .. } => Some(TAKEN_OVER),
            StoreError::WrongKey { .. }
            | StoreError::KeyMissing { .. }
            | StoreError::KeyAway { .. }
            | StoreError::KeyFile { .. } => Some(KEY),
            // Keys of another repository, or of another cluster.
            StoreError::Foreign { what, .. } if what.contains("repository") || what.contains("key") => Some(KEY),
            StoreError::NoRepository { .. } | StoreError::Foreign { .. } => Some(REFUSED),
            _ => None,
        };
    }
    if let Some(object) = cause.downcast_ref::<ObjectError>() {
        return match object.class() {
            ErrorClass::Transient | ErrorClass::Misconfigured => Some(UNREACHABLE),
            ErrorClass::Corrupt => Some(DAMAGED),
            _ => None,
        };
    }
    if cause.downcast_ref::<TlsError>().is_some() {
        return Some(USAGE);
    }
    if let Some(replication) = cause.downcast_ref::<ReplicationError>() {
        if matches!(replication, ReplicationError::Tls { .. }) {
            return Some(USAGE);
        }
        let refused = matches!(
            replication,
            ReplicationError::Server { .. }
                | ReplicationError::Unsupported { .. }
                | ReplicationError::ChannelBinding { .. }
        );
        return Some(if refused { REFUSED } else { UNREACHABLE });
    }
    None
}
