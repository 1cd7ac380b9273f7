//! PostgreSQL's own programs: `pg_basebackup`, and the directory that `pg_receivewal` fills.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peers::backup::{Taken, take};
use crate::peers::process::{Ran, measure};
use crate::peers::program::{Able, Lacks, Over, Program};
use crate::peers::settings::JOBS;
use crate::server::Server;

/// How `pg_basebackup` stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One archive, compressed by the server with zstd 3.
    Compressed,
    /// Files as they are.
    Plain,
}

/// `pg_basebackup` into a directory of its own.
#[derive(Debug)]
pub struct BaseBackup<'a> {
    server: &'a Server,
    form: Form,
    home: PathBuf,
}

impl<'a> BaseBackup<'a> {
    /// Nothing is made before the backup.
    #[must_use]
    pub fn new(server: &'a Server, form: Form, home: &Path) -> Self {
        BaseBackup {
            server,
            form,
            home: home.to_owned(),
        }
    }

    /// Where the files of `pg_receivewal` belong for [`Program::recover`].
    #[must_use]
    pub fn received(&self) -> PathBuf {
        self.home.join("received")
    }

    /// Unpacks the archive; nobody else makes it durable.
    fn unpacked(&self, to: &Path) -> io::Result<Able<Ran>> {
        if self.form == Form::Plain {
            return Ok(Err(Lacks("its files are the cluster already")));
        }
        let mut command = unpack(self.server, &self.home.join("backup/base.tar.zst"), to);
        measure(&mut command, &self.home.join("restore.out")).map(Ok)
    }
}

fn unpack(server: &Server, archive: &Path, to: &Path) -> Command {
    let mut command = server.command(Path::new("/bin/sh"));
    command
        .args([
            "-ec",
            "mkdir -m 700 \"$1\"; tar --use-compress-program zstd -xf \"$0\" -C \"$1\"; sync -f \"$1\"",
        ])
        .args([archive, to]);
    command
}

/// What a user of a program that leaves it to him would write: how to get WAL, and where to stop.
pub(super) fn recovery_settings(server: &Server, data: &Path, get: &str, time: &str) -> io::Result<()> {
    let mut settings = String::new();
    for (name, value) in [
        ("restore_command", get),
        ("recovery_target_time", time),
        ("recovery_target_action", "promote"),
    ] {
        let _ = writeln!(settings, "{name} = '{value}'");
    }
    let path = data.join("postgresql.auto.conf");
    OpenOptions::new()
        .append(true)
        .open(path)?
        .write_all(settings.as_bytes())?;
    let signal = data.join("recovery.signal");
    std::fs::write(&signal, "")?;
    server.give(&signal)
}

impl Program for BaseBackup<'_> {
    fn name(&self) -> &'static str {
        match self.form {
            Form::Compressed => "pg_basebackup zstd 3",
            Form::Plain => "pg_basebackup plain",
        }
    }

    fn home(&self) -> &Path {
        &self.home
    }

    fn backup(&self, is_increment: bool) -> io::Result<Able<Taken>> {
        if is_increment {
            return Ok(Err(Lacks("increments came with PostgreSQL 17")));
        }
        std::fs::create_dir(&self.home)?;
        self.server.give(&self.home)?;
        let mut command = self.server.command(&self.server.bin().join("pg_basebackup"));
        command
            .args(["-X", "none", "-c", "fast", "-D"])
            .arg(self.home.join("backup"));
        match self.form {
            Form::Compressed => command
                .args(["-F", "t"])
                .arg(format!("--compress=server-zstd:level=3,workers={JOBS}")),
            Form::Plain => command.args(["-F", "p"]),
        };
        let output = self.home.join("backup.out");
        take(self.server, &mut command, &output, &self.home.join("backup"), |_| true).map(Ok)
    }

    fn restore(&self, to: &Path, over: Over) -> io::Result<Able<Ran>> {
        match over {
            Over::Nothing => self.unpacked(to),
            Over::Cluster => Ok(Err(Lacks("unpacks everything again"))),
        }
    }

    fn push(&self, _data: &Path) -> Able<String> {
        Err(Lacks("pg_receivewal receives, below"))
    }

    fn get(&self, _data: &Path) -> Able<String> {
        Ok(format!("cp {}/%f %p", self.received().display()))
    }

    fn is_wal(&self, path: &Path) -> bool {
        path.starts_with("received")
    }

    fn recover(&self, to: &Path, time: &str) -> io::Result<Able<Ran>> {
        let Ok(ran) = self.unpacked(to)? else {
            return Ok(Err(Lacks("its files are the cluster already")));
        };
        let get = format!("cp {}/%f %p", self.received().display());
        recovery_settings(self.server, to, &get, time)?;
        Ok(Ok(ran))
    }
}
