//! Verifying what is stored, from two sides.
//!
//! [`structure`] asks whether everything is there and fits together: names, signatures, references, WAL coverage. It reads metadata
//! only, and the heads of WAL: seconds, whatever the size. [`object`] reads one object, all of it, and hashes it again: whole repositories take as long as
//! reading them. What cannot be read because the store fails is an error; what is wrong is a [`Finding`].

mod excuse;
mod heads;
mod object;
mod share;
mod structure;

pub use excuse::{excuse, excuse_covered};
pub use object::{Depth, is_damaged, object};
pub use share::Share;
pub use structure::{Structure, Watermark, structure};

use crate::error::StoreError;
use crate::object::{ErrorClass, ObjectName, Operation};
use crate::repository::REVOKED;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is lost: what is missing can be made again, or is in nobody's way.
    Notice,
    /// Something that was stored cannot be read, or does not fit.
    Damage,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Name of the object, or of what it would belong to.
    pub object: String,
    /// How bad it is.
    pub severity: Severity,
    /// What does not hold.
    pub reason: String,
    /// It is the object itself that cannot be read, or is not there; not something that it leads to.
    pub is_its_own: bool,
    /// Somebody has signed it who never was one of us.
    pub is_planted: bool,
}

impl Finding {
    fn damage(object: impl ToString, reason: impl ToString) -> Self {
        Finding {
            object: object.to_string(),
            severity: Severity::Damage,
            reason: reason.to_string(),
            is_its_own: false,
            is_planted: false,
        }
    }

    fn notice(object: impl ToString, reason: impl ToString) -> Self {
        Finding {
            severity: Severity::Notice,
            ..Finding::damage(object, reason)
        }
    }
}

/// Damage becomes a finding; where the store or a key failed nothing was learned.
fn judge<T>(name: &ObjectName, result: Result<T, StoreError>) -> Result<Result<T, Finding>, StoreError> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) if is_wrong(&error) => Ok(Err(Finding {
            is_its_own: true,
            is_planted: matches!(&error, StoreError::Untrusted { reason, .. } if *reason != REVOKED),
            ..Finding::damage(name, chain(&error))
        })),
        Err(error) => Err(error),
    }
}

/// True when an object is missing, damaged, planted, foreign or of a version that it cannot be of.
#[must_use]
pub fn is_wrong(error: &StoreError) -> bool {
    match error {
        // A bad sector is damage of what lies there; a store that is away, or a right that is missing, is not.
        StoreError::Object(error) if error.operation() == Operation::Get && error.class() == ErrorClass::Permanent => {
            true
        }
        StoreError::Object(error) => matches!(error.class(), ErrorClass::NotFound | ErrorClass::Corrupt),
        StoreError::WrongKey { .. } | StoreError::Foreign { .. } | StoreError::Limit { .. } => true,
        error => error.damaged_object().is_some(),
    }
}

fn chain(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
