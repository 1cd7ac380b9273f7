//! The table of contents of a dump, as `pg_restore --list` prints it: it stands at the head, so the rest is not needed.
//!
//! A line is `ID; CLASS OID TEXT`, and the text begins with what the entry is (docs, "pg_restore: --list"). Class and OID are those of the
//! object in the catalog that was dumped; both are 0 where the entry is none, and for the rows of a table the OID alone is the table's.

use std::path::Path;
use std::process::Stdio;

use store::file_table::FileEntry;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::ChildStdin;
use tokio::task::JoinHandle;

use super::child::Running;
use super::programs::Programs;
use super::refusal::failed;
use super::server::Server;
use crate::{ComponentError, Stored};

/// How the custom format of `pg_dump` begins.
pub(super) const MAGIC: &[u8] = b"PGDMP";

/// An entry of a table of contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry<'l> {
    /// OID of the catalog that the object is in.
    pub class: u32,
    /// The object's.
    pub oid: u32,
    /// What it is, its schema, its name, its owner.
    pub text: &'l str,
}

impl<'l> Entry<'l> {
    /// None: a comment.
    pub fn parse(line: &'l str) -> Option<Self> {
        let (id, rest) = line.split_once("; ")?;
        id.parse::<u32>().ok()?;
        let (class, rest) = rest.split_once(' ')?;
        let (oid, text) = rest.split_once(' ')?;
        Some(Entry {
            class: class.parse().ok()?,
            oid: oid.parse().ok()?,
            text,
        })
    }

    /// The table whose rows it holds.
    pub fn rows_of(&self) -> Option<u32> {
        (self.class == 0 && self.text.starts_with("TABLE DATA ")).then_some(self.oid)
    }
}

/// A `pg_restore --list` that is being fed.
#[derive(Debug)]
pub(super) struct Listing {
    running: Running,
    input: Option<ChildStdin>,
    lines: JoinHandle<Vec<String>>,
}

impl Listing {
    /// Begins one, that keeps the lines that are `wanted`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(programs: &Programs, server: &Server, wanted: fn(&str) -> bool) -> Result<Self, ComponentError> {
        let mut command = server.program(&programs.path("pg_restore"));
        command.arg("--list").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = Running::start(command, "listing the dump")?;
        let output = running.child.stdout.take().ok_or(ComponentError::Stopped)?;
        let mut read = BufReader::new(output).lines();
        let lines = tokio::spawn(async move {
            let mut lines = Vec::new();
            while let Ok(Some(line)) = read.next_line().await {
                if wanted(&line) {
                    lines.push(line);
                }
            }
            lines
        });
        Ok(Listing {
            input: running.child.stdin.take(),
            running,
            lines,
        })
    }

    /// The next bytes of the dump; returns false when it needs no more.
    pub async fn feed(&mut self, bytes: &[u8]) -> bool {
        match &mut self.input {
            // Whoever has seen enough closes it; why it ended is told at the end.
            Some(input) => input.write_all(bytes).await.is_ok(),
            None => false,
        }
    }

    /// Its lines.
    ///
    /// # Errors
    /// It could not read what it was given.
    pub async fn finish(mut self) -> Result<Vec<String>, ComponentError> {
        drop(self.input.take());
        let lines = self.lines.await;
        self.running.end().await?;
        lines.map_err(|_| ComponentError::Stopped)
    }
}

/// The table of contents of a stored dump; of its content no more is fetched than its head.
///
/// # Errors
/// The repository failed, or it is not a dump that these programs can read.
pub async fn contents(
    stored: &Stored,
    entry: &FileEntry,
    programs: &Programs,
    server: &Server,
) -> Result<Vec<String>, ComponentError> {
    let mut listing = Listing::start(programs, server, |_| true)?;
    let mut reader = stored.reader(entry);
    'feeding: while let Some(chunks) = reader.next().await? {
        for bytes in chunks {
            if !listing.feed(&bytes).await {
                break 'feeding;
            }
        }
    }
    listing.finish().await
}

/// A file that does not begin as a dump does.
pub(super) fn no_dump(what: &str) -> ComponentError {
    failed(what, "it does not begin as a dump of the custom format does")
}

/// The lines of a file with a dump.
///
/// # Errors
/// It cannot be read.
pub(super) async fn of_file(programs: &Programs, server: &Server, file: &Path) -> Result<Vec<String>, ComponentError> {
    let input = std::fs::File::open(file).map_err(ComponentError::io("open", file))?;
    let mut command = server.program(&programs.path("pg_restore"));
    command.arg("--list").stdin(input).stdout(Stdio::piped());
    let mut running = Running::start(command, format!("listing \"{}\"", file.display()))?;
    let mut lines = Vec::new();
    if let Some(output) = running.child.stdout.take() {
        let mut read = BufReader::new(output).lines();
        while let Ok(Some(line)) = read.next_line().await {
            lines.push(line);
        }
    }
    running.end().await?;
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_told_from_a_comment_and_rows_from_their_table() {
        let entry = Entry::parse("3345; 0 16386 TABLE DATA public users app").unwrap();
        assert_eq!(
            (entry.rows_of(), entry.text),
            (Some(16386), "TABLE DATA public users app")
        );
        let table = Entry::parse("215; 1259 16386 TABLE public users app").unwrap();
        assert_eq!((table.class, table.rows_of()), (1259, None));
        assert_eq!(Entry::parse(";     Dumped from database version: 15.18"), None);
        assert_eq!(Entry::parse(""), None);
    }
}
