//! What a program has left in a directory.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Files below a directory, by path.
#[derive(Debug, Default)]
pub struct Files(BTreeMap<PathBuf, (u64, SystemTime)>);

/// Files that are there, or came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// How many.
    pub files: u64,
    /// Bytes of all.
    pub bytes: u64,
}

impl Files {
    /// Lists the files below `root` that `counts` does not leave out; links do not count. Nothing where there is no directory.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn below(root: &Path, counts: impl Fn(&Path) -> bool) -> io::Result<Self> {
        let mut found = Files::default();
        let mut todo = vec![root.to_owned()];
        while let Some(directory) = todo.pop() {
            let entries = match std::fs::read_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let path = entry.path();
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    todo.push(path);
                } else if kind.is_file() && path.strip_prefix(root).is_ok_and(&counts) {
                    // It may go while we look.
                    if let Ok(metadata) = entry.metadata() {
                        found.0.insert(path, (metadata.len(), metadata.modified()?));
                    }
                }
            }
        }
        Ok(found)
    }

    /// Their paths.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.keys()
    }

    /// What is new or was written anew since `before`.
    #[must_use]
    pub fn since(&self, before: &Files) -> Written {
        let mut written = Written::default();
        for (path, seen) in &self.0 {
            if before.0.get(path) != Some(seen) {
                written.files += 1;
                written.bytes += seen.0;
            }
        }
        written
    }
}
