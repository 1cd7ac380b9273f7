//! One worker: reads a unit, checks and digests its pages, compares them with the parent, and encodes what is new.
//!
//! Reading and encoding are done by the same thread, while the unit is in its cache; the kernel is told about the next unit, so the
//! disk works while the thread compresses.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use super::batch::{Batch, Gathered};
use super::foreseen::Foreseen;
use super::job::{FileJob, PackFilter, PageCheck};
use super::pace::Pace;
use super::parent::ChainedMap;
use super::progress::Progress;
use super::source::read_up_to;
use super::stale::{RewriteBudget, has, stale_pages};
use crate::buffer::PageBuffer;
use crate::chunk::{ChunkKind, EncodedChunk};
use crate::codec::Compressor;
use crate::error::StoreError;
use crate::id::{Digest, PageDigest};
use crate::index::ChunkIndex;
use crate::keys::ClusterKeys;
use crate::limits::{PAGE_BYTES, RELATION_ZSTD_LEVEL};
use crate::manifest::CorruptPage;
use crate::seal::TAG_BYTES;

/// Pages that are read at once: 1 MiB.
pub(super) const UNIT_PAGES: u32 = 128;
pub(super) const UNIT_BYTES: usize = UNIT_PAGES as usize * PAGE_BYTES;
/// Units that the kernel is asked to read ahead, when the first of as many is read: it looks at each page for that, also at those that
/// it has.
const AHEAD_UNITS: u32 = 4;

/// An open relation file, shared by the workers that have a part of it.
#[derive(Debug)]
pub(super) struct RelationFile {
    pub(super) number: u64,
    pub(super) job: FileJob,
    /// None when its bytes are handed over.
    pub(super) file: Option<File>,
    /// Pages when it was opened; what it grows afterwards comes from WAL.
    pub(super) pages: u32,
    pub(super) parent: ChainedMap,
    /// Pages that are stored anew although they did not change.
    pub(super) stale: Vec<Range<u32>>,
    /// Only for measurements: nothing is read.
    pub(super) foreseen: Option<Arc<Foreseen>>,
}

impl RelationFile {
    pub(super) fn new(
        number: u64,
        job: FileJob,
        file: Option<File>,
        pages: u32,
        parent: ChainedMap,
        common: &Common,
    ) -> Self {
        let stale = stale_pages(&common.filter, &common.budget, &parent.map.extents);
        RelationFile {
            number,
            job,
            file,
            pages,
            parent,
            stale,
            foreseen: None,
        }
    }
}

/// A run of pages of a unit and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) from: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// All zero.
    Zero,
    /// The same as in the parent.
    Parent,
    /// In the chunks of the batch, from this page of them on (counted through).
    Chunks(u32),
}

/// A unit that was read.
#[derive(Debug)]
pub(super) struct UnitDone {
    pub(super) file: Arc<RelationFile>,
    pub(super) number: u32,
    pub(super) digests: Vec<PageDigest>,
    pub(super) runs: Vec<Run>,
    pub(super) new_pages: u64,
    pub(super) corrupt: Vec<CorruptPage>,
    /// CRC-32C of its pages.
    pub(super) crc32c: u32,
}

impl UnitDone {
    pub(super) fn new(file: &Arc<RelationFile>, number: u32, pages: u32) -> Self {
        UnitDone {
            file: Arc::clone(file),
            number,
            digests: Vec::with_capacity(pages as usize),
            runs: Vec::new(),
            new_pages: 0,
            corrupt: Vec::new(),
            crc32c: 0,
        }
    }

    /// Adds the page `number` of the file, which is not zero: it stays where the parent has it, or is the next of the pages of `listed`, the
    /// first of which comes to the page `base` of the batch's chunks.
    pub(super) fn compare(&mut self, number: u32, digest: &PageDigest, base: u32, listed: &mut Vec<u32>) {
        let before = self.file.parent.map.digests.get(number as usize);
        if before == Some(digest) && !has(&self.file.stale, number) {
            push(&mut self.runs, number, Origin::Parent);
        } else {
            let at_page = base + u32::try_from(listed.len()).unwrap_or(u32::MAX);
            push(&mut self.runs, number, Origin::Chunks(at_page));
            listed.push(number % UNIT_PAGES);
        }
    }

    /// Notes what the page `number` of the file is.
    pub(super) fn note(&mut self, number: u32, digest: PageDigest) {
        let before = self.file.parent.map.digests.get(number as usize);
        self.new_pages += u64::from(before != Some(&digest));
        self.digests.push(digest);
    }
}

/// What all workers share.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) keys: ClusterKeys,
    pub(super) check: Arc<dyn PageCheck>,
    pub(super) filter: PackFilter,
    pub(super) budget: RewriteBudget,
    pub(super) index: ChunkIndex,
    pub(super) pace: Arc<Pace>,
    pub(super) progress: Arc<Progress>,
}

/// Buffers and codec of one worker: 1 MiB for the unit, two of 128 KiB, what is encoded of a batch, and 2 MiB once it met a content file.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) common: Arc<Common>,
    pub(super) compressor: Compressor,
    pub(super) window: PageBuffer,
    pub(super) unit: PageBuffer,
    pub(super) encoded: Vec<u8>,
    pub(super) gathered: Gathered,
    pub(super) batch: Batch,
    /// The unit is the sample of [`Foreseen`].
    pub(super) holds_sample: bool,
    zero_digest: PageDigest,
}

impl Worker {
    pub(super) fn new(common: Arc<Common>) -> Result<Self, StoreError> {
        let zero_digest = common.keys.page_digest(&[0; PAGE_BYTES]);
        Ok(Worker {
            common,
            compressor: Compressor::new(RELATION_ZSTD_LEVEL)?,
            window: PageBuffer::default(),
            unit: PageBuffer::new(UNIT_BYTES),
            encoded: Vec::new(),
            gathered: Gathered::default(),
            batch: Batch::default(),
            holds_sample: false,
            zero_digest,
        })
    }

    /// Reads unit `number` of a file, or takes the bytes that were handed over, into the batch; returns how many bytes it has. A file
    /// that has become shorter gives fewer pages, or none.
    ///
    /// # Errors
    /// It cannot be read; the encoding check.
    pub(super) fn unit(
        &mut self,
        file: &Arc<RelationFile>,
        number: u32,
        bytes: Option<Vec<u8>>,
    ) -> Result<usize, StoreError> {
        if let Some(foreseen) = &file.foreseen {
            return self.unit_foreseen(file, number, foreseen);
        }
        let first = number * UNIT_PAGES;
        let pages = match (bytes, &file.file) {
            (Some(bytes), _) => {
                self.unit = bytes.into();
                u32::try_from(self.unit.len() / PAGE_BYTES).unwrap_or(0)
            }
            (None, Some(on_disk)) => self.read_unit(file, on_disk, first)?,
            (None, None) => return Err(StoreError::Stage("encode")),
        };
        let mut done = UnitDone::new(file, number, pages);
        let base = self.next_page();
        let mut listed: Vec<u32> = Vec::new();
        for (at, page) in (0..pages).zip(self.unit.chunks_exact_mut(PAGE_BYTES)) {
            let number = first + at;
            let digest = if is_zero(page) {
                push(&mut done.runs, number, Origin::Zero);
                self.zero_digest
            } else {
                done.corrupt.extend(
                    self.common
                        .check
                        .examine(&file.job, number, page, &mut |page| read_page(file, number, page))?,
                );
                let digest = self.common.keys.page_digest(page);
                done.compare(number, &digest, base, &mut listed);
                digest
            };
            done.note(number, digest);
        }
        // What is stored, not what was read first: a torn page was read again.
        done.crc32c = crc32c::crc32c(self.unit.get(..pages as usize * PAGE_BYTES).unwrap_or_default());
        self.common.progress.is_new((listed.len() * PAGE_BYTES) as u64);
        self.add_pages(&listed, &done.digests)?;
        self.batch.units.push(done);
        let bytes = pages as usize * PAGE_BYTES;
        self.common.progress.read(bytes as u64);
        Ok(bytes)
    }

    fn read_unit(&mut self, file: &RelationFile, on_disk: &File, first: u32) -> Result<u32, StoreError> {
        let pages = file.pages.saturating_sub(first).min(UNIT_PAGES);
        let at = u64::from(first) * PAGE_BYTES as u64;
        let ahead = AHEAD_UNITS * UNIT_PAGES;
        if first.is_multiple_of(ahead) && first + UNIT_PAGES < file.pages {
            // A hint; a file system that cannot take it loses nothing but time.
            let _ = rustix::fs::fadvise(
                on_disk,
                at + UNIT_BYTES as u64,
                std::num::NonZeroU64::new(u64::from(ahead) * PAGE_BYTES as u64),
                rustix::fs::Advice::WillNeed,
            );
        }
        let buffer = self.unit.get_mut(..pages as usize * PAGE_BYTES).unwrap_or_default();
        let got = read_up_to(on_disk, buffer, at).map_err(|error| file.job.io_error("read", error))?;
        // A part of a page at the end is an extension that is under way: the server does not count it either.
        Ok(u32::try_from(got / PAGE_BYTES).unwrap_or(0))
    }

    /// A content chunk.
    pub(super) fn encode_content(&mut self, id: Digest, plain: &[u8]) -> Result<EncodedChunk, StoreError> {
        self.common.progress.is_new(plain.len() as u64);
        encode(&mut self.compressor, &mut self.encoded, ChunkKind::Content, id, plain)
    }
}

/// Compresses into `scratch` and takes what was used, with room for the tag: a chunk that waits in a lane is no larger than it
/// must be.
pub(crate) fn encode(
    compressor: &mut Compressor,
    scratch: &mut Vec<u8>,
    kind: ChunkKind,
    id: Digest,
    plain: &[u8],
) -> Result<EncodedChunk, StoreError> {
    scratch.clear();
    let codec = compressor.encode(plain, scratch)?;
    let mut payload = Vec::with_capacity(scratch.len() + TAG_BYTES);
    payload.extend_from_slice(scratch);
    let plain_bytes = u32::try_from(plain.len()).map_err(|_| StoreError::Limit {
        what: "a chunk",
        detail: "4 GiB".into(),
    })?;
    Ok(EncodedChunk {
        kind,
        id,
        plain_bytes,
        codec,
        payload,
    })
}

fn push(runs: &mut Vec<Run>, page: u32, from: Origin) {
    if let Some(last) = runs.last_mut() {
        let goes_on = match (last.from, from) {
            (Origin::Zero, Origin::Zero) | (Origin::Parent, Origin::Parent) => true,
            (Origin::Chunks(begin), Origin::Chunks(here)) => begin + last.count == here,
            _ => false,
        };
        if goes_on {
            last.count += 1;
            return;
        }
    }
    runs.push(Run {
        first: page,
        count: 1,
        from,
    });
}

fn is_zero(page: &[u8]) -> bool {
    page.iter().take(32).all(|byte| *byte == 0) && page.iter().fold(0, |all, byte| all | byte) == 0
}

fn read_page(file: &RelationFile, page: u32, buffer: &mut [u8]) -> Result<bool, StoreError> {
    let Some(on_disk) = &file.file else {
        // It came once and does not come again: as if it had not changed.
        return Ok(true);
    };
    let mut fresh = [0; PAGE_BYTES];
    let got = read_up_to(on_disk, &mut fresh, u64::from(page) * PAGE_BYTES as u64)
        .map_err(|error| file.job.io_error("read", error))?;
    if got < PAGE_BYTES || buffer.len() != PAGE_BYTES {
        return Ok(false);
    }
    buffer.copy_from_slice(&fresh);
    Ok(true)
}
