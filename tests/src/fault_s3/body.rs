//! The body of a PUT as it was meant: chunks taken apart, its checksum compared.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::HeaderMap;

use super::answer::Refusal;
use super::request::header;
use super::text::{base64, crc32};

const CRC32: &str = "x-amz-checksum-crc32";

/// A body and the checksum header that came with it or behind it.
#[derive(Debug)]
pub(super) struct Sent {
    pub bytes: Bytes,
    pub checksum: Option<(String, String)>,
}

/// Reads all of it. `None`: the client went away in the middle of it.
pub(super) async fn read(headers: &HeaderMap, body: Incoming) -> Option<Result<Sent, Refusal>> {
    let bytes = body.collect().await.ok()?.to_bytes();
    let is_chunked = header(headers, "x-amz-content-sha256").is_some_and(|hash| hash.starts_with("STREAMING-"));
    if is_chunked {
        let broken = || Refusal::new(StatusCode::BAD_REQUEST, "IncompleteBody", "the chunks make no sense");
        return Some(unchunked(&bytes).ok_or_else(broken));
    }
    let checksum = header(headers, CRC32).map(|value| (CRC32.to_owned(), value.to_owned()));
    Some(Ok(Sent { bytes, checksum }))
}

impl Sent {
    /// Does it match what the client says of it?
    pub(super) fn is_whole(&self) -> bool {
        let is_right = |(_, value): &(String, String)| *value == base64(crc32(&self.bytes).to_be_bytes());
        self.checksum.as_ref().is_none_or(is_right)
    }
}

/// `aws-chunked`: `<hex length>;chunk-signature=...`, the chunk, ..., a chunk of length 0, trailing headers.
fn unchunked(bytes: &[u8]) -> Option<Sent> {
    let mut body = BytesMut::new();
    let mut rest = bytes;
    loop {
        let (line, after) = split_line(rest)?;
        let length = usize::from_str_radix(line.split(';').next()?, 16).ok()?;
        rest = after;
        if length == 0 {
            break;
        }
        body.extend_from_slice(rest.get(..length)?);
        rest = rest.get(length..)?.strip_prefix(b"\r\n")?;
    }
    let mut checksum = None;
    while let Some((line, after)) = split_line(rest) {
        if let Some(value) = line.strip_prefix(CRC32).and_then(|line| line.strip_prefix(':')) {
            checksum = Some((CRC32.to_owned(), value.trim().to_owned()));
        }
        rest = after;
    }
    Some(Sent {
        bytes: body.freeze(),
        checksum,
    })
}

fn split_line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 2..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_is_taken_apart_and_its_trailing_checksum_counts() {
        let text = b"5;chunk-signature=ab\r\n12345\r\n4\r\n6789\r\n0\r\nx-amz-checksum-crc32:y/Q5Jg==\r\n\r\n";
        let sent = unchunked(text).unwrap();
        assert_eq!(sent.bytes, "123456789");
        assert!(sent.is_whole());
        let other = Sent {
            bytes: Bytes::from("123456788"),
            ..sent
        };
        assert!(!other.is_whole());
        assert!(unchunked(b"5\r\n123\r\n").is_none());
    }
}
