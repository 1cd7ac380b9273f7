//! Everything that is no relation file: cut where its content says, deduplicated, in a sliding window.

use super::job::{FileJob, Measured};
use super::source::Source;
use super::worker::Worker;
use crate::buffer::PageBuffer;
use crate::chunk::{ContentReference, EncodedChunk, Grain, content_lengths};
use crate::error::StoreError;
use crate::limits::CONTENT_CHUNK_BYTES;

/// Two of the longest chunks: all cuts but the last of a window are those of the whole file.
const WINDOW_BYTES: usize = 2 * CONTENT_CHUNK_BYTES.2;

/// A piece of a content file.
#[derive(Debug)]
pub(super) enum Piece {
    /// Stored by an earlier backup.
    Known(ContentReference),
    /// To be stored (unless this backup did already).
    New(EncodedChunk),
}

/// An open content file.
#[derive(Debug)]
pub(super) struct ContentFile {
    pub(super) number: u64,
    pub(super) job: FileJob,
    pub(super) source: Source,
    /// Bytes when it was opened.
    pub(super) size: u64,
    pub(super) grain: Grain,
}

impl Worker {
    /// Reads a file up to the size that it had, and hands out its pieces in order. Returns what was there.
    ///
    /// # Errors
    /// It cannot be read; the encoding check; what `take` returns.
    pub(super) fn content(
        &mut self,
        file: &mut ContentFile,
        mut take: impl FnMut(Vec<Piece>) -> Result<(), StoreError>,
    ) -> Result<Measured, StoreError> {
        let mut window = std::mem::take(&mut self.window);
        if window.is_empty() {
            window = PageBuffer::new(WINDOW_BYTES);
        }
        let mut kept = 0;
        let mut measured = Measured::default();
        loop {
            let begun = self.common.pace.begin();
            let wanted = usize::try_from(file.size.saturating_sub(measured.size))
                .unwrap_or(usize::MAX)
                .min(WINDOW_BYTES - kept);
            let room = window.get_mut(kept..kept + wanted).unwrap_or_default();
            let got = file
                .source
                .read_up_to(room, measured.size)
                .map_err(|error| file.job.io_error("read", error))?;
            measured = measured.and(room.get(..got).unwrap_or_default());
            self.common.progress.read(got as u64);
            let is_end = got < wanted || measured.size == file.size;
            let filled = kept + got;
            let filled_part = window.get(..filled).unwrap_or_default();
            let used = self.cut(filled_part, file.grain, is_end, &mut take)?;
            window.copy_within(used..filled, 0);
            kept = filled - used;
            self.common.pace.after(got, &begun);
            if is_end {
                break;
            }
        }
        self.window = window;
        Ok(measured)
    }

    /// Pieces of bytes that are in memory.
    ///
    /// # Errors
    /// The encoding check.
    pub(super) fn content_of(&mut self, bytes: &[u8]) -> Result<Vec<Piece>, StoreError> {
        let mut pieces = Vec::new();
        self.cut(bytes, Grain::Usual, true, &mut |more: Vec<Piece>| {
            pieces.extend(more);
            Ok(())
        })?;
        Ok(pieces)
    }

    /// Cuts a window; keeps the last piece back unless this is the end. Returns the bytes that were used.
    fn cut(
        &mut self,
        window: &[u8],
        grain: Grain,
        is_end: bool,
        take: &mut dyn FnMut(Vec<Piece>) -> Result<(), StoreError>,
    ) -> Result<usize, StoreError> {
        let mut lengths = content_lengths(window, grain);
        if !is_end {
            lengths.pop();
        }
        let mut used = 0;
        let mut pieces = Vec::with_capacity(lengths.len());
        for length in lengths {
            let plain = window.get(used..used + length).unwrap_or_default();
            used += length;
            let id = self.common.keys.content_chunk_id(plain);
            let known = self
                .common
                .index
                .get(&id)
                .filter(|at| self.common.filter.is_usable(at.pack));
            pieces.push(match known {
                Some(at) => Piece::Known(at),
                None => Piece::New(self.encode_content(id, plain)?),
            });
        }
        take(pieces)?;
        Ok(used)
    }
}
