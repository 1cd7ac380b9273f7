//! One request from its first byte to its answer, through whatever fault strikes it.
//!
//! A request is carried out by a task of its own: a client that gives up and goes away does not undo it, as with a real store.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Request, StatusCode};

use super::answer::{self, Answer, Refusal, Reply};
use super::body::{self, Sent};
use super::fault::{Fault, Method};
use super::log::{End, Record};
use super::objects::{Page, Stored};
use super::request::{Asked, header};
use super::text::unhex;
use super::{ACCESS_KEY_ID, Store};
use crate::wait;

/// The connection is to break without an answer.
#[derive(Debug)]
pub(super) struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection breaks on purpose")
    }
}

impl std::error::Error for Broken {}

/// What becomes of the connection.
enum Ending {
    Answered(Answer),
    Dropped,
    Silent,
}

pub(super) async fn serve(store: Arc<Store>, request: Request<Incoming>) -> Result<Answer, Broken> {
    let (parts, body) = request.into_parts();
    let asked = match Asked::read(&parts, ACCESS_KEY_ID) {
        Ok(asked) => asked,
        Err(refusal) => return Ok(refusal.answer(parts.method != hyper::Method::HEAD)),
    };
    let task = tokio::spawn(async move {
        let fault = store.faults.choose(asked.method, &asked.key);
        let record = store.log.begin(asked.method, &asked.key, fault);
        let ending = carry_out(&store, &asked, &parts, body, fault, &record).await;
        match &ending {
            Ending::Answered(answer) => record.end(End::Status(answer.status().as_u16())),
            Ending::Dropped => record.end(End::Dropped),
            Ending::Silent => {}
        }
        ending
    });
    match task.await {
        Ok(Ending::Answered(answer)) => Ok(answer),
        Ok(Ending::Silent) => std::future::pending().await,
        Ok(Ending::Dropped) | Err(_) => Err(Broken),
    }
}

async fn carry_out(
    store: &Store,
    asked: &Asked,
    parts: &Parts,
    body: Incoming,
    fault: Option<Fault>,
    record: &Record,
) -> Ending {
    let sent = match body::read(&parts.headers, body).await {
        Some(Ok(sent)) => sent,
        Some(Err(refusal)) => return Ending::Answered(refusal.answer(true)),
        None => return Ending::Dropped,
    };
    match fault {
        Some(Fault::Delay(duration)) => wait::delay(duration).await,
        Some(Fault::Hold) => store.faults.hold().await,
        Some(Fault::DropBefore) => return Ending::Dropped,
        Some(Fault::BlackHole) => return Ending::Silent,
        Some(Fault::EmptySuccess) => return Ending::Answered(answer::empty(StatusCode::OK)),
        Some(fault) => {
            if let Some(refusal) = refusal_of(fault) {
                return Ending::Answered(refusal.answer(asked.method != Method::Head));
            }
        }
        None => {}
    }
    let done = match asked.method {
        Method::Put => put(store, asked, sent, fault, record),
        Method::Get => get(store, asked, parts, fault),
        Method::Head => find(store, asked).map(|object| answer::head(&object)),
        Method::List => list(store, asked, fault),
        Method::Delete => {
            store.objects.delete(&asked.bucket, &asked.key);
            Ok(answer::empty(StatusCode::NO_CONTENT))
        }
    };
    let answer = done.unwrap_or_else(|refusal| refusal.answer(asked.method != Method::Head));
    match fault {
        Some(Fault::DropAfter | Fault::CutOff | Fault::Garbled) => Ending::Dropped,
        Some(Fault::ErrorAfter) => Ending::Answered(internal_error().answer(asked.method != Method::Head)),
        Some(Fault::EchoOfItself) => Ending::Answered(precondition_failed().answer(true)),
        _ => Ending::Answered(answer),
    }
}

/// The answer of a store that has not done what it was asked for.
fn refusal_of(fault: Fault) -> Option<Refusal> {
    let refusal = |status, code, message| Some(Refusal::new(status, code, message));
    match fault {
        Fault::InternalError => Some(internal_error()),
        Fault::SlowDown => refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "SlowDown",
            "Please reduce your request rate.",
        ),
        Fault::AccessDenied => refusal(StatusCode::FORBIDDEN, "AccessDenied", "Access Denied"),
        Fault::TimeTooSkewed => refusal(
            StatusCode::FORBIDDEN,
            "RequestTimeTooSkewed",
            "The difference between the request time and the server's time is too large.",
        ),
        Fault::ExpiredToken => refusal(
            StatusCode::BAD_REQUEST,
            "ExpiredToken",
            "The provided token has expired.",
        ),
        Fault::Conflict => refusal(
            StatusCode::CONFLICT,
            "ConditionalRequestConflict",
            "A conflicting operation is in progress against this resource.",
        ),
        Fault::ErrorInSuccess => refusal(StatusCode::OK, "InternalError", "We encountered an internal error."),
        _ => None,
    }
}

fn internal_error() -> Refusal {
    let message = "We encountered an internal error. Please try again.";
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
}

fn precondition_failed() -> Refusal {
    let message = "At least one of the pre-conditions you specified did not hold";
    Refusal::new(StatusCode::PRECONDITION_FAILED, "PreconditionFailed", message)
}

fn no_such_bucket() -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "NoSuchBucket",
        "The specified bucket does not exist",
    )
}

fn put(store: &Store, asked: &Asked, sent: Sent, fault: Option<Fault>, record: &Record) -> Result<Answer, Refusal> {
    let sent = match fault {
        Some(Fault::DamagedOnTheWay) => Sent {
            bytes: flipped(store, &sent.bytes),
            ..sent
        },
        _ => sent,
    };
    if !sent.is_whole() {
        let message = "The checksum you specified did not match what we received.";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "BadDigest", message));
    }
    let kept = match fault {
        Some(Fault::StoredFlipped | Fault::Garbled) => flipped(store, &sent.bytes),
        Some(Fault::StoredShort | Fault::CutOff) => sent.bytes.slice(..sent.bytes.len() / 2),
        _ => sent.bytes,
    };
    let only_new = asked.only_new && fault != Some(Fault::ConditionIgnored);
    match store
        .objects
        .put(&asked.bucket, &asked.key, kept, sent.checksum, only_new)
    {
        Stored::Created(at) => record.durable(at, false),
        Stored::Replaced(at) => record.durable(at, true),
        Stored::Exists => return Err(precondition_failed()),
        Stored::NoBucket => return Err(no_such_bucket()),
    }
    find(store, asked).map(|object| answer::stored(&object))
}

fn get(store: &Store, asked: &Asked, parts: &Parts, fault: Option<Fault>) -> Result<Answer, Refusal> {
    let object = find(store, asked)?;
    let size = object.bytes.len() as u64;
    let part = match asked.range {
        None => None,
        Some(range) => Some(range.resolve(size).ok_or_else(|| {
            let message = "The requested range is not satisfiable";
            Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange", message)
        })?),
    };
    let (first, len) = part.unwrap_or((0, size));
    let bytes = object.bytes.slice(first as usize..(first + len) as usize);
    let half = bytes.slice(..bytes.len() / 2);
    let (body, announced) = match fault {
        Some(Fault::BodyBreaksOff) => (Reply::broken(half), len),
        Some(Fault::BodyTooShort) => {
            let announced = half.len() as u64;
            (Reply::whole(half), announced)
        }
        Some(Fault::BodyFlipped) => (Reply::whole(flipped(store, &bytes)), len),
        _ => (Reply::whole(bytes), len),
    };
    let checksums = header(&parts.headers, "x-amz-checksum-mode") == Some("ENABLED");
    Ok(answer::object(&object, part, body, announced, checksums))
}

fn list(store: &Store, asked: &Asked, fault: Option<Fault>) -> Result<Answer, Refusal> {
    if !store.objects.has_bucket(&asked.bucket) {
        return Err(no_such_bucket());
    }
    let invalid = || Refusal::new(StatusCode::BAD_REQUEST, "InvalidArgument", "the token is not ours");
    let after = match &asked.list.token {
        Some(token) => String::from_utf8(unhex(token).ok_or_else(invalid)?).map_err(|_| invalid())?,
        None => asked.list.start_after.clone(),
    };
    let as_of = match fault {
        Some(Fault::ListAsOf(instant)) => Some(instant),
        _ => None,
    };
    let max = store
        .faults
        .keys_max()
        .map_or(asked.list.max, |max| max.min(asked.list.max));
    let page: Page = store.objects.list(&asked.bucket, &asked.key, &after, max, as_of);
    Ok(answer::listing(&asked.bucket, &asked.key, &page))
}

fn find(store: &Store, asked: &Asked) -> Result<super::Object, Refusal> {
    if !store.objects.has_bucket(&asked.bucket) {
        return Err(no_such_bucket());
    }
    let missing = || Refusal::new(StatusCode::NOT_FOUND, "NoSuchKey", "The specified key does not exist.");
    store.objects.get(&asked.bucket, &asked.key).ok_or_else(missing)
}

/// The same bytes but for one bit.
fn flipped(store: &Store, bytes: &Bytes) -> Bytes {
    let mut damaged = BytesMut::from(&bytes[..]);
    let place = store.faults.place(damaged.len());
    if let Some(byte) = damaged.get_mut(place) {
        *byte ^= 1 << (place % 8);
    }
    damaged.freeze()
}
