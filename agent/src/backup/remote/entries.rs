//! What is in the server's archives, as the pipeline takes it. Three files are kept back: the label, the tablespace map, `pg_control`.

use std::path::PathBuf;

use bytes::Bytes;
use pg::relation::excluded;
use pg::replication::{ArchiveEntry, BaseBackupStart, EntryKind};
use store::file_table::{EntryType, FileEntry};
use store::manifest::Tablespace;
use store::pipeline::{FileJob, Streamed};

use crate::backup::error::BackupError;
use crate::backup::list::classify;

/// Longest file that is kept back: a tablespace map of many thousand lines.
const KEPT_BYTES_MAX: u64 = 4 << 20;

/// The state of one base backup.
#[derive(Debug)]
pub(super) struct Entries {
    tablespaces: Vec<Tablespace>,
    relation_segment_blocks: u32,
    prefix: Vec<u8>,
    now: Now,
    kept: Kept,
}

/// The file that is under way.
#[derive(Debug)]
enum Now {
    /// It goes into the pipeline.
    Copied,
    /// It is kept back.
    Kept(FileJob, Vec<u8>),
    /// It is no part of a backup.
    LeftOut,
}

/// What was kept back.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) label: Option<Vec<u8>>,
    pub(super) map: Option<Vec<u8>>,
    pub(super) control: Option<(FileJob, Vec<u8>)>,
    pub(super) tablespaces: Vec<Tablespace>,
}

impl Entries {
    pub(super) fn new(start: &BaseBackupStart, relation_segment_blocks: u32) -> Self {
        let of = |tablespace: &pg::replication::Tablespace| Tablespace {
            oid: tablespace.oid,
            location: tablespace.location.clone().into(),
            in_place: !tablespace.location.starts_with(b"/"),
        };
        Entries {
            tablespaces: start.tablespaces.iter().map(of).collect(),
            relation_segment_blocks,
            prefix: Vec::new(),
            now: Now::LeftOut,
            kept: Kept::default(),
        }
    }

    /// The links (or directories) of the tablespaces, which the archives do not have.
    pub(super) fn of_tablespaces(&self) -> Vec<FileEntry> {
        let of = |tablespace: &Tablespace| {
            let path = format!("pg_tblspc/{}", tablespace.oid).into_bytes();
            if tablespace.in_place {
                return FileEntry::bare(path, EntryType::Directory, 0o700);
            }
            FileEntry {
                target: Some(tablespace.location.clone()),
                ..FileEntry::bare(path, EntryType::Link, 0o700)
            }
        };
        self.tablespaces.iter().map(of).collect()
    }

    /// An archive begins.
    pub(super) fn enter(&mut self, tablespace: Option<u32>) {
        self.prefix = tablespace.map_or_else(Vec::new, |oid| format!("pg_tblspc/{oid}/").into_bytes());
    }

    /// What an entry is to the pipeline; nothing when it is kept back or left out.
    pub(super) fn entry(&mut self, entry: ArchiveEntry) -> Result<Option<Streamed>, BackupError> {
        let path = [self.prefix.as_slice(), &entry.path].concat();
        let is_left_out = excluded(&path).is_some();
        Ok(match entry.kind {
            EntryKind::Directory | EntryKind::Symlink { .. } if is_left_out || self.is_tablespace(&path) => None,
            EntryKind::Directory => Some(Streamed::Entry(FileEntry::bare(path, EntryType::Directory, entry.mode))),
            EntryKind::Symlink { target } => Some(Streamed::Entry(FileEntry {
                target: Some(target.into()),
                ..FileEntry::bare(path, EntryType::Link, entry.mode)
            })),
            EntryKind::File { size } => {
                let is_kept = matches!(
                    path.as_slice(),
                    b"backup_label" | b"tablespace_map" | b"global/pg_control"
                );
                let job = self.job(path, entry.mode, size);
                if is_kept && size <= KEPT_BYTES_MAX {
                    self.now = Now::Kept(job, Vec::new());
                    return Ok(None);
                }
                if is_kept {
                    return Err(BackupError::Answer {
                        what: format!("\"{}\" of {size} bytes", job.path.escape_ascii()),
                    });
                }
                if is_left_out {
                    self.now = Now::LeftOut;
                    return Ok(None);
                }
                self.now = Now::Copied;
                Some(Streamed::File(job))
            }
        })
    }

    fn is_tablespace(&self, path: &[u8]) -> bool {
        let is = |tablespace: &Tablespace| *path == *format!("pg_tblspc/{}", tablespace.oid).as_bytes();
        self.tablespaces.iter().any(is)
    }

    fn job(&self, path: Vec<u8>, mode: u32, size: u64) -> FileJob {
        let (class, first_block, is_judged) = classify(&path, self.relation_segment_blocks);
        FileJob {
            on_disk: PathBuf::new(),
            mode,
            size,
            class,
            first_block,
            is_judged,
            may_vanish: false,
            attributes: None,
            path,
        }
    }

    /// Bytes of the file; back when they go into the pipeline.
    pub(super) fn data(&mut self, bytes: Bytes) -> Result<Option<Bytes>, BackupError> {
        Ok(match &mut self.now {
            Now::Copied => Some(bytes),
            Now::Kept(_, kept) => {
                kept.extend_from_slice(&bytes);
                None
            }
            Now::LeftOut => None,
        })
    }

    /// The file is whole; true when it went into the pipeline.
    pub(super) fn file_ended(&mut self) -> bool {
        match std::mem::replace(&mut self.now, Now::LeftOut) {
            Now::Copied => return true,
            Now::Kept(job, bytes) => match job.path.as_slice() {
                b"backup_label" => self.kept.label = Some(bytes),
                b"tablespace_map" => self.kept.map = Some(bytes),
                _ => self.kept.control = Some((job, bytes)),
            },
            Now::LeftOut => {}
        }
        false
    }

    /// What was kept back.
    pub(super) fn finish(self) -> Kept {
        Kept {
            tablespaces: self.tablespaces,
            ..self.kept
        }
    }
}
