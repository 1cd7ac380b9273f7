//! Records by hand, for the unit tests.

use pg::lsn::Lsn;
use wal::block::RelationLocator;
use wal::record::RecordInfo;

pub(super) const MAGIC: u16 = 0xD110;
pub(super) const DATABASE: u32 = 5;

pub(super) fn file(relfilenode: u32) -> RelationLocator {
    RelationLocator {
        tablespace: 1663,
        database: DATABASE,
        relfilenode,
    }
}

/// A row of `pg_class` in the schema 2200, of PostgreSQL 15.
pub(super) fn class(oid: u32, name: &str, relfilenode: u32) -> Vec<u8> {
    let mut row = vec![0; 120];
    let mut put = |at: usize, bytes: &[u8]| row[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &oid.to_le_bytes());
    put(4, name.as_bytes());
    put(68, &2200u32.to_le_bytes());
    put(88, &relfilenode.to_le_bytes());
    put(100, &(-1f32).to_le_bytes());
    put(114, b"pr");
    row
}

pub(super) fn namespace(oid: u32, name: &str) -> Vec<u8> {
    let mut row = vec![0; 72];
    row[..4].copy_from_slice(&oid.to_le_bytes());
    row[4..4 + name.len()].copy_from_slice(name.as_bytes());
    row
}

/// `xl_heap_header` without a null bitmap, then columns.
fn tuple(columns: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 0, 24, 0][..], columns].concat()
}

/// A body with one page and main data.
pub(super) fn body(file: RelationLocator, block: u32, page: &[u8], main: &[u8]) -> Vec<u8> {
    let has_data = if page.is_empty() { 0 } else { 0x20 };
    let mut head = vec![0, has_data];
    head.extend((page.len() as u16).to_le_bytes());
    with_block(head, file, block, page, main)
}

/// A block's header goes on with its place; data follow.
fn with_block(head: Vec<u8>, file: RelationLocator, block: u32, page: &[u8], main: &[u8]) -> Vec<u8> {
    let mut out = head;
    for part in [file.tablespace, file.database, file.relfilenode, block] {
        out.extend(part.to_le_bytes());
    }
    out.extend([255, main.len() as u8]);
    out.extend(page);
    out.extend(main);
    out
}

/// A body with the image of one page and main data.
pub(super) fn image(file: RelationLocator, block: u32, page: &[u8], main: &[u8]) -> Vec<u8> {
    let mut head = vec![0, 0x10, 0, 0];
    head.extend(8192u16.to_le_bytes());
    head.extend([0, 0, 0x02]);
    with_block(head, file, block, page, main)
}

/// A body of main data alone.
pub(super) fn main(main: &[u8]) -> Vec<u8> {
    let mut out = vec![254];
    out.extend((main.len() as u32).to_le_bytes());
    out.extend(main);
    out
}

pub(super) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(super) fn insert(file: RelationLocator, offset: u16, row: &[u8]) -> Vec<u8> {
    let offset = offset.to_le_bytes();
    body(file, 0, &tuple(row), &[offset[0], offset[1], 0])
}

pub(super) fn delete(file: RelationLocator, offset: u16) -> Vec<u8> {
    let offset = offset.to_le_bytes();
    body(file, 0, &[], &[0, 0, 0, 0, offset[0], offset[1], 0, 0])
}

/// An update of a row on page 0, with so many bytes of the old one before and behind.
pub(super) fn update(file: RelationLocator, old: u16, new: u16, (prefix, row, suffix): (u16, &[u8], u16)) -> Vec<u8> {
    let (old, new) = (old.to_le_bytes(), new.to_le_bytes());
    let page = [&prefix.to_le_bytes()[..], &suffix.to_le_bytes(), &tuple(row)].concat();
    let main = [0, 0, 0, 0, old[0], old[1], 0, 0x60, 0, 0, 0, 0, new[0], new[1]];
    body(file, 0, &page, &main)
}

/// A page with tuples of (xmin, xmax, infomask, columns), changed last at `lsn`.
pub(super) fn page(lsn: u32, tuples: &[(u32, u32, u16, Vec<u8>)]) -> Vec<u8> {
    let mut page = vec![0; 8192];
    page[4..8].copy_from_slice(&lsn.to_le_bytes());
    let mut upper = page.len();
    for (number, (xmin, xmax, mask, columns)) in tuples.iter().enumerate() {
        let mut tuple = vec![0; 24];
        tuple[..4].copy_from_slice(&xmin.to_le_bytes());
        tuple[4..8].copy_from_slice(&xmax.to_le_bytes());
        tuple[20..22].copy_from_slice(&mask.to_le_bytes());
        tuple[22] = 24;
        tuple.extend(columns);
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

pub(super) fn record(lsn: u64, rmid: u8, info: u8, xid: u32) -> RecordInfo {
    RecordInfo {
        start: Lsn::new(lsn),
        end: Lsn::new(lsn + 8),
        prev: Lsn::ZERO,
        xid,
        rmid,
        info,
        len: 0,
    }
}
