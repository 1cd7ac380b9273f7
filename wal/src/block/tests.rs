//! Bodies by hand, and what lies about its lengths.

use super::*;
use crate::reader::tests::build::Random;

const MAGIC: u16 = 0xD110;

fn locator(relfilenode: u32) -> RelationLocator {
    RelationLocator {
        tablespace: 1663,
        database: 5,
        relfilenode,
    }
}

fn bytes_of(relation: RelationLocator) -> Vec<u8> {
    [relation.tablespace, relation.database, relation.relfilenode]
        .iter()
        .flat_map(|part| part.to_le_bytes())
        .collect()
}

/// A header without an image.
fn header(id: u8, flags: u8, relation: Option<RelationLocator>, block: u32, data: &[u8]) -> Vec<u8> {
    let flags = flags | if data.is_empty() { 0 } else { HAS_DATA };
    let mut out = vec![id, flags];
    out.extend((data.len() as u16).to_le_bytes());
    out.extend(relation.map(bytes_of).unwrap_or_default());
    out.extend(block.to_le_bytes());
    out
}

/// A header with an image of these bytes.
fn with_image(image_bytes: u16, hole_offset: u16, info: u8, hole_bytes: Option<u16>) -> Vec<u8> {
    let mut out = vec![0, HAS_IMAGE, 0, 0];
    out.extend(image_bytes.to_le_bytes());
    out.extend(hole_offset.to_le_bytes());
    out.push(info);
    out.extend(hole_bytes.map(u16::to_le_bytes).into_iter().flatten());
    out.extend(bytes_of(locator(1259)));
    out.extend(7u32.to_le_bytes());
    out
}

#[test]
fn pages_data_and_main_data_are_told_apart() {
    let body = [
        &[BLOCK_ID_ORIGIN, 1, 0][..],
        &header(0, WILL_INIT, Some(locator(1259)), 3, b"new"),
        &header(1, SAME_REL | 1, None, 4, b""),
        &[BLOCK_ID_TOPLEVEL_XID, 9, 0, 0, 0, BLOCK_ID_DATA_SHORT, 4],
        b"new",
        b"main",
    ]
    .concat();
    let decoded = RecordBody::decode(&body, MAGIC).unwrap();
    assert_eq!(decoded.main, b"main");
    let first = decoded.block(0).unwrap();
    assert_eq!((first.relation, first.block, first.fork), (locator(1259), 3, 0));
    assert!(first.will_init && first.image.is_none());
    assert_eq!(first.data, b"new");
    let second = decoded.block(1).unwrap();
    assert_eq!((second.relation, second.block, second.fork), (locator(1259), 4, 1));
    assert_eq!(decoded.block(2), None);
    assert_eq!(first_relation(&body, MAGIC), Some(locator(1259)));
    assert_eq!(RecordBody::decode(&[], MAGIC).unwrap().main, b"");
    assert_eq!(first_relation(&[BLOCK_ID_DATA_SHORT, 0], MAGIC), None);
}

#[test]
fn an_image_gets_its_hole_back_in_either_version() {
    let stored = [vec![1u8; 100], vec![2u8; 200]].concat();
    let compressed = [0b10, b'x', 0x0F, 1, 1]; // 'x' and 19 more
    for (magic, info, bytes, hole) in [
        (0xD10D, 0x05, &stored[..], None),
        (MAGIC, 0x03, &stored[..], None),
        (0xD10D, 0x07, &compressed[..], Some(8192 - 20)),
        (MAGIC, 0x07, &compressed[..], Some(8192 - 20)),
    ] {
        let offset = if hole.is_some() { 10 } else { 100 };
        let body = [&with_image(bytes.len() as u16, offset, info, hole)[..], bytes].concat();
        let decoded = RecordBody::decode(&body, magic).unwrap();
        let image = decoded.blocks[0].image.unwrap();
        assert!(image.apply, "{magic:04X} {info:02X}");
        let page = image.page().unwrap();
        assert_eq!(page.len(), 8192);
        match hole {
            None => {
                assert_eq!(page[99..101], [1, 0]);
                assert_eq!(page[8192 - 201..8192 - 199], [0, 2]);
            }
            Some(_) => {
                assert_eq!(page[9..11], [b'x', 0]);
                assert_eq!(page[8181..8183], [0, b'x']);
            }
        }
    }
}

#[test]
fn images_that_make_no_page_are_malformed() {
    for (image_bytes, hole_offset, info, hole) in [
        (8192, 0, 0x03, None),        // a hole of nothing
        (300, 0, 0x02, None),         // a hole that is denied
        (300, 8000, 0x03, None),      // a hole over the end
        (9000, 0, 0x02, None),        // more than a page
        (8192, 0, 0x06, None),        // compressed to a whole page
        (20, 8000, 0x07, Some(4000)), // a hole over the end
        (20, 0, 0x0E, None),          // two compressions
    ] {
        let body = [
            with_image(image_bytes, hole_offset, info, hole),
            vec![0; usize::from(image_bytes)],
        ]
        .concat();
        assert!(
            RecordBody::decode(&body, MAGIC).is_err(),
            "{image_bytes} {hole_offset} {info:02X}"
        );
    }
    // One that decompresses to something else.
    let body = [&with_image(3, 10, 0x07, Some(100))[..], &[0, 1, 2]].concat();
    let decoded = RecordBody::decode(&body, MAGIC).unwrap();
    assert_eq!(decoded.blocks[0].image.unwrap().page(), Err(ImageError));
}

#[test]
fn lengths_that_lie_are_malformed() {
    let relation = Some(locator(1));
    for body in [
        vec![BLOCK_ID_DATA_SHORT, 20],
        vec![BLOCK_ID_DATA_SHORT, 1, 0, 0],
        vec![BLOCK_ID_DATA_LONG, 255, 255, 255, 255, 0],
        vec![99, 0, 0],
        header(0, 0, relation, 0, b"data"),
        [header(0, 0, relation, 0, b"data"), vec![0; 3]].concat(),
        header(0, HAS_DATA, relation, 0, b""),
        header(0, SAME_REL, None, 0, b""),
        [header(1, 0, relation, 0, b""), header(1, 0, relation, 0, b"")].concat(),
    ] {
        assert!(RecordBody::decode(&body, MAGIC).is_err(), "{body:?}");
    }
}

#[test]
fn no_cut_and_no_flipped_byte_does_harm() {
    let body = [
        &with_image(300, 100, 0x03, None)[..],
        &header(1, 0, Some(locator(2)), 1, b"data"),
        &[BLOCK_ID_DATA_SHORT, 4],
        &[7; 300],
        b"data",
        b"main",
    ]
    .concat();
    RecordBody::decode(&body, MAGIC).unwrap();
    let mut random = Random(4711);
    for len in 0..body.len() {
        let _ = RecordBody::decode(&body[..len], MAGIC);
        let _ = first_relation(&body[..len], MAGIC);
    }
    for _ in 0..20_000 {
        let mut bad = body.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(60);
            bad[at] = random.below(256) as u8;
        }
        if let Ok(decoded) = RecordBody::decode(&bad, MAGIC) {
            for block in decoded.blocks {
                let _ = block.image.map(|image| image.page());
            }
        }
    }
}
