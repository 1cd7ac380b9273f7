//! Objects in a bucket of S3 or of a service that speaks its protocol.
//!
//! `<prefix>/<name>` is the key. One request a call and no retries: [`crate::retry`] does that, with what `s3_error` says about
//! each failure. The extra requests: what a HEAD refuses (it has no error body) is asked for with a GET, because a missing bucket must
//! not look like a missing object, nor a skewed clock like a missing right; and where the service has no conditional PUT, a put
//! looks first.
//!
//! Objects are created with one PUT, never in parts, so a crash leaves no unfinished upload. The body carries a CRC32 that the
//! service checks; over TLS it is not hashed a second time for the signature.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, StorageClass};
use bytes::{Bytes, BytesMut};

use super::s3_error::{Reason, S3Failure, failure, failure_of_body, is_unexplained, reason_of};
use super::{
    ByteRange, Capabilities, ErrorClass, LIST_PAGE_MAX, ListPage, OBJECT_BYTES_MAX, ObjectError, ObjectMeta,
    ObjectName, ObjectStore, Operation, Outcome, PutNew,
};

mod answer;
mod connect;
mod expiry;
pub(super) mod hints;
mod listing;
mod lock;
mod options;

use answer::{Misfit, expected_length};
pub use options::{S3Credentials, S3Options, ServerSideEncryption};

/// A body gets this much time a byte on top of the request's deadline: a slower connection is a broken one.
const BYTES_PER_SECOND_MIN: u64 = 128 << 10;

/// A bucket, or the part of it under a prefix.
#[derive(Debug)]
pub struct S3Store {
    client: RwLock<Client>,
    options: S3Options,
    key_prefix: String,
    storage_class: Option<StorageClass>,
}

impl S3Store {
    /// Checks the options and makes a client. Sends nothing.
    ///
    /// # Errors
    /// [`ErrorClass::Misconfigured`], with a hint.
    pub fn open(options: S3Options) -> Result<Self, ObjectError> {
        let client = connect::client(&options, options.credentials()?)?;
        let (key_prefix, storage_class) = (options.key_prefix()?, options.storage_class()?);
        Ok(S3Store {
            client: RwLock::new(client),
            options,
            key_prefix,
            storage_class,
        })
    }

    /// Uses other keys from the next request on: temporary ones end.
    ///
    /// # Errors
    /// They cannot be sent; the old ones stay in use.
    pub fn replace_credentials(&self, credentials: &S3Credentials) -> Result<(), ObjectError> {
        let keys = options::checked(credentials).map_err(|detail| self.options.refused(detail))?;
        let mut client = self.client.write().unwrap_or_else(PoisonError::into_inner);
        *client = connect::with_keys(&client, keys);
        Ok(())
    }

    fn client(&self) -> Client {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn key(&self, name: &ObjectName) -> String {
        format!("{}{name}", self.key_prefix)
    }

    /// Waits for an answer no longer than the deadline for `body_bytes` on the way.
    async fn within<T, E>(
        &self,
        body_bytes: u64,
        request: impl Future<Output = Result<T, SdkError<E>>> + Send,
    ) -> Result<T, S3Failure<E>> {
        let limit = self.options.request_timeout + Duration::from_secs(body_bytes / BYTES_PER_SECOND_MIN);
        // On the heap: the SDK's futures are large.
        match tokio::time::timeout(limit, Box::pin(request)).await {
            Ok(answer) => answer.map_err(|error| S3Failure::Sdk(Box::new(error))),
            Err(_) => Err(S3Failure::Deadline(limit)),
        }
    }

    fn put_request(&self, name: &ObjectName, body: Bytes) -> PutObjectFluentBuilder {
        let client = self.client();
        let mut put = client
            .put_object()
            .bucket(&self.options.bucket)
            .key(self.key(name))
            .content_type("application/octet-stream")
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
            .set_storage_class(self.storage_class.clone())
            .body(ByteStream::from(body));
        if self.options.conditional_put {
            put = put.if_none_match("*");
        }
        if let Some((mode, until)) = self.new_lock(name) {
            put = put.object_lock_mode(mode).object_lock_retain_until_date(until);
        }
        match &self.options.sse {
            None => put,
            Some(ServerSideEncryption::Aes256) => {
                put.server_side_encryption(aws_sdk_s3::types::ServerSideEncryption::Aes256)
            }
            Some(ServerSideEncryption::Kms { key_id }) => put
                .server_side_encryption(aws_sdk_s3::types::ServerSideEncryption::AwsKms)
                .set_ssekms_key_id(key_id.clone()),
        }
    }

    /// The answer to a GET of a part, or `None` if the server says that there is no such part.
    async fn get_request(&self, name: &ObjectName, range: ByteRange) -> Result<Option<GetObjectOutput>, ObjectError> {
        let client = self.client();
        let get = client.get_object().bucket(&self.options.bucket).key(self.key(name));
        let get = match range {
            ByteRange::All => get.checksum_mode(ChecksumMode::Enabled),
            ByteRange::Last(len) => get.range(format!("bytes=-{len}")),
            ByteRange::Slice { start, len } => get.range(format!("bytes={start}-{}", start + (len - 1))),
        };
        match self.within(0, get.send()).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if reason_of(&error) == Reason::RangeNotThere => Ok(None),
            Err(error) => Err(failure(Operation::Get, name, error)),
        }
    }

    /// A range that HTTP cannot express or that the object does not have: decided from the object's size.
    async fn get_by_size(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, ObjectError> {
        let Some(meta) = self.find(Operation::Get, name).await? else {
            return Err(ObjectError::not_found(Operation::Get, name));
        };
        match range.resolve(meta.size) {
            None => Err(ObjectError::past_end(name, range, meta.size)),
            Some(bytes) if bytes.is_empty() => Ok(Bytes::new()),
            Some(_) => Err(wrong(
                name,
                format_args!("{range} refused although it has {} bytes", meta.size),
            )),
        }
    }

    async fn read_body(&self, name: &ObjectName, mut body: ByteStream, expected: u64) -> Result<Bytes, ObjectError> {
        let mut bytes = BytesMut::with_capacity(expected as usize);
        let read = async {
            while let Some(part) = body.next().await {
                bytes.extend_from_slice(&part.map_err(|error| failure_of_body(name, error))?);
                if bytes.len() as u64 > expected {
                    return Err(wrong(name, "the body is longer than announced"));
                }
            }
            Ok(())
        };
        let limit = self.options.request_timeout + Duration::from_secs(expected / BYTES_PER_SECOND_MIN);
        match tokio::time::timeout(limit, read).await {
            Ok(read) => read?,
            Err(_) => {
                return Err(failure::<aws_sdk_s3::Error>(
                    Operation::Get,
                    name,
                    S3Failure::Deadline(limit),
                ));
            }
        }
        if bytes.len() as u64 == expected {
            return Ok(bytes.freeze());
        }
        let detail = format_args!("the body ended after {} of {expected} bytes", bytes.len());
        Err(ObjectError::new(
            Operation::Get,
            name,
            Outcome::DidNotHappen,
            ErrorClass::Transient,
            detail,
        ))
    }

    /// HEAD, and a GET where HEAD refuses: only that says why.
    async fn head_of(&self, operation: Operation, name: &ObjectName) -> Result<Option<HeadObjectOutput>, ObjectError> {
        let client = self.client();
        let head = client.head_object().bucket(&self.options.bucket).key(self.key(name));
        let failed = match self.within(0, head.send()).await {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) => error,
        };
        if !is_unexplained(&failed) {
            return Err(failure(operation, name, failed));
        }
        match self.get_request(name, ByteRange::Slice { start: 0, len: 1 }).await {
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
            Ok(_) => {
                let detail = "it was refused in one request and there in the next";
                Err(ObjectError::new(
                    operation,
                    name,
                    Outcome::DidNotHappen,
                    ErrorClass::Transient,
                    detail,
                ))
            }
        }
    }

    async fn find(&self, operation: Operation, name: &ObjectName) -> Result<Option<ObjectMeta>, ObjectError> {
        let Some(head) = self.head_of(operation, name).await? else {
            return Ok(None);
        };
        let meta = meta_of(name, head.content_length, head.last_modified.as_ref());
        meta.map(Some).ok_or_else(|| incomplete(operation, name))
    }
}

/// An answer that does not fit: not retried, the service works like that.
fn wrong(name: &ObjectName, detail: impl std::fmt::Display) -> ObjectError {
    ObjectError::new(
        Operation::Get,
        name,
        Outcome::DidNotHappen,
        ErrorClass::Misconfigured,
        detail,
    )
    .with_hint("Check that the endpoint is an S3 service and that no proxy in between changes its answers.")
}

fn incomplete(operation: Operation, name: &ObjectName) -> ObjectError {
    let detail = "the answer lacks the size or the time of the object";
    ObjectError::new(
        operation,
        name,
        Outcome::DidNotHappen,
        ErrorClass::Misconfigured,
        detail,
    )
    .with_hint("Check that the endpoint is an S3 service and that no proxy in between changes its answers.")
}

fn meta_of(name: &ObjectName, size: Option<i64>, modified: Option<&DateTime>) -> Option<ObjectMeta> {
    let size = u64::try_from(size?).ok()?;
    let modified_unix_ms = modified?.to_millis().ok()?;
    Some(ObjectMeta {
        name: name.clone(),
        size,
        modified_unix_ms,
    })
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutNew, ObjectError> {
        if !self.options.conditional_put && self.find(Operation::PutNew, name).await?.is_some() {
            return Ok(PutNew::AlreadyExists);
        }
        let length = body.len() as u64;
        let put = self.put_request(name, body).customize();
        let put = if self.options.is_https() {
            put.disable_payload_signing()
        } else {
            put
        };
        match self.within(length, put.send()).await {
            // A 200 that was not made by the PUT (an error in the body, a proxy's page) has no ETag.
            Ok(answer) if answer.e_tag.is_none() => {
                let detail = "the answer says success but lacks the object's ETag";
                Err(ObjectError::new(
                    Operation::PutNew,
                    name,
                    Outcome::Unknown,
                    ErrorClass::Transient,
                    detail,
                ))
            }
            Ok(_) => Ok(PutNew::Created),
            Err(error) if reason_of(&error) == Reason::AlreadyThere => Ok(PutNew::AlreadyExists),
            Err(error) if reason_of(&error) == Reason::Refused && self.new_lock(name).is_some() => {
                Err(lock::refused(failure(Operation::PutNew, name, error)))
            }
            Err(error) => Err(failure(Operation::PutNew, name, error)),
        }
    }

    async fn get(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, ObjectError> {
        let expressible = match range {
            ByteRange::All => true,
            ByteRange::Last(len) => len > 0 && i64::try_from(len).is_ok(),
            ByteRange::Slice { start, len } => {
                len > 0 && start.checked_add(len).is_some_and(|end| i64::try_from(end).is_ok())
            }
        };
        if !expressible {
            return self.get_by_size(name, range).await;
        }
        let Some(answer) = self.get_request(name, range).await? else {
            return self.get_by_size(name, range).await;
        };
        let expected = expected_length(range, answer.content_length, answer.content_range.as_deref());
        let expected = expected.map_err(|misfit| match misfit {
            Misfit::PastEnd(size) => ObjectError::past_end(name, range, size),
            Misfit::Wrong(detail) => wrong(name, detail),
        })?;
        if expected > OBJECT_BYTES_MAX {
            let detail = format_args!("{expected} bytes are more than the limit of {OBJECT_BYTES_MAX}");
            return Err(ObjectError::new(
                Operation::Get,
                name,
                Outcome::DidNotHappen,
                ErrorClass::Corrupt,
                detail,
            ));
        }
        self.read_body(name, answer.body, expected).await
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>, ObjectError> {
        self.find(Operation::Head, name).await
    }

    async fn list_page(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, ObjectError> {
        let client = self.client();
        let max = max.clamp(1, LIST_PAGE_MAX);
        let list = listing::request(&client, &self.options.bucket, &self.key_prefix, prefix, after, max);
        match self.within(0, list.send()).await {
            Ok(answer) => listing::page(&self.key_prefix, prefix, answer),
            Err(error) => Err(failure(Operation::List, prefix, error)),
        }
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), ObjectError> {
        if self.options.lock.is_some() {
            return self.delete_version(name).await;
        }
        let client = self.client();
        let delete = client.delete_object().bucket(&self.options.bucket).key(self.key(name));
        match self.within(0, delete.send()).await {
            Ok(_) => Ok(()),
            Err(error) if reason_of(&error) == Reason::NoSuchKey => Ok(()),
            Err(error) => Err(failure(Operation::Delete, name, error)),
        }
    }

    async fn keep_locked(&self, name: &ObjectName) -> Result<(), ObjectError> {
        match self.options.lock.and_then(|lock| lock.keep_of(name)) {
            Some(keep) => self.lock_on(name, keep).await,
            None => Ok(()),
        }
    }

    async fn expiry_rules(&self) -> Result<Option<Vec<String>>, ObjectError> {
        self.rules_over_us().await
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            create_only: self.options.conditional_put,
            locks: self.options.lock.is_some(),
        }
    }
}
