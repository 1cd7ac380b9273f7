//! The stages of a backup, each alone, on all cores at once.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use pg::page::PAGE_BYTES;
use rayon::prelude::*;
use store::buffer::PageBuffer;
use store::id::Digest;
use store::keys::ClusterKeys;
use store::limits::{PACK_BYTES, RELATION_CHUNK_BYTES_MAX, RELATION_ZSTD_LEVEL};
use store::seal::{ObjectKey, Secret32, associated_data};

use crate::measure::{Took, once};

/// Bytes of a unit.
pub const READ_BYTES: usize = 1 << 20;

/// Names of the stages, in order.
pub const STAGES: [&str; 9] = [
    "read, page cache, 1 MiB units",
    "page check",
    "keyed blake3, 8 KiB",
    "zstd 1, 128 KiB pieces",
    "decode and compare",
    "aes-256-gcm seal",
    "aes-256-gcm open",
    "blake3 of the body",
    "crc-32c, 1 MiB units",
];
/// Place of bare zstd in [`STAGES`].
pub const COMPRESS: usize = 3;
/// The stages of a restore: digest, decode, open.
pub const RESTORE: [usize; 3] = [2, 4, 6];
/// The stages of an increment in which nothing changed: the first so many.
pub const UNCHANGED: usize = 3;

/// What the stages work on.
#[derive(Debug)]
pub struct Stages<'a> {
    file: &'a File,
    data: &'a [u8],
    /// Block number of the first page of each unit, where that is not its place in `data`.
    first_blocks: Vec<u32>,
    /// Where each unit is read, when that is not `file`.
    places: Vec<(Arc<File>, u64)>,
    keys: &'a ClusterKeys,
    key: ObjectKey,
    compressed: Vec<Vec<u8>>,
    sealed: Vec<Vec<u8>>,
}

impl<'a> Stages<'a> {
    /// Prepares the inputs of the later stages.
    ///
    /// # Errors
    /// A codec failed.
    pub fn new(file: &'a File, data: &'a [u8], keys: &'a ClusterKeys) -> io::Result<Self> {
        let pieces = data.par_chunks(RELATION_CHUNK_BYTES_MAX);
        let compressed = pieces
            .map(|piece| zstd::bulk::compress(piece, RELATION_ZSTD_LEVEL))
            .collect::<io::Result<Vec<_>>>()?;
        let key = ObjectKey::derive(&Secret32::new([1; 32]), &[2; 16], "bench").map_err(io::Error::other)?;
        let sealed = compressed.iter().map(|plain| seal(&key, plain)).collect();
        Ok(Stages {
            file,
            data,
            first_blocks: Vec::new(),
            places: Vec::new(),
            keys,
            key,
            compressed,
            sealed,
        })
    }

    /// For units that come from different files: the block number of each one's first page.
    #[must_use]
    pub fn at_blocks(mut self, first_blocks: Vec<u32>) -> Self {
        self.first_blocks = first_blocks;
        self
    }

    /// For units that are read where they lie: file and offset of each.
    #[must_use]
    pub fn read_at(mut self, places: Vec<(Arc<File>, u64)>) -> Self {
        self.places = places;
        self
    }

    /// Bytes after compression.
    #[must_use]
    pub fn compressed_bytes(&self) -> usize {
        self.compressed.iter().map(Vec::len).sum()
    }

    /// Runs every stage once, in the order of [`STAGES`].
    #[must_use]
    pub fn run(&self) -> [Took; STAGES.len()] {
        [
            once(|| self.read()),
            once(|| self.check()),
            once(|| self.digest()),
            once(|| self.compress()),
            once(|| self.decode()),
            once(|| self.seal()),
            once(|| self.open()),
            once(|| self.hash_body()),
            once(|| self.checksum()),
        ]
    }

    fn read(&self) {
        let units = self.data.len().div_ceil(READ_BYTES);
        (0..units).into_par_iter().for_each_init(
            || PageBuffer::new(READ_BYTES),
            |buffer, unit| {
                let here = (unit * READ_BYTES) as u64;
                let (file, at) = self
                    .places
                    .get(unit)
                    .map_or((self.file, here), |(file, at)| (file, *at));
                let _ = std::hint::black_box(file.read_at(buffer, at));
            },
        );
    }

    fn check(&self) {
        self.data.par_chunks(READ_BYTES).enumerate().for_each(|(unit, pages)| {
            let here = u32::try_from(unit * (READ_BYTES / PAGE_BYTES)).unwrap_or(0);
            let first = self.first_blocks.get(unit).copied().unwrap_or(here);
            for (block, page) in (first..).zip(pages.chunks(PAGE_BYTES)) {
                std::hint::black_box(pg::page::check(page, block, true));
            }
        });
    }

    fn digest(&self) {
        self.data.par_chunks(PAGE_BYTES).with_min_len(128).for_each(|page| {
            std::hint::black_box(self.keys.page_digest(page));
        });
    }

    fn compress(&self) {
        self.data.par_chunks(RELATION_CHUNK_BYTES_MAX).for_each_init(
            || {
                (
                    zstd::bulk::Compressor::new(RELATION_ZSTD_LEVEL).ok(),
                    vec![0; 2 * RELATION_CHUNK_BYTES_MAX],
                )
            },
            |(compressor, out), piece| {
                std::hint::black_box(
                    compressor
                        .as_mut()
                        .map(|compressor| compressor.compress_to_buffer(piece, out)),
                );
            },
        );
    }

    fn decode(&self) {
        self.compressed
            .par_iter()
            .zip(self.data.par_chunks(RELATION_CHUNK_BYTES_MAX))
            .for_each_init(
                || (zstd::bulk::Decompressor::new().ok(), vec![0; RELATION_CHUNK_BYTES_MAX]),
                |(decompressor, out), (stored, plain)| {
                    let got = decompressor
                        .as_mut()
                        .and_then(|decompressor| decompressor.decompress_to_buffer(stored, out).ok());
                    std::hint::black_box(got.is_some_and(|got| out.get(..got) == Some(plain)));
                },
            );
    }

    fn seal(&self) {
        self.compressed.par_iter().for_each(|plain| {
            std::hint::black_box(seal(&self.key, plain));
        });
    }

    fn open(&self) {
        self.sealed.par_iter().for_each(|sealed| {
            let mut buffer = sealed.clone();
            std::hint::black_box(self.key.open(0, &associated(), &mut buffer).is_some());
        });
    }

    fn hash_body(&self) {
        self.sealed.par_iter().for_each(|sealed| {
            std::hint::black_box(blake3::hash(sealed));
        });
    }

    /// Of the whole file, for PostgreSQL's backup_manifest.
    fn checksum(&self) {
        self.data.par_chunks(READ_BYTES).for_each(|unit| {
            std::hint::black_box(crc32c::crc32c(unit));
        });
    }
}

/// The stages one after the other, on all cores: nothing that does them all is faster.
#[must_use]
pub fn composed(stages: &[Took]) -> Took {
    Took {
        wall_s: stages.iter().map(|took| took.wall_s).sum(),
        cpu_s: stages.iter().map(|took| took.cpu_s).sum(),
    }
}

/// Writes so many bytes in files of a pack's size below a directory, each made durable, on all cores; removes them. Seconds.
///
/// # Errors
/// A file cannot be written.
pub fn write_packs(directory: &Path, bytes: u64) -> io::Result<f64> {
    std::fs::create_dir(directory)?;
    let packs = bytes.div_ceil(PACK_BYTES as u64);
    let content = vec![0x5A; PACK_BYTES];
    let begun = Instant::now();
    (0..packs).into_par_iter().try_for_each(|pack| {
        let left = bytes - pack * PACK_BYTES as u64;
        let part = content
            .get(..usize::try_from(left).unwrap_or(usize::MAX))
            .unwrap_or(&content);
        let mut file = File::create(directory.join(pack.to_string()))?;
        file.write_all(part)?;
        file.sync_all()
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    std::fs::remove_dir_all(directory)?;
    Ok(seconds)
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
