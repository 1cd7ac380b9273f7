//! Names of objects: relative keys that mean the same in a directory and in a bucket.

use std::fmt;
use std::str::FromStr;

/// Longest name.
pub const NAME_BYTES_MAX: usize = 512;
/// Longest part between two slashes: what file systems allow.
pub const SEGMENT_BYTES_MAX: usize = 255;
/// First segment that local stores keep for themselves.
pub(crate) const TEMPORARY_SEGMENT: &str = ".tmp";

/// A validated name: segments of `A-Z a-z 0-9 . _ -` joined by `/`; no empty segment, no `.` or `..`, not under `.tmp`.
///
/// Whoever lays out names keeps one rule that is not checked here: no name is a directory of another (`a` and `a/b`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(String);

/// Why a text is no object name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid object name \"{}\": {reason}", name.escape_default())]
pub struct InvalidName {
    name: String,
    reason: &'static str,
}

impl ObjectName {
    /// Checks a name.
    ///
    /// # Errors
    /// It breaks one of the rules of the type.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = name.into();
        match violation(&name) {
            None => Ok(ObjectName(name)),
            Some(reason) => Err(InvalidName { name, reason }),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// This name, a slash, and `child` (one segment or more).
    ///
    /// # Errors
    /// The result is no name.
    pub fn child(&self, child: impl fmt::Display) -> Result<Self, InvalidName> {
        ObjectName::new(format!("{}/{child}", self.0))
    }

    /// Joins segments (or paths of segments) with slashes.
    ///
    /// # Errors
    /// The result is no name.
    pub fn join<S: AsRef<str>>(parts: impl IntoIterator<Item = S>) -> Result<Self, InvalidName> {
        let mut name = String::new();
        for part in parts {
            if !name.is_empty() {
                name.push('/');
            }
            name.push_str(part.as_ref());
        }
        ObjectName::new(name)
    }

    /// The parts between the slashes.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The last part.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, last)| last)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for ObjectName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for ObjectName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        ObjectName::new(name)
    }
}

fn violation(name: &str) -> Option<&'static str> {
    if name.len() > NAME_BYTES_MAX {
        return Some("it is longer than 512 bytes");
    }
    if name == TEMPORARY_SEGMENT || name.starts_with(".tmp/") {
        return Some("\".tmp\" is reserved");
    }
    name.split('/').find_map(segment_violation)
}

/// Why `segment` cannot be a part of a name; `None` if it can.
pub(crate) fn segment_violation(segment: &str) -> Option<&'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match segment {
        "" => Some("a part of it is empty"),
        "." | ".." => Some("a part of it is \".\" or \"..\""),
        _ if segment.len() > SEGMENT_BYTES_MAX => Some("a part of it is longer than 255 bytes"),
        _ if !segment.bytes().all(allowed) => Some("only letters, digits, \".\", \"_\", \"-\" and \"/\" are allowed"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_the_layout_are_valid() {
        for name in [
            "seawall.json",
            "clusters/db-1/wal/0.1/00000001/a-b.3",
            ".hidden",
            "a/.tmp",
            "a..b",
            "...",
        ] {
            assert!(ObjectName::new(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn names_that_could_escape_or_differ_between_stores_are_refused() {
        let long = "x".repeat(256);
        let deep = "abc/".repeat(128) + "x";
        for name in [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a b", "ä", "a\\b", "a\0", ".tmp", ".tmp/x", &long,
            &deep,
        ] {
            assert!(ObjectName::new(name).is_err(), "{name}");
        }
    }

    #[test]
    fn child_and_join_build_paths() {
        let name = ObjectName::join(["a", "b"]).and_then(|ab| ab.child("c.d")).unwrap();
        assert_eq!(name.as_str(), "a/b/c.d");
        assert_eq!(name.file_name(), "c.d");
        assert_eq!(name.segments().count(), 3);
        assert!(name.child("..").is_err());
    }

    proptest! {
        #[test]
        fn an_accepted_name_never_leaves_its_root(text in "[a./_-]{0,12}|\\PC{0,12}") {
            if let Ok(name) = ObjectName::new(text.clone()) {
                prop_assert_eq!(name.as_str(), text.as_str());
                let path = std::path::Path::new(name.as_str());
                prop_assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
                prop_assert_eq!(path.components().count(), name.segments().count());
            }
        }
    }
}
