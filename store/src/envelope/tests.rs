use super::*;
use crate::id::{LineageId, RepositoryId};

fn header() -> Header {
    Header {
        repository: RepositoryId::from_parts(1, [1; 10]),
        cluster: "main".into(),
        lineage: Some(LineageId::from_parts(2, [2; 10])),
        timeline: Some(1),
        start: Some(0x100_0000),
        end: Some(0x200_0000),
        digest: Digest([6; 32]),
        previous: Digest([7; 32]),
        plain_bytes: 9,
        session: None,
        written_us: -5,
        period: 1,
        wal: Some(WalFacts {
            first_record: Some(1),
            restore_points: vec![RestorePoint {
                name: "p".into(),
                time_us: 1,
                record: 2,
            }],
            ..WalFacts::default()
        }),
    }
}

fn keys() -> (ClusterKeys, SigningKey) {
    let keys = ClusterKeys::derive(Secret32::new([1; 32]), RepositoryId::from_parts(1, [1; 10])).unwrap();
    (keys, SigningKey::from_seed(Secret32::new([2; 32])).unwrap())
}

fn object() -> Finished {
    let (keys, signing) = keys();
    let clear = Clear {
        kind: Kind::Wal,
        protection: Protection::Metadata,
        salt: [3; 16],
        epoch: 4,
        session_block: b"block",
    };
    let room_and_body = [vec![0; HEAD_ROOM_BYTES], b"the body".to_vec()].concat();
    finish("wal/x", &clear, &header(), room_and_body, &keys, &signing).unwrap()
}

#[test]
fn what_was_written_is_read() {
    let (keys, signing) = keys();
    let object = object();
    let head = Head::parse("wal/x", &object.bytes).unwrap();
    assert_eq!(head.open(&signing.verifying(), &keys).unwrap(), header());
    assert_eq!(head.session_block(), b"block");
    assert_eq!(head.body(&object.bytes).unwrap(), "the body");
    assert_eq!(head.hash(), object.head_hash);
}

#[test]
fn every_flipped_byte_and_every_truncation_is_noticed() {
    let (keys, signing) = keys();
    let object = object().bytes;
    let read = |bytes: Bytes, name: &str| {
        let head = Head::parse(name, &bytes)?;
        head.open(&signing.verifying(), &keys)?;
        head.body(&bytes)
    };
    assert!(read(object.clone(), "wal/x").is_ok());
    assert!(read(object.clone(), "wal/y").is_err(), "another name");
    for at in 0..object.len() {
        let mut bytes = object.to_vec();
        bytes[at] ^= 0x40;
        assert!(read(bytes.into(), "wal/x").is_err(), "byte {at}");
        assert!(read(object.slice(..at), "wal/x").is_err(), "cut at {at}");
    }
    let mut longer = object.to_vec();
    longer.push(0);
    assert!(read(longer.into(), "wal/x").is_err(), "one byte more");
}

#[test]
fn a_head_that_is_longer_than_its_room_stands_before_the_body_as_well() {
    let (keys, signing) = keys();
    for recipients in [0, 3000, HEAD_ROOM_BYTES, 9000] {
        let block = vec![5; recipients];
        let clear = Clear {
            kind: Kind::Wal,
            protection: Protection::Session,
            salt: [3; 16],
            epoch: 1,
            session_block: &block,
        };
        let room_and_body = [vec![0; HEAD_ROOM_BYTES], b"the body".to_vec()].concat();
        let object = finish("w", &clear, &header(), room_and_body, &keys, &signing)
            .unwrap()
            .bytes;
        let head = Head::parse("w", &object).unwrap();
        assert_eq!(
            (head.session_block(), &*head.body(&object).unwrap()),
            (&block[..], &b"the body"[..])
        );
        assert!(head.is_signed_by(&signing.verifying()));
    }
}

#[test]
fn packs_are_padded_to_lengths_that_say_little() {
    let (keys, signing) = keys();
    let mut lengths = std::collections::BTreeSet::new();
    let mut room = vec![0; HEAD_ROOM_BYTES];
    for bytes in (100_000..200_000).step_by(331) {
        let body = vec![7; bytes];
        let clear = Clear {
            kind: Kind::DataPack,
            protection: Protection::Metadata,
            salt: [3; 16],
            epoch: 0,
            session_block: b"",
        };
        room.truncate(HEAD_ROOM_BYTES);
        room.extend_from_slice(&body);
        let pack = finish("p", &clear, &header(), room.clone(), &keys, &signing)
            .unwrap()
            .bytes;
        let head = Head::parse("p", &pack).unwrap();
        assert_eq!(
            (head.object_bytes(), head.body(&pack).unwrap()),
            (pack.len() as u64, body.into())
        );
        assert!(pack.len() - bytes < 700 + bytes / 16, "{} for {bytes}", pack.len());
        assert!(head.padding_of(&pack).iter().all(|byte| *byte == 0));
        lengths.insert(pack.len());
    }
    // 303 different bodies.
    assert!(lengths.len() < 40, "{}", lengths.len());
    assert!(
        [1, 2, 3, 1 << 20, (20 << 20) - 7]
            .iter()
            .all(|bytes| padding_bytes(Kind::DataPack, *bytes) < 1 + bytes / 8)
    );
    assert_eq!(padding_bytes(Kind::DataPack, (20 << 20) - 9000), 9000);
    assert_eq!(padding_bytes(Kind::Wal, 12345), 0);
}
