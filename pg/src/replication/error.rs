//! What can go wrong on a replication connection, by what failed.

use std::time::Duration;

use super::base_backup::ArchiveError;
use super::frame::{FrameError, ServerMessage};
use crate::lsn::Lsn;
use crate::tls::TlsError;

/// An error of a replication connection. After any but [`ReplicationError::Server`] and
/// [`ReplicationError::Unsupported`] the session cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// No connection to the host.
    #[error("could not connect to host {host}")]
    Connect {
        /// Host and port, or the socket's path.
        host: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The options for TLS cannot be used.
    #[error("could not set up TLS for host {host}")]
    Tls {
        /// Host and port.
        host: String,
        /// What is wrong with them.
        source: TlsError,
    },
    /// The handshake failed, or the certificate was not accepted.
    #[error("TLS handshake with host {host} failed")]
    TlsHandshake {
        /// Host and port.
        host: String,
        /// The error of the TLS library.
        source: std::io::Error,
    },
    /// The server has no TLS, and the `sslmode` demands it.
    #[error("host {host} does not offer TLS, but sslmode requires it")]
    TlsNotOffered {
        /// Host and port.
        host: String,
    },
    /// The server did not accept us, or we did not accept the server.
    #[error("authentication failed for user \"{user}\": {reason}")]
    Authentication {
        /// The role.
        user: String,
        /// The server's message, or what we found wrong.
        reason: String,
        /// The server's code, when it was the server who refused.
        sqlstate: Option<String>,
    },
    /// The server lets us in, but not tied to the TLS connection as `channel_binding` demands.
    #[error("channel binding is required, but {reason}")]
    ChannelBinding {
        /// What is missing.
        reason: &'static str,
    },
    /// None of several servers can be used.
    #[error("none of {} servers can be used: {}", .failures.len(), each(.failures))]
    NoServer {
        /// In the order of the attempts.
        failures: Vec<ServerFailure>,
    },
    /// The server answered with an error.
    #[error("{severity} {sqlstate} from the server: {message}")]
    Server {
        /// Five characters (docs, "PostgreSQL Error Codes").
        sqlstate: String,
        /// `ERROR`, `FATAL` or `PANIC`.
        severity: String,
        /// The primary message.
        message: String,
        /// The detail.
        detail: Option<String>,
        /// The hint.
        hint: Option<String>,
    },
    /// The bytes of the server are not a message.
    #[error("server sent bytes that are not the replication protocol")]
    Frame(#[from] FrameError),
    /// The server answered with something that does not belong here.
    #[error("unexpected answer from the server: {detail}")]
    Protocol {
        /// What was unexpected.
        detail: String,
    },
    /// An archive of a base backup is damaged, or ends early.
    #[error("base backup of the {archive} is damaged")]
    Archive {
        /// The data directory, or which tablespace.
        archive: String,
        /// What is wrong with it.
        source: ArchiveError,
    },
    /// An option of a base backup cannot be used. Nothing was sent.
    #[error("option {option} of a base backup {reason}")]
    InvalidOption {
        /// The option's name in the replication protocol.
        option: &'static str,
        /// What is wrong with its value.
        reason: &'static str,
    },
    /// The connection broke.
    #[error("connection to the server was lost")]
    Io(#[from] std::io::Error),
    /// The server closed the connection in the middle of an exchange.
    #[error("server closed the connection unexpectedly")]
    Closed,
    /// A limit on waiting was reached.
    #[error("timeout after {} ms: {what}", .after.as_millis())]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// The limit.
        after: Duration,
    },
    /// The server is too old or too new for this.
    #[error("{feature} is not supported by PostgreSQL {version}")]
    Unsupported {
        /// What was asked.
        feature: &'static str,
        /// The server's version.
        version: String,
    },
}

/// One server that could not be used.
#[derive(Debug)]
pub struct ServerFailure {
    /// Which.
    pub server: String,
    /// Why.
    pub error: ReplicationError,
}

fn each(failures: &[ServerFailure]) -> String {
    let line = |failure: &ServerFailure| {
        let cause = std::error::Error::source(&failure.error);
        let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
        format!("{}: {}{cause}", failure.server, failure.error)
    };
    failures.iter().map(line).collect::<Vec<_>>().join("; ")
}

impl From<ServerMessage> for ReplicationError {
    fn from(message: ServerMessage) -> Self {
        let ServerMessage {
            sqlstate,
            severity,
            message,
            detail,
            hint,
        } = message;
        ReplicationError::Server {
            sqlstate,
            severity,
            message,
            detail,
            hint,
        }
    }
}

impl ReplicationError {
    pub(super) fn protocol(detail: impl Into<String>) -> Self {
        ReplicationError::Protocol { detail: detail.into() }
    }

    /// The error of the only server, or of all of them.
    pub(super) fn of_all(mut failures: Vec<ServerFailure>) -> Self {
        match (failures.pop(), failures.is_empty()) {
            (Some(only), true) => only.error,
            (Some(last), false) => {
                failures.push(last);
                ReplicationError::NoServer { failures }
            }
            (None, _) => ReplicationError::protocol("no server to connect to"),
        }
    }

    /// The server's error code, when the server refused.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            ReplicationError::Server { sqlstate, .. } => Some(sqlstate),
            ReplicationError::Authentication { sqlstate, .. } => sqlstate.as_deref(),
            _ => None,
        }
    }

    fn server(&self, code: &str) -> Option<(&str, Option<&str>)> {
        match self {
            ReplicationError::Server {
                sqlstate,
                message,
                detail,
                ..
            } if sqlstate == code => Some((message, detail.as_deref())),
            _ => None,
        }
    }

    /// The WAL asked for is no longer on the server: code 58P01 and the name of a segment in the
    /// message (walsender.c, `WalSndSegmentOpen`). The words are not looked at, because the
    /// server may speak another language.
    pub fn is_wal_removed(&self) -> bool {
        self.server("58P01").is_some_and(|(message, _)| {
            message
                .split(|c: char| !c.is_ascii_alphanumeric())
                .any(|word| word.len() == 24 && word.bytes().all(|b| b.is_ascii_hexdigit()))
        })
    }

    /// The LSN asked for is ahead of what the server has flushed (walsender.c, `StartReplication`;
    /// the server gives no code of its own, so: `XX000`, two LSNs, no detail).
    pub fn is_ahead_of_server(&self) -> bool {
        self.server("XX000").is_some_and(|(message, detail)| {
            message.contains("is ahead of the WAL flush position") || (detail.is_none() && lsn_count(message) == 2)
        })
    }

    /// The timeline, or the LSN on it, is not in the server's history (walsender.c,
    /// `StartReplication`; timeline.c, `tliSwitchPoint`).
    pub fn is_not_in_history(&self) -> bool {
        self.server("XX000").is_some_and(|(message, detail)| {
            message.contains("is not in this server's history")
                || (lsn_count(message) == 1 && detail.is_some_and(|d| lsn_count(d) == 1))
        })
    }

    /// The slot does not exist (`undefined_object`).
    pub fn is_slot_missing(&self) -> bool {
        self.server("42704").is_some()
    }

    /// Another connection uses the slot (`object_in_use`).
    pub fn is_slot_in_use(&self) -> bool {
        self.server("55006").is_some()
    }

    /// The server has invalidated the slot (`object_not_in_prerequisite_state`: max_slot_wal_keep_size,
    /// idle_replication_slot_timeout).
    pub fn is_slot_invalidated(&self) -> bool {
        self.server("55000").is_some()
    }

    /// Whether trying again, without anybody doing anything, may help.
    pub fn is_transient(&self) -> bool {
        match self {
            ReplicationError::Connect { .. }
            | ReplicationError::Io(_)
            | ReplicationError::Closed
            | ReplicationError::Timeout { .. } => true,
            ReplicationError::Server { sqlstate, .. } => {
                matches!(sqlstate.get(..2), Some("08" | "53"))
                    || matches!(sqlstate.as_str(), "57P01" | "57P02" | "57P03" | "57P05" | "55006")
            }
            ReplicationError::TlsHandshake { source, .. } => source.kind() != std::io::ErrorKind::InvalidData,
            ReplicationError::NoServer { failures } => failures.iter().any(|failure| failure.error.is_transient()),
            ReplicationError::Tls { .. }
            | ReplicationError::TlsNotOffered { .. }
            | ReplicationError::Authentication { .. }
            | ReplicationError::ChannelBinding { .. }
            | ReplicationError::Frame(_)
            | ReplicationError::Protocol { .. }
            | ReplicationError::Archive { .. }
            | ReplicationError::InvalidOption { .. }
            | ReplicationError::Unsupported { .. } => false,
        }
    }
}

fn lsn_count(text: &str) -> usize {
    text.split(|c: char| !(c.is_ascii_hexdigit() || c == '/'))
        .filter(|word| word.parse::<Lsn>().is_ok())
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(sqlstate: &str, message: &str, detail: Option<&str>) -> ReplicationError {
        ReplicationError::Server {
            sqlstate: sqlstate.to_owned(),
            severity: "ERROR".to_owned(),
            message: message.to_owned(),
            detail: detail.map(str::to_owned),
            hint: None,
        }
    }

    #[test]
    fn removed_wal_is_recognised_in_any_language() {
        let english = "requested WAL segment 000000010000000000000003 has already been removed";
        let german = "das angeforderte WAL-Segment 000000010000000000000003 wurde schon entfernt";
        assert!(server("58P01", english, None).is_wal_removed());
        assert!(server("58P01", german, None).is_wal_removed());
        assert!(!server("58P01", "could not open file \"pg_wal/x\"", None).is_wal_removed());
        assert!(!server("XX000", english, None).is_wal_removed());
    }

    #[test]
    fn ahead_and_foreign_are_told_apart() {
        let ahead = "angeforderter Startpunkt 0/9000000 ist vor der Position 0/3000148";
        assert!(server("XX000", ahead, None).is_ahead_of_server());
        assert!(!server("XX000", ahead, None).is_not_in_history());
        let foreign = "requested starting point 0/9000000 on timeline 1 is not in this server's history";
        let detail = Some("This server's history forked from timeline 1 at 0/3000148.");
        assert!(server("XX000", foreign, detail).is_not_in_history());
        assert!(!server("XX000", foreign, detail).is_ahead_of_server());
    }

    #[test]
    fn only_what_may_pass_by_itself_is_transient() {
        assert!(server("57P03", "the database system is starting up", None).is_transient());
        assert!(server("53300", "too many connections", None).is_transient());
        assert!(server("55006", "slot is active", None).is_slot_in_use());
        assert!(!server("42704", "slot does not exist", None).is_transient());
        assert!(ReplicationError::Closed.is_transient());
        assert!(!ReplicationError::protocol("x").is_transient());
    }

    #[test]
    fn the_error_of_several_servers_names_each_with_its_reason() {
        let failure = |server: &str, error| ServerFailure {
            server: server.to_owned(),
            error,
        };
        let down = || ReplicationError::Connect {
            host: "a:1".to_owned(),
            source: std::io::Error::from_raw_os_error(111),
        };
        let one = ReplicationError::of_all(vec![failure("a:1", down())]);
        assert!(matches!(one, ReplicationError::Connect { .. }), "{one}");
        let refused = ReplicationError::ChannelBinding { reason: "why" };
        let both = ReplicationError::of_all(vec![failure("a:1", down()), failure("b:2", refused)]);
        assert!(both.is_transient());
        let text = both.to_string();
        for part in [
            "none of 2 servers",
            "a:1: could not connect",
            "refused (os error",
            "b:2: channel",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
