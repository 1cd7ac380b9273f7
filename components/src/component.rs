//! What every system beside PostgreSQL can be asked.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

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
}
