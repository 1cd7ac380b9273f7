//! The stages of shipping WAL, each alone: one stream on one core, what is done with whole ranges on all cores at once.

use std::io;
use std::thread::available_parallelism;

use rayon::prelude::*;
use store::envelope::Kind;
use store::id::Digest;
use store::keys::ClusterKeys;
use store::limits::WAL_ZSTD_LEVEL;
use store::seal::{ObjectKey, Secret32, TAG_BYTES, associated_data};
use wal::reader::WalReader;

use crate::measure::{Took, once};
use crate::wal_data::WalData;

/// Names of the stages, in order.
pub const STAGES: [&str; 8] = [
    "receive copy, 128 KiB messages, one core",
    "record crc (WalReader), one core",
    "keyed blake3",
    "bare zstd, WAL level, object pieces",
    "decode and compare",
    "aes-256-gcm seal",
    "aes-256-gcm open and compare",
    "blake3 of the body",
];
/// The first so many are one stream: more than one core is of no use to them.
const SERIAL: usize = 2;
/// Place of bare zstd in [`STAGES`].
pub const COMPRESS: usize = 3;
/// Places of what checks before sending (law 5).
pub const CHECKS: [usize; 2] = [4, 6];

/// What the stages work on.
#[derive(Debug)]
pub struct WalStages<'a> {
    wal: &'a WalData,
    keys: &'a ClusterKeys,
    key: ObjectKey,
    compressed: Vec<Vec<u8>>,
    sealed: Vec<Vec<u8>>,
}

impl<'a> WalStages<'a> {
    /// Prepares the inputs of the later stages.
    ///
    /// # Errors
    /// A codec failed.
    pub fn new(wal: &'a WalData, keys: &'a ClusterKeys) -> io::Result<Self> {
        let key = ObjectKey::derive(&Secret32::new([1; 32]), &[2; 16], "bench").map_err(io::Error::other)?;
        let mut stages = WalStages {
            wal,
            keys,
            key,
            compressed: Vec::new(),
            sealed: Vec::new(),
        };
        stages.compressed = stages
            .pieces()
            .map(|piece| zstd::bulk::compress(piece, WAL_ZSTD_LEVEL))
            .collect::<io::Result<_>>()?;
        let mut sealed = stages.compressed.clone();
        for buffer in &mut sealed {
            stages.seal_one(buffer);
        }
        stages.sealed = sealed;
        Ok(stages)
    }

    /// Bytes after compression.
    #[must_use]
    pub fn compressed_bytes(&self) -> usize {
        self.compressed.iter().map(Vec::len).sum()
    }

    /// Runs every stage once, in the order of [`STAGES`]. What a stage needs beside its input is there before it begins.
    #[must_use]
    pub fn run(&self) -> [Took; 8] {
        let mut range = Vec::with_capacity(self.wal.object_bytes());
        let (mut plain, mut sealed) = (self.with_room_for_tags(), self.sealed.clone());
        [
            once(|| self.copy(&mut range)),
            once(|| self.check_records()),
            once(|| self.digest()),
            once(|| self.compress()),
            once(|| self.decode()),
            once(|| plain.par_iter_mut().for_each(|plain| self.seal_one(plain))),
            once(|| self.open(&mut sealed)),
            once(|| self.hash_bodies()),
        ]
    }

    fn pieces(&self) -> rayon::slice::Chunks<'_, u8> {
        self.wal.bytes.par_chunks(self.wal.object_bytes())
    }

    fn with_room_for_tags(&self) -> Vec<Vec<u8>> {
        let mut plain = self.compressed.clone();
        plain.iter_mut().for_each(|plain| plain.reserve(TAG_BYTES));
        plain
    }

    fn copy(&self, range: &mut Vec<u8>) {
        for (_, message) in self.wal.messages() {
            if range.len() == self.wal.object_bytes() {
                range.clear();
            }
            range.extend_from_slice(std::hint::black_box(&message));
        }
    }

    fn check_records(&self) {
        let Ok(mut reader) = WalReader::new(self.wal.config) else {
            return;
        };
        for (lsn, message) in self.wal.messages() {
            // It has passed once, when it was read.
            let _ = std::hint::black_box(reader.push(lsn, &message, &mut |item| {
                std::hint::black_box(item);
            }));
        }
    }

    fn digest(&self) {
        self.pieces().for_each(|piece| {
            std::hint::black_box(self.keys.digest(Kind::Wal.digest_kind(), piece));
        });
    }

    fn compress(&self) {
        self.pieces().with_min_len(self.share()).for_each_init(
            || {
                let bound = zstd::zstd_safe::compress_bound(self.wal.object_bytes());
                (zstd::bulk::Compressor::new(WAL_ZSTD_LEVEL).ok(), vec![0; bound])
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
        let pairs = self.compressed.par_iter().zip(self.pieces());
        pairs.with_min_len(self.share()).for_each_init(
            || (zstd::bulk::Decompressor::new().ok(), vec![0; self.wal.object_bytes()]),
            |(decompressor, out), (stored, plain)| {
                let got = decompressor
                    .as_mut()
                    .and_then(|decompressor| decompressor.decompress_to_buffer(stored, out).ok());
                std::hint::black_box(got.is_some_and(|got| out.get(..got) == Some(plain)));
            },
        );
    }

    fn open(&self, sealed: &mut [Vec<u8>]) {
        sealed
            .par_iter_mut()
            .zip(&self.compressed)
            .for_each(|(sealed, compressed)| {
                let opened = self.key.open(0, &associated(), sealed);
                std::hint::black_box(opened.is_some_and(|opened| opened == compressed.as_slice()));
            });
    }

    fn hash_bodies(&self) {
        self.sealed.par_iter().for_each(|sealed| {
            std::hint::black_box(blake3::hash(sealed));
        });
    }

    fn seal_one(&self, plain: &mut Vec<u8>) {
        // An error would show as a wrong time; the store's own tests prove that sealing works.
        let _ = self.key.seal(0, &associated(), plain);
    }

    /// Pieces that one thread takes at least, so that its buffers are made once.
    fn share(&self) -> usize {
        self.compressed.len().div_ceil(2 * cores())
    }
}

/// The stages with their work spread over all cores without a gap: nothing that does them all is faster.
#[must_use]
pub fn composed(stages: &[Took]) -> Took {
    let (serial, parallel) = stages.split_at(SERIAL.min(stages.len()));
    let wall = |stages: &[Took]| stages.iter().map(|took| took.wall_s).sum::<f64>();
    Took {
        wall_s: wall(serial).max(wall(serial) / cores() as f64 + wall(parallel)),
        cpu_s: stages.iter().map(|took| took.cpu_s).sum(),
    }
}

fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

fn associated() -> [u8; 64] {
    associated_data(Kind::Wal.digest_kind(), 1, 0, None, &Digest::default())
}
