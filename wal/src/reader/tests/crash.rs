//! Records lost in a crash and overwritten by the server after it.

use super::*;

#[test]
fn a_lost_record_is_dropped_where_the_server_overwrites_it() {
    // Cut off within the header, and later.
    for (left, pages) in [(8, 1), (16, 1), (400, 1), (400, 3)] {
        let mut wal = Wal::new(SEGMENT);
        wal.fill_page_to(left);
        let lost = wal.lost(pages);
        let said = wal.overwrite(lost);
        let next = wal.filler(10);
        for piece in [1, 5_000, usize::MAX] {
            let (items, result) = wal.read_split(|_| piece);
            assert_eq!((starts(&items), result), (vec![SEGMENT + 40, said, next], Ok(())));
            let overwritten = WalItem::Overwritten {
                lost: Lsn::new(lost),
                start: Lsn::new(said),
                time: PgTimestamp(4711),
            };
            assert!(items.contains(&overwritten));
        }
        // A reader that starts on the page, or in the middle of the lost record.
        for from in (1..=pages).rev() {
            let mut tail = wal.clone();
            tail.start += from * PAGE_BYTES;
            tail.bytes.drain(..from as usize * PAGE);
            assert_eq!(starts(&tail.items()), [said, next]);
        }
    }
}

#[test]
fn an_overwrite_that_contradicts_itself_is_an_error() {
    let lost_at_page_end = |wal: &mut Wal| {
        wal.fill_page_to(400);
        wal.lost(1)
    };
    let refused = |wal: &Wal| {
        assert!(
            matches!(wal.read().1, Err(WalError::Overwrite { .. })),
            "{:?}",
            wal.read().1
        )
    };
    // It names another record.
    let mut wal = Wal::new(SEGMENT);
    let lost = lost_at_page_end(&mut wal);
    wal.overwrite(lost - 8);
    refused(&wal);
    // Another record stands on the flagged page.
    let mut wal = Wal::new(SEGMENT);
    lost_at_page_end(&mut wal);
    wal.page_header(crate::page::FIRST_IS_OVERWRITE_CONTRECORD, 0);
    wal.filler(10);
    refused(&wal);
    // Nothing was lost.
    let mut wal = Wal::new(SEGMENT);
    wal.fill_page_to(0);
    wal.overwrite(SEGMENT + 40);
    refused(&wal);
    // The page has no flag.
    let mut wal = Wal::new(SEGMENT);
    wal.record(0, 0xD0, 0, &main(&[0; 16]));
    refused(&wal);
    // The record is just gone.
    let mut wal = Wal::new(SEGMENT);
    lost_at_page_end(&mut wal);
    wal.page_header(0, 0);
    wal.filler(10);
    assert!(matches!(wal.read().1, Err(WalError::Continuation { found: 0, .. })));
}
