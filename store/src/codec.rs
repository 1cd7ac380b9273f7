//! Compression with size caps. The only place that names a compressor.
//!
//! `encode` keeps the plain bytes when compression does not help; `decode` never produces more bytes than were declared, so a
//! hostile frame cannot make us allocate without bound.

use std::sync::{Mutex, PoisonError};

use zstd::zstd_safe::zstd_sys::ZSTD_EndDirective as EndDirective;
use zstd::zstd_safe::{DCtx, InBuffer, OutBuffer, ResetDirective};

use crate::error::StoreError;

/// What was compressed is compared in pieces of this size.
const CHECK_BYTES: usize = 256 << 10;

/// How bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    Stored = 0,
    /// A zstd frame (RFC 8878).
    Zstd = 1,
}

impl Codec {
    /// From the byte in the format.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Codec::Stored),
            1 => Some(Codec::Zstd),
            _ => None,
        }
    }
}

/// A reusable compressor and decompressor; one a thread.
pub struct Compressor {
    level: i32,
    compress: zstd::bulk::Compressor<'static>,
    decompress: DCtx<'static>,
    check: Vec<u8>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor")
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

impl Compressor {
    /// A compressor at a zstd level.
    ///
    /// # Errors
    /// The library could not allocate its context.
    pub fn new(level: i32) -> Result<Self, StoreError> {
        let failed = |error: std::io::Error| StoreError::Codec(error.to_string());
        Ok(Compressor {
            level,
            compress: zstd::bulk::Compressor::new(level).map_err(failed)?,
            decompress: DCtx::try_create()
                .ok_or_else(|| StoreError::Codec("no memory for a decompressor".to_owned()))?,
            check: Vec::new(),
        })
    }

    /// Compresses `plain` onto the end of `out`; plain bytes instead where that is shorter. Law 5: what was compressed is decoded
    /// again and compared before anyone relies on it.
    ///
    /// # Errors
    /// [`StoreError::EncodingCheck`] when the result does not decode to `plain`.
    pub fn encode(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<Codec, StoreError> {
        let from = out.len();
        let codec = self.compress(plain, out)?;
        match self.check(codec, out.get(from..).unwrap_or_default(), plain) {
            Ok(()) => Ok(codec),
            Err(error) => {
                out.truncate(from);
                Err(error)
            }
        }
    }

    /// As [`Self::encode`], for who checks what comes of it later, with [`Self::check`].
    ///
    /// # Errors
    /// The library failed.
    pub(crate) fn compress(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<Codec, StoreError> {
        let from = out.len();
        // Room only: what is not written to is never touched.
        out.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        let written = self.compress_onto(plain, out, from)?;
        if written >= plain.len() {
            out.truncate(from);
            out.extend_from_slice(plain);
            return Ok(Codec::Stored);
        }
        Ok(Codec::Zstd)
    }

    /// Whether `stored` is `plain`.
    ///
    /// # Errors
    /// [`StoreError::EncodingCheck`]: it is not.
    pub(crate) fn check(&mut self, codec: Codec, stored: &[u8], plain: &[u8]) -> Result<(), StoreError> {
        let is_plain = match codec {
            Codec::Stored => stored == plain,
            Codec::Zstd => self.decodes_to(stored, plain),
        };
        if is_plain {
            return Ok(());
        }
        Err(StoreError::EncodingCheck {
            what: format!("{} bytes at zstd level {}", plain.len(), self.level),
        })
    }

    /// One frame behind `from`; returns its length.
    fn compress_onto(&mut self, plain: &[u8], out: &mut Vec<u8>, from: usize) -> Result<usize, StoreError> {
        let failed = |code| StoreError::Codec(zstd::zstd_safe::get_error_name(code).to_owned());
        let context = self.compress.context_mut();
        context.reset(ResetDirective::SessionOnly).map_err(failed)?;
        let mut input = InBuffer::around(plain);
        let mut output = OutBuffer::around_pos(out, from);
        // All of it in one call into room for the worst case: the frame is complete, and says how long it is.
        let left = context.compress_stream2(&mut output, &mut input, EndDirective::ZSTD_e_end);
        if left.map_err(failed)? != 0 {
            return Err(StoreError::Codec("a frame is longer than it can be".to_owned()));
        }
        Ok(output.pos() - from)
    }

    /// Whether a frame decodes to exactly these bytes. A long one is compared piece by piece: it need not fit the cache, nor memory,
    /// once more.
    fn decodes_to(&mut self, frame: &[u8], plain: &[u8]) -> bool {
        self.check.resize(CHECK_BYTES, 0);
        if plain.len() <= self.check.len() {
            let decoded = self.decompress.decompress(self.check.as_mut_slice(), frame);
            return decoded.ok() == Some(plain.len()) && self.check.get(..plain.len()) == Some(plain);
        }
        let context = &mut self.decompress;
        if context.reset(ResetDirective::SessionOnly).is_err() {
            return false;
        }
        let (mut input, mut at) = (InBuffer::around(frame), 0);
        loop {
            let mut output = OutBuffer::around(self.check.as_mut_slice());
            let Ok(left) = context.decompress_stream(&mut output, &mut input) else {
                return false;
            };
            let decoded = output.pos();
            let expected = plain.get(at..at + decoded);
            if expected.is_none() || self.check.get(..decoded) != expected {
                return false;
            }
            at += decoded;
            if left == 0 {
                return at == plain.len() && input.pos() == frame.len();
            }
            if decoded == 0 && input.pos() == frame.len() {
                return false;
            }
        }
    }
}

/// Compressors that are kept for the next object: making one costs as much as a small object.
#[derive(Debug, Default)]
pub(crate) struct Compressors(Mutex<Vec<Compressor>>);

/// As many are kept as work at once.
const KEPT_MAX: usize = 4;

impl Compressors {
    /// Lends one of `level`.
    ///
    /// # Errors
    /// As [`Compressor::new`], or what the work returns.
    pub(crate) fn with<T>(
        &self,
        level: i32,
        work: impl FnOnce(&mut Compressor) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut compressor = match kept.filter(|kept| kept.level == level) {
            Some(kept) => kept,
            None => Compressor::new(level)?,
        };
        let done = work(&mut compressor)?;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX {
            kept.push(compressor);
        }
        Ok(done)
    }
}

/// Decodes `stored` into exactly `plain_bytes` bytes; `None` when it is anything else. The caller has bounded `plain_bytes`.
#[must_use]
pub fn decode(codec: Codec, stored: &[u8], plain_bytes: usize) -> Option<Vec<u8>> {
    match codec {
        Codec::Stored => (stored.len() == plain_bytes).then(|| stored.to_vec()),
        Codec::Zstd => {
            let plain = zstd::bulk::decompress(stored, plain_bytes).ok()?;
            (plain.len() == plain_bytes).then_some(plain)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incompressible_bytes_are_stored_and_others_compressed() {
        let mut compressor = Compressor::new(1).unwrap();
        let noise = blake3::Hasher::new().update(b"noise").finalize_xof();
        let mut random = vec![0; 4096];
        let mut reader = noise;
        reader.fill(&mut random);
        let mut out = b"before".to_vec();
        assert_eq!(compressor.encode(&random, &mut out).unwrap(), Codec::Stored);
        assert_eq!(&out[6..], random);
        let mut out = Vec::new();
        assert_eq!(compressor.encode(&[5; 4096], &mut out).unwrap(), Codec::Zstd);
        assert!(out.len() < 100);
        assert_eq!(decode(Codec::Zstd, &out, 4096).unwrap(), vec![5; 4096]);
    }

    #[test]
    fn long_bytes_are_one_frame_that_says_its_length_and_are_checked_to_the_last() {
        let plain: Vec<u8> = (0u32..1 << 20).flat_map(|i| (i / 7).to_le_bytes()).collect();
        let mut compressor = Compressor::new(3).unwrap();
        for _ in 0..2 {
            let mut out = b"before".to_vec();
            assert_eq!(compressor.encode(&plain, &mut out).unwrap(), Codec::Zstd);
            let frame = &out[6..];
            assert_eq!(
                zstd::zstd_safe::get_frame_content_size(frame).unwrap(),
                Some(plain.len() as u64)
            );
            assert_eq!(decode(Codec::Zstd, frame, plain.len()).unwrap(), plain);
            assert!(compressor.decodes_to(frame, &plain));
            let mut other = plain.clone();
            *other.last_mut().unwrap() ^= 1;
            assert!(!compressor.decodes_to(frame, &other));
            assert!(!compressor.decodes_to(frame, &plain[..plain.len() - 1]));
            assert!(!compressor.decodes_to(&frame[..frame.len() - 1], &plain));
        }
    }

    #[test]
    fn a_frame_that_decodes_to_another_length_is_refused() {
        let mut out = Vec::new();
        Compressor::new(1).unwrap().encode(&[5; 100_000], &mut out).unwrap();
        assert!(decode(Codec::Zstd, &out, 99_999).is_none());
        assert!(decode(Codec::Zstd, &out, 100_001).is_none());
        assert!(decode(Codec::Stored, &out, 100_000).is_none());
    }
}
