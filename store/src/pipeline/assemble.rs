//! Units of a relation file, in whatever order they come, to its page map.

use std::sync::Arc;

use super::job::Measured;
use super::packer::Packer;
use super::worker::{Origin, RelationFile, Run, UNIT_PAGES, UnitDone};
use crate::chunk::{ChunkKind, ChunkReference};
use crate::error::StoreError;
use crate::file_table::FileEntry;
use crate::id::PageDigest;
use crate::limits::{PAGE_BYTES, RELATION_CHUNK_PAGES_MAX};
use crate::manifest::CorruptPage;
use crate::page_map::{Extent, Extents, Source, plan_digests, plan_extents};

#[derive(Debug)]
struct UnitPacked {
    digests: Vec<PageDigest>,
    runs: Vec<Extent>,
    new_pages: u64,
    corrupt: Vec<CorruptPage>,
    crc32c: u32,
}

/// A relation file some of whose units are packed.
#[derive(Debug)]
pub(super) struct RelationState {
    file: Arc<RelationFile>,
    units: Vec<Option<UnitPacked>>,
    missing: usize,
    /// Its own chunks, and their stored bytes.
    places: Vec<(ChunkReference, u64)>,
}

impl RelationState {
    pub(super) fn new(file: Arc<RelationFile>) -> Self {
        let missing = file.pages.div_ceil(UNIT_PAGES) as usize;
        RelationState {
            file,
            units: (0..missing).map(|_| None).collect(),
            missing,
            places: Vec::new(),
        }
    }

    /// Adds units whose chunks are packed at these places; true when the last one is there.
    pub(super) fn add(&mut self, units: Vec<UnitDone>, places: Vec<(ChunkReference, u64)>) -> bool {
        for unit in units {
            self.add_unit(unit, &places);
        }
        self.places.extend(places);
        self.missing == 0
    }

    fn add_unit(&mut self, unit: UnitDone, places: &[(ChunkReference, u64)]) {
        let mut extents = Extents::default();
        for run in unit.runs {
            match run.from {
                Origin::Zero => extents.push(Extent {
                    first: run.first,
                    count: run.count,
                    source: Source::Zero,
                }),
                Origin::Parent => {
                    for part in self.file.parent.map.extents.slice(run.first, run.first + run.count) {
                        extents.push(part);
                    }
                }
                Origin::Chunks(at) => place_run(&mut extents, run, at, places),
            }
        }
        let packed = UnitPacked {
            digests: unit.digests,
            runs: extents.runs,
            new_pages: unit.new_pages,
            corrupt: unit.corrupt,
            crc32c: unit.crc32c,
        };
        if let Some(slot) = self.units.get_mut(unit.number as usize)
            && slot.replace(packed).is_none()
        {
            self.missing -= 1;
        }
    }
}

/// The extents of a run whose pages begin at page `at` of the batch's chunks.
fn place_run(extents: &mut Extents, run: Run, at: u32, places: &[(ChunkReference, u64)]) {
    let per_chunk = u32::try_from(RELATION_CHUNK_PAGES_MAX).unwrap_or(16);
    let mut done = 0;
    while done < run.count {
        let (chunk, page) = ((at + done) / per_chunk, (at + done) % per_chunk);
        let count = (per_chunk - page).min(run.count - done);
        let Some((place, _)) = places.get(chunk as usize) else {
            return;
        };
        let source = Source::Pack {
            pack: place.pack,
            chunk: place.number,
            page: u16::try_from(page).unwrap_or(0),
        };
        extents.push(Extent {
            first: run.first + done,
            count,
            source,
        });
        done += count;
    }
}

impl Packer {
    /// Writes the page map of a file whose units are all packed, and its entry. A file that was truncated meanwhile ends at its first
    /// short unit; what was read behind that is not part of it (WAL brings it back).
    pub(super) fn finish_relation(&mut self, state: RelationState) -> Result<(), StoreError> {
        let RelationState {
            file, units, places, ..
        } = state;
        let mut map = Extents::default();
        let mut digests = Vec::with_capacity(file.pages as usize);
        let mut measured = Measured::default();
        let mut is_cut = false;
        for unit in units.into_iter().flatten() {
            if is_cut {
                break;
            }
            is_cut = unit.digests.len() < UNIT_PAGES as usize;
            measured = measured.then(Measured {
                size: (unit.digests.len() * PAGE_BYTES) as u64,
                crc32c: unit.crc32c,
            });
            for run in unit.runs {
                map.push(run);
            }
            digests.extend(unit.digests);
            self.totals.new_pages += unit.new_pages;
            self.corrupt.extend(unit.corrupt);
        }
        if !map.is_whole() || map.pages as usize != digests.len() {
            return Err(StoreError::Stage("pack"));
        }
        if is_cut {
            self.accounts.drop_unneeded(&map, &places);
        }
        self.totals.pages += u64::from(map.pages);
        self.accounts_of_parent(&file.parent);
        let entry = file.job.entry(measured);
        let entry = if map.pages == 0 {
            entry
        } else {
            self.write_map(&file, &map, &digests, entry)?
        };
        self.add_file(file.number, entry)
    }

    fn write_map(
        &mut self,
        file: &RelationFile,
        map: &Extents,
        digests: &[PageDigest],
        entry: FileEntry,
    ) -> Result<FileEntry, StoreError> {
        self.accounts.needs_pages(map);
        let parent = &file.parent;
        let extents = match plan_extents(map, &parent.map)? {
            None => parent.map.extents_at.map(|(at, _)| at),
            Some((bytes, depth)) => {
                let at = self.place_metadata(ChunkKind::Extents, bytes)?;
                self.need_chain(depth, &parent.extents_chain);
                Some(at)
            }
        };
        if extents == parent.map.extents_at.map(|(at, _)| at) {
            self.need_chain(1, &parent.extents_chain);
        }
        let digests = match plan_digests(digests, &parent.map) {
            None => parent.map.digests_at.map(|(at, _)| at),
            Some((bytes, depth)) => {
                let at = self.place_metadata(ChunkKind::Digests, bytes)?;
                self.need_chain(depth, &parent.digests_chain);
                Some(at)
            }
        };
        if digests == parent.map.digests_at.map(|(at, _)| at) {
            self.need_chain(1, &parent.digests_chain);
        }
        Ok(FileEntry {
            extents,
            digests,
            ..entry
        })
    }

    /// A delta (depth above 0) needs the whole chain below it.
    fn need_chain(&mut self, depth: u16, chain: &[ChunkReference]) {
        if depth > 0 {
            for at in chain {
                self.accounts.needs(*at);
            }
        }
    }
}
