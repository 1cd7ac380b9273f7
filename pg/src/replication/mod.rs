//! The replication connection: our own walsender client.
//!
//! `connect` makes a `wire` (socket, TLS, `auth`), `frame` turns bytes into messages without
//! any I/O, `session` runs the simple replication commands, `slot` the ones about slots, and
//! `wal_stream` receives WAL and `base_backup` base backups. A session becomes a stream with
//! [`ReplicationSession::start_physical`] and comes back with [`WalStream::finish`]; for
//! [`ReplicationSession::start_base_backup`] it is [`BaseBackup::into_session`].
//! Protocol: PostgreSQL docs, "Frontend/Backend Protocol" and "Streaming Replication Protocol".
//!
//! Invariants: every wait has a limit except [`WalStream::next`], which the caller bounds; no
//! message is larger than [`frame::MESSAGE_BYTES_MAX`]; a flush LSN is sent only when the caller
//! gives one. A crash here loses nothing: the server sends again from where we ask.

mod auth;
mod base_backup;
mod connect;
mod error;
pub mod frame;
mod session;
mod slot;
mod wal_stream;
mod wire;

pub use base_backup::{
    ArchiveEntry, ArchiveError, BaseBackup, BaseBackupEvent, BaseBackupOptions, BaseBackupStart, Checkpoint, EntryKind,
    Tablespace, Zstd,
};
pub use error::{ReplicationError, ServerFailure};
pub use frame::{ServerMessage, StandbyStatus};
pub use session::{ReplicationSession, SystemIdentity};
pub use slot::{SlotCreation, SlotName, SlotNameError, SlotState};
pub use wal_stream::{StreamEvent, WalStream};
