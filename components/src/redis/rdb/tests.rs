//! Files that are made by hand, in pieces of any size.

use super::*;
use crate::redis::crc64;

/// Puts end and checksum behind.
fn sealed(mut file: Vec<u8>) -> Vec<u8> {
    file.push(255);
    let sum = crc64::update(0, &file);
    file.extend_from_slice(&sum.to_le_bytes());
    file
}

fn text(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

/// One key of every type that is known, between all opcodes.
fn everything(magic: &[u8], family: Family) -> (Vec<u8>, u64) {
    let mut file = magic.to_vec();
    file.extend([[250].to_vec(), text(b"redis-ver"), text(b"7.0.15")].concat());
    file.extend([[250].to_vec(), text(b"ctime"), vec![0xc2, 0x78, 0x56, 0x34, 0x12]].concat());
    file.extend([[250].to_vec(), text(b"used-mem"), vec![0xc0, 7]].concat());
    // Before the databases: a function, and a module's word.
    file.extend([[245].to_vec(), text(b"#!lua name=f")].concat());
    file.extend([
        247, 0x81, 0, 0, 0, 0, 0, 0, 0, 9, 2, 1, 1, 5, 2, 6, 3, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 5, 1, 65, 0,
    ]);
    file.extend([254, 0, 251, 3, 1, 244, 1, 2, 3]);
    let mut keys = 0;
    let values: &[(u8, &[u8])] = &[
        (0, b"\x03abc"),
        (0, &[0xc0, 5]),
        (0, &[0xc1, 5, 5]),
        (0, &[0xc2, 5, 5, 5, 5]),
        // Compressed: 3 bytes that become 70.
        (0, &[0xc3, 3, 0x40, 70, 1, 2, 3]),
        (1, b"\x02\x01a\x01b"),
        (2, b"\x01\x01a"),
        (3, b"\x04\x01a\x0312.\x01b\xff\x01c\xfe\x01d\xfd"),
        (4, b"\x01\x01f\x01v"),
        (5, b"\x01\x01a\0\0\0\0\0\0\0\0"),
        (7, &[0x81, 0, 0, 0, 0, 0, 0, 0, 9, 5, 1, 65, 1, 3, 0]),
        (9, b"\x01z"),
        (10, b"\x01z"),
        (11, b"\x01z"),
        (12, b"\x01z"),
        (13, b"\x01z"),
        (14, b"\x01\x01z"),
        (16, b"\x01z"),
        (17, b"\x01z"),
        (18, b"\x02\x01\x01z\x02\x01y"),
        (20, b"\x01z"),
    ];
    for (kind, value) in values {
        file.push(*kind);
        file.extend(text(&[b"key".as_slice(), &[*kind]].concat()));
        file.extend_from_slice(value);
        keys += 1;
    }
    for kind in [15, 19, 21] {
        file.push(kind);
        file.extend(text(b"stream"));
        file.extend([[1].to_vec(), text(b"0123456789abcdef"), text(b"listpack")].concat());
        file.extend([3, 1, 1]);
        if kind > 15 {
            file.extend([1, 1, 0, 0, 9]);
        }
        file.extend([[1].to_vec(), text(b"group"), vec![1, 1]].concat());
        if kind > 15 {
            file.push(1);
        }
        file.extend([[1].to_vec(), vec![7; 24], vec![1], vec![1]].concat());
        file.extend([text(b"consumer"), vec![7; if kind == 21 { 16 } else { 8 }]].concat());
        file.extend([[1].to_vec(), vec![7; 16]].concat());
        keys += 1;
    }
    let hashes: &[(u8, &[u8])] = match family {
        Family::Valkey => &[(22, b"\x01\x01f\x01v\0\0\0\0\0\0\0\0")],
        Family::Redis => &[
            (22, b"\x01\x05\x01f\x01v"),
            (23, b"\x01z"),
            (24, b"\0\0\0\0\0\0\0\0\x01\0\x01f\x01v"),
            (25, b"\0\0\0\0\0\0\0\0\x01z"),
        ],
    };
    for (kind, value) in hashes {
        file.extend([&[*kind], text(b"h").as_slice(), value].concat());
        keys += 1;
    }
    if family == Family::Valkey {
        file.extend(b"\xf3\x03job\x02\x01\x02\x40\x99\x03");
    }
    // Another database: expiry in both units, idle time, frequency.
    file.extend([254, 0x40, 200]);
    file.extend(
        [
            &[252, 1, 2, 3, 4, 5, 6, 7, 8, 248, 5, 0],
            text(b"a").as_slice(),
            b"\x01v",
        ]
        .concat(),
    );
    file.extend([&[253, 1, 2, 3, 4, 249, 5, 0], text(b"b").as_slice(), b"\x01v"].concat());
    file.extend([&[0], text(b"c").as_slice(), &[0x80, 0, 0, 0, 2], b"vv"].concat());
    (sealed(file), keys)
}

fn read(pieces: &[&[u8]]) -> Result<Summary, RdbError> {
    let mut rdb = Rdb::new();
    for piece in pieces {
        rdb.feed(piece)?;
    }
    rdb.finish()
}

#[test]
fn every_type_is_counted_wherever_the_bytes_are_cut() {
    for (magic, family) in [(b"REDIS0012".as_slice(), Family::Redis), (b"VALKEY080", Family::Valkey)] {
        let (file, keys) = everything(magic, family);
        let whole = read(&[&file]).unwrap();
        assert_eq!(whole.databases[&0], Keys { keys, expiring: 0 });
        assert_eq!(whole.databases[&200], Keys { keys: 3, expiring: 2 });
        assert_eq!((whole.functions, whole.unknown, whole.is_summed), (1, None, true));
        assert_eq!((whole.created_s, whole.bytes), (Some(0x1234_5678), file.len() as u64));
        for at in 0..=file.len() {
            let (before, behind) = file.split_at(at);
            assert_eq!(read(&[before, behind]), Ok(whole.clone()), "{at}");
        }
        let single: Vec<&[u8]> = file.chunks(1).collect();
        assert_eq!(read(&single), Ok(whole));
    }
}

#[test]
fn a_file_that_is_cut_short_or_goes_on_is_refused() {
    let (file, _) = everything(b"REDIS0012", Family::Redis);
    for at in 0..file.len() {
        assert_eq!(read(&[&file[..at]]), Err(RdbError::CutShort), "{at}");
    }
    assert_eq!(read(&[&file, b"\n"]), Err(RdbError::BehindEnd));
}

#[test]
fn no_changed_byte_goes_unseen() {
    let (file, _) = everything(b"REDIS0012", Family::Redis);
    for at in 0..file.len() {
        for change in [1, 0x80, 0xff] {
            let mut changed = file.clone();
            changed[at] ^= change;
            assert!(read(&[&changed]).is_err(), "{at}");
        }
    }
}

#[test]
fn a_file_without_a_checksum_is_told_from_one_with_it() {
    let (mut file, _) = everything(b"REDIS0012", Family::Redis);
    let end = file.len() - 8;
    file[end..].fill(0);
    assert!(!read(&[&file]).unwrap().is_summed);
}

#[test]
fn behind_an_unknown_type_only_the_checksum_counts() {
    let file = sealed(b"REDIS0099\xfe\x00\x00\x01a\x01v\x63 what nobody knows".to_vec());
    for at in 0..=file.len() {
        let (before, behind) = file.split_at(at);
        let summary = read(&[before, behind]).unwrap();
        assert_eq!(summary.unknown, Some(0x63));
        assert_eq!(summary.databases[&0].keys, 1);
    }
    for at in 14..file.len() {
        assert!(read(&[&file[..at]]).is_err());
    }
    let mut changed = file;
    changed[20] ^= 1;
    assert_eq!(read(&[&changed]), Err(RdbError::WrongChecksum));
}

#[test]
fn what_is_no_rdb_file_is_refused_at_once() {
    assert_eq!(Rdb::new().feed(b"-ERR something"), Err(RdbError::NotRdb));
    assert_eq!(Rdb::new().feed(b"REDIS0003"), Err(RdbError::TooOld(3)));
    assert_eq!(Rdb::new().feed(b"REDISabcd"), Err(RdbError::NotRdb));
}
