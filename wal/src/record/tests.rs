//! The way to the main data, over every form of block header.

use super::*;

const RELATION: [u8; 12] = [1; 12];

/// One block header; `image` is its flags and whether a hole's length follows.
fn block(id: u8, flags: u8, data_bytes: u16, image: Option<(u8, bool)>) -> Vec<u8> {
    let mut bytes = vec![id, flags | if image.is_some() { BLOCK_HAS_IMAGE } else { 0 }];
    bytes.extend(data_bytes.to_le_bytes());
    if let Some((image_flags, has_hole_length)) = image {
        bytes.extend([100, 0, 0, 0, image_flags]);
        bytes.extend(vec![0; if has_hole_length { 2 } else { 0 }]);
    }
    bytes.extend(if flags & BLOCK_SAME_REL == 0 {
        &RELATION[..]
    } else {
        &[]
    });
    bytes.extend([0; 4]);
    bytes
}

fn walk(headers: &[Vec<u8>], data_bytes: usize, magic: u16) -> Result<MainData, MalformedRecord> {
    let body = [headers.concat(), vec![0xAB; data_bytes]].concat();
    let found = main_data(&body, body.len() as u32, magic);
    // The headers are enough, however much data follows.
    assert_eq!(main_data(&headers.concat(), body.len() as u32, magic), found);
    found
}

#[test]
fn main_data_stands_behind_blocks_and_images_of_either_version() {
    // Hole and compression in the bits of each version; in the other one's they mean no hole length.
    for (magic, image) in [
        (0xD106, (0x03, true)),
        (0xD10D, (0x05, false)),
        (0xD110, (0x05, true)),
        (0xD110, (0x09, true)),
        (0xD116, (0x11, true)),
        (0xD110, (0x03, false)),
        (0xD110, (0x04, false)),
    ] {
        let headers = [
            block(0, 0, 7, Some(image)),
            block(1, BLOCK_SAME_REL, 5, None),
            vec![255, 20],
        ];
        let header_bytes = headers.concat().len() as u32;
        let expected = MainData {
            offset: header_bytes + 112,
            len: 20,
        };
        assert_eq!(walk(&headers, 132, magic), Ok(expected), "{magic:04X} {image:?}");
    }
}

#[test]
fn a_record_may_have_no_main_data_or_a_long_one() {
    assert_eq!(walk(&[], 0, 0xD110), Ok(MainData { offset: 0, len: 0 }));
    assert_eq!(
        walk(&[block(3, 0, 9, None)], 9, 0xD110),
        Ok(MainData { offset: 29, len: 0 })
    );
    let long = vec![254, 0, 1, 0, 0];
    assert_eq!(walk(&[long], 256, 0xD110), Ok(MainData { offset: 5, len: 256 }));
}

#[test]
fn contradicting_headers_are_malformed() {
    let cases: [(&[Vec<u8>], usize); 6] = [
        (&[vec![255, 20]], 19),
        (&[vec![255, 20]], 21),
        (&[vec![99, 0]], 0),
        (&[block(1, 0, 0, None), block(1, 0, 0, None)], 0),
        (&[block(0, BLOCK_SAME_REL, 0, None)], 0),
        (&[vec![254, 255, 255, 255, 255]], 10),
    ];
    for (headers, data_bytes) in cases {
        assert!(walk(headers, data_bytes, 0xD110).is_err(), "{headers:?}");
    }
    let whole = [block(0, 0, 7, Some((5, true))), vec![255, 0]].concat();
    for len in 1..whole.len() {
        assert!(main_data(&whole[..len], 500, 0xD110).is_err(), "{len}");
    }
}

#[test]
fn kinds_are_told_by_the_upper_bits_alone() {
    assert_eq!(RecordKind::of(0, 0x40), RecordKind::Switch);
    assert_eq!(RecordKind::of(0, 0x43), RecordKind::Switch);
    assert_eq!(RecordKind::of(2, 0x40), RecordKind::Other);
    assert_eq!(RecordKind::of(0, 0x70), RecordKind::RestorePoint);
    assert_eq!(RecordKind::of(0, 0xD0), RecordKind::OverwriteContrecord);
    assert_eq!(RecordKind::of(1, 0x80), RecordKind::Xact(XactKind::Commit));
    assert_eq!(RecordKind::of(1, 0x50), RecordKind::Other);
}
