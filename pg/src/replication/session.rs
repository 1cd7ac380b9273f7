//! The simple replication commands: ask, read rows, be ready again.
//!
//! Docs, "Streaming Replication Protocol": IDENTIFY_SYSTEM, SHOW, TIMELINE_HISTORY. Every command
//! has a time limit; after it, or after a broken connection, the session is of no use. A server
//! error leaves the session usable.

use std::time::Duration;

use bytes::Bytes;
use postgres_protocol::message::frontend;

use super::connect;
use super::error::ReplicationError;
use super::frame::Message;
use super::slot::SlotName;
use super::wal_stream::WalStream;
use super::wire::Wire;
use crate::conninfo::ConnectOptions;
use crate::identity::{ServerVersion, SystemIdentifier};
use crate::lsn::Lsn;
use crate::segment::{SegmentSize, parse_segment_size};
use crate::timeline::TimelineId;

/// How long a simple command may take when nothing else is set.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Rows that a simple command may answer with; all of them answer with one.
const ROWS_MAX: usize = 1000;

/// Answer to IDENTIFY_SYSTEM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SystemIdentity {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// The timeline that the server is on.
    pub timeline: TimelineId,
    /// End of the WAL that the server has flushed (on a standby: received and flushed).
    pub flush_lsn: Lsn,
}

/// A replication connection that waits for a command.
#[derive(Debug)]
pub struct ReplicationSession {
    pub(super) wire: Wire,
    pub(super) server_version: ServerVersion,
    pub(super) command_timeout: Duration,
}

impl ReplicationSession {
    /// Connects to the first server that lets us in, with TLS as `sslmode` says. `connect_timeout`
    /// applies to each. `target_session_attrs` is not looked at, because that takes SQL: who wants
    /// it chooses the server first and comes with [`ConnectOptions::only`] that one.
    ///
    /// # Errors
    /// The error of the only server, or [`ReplicationError::NoServer`] with that of each.
    pub async fn connect(opts: &ConnectOptions) -> Result<Self, ReplicationError> {
        let (wire, server_version) = connect::connect(opts).await?;
        Ok(ReplicationSession {
            wire,
            server_version,
            command_timeout: COMMAND_TIMEOUT,
        })
    }

    /// Sets the time limit of a simple command.
    pub fn set_command_timeout(&mut self, limit: Duration) {
        self.command_timeout = limit;
    }

    /// Says goodbye, so that the server does not log a lost connection. Dropping the session is as
    /// good otherwise.
    ///
    /// # Errors
    /// What failed; the connection is gone either way.
    pub async fn close(mut self) -> Result<(), ReplicationError> {
        frontend::terminate(self.wire.out());
        let after = self.command_timeout;
        let what = "closing the connection";
        tokio::time::timeout(after, self.wire.flush())
            .await
            .map_err(|_| ReplicationError::Timeout { what, after })?
    }

    /// The server's version.
    pub fn server_version(&self) -> ServerVersion {
        self.server_version
    }

    /// Which cluster this is, and where it stands.
    ///
    /// # Errors
    /// What failed.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, ReplicationError> {
        let row = self.one_row("IDENTIFY_SYSTEM").await?;
        let bad = || ReplicationError::protocol("answer to IDENTIFY_SYSTEM");
        let system_identifier = text_column(&row, 0)?.and_then(|text| text.parse().ok());
        let timeline = text_column(&row, 1)?.and_then(|text| text.parse().ok());
        let flush_lsn = text_column(&row, 2)?.and_then(|text| text.parse().ok());
        Ok(SystemIdentity {
            system_identifier: system_identifier.ok_or_else(bad)?,
            timeline: timeline.and_then(TimelineId::new).ok_or_else(bad)?,
            flush_lsn: flush_lsn.ok_or_else(bad)?,
        })
    }

    /// The value of a setting.
    ///
    /// # Errors
    /// What failed; an unknown setting is a server error.
    pub async fn show(&mut self, name: &str) -> Result<String, ReplicationError> {
        let row = self.one_row(&format!("SHOW {}", quote_identifier(name))).await?;
        let value = text_column(&row, 0)?.map(str::to_owned);
        value.ok_or_else(|| ReplicationError::protocol("answer to SHOW"))
    }

    /// The size of the server's WAL segments.
    ///
    /// # Errors
    /// What failed.
    pub async fn segment_size(&mut self) -> Result<SegmentSize, ReplicationError> {
        let text = self.show("wal_segment_size").await?;
        parse_segment_size(&text).map_err(|error| ReplicationError::protocol(error.to_string()))
    }

    /// Name and content of a timeline's history file. Timeline 1 has none.
    ///
    /// # Errors
    /// What failed; a file that is not there is server error 58P01.
    pub async fn timeline_history(&mut self, timeline: TimelineId) -> Result<(String, Bytes), ReplicationError> {
        let row = self.one_row(&format!("TIMELINE_HISTORY {timeline}")).await?;
        let name = text_column(&row, 0)?.map(str::to_owned);
        let content = row.into_iter().nth(1).flatten();
        name.zip(content)
            .ok_or_else(|| ReplicationError::protocol("answer to TIMELINE_HISTORY"))
    }

    /// Starts to receive WAL of `timeline` from `from` on. When a historic timeline ends exactly
    /// at `from` there is nothing to receive, and the first event is the timeline's end.
    ///
    /// # Errors
    /// What failed, see [`ReplicationError::is_not_in_history`] and the ones about slots. That the
    /// WAL is removed or not there yet ([`ReplicationError::is_wal_removed`],
    /// [`ReplicationError::is_ahead_of_server`]) the server finds only after it has agreed to
    /// stream, so it comes from [`WalStream::next`].
    pub async fn start_physical(
        self,
        slot: Option<&SlotName>,
        from: Lsn,
        timeline: TimelineId,
    ) -> Result<WalStream, ReplicationError> {
        let slot = slot.map(|name| format!("SLOT \"{name}\" ")).unwrap_or_default();
        let command = format!("START_REPLICATION {slot}PHYSICAL {from} TIMELINE {timeline}");
        WalStream::start(self, &command).await
    }

    /// Sends a command.
    pub(super) async fn send(&mut self, command: &str) -> Result<(), ReplicationError> {
        frontend::query(command, self.wire.out())
            .map_err(|_| ReplicationError::protocol("command contains a zero byte"))?;
        self.wire.flush().await
    }

    /// Runs a command within the time limit and gives its only row.
    pub(super) async fn one_row(&mut self, command: &str) -> Result<Vec<Option<Bytes>>, ReplicationError> {
        let mut rows = self.rows(command).await?;
        match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => Ok(row),
            _ => Err(ReplicationError::protocol(format!(
                "not one row in answer to {command}"
            ))),
        }
    }

    /// Runs a command within the time limit and gives its rows.
    pub(super) async fn rows(&mut self, command: &str) -> Result<Vec<Vec<Option<Bytes>>>, ReplicationError> {
        let after = self.command_timeout;
        tokio::time::timeout(after, self.rows_unbounded(command))
            .await
            .map_err(|_| ReplicationError::Timeout {
                what: "answer to a command",
                after,
            })?
    }

    async fn rows_unbounded(&mut self, command: &str) -> Result<Vec<Vec<Option<Bytes>>>, ReplicationError> {
        self.send(command).await?;
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            match self.wire.expect().await? {
                Message::DataRow(row) if rows.len() < ROWS_MAX => rows.push(row),
                Message::DataRow(_) => return Err(ReplicationError::protocol("too many rows")),
                Message::Error(message) => {
                    let fatal = message.severity != "ERROR";
                    let error = ReplicationError::from(message);
                    if fatal {
                        return Err(error);
                    }
                    failure = Some(error);
                }
                Message::ReadyForQuery => return failure.map_or(Ok(rows), Err),
                Message::CommandComplete(_) | Message::Other(_) => {}
                other => return Err(unexpected(&other)),
            }
        }
    }
}

/// The error for a message that does not belong where it came. Its content is not shown: it may be
/// large, or part of an authentication.
pub(super) fn unexpected(message: &Message) -> ReplicationError {
    let name = match message {
        Message::Authentication(_) => "authentication request",
        Message::ParameterStatus(..) => "parameter status",
        Message::ReadyForQuery => "ready for query",
        Message::DataRow(_) => "data row",
        Message::CommandComplete(_) => "command complete",
        Message::Error(_) => "error",
        Message::Notice(_) => "notice",
        Message::CopyBoth => "copy both response",
        Message::CopyOut => "copy out response",
        Message::CopyData(_) => "copy data",
        Message::CopyDone => "copy done",
        Message::Other(tag) => {
            return ReplicationError::protocol(format!("message '{}'", char::from(*tag)));
        }
    };
    ReplicationError::protocol(name)
}

/// A column as text; `None` when it is NULL or not there.
pub(super) fn text_column(row: &[Option<Bytes>], column: usize) -> Result<Option<&str>, ReplicationError> {
    match row.get(column) {
        Some(Some(bytes)) => std::str::from_utf8(bytes)
            .map(Some)
            .map_err(|_| ReplicationError::protocol("column is not UTF-8")),
        _ => Ok(None),
    }
}

/// An identifier in double quotes (repl_scanner.l takes them like SQL).
fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_cannot_break_out_of_their_quotes() {
        assert_eq!(quote_identifier("wal_segment_size"), "\"wal_segment_size\"");
        assert_eq!(quote_identifier("a\"; DROP"), "\"a\"\"; DROP\"");
    }

    #[test]
    fn columns_may_be_null_or_missing() {
        let row = vec![Some(Bytes::from_static(b"x")), None, Some(Bytes::from_static(b"\xFF"))];
        assert_eq!(text_column(&row, 0).unwrap(), Some("x"));
        assert_eq!(text_column(&row, 1).unwrap(), None);
        assert_eq!(text_column(&row, 9).unwrap(), None);
        assert!(text_column(&row, 2).is_err());
    }
}
