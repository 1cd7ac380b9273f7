//! Where the bytes of a file come from: the disk, or a stream that hands them over in order.

use std::fs::File;
use std::io::Error;
use std::os::unix::fs::FileExt;

use bytes::{Buf, Bytes};
use crossbeam_channel::Receiver;

/// Bytes of a content file.
#[derive(Debug)]
pub(super) enum Source {
    /// Read where they lie.
    Disk(File),
    /// Handed over; the lane is closed behind the last.
    Lane(Receiver<Bytes>, Bytes),
    /// The same from who must not block.
    Handed(tokio::sync::mpsc::Receiver<Bytes>, Bytes),
}

impl Source {
    /// Fills the buffer with what stands at `at`, or up to the end; returns how much. A lane is read once, in order.
    pub(super) fn read_up_to(&mut self, buffer: &mut [u8], at: u64) -> Result<usize, Error> {
        match self {
            Source::Disk(file) => read_up_to(file, buffer, at),
            Source::Lane(lane, rest) => Ok(fill(buffer, rest, || lane.recv().ok())),
            Source::Handed(lane, rest) => Ok(fill(buffer, rest, || lane.blocking_recv())),
        }
    }
}

/// Fills the buffer with what is left and what comes; returns how much there was.
fn fill(buffer: &mut [u8], rest: &mut Bytes, mut more: impl FnMut() -> Option<Bytes>) -> usize {
    let mut got = 0;
    while got < buffer.len() {
        if rest.is_empty() {
            match more() {
                Some(more) => *rest = more,
                None => break,
            }
        }
        let some = rest.len().min(buffer.len() - got);
        if let Some(room) = buffer.get_mut(got..got + some) {
            rest.copy_to_slice(room);
        }
        got += some;
    }
    got
}

/// Fills the buffer from `at` on, or up to the end of the file; returns how much.
///
/// # Errors
/// The file cannot be read.
pub fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> Result<usize, Error> {
    let mut got = 0;
    while let Some(rest) = buffer.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + got as u64) {
            Ok(0) => break,
            Ok(read) => got += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}
