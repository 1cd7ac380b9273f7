//! Answers: bodies that may break off, errors as S3 writes them, listings.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue, LAST_MODIFIED};
use hyper::{Response, StatusCode};

use super::objects::{Object, Page};
use super::text::{hex, http_date, iso_date, xml_escaped};

/// An answer to a request.
pub(super) type Answer = Response<Reply>;

/// A body, all of it or only its beginning.
#[derive(Debug)]
pub(super) struct Reply {
    left: Option<Bytes>,
    breaks_off: bool,
}

impl Reply {
    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self {
            left: Some(bytes.into()),
            breaks_off: false,
        }
    }

    /// The connection ends after these bytes, whatever was announced.
    pub(super) fn broken(bytes: impl Into<Bytes>) -> Self {
        Self {
            left: Some(bytes.into()),
            breaks_off: true,
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match self.left.take() {
            Some(bytes) if !bytes.is_empty() => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            _ if self.breaks_off => Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into()))),
            _ => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        !self.breaks_off && self.left.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        if self.breaks_off {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.left.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// An error as S3 says it.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: &str) -> Self {
        Self {
            status,
            code,
            message: message.to_owned(),
        }
    }

    /// `with_body` is false for HEAD, which has none: then only the status says what happened.
    pub(super) fn answer(&self, with_body: bool) -> Answer {
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>{}</Message>\
             <RequestId>0</RequestId></Error>",
            self.code,
            xml_escaped(&self.message)
        );
        let mut answer = Response::new(Reply::whole(if with_body { text } else { String::new() }));
        *answer.status_mut() = self.status;
        set(&mut answer, CONTENT_TYPE.as_str(), "application/xml");
        answer
    }
}

/// Header values here are made of what was read from headers or made of digits: they always fit.
fn set(answer: &mut Answer, name: &str, value: &str) {
    let name = hyper::header::HeaderName::from_bytes(name.as_bytes()).expect("a header name");
    answer
        .headers_mut()
        .insert(name, HeaderValue::from_str(value).expect("a header value"));
}

pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Reply::whole(""));
    *answer.status_mut() = status;
    answer
}

pub(super) fn stored(object: &Object) -> Answer {
    let mut answer = empty(StatusCode::OK);
    set(&mut answer, ETAG.as_str(), &object.etag());
    answer
}

/// The answer to a HEAD: all that a GET would say, without the body.
pub(super) fn head(object: &Object) -> Answer {
    let mut answer = empty(StatusCode::OK);
    describe(&mut answer, object);
    set(&mut answer, CONTENT_LENGTH.as_str(), &object.bytes.len().to_string());
    answer
}

/// The answer to a GET. `part` is the range that was asked for; `body` may be less or other than what is stored, `announced` is
/// the length that the header gives.
pub(super) fn object(
    object: &Object,
    part: Option<(u64, u64)>,
    body: Reply,
    announced: u64,
    checksums: bool,
) -> Answer {
    let mut answer = Response::new(body);
    describe(&mut answer, object);
    set(&mut answer, CONTENT_LENGTH.as_str(), &announced.to_string());
    match part {
        Some((first, len)) => {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {first}-{}/{}", first + len - 1, object.bytes.len());
            set(&mut answer, CONTENT_RANGE.as_str(), &range);
        }
        None => {
            if let Some((name, value)) = object.checksum.as_ref().filter(|_| checksums) {
                set(&mut answer, name, value);
            }
        }
    }
    answer
}

fn describe(answer: &mut Answer, object: &Object) {
    set(answer, ETAG.as_str(), &object.etag());
    set(answer, LAST_MODIFIED.as_str(), &http_date(object.modified));
    set(answer, CONTENT_TYPE.as_str(), "application/octet-stream");
}

pub(super) fn listing(bucket: &str, prefix: &str, page: &Page) -> Answer {
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult><Name>{}</Name><Prefix>{}</Prefix>",
        xml_escaped(bucket),
        xml_escaped(prefix)
    );
    for (key, object) in &page.objects {
        text.push_str(&format!(
            "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>{}</ETag><Size>{}</Size></Contents>",
            xml_escaped(key),
            iso_date(object.modified),
            xml_escaped(&object.etag()),
            object.bytes.len()
        ));
    }
    let last = page.objects.last().filter(|_| page.is_truncated);
    if let Some((key, _)) = last {
        let token = hex(key.as_bytes());
        text.push_str(&format!("<NextContinuationToken>{token}</NextContinuationToken>"));
    }
    text.push_str(&format!(
        "<KeyCount>{}</KeyCount><IsTruncated>{}</IsTruncated></ListBucketResult>",
        page.objects.len(),
        last.is_some()
    ));
    let mut answer = Response::new(Reply::whole(text));
    set(&mut answer, CONTENT_TYPE.as_str(), "application/xml");
    answer
}
