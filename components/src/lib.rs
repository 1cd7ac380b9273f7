//! The systems beside PostgreSQL: one module each, and one trait through which the agent drives all of them.
//!
//! Capturing, top to bottom: [`take`] announces a backup, lets a [`Component`] fill a [`Sink`], and commits what came of it, in the order of
//! the store's law 1. Restoring: [`Stored`] reads a backup's table piece by piece, [`restore`] writes it below a directory, and the component
//! says with [`Component::compare`] whether what is there is what was captured.
//!
//! Nothing about a system is known outside of its module. A system that has a snapshot API of its own fits as well: its module asks for the
//! snapshot in [`Component::capture`], hands over what it reads, and lets go of it.
//!
//! No module here reads the environment, the command line or a configuration file: what it needs comes in as an argument.

mod component;
pub mod config;
pub mod difference;
pub mod dump;
mod error;
pub mod files;
pub mod git;
mod private;
pub mod redis;
pub mod restore;
mod sink;
mod stored;
pub mod take;
mod target;

pub use component::{Captured, Component, Look, Standing};
pub use error::ComponentError;
pub use sink::{Lane, Lanes, Sink};
pub use stored::Stored;

/// Holds what was restored against what was captured, with a server of the system where there is one, which has a directory for itself below
/// `scratch`, and by its files alone otherwise; what differs. `vanished`: so many files went away before they were read. None: nothing here knows such a kind.
///
/// # Errors
/// It cannot be told.
pub async fn compare(
    backup: &store::component::ComponentBackup,
    vanished: usize,
    restored: &std::path::Path,
    server: Option<&std::path::Path>,
    scratch: &std::path::Path,
) -> Result<Option<Vec<String>>, ComponentError> {
    let facts = &backup.facts;
    match backup.kind.as_str() {
        // What came or went between being listed and being read is counted as it was listed.
        "files" => {
            let unsettled = vanished as u64 + backup.changed.len() as u64;
            Ok(Some(files::compare(facts, unsettled, restored).await?))
        }
        "config" => Ok(Some(config::compare(facts, restored).await?)),
        "git" => Ok(Some(git::compare(facts, restored).await?)),
        "redis" => {
            let waits = redis::Waits::default();
            let differs = redis::compare(facts, restored, server, scratch, waits).await?;
            Ok(Some(differs))
        }
        "postgres-dump" => Ok(Some(dump::compare_files(facts, restored).await?)),
        _ => Ok(None),
    }
}
