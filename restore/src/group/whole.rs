//! Which members a restore of a group has made whole, so that the same command goes on where it was cut short: a file beside them, there from the
//! first member that is whole until the last one is.
//!
//! Its first line is the point, each further one a member and its backup. A line without an end was not finished: its member is brought back again,
//! and refused, as everything is that stands in the way. A crash leaves the file, and the next run reads it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use store::id::BackupId;

use crate::error::{RestoreError, Result};

/// Its name.
pub(super) const FILE: &str = ".seawall-group";

/// The members that are whole.
#[derive(Debug)]
pub(super) struct Whole {
    to: PathBuf,
    point: BackupId,
    members: BTreeSet<String>,
}

impl Whole {
    /// What an earlier run has left below a directory.
    ///
    /// # Errors
    /// It was a restore to another point; or it cannot be read.
    pub(super) fn read(to: &Path, point: BackupId) -> Result<Self> {
        let mut whole = Whole {
            to: to.to_owned(),
            point,
            members: BTreeSet::new(),
        };
        let path = to.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(whole),
            Err(error) => return Err(RestoreError::io("read", &path)(error)),
        };
        let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        match lines.next() {
            Some(other) if other != point.to_string() => {
                return Err(RestoreError::refused(
                    format!(
                        "a restore to point {} was not finished in \"{}\"",
                        other.escape_debug(),
                        to.display()
                    ),
                    "Finish that one with --point, or name another directory.",
                ));
            }
            _ => whole.members = lines.map(str::to_owned).collect(),
        }
        Ok(whole)
    }

    /// True for one that is whole, of that backup.
    pub(super) fn has(&self, name: &str, backup: BackupId) -> bool {
        self.members.contains(&line(name, backup)) && self.to.join(name).is_dir()
    }

    /// One more is whole: as good as it gets to know before it is durable.
    pub(super) fn add(&mut self, name: &str, backup: BackupId) -> Result<()> {
        self.members.insert(line(name, backup));
        let path = self.to.join(FILE);
        let mut text = format!("{}\n", self.point);
        self.members.iter().for_each(|member| text += &format!("{member}\n"));
        store::durable::atomic_write(&path, text.as_bytes()).map_err(RestoreError::io("write", &path))
    }

    /// All are: nothing is left to go on with.
    pub(super) fn end(self) -> Result<()> {
        let path = self.to.join(FILE);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(RestoreError::io("remove", &path)(error)),
            _ => Ok(()),
        }
    }
}

fn line(name: &str, backup: BackupId) -> String {
    format!("{name} {backup}")
}
