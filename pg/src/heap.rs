//! Rows on a page of a table: line pointers and tuple headers.
//!
//! Place in the path: the catalog of a backup is read with this, out of its files and out of page images in WAL, without a
//! server. Layout: src/include/storage/{bufpage,itemid}.h, src/include/access/htup_details.h. Whatever a page claims is
//! checked against its length; a page that contradicts itself is an error as a whole.

use crate::bytes_at::{u16_at, u32_at};
use crate::page::{self, PAGE_BYTES};

/// Size of `PageHeaderData`: line pointers begin here.
const PAGE_HEADER_BYTES: usize = 24;
/// `LP_NORMAL`: the line pointer leads to a tuple.
const LP_NORMAL: u32 = 1;
/// `SizeofHeapTupleHeader`.
const TUPLE_HEADER_BYTES: usize = 23;
/// `HEAP_XMAX_EXCL_LOCK`, `HEAP_XMAX_KEYSHR_LOCK`, `HEAP_XMAX_LOCK_ONLY`, `HEAP_XMIN_COMMITTED`, `HEAP_XMIN_INVALID`,
/// `HEAP_XMAX_COMMITTED`, `HEAP_XMAX_INVALID`, `HEAP_XMAX_IS_MULTI`.
const XMAX_EXCL_LOCK: u16 = 0x0040;
const XMAX_KEYSHR_LOCK: u16 = 0x0010;
const XMAX_LOCK_ONLY: u16 = 0x0080;
const XMIN_COMMITTED: u16 = 0x0100;
const XMIN_INVALID: u16 = 0x0200;
const XMAX_COMMITTED: u16 = 0x0400;
const XMAX_INVALID: u16 = 0x0800;
const XMAX_IS_MULTI: u16 = 0x1000;
/// `FirstNormalTransactionId`: those below were never running.
const FIRST_NORMAL_XID: u32 = 3;

/// A page that contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the page is no page of a table: {0}")]
pub struct HeapError(pub &'static str);

/// What a tuple says of one of its two transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Xid {
    /// There is none, or it did not commit: never inserted, or not deleted.
    None,
    /// It committed so long ago that its number means nothing any more; or it was no transaction.
    Frozen,
    /// It committed.
    Committed(u32),
    /// The tuple does not say how it ended.
    Unknown(u32),
}

/// A row version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeapTuple<'a> {
    /// Its number on the page, from 1.
    pub offset: u16,
    /// Who inserted it.
    pub xmin: Xid,
    /// Who deleted or replaced it. Who only locked it is left out, and so are several at once (`MultiXactId`): a catalog row
    /// that is locked by one and changed by another is met as a change in WAL.
    pub xmax: Xid,
    /// Its columns: all behind `t_hoff`.
    pub columns: &'a [u8],
}

/// The row versions of a page, in the order of their numbers; none of a page that was never written.
pub fn tuples(page: &[u8]) -> Result<Vec<HeapTuple<'_>>, HeapError> {
    const HEADER: HeapError = HeapError("its header makes no sense");
    if page.len() != PAGE_BYTES {
        return Err(HeapError("its length is another"));
    }
    if page::is_new(page) {
        return Ok(Vec::new());
    }
    let lower = usize::from(u16_at(page, 12).ok_or(HEADER)?);
    let upper = usize::from(u16_at(page, 14).ok_or(HEADER)?);
    if lower < PAGE_HEADER_BYTES || lower > upper || upper > PAGE_BYTES {
        return Err(HEADER);
    }
    let count = (lower - PAGE_HEADER_BYTES) / 4;
    let mut out = Vec::with_capacity(count);
    for number in 0..count {
        // ItemIdData: lp_off, 15 bits; lp_flags, 2; lp_len, 15.
        let item = u32_at(page, PAGE_HEADER_BYTES + 4 * number).ok_or(HEADER)?;
        if item >> 15 & 3 != LP_NORMAL {
            continue;
        }
        let (at, len) = ((item & 0x7FFF) as usize, (item >> 17) as usize);
        let tuple = page
            .get(at..at + len)
            .filter(|_| at >= upper)
            .ok_or(HeapError("a line pointer leads out of it"))?;
        let offset = u16::try_from(number + 1).map_err(|_| HEADER)?;
        out.push(tuple_of(offset, tuple).ok_or(HeapError("a tuple is shorter than its header"))?);
    }
    Ok(out)
}

fn tuple_of(offset: u16, tuple: &[u8]) -> Option<HeapTuple<'_>> {
    let (xmin, xmax, mask) = (u32_at(tuple, 0)?, u32_at(tuple, 4)?, u16_at(tuple, 20)?);
    let header_bytes = usize::from(*tuple.get(22)?);
    if header_bytes < TUPLE_HEADER_BYTES {
        return None;
    }
    Some(HeapTuple {
        offset,
        xmin: inserted_by(xmin, mask),
        xmax: deleted_by(xmax, mask),
        columns: tuple.get(header_bytes..)?,
    })
}

fn inserted_by(xid: u32, mask: u16) -> Xid {
    match mask & (XMIN_COMMITTED | XMIN_INVALID) {
        _ if xid == 0 => Xid::None,
        _ if xid < FIRST_NORMAL_XID => Xid::Frozen,
        XMIN_INVALID => Xid::None,
        XMIN_COMMITTED => Xid::Committed(xid),
        0 => Xid::Unknown(xid),
        _ => Xid::Frozen, // HEAP_XMIN_FROZEN
    }
}

/// `HEAP_XMAX_IS_LOCKED_ONLY`, then the hints.
fn deleted_by(xid: u32, mask: u16) -> Xid {
    let lock = mask & (XMAX_IS_MULTI | XMAX_EXCL_LOCK | XMAX_KEYSHR_LOCK);
    let is_lock = mask & XMAX_LOCK_ONLY != 0 || lock == XMAX_EXCL_LOCK;
    if xid < FIRST_NORMAL_XID || mask & (XMAX_INVALID | XMAX_IS_MULTI) != 0 || is_lock {
        Xid::None
    } else if mask & XMAX_COMMITTED != 0 {
        Xid::Committed(xid)
    } else {
        Xid::Unknown(xid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tuples of (xmin, xmax, infomask, columns) on a page.
    fn page(tuples: &[(u32, u32, u16, &[u8])]) -> Vec<u8> {
        let mut page = vec![0; PAGE_BYTES];
        let mut upper = PAGE_BYTES;
        for (number, (xmin, xmax, mask, columns)) in tuples.iter().enumerate() {
            let mut tuple = vec![0; 24];
            tuple[..4].copy_from_slice(&xmin.to_le_bytes());
            tuple[4..8].copy_from_slice(&xmax.to_le_bytes());
            tuple[20..22].copy_from_slice(&mask.to_le_bytes());
            tuple[22] = 24;
            tuple.extend(*columns);
            upper = (upper - tuple.len()) / 8 * 8;
            page[upper..upper + tuple.len()].copy_from_slice(&tuple);
            let item = upper as u32 | 1 << 15 | (tuple.len() as u32) << 17;
            page[24 + 4 * number..28 + 4 * number].copy_from_slice(&item.to_le_bytes());
        }
        let lower = 24 + 4 * tuples.len() as u16;
        for (at, value) in [(12, lower), (14, upper as u16), (16, 8192)] {
            page[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        page
    }

    #[test]
    fn tuples_say_who_made_and_who_ended_them() {
        let page = page(&[
            (700, 0, XMIN_COMMITTED | XMAX_INVALID, b"a"),
            (700, 701, XMIN_COMMITTED, b"b"),
            (1, 701, XMAX_COMMITTED, b"c"),
            (702, 703, XMAX_LOCK_ONLY, b"d"),
            (702, 9, XMIN_COMMITTED | XMIN_INVALID | XMAX_IS_MULTI, b"e"),
            (702, 703, XMIN_INVALID | XMAX_EXCL_LOCK, b""),
        ]);
        let found = tuples(&page).unwrap();
        let says: Vec<_> = found.iter().map(|t| (t.offset, t.xmin, t.xmax, t.columns)).collect();
        assert_eq!(
            says,
            [
                (1, Xid::Committed(700), Xid::None, &b"a"[..]),
                (2, Xid::Committed(700), Xid::Unknown(701), b"b"),
                (3, Xid::Frozen, Xid::Committed(701), b"c"),
                (4, Xid::Unknown(702), Xid::None, b"d"),
                (5, Xid::Frozen, Xid::None, b"e"),
                (6, Xid::None, Xid::None, b""),
            ]
        );
        assert_eq!(tuples(&vec![0; PAGE_BYTES]), Ok(Vec::new()));
    }

    #[test]
    fn only_normal_line_pointers_lead_to_tuples() {
        let mut page = page(&[(700, 0, 0, b"a"), (700, 0, 0, b"b"), (700, 0, 0, b"c")]);
        page[26] |= 1; // LP_DEAD is 3, the length is odd anyway
        let redirect: u32 = 3 | 2 << 15;
        page[28..32].copy_from_slice(&redirect.to_le_bytes());
        let offsets: Vec<u16> = tuples(&page).unwrap().iter().map(|tuple| tuple.offset).collect();
        assert_eq!(offsets, [3]);
    }

    #[test]
    fn pages_that_contradict_themselves_are_errors() {
        let good = page(&[(700, 0, 0, b"a")]);
        assert!(tuples(&good[1..]).is_err());
        for (at, value) in [(12, 23u16), (12, 9000), (14, 27), (14, 8193), (24, 0x8010)] {
            let mut bad = good.clone();
            bad[at..at + 2].copy_from_slice(&value.to_le_bytes());
            assert!(tuples(&bad).is_err(), "{at} {value}");
        }
        let mut bad = good.clone();
        bad[26..28].copy_from_slice(&0xFFFFu16.to_le_bytes());
        let _ = tuples(&bad);
        let mut bad = good;
        let tuple = 8192 - 32;
        bad[tuple + 22] = 22;
        assert!(tuples(&bad).is_err());
        bad[tuple + 22] = 200;
        assert!(tuples(&bad).is_err());
    }
}
