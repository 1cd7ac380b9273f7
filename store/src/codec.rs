//! Compression with size caps. The only place that names a compressor.
//!
//! `encode` keeps the plain bytes when compression does not help; `decode` never produces more bytes than were declared, so a
//! hostile frame cannot make us allocate without bound.

use crate::error::StoreError;

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
    decompress: zstd::bulk::Decompressor<'static>,
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
            decompress: zstd::bulk::Decompressor::new().map_err(failed)?,
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
        let bound = zstd::zstd_safe::compress_bound(plain.len());
        out.resize(from + bound, 0);
        let written = match out.get_mut(from..) {
            Some(room) => self
                .compress
                .compress_to_buffer(plain, room)
                .map_err(|error| StoreError::Codec(error.to_string()))?,
            None => 0,
        };
        if written >= plain.len() {
            out.truncate(from);
            out.extend_from_slice(plain);
            return Ok(Codec::Stored);
        }
        out.truncate(from + written);
        self.check.resize(plain.len(), 0);
        let decoded = self
            .decompress
            .decompress_to_buffer(out.get(from..).unwrap_or_default(), &mut self.check);
        if decoded.ok() != Some(plain.len()) || self.check != plain {
            out.truncate(from);
            return Err(StoreError::EncodingCheck {
                what: format!("{} bytes at zstd level {}", plain.len(), self.level),
            });
        }
        Ok(Codec::Zstd)
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
    fn a_frame_that_decodes_to_another_length_is_refused() {
        let mut out = Vec::new();
        Compressor::new(1).unwrap().encode(&[5; 100_000], &mut out).unwrap();
        assert!(decode(Codec::Zstd, &out, 99_999).is_none());
        assert!(decode(Codec::Zstd, &out, 100_001).is_none());
        assert!(decode(Codec::Stored, &out, 100_000).is_none());
    }
}
