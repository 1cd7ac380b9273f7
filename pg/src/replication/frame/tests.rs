//! Tests of the framing: golden bytes, limits, and any split of the input.

use super::*;
use proptest::prelude::*;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn decode_all(pieces: &[&[u8]]) -> Result<Vec<Message>, FrameError> {
    let mut decoder = Decoder::default();
    let mut messages = Vec::new();
    for piece in pieces {
        decoder.buffer().extend_from_slice(piece);
        while let Some(message) = decoder.decode()? {
            messages.push(message);
        }
        assert!(decoder.missing() > 0);
    }
    Ok(messages)
}

fn one(bytes: &[u8]) -> Result<Message, FrameError> {
    decode_all(&[bytes]).map(|mut messages| {
        assert_eq!(messages.len(), 1);
        messages.remove(0)
    })
}

fn wal(start: u64, data: &[u8]) -> Vec<u8> {
    let mut body = vec![b'w'];
    body.extend_from_slice(&start.to_be_bytes());
    body.extend_from_slice(&(start + 1000).to_be_bytes());
    body.extend_from_slice(&77_i64.to_be_bytes());
    body.extend_from_slice(data);
    message(b'd', &body)
}

#[test]
fn a_status_is_these_bytes() {
    let status = StandbyStatus {
        write: Lsn::new(0x0102_0304_0506_0708),
        flush: Lsn::new(0x1112_1314_1516_1718),
        apply: Lsn::ZERO,
        reply_requested: true,
    };
    let mut out = BytesMut::new();
    status.encode(-2, &mut out);
    let expected = [
        b'd', 0, 0, 0, 38, b'r', // CopyData of 34 bytes, then the message
        1, 2, 3, 4, 5, 6, 7, 8, // write
        0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, // flush
        0, 0, 0, 0, 0, 0, 0, 0, // apply
        0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE, // clock
        1,    // reply requested
    ];
    assert_eq!(out.as_ref(), expected);
}

#[test]
fn wal_and_keepalives_are_read() {
    let Ok(Message::CopyData(payload)) = one(&wal(0x100, b"abc")) else {
        panic!()
    };
    let expected = WalMessage::XLogData {
        start: Lsn::new(0x100),
        server_end: Lsn::new(0x100 + 1000),
        clock_us: 77,
        data: Bytes::from_static(b"abc"),
    };
    assert_eq!(WalMessage::parse(payload), Ok(Some(expected)));
    let mut keepalive = vec![b'k'];
    keepalive.extend_from_slice(&9_u64.to_be_bytes());
    keepalive.extend_from_slice(&8_i64.to_be_bytes());
    keepalive.push(1);
    let expected = WalMessage::Keepalive {
        server_end: Lsn::new(9),
        clock_us: 8,
        reply_requested: true,
    };
    assert_eq!(WalMessage::parse(keepalive.clone().into()), Ok(Some(expected)));
    keepalive.pop();
    assert_eq!(
        WalMessage::parse(keepalive.into()),
        Err(FrameError::Malformed { tag: b'k' })
    );
    assert_eq!(WalMessage::parse(Bytes::from_static(b"?x")), Ok(None));
    assert_eq!(
        WalMessage::parse(Bytes::new()),
        Err(FrameError::Malformed { tag: b'd' })
    );
}

#[test]
fn a_server_error_gives_its_fields() {
    let body = b"SFEHLER\0VERROR\0C58P01\0Mgone\0Dwhere\0Hlook\0Fx.c\0\0";
    let expected = ServerMessage {
        sqlstate: "58P01".to_owned(),
        severity: "ERROR".to_owned(),
        message: "gone".to_owned(),
        detail: Some("where".to_owned()),
        hint: Some("look".to_owned()),
    };
    assert_eq!(one(&message(b'E', body)), Ok(Message::Error(expected)));
}

#[test]
fn rows_and_authentication_requests_are_read() {
    let row = one(&message(b'D', b"\0\x02\0\0\0\x01x\xFF\xFF\xFF\xFF"));
    assert_eq!(row, Ok(Message::DataRow(vec![Some(Bytes::from_static(b"x")), None])));
    let sasl = one(&message(b'R', b"\0\0\0\x0ASCRAM-SHA-256\0\0"));
    let names = vec!["SCRAM-SHA-256".to_owned()];
    assert_eq!(sasl, Ok(Message::Authentication(Authentication::Sasl(names))));
    let md5 = one(&message(b'R', b"\0\0\0\x05abcd"));
    assert_eq!(md5, Ok(Message::Authentication(Authentication::Md5(*b"abcd"))));
    assert_eq!(one(&message(b'W', b"\0\0\0")), Ok(Message::CopyBoth));
    assert_eq!(one(&message(b'?', b"any")), Ok(Message::Other(b'?')));
}

#[test]
fn impossible_lengths_are_refused_before_memory_is_taken() {
    for length in [0_u32, 3, u32::MAX, 32 * 1024 * 1024] {
        let mut bytes = vec![b'd'];
        bytes.extend_from_slice(&length.to_be_bytes());
        assert_eq!(one(&bytes), Err(FrameError::Length { tag: b'd', length }));
    }
}

#[test]
fn cut_off_fields_are_malformed() {
    for (tag, body) in [
        (b'D', &b"\0\x01\0\0\0\x09x"[..]),
        (b'D', b"\xFF\xFF"),
        (b'D', b""),
        (b'R', b"\0"),
        (b'R', b"\0\0\0\x05ab"),
        (b'R', b"\0\0\0\x0ASCRAM"),
        (b'E', b"Mno end"),
        (b'C', b"COPY"),
        (b'S', b"name\0value"),
    ] {
        assert_eq!(one(&message(tag, body)), Err(FrameError::Malformed { tag }));
    }
}

fn some_messages() -> impl Strategy<Value = Vec<u8>> {
    let data = proptest::collection::vec(any::<u8>(), 0..300);
    let single = prop_oneof![
        (any::<u32>(), data.clone()).prop_map(|(start, data)| wal(start.into(), &data)),
        Just(message(b'c', b"")),
        Just(message(b'C', b"COPY 0\0")),
        Just(message(b'E', b"SERROR\0CXX000\0Mm\0\0")),
        data.prop_map(|data| message(b'Y', &data)),
    ];
    proptest::collection::vec(single, 0..12).prop_map(|messages| messages.concat())
}

proptest! {
    #[test]
    fn any_split_of_the_input_gives_the_same_messages(
        stream in some_messages(),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20),
    ) {
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        ends.push(stream.len());
        ends.sort_unstable();
        let mut pieces = Vec::new();
        let mut begin = 0;
        for end in ends {
            pieces.push(&stream[begin..end]);
            begin = end;
        }
        prop_assert_eq!(decode_all(&pieces), decode_all(&[&stream]));
    }

    #[test]
    fn any_bytes_give_messages_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(messages) = decode_all(&[&bytes]) {
            for message in messages {
                if let Message::CopyData(payload) = message {
                    let _ = WalMessage::parse(payload);
                }
            }
        }
    }
}
