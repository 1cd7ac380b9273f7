//! What was captured, in numbers that a restore can be held against.

use std::collections::BTreeMap;

use rustix::fs::{FileType, Stat};

/// Counts of a walk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub links: u64,
    /// Pipes, sockets, devices.
    pub others: u64,
    /// Files without content.
    pub empty: u64,
    /// Files that anybody may write to.
    pub writable_by_all: u64,
    /// Bytes of the files when they were listed.
    pub bytes: u64,
    /// Entries left out by a pattern, with all that is below them.
    pub excluded: u64,
    /// Files that were not read again.
    pub unchanged: u64,
}

impl Counts {
    pub(super) fn add(&mut self, mode: u32, kind: FileType, stat: &Stat) {
        match kind {
            FileType::RegularFile => {
                let bytes = stat.st_size.cast_unsigned();
                self.files += 1;
                self.bytes += bytes;
                self.empty += u64::from(bytes == 0);
                self.writable_by_all += u64::from(mode & 0o002 != 0);
            }
            FileType::Directory => self.directories += 1,
            FileType::Symlink => self.links += 1,
            _ => self.others += 1,
        }
    }

    /// Those that a restore is held against, by name.
    #[must_use]
    pub fn facts(&self) -> BTreeMap<String, String> {
        let facts = [
            ("files", self.files),
            ("directories", self.directories),
            ("links", self.links),
            ("others", self.others),
            ("empty_files", self.empty),
            ("files_writable_by_all", self.writable_by_all),
        ];
        facts.map(|(name, count)| (name.to_owned(), count.to_string())).into()
    }
}
