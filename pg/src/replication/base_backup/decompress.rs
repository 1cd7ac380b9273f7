//! Decoding of an archive that the server compresses with zstd.
//!
//! Each archive is one zstd frame (basebackup_zstd.c), decoded while it arrives. Memory: the window
//! of the frame, at most 8 MiB, and one piece of output. Invariant: an archive may end only behind a
//! whole frame.

use bytes::{Buf, Bytes};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::tar::ArchiveError;

/// Bytes decoded at a time, at most.
const OUTPUT_BYTES: usize = 128 * 1024;

/// Largest window accepted, as a power of two: 8 MiB, which is what zstd uses up to level 19 (RFC
/// 8878 recommends that every decoder takes as much).
const WINDOW_LOG_MAX: u32 = 23;

/// Highest level whose window we accept (lib/compress/clevels.h of zstd, sources of unknown size).
pub(super) const LEVEL_MAX: u8 = 19;

/// Decodes one archive.
pub(super) struct Decompress {
    decoder: Decoder<'static>,
    /// The decoder may have more output without more input.
    has_more: bool,
    is_whole: bool,
}

impl std::fmt::Debug for Decompress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompress").finish_non_exhaustive()
    }
}

impl Decompress {
    pub(super) fn new() -> Result<Self, ArchiveError> {
        let mut decoder = Decoder::new().map_err(failed)?;
        let limit = DParameter::WindowLogMax(WINDOW_LOG_MAX);
        decoder.set_parameter(limit).map_err(failed)?;
        Ok(Decompress {
            decoder,
            has_more: false,
            is_whole: false,
        })
    }

    /// Takes bytes off `input` and gives the next decoded ones; empty when more input is needed.
    pub(super) fn read(&mut self, input: &mut Bytes) -> Result<Bytes, ArchiveError> {
        while self.has_more || !input.is_empty() {
            let mut decoded = Vec::with_capacity(OUTPUT_BYTES);
            let mut from = InBuffer::around(input.as_ref());
            let mut to = OutBuffer::around(&mut decoded);
            let hint = self.decoder.run(&mut from, &mut to).map_err(failed)?;
            self.has_more = hint != 0 && to.pos() == to.capacity();
            self.is_whole = hint == 0;
            let taken = from.pos();
            input.advance(taken);
            if !decoded.is_empty() {
                return Ok(decoded.into());
            }
        }
        Ok(Bytes::new())
    }

    /// Says whether the archive may end here.
    pub(super) fn finish(&self) -> Result<(), ArchiveError> {
        if self.is_whole {
            Ok(())
        } else {
            Err(ArchiveError::Truncated)
        }
    }
}

fn failed(error: std::io::Error) -> ArchiveError {
    ArchiveError::Compressed {
        reason: error.to_string(),
    }
}
