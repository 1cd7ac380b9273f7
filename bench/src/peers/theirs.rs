//! pgBackRest and `pg_basebackup`, each at what its manual would have for such a server, none with WAL.

use std::io;
use std::path::{Path, PathBuf};

use crate::peers::backup::{Taken, take};
use crate::peers::process::{Ran, measure};
use crate::peers::settings::JOBS;
use crate::server::Server;

/// pgBackRest with a repository in a directory of its own.
#[derive(Debug)]
pub struct PgBackRest<'a> {
    server: &'a Server,
    program: PathBuf,
    home: PathBuf,
}

impl<'a> PgBackRest<'a> {
    /// Makes an empty repository in `home`.
    ///
    /// # Errors
    /// It failed.
    pub fn create(server: &'a Server, program: &Path, home: &Path) -> io::Result<Self> {
        std::fs::create_dir(home)?;
        server.give(home)?;
        let (at, data, sockets) = (home.display(), server.data(), server.directory().display());
        // Nothing of it expires and nothing is archived, so that a backup is all that it does.
        let config = format!(
            "[global]\nrepo1-path={at}/repo\nlog-path={at}\nlock-path={at}/lock\nspool-path={at}/spool\nlog-level-file=off\n\
             log-level-console=warn\ncompress-type=zst\ncompress-level=3\nprocess-max={JOBS}\nstart-fast=y\nrepo1-bundle=y\n\
             repo1-block=y\nrepo1-retention-full=9999999\nexpire-auto=n\narchive-check=n\n\
             [bench]\npg1-path={}\npg1-socket-path={sockets}\npg1-user=postgres\n",
            data.display()
        );
        std::fs::write(home.join("pgbackrest.conf"), config)?;
        let new = PgBackRest {
            server,
            program: program.to_owned(),
            home: home.to_owned(),
        };
        let mut command = new.command();
        command.arg("stanza-create");
        measure(&mut command, &home.join("create.out"))?;
        Ok(new)
    }

    /// Takes a backup; `kind` is pgBackRest's: `full` or `incr`.
    ///
    /// # Errors
    /// It failed.
    pub fn backup(&self, kind: &str) -> io::Result<Taken> {
        let mut command = self.command();
        command.args(["--type", kind, "backup"]);
        let output = self.home.join("backup.out");
        take(self.server, &mut command, &output, &self.home.join("repo"), |path| {
            path.starts_with("backup")
        })
    }

    /// Restores the newest backup into a directory that exists.
    ///
    /// # Errors
    /// It failed.
    pub fn restore(&self, to: &Path, args: &[&str]) -> io::Result<Ran> {
        let mut command = self.command();
        command
            .arg("--pg1-path")
            .arg(to)
            .args(["--type", "immediate"])
            .args(args)
            .arg("restore");
        measure(&mut command, &self.home.join("restore.out"))
    }

    /// Removes everything.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn remove(self) -> io::Result<()> {
        std::fs::remove_dir_all(&self.home)
    }

    fn command(&self) -> std::process::Command {
        let mut command = self.server.command(&self.program);
        command
            .arg("--config")
            .arg(self.home.join("pgbackrest.conf"))
            .args(["--stanza", "bench"]);
        command
    }
}

/// How `pg_basebackup` stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseBackup {
    /// One archive, compressed by the server with zstd 3.
    Compressed,
    /// Files as they are.
    Plain,
}

impl BaseBackup {
    /// Takes one, and removes it.
    ///
    /// # Errors
    /// It failed.
    pub fn take(self, server: &Server, home: &Path) -> io::Result<Taken> {
        std::fs::create_dir(home)?;
        server.give(home)?;
        let mut command = server.command(&server.bin().join("pg_basebackup"));
        command
            .args(["-X", "none", "-c", "fast", "-D"])
            .arg(home.join("backup"));
        match self {
            BaseBackup::Compressed => command.args(["-F", "t", "--compress=server-zstd:3"]),
            BaseBackup::Plain => command.args(["-F", "p"]),
        };
        let taken = take(
            server,
            &mut command,
            &home.join("backup.out"),
            &home.join("backup"),
            |_| true,
        )?;
        std::fs::remove_dir_all(home)?;
        Ok(taken)
    }
}
