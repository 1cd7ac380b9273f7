//! What heap records do to rows: `XLOG_HEAP_*` and `XLOG_HEAP2_MULTI_INSERT` of `access/heapam_xlog.h`, the same in
//! PostgreSQL 13 to 18.
//!
//! Place in the path: who follows single rows through WAL. Where a page image is there, rows are in it and not here.
//! Pure: no I/O.

use crate::block::RecordBody;
use crate::page::Fields;
use crate::record::MalformedRecord;

/// `RM_HEAP2_ID` and `RM_HEAP_ID` (`access/rmgrlist.h`).
pub const RM_HEAP2: u8 = 9;
/// See [`RM_HEAP2`].
pub const RM_HEAP: u8 = 10;

/// `XLOG_HEAP_OPMASK`, `XLOG_HEAP_INIT_PAGE`.
const OPERATION_MASK: u8 = 0x70;
const INIT_PAGE: u8 = 0x80;
const INSERT: u8 = 0x00;
const DELETE: u8 = 0x10;
const UPDATE: u8 = 0x20;
const HOT_UPDATE: u8 = 0x40;
const INPLACE: u8 = 0x70;
const MULTI_INSERT: u8 = 0x50;
/// `XLH_UPDATE_PREFIX_FROM_OLD`, `_SUFFIX_FROM_OLD`.
const PREFIX_FROM_OLD: u8 = 1 << 5;
const SUFFIX_FROM_OLD: u8 = 1 << 6;
/// `XLH_DELETE_IS_SUPER`, `_IS_PARTITION_MOVE`.
const IS_SUPER: u8 = 1 << 3;
const IS_PARTITION_MOVE: u8 = 1 << 4;
/// `SizeofHeapTupleHeader` (`access/htup_details.h`): what a tuple in a record has in front of it is left out.
const TUPLE_HEADER_BYTES: u8 = 23;

const SHORT: MalformedRecord = MalformedRecord("it is too short for a change of rows");

/// The columns of a row, as a record has them: the bytes behind `t_hoff`, some of them taken from the row before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowBytes<'a> {
    /// So many bytes from the start of the old row.
    pub prefix: usize,
    /// What is new.
    pub bytes: &'a [u8],
    /// So many bytes from the end of the old row.
    pub suffix: usize,
}

impl RowBytes<'_> {
    /// The row; `None` where it needs an old one that is not there or too short.
    pub fn whole(&self, old: Option<&[u8]>) -> Option<Vec<u8>> {
        if self.prefix == 0 && self.suffix == 0 {
            return Some(self.bytes.to_vec());
        }
        let old = old?;
        let (prefix, suffix) = (old.get(..self.prefix)?, old.get(old.len().checked_sub(self.suffix)?..)?);
        Some([prefix, self.bytes, suffix].concat())
    }
}

/// A change. Rows are missing where the record has a page image in their place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeapChange<'a> {
    /// New rows on the page of block reference 0, by number on the page.
    Insert(Vec<(u16, RowBytes<'a>)>),
    /// A row of that page is gone.
    Delete {
        /// Its number on the page.
        offset: u16,
        /// Somebody deleted it: it was not moved to another partition, and not taken back before it counted.
        is_meant: bool,
    },
    /// A row is replaced by another, on the page of block reference 0; the old one is on that of reference 1, or on
    /// the same.
    Update {
        /// Number of the old one on its page.
        old: u16,
        /// Number of the new one.
        new: u16,
        /// The new one.
        row: Option<RowBytes<'a>>,
    },
    /// A row of that page was written over, whatever becomes of the transaction.
    Inplace {
        /// Its number on the page.
        offset: u16,
        /// The row.
        row: Option<&'a [u8]>,
    },
    /// Something that changes no row: locks, pruning, freezing.
    Other,
}

impl<'a> HeapChange<'a> {
    /// Reads a record of [`RM_HEAP`] or [`RM_HEAP2`].
    pub fn parse(rmid: u8, info: u8, body: &RecordBody<'a>) -> Result<HeapChange<'a>, MalformedRecord> {
        let mut main = Fields::new(body.main);
        let has_image = |id| body.block(id).is_some_and(|block| block.image.is_some());
        let page = body.block(0).map(|block| block.data).filter(|page| !page.is_empty());
        match (rmid, info & OPERATION_MASK) {
            (RM_HEAP, INSERT) => {
                let offset = main.u16().ok_or(SHORT)?;
                let row = page.map(|page| row(page, 0)).transpose()?;
                if row.is_none() && !has_image(0) {
                    return Err(SHORT);
                }
                Ok(HeapChange::Insert(row.map(|row| (offset, row)).into_iter().collect()))
            }
            (RM_HEAP, DELETE) => {
                main.skip(4).ok_or(SHORT)?; // xmax
                let offset = main.u16().ok_or(SHORT)?;
                main.skip(1).ok_or(SHORT)?; // infobits_set
                let flags = main.u8().ok_or(SHORT)?;
                Ok(HeapChange::Delete {
                    offset,
                    is_meant: flags & (IS_SUPER | IS_PARTITION_MOVE) == 0,
                })
            }
            (RM_HEAP, UPDATE | HOT_UPDATE) => {
                main.skip(4).ok_or(SHORT)?; // old_xmax
                let old = main.u16().ok_or(SHORT)?;
                main.skip(1).ok_or(SHORT)?; // old_infobits_set
                let flags = main.u8().ok_or(SHORT)?;
                main.skip(4).ok_or(SHORT)?; // new_xmax
                let new = main.u16().ok_or(SHORT)?;
                let row = page.map(|page| row(page, flags)).transpose()?;
                if row.is_none() && !has_image(0) {
                    return Err(SHORT);
                }
                Ok(HeapChange::Update { old, new, row })
            }
            (RM_HEAP, INPLACE) => Ok(HeapChange::Inplace {
                offset: main.u16().ok_or(SHORT)?,
                row: page,
            }),
            (RM_HEAP2, MULTI_INSERT) => match page {
                Some(page) => Ok(HeapChange::Insert(rows(page, body.main, info & INIT_PAGE != 0)?)),
                None if has_image(0) => Ok(HeapChange::Insert(Vec::new())),
                None => Err(SHORT),
            },
            _ => Ok(HeapChange::Other),
        }
    }
}

/// Prefix, suffix, `xl_heap_header`, null bitmap and padding, columns (`heap_xlog_update`, `heap_xlog_insert`).
fn row(page: &[u8], flags: u8) -> Result<RowBytes<'_>, MalformedRecord> {
    let mut fields = Fields::new(page);
    let mut length = |flag| match flags & flag != 0 {
        true => fields.u16().map(usize::from).ok_or(SHORT),
        false => Ok(0),
    };
    let (prefix, suffix) = (length(PREFIX_FROM_OLD)?, length(SUFFIX_FROM_OLD)?);
    fields.skip(4).ok_or(SHORT)?; // t_infomask2, t_infomask
    let header_bytes = fields.u8().ok_or(SHORT)?;
    let rest = page.get(page.len() - fields.remaining()..).unwrap_or_default();
    Ok(RowBytes {
        prefix,
        bytes: columns(rest, header_bytes)?,
        suffix,
    })
}

fn columns(tuple: &[u8], header_bytes: u8) -> Result<&[u8], MalformedRecord> {
    let bitmap_bytes = header_bytes.checked_sub(TUPLE_HEADER_BYTES).ok_or(SHORT)?;
    tuple.get(usize::from(bitmap_bytes)..).ok_or(SHORT)
}

/// `xl_multi_insert_tuple`, each aligned to 2 bytes; numbers in the main data unless the page is new.
fn rows<'a>(page: &'a [u8], main: &[u8], is_new: bool) -> Result<Vec<(u16, RowBytes<'a>)>, MalformedRecord> {
    let mut main = Fields::new(main);
    main.skip(2).ok_or(SHORT)?; // flags
    let count = main.u16().ok_or(SHORT)?;
    let (mut out, mut at) = (Vec::new(), 0usize);
    for number in 1..=count {
        let offset = if is_new { number } else { main.u16().ok_or(SHORT)? };
        at = at.next_multiple_of(2);
        let mut fields = Fields::new(page.get(at..).ok_or(SHORT)?);
        let bytes = usize::from(fields.u16().ok_or(SHORT)?);
        fields.skip(4).ok_or(SHORT)?; // t_infomask2, t_infomask
        let header_bytes = fields.u8().ok_or(SHORT)?;
        let tuple = page.get(at + 7..at + 7 + bytes).ok_or(SHORT)?;
        at += 7 + bytes;
        let row = RowBytes {
            prefix: 0,
            bytes: columns(tuple, header_bytes)?,
            suffix: 0,
        };
        out.push((offset, row));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{BlockReference, RelationLocator};

    fn body<'a>(page: &'a [u8], main: &'a [u8]) -> RecordBody<'a> {
        let block = BlockReference {
            id: 0,
            fork: 0,
            relation: RelationLocator {
                tablespace: 1663,
                database: 5,
                relfilenode: 1259,
            },
            block: 0,
            will_init: false,
            image: None,
            data: page,
        };
        RecordBody {
            blocks: vec![block],
            main,
        }
    }

    /// `xl_heap_header` with one byte of null bitmap, then columns.
    fn tuple(columns: &[u8]) -> Vec<u8> {
        [&[0, 0, 0, 0, 24, 0xFF][..], columns].concat()
    }

    fn inserted(rows: &[(u16, &[u8])]) -> HeapChange<'static> {
        let row = |bytes: &[u8]| RowBytes {
            prefix: 0,
            bytes: Box::leak(bytes.to_vec().into_boxed_slice()),
            suffix: 0,
        };
        HeapChange::Insert(rows.iter().map(|(offset, bytes)| (*offset, row(bytes))).collect())
    }

    #[test]
    fn rows_are_found_behind_their_headers() {
        let page = tuple(b"columns");
        let found = HeapChange::parse(RM_HEAP, 0x80, &body(&page, &[3, 0, 0])).unwrap();
        assert_eq!(found, inserted(&[(3, b"columns")]));
        let one = |columns: &[u8]| {
            let mut out = ((columns.len() + 1) as u16).to_le_bytes().to_vec();
            out.extend(tuple(columns));
            out
        };
        let page = [&one(b"four")[..], &one(b"three"), &[0], &one(b"")].concat();
        let numbered = [0, 0, 3, 0, 7, 0, 9, 0, 2, 0];
        let found = HeapChange::parse(RM_HEAP2, 0x50, &body(&page, &numbered)).unwrap();
        assert_eq!(found, inserted(&[(7, b"four"), (9, b"three"), (2, b"")]));
        let found = HeapChange::parse(RM_HEAP2, 0xD0, &body(&page, &numbered[..4])).unwrap();
        assert_eq!(found, inserted(&[(1, b"four"), (2, b"three"), (3, b"")]));
    }

    #[test]
    fn an_update_takes_what_did_not_change_from_the_old_row() {
        let main = [9, 0, 0, 0, 4, 0, 0, 0x60, 0, 0, 0, 0, 5, 0];
        let page = [&[2, 0, 3, 0][..], &tuple(b"NEW")].concat();
        let found = HeapChange::parse(RM_HEAP, 0x40, &body(&page, &main)).unwrap();
        let HeapChange::Update {
            old: 4,
            new: 5,
            row: Some(row),
        } = found
        else {
            panic!("{found:?}");
        };
        assert_eq!(row.whole(Some(b"abOLDxyz")).unwrap(), b"abNEWxyz");
        assert_eq!(row.whole(Some(b"ab")), None);
        assert_eq!(row.whole(None), None);
    }

    #[test]
    fn a_row_that_moves_to_another_partition_was_not_deleted() {
        for (flags, is_meant) in [(0, true), (1, true), (IS_SUPER, false), (IS_PARTITION_MOVE, false)] {
            let main = [9, 0, 0, 0, 4, 0, 0, flags];
            let found = HeapChange::parse(RM_HEAP, 0x10, &body(&[], &main)).unwrap();
            assert_eq!(found, HeapChange::Delete { offset: 4, is_meant });
        }
    }

    #[test]
    fn what_is_cut_off_is_malformed() {
        let update = [9, 0, 0, 0, 4, 0, 0, 0x60, 0, 0, 0, 0, 5, 0];
        let page = [&[2, 0, 3, 0][..], &tuple(b"")].concat();
        for len in 0..page.len() {
            assert!(
                HeapChange::parse(RM_HEAP, 0x20, &body(&page[..len], &update)).is_err(),
                "{len}"
            );
        }
        for len in 0..update.len() {
            assert!(
                HeapChange::parse(RM_HEAP, 0x20, &body(&page, &update[..len])).is_err(),
                "{len}"
            );
        }
        assert!(HeapChange::parse(RM_HEAP, 0, &body(&[0, 0, 0, 0, 22, 1], &[1, 0, 0])).is_err());
        assert!(HeapChange::parse(RM_HEAP2, 0x50, &body(&tuple(b""), &[0, 0, 255, 255])).is_err());
        assert!(HeapChange::parse(RM_HEAP, 0x10, &body(&[], &[1, 2, 3])).is_err());
        assert_eq!(HeapChange::parse(RM_HEAP, 0x60, &body(&[], &[])), Ok(HeapChange::Other));
    }
}
