//! Relation files whose pages nobody reads: what a backup of a very large cluster takes in memory, metadata and requests can be measured
//! without its bytes. Only for that.
//!
//! Everything but reading, page checks and digests is the way of any other backup: the parent's maps are loaded, pages compared, new ones
//! compressed, sealed and packed, maps, table and books written. The content of each new page is that of a sample, so nothing can be restored.

use std::fmt::Debug;
use std::sync::Arc;

use super::worker::{RelationFile, UNIT_BYTES, UNIT_PAGES, UnitDone, Worker};
use crate::error::StoreError;
use crate::id::PageDigest;
use crate::limits::PAGE_BYTES;

/// What the digest of a page is: by the number of its file from 1 on, its own, and what the parent says.
pub type DigestOf = dyn Fn(u64, u32, Option<&PageDigest>) -> PageDigest + Send + Sync;

/// What is known of files that are not read.
pub struct Foreseen {
    /// The digest of each page.
    pub digest_of: Box<DigestOf>,
    /// Pages, as many as are read at once, whose content stands in for that of new ones. What is missing of them is zero.
    pub sample: Vec<u8>,
}

impl Debug for Foreseen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Foreseen").finish_non_exhaustive()
    }
}

impl Worker {
    /// As [`Worker::unit`], of a file that is not read.
    pub(super) fn unit_foreseen(
        &mut self,
        file: &Arc<RelationFile>,
        number: u32,
        foreseen: &Foreseen,
    ) -> Result<usize, StoreError> {
        if !self.holds_sample {
            let room = self.unit.get_mut(..UNIT_BYTES).unwrap_or_default();
            room.iter_mut().zip(&foreseen.sample).for_each(|(to, from)| *to = *from);
            self.holds_sample = true;
        }
        let first = number * UNIT_PAGES;
        let pages = file.pages.saturating_sub(first).min(UNIT_PAGES);
        let mut done = UnitDone::new(file, number, pages);
        let base = self.next_page();
        let mut listed = Vec::new();
        for page in first..first + pages {
            let before = file.parent.map.digests.get(page as usize);
            let digest = (foreseen.digest_of)(file.number, page, before);
            done.compare(page, &digest, base, &mut listed);
            done.note(page, digest);
        }
        self.common.progress.is_new((listed.len() * PAGE_BYTES) as u64);
        self.add_pages(&listed, &done.digests)?;
        self.batch.units.push(done);
        let bytes = pages as usize * PAGE_BYTES;
        self.common.progress.read(bytes as u64);
        Ok(bytes)
    }
}
