//! Tar bytes in, entries and pieces of files out.
//!
//! A PostgreSQL server writes plain ustar headers and nothing else (src/port/tar.c): no prefix, no
//! headers of extension. A path of 100 bytes or more makes the server refuse the backup, and a size
//! of 8 GiB or more comes in base 256. So the reader is our own: the `tar` crate pulls from a
//! blocking `Read`, while these bytes arrive in messages, and it follows headers of extension (long
//! names, sparse files, sizes given twice) that no server sends and that only somebody hostile would.
//!
//! No I/O, no waiting, no panic, and no memory but one header block, whatever the sizes say.
//! Invariant: [`TarReader::finish`] is `Ok` only when the archive ends where it may, behind a whole
//! entry.

mod header;

use bytes::{Buf, Bytes};

use super::BaseBackupEvent;
use header::{BLOCK_BYTES, Block};

/// Pieces of a file below this size are copied out of the buffer that they came in, so that a small
/// piece that is kept does not keep a large buffer with it.
const COPY_BELOW_BYTES: usize = 16 * 1024;

/// One thing in an archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchiveEntry {
    /// Path relative to the data directory, or to the location of the tablespace. Any bytes, but no
    /// part of it is empty, `.` or `..`, and it does not begin or end with `/`.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, at most `0o7777`.
    pub mode: u32,
    /// Time of the last change, seconds since 1970-01-01 UTC.
    pub mtime_s: i64,
}

/// What an entry is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A file; its content follows.
    File {
        /// Exactly as many bytes follow. Of a file that changes while it is sent it is the size at
        /// first: what grew is left out, what shrank is filled with zeros (basebackup.c, `sendFile`).
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Where it points to, any bytes.
        target: Vec<u8>,
    },
}

/// Why an archive was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It ends in the middle.
    #[error("archive ends early")]
    Truncated,
    /// A header does not have its own checksum, or a size before it was wrong.
    #[error("header has a wrong checksum")]
    Checksum,
    /// A header is not ustar.
    #[error("header is not in ustar format")]
    NotUstar,
    /// A number in a header cannot be read or is too large.
    #[error("header has an invalid {field}")]
    Number {
        /// Which.
        field: &'static str,
    },
    /// An entry is no file, directory or symbolic link.
    #[error("entry of the unknown type '{}'", char::from(*.type_flag).escape_default())]
    UnknownType {
        /// The type byte.
        type_flag: u8,
    },
    /// A path could lead elsewhere.
    #[error("entry has the unsafe path \"{path}\"")]
    UnsafePath {
        /// The path, or what can be shown of it.
        path: String,
    },
    /// A directory or a link claims to have content.
    #[error("entry that is no file has content")]
    UnexpectedContent,
    /// There is something where only zeros may be.
    #[error("archive has bytes where only padding may be")]
    Padding,
    /// The compressed bytes cannot be decoded.
    #[error("compressed archive cannot be decoded: {reason}")]
    Compressed {
        /// Words of the zstd library.
        reason: String,
    },
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// In a header block, or between two entries.
    Header,
    /// In the content of a file.
    Content {
        left: u64,
        padding: usize,
    },
    /// Behind the content of a file.
    Padding {
        left: usize,
    },
    /// One block of zeros was there; the second must follow.
    FirstEndBlock,
    Ended,
}

/// Reads one archive.
#[derive(Debug)]
pub(super) struct TarReader {
    state: State,
    block: Block,
    filled: usize,
    ends_with_blocks: bool,
}

impl TarReader {
    /// A reader at the start of an archive. With `ends_with_blocks` two blocks of zeros must mark
    /// its end, as PostgreSQL 15 and later write them (basebackup.c, `perform_base_backup`); before,
    /// they are left out (docs of 14, "Streaming Replication Protocol").
    pub(super) fn new(ends_with_blocks: bool) -> Self {
        TarReader {
            state: State::Header,
            block: [0; BLOCK_BYTES],
            filled: 0,
            ends_with_blocks,
        }
    }

    /// Takes bytes off `input` up to the next event; `None` when all are taken and more are needed.
    pub(super) fn read(&mut self, input: &mut Bytes) -> Result<Option<BaseBackupEvent>, ArchiveError> {
        loop {
            match self.state {
                State::Header | State::FirstEndBlock => {
                    if !self.fill_block(input) {
                        return Ok(None);
                    }
                    if let Some(event) = self.take_block()? {
                        return Ok(Some(event));
                    }
                }
                State::Content { left: 0, padding } => {
                    self.behind_content(padding);
                    return Ok(Some(BaseBackupEvent::FileEnded));
                }
                State::Content { left, padding } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let piece = take_piece(input, left);
                    let left = left.saturating_sub(piece.len() as u64);
                    self.state = State::Content { left, padding };
                    return Ok(Some(BaseBackupEvent::Data(piece)));
                }
                State::Padding { left } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let count = left.min(input.len());
                    skip_zeros(input, count)?;
                    self.behind_content(left - count);
                }
                State::Ended => {
                    let count = input.len();
                    skip_zeros(input, count)?;
                    return Ok(None);
                }
            }
        }
    }

    /// Says whether the archive may end here.
    pub(super) fn finish(&self) -> Result<(), ArchiveError> {
        match self.state {
            State::Ended => Ok(()),
            State::Header if self.filled == 0 && !self.ends_with_blocks => Ok(()),
            _ => Err(ArchiveError::Truncated),
        }
    }

    fn behind_content(&mut self, left: usize) {
        self.state = if left == 0 {
            State::Header
        } else {
            State::Padding { left }
        };
    }

    /// True when the block is whole; it is empty again then, as far as `filled` says.
    fn fill_block(&mut self, input: &mut Bytes) -> bool {
        let Some(free) = self.block.get_mut(self.filled..) else {
            return false;
        };
        let count = free.len().min(input.len());
        if let Some(free) = free.get_mut(..count) {
            input.copy_to_slice(free);
        }
        self.filled += count;
        let whole = self.filled == BLOCK_BYTES;
        if whole {
            self.filled = 0;
        }
        whole
    }

    fn take_block(&mut self) -> Result<Option<BaseBackupEvent>, ArchiveError> {
        let is_zero = self.block.iter().all(|byte| *byte == 0);
        match (self.state, is_zero) {
            (State::FirstEndBlock, true) => self.state = State::Ended,
            (State::FirstEndBlock, false) => return Err(ArchiveError::Padding),
            (_, true) => self.state = State::FirstEndBlock,
            (_, false) => {
                let entry = header::parse(&self.block)?;
                if let EntryKind::File { size } = entry.kind {
                    self.state = State::Content {
                        left: size,
                        padding: padding(size),
                    };
                }
                return Ok(Some(BaseBackupEvent::Entry(entry)));
            }
        }
        Ok(None)
    }
}

/// Bytes from the end of a file to the next block.
fn padding(size: u64) -> usize {
    let used = size % BLOCK_BYTES as u64;
    (BLOCK_BYTES - used as usize) % BLOCK_BYTES
}

fn take_piece(input: &mut Bytes, left: u64) -> Bytes {
    let count = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
    let piece = input.split_to(count);
    if piece.len() < COPY_BELOW_BYTES {
        Bytes::copy_from_slice(&piece)
    } else {
        piece
    }
}

fn skip_zeros(input: &mut Bytes, count: usize) -> Result<(), ArchiveError> {
    if input.split_to(count).iter().any(|byte| *byte != 0) {
        return Err(ArchiveError::Padding);
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests;
