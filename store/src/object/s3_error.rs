//! Failures of S3, classified in one place: [`reason_of`] reads what happened, [`verdict`] says what it means.
//!
//! The verdict is exhaustive over [`Reason`]. What is not known is decided by its status: 4xx are permanent (the request will
//! be refused again), everything else is transient and of unknown outcome.

use std::error::Error;
use std::fmt::Display;
use std::time::Duration;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStreamError;

use super::{ErrorClass, ObjectError, Operation, Outcome};

/// A request without a good answer.
#[derive(Debug)]
pub(super) enum S3Failure<E> {
    /// Of the SDK.
    Sdk(Box<SdkError<E>>),
    /// No complete answer within this time.
    Deadline(Duration),
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The object does not exist, and S3 says so itself.
    NoSuchKey,
    /// 404 of a HEAD, or without S3's error body.
    NotFoundWithoutBody,
    /// The bucket does not exist.
    NoSuchBucket,
    /// 412: the condition of the put does not hold.
    AlreadyThere,
    /// 409: another writer of the same name is at work.
    Conflict,
    /// 416.
    RangeNotThere,
    /// Not allowed.
    AccessDenied,
    /// The key id is unknown or the signature wrong.
    BadCredentials,
    /// Temporary keys have ended.
    ExpiredCredentials,
    /// Our clock and the server's differ.
    ClockSkew,
    /// Another region or endpoint is responsible.
    WrongRegion,
    /// Too many requests.
    Throttled,
    /// The service is down, restarting or confused.
    Unavailable,
    /// The service did not get the whole request.
    Incomplete,
    /// The bytes did not arrive as they were sent.
    BadDigest,
    /// The object lies in an archive class.
    Archived,
    /// No space or quota left.
    Full,
    /// The key of the server-side encryption is unusable.
    ServerKey,
    /// The service does not know this kind of request.
    NotImplemented,
    /// Any other refusal.
    Refused,
    /// Nobody listens.
    NoConnection,
    /// The certificate is not trusted, or TLS fails otherwise.
    Tls,
    /// The connection broke.
    Broken,
    /// No answer in time.
    Deadline,
    /// An answer that cannot be read.
    Garbled,
    /// The request could not be made.
    NotSent,
}

/// Outcome of a *write*, class, hint.
type Verdict = (Outcome, ErrorClass, Option<&'static str>);

/// The exhaustive table.
fn verdict(reason: Reason) -> Verdict {
    use super::s3::hints::*;
    use ErrorClass::{Corrupt, Full, Misconfigured, NotFound, Permanent, Transient};
    use Outcome::{DidNotHappen, Unknown};
    match reason {
        Reason::NoSuchKey => (DidNotHappen, NotFound, None),
        Reason::NotFoundWithoutBody => (DidNotHappen, Misconfigured, Some(NOT_S3)),
        Reason::NoSuchBucket => (DidNotHappen, Misconfigured, Some(BUCKET)),
        Reason::AlreadyThere => (DidNotHappen, Permanent, None),
        Reason::Conflict => (DidNotHappen, Transient, None),
        Reason::RangeNotThere => (DidNotHappen, Corrupt, None),
        Reason::AccessDenied => (DidNotHappen, Misconfigured, Some(RIGHTS)),
        Reason::BadCredentials => (DidNotHappen, Misconfigured, Some(KEYS)),
        // New keys or a corrected clock make the same request succeed: waiting WAL must not give up.
        Reason::ExpiredCredentials => (DidNotHappen, Transient, Some(EXPIRED)),
        Reason::ClockSkew => (DidNotHappen, Transient, Some(CLOCK)),
        Reason::WrongRegion => (DidNotHappen, Misconfigured, Some(REGION)),
        Reason::Throttled => (DidNotHappen, Transient, None),
        Reason::Unavailable | Reason::Incomplete | Reason::Broken | Reason::Deadline | Reason::Garbled => {
            (Unknown, Transient, None)
        }
        Reason::BadDigest => (DidNotHappen, Transient, None),
        Reason::Archived => (DidNotHappen, Permanent, Some(ARCHIVED)),
        Reason::Full => (DidNotHappen, Full, Some(SPACE)),
        Reason::ServerKey => (DidNotHappen, Misconfigured, Some(SERVER_KEY)),
        Reason::NotImplemented => (DidNotHappen, Misconfigured, Some(UNSUPPORTED)),
        Reason::Refused | Reason::NotSent => (DidNotHappen, Permanent, None),
        Reason::NoConnection => (DidNotHappen, Transient, Some(ENDPOINT)),
        Reason::Tls => (DidNotHappen, Misconfigured, Some(TRUST)),
    }
}

/// What S3's error codes mean; then what the status alone means.
fn reason_of_answer(status: u16, code: Option<&str>) -> Reason {
    match code.unwrap_or_default() {
        "NoSuchKey" => Reason::NoSuchKey,
        "NoSuchBucket" => Reason::NoSuchBucket,
        "PreconditionFailed" => Reason::AlreadyThere,
        "ConditionalRequestConflict" | "OperationAborted" => Reason::Conflict,
        "InvalidRange" => Reason::RangeNotThere,
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "Forbidden" => Reason::AccessDenied,
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "InvalidSecurity" => Reason::BadCredentials,
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "RequestExpired" => {
            Reason::ExpiredCredentials
        }
        "RequestTimeTooSkewed" => Reason::ClockSkew,
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "Redirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => Reason::WrongRegion,
        "SlowDown"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "BandwidthLimitExceeded"
        | "SlowDownRead"
        | "SlowDownWrite" => Reason::Throttled,
        "InternalError" | "ServiceUnavailable" | "Busy" | "ServerBusy" => Reason::Unavailable,
        "RequestTimeout" | "IncompleteBody" => Reason::Incomplete,
        "BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" => {
            Reason::BadDigest
        }
        "InvalidObjectState" => Reason::Archived,
        "QuotaExceeded"
        | "StorageFull"
        | "XMinioStorageFull"
        | "XMinioAdminBucketQuotaExceeded"
        | "InsufficientStorage" => Reason::Full,
        "NotImplemented" | "MethodNotAllowed" => Reason::NotImplemented,
        code if code.starts_with("KMS.") => Reason::ServerKey,
        _ => reason_of_status(status),
    }
}

fn reason_of_status(status: u16) -> Reason {
    match status {
        301 | 302 | 307 | 308 => Reason::WrongRegion,
        401 | 403 => Reason::AccessDenied,
        404 => Reason::NotFoundWithoutBody,
        405 | 501 => Reason::NotImplemented,
        408 => Reason::Incomplete,
        409 => Reason::Conflict,
        412 => Reason::AlreadyThere,
        416 => Reason::RangeNotThere,
        429 => Reason::Throttled,
        507 => Reason::Full,
        400..500 => Reason::Refused,
        500.. => Reason::Unavailable,
        // A success that is an error for the SDK: its body cannot be read, or is an error document.
        _ => Reason::Garbled,
    }
}

/// What happened.
pub(super) fn reason_of<E: ProvideErrorMetadata + Error + 'static>(failure: &S3Failure<E>) -> Reason {
    let S3Failure::Sdk(error) = failure else {
        return Reason::Deadline;
    };
    match error.as_ref() {
        SdkError::ConstructionFailure(_) => Reason::NotSent,
        SdkError::TimeoutError(_) => Reason::Deadline,
        SdkError::DispatchFailure(_) => reason_of_connection(error.as_ref()),
        SdkError::ResponseError(answer) => reason_of_garbled(answer.raw().status().as_u16()),
        SdkError::ServiceError(answer) => reason_of_answer(answer.raw().status().as_u16(), answer.err().code()),
        _ => Reason::Broken,
    }
}

/// Did the service refuse without a word? A HEAD has no error body: its 403 may be a skewed clock, its 400 expired keys, and its 404
/// a missing bucket.
pub(super) fn is_unexplained<E: ProvideErrorMetadata + Error + 'static>(failure: &S3Failure<E>) -> bool {
    let has_code = match failure {
        S3Failure::Sdk(error) => error.code().is_some(),
        S3Failure::Deadline(_) => false,
    };
    match reason_of(failure) {
        // The SDK gives the 404 of a HEAD a code of its own.
        Reason::NotFoundWithoutBody => true,
        Reason::AccessDenied | Reason::Refused => !has_code,
        _ => false,
    }
}

fn reason_of_garbled(status: u16) -> Reason {
    if status < 300 {
        Reason::Garbled
    } else {
        reason_of_status(status)
    }
}

/// Reads the chain of causes: the HTTP client's own kinds do not tell a refused certificate from a lost connection.
fn reason_of_connection(error: &(dyn Error + 'static)) -> Reason {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<rustls::Error>() {
            return Reason::Tls;
        }
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return Reason::NoConnection;
        }
        // The source of an I/O error is the source of what it wraps: that would be skipped.
        cause = match io.and_then(std::io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    Reason::Broken
}

/// The error for a failed request.
pub(super) fn failure<E>(operation: Operation, name: impl Display, failure: S3Failure<E>) -> ObjectError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let reason = reason_of(&failure);
    let (outcome, class, hint) = verdict(reason);
    let outcome = match operation {
        Operation::PutNew | Operation::Delete | Operation::Lock => outcome,
        // A read changes nothing.
        Operation::Open | Operation::Get | Operation::Head | Operation::List => Outcome::DidNotHappen,
    };
    let detail = match &failure {
        S3Failure::Deadline(limit) => format!("no complete answer within {} s", limit.as_secs()),
        S3Failure::Sdk(error) => detail_of(reason, error),
    };
    let mut built = ObjectError::new(operation, name, outcome, class, detail);
    if let Some(hint) = hint {
        built = built.with_hint(hint);
    }
    match failure {
        S3Failure::Deadline(_) => built,
        S3Failure::Sdk(error) => built.with_source(error),
    }
}

fn detail_of<E: ProvideErrorMetadata>(reason: Reason, error: &SdkError<E>) -> String {
    let plain = match reason {
        Reason::NoConnection => "the connection was refused",
        Reason::Tls => "TLS could not be established",
        Reason::Deadline => "the connection could not be made in time",
        Reason::Broken => "the connection broke or could not be made",
        Reason::NotSent => "the request could not be made",
        _ => "the answer is not S3's",
    };
    let status = error.raw_response().map(|answer| answer.status().as_u16());
    match (status, error.code()) {
        (Some(status), Some(code)) => {
            let message = error.message().unwrap_or("no message");
            format!("the service says {code} (status {status}): {message}")
        }
        (Some(status), None) => format!("the service answers with status {status}"),
        (None, _) => plain.to_owned(),
    }
}

/// The error for a body that broke off or fails its checksum.
pub(super) fn failure_of_body(name: impl Display, error: ByteStreamError) -> ObjectError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    let mut damaged = false;
    while let Some(error) = cause {
        // The type is not public; its text is.
        damaged |= error.to_string().contains("checksum mismatch");
        cause = error.source();
    }
    let (class, detail) = match damaged {
        true => (
            ErrorClass::Corrupt,
            "the body does not match the checksum stored with it",
        ),
        false => (ErrorClass::Transient, "the body broke off"),
    };
    ObjectError::new(Operation::Get, name, Outcome::DidNotHappen, class, detail).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_statuses_have_the_meaning_that_the_catalogue_of_faults_asks_for() {
        use ErrorClass::{Full, Misconfigured, Permanent, Transient};
        use Outcome::{DidNotHappen, Unknown};
        for (status, code, outcome, class, hint) in [
            (503, "SlowDown", DidNotHappen, Transient, false),
            (503, "ServiceUnavailable", Unknown, Transient, false),
            (500, "InternalError", Unknown, Transient, false),
            (502, "", Unknown, Transient, false),
            (400, "RequestTimeout", Unknown, Transient, false),
            (403, "RequestTimeTooSkewed", DidNotHappen, Transient, true),
            (400, "ExpiredToken", DidNotHappen, Transient, true),
            (403, "InvalidAccessKeyId", DidNotHappen, Misconfigured, true),
            (403, "SignatureDoesNotMatch", DidNotHappen, Misconfigured, true),
            (403, "AccessDenied", DidNotHappen, Misconfigured, true),
            (403, "", DidNotHappen, Misconfigured, true),
            (404, "NoSuchBucket", DidNotHappen, Misconfigured, true),
            (404, "", DidNotHappen, Misconfigured, true),
            (403, "InvalidObjectState", DidNotHappen, Permanent, true),
            (403, "QuotaExceeded", DidNotHappen, Full, true),
            (507, "", DidNotHappen, Full, true),
            (409, "ConditionalRequestConflict", DidNotHappen, Transient, false),
            (400, "BadDigest", DidNotHappen, Transient, false),
            (400, "KMS.DisabledException", DidNotHappen, Misconfigured, true),
            (301, "PermanentRedirect", DidNotHappen, Misconfigured, true),
            (400, "SomethingNew", DidNotHappen, Permanent, false),
            (599, "SomethingNew", Unknown, Transient, false),
            (200, "InternalError", Unknown, Transient, false),
            (200, "", Unknown, Transient, false),
        ] {
            let code = Some(code).filter(|code| !code.is_empty());
            let found = verdict(reason_of_answer(status, code));
            assert_eq!(
                (found.0, found.1, found.2.is_some()),
                (outcome, class, hint),
                "{status} {code:?}"
            );
        }
        assert_eq!(reason_of_answer(412, Some("PreconditionFailed")), Reason::AlreadyThere);
        assert_eq!(reason_of_answer(404, Some("NoSuchKey")), Reason::NoSuchKey);
        assert_eq!(reason_of_answer(416, None), Reason::RangeNotThere);
    }
}
