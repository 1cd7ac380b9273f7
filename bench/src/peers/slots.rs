//! Where a backlog of WAL begins, kept so that it can be streamed again: copies of replication slots, and of a program's directory.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::server::Server;

const SAVED: &str = "saved_";
/// The slot of `pg_receivewal`.
pub const RECEIVER: &str = "receiver";

/// A directory as it was, with the owner of each file.
#[derive(Debug)]
pub struct Saved {
    home: PathBuf,
    copy: PathBuf,
}

impl Saved {
    /// Copies a directory.
    ///
    /// # Errors
    /// It cannot be read or copied.
    pub fn of(home: &Path) -> io::Result<Self> {
        let copy = home.with_extension("saved");
        copy_all(home, &copy)?;
        Ok(Saved {
            home: home.to_owned(),
            copy,
        })
    }

    /// Makes it what it was.
    ///
    /// # Errors
    /// It cannot be removed or copied.
    pub fn reset(&self) -> io::Result<()> {
        std::fs::remove_dir_all(&self.home)?;
        copy_all(&self.copy, &self.home)
    }

    /// Removes the copy.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn forget(&self) -> io::Result<()> {
        std::fs::remove_dir_all(&self.copy)
    }
}

fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    let status = Command::new("cp").arg("-a").args([from, to]).status()?;
    match status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{} cannot be copied", from.display()))),
    }
}

/// Keeps a copy of each slot that is there, and one for `pg_receivewal`. All stay where they are.
///
/// # Errors
/// The server refused.
pub fn save(server: &Server) -> io::Result<()> {
    let sql = format!(
        "select pg_copy_physical_replication_slot(slot_name, '{SAVED}' || slot_name) from pg_replication_slots;\n\
         select pg_copy_physical_replication_slot(slot_name, '{SAVED}{RECEIVER}') from pg_replication_slots \
         order by restart_lsn desc limit 1"
    );
    server.query(&sql).map(drop)
}

/// Makes each slot begin where it did.
///
/// # Errors
/// The server refused, for one because a slot is in use.
pub fn reset(server: &Server) -> io::Result<()> {
    let drop_all = format!(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where not starts_with(slot_name, '{SAVED}')"
    );
    let copy_all = format!(
        "select pg_copy_physical_replication_slot(slot_name, substr(slot_name, {})) from pg_replication_slots \
         where starts_with(slot_name, '{SAVED}')",
        SAVED.len() + 1
    );
    server.query(&drop_all)?;
    server.query(&copy_all).map(drop)
}

/// Drops the copies, and the slot of `pg_receivewal`: from here on WAL may go.
///
/// # Errors
/// The server refused.
pub fn forget(server: &Server) -> io::Result<()> {
    let sql = format!(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots \
         where starts_with(slot_name, '{SAVED}') or slot_name = '{RECEIVER}'"
    );
    server.query(&sql).map(drop)
}
