//! Is a page torn, or is it corrupt? (B01 to B04)
//!
//! A page that fails its check is read again. If it changes, the server is writing it, and the full-page image that the WAL has of its
//! first change after the backup's start repairs it on recovery. If it does not change, its LSN decides: newer than the start, the
//! same holds; else it is corrupt in the database itself: it is stored as it is, recorded in the manifest, and the backup goes on.
//! An LSN beyond the end of the backup is none that a server wrote: that is judged at the end.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pg::lsn::Lsn;
use pg::page::{PageState, check, page_lsn};
use store::StoreError;
use store::manifest::CorruptPage;
use store::pipeline::{FileJob, PageCheck, Reread};

/// Reads of a page before it is judged; the waits between them double from 1 ms (31 ms in all).
const READS: u32 = 5;
/// More suspects than this are not kept: the disk is gone, and the log has said so.
const SUSPECTS_MAX: usize = 100_000;

/// Judges the pages of one backup.
#[derive(Debug)]
pub(crate) struct Checker {
    start_lsn: Lsn,
    has_checksums: bool,
    suspects: Mutex<Vec<(Lsn, CorruptPage)>>,
}

impl Checker {
    pub(crate) fn new(start_lsn: Lsn, has_checksums: bool) -> Self {
        Checker {
            start_lsn,
            has_checksums,
            suspects: Mutex::default(),
        }
    }

    /// Pages that were let pass for an LSN that, as we know now, lies behind the end of the backup.
    pub(crate) fn impossible_pages(&self, end_lsn: Lsn) -> Vec<CorruptPage> {
        let suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        suspects
            .iter()
            .filter(|(lsn, _)| *lsn > end_lsn)
            .map(|(_, page)| page.clone())
            .collect()
    }
}

impl PageCheck for Checker {
    fn examine(
        &self,
        file: &FileJob,
        page: u32,
        bytes: &mut [u8],
        reread: &mut Reread<'_>,
    ) -> Result<Option<CorruptPage>, StoreError> {
        let block = file.first_block.wrapping_add(page);
        let mut state = check(bytes, block, self.has_checksums);
        let mut is_changing = false;
        for read in 0..READS {
            if matches!(state, PageState::Ok | PageState::New) {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(1 << read));
            let before = bytes.to_vec();
            if !reread(bytes)? {
                // Truncated meanwhile; the WAL says so too.
                return Ok(None);
            }
            is_changing |= *before != *bytes;
            state = check(bytes, block, self.has_checksums);
        }
        let (expected, found, reason) = match state {
            PageState::Ok | PageState::New => return Ok(None),
            PageState::Corrupt { expected, found } => (expected, found, "checksum"),
            PageState::BadHeader => (0, 0, "page header"),
        };
        if is_changing || !file.is_judged {
            return Ok(None);
        }
        let corrupt = CorruptPage {
            path: file.path.clone().into(),
            block,
            expected,
            found,
            reason: reason.into(),
        };
        let lsn = page_lsn(bytes);
        if lsn < self.start_lsn {
            return Ok(Some(corrupt));
        }
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        if suspects.len() < SUSPECTS_MAX {
            suspects.push((lsn, corrupt));
            return Ok(None);
        }
        Ok(Some(corrupt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg::page::{PAGE_BYTES, checksum};
    use store::file_table::EntryClass;

    fn job(is_judged: bool) -> FileJob {
        FileJob {
            path: b"base/5/1259.1".to_vec(),
            on_disk: "x".into(),
            mode: 0,
            size: 0,
            class: EntryClass::Relation,
            first_block: 131_072,
            is_judged,
            may_vanish: true,
            attributes: None,
        }
    }

    fn page(block: u32, lsn: u32) -> Vec<u8> {
        let mut page: Vec<u8> = (0..PAGE_BYTES).map(|at| (at % 251) as u8).collect();
        page[0..4].fill(0);
        page[4..8].copy_from_slice(&lsn.to_le_bytes());
        for (at, value) in [(10, 0u16), (12, 24), (14, 8000), (16, 8192)] {
            page[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        let sum = checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    const BLOCK: u32 = 131_072 + 7;

    fn examine(checker: &Checker, job: &FileJob, seen: &[u8], later: &[Vec<u8>]) -> (Option<CorruptPage>, Vec<u8>) {
        let mut bytes = seen.to_vec();
        let mut later = later.iter();
        let mut last = seen.to_vec();
        let mut reread = |out: &mut [u8]| {
            if let Some(next) = later.next() {
                last = next.clone();
            }
            out.copy_from_slice(&last);
            Ok(true)
        };
        let found = checker.examine(job, 7, &mut bytes, &mut reread).unwrap();
        (found, bytes)
    }

    #[test]
    fn a_torn_page_is_read_until_it_is_whole() {
        let checker = Checker::new(Lsn::new(1000), true);
        let whole = page(BLOCK, 500);
        let mut torn = whole.clone();
        torn[6000] ^= 1;
        let (found, stored) = examine(&checker, &job(true), &torn, &[torn.clone(), whole.clone()]);
        assert!(found.is_none());
        assert_eq!(stored, whole);
    }

    #[test]
    fn a_cold_page_with_a_flipped_bit_is_reported_with_its_block_in_the_relation() {
        let checker = Checker::new(Lsn::new(1000), true);
        let mut bad = page(BLOCK, 500);
        bad[6000] ^= 1;
        let found = examine(&checker, &job(true), &bad, &[]).0.unwrap();
        assert_eq!((found.block, found.reason.as_str()), (BLOCK, "checksum"));
        assert!(
            examine(&checker, &job(false), &bad, &[]).0.is_none(),
            "a free space map is never a finding"
        );
        assert!(
            examine(&Checker::new(Lsn::new(1000), false), &job(true), &bad, &[])
                .0
                .is_none(),
            "no checksums, a sane header"
        );
    }

    #[test]
    fn a_page_of_this_backups_time_is_left_to_wal_unless_its_lsn_is_impossible() {
        let checker = Checker::new(Lsn::new(1000), true);
        let mut recent = page(BLOCK, 2000);
        recent[6000] ^= 1;
        assert!(examine(&checker, &job(true), &recent, &[]).0.is_none());
        assert!(checker.impossible_pages(Lsn::new(3000)).is_empty());
        assert_eq!(checker.impossible_pages(Lsn::new(1999)).len(), 1);
        let mut other = recent.clone();
        other[6001] ^= 1;
        assert!(
            examine(&checker, &job(true), &recent, &[other]).0.is_none(),
            "it changes: it is being written"
        );
    }
}
