//! What was restored of a component, for people and programs.

use std::path::PathBuf;

use serde::Serialize;

use crate::error::{RestoreError, Result};
use crate::plan::bytes_text;

/// What was restored.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) component: String,
    pub(super) kind: String,
    pub(crate) backup: String,
    pub(super) as_of: String,
    #[serde(skip)]
    pub(crate) as_of_us: i64,
    pub(super) to: PathBuf,
    pub(super) dry_run: bool,
    pub(super) made: u64,
    pub(super) same: u64,
    pub(super) replaced: u64,
    pub(super) directories: u64,
    pub(super) bytes: u64,
    /// Repositories that were built; of kind git.
    pub(super) repositories: Option<usize>,
    /// Secrets that were opened.
    pub(super) secrets: Option<u64>,
    /// To whom the secrets are sealed that stay sealed.
    pub(super) sealed_to: Option<String>,
    /// It was whole before: an earlier run of the same restore of a group has brought it back.
    pub(super) was_whole: bool,
    /// What differs from what was captured; nothing was compared where a part was restored, or something was there before.
    pub(crate) differs: Option<Vec<String>>,
    pub(super) seconds: f64,
}

impl Report {
    /// The first thing that differs, if anything does.
    pub(crate) fn judge(&self) -> Result<()> {
        match self.differs.as_deref() {
            Some([first, ..]) => Err(RestoreError::Server {
                message: format!(
                    "what was restored of {} is not what was captured: {first}",
                    self.component
                ),
                hint: "All that differs is named above. `wal-agent verify --all` says whether the backup is whole."
                    .into(),
            }),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "component  {} ({}), backup {}",
            self.component, self.kind, self.backup
        )?;
        writeln!(f, "as of      {}", self.as_of)?;
        let word = if self.dry_run { "would go to" } else { "is in" };
        writeln!(
            f,
            "{word:<10} {}: {} made, {} the same already, {} replaced, {} directories, {}",
            self.to.display(),
            self.made,
            self.same,
            self.replaced,
            self.directories,
            bytes_text(self.bytes)
        )?;
        if let Some(count) = self.repositories {
            writeln!(f, "built      {count} bare repositories")?;
        }
        if self.was_whole {
            writeln!(f, "whole      since an earlier run of this restore")?;
        }
        if let Some(to) = &self.sealed_to {
            writeln!(
                f,
                "sealed     secrets stay <path>.sealed: --identity FILE opens them, with the file that `wal-restore identity` made with {to}"
            )?;
        }
        if let Some(count) = self.secrets {
            writeln!(f, "opened     {count} secrets")?;
        }
        match self.differs.as_deref() {
            None => {}
            Some([]) => writeln!(f, "compared   nothing differs from what was captured")?,
            Some(all) => all.iter().try_for_each(|line| writeln!(f, "DIFFERS    {line}"))?,
        }
        write!(f, "took       {:.1} s", self.seconds)
    }
}
