//! Listing a directory tree in the order of the full names, a page at a time.
//!
//! Entries of one directory are visited by name, directories as `name/`: that is the order of the full names. Subtrees that lie
//! wholly before the page or outside the prefix are not read. What vanishes during the walk is left out, as in any listing;
//! what cannot be read is an error, never a shorter listing.

use std::fs::ReadDir;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::super::name::{TEMPORARY_SEGMENT, segment_violation};
use super::super::{ListPage, ObjectError, ObjectName, Operation, Outcome};
use super::io_error::io_error;
use super::root::{Root, meta_of};

pub(super) fn list_page(root: &Root, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, ObjectError> {
    root.directory(Operation::List, prefix)?;
    let mut walk = Walk {
        prefix,
        after,
        max,
        page: ListPage::default(),
    };
    walk.directory(root.path(), "").map_err(|error| {
        io_error(
            Operation::List,
            prefix,
            Outcome::DidNotHappen,
            "read the repository",
            error,
        )
    })?;
    // A root that went away during the walk looks like files that vanished.
    root.directory(Operation::List, prefix)?;
    Ok(walk.page)
}

struct Walk<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    max: usize,
    page: ListPage,
}

impl Walk<'_> {
    /// Adds what is under `path`, whose names begin with `base` (empty, or ending in a slash). `false`: the page is full.
    fn directory(&mut self, path: &Path, base: &str) -> io::Result<bool> {
        let entries = match std::fs::read_dir(path) {
            Err(error) if vanished(&error) => return Ok(true),
            opened => self.entries(opened?, base)?,
        };
        for (key, file) in entries {
            let child = path.join(key.rsplit('/').find(|part| !part.is_empty()).unwrap_or_default());
            let Some(file) = file else {
                if !self.directory(&child, &key)? {
                    return Ok(false);
                }
                continue;
            };
            if self.page.objects.len() == self.max {
                self.page.next = self.page.objects.last().map(|last| last.name.to_string());
                return Ok(false);
            }
            match child.symlink_metadata() {
                Ok(metadata) if metadata.is_file() => self.page.objects.push(meta_of(file, &metadata)),
                Ok(_) => {}
                Err(error) if vanished(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The relevant entries of a directory in order: full name, and the object's name if it is a file.
    fn entries(&mut self, directory: ReadDir, base: &str) -> io::Result<Vec<(String, Option<ObjectName>)>> {
        let mut found = Vec::new();
        for entry in directory {
            let entry = entry?;
            let kind = match entry.file_type() {
                Err(error) if vanished(&error) => continue,
                kind => kind?,
            };
            let segment = entry.file_name();
            let Some(segment) = segment.to_str().filter(|segment| segment_violation(segment).is_none()) else {
                self.page.foreign += 1;
                continue;
            };
            let key = format!("{base}{segment}");
            if key == TEMPORARY_SEGMENT {
                continue;
            }
            let subtree = format!("{key}/");
            if kind.is_dir() {
                if self.wants_subtree(&subtree) {
                    found.push((subtree, None));
                }
            } else if kind.is_symlink() && (self.wants_file(&key) || self.wants_subtree(&subtree)) {
                // It may stand for a directory that was moved away: a listing without that would be a lie.
                return Err(rustix::io::Errno::LOOP.into());
            } else if self.wants_file(&key) {
                match ObjectName::new(key.clone()) {
                    Ok(name) if kind.is_file() => found.push((key, Some(name))),
                    _ => self.page.foreign += 1,
                }
            }
        }
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// Is a file of the name `key` after the beginning of the page and under the prefix?
    fn wants_file(&self, key: &str) -> bool {
        key.starts_with(self.prefix) && self.after.is_none_or(|after| key > after)
    }

    /// Can a name that begins with `key` (a directory, with its slash) be on the page?
    fn wants_subtree(&self, key: &str) -> bool {
        let in_prefix = key.starts_with(self.prefix) || self.prefix.starts_with(key);
        in_prefix && self.after.is_none_or(|after| key > after || after.starts_with(key))
    }
}

fn vanished(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}
