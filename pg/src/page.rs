//! Relation pages: header, checksum, and whether a page can be believed.
//!
//! The base backup checks every page with this before it is stored. Layout:
//! src/include/storage/bufpage.h (`PageHeaderData`); checksum:
//! src/include/storage/checksum_impl.h; the order of the tests:
//! src/backend/storage/page/bufpage.c (`PageIsVerifiedExtended`). Blocks of 8 KiB only.
//!
//! A page that fails here may be torn by a concurrent write; only a second read and its LSN tell.

use crate::bytes_at::{u16_at, u32_at};
use crate::lsn::Lsn;

/// Size of a page in bytes.
pub const PAGE_BYTES: usize = 8192;

/// Columns of the checksum's matrix.
const LANES: usize = 32;
const ROW_BYTES: usize = LANES * 4;
const FNV_PRIME: u32 = 16_777_619;
/// `PD_VALID_FLAG_BITS`.
const VALID_FLAGS: u16 = 0x0007;

/// Start values of the columns (`checksumBaseOffsets`).
const BASE: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// What a page looks like.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PageState {
    /// Header and checksum are right.
    Ok,
    /// All zero: allocated, never written.
    New,
    /// The checksum is wrong.
    Corrupt {
        /// Checksum of the content.
        expected: u16,
        /// Checksum in the header.
        found: u16,
    },
    /// The header cannot be that of a page, or the length is not that of a page.
    BadHeader,
}

/// LSN of the last WAL record that changed the page (`pd_lsn`, high half first); zero for a slice
/// that is too short.
pub fn page_lsn(page: &[u8]) -> Lsn {
    match (u32_at(page, 0), u32_at(page, 4)) {
        (Some(high), Some(low)) => Lsn::new(u64::from(high) << 32 | u64::from(low)),
        _ => Lsn::ZERO,
    }
}

/// Whether the page was never written: `pd_upper` is zero (`PageIsNew`), and so is all the rest.
pub fn is_new(page: &[u8]) -> bool {
    u16_at(page, 14) == Some(0) && page.iter().all(|byte| *byte == 0)
}

/// Checksum of a page at this block number of its relation (`pg_checksum_page`); the block counts
/// from the start of the fork, not of the file. Bytes after the last whole 128 are not looked at,
/// so the slice should be a page.
pub fn checksum(page: &[u8], block: u32) -> u16 {
    let (rows, _) = page.as_chunks::<ROW_BYTES>();
    let mut sums = BASE;
    if let Some((first, rest)) = rows.split_first() {
        let mut first = *first;
        if let Some(stored) = first.get_mut(8..10) {
            stored.fill(0);
        }
        mix_row(&mut sums, &first);
        for row in rest {
            mix_row(&mut sums, row);
        }
    }
    for _ in 0..2 {
        mix_row(&mut sums, &[0; ROW_BYTES]);
    }
    let folded = sums.iter().fold(block, |sum, lane| sum ^ lane);
    // Reduced so that zero never comes out; 65535 + 1 does not fit and is not reached.
    u16::try_from(folded % 65535).map_or(u16::MAX, |sum| sum.saturating_add(1))
}

/// One round over all columns. Fixed lengths and no branches, so that it becomes vector code.
#[inline(always)]
fn mix_row(sums: &mut [u32; LANES], row: &[u8; ROW_BYTES]) {
    let (words, _) = row.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ u32::from_le_bytes(*word);
        *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

/// Tests a page. With `checksums_enabled` the checksum is compared first; the header must make
/// sense either way.
pub fn check(page: &[u8], block: u32, checksums_enabled: bool) -> PageState {
    if page.len() != PAGE_BYTES {
        return PageState::BadHeader;
    }
    if u16_at(page, 14) == Some(0) {
        return if is_new(page) {
            PageState::New
        } else {
            PageState::BadHeader
        };
    }
    if checksums_enabled {
        let expected = checksum(page, block);
        let found = u16_at(page, 8).unwrap_or_default();
        if expected != found {
            return PageState::Corrupt { expected, found };
        }
    }
    if header_is_sane(page) {
        PageState::Ok
    } else {
        PageState::BadHeader
    }
}

fn header_is_sane(page: &[u8]) -> bool {
    let fields = (u16_at(page, 10), u16_at(page, 12), u16_at(page, 14), u16_at(page, 16));
    let (Some(flags), Some(lower), Some(upper), Some(special)) = fields else {
        return false;
    };
    flags & !VALID_FLAGS == 0
        && lower <= upper
        && upper <= special
        && usize::from(special) <= PAGE_BYTES
        && special % 8 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Vec<u8> {
        let mut page: Vec<u8> = (0..PAGE_BYTES).map(|i| (i % 251) as u8).collect();
        for (at, value) in [(10, 0u16), (12, 24), (14, 8000), (16, 8192)] {
            page[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        let sum = checksum(&page, 7);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn a_page_with_its_checksum_is_ok_only_at_its_block() {
        let page = page();
        assert_eq!(check(&page, 7, true), PageState::Ok);
        assert!(matches!(check(&page, 8, true), PageState::Corrupt { .. }));
        assert_eq!(check(&page, 8, false), PageState::Ok);
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let mut page = page();
        for at in (0..PAGE_BYTES).step_by(97).filter(|at| !(14..16).contains(at)) {
            page[at] ^= 0x40;
            assert!(matches!(check(&page, 7, true), PageState::Corrupt { .. }), "byte {at}");
            page[at] ^= 0x40;
        }
    }

    #[test]
    fn a_zero_page_is_new_and_a_nearly_zero_page_is_not() {
        let mut page = vec![0; PAGE_BYTES];
        assert_eq!(check(&page, 0, true), PageState::New);
        page[PAGE_BYTES - 1] = 1;
        assert_eq!(check(&page, 0, true), PageState::BadHeader);
    }

    #[test]
    fn senseless_headers_are_refused() {
        for (at, value) in [(10, 8u16), (12, 8001), (14, 8193), (16, 8193), (16, 8191)] {
            let mut page = page();
            page[at..at + 2].copy_from_slice(&value.to_le_bytes());
            assert_eq!(check(&page, 7, false), PageState::BadHeader, "{at} {value}");
        }
        assert_eq!(check(&page()[1..], 7, false), PageState::BadHeader);
    }

    #[test]
    fn short_slices_are_harmless() {
        assert_eq!(page_lsn(&[1, 2, 3]), Lsn::ZERO);
        assert!(!is_new(&[]));
        let _ = checksum(&[0; 5], 0);
        let lsn = [0x16, 0, 0, 0, 0x48, 0xD8, 0x74, 0xB3];
        assert_eq!(page_lsn(&lsn), Lsn::new(0x16_B374_D848));
    }
}
