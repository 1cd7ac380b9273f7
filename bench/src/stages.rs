//! The stages of a backup, each alone, on all cores at once.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use pg::page::PAGE_BYTES;
use rayon::prelude::*;
use store::id::Digest;
use store::keys::ClusterKeys;
use store::limits::{RELATION_CHUNK_BYTES_MAX, RELATION_ZSTD_LEVEL};
use store::seal::{ObjectKey, Secret32, associated_data};

use crate::measure::{Took, median, once};

/// Runs of each stage.
const RUNS: usize = 5;
const READ_BYTES: usize = 1 << 20;

/// What each stage took for the whole data set.
#[derive(Clone, Debug)]
pub struct Stages {
    /// Reading from the page cache in units of 1 MiB.
    pub read: Took,
    /// PostgreSQL's page checksum and header.
    pub check: Took,
    /// Keyed BLAKE3 of every page.
    pub page_digest: Took,
    /// zstd level 1 of pieces of 128 KiB.
    pub compress: Took,
    /// Decoding them again and comparing (law 5).
    pub decode: Took,
    /// AES-256-GCM of what was compressed.
    pub seal: Took,
    /// Opening it again (law 5).
    pub open: Took,
    /// BLAKE3 of the pack's body.
    pub body_hash: Took,
    /// Bytes after compression.
    pub compressed_bytes: usize,
}

impl Stages {
    /// Runs every stage alone.
    ///
    /// # Errors
    /// The file cannot be read, or a codec failed.
    pub fn measure(file: &File, data: &[u8], keys: &ClusterKeys) -> io::Result<Self> {
        let compressed = data.par_chunks(RELATION_CHUNK_BYTES_MAX).map(compress).collect::<io::Result<Vec<_>>>()?;
        let key = ObjectKey::derive(&Secret32::new([1; 32]), &[2; 16], "bench").map_err(io::Error::other)?;
        let sealed: Vec<Vec<u8>> = compressed.par_iter().map(|plain| seal(&key, plain)).collect();
        let compressed_bytes = compressed.iter().map(Vec::len).sum();
        let units = data.len().div_ceil(READ_BYTES);
        Ok(Stages {
            read: timed(|| {
                (0..units).into_par_iter().for_each_init(|| vec![0; READ_BYTES], |buffer, unit| {
                    let _ = std::hint::black_box(file.read_at(buffer, (unit * READ_BYTES) as u64));
                });
            }),
            check: timed(|| {
                data.par_chunks(READ_BYTES).enumerate().for_each(|(unit, pages)| {
                    for (at, page) in pages.chunks(PAGE_BYTES).enumerate() {
                        let block = u32::try_from(unit * (READ_BYTES / PAGE_BYTES) + at).unwrap_or(0);
                        std::hint::black_box(pg::page::check(page, block, true));
                    }
                });
            }),
            page_digest: timed(|| {
                data.par_chunks(PAGE_BYTES).with_min_len(128).for_each(|page| {
                    std::hint::black_box(keys.page_digest(page));
                });
            }),
            compress: timed(|| {
                data.par_chunks(RELATION_CHUNK_BYTES_MAX).for_each_init(
                    || (zstd::bulk::Compressor::new(RELATION_ZSTD_LEVEL).ok(), vec![0; 2 * RELATION_CHUNK_BYTES_MAX]),
                    |(compressor, out), piece| {
                        std::hint::black_box(compressor.as_mut().map(|compressor| compressor.compress_to_buffer(piece, out)));
                    },
                );
            }),
            decode: timed(|| {
                compressed.par_iter().zip(data.par_chunks(RELATION_CHUNK_BYTES_MAX)).for_each_init(
                    || (zstd::bulk::Decompressor::new().ok(), vec![0; RELATION_CHUNK_BYTES_MAX]),
                    |(decompressor, out), (stored, plain)| {
                        let got = decompressor.as_mut().and_then(|decompressor| decompressor.decompress_to_buffer(stored, out).ok());
                        std::hint::black_box(got.is_some_and(|got| out.get(..got) == Some(plain)));
                    },
                );
            }),
            seal: timed(|| {
                compressed.par_iter().for_each(|plain| {
                    std::hint::black_box(seal(&key, plain));
                });
            }),
            open: timed(|| {
                sealed.par_iter().for_each(|sealed| {
                    let mut buffer = sealed.clone();
                    std::hint::black_box(key.open(0, &associated(), &mut buffer).is_some());
                });
            }),
            body_hash: timed(|| {
                sealed.par_iter().for_each(|sealed| {
                    std::hint::black_box(blake3::hash(sealed));
                });
            }),
            compressed_bytes,
        })
    }

    /// Names and figures of the stages.
    #[must_use]
    pub fn each(&self) -> [(&'static str, Took); 8] {
        [
            ("read", self.read),
            ("page check", self.check),
            ("blake3 8 KiB", self.page_digest),
            ("zstd 1, 128 KiB pieces", self.compress),
            ("decode and compare", self.decode),
            ("aes-256-gcm seal", self.seal),
            ("aes-256-gcm open", self.open),
            ("blake3 body", self.body_hash),
        ]
    }

    /// Seconds that all stages take one after the other, on all cores: nothing that does them all is faster.
    #[must_use]
    pub fn full_s(&self) -> f64 {
        self.each().iter().map(|(_, took)| took.wall_s).sum()
    }

    /// Seconds of what cannot be left out when nothing changed.
    #[must_use]
    pub fn unchanged_s(&self) -> f64 {
        self.read.wall_s + self.check.wall_s + self.page_digest.wall_s
    }
}

fn timed(mut work: impl FnMut()) -> Took {
    median((0..RUNS).map(|_| once(&mut work)).collect())
}

fn compress(piece: &[u8]) -> io::Result<Vec<u8>> {
    zstd::bulk::compress(piece, RELATION_ZSTD_LEVEL)
}

fn associated() -> [u8; 64] {
    associated_data(1, 1, 0, None, &Digest::default())
}

fn seal(key: &ObjectKey, plain: &[u8]) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(plain.len() + store::seal::TAG_BYTES);
    buffer.extend_from_slice(plain);
    // An error would show as a wrong time; the pipeline's own tests prove that sealing works.
    let _ = key.seal(0, &associated(), &mut buffer);
    buffer
}
