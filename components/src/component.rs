//! What every system beside PostgreSQL can be asked.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::{ComponentError, Sink};

/// A system whose content is captured into backups.
#[async_trait]
pub trait Component: Debug + Send + Sync {
    /// What it is, in one word: the `kind` of the configuration.
    fn kind(&self) -> &'static str;

    /// Asks whether it could be captured now. Changes nothing.
    ///
    /// # Errors
    /// It could not: away, refused, too old.
    async fn look(&self) -> Result<Look, ComponentError>;

    /// Captures all of it. What came into the sink when this fails is never listed.
    ///
    /// # Errors
    /// Anything that was not captured whole.
    async fn capture(&self, sink: &mut Sink) -> Result<Captured, ComponentError>;

    /// Holds what was restored below a directory against what was captured; returns what differs, in words.
    ///
    /// # Errors
    /// It cannot be told.
    async fn compare(
        &self,
        captured: &BTreeMap<String, String>,
        restored: &Path,
    ) -> Result<Vec<String>, ComponentError>;
}

/// What a system says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Its version; empty where there is none.
    pub version: String,
    /// What somebody who reads a report wants to know.
    pub notes: Vec<String>,
}

/// What was captured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// Version of the system.
    pub version: String,
    /// Counts, to be compared after a restore.
    pub facts: BTreeMap<String, String>,
    /// The moment that it holds, microseconds since 1970; none: the end of the capture.
    pub as_of_us: Option<i64>,
    /// What must still be where it was when all of it was read.
    pub standing: Vec<Standing>,
}

/// A directory that was captured, as it was when that began. Where it goes away in the middle, because its file system does, everything in it is
/// as if it had been deleted, one by one: and a backup of the half that was read would look whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Where it is.
    pub on_disk: PathBuf,
    /// The device that it is on.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
}

impl Standing {
    /// Refuses what is not there any more, or is another directory.
    ///
    /// # Errors
    /// It went away, or was replaced.
    pub fn refuse_gone(&self) -> Result<(), ComponentError> {
        let now = std::fs::symlink_metadata(&self.on_disk).map_err(ComponentError::io("find again", &self.on_disk))?;
        match (now.dev(), now.ino()) == (self.device, self.inode) {
            true => Ok(()),
            false => Err(ComponentError::refused(
                format!(
                    "\"{}\" was replaced by another directory, or its file system went away, while it was captured",
                    self.on_disk.display()
                ),
                "Capture it again; what is replaced as a whole is captured by the path of what holds it.",
            )),
        }
    }
}
