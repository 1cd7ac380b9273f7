//! One archive while it arrives: decompression, if any, and the tar reader, with the bytes between.

use bytes::Bytes;

use super::BaseBackupEvent;
use super::decompress::Decompress;
use super::tar::{ArchiveError, TarReader};
use crate::replication::error::ReplicationError;

/// An archive that has begun.
#[derive(Debug)]
pub(super) struct Archive {
    tablespace: Option<u32>,
    decompress: Option<Decompress>,
    tar: TarReader,
    /// As it came.
    input: Bytes,
    /// Decoded, not read.
    plain: Bytes,
}

impl Archive {
    pub(super) fn begin(
        tablespace: Option<u32>,
        is_compressed: bool,
        ends_with_blocks: bool,
    ) -> Result<Self, ReplicationError> {
        let decompress = is_compressed.then(Decompress::new).transpose();
        Ok(Archive {
            tablespace,
            decompress: decompress.map_err(|source| damaged(tablespace, source))?,
            tar: TarReader::new(ends_with_blocks),
            input: Bytes::new(),
            plain: Bytes::new(),
        })
    }

    /// Takes the next bytes. Those before must be used up, that is, [`Archive::event`] gave `None`.
    pub(super) fn feed(&mut self, bytes: Bytes) {
        self.input = bytes;
    }

    /// The next event out of the bytes that are here; `None` when more are needed.
    pub(super) fn event(&mut self) -> Result<Option<BaseBackupEvent>, ReplicationError> {
        self.next().map_err(|source| damaged(self.tablespace, source))
    }

    fn next(&mut self) -> Result<Option<BaseBackupEvent>, ArchiveError> {
        loop {
            if let Some(event) = self.tar.read(&mut self.plain)? {
                return Ok(Some(event));
            }
            self.plain = match &mut self.decompress {
                Some(decompress) => decompress.read(&mut self.input)?,
                None => std::mem::take(&mut self.input),
            };
            if self.plain.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Says whether the archive may end here.
    pub(super) fn finish(&self) -> Result<(), ReplicationError> {
        let decoded = self.decompress.as_ref().map_or(Ok(()), Decompress::finish);
        decoded
            .and_then(|()| self.tar.finish())
            .map_err(|source| damaged(self.tablespace, source))
    }
}

fn damaged(tablespace: Option<u32>, source: ArchiveError) -> ReplicationError {
    ReplicationError::Archive {
        archive: tablespace.map_or_else(|| "data directory".to_owned(), |oid| format!("tablespace {oid}")),
        source,
    }
}
