//! Object lock on S3: a date with every put, a later one where an old object is needed again, deletes by version.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode};

use super::hints::NO_LOCK;
use super::{S3Store, reason_of};
use crate::object::lock::{LockMode, ObjectLock};
use crate::object::s3_error::{Reason, failure};
use crate::object::{ErrorClass, ObjectError, ObjectName, Operation, Outcome};

/// A service may keep dates to the second.
const ROUNDING: Duration = Duration::from_secs(2);

impl S3Store {
    /// Mode and date for a new object of this name.
    pub(super) fn new_lock(&self, name: &ObjectName) -> Option<(ObjectLockMode, DateTime)> {
        let lock = self.options.lock?;
        let keep = lock.keep_of(name)?;
        let mode = match lock.mode {
            LockMode::Compliance => ObjectLockMode::Compliance,
            LockMode::Governance => ObjectLockMode::Governance,
        };
        Some((mode, DateTime::from((self.options.clock)() + ObjectLock::lasts(keep))))
    }

    /// Locks an object for at least `keep` from now on, and looks whether the service did it.
    pub(super) async fn lock_on(&self, name: &ObjectName, keep: Duration) -> Result<(), ObjectError> {
        let now = (self.options.clock)();
        if self.locked_until(name).await? >= Some(now + keep) {
            return Ok(());
        }
        let mode = match self.options.lock.map(|lock| lock.mode) {
            Some(LockMode::Governance) => ObjectLockRetentionMode::Governance,
            _ => ObjectLockRetentionMode::Compliance,
        };
        let until = now + ObjectLock::lasts(keep);
        let retention = ObjectLockRetention::builder()
            .mode(mode)
            .retain_until_date(DateTime::from(until))
            .build();
        let client = self.client();
        let put = client
            .put_object_retention()
            .bucket(&self.options.bucket)
            .key(self.key(name))
            .retention(retention);
        if let Err(error) = self.within(0, put.send()).await {
            let reason = reason_of(&error);
            let error = failure(Operation::Lock, name, error);
            return Err(match reason {
                Reason::Refused | Reason::NotImplemented | Reason::NoSuchKey | Reason::NotFoundWithoutBody => {
                    refused(error)
                }
                _ => error,
            });
        }
        if self.locked_until(name).await? >= Some(until - ROUNDING) {
            return Ok(());
        }
        let detail = "the service took the lock and did not keep it";
        Err(ObjectError::new(
            Operation::Lock,
            name,
            Outcome::DidNotHappen,
            ErrorClass::Misconfigured,
            detail,
        )
        .with_hint(NO_LOCK))
    }

    async fn locked_until(&self, name: &ObjectName) -> Result<Option<SystemTime>, ObjectError> {
        let head = self.head_of(Operation::Lock, name).await?;
        let head = head.ok_or_else(|| ObjectError::not_found(Operation::Lock, name))?;
        Ok(until(&head))
    }

    /// Deletes the version that is there: without one, a bucket with versions would only hide it.
    pub(super) async fn delete_version(&self, name: &ObjectName) -> Result<(), ObjectError> {
        let Some(head) = self.head_of(Operation::Delete, name).await? else {
            return Ok(());
        };
        let is_locked = until(&head) > Some((self.options.clock)());
        let client = self.client();
        let delete = client
            .delete_object()
            .bucket(&self.options.bucket)
            .key(self.key(name))
            .set_version_id(head.version_id);
        match self.within(0, delete.send()).await {
            Ok(_) => Ok(()),
            Err(error) if reason_of(&error) == Reason::NoSuchKey => Ok(()),
            Err(error) if is_locked && is_refusal(reason_of(&error)) => Err(ObjectError::locked(name)),
            Err(error) => Err(failure(Operation::Delete, name, error)),
        }
    }
}

/// Services say it in one way or another.
fn is_refusal(reason: Reason) -> bool {
    matches!(reason, Reason::AccessDenied | Reason::Refused | Reason::Conflict)
}

/// The service does not know locks, or not in this bucket.
pub(super) fn refused(error: ObjectError) -> ObjectError {
    let detail = "the service refuses to lock it";
    let (operation, name) = (error.operation(), error.name().to_owned());
    ObjectError::new(
        operation,
        name,
        Outcome::DidNotHappen,
        ErrorClass::Misconfigured,
        detail,
    )
    .with_source(error)
    .with_hint(NO_LOCK)
}

fn until(head: &HeadObjectOutput) -> Option<SystemTime> {
    let date = head.object_lock_retain_until_date?;
    SystemTime::try_from(date).ok()
}
