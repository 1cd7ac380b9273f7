//! Now and then a backup notes how far it has come, so that one that dies is gone on from.
//!
//! Order rule: at a milestone both open packs are closed and on their way. The table's pieces so far lead to nothing that lies
//! elsewhere. The note is written when all of those packs are durable ([`super::upload::Uploads::note`]).

use std::time::{Duration, Instant};

use super::packer::Packer;
use crate::envelope::Kind;
use crate::error::StoreError;
use crate::id::BackupId;
use crate::records::BackupProgress;
use crate::repository::NewObject;
use crate::session::to_cbor;

/// When the next note is due.
#[derive(Debug)]
pub(super) struct Milestones {
    backup: BackupId,
    every: Duration,
    last: Instant,
    number: u32,
    /// Pieces and entries at the last note.
    at: (usize, usize),
}

impl Milestones {
    pub(super) fn new(backup: BackupId, every: Duration) -> Self {
        Milestones {
            backup,
            every,
            last: Instant::now(),
            number: 0,
            at: (0, 0),
        }
    }
}

impl Packer {
    /// To be called when a data pack has just been closed.
    pub(super) fn note_progress(&mut self) -> Result<(), StoreError> {
        let (pieces, entries) = self.table.so_far();
        let at = (pieces.len(), entries.len());
        if self.milestones.last.elapsed() < self.milestones.every || at == self.milestones.at {
            return Ok(());
        }
        self.close(Kind::MetadataPack)?;
        self.milestones.last = Instant::now();
        self.milestones.number += 1;
        self.milestones.at = at;
        let (pieces, entries) = self.table.so_far();
        let progress = BackupProgress {
            backup: self.milestones.backup,
            file_table: pieces.to_vec(),
            entries: entries.to_vec(),
        };
        let writer = self.uploads.writer();
        let name = writer
            .repository()
            .layout()
            .progress(progress.backup, self.milestones.number)?;
        let object = to_cbor(&progress)?;
        let (bytes, digest) = writer.encode(&name, NewObject::metadata(Kind::Progress, &object, self.now_us()))?;
        self.uploads.note(name, bytes, digest);
        Ok(())
    }
}
