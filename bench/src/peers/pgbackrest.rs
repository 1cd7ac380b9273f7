//! pgBackRest, set as its manual would have it for such a server.

use std::io;
use std::path::{Path, PathBuf};

use crate::peers::backup::{Taken, take};
use crate::peers::process::{Ran, measure};
use crate::peers::program::{Able, Over, Program};
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
    /// Its name.
    pub const NAME: &'static str = "pgBackRest";

    /// Makes an empty repository in `home`.
    ///
    /// # Errors
    /// It failed.
    pub fn create(server: &'a Server, program: &Path, home: &Path) -> io::Result<Self> {
        std::fs::create_dir(home)?;
        server.give(home)?;
        let (at, data, sockets) = (home.display(), server.data(), server.directory().display());
        // Nothing of it expires and no backup waits for WAL, so that a backup is all that it does.
        let config = format!(
            "[global]\nrepo1-path={at}/repo\nlog-path={at}\nlock-path={at}/lock\nspool-path={at}/spool\nlog-level-file=off\n\
             log-level-console=warn\ncompress-type=zst\ncompress-level=3\nprocess-max={JOBS}\nstart-fast=y\nrepo1-bundle=y\n\
             repo1-block=y\nrepo1-retention-full=9999999\nexpire-auto=n\narchive-check=n\narchive-async=y\n\
             archive-get-queue-max=512MB\n\
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

    fn words(&self) -> String {
        let config = self.home.join("pgbackrest.conf");
        format!(
            "{} --config={} --stanza=bench",
            self.program.display(),
            config.display()
        )
    }

    fn command(&self) -> std::process::Command {
        let mut command = self.server.command(&self.program);
        command
            .arg("--config")
            .arg(self.home.join("pgbackrest.conf"))
            .args(["--stanza", "bench"]);
        command
    }

    fn restored(&self, to: &Path, args: &[&str]) -> io::Result<Ran> {
        if !to.exists() {
            std::fs::create_dir(to)?;
            self.server.give(to)?;
        }
        let mut command = self.command();
        command.arg("--pg1-path").arg(to).args(args).arg("restore");
        measure(&mut command, &self.home.join("restore.out"))
    }
}

impl Program for PgBackRest<'_> {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn home(&self) -> &Path {
        &self.home
    }

    fn backup(&self, is_increment: bool) -> io::Result<Able<Taken>> {
        let mut command = self.command();
        command.args(["--type", if is_increment { "incr" } else { "full" }, "backup"]);
        let output = self.home.join("backup.out");
        let is_backup = |path: &Path| path.starts_with("backup");
        take(self.server, &mut command, &output, &self.home.join("repo"), is_backup).map(Ok)
    }

    fn restore(&self, to: &Path, over: Over) -> io::Result<Able<Ran>> {
        let mut args = vec!["--type", "immediate"];
        if over == Over::Cluster {
            args.push("--delta");
        }
        self.restored(to, &args).map(Ok)
    }

    fn push(&self, data: &Path) -> Able<String> {
        Ok(format!(
            "{} --pg1-path={} archive-push %p",
            self.words(),
            data.display()
        ))
    }

    fn get(&self, data: &Path) -> Able<String> {
        Ok(format!(
            "{} --pg1-path={} archive-get %f %p",
            self.words(),
            data.display()
        ))
    }

    fn is_wal(&self, path: &Path) -> bool {
        // What is put on and taken off its own list is no archive.
        path.starts_with("repo/archive") && path.extension().is_none_or(|end| end != "info" && end != "copy")
    }

    fn forget(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(self.home.join("spool")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn recover(&self, to: &Path, time: &str) -> io::Result<Able<Ran>> {
        let Ok(get) = self.get(to) else {
            return Err(io::Error::other("no restore_command"));
        };
        let (target, get) = (
            format!("--target={time}"),
            format!("--recovery-option=restore_command={get}"),
        );
        let args = [
            "--type=time",
            &target,
            "--target-action=promote",
            "--archive-mode=off",
            &get,
        ];
        self.restored(to, &args).map(Ok)
    }
}
