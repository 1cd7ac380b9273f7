//! Damaged, foreign and random bytes: an error, never a panic, never another record.

use super::*;

fn small() -> Wal {
    let mut wal = Wal::new(SEGMENT);
    wal.filler(13);
    wal.commit(11, 1_000);
    wal.fill_page_to(16);
    wal.filler(PAGE);
    wal.filler(5);
    wal
}

/// Offsets of the bytes that no checksum covers: alignment between records and in page headers.
fn padding(wal: &Wal) -> Vec<usize> {
    let mut padding: Vec<usize> = (0..wal.bytes.len())
        .step_by(PAGE)
        .flat_map(|page| page + 20..page + 24)
        .collect();
    for record in records(&wal.items()) {
        let end = (record.end.as_u64() - wal.start) as usize;
        let pages = record.end.as_u64() / PAGE_BYTES - record.start.as_u64() / PAGE_BYTES;
        let used = (record.end.as_u64() - record.start.as_u64() - pages * 24) as usize;
        padding.extend(end - (used - record.len as usize)..end);
    }
    padding
}

#[test]
fn any_flipped_bit_outside_of_padding_is_an_error() {
    let mut wal = small();
    let sound = wal.items();
    let padding = padding(&wal);
    let last = wal.prev - wal.start;
    for at in 0..wal.bytes.len() {
        for bit in 0..8 {
            wal.bytes[at] ^= 1 << bit;
            let (items, result) = wal.read();
            // BKP_REMOVABLE says nothing about the content.
            if padding.contains(&at) || (at % PAGE == 2 && bit == 2) {
                assert_eq!((&items, result), (&sound, Ok(())), "byte {at} bit {bit}");
            } else {
                // A longer last record is one whose rest is not there yet.
                assert!(result.is_err() || at as u64 >= last, "byte {at} bit {bit}");
                assert!(items.len() < sound.len(), "byte {at} bit {bit}");
                assert_eq!(items, sound[..items.len()], "byte {at} bit {bit}");
            }
            wal.bytes[at] ^= 1 << bit;
        }
    }
}

#[test]
fn an_error_is_final_and_names_the_place() {
    let mut wal = small();
    wal.bytes[40 + 24 + 3] ^= 1;
    let mut reader = wal.reader();
    let lsn = Lsn::new(SEGMENT);
    let first = reader.push(lsn, &wal.bytes, &mut |_| ());
    assert!(
        matches!(&first, Err(WalError::RecordCrc { lsn, .. }) if lsn.as_u64() == SEGMENT + 40),
        "{first:?}"
    );
    assert_eq!(reader.push(reader.position(), &[0], &mut |_| ()), first);
}

#[test]
fn bytes_that_do_not_follow_are_refused_and_change_nothing() {
    let wal = small();
    let mut reader = wal.reader();
    let mut pushed = |at: usize, to: usize| reader.push(Lsn::new(SEGMENT + at as u64), &wal.bytes[at..to], &mut |_| ());
    assert_eq!(pushed(0, 100), Ok(()));
    for wrong in [0, 99, 101] {
        assert!(matches!(pushed(wrong, 200), Err(WalError::NotContiguous { .. })));
    }
    assert_eq!(pushed(100, wal.bytes.len()), Ok(()));
    assert_eq!(records(&wal.items()).last().copied(), reader.last_complete_record());
}

#[test]
fn a_record_that_does_not_point_back_is_refused() {
    let mut wal = small();
    wal.prev -= 8;
    wal.filler(5);
    assert!(matches!(
        wal.read().1,
        Err(WalError::RecordPrev { expected: Some(_), .. })
    ));
    let mut forward = Wal::new(SEGMENT);
    forward.prev = SEGMENT + 40;
    forward.filler(5);
    assert!(matches!(
        forward.read().1,
        Err(WalError::RecordPrev { expected: None, .. })
    ));
}

#[test]
fn zeros_where_a_record_should_be_have_no_length() {
    let mut wal = small();
    let end = wal.align();
    wal.bytes.extend([0; 100]);
    assert_eq!(
        wal.read().1,
        Err(WalError::RecordLength {
            lsn: Lsn::new(end),
            len: 0
        })
    );
}

#[test]
fn what_stands_behind_a_switch_is_zero() {
    let mut wal = small();
    wal.switch();
    let end = wal.bytes.len();
    for at in [end - 1, end - PAGE, 3 * PAGE] {
        let mut damaged = wal.clone();
        damaged.bytes[at] = 1;
        assert_eq!(
            damaged.read().1,
            Err(WalError::SwitchPadding {
                lsn: Lsn::new(SEGMENT + at as u64)
            })
        );
        assert_eq!(damaged.read_split(|_| 7).1, damaged.read().1);
    }
}

#[test]
fn a_transaction_record_without_a_time_is_malformed() {
    for (info, body) in [
        (0x00, vec![]),
        (0x20, main(&[1; 7])),
        (0x10, main(&[1; 23])),
        (0x30, main(&[1; 8])),
    ] {
        let mut wal = Wal::new(SEGMENT);
        wal.record(1, info, 5, &body);
        assert!(matches!(wal.read().1, Err(WalError::Malformed { .. })), "{info:02X}");
    }
    // Counts that lead out of the record.
    let mut wal = Wal::new(SEGMENT);
    let mut data = vec![1; 8];
    data.extend((1u32 << 1 | 1 << 4).to_le_bytes());
    data.extend(u32::MAX.to_le_bytes());
    data.extend(vec![0; 9_000]);
    wal.record(1, 0x80 | 0x30, 5, &main(&data));
    assert!(matches!(wal.read().1, Err(WalError::Malformed { .. })));
}

#[test]
fn garbage_never_panics() {
    let sound = everything();
    let mut random = Random(20);
    for round in 0..300 {
        let mut wal = sound.clone();
        match round % 3 {
            // Bytes changed, in headers more often than elsewhere.
            0 => (0..1 + random.below(4)).for_each(|_| {
                let at = random.below(wal.bytes.len());
                let at = if random.below(2) == 0 {
                    at
                } else {
                    at / PAGE * PAGE + random.below(64)
                };
                wal.bytes[at] = random.below(256) as u8;
            }),
            // A piece moved elsewhere.
            1 => {
                let (from, to) = (random.below(wal.bytes.len()), random.below(wal.bytes.len()));
                let len = random.below(20_000).min(wal.bytes.len() - from.max(to));
                wal.bytes.copy_within(from..from + len, to);
            }
            // A right page header and right lengths in front of nonsense.
            _ => {
                wal = Wal::new(SEGMENT);
                let body: Vec<u8> = (0..random.below(30)).map(|_| random.below(256) as u8).collect();
                wal.record([0, 1][random.below(2)], random.below(256) as u8, 5, &body);
            }
        }
        let whole = wal.read();
        assert_eq!(wal.read_split(|_| 1 + random.below(9_000)), whole, "round {round}");
    }
}

#[test]
fn the_last_lsn_is_never_passed() {
    let mut wal = small();
    wal.start = u64::MAX - PAGE_BYTES + 1;
    assert!(matches!(wal.read().1, Err(WalError::EndOfLsns { .. })));
    let config = WalReaderConfig {
        start: Lsn::new(8),
        ..wal.reader().config
    };
    assert!(matches!(WalReader::new(config), Err(WalError::StartNotOnPage { .. })));
}
