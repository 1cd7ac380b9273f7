//! A base backup over the replication connection: the server reads its files and sends them as tar.
//!
//! For who cannot read the data directory itself. `options` makes the command, `conversation` takes
//! the server's messages, `archive` reads one archive with `decompress` and `tar`; here is the I/O.
//! Formats: PostgreSQL docs, "Streaming Replication Protocol", BASE_BACKUP, of 13 to 18.
//!
//! Main and other archives: the one of the data directory begins with `backup_label` and
//! `tablespace_map` (from 15 on also when there is no tablespace) and ends with
//! `global/pg_control`; `pg_tblspc` is empty in it. The files of a tablespace come in an archive of
//! their own, whose paths begin below its location, so `pg_tblspc/<oid>/` goes before them. What a
//! path in the data directory is says [`crate::relation::FileClass::of`].
//!
//! Invariants: [`BaseBackupEvent::Ended`] comes only when every archive came whole; without it there
//! is no backup. `next` may be dropped at any await without losing an event. In memory are one
//! message, one piece of decoded bytes and, with compression, a window of 8 MiB. A crash here
//! leaves nothing: the server ends its backup when the connection is gone.

mod archive;
mod conversation;
mod decompress;
mod options;
mod tar;

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use super::error::ReplicationError;
use super::frame::ServerMessage;
use super::session::ReplicationSession;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;
use conversation::Conversation;

pub use options::{BaseBackupOptions, Checkpoint, Zstd};
pub use tar::{ArchiveEntry, ArchiveError, EntryKind};

/// A tablespace that is in a base backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tablespace {
    /// Its oid.
    pub oid: u32,
    /// The directory that it is in, any bytes. Relative to the data directory when it is one in
    /// place (`allow_in_place_tablespaces`).
    pub location: Vec<u8>,
    /// Estimate of the bytes in its archive, in KiB; none unless sizes were asked for.
    pub size_kib: Option<u64>,
}

/// What the server says before the archives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BaseBackupStart {
    /// Recovery needs all WAL from here on.
    pub lsn: Lsn,
    /// Timeline of that WAL.
    pub timeline: TimelineId,
    /// The tablespaces but `pg_default` and `pg_global`; each has an archive.
    pub tablespaces: Vec<Tablespace>,
    /// Estimate of the bytes in the archive of the data directory, in KiB; none unless sizes were
    /// asked for.
    pub data_directory_size_kib: Option<u64>,
}

/// What happened in a base backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BaseBackupEvent {
    /// An archive begins; what follows is in it.
    ArchiveStarted {
        /// Oid of its tablespace; none for the data directory.
        tablespace: Option<u32>,
    },
    /// The next thing in the archive. After a file its content follows.
    Entry(ArchiveEntry),
    /// The next bytes of the file, at least one. A large piece shares the buffer that it came in.
    Data(Bytes),
    /// The file is whole. Comes after every file, also after an empty one.
    FileEnded,
    /// The archive is whole.
    ArchiveEnded,
    /// The server has something to say that is no error, such as a warning that it left out a
    /// special file.
    Notice(ServerMessage),
    /// The backup is whole, and the last event.
    Ended {
        /// Recovery must reach this LSN before the files are consistent.
        lsn: Lsn,
        /// Timeline of that WAL.
        timeline: TimelineId,
    },
}

/// A replication connection that receives a base backup.
#[derive(Debug)]
pub struct BaseBackup {
    session: ReplicationSession,
    conversation: Conversation,
    start: BaseBackupStart,
    silence_timeout: Duration,
    has_failed: bool,
}

impl ReplicationSession {
    /// Starts a base backup and waits for the first archive, for at most
    /// [`BaseBackupOptions::start_timeout`]. Notices that come before it are logged only.
    ///
    /// # Errors
    /// [`ReplicationError::InvalidOption`] and [`ReplicationError::Unsupported`] before anything is
    /// sent. What the server refuses comes as a server error in its words.
    pub async fn start_base_backup(mut self, options: &BaseBackupOptions) -> Result<BaseBackup, ReplicationError> {
        let version = self.server_version();
        let command = options.command(version)?;
        let mut conversation = Conversation::new(version, options.compression.is_some());
        let begin = async {
            self.send(&command).await?;
            loop {
                conversation.take(self.wire.expect().await?)?;
                if let Some(start) = conversation.start() {
                    return Ok(start);
                }
            }
        };
        let start = limit("start of a base backup", options.start_timeout, begin).await?;
        Ok(BaseBackup {
            session: self,
            conversation,
            start,
            silence_timeout: options.silence_timeout,
            has_failed: false,
        })
    }
}

impl BaseBackup {
    /// Where the backup starts, and the tablespaces that are in it.
    pub fn start(&self) -> &BaseBackupStart {
        &self.start
    }

    /// Waits for the next event, for at most [`BaseBackupOptions::silence_timeout`]; `None` after
    /// [`BaseBackupEvent::Ended`]. Cancel-safe.
    ///
    /// # Errors
    /// What failed, with [`ReplicationError::Archive`] for an archive that is damaged or too short.
    /// All that was received is of no use then, and every further call fails.
    pub async fn next(&mut self) -> Result<Option<BaseBackupEvent>, ReplicationError> {
        if self.has_failed {
            return Err(ReplicationError::Closed);
        }
        let next = self.receive().await;
        self.has_failed = next.is_err();
        next
    }

    async fn receive(&mut self) -> Result<Option<BaseBackupEvent>, ReplicationError> {
        loop {
            if let Some(event) = self.conversation.event()? {
                return Ok(Some(event));
            }
            if self.conversation.is_over() {
                return Ok(None);
            }
            let read = self.session.wire.read_with_notices();
            let message = limit("data of a base backup", self.silence_timeout, read).await?;
            self.conversation.take(message.ok_or(ReplicationError::Closed)?)?;
        }
    }

    /// The session, for other commands; `None` when the backup has not ended. Then the connection is
    /// closed, and the server gives the backup up.
    pub fn into_session(self) -> Option<ReplicationSession> {
        self.conversation.is_over().then_some(self.session)
    }
}

async fn limit<T>(
    what: &'static str,
    after: Duration,
    future: impl Future<Output = Result<T, ReplicationError>>,
) -> Result<T, ReplicationError> {
    tokio::time::timeout(after, future)
        .await
        .map_err(|_| ReplicationError::Timeout { what, after })?
}

#[cfg(test)]
mod tests;
