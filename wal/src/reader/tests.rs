//! The reader against WAL built by hand: splits, damage, crashes, boundaries.

pub(crate) mod build;
mod crash;
mod damage;

use self::build::{PAGE, Random, SEGMENT, Wal, main};
use super::*;
use crate::commit::{PgTimestamp, XactKind};

fn records(items: &[WalItem]) -> Vec<RecordInfo> {
    items
        .iter()
        .filter_map(|item| {
            if let WalItem::Record(record) = item {
                Some(*record)
            } else {
                None
            }
        })
        .collect()
}

fn starts(items: &[WalItem]) -> Vec<u64> {
    records(items).iter().map(|record| record.start.as_u64()).collect()
}

/// Some of everything, three segments long.
fn everything() -> Wal {
    let mut wal = Wal::new(3 * SEGMENT);
    wal.filler(100);
    wal.commit(11, 1_000);
    for left in [8, 16, 24, 32] {
        wal.fill_page_to(left);
        wal.filler(20 + left as usize);
    }
    wal.filler(50_000);
    let mut name = 9i64.to_le_bytes().to_vec();
    name.extend(b"before the upgrade");
    name.resize(72, 0);
    wal.record(0, 0x70, 0, &main(&name));
    wal.switch();
    wal.filler(1_000);
    let lost = wal.lost(2);
    wal.overwrite(lost);
    wal.filler(2 * PAGE);
    wal.switch();
    wal.filler(77);
    wal
}

#[test]
fn any_split_of_the_input_gives_the_same_items() {
    let wal = everything();
    let whole = wal.items();
    assert_eq!(records(&whole).len(), 18);
    for size in [1, 7, 8, 24, 40, 8191, 8192, 8193, 100_000] {
        assert_eq!(wal.read_split(|_| size), (whole.clone(), Ok(())), "pieces of {size}");
    }
    for seed in 1..40 {
        let mut random = Random(seed * 7919);
        let limit = [4, 50, 9_000, 60_000][seed as usize % 4];
        assert_eq!(
            wal.read_split(|_| random.below(limit)),
            (whole.clone(), Ok(())),
            "seed {seed}"
        );
    }
}

#[test]
fn a_record_is_read_wherever_its_header_meets_the_page_end() {
    for left in (8..=80).step_by(8) {
        for body in [0, 1, 8, 40, PAGE, 3 * PAGE] {
            let mut wal = Wal::new(SEGMENT);
            wal.fill_page_to(left);
            let expected = [SEGMENT + 40, wal.filler(body), wal.filler(3)];
            let (items, result) = wal.read_split(|_| 13);
            assert_eq!((starts(&items), result), (expected.to_vec(), Ok(())), "{left} {body}");
        }
    }
}

#[test]
fn a_record_that_ends_with_the_page_ends_at_its_boundary() {
    let mut wal = Wal::new(SEGMENT);
    wal.fill_page_to(0);
    let next = wal.filler(10);
    let found = records(&wal.items());
    assert_eq!(found[0].end, Lsn::new(SEGMENT + PAGE_BYTES));
    assert_eq!(found[1].start, Lsn::new(next));
    assert_eq!(next, SEGMENT + PAGE_BYTES + 24);
}

#[test]
fn the_rest_of_a_record_before_the_start_is_skipped() {
    for body in [10, 5 * PAGE] {
        let mut wal = Wal::new(SEGMENT);
        wal.fill_page_to(16);
        let cut = wal.filler(body);
        let next = wal.filler(10);
        let mut tail = wal.clone();
        tail.start += PAGE_BYTES;
        tail.bytes.drain(..PAGE);
        for piece in [1, 1_000, usize::MAX] {
            assert_eq!(starts(&tail.read_split(|_| piece).0), [next]);
        }
        let mut reader = tail.reader();
        reader.expect_prev(Lsn::new(cut));
        assert_eq!(reader.push(Lsn::new(tail.start), &tail.bytes, &mut |_| ()), Ok(()));
        let mut reader = tail.reader();
        reader.expect_prev(Lsn::new(cut - 8));
        let result = reader.push(Lsn::new(tail.start), &tail.bytes, &mut |_| ());
        assert!(matches!(result, Err(WalError::RecordPrev { .. })), "{result:?}");
    }
}

#[test]
fn half_a_record_at_the_end_is_not_there_yet() {
    let mut wal = Wal::new(SEGMENT);
    let first = wal.filler(10);
    let half = wal.filler(3 * PAGE);
    wal.bytes.truncate(2 * PAGE);
    let mut reader = wal.reader();
    assert_eq!(reader.push(Lsn::new(SEGMENT), &wal.bytes, &mut |_| ()), Ok(()));
    assert_eq!(reader.position(), Lsn::new(SEGMENT + 2 * PAGE_BYTES));
    assert_eq!(reader.first_record_start(), Some(Lsn::new(first)));
    assert_eq!(reader.last_complete_record().map(|r| r.start), Some(Lsn::new(first)));
    assert_eq!(reader.partial_record_start(), Some(Lsn::new(half)));
}

#[test]
fn after_a_switch_the_next_record_is_on_the_next_segment() {
    // Also where the switch record ends with the segment or reaches over its end.
    for left in [5_000, 24, 16, 8] {
        let mut wal = Wal::new(SEGMENT);
        while wal.end() < 2 * SEGMENT - PAGE_BYTES - 200 {
            wal.filler(150);
        }
        wal.fill_page_to(8);
        wal.filler(0);
        wal.fill_page_to(left);
        let start = wal.switch();
        let next = wal.filler(10);
        let items = wal.items();
        assert_eq!(starts(&items)[starts(&items).len() - 2..], [start, next]);
        let segment_end = if left < 24 { 3 * SEGMENT } else { 2 * SEGMENT };
        assert_eq!(next, segment_end + 40);
        let switch = items.iter().find(|item| matches!(item, WalItem::Switch { .. }));
        let Some(WalItem::Switch { segment_end: found, .. }) = switch else {
            panic!("no switch")
        };
        assert_eq!(found.as_u64(), segment_end);
    }
}

#[test]
fn pages_of_an_ancestor_come_first_or_not_at_all() {
    let mut wal = Wal::new(SEGMENT);
    wal.timeline = 2;
    wal.fill_page_to(0);
    wal.timeline = 4;
    wal.filler(10);
    assert_eq!(records(&wal.items()).len(), 2);
    wal.fill_page_to(0);
    wal.timeline = 3;
    wal.filler(10);
    wal.timeline = 4;
    let found = wal.read().1;
    assert!(
        matches!(
            found,
            Err(WalError::TimelineBackwards {
                before: 4,
                found: 3,
                ..
            })
        ),
        "{found:?}"
    );
}

#[test]
fn the_prepared_transaction_is_named_however_long_the_record_is() {
    let mut wal = Wal::new(SEGMENT);
    for subxacts in [0u32, 3, 990, 1_010, 50_000] {
        let mut data = 77i64.to_le_bytes().to_vec();
        data.extend((1u32 | 1 << 1 | 1 << 4 | 1 << 8).to_le_bytes());
        data.extend([0; 8]);
        data.extend(subxacts.to_le_bytes());
        (0..subxacts).for_each(|xid| data.extend(xid.to_le_bytes()));
        data.extend(2u32.to_le_bytes());
        data.extend([3; 24]);
        data.extend((4_000 + subxacts).to_le_bytes());
        wal.record(1, 0x80 | 0x30, 0, &main(&data));
    }
    for piece in [3, 5_000, usize::MAX] {
        let xids: Vec<u32> = wal.read_split(|_| piece).0.iter().filter_map(xact_xid).collect();
        assert_eq!(xids, [4_000, 4_003, 4_990, 5_010, 54_000]);
    }
}

fn xact_xid(item: &WalItem) -> Option<u32> {
    let WalItem::Xact(event) = item else {
        return None;
    };
    assert_eq!((event.kind, event.time), (XactKind::CommitPrepared, PgTimestamp(77)));
    Some(event.xid)
}

#[test]
fn memory_is_bounded_however_long_a_record_is() {
    let mut wal = Wal::new(SEGMENT);
    wal.record(1, 0x80, 5, &main(&vec![1; 8 << 20]));
    let mut reader = wal.reader();
    assert_eq!(reader.push(Lsn::new(SEGMENT), &wal.bytes, &mut |_| ()), Ok(()));
    assert_eq!(reader.last_complete_record().map(|r| r.len), Some((8 << 20) + 5 + 24));
    assert!(reader.record.kept_bytes() <= 2 * crate::record::PREFIX_BYTES_MAX);
}
