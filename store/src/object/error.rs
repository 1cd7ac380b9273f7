//! What went wrong with an object: did it happen, and of which class is it.

use std::error::Error;
use std::fmt;

/// The call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Opening or creating the store itself.
    Open,
    /// `put_new`.
    PutNew,
    /// `get`.
    Get,
    /// `head`.
    Head,
    /// `list_page`.
    List,
    /// `delete`.
    Delete,
    /// `keep_locked`.
    Lock,
}

impl Operation {
    /// One word, for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Open => "open",
            Operation::PutNew => "put",
            Operation::Get => "get",
            Operation::Head => "head",
            Operation::List => "list",
            Operation::Delete => "delete",
            Operation::Lock => "lock",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Did it happen?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The store is as before.
    DidNotHappen,
    /// Nobody knows: ask the store before deciding anything.
    Unknown,
}

/// What kind of failure it is, which decides who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// There is no such object (and the repository itself was seen).
    NotFound,
    /// It may work later: try again.
    Transient,
    /// It will not work, however often it is tried.
    Permanent,
    /// What came back is not what was stored.
    Corrupt,
    /// Someone has to change a setting, a right or a mount.
    Misconfigured,
    /// No space, or a quota.
    Full,
    /// It may not be deleted before a date.
    Locked,
}

impl ErrorClass {
    /// One word, for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorClass::NotFound => "not_found",
            ErrorClass::Transient => "transient",
            ErrorClass::Permanent => "permanent",
            ErrorClass::Corrupt => "corrupt",
            ErrorClass::Misconfigured => "misconfigured",
            ErrorClass::Full => "full",
            ErrorClass::Locked => "locked",
        }
    }
}

/// Error of an object store. `Display` is one line about this error only; the cause is its `source`.
#[derive(Debug)]
pub struct ObjectError {
    operation: Operation,
    outcome: Outcome,
    class: ErrorClass,
    name: Box<str>,
    detail: Box<str>,
    hint: Option<&'static str>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// Foreign text in a message is cut here.
const DETAIL_BYTES_MAX: usize = 400;

impl ObjectError {
    /// An error without cause and hint. Control characters in `detail` become spaces: it may come from a server.
    pub fn new(
        operation: Operation,
        name: impl fmt::Display,
        outcome: Outcome,
        class: ErrorClass,
        detail: impl fmt::Display,
    ) -> Self {
        let mut line: String = detail
            .to_string()
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        if line.len() > DETAIL_BYTES_MAX {
            line.truncate(line.floor_char_boundary(DETAIL_BYTES_MAX));
            line.push_str("...");
        }
        ObjectError {
            operation,
            outcome,
            class,
            name: name.to_string().into(),
            detail: line.into(),
            hint: None,
            source: None,
        }
    }

    /// "It may not be deleted yet."
    #[must_use]
    pub fn locked(name: impl fmt::Display) -> Self {
        ObjectError::new(
            Operation::Delete,
            name,
            Outcome::DidNotHappen,
            ErrorClass::Locked,
            "it is locked",
        )
    }

    /// "There is no such object."
    #[must_use]
    pub fn not_found(operation: Operation, name: impl fmt::Display) -> Self {
        ObjectError::new(
            operation,
            name,
            Outcome::DidNotHappen,
            ErrorClass::NotFound,
            "it does not exist",
        )
    }

    /// A slice past the end of an object.
    #[must_use]
    pub fn past_end(name: impl fmt::Display, range: super::ByteRange, size: u64) -> Self {
        let detail = format_args!("{range} wanted, but it has {size} bytes");
        ObjectError::new(Operation::Get, name, Outcome::DidNotHappen, ErrorClass::Corrupt, detail)
    }

    /// Adds what the operator can do: whole sentences.
    #[must_use]
    pub fn with_hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The call that failed.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// Name of the object, prefix of the listing, or place of the store.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Did it happen?
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// What kind of failure.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        self.class
    }

    /// What was wrong, without operation and name.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What the operator can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint
    }

    /// True when what lies there cannot be read, and will not be when it is asked for again: a bad sector, an object in an archive.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        self.operation() == Operation::Get && self.class() == ErrorClass::Permanent
    }

    /// Is it "there is no such object"?
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.class == ErrorClass::NotFound
    }
}

impl fmt::Display for ObjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, detail) = (&self.name, &self.detail);
        match self.operation {
            Operation::Open => write!(f, "cannot open object store \"{name}\": {detail}"),
            Operation::List => write!(f, "cannot list objects under \"{name}\": {detail}"),
            operation => write!(f, "cannot {operation} object \"{name}\": {detail}"),
        }
    }
}

impl Error for ObjectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line_without_the_chain() {
        let error = ObjectError::new(
            Operation::Get,
            "a/b",
            Outcome::DidNotHappen,
            ErrorClass::Transient,
            "server said\nno\r\nway",
        )
        .with_source(std::io::Error::other("inner"));
        assert_eq!(error.to_string(), "cannot get object \"a/b\": server said no  way");
        assert_eq!(error.source().map(ToString::to_string), Some("inner".to_owned()));
    }

    #[test]
    fn a_long_foreign_text_is_cut_at_a_character() {
        let error = ObjectError::new(
            Operation::List,
            "",
            Outcome::DidNotHappen,
            ErrorClass::Permanent,
            "ü".repeat(1000),
        );
        assert!(error.detail().len() <= DETAIL_BYTES_MAX + 3);
    }

    #[test]
    fn the_error_is_small_enough_to_be_returned_by_value() {
        assert!(size_of::<ObjectError>() < 128);
    }
}
