//! Times and transactions out of single records.

use super::*;

fn header(info: u8, body: &[u8]) -> RecordHeader {
    RecordHeader {
        len: body.len() as u32 + 24,
        xid: 9,
        prev: Lsn::new(0),
        info,
        rmid: 1,
        crc: 0,
    }
}

fn event(info: u8, body: &[u8], magic: u16) -> Result<XactEvent, MalformedRecord> {
    let kind = XactKind::of(info).expect("a transaction record");
    XactScan::begin(kind, &header(info, body), body, magic)?.finish(Lsn::new(100), Lsn::new(200))
}

#[test]
fn the_epochs_are_thirty_years_apart() {
    assert_eq!(PgTimestamp(0).to_unix_micros(), 946_684_800_000_000);
    let now = PgTimestamp::from_unix_micros(1_700_000_000_123_456);
    assert_eq!(now, PgTimestamp(753_315_200_123_456));
    assert_eq!(now.to_unix_micros(), 1_700_000_000_123_456);
    assert_eq!(PgTimestamp(i64::MAX).to_unix_micros(), i64::MAX);
    assert_eq!(PgTimestamp::from_unix_micros(i64::MIN), PgTimestamp(i64::MIN));
}

#[test]
fn origin_and_toplevel_transaction_before_the_main_data_are_skipped() {
    let mut body = vec![253, 1, 0, 252, 7, 0, 0, 0, 255, 8];
    body.extend(55i64.to_le_bytes());
    let found = event(0x00, &body, 0xD110).expect("a commit");
    assert_eq!(
        (found.kind, found.xid, found.time),
        (XactKind::Commit, 9, PgTimestamp(55))
    );
    assert_eq!((found.lsn_start, found.lsn_end), (Lsn::new(100), Lsn::new(200)));
}

#[test]
fn a_preparation_has_its_time_behind_the_ids() {
    let mut body = vec![255, 24];
    body.extend([0; 16]);
    body.extend((-5i64).to_le_bytes());
    let found = event(0x10, &body, 0xD110).expect("a preparation");
    assert_eq!(
        (found.kind, found.xid, found.time),
        (XactKind::Prepare, 9, PgTimestamp(-5))
    );
    assert!(!found.kind.counts_for_target_time());
}

#[test]
fn dropped_statistics_have_longer_entries_since_18() {
    for (magic, item_bytes) in [(0xD110, 12), (0xD116, 12), (0xD118, 16)] {
        let mut data = 1i64.to_le_bytes().to_vec();
        data.extend((1u32 << 8 | 1 << 3 | 1 << 4).to_le_bytes());
        data.extend(2u32.to_le_bytes());
        data.extend(vec![0xEE; 2 * item_bytes]);
        data.extend(1u32.to_le_bytes());
        data.extend([0xEE; 16]);
        data.extend(4_321u32.to_le_bytes());
        let mut body = vec![255, data.len() as u8];
        body.extend(data);
        assert_eq!(
            event(0x80 | 0x40, &body, magic).map(|found| found.xid),
            Ok(4_321),
            "{magic:04X}"
        );
    }
}

#[test]
fn the_name_of_a_restore_point_ends_at_its_zero() {
    let mut main = 3i64.to_le_bytes().to_vec();
    main.extend(b"upgrade\0left over");
    main.resize(72, 1);
    let point = RestorePoint::parse(&main, Lsn::new(1), Lsn::new(2)).expect("a restore point");
    assert_eq!((point.name_lossy().as_ref(), point.time), ("upgrade", PgTimestamp(3)));
    assert!(RestorePoint::parse(&main[..71], Lsn::new(1), Lsn::new(2)).is_err());
}
