//! What the server says in answer to BASE_BACKUP, in order: messages in, events out, no I/O.
//!
//! Docs, "Streaming Replication Protocol", BASE_BACKUP; 13, 14: src/backend/replication/basebackup.c
//! (`perform_base_backup`, `SendBackupHeader`), later: src/backend/backup/basebackup_copy.c. Two
//! result sets (where it starts, the tablespaces), the archives in CopyData, and a result set (where
//! it ends). 13 and 14 make one copy for each row of the second set, in its order, and nothing but
//! tar is in them. Later ones make a single copy, and the first byte of a message says what it is.
//!
//! Invariants: the end comes out only when every archive that was announced came, once and whole,
//! and the server is ready again, so that no error can follow. A message is taken only when the one
//! before is used up, so one is in memory.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::archive::Archive;
use super::options::TYPED_COPY_MAJOR;
use super::{BaseBackupEvent, BaseBackupStart, Tablespace};
use crate::identity::ServerVersion;
use crate::lsn::Lsn;
use crate::replication::error::ReplicationError;
use crate::replication::frame::Message;
use crate::replication::session::{text_column, unexpected};
use crate::timeline::TimelineId;

/// More tablespaces than any cluster has; each has a location of [`LOCATION_BYTES_MAX`] at most.
const TABLESPACES_MAX: usize = 10_000;

/// `MAXPGPATH` (src/include/pg_config_manual.h).
const LOCATION_BYTES_MAX: usize = 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// First result set.
    Position,
    /// Second result set.
    Tablespaces,
    /// A copy must begin.
    BeforeCopy,
    Copying,
    /// The copies are over, the last result set is due.
    Ending {
        end: Option<(Lsn, TimelineId)>,
    },
    Over,
}

/// An archive that the second result set announced.
#[derive(Debug)]
struct Announced {
    tablespace: Option<u32>,
    has_begun: bool,
}

/// The answer to one BASE_BACKUP.
#[derive(Debug)]
pub(super) struct Conversation {
    state: State,
    /// The first byte of each CopyData is a type.
    is_typed: bool,
    is_compressed: bool,
    position: Option<(Lsn, TimelineId)>,
    tablespaces: Vec<Tablespace>,
    data_directory_size_kib: Option<u64>,
    announced: Vec<Announced>,
    current: Option<Archive>,
    /// Events of one message, two at most.
    queue: VecDeque<BaseBackupEvent>,
}

impl Conversation {
    pub(super) fn new(version: ServerVersion, is_compressed: bool) -> Self {
        Conversation {
            state: State::Position,
            is_typed: version.major() >= TYPED_COPY_MAJOR,
            is_compressed,
            position: None,
            tablespaces: Vec::new(),
            data_directory_size_kib: None,
            announced: Vec::new(),
            current: None,
            queue: VecDeque::new(),
        }
    }

    /// What is known at the start, once the first copy has begun.
    pub(super) fn start(&mut self) -> Option<BaseBackupStart> {
        let (lsn, timeline) = self.position.filter(|_| self.state == State::Copying)?;
        Some(BaseBackupStart {
            lsn,
            timeline,
            tablespaces: std::mem::take(&mut self.tablespaces),
            data_directory_size_kib: self.data_directory_size_kib,
        })
    }

    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// The next event out of the messages that were taken; `None` when another is needed.
    pub(super) fn event(&mut self) -> Result<Option<BaseBackupEvent>, ReplicationError> {
        match (self.queue.pop_front(), &mut self.current) {
            (Some(event), _) => Ok(Some(event)),
            (None, Some(archive)) => archive.event(),
            (None, None) => Ok(None),
        }
    }

    /// One message, one step. [`Conversation::event`] must have given `None` before.
    pub(super) fn take(&mut self, message: Message) -> Result<(), ReplicationError> {
        match (self.state, message) {
            (_, Message::Error(message)) => return Err(message.into()),
            (_, Message::Notice(notice)) => self.queue.push_back(BaseBackupEvent::Notice(notice)),
            // RowDescription: the columns are known.
            (_, Message::Other(b'T')) => {}
            (State::Position, Message::DataRow(row)) if self.position.is_none() => {
                self.position = Some(lsn_and_timeline(&row)?);
            }
            (State::Position, Message::CommandComplete(_)) if self.position.is_some() => {
                self.state = State::Tablespaces;
            }
            (State::Tablespaces, Message::DataRow(row)) => self.take_tablespace(&row)?,
            (State::Tablespaces, Message::CommandComplete(_)) if self.has_data_directory() => {
                self.state = State::BeforeCopy;
            }
            (State::BeforeCopy, Message::CopyOut) => {
                self.state = State::Copying;
                if !self.is_typed {
                    let next = self.announced.iter().position(|archive| !archive.has_begun);
                    self.begin_archive(next)?;
                }
            }
            (State::Copying, Message::CopyData(payload)) if self.is_typed => self.take_typed(payload)?,
            (State::Copying, Message::CopyData(payload)) => self.feed(payload)?,
            (State::Copying, Message::CopyDone) => {
                self.end_archive()?;
                let all = self.announced.iter().all(|archive| archive.has_begun);
                self.state = match (all, self.is_typed) {
                    (true, _) => State::Ending { end: None },
                    (false, false) => State::BeforeCopy,
                    (false, true) => return Err(ReplicationError::protocol("not all archives of a base backup")),
                };
            }
            (State::Ending { end: None }, Message::DataRow(row)) => {
                let end = Some(lsn_and_timeline(&row)?);
                self.state = State::Ending { end };
            }
            (State::Ending { end: Some(_) }, Message::CommandComplete(_)) => {}
            (
                State::Ending {
                    end: Some((lsn, timeline)),
                },
                Message::ReadyForQuery,
            ) => {
                self.state = State::Over;
                self.queue.push_back(BaseBackupEvent::Ended { lsn, timeline });
            }
            (_, other) => return Err(unexpected(&other)),
        }
        Ok(())
    }

    fn has_data_directory(&self) -> bool {
        self.announced.iter().any(|archive| archive.tablespace.is_none())
    }

    /// A row of the second result set: oid and location, which are null for the data directory, and
    /// the size in KiB or null.
    fn take_tablespace(&mut self, row: &[Option<Bytes>]) -> Result<(), ReplicationError> {
        let bad = || ReplicationError::protocol("list of tablespaces");
        if self.announced.len() >= TABLESPACES_MAX {
            return Err(ReplicationError::protocol("too many tablespaces"));
        }
        let number = |column| match text_column(row, column) {
            Ok(Some(text)) => text.parse::<u64>().map(Some).map_err(|_| bad()),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        let oid = number(0)?.map(u32::try_from).transpose().map_err(|_| bad())?;
        let location = row.get(1).and_then(Option::as_ref);
        let size_kib = number(2)?;
        if oid == Some(0) || self.announced.iter().any(|archive| archive.tablespace == oid) {
            return Err(bad());
        }
        match (oid, location) {
            (Some(oid), Some(location)) if location.len() <= LOCATION_BYTES_MAX => {
                self.tablespaces.push(Tablespace {
                    oid,
                    location: location.to_vec(),
                    size_kib,
                });
            }
            (None, None) => self.data_directory_size_kib = size_kib,
            _ => return Err(bad()),
        }
        self.announced.push(Announced {
            tablespace: oid,
            has_begun: false,
        });
        Ok(())
    }

    /// A CopyData of 15 or later (docs, BASE_BACKUP: "new archive", "manifest", "archive or manifest
    /// data", "progress report").
    fn take_typed(&mut self, mut payload: Bytes) -> Result<(), ReplicationError> {
        match payload.try_get_u8() {
            Ok(b'd') => self.feed(payload),
            Ok(b'n') => {
                let name = payload.split(|byte| *byte == 0).next().unwrap_or_default();
                let next = self.named(name);
                self.end_archive()?;
                self.begin_archive(next)
            }
            // What was sent we count ourselves.
            Ok(b'p') => Ok(()),
            Ok(b'm') => Err(ReplicationError::protocol(
                "manifest of a base backup, which was not asked for",
            )),
            Ok(kind) => {
                let kind = char::from(kind).escape_default();
                Err(ReplicationError::protocol(format!("copy data '{kind}'")))
            }
            Err(_) => Err(ReplicationError::protocol("empty copy data")),
        }
    }

    /// Which archive has this file name: `base.tar` or `<oid>.tar` (basebackup.c,
    /// `perform_base_backup`), with `.zst` when it is compressed (basebackup_zstd.c).
    fn named(&self, name: &[u8]) -> Option<usize> {
        let suffix = if self.is_compressed { ".tar.zst" } else { ".tar" };
        let stem = std::str::from_utf8(name).ok()?.strip_suffix(suffix)?;
        let tablespace = match stem {
            "base" => None,
            oid => Some(oid.parse::<u32>().ok()?),
        };
        let is_it = |archive: &Announced| archive.tablespace == tablespace;
        self.announced.iter().position(is_it)
    }

    fn begin_archive(&mut self, which: Option<usize>) -> Result<(), ReplicationError> {
        let archive = which.and_then(|which| self.announced.get_mut(which));
        let Some(archive) = archive.filter(|archive| !archive.has_begun) else {
            return Err(ReplicationError::protocol("archive that was not announced"));
        };
        archive.has_begun = true;
        let tablespace = archive.tablespace;
        self.current = Some(Archive::begin(tablespace, self.is_compressed, self.is_typed)?);
        self.queue.push_back(BaseBackupEvent::ArchiveStarted { tablespace });
        Ok(())
    }

    fn end_archive(&mut self) -> Result<(), ReplicationError> {
        if let Some(archive) = self.current.take() {
            archive.finish()?;
            self.queue.push_back(BaseBackupEvent::ArchiveEnded);
        }
        Ok(())
    }

    fn feed(&mut self, bytes: Bytes) -> Result<(), ReplicationError> {
        let archive = self.current.as_mut();
        archive
            .map(|archive| archive.feed(bytes))
            .ok_or_else(|| ReplicationError::protocol("data outside of an archive"))
    }
}

/// The only row of the first and of the last result set.
fn lsn_and_timeline(row: &[Option<Bytes>]) -> Result<(Lsn, TimelineId), ReplicationError> {
    let lsn = text_column(row, 0)?.and_then(|text| text.parse().ok());
    let timeline = text_column(row, 1)?.and_then(|text| text.parse().ok());
    lsn.zip(timeline.and_then(TimelineId::new))
        .ok_or_else(|| ReplicationError::protocol("position of a base backup"))
}
