//! From an HTTP request to what it asks for. Path style only; what the client never sends is answered with 501.

use hyper::header::{AUTHORIZATION, HeaderMap, IF_NONE_MATCH, RANGE};
use hyper::http::request::Parts;
use hyper::{Method as Verb, StatusCode};

use super::answer::Refusal;
use super::fault::Method;
use super::text::percent_decoded;

/// A request without its body.
#[derive(Debug)]
pub(super) struct Asked {
    pub method: Method,
    pub bucket: String,
    /// The key; of a listing, the prefix.
    pub key: String,
    pub only_new: bool,
    pub range: Option<Range>,
    pub list: List,
}

/// `Range` of a GET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    From(u64),
    Between(u64, u64),
    Last(u64),
}

/// The rest of a listing's question.
#[derive(Debug, Default)]
pub(super) struct List {
    pub start_after: String,
    pub token: Option<String>,
    pub max: usize,
}

/// A listing has at most so many keys a page.
const KEYS_MAX: usize = 1000;

impl Asked {
    pub(super) fn read(parts: &Parts, access_key_id: &str) -> Result<Self, Refusal> {
        check_authorization(&parts.headers, access_key_id)?;
        let invalid = || Refusal::new(StatusCode::BAD_REQUEST, "InvalidURI", "cannot be decoded");
        let path = percent_decoded(parts.uri.path()).ok_or_else(invalid)?;
        let path = path.strip_prefix('/').ok_or_else(invalid)?;
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let query = query(parts.uri.query().unwrap_or_default()).ok_or_else(invalid)?;
        let value = |name: &str| {
            query
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.clone())
        };
        let method = match (&parts.method, key.is_empty()) {
            (&Verb::GET, true) if value("list-type").as_deref() == Some("2") => Method::List,
            (&Verb::GET, false) => Method::Get,
            (&Verb::HEAD, false) => Method::Head,
            (&Verb::PUT, false) => Method::Put,
            (&Verb::DELETE, false) => Method::Delete,
            _ => return Err(not_implemented("this request")),
        };
        let is_known = |name: &str| {
            let of_listing = ["list-type", "prefix", "start-after", "continuation-token", "max-keys"];
            name == "x-id" || (method == Method::List && of_listing.contains(&name))
        };
        if let Some((name, _)) = query.iter().find(|(name, _)| !is_known(name)) {
            return Err(not_implemented(name));
        }
        let max = value("max-keys")
            .map_or(Some(KEYS_MAX), |max| max.parse().ok())
            .ok_or_else(invalid)?;
        Ok(Self {
            method,
            bucket: bucket.to_owned(),
            key: if method == Method::List {
                value("prefix").unwrap_or_default()
            } else {
                key.to_owned()
            },
            only_new: header(&parts.headers, IF_NONE_MATCH.as_str()) == Some("*"),
            range: header(&parts.headers, RANGE.as_str())
                .map(|text| range(text).ok_or_else(invalid))
                .transpose()?,
            list: List {
                start_after: value("start-after").unwrap_or_default(),
                token: value("continuation-token"),
                max: max.min(KEYS_MAX),
            },
        })
    }
}

impl Range {
    /// First byte and length of what is meant, in an object of `size` bytes; `None` if there is no such byte.
    pub(super) fn resolve(self, size: u64) -> Option<(u64, u64)> {
        let (first, end) = match self {
            Range::From(first) => (first, size),
            Range::Between(first, last) => (first, size.min(last.saturating_add(1))),
            Range::Last(len) => (size.saturating_sub(len), size),
        };
        (first < end).then(|| (first, end - first))
    }
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The signature is not checked, but somebody must have signed, with our key.
fn check_authorization(headers: &HeaderMap, access_key_id: &str) -> Result<(), Refusal> {
    let forbidden = |code, message| Refusal::new(StatusCode::FORBIDDEN, code, message);
    let Some(authorization) = header(headers, AUTHORIZATION.as_str()) else {
        return Err(forbidden("AccessDenied", "the request is not signed"));
    };
    if authorization.contains(&format!("Credential={access_key_id}/")) {
        Ok(())
    } else {
        Err(forbidden("InvalidAccessKeyId", "nobody has this access key id"))
    }
}

fn not_implemented(what: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", what)
}

fn query(text: &str) -> Option<Vec<(String, String)>> {
    let parts = text.split('&').filter(|part| !part.is_empty());
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        Some((percent_decoded(name)?, percent_decoded(value)?))
    };
    parts.map(pair).collect()
}

fn range(text: &str) -> Option<Range> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    match (first, last) {
        ("", last) => Some(Range::Last(last.parse().ok()?)),
        (first, "") => Some(Range::From(first.parse().ok()?)),
        (first, last) => {
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then_some(Range::Between(first, last))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_resolved() {
        assert_eq!(range("bytes=0-0"), Some(Range::Between(0, 0)));
        assert_eq!(range("bytes=5-"), Some(Range::From(5)));
        assert_eq!(range("bytes=-5"), Some(Range::Last(5)));
        for bad in ["bytes=5-4", "bytes=a-b", "5-6", "bytes=-"] {
            assert_eq!(range(bad), None, "{bad}");
        }
        assert_eq!(Range::Between(2, 5).resolve(10), Some((2, 4)));
        assert_eq!(Range::Between(2, 500).resolve(10), Some((2, 8)));
        assert_eq!(Range::Between(10, 10).resolve(10), None);
        assert_eq!(Range::Last(50).resolve(10), Some((0, 10)));
        assert_eq!(Range::Last(0).resolve(10), None);
        assert_eq!(Range::Last(5).resolve(0), None);
        assert_eq!(Range::From(9).resolve(10), Some((9, 1)));
    }
}
