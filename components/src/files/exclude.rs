//! What is left out, by patterns as rsync has them: `*.tmp` anywhere, `cache/` a directory anywhere, `/build` below the root alone, `a/**/b`.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::ComponentError;

/// Patterns of what is not captured.
#[derive(Clone, Debug)]
pub struct Excludes {
    patterns: Vec<String>,
    any: GlobSet,
    directories: GlobSet,
}

impl Excludes {
    /// Of these patterns.
    ///
    /// # Errors
    /// One of them makes no sense.
    pub fn new(patterns: &[String]) -> Result<Self, ComponentError> {
        let (mut any, mut directories) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for pattern in patterns {
            let (text, to) = match pattern.strip_suffix('/') {
                Some(text) => (text, &mut directories),
                None => (pattern.as_str(), &mut any),
            };
            let anchored = match text.strip_prefix('/') {
                Some(text) => text.to_owned(),
                None => format!("**/{text}"),
            };
            let glob = GlobBuilder::new(&anchored)
                .literal_separator(true)
                .backslash_escape(true)
                .build();
            to.add(glob.map_err(|error| bad(pattern, &error))?);
        }
        let build = |set: GlobSetBuilder| set.build().map_err(|error| bad("exclude", &error));
        Ok(Excludes {
            patterns: patterns.to_vec(),
            any: build(any)?,
            directories: build(directories)?,
        })
    }

    /// True for a path below a root that is left out, with all that lies below it.
    #[must_use]
    pub fn has(&self, path: &Path, is_directory: bool) -> bool {
        self.any.is_match(path) || (is_directory && self.directories.is_match(path))
    }

    /// True for a file that a pattern has, or a directory above it.
    #[must_use]
    pub fn has_or_above(&self, path: &Path) -> bool {
        self.has(path, false) || path.ancestors().skip(1).any(|above| self.has(above, true))
    }

    /// The patterns that have none of these files: perhaps they were mistyped.
    ///
    /// # Errors
    /// None that [`Self::new`] has not returned.
    pub fn unmatched(&self, files: &HashSet<Vec<u8>>) -> Result<Vec<String>, ComponentError> {
        let mut unmatched = Vec::new();
        for pattern in &self.patterns {
            let alone = Excludes::new(std::slice::from_ref(pattern))?;
            if !files
                .iter()
                .any(|path| alone.has_or_above(Path::new(OsStr::from_bytes(path))))
            {
                unmatched.push(pattern.clone());
            }
        }
        Ok(unmatched)
    }
}

fn bad(pattern: &str, error: &globset::Error) -> ComponentError {
    ComponentError::refused(
        format!("\"{}\" is no pattern: {}", pattern.escape_debug(), error.kind()),
        "As rsync has them: \"*.tmp\", \"cache/\", \"/build\", \"a/**/b\".",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_rsyncs() {
        let patterns = ["*.tmp", "cache/", "/build", "logs/*.gz", "a/**/z"].map(str::to_owned);
        let excludes = Excludes::new(&patterns).unwrap();
        let has = |path: &str, is_directory| excludes.has(Path::new(path), is_directory);
        for path in [
            "x.tmp",
            "deep/er/x.tmp",
            "build",
            "logs/1.gz",
            "deep/logs/1.gz",
            "a/z",
            "a/b/c/z",
        ] {
            assert!(has(path, false), "{path}");
        }
        assert!(has("x/cache", true) && !has("x/cache", false));
        for path in ["x.tmpl", "deep/build", "logs/old/1.gz", "z"] {
            assert!(!has(path, false), "{path}");
        }
        assert!(Excludes::new(&["a[".to_owned()]).is_err());
        let files = [&b"deep/x.tmp"[..], b"x/cache/y"].map(<[u8]>::to_vec).into();
        assert_eq!(excludes.unmatched(&files).unwrap(), ["/build", "logs/*.gz", "a/**/z"]);
    }
}
