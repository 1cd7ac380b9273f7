//! Our agent and restic, each with a repository in a directory of its own.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peers::files::{Files, Written};
use crate::peers::process::{Ran, measure};
use crate::server::Server;

/// Our agent, for one server, with tables of components.
#[derive(Debug)]
pub struct Ours<'a> {
    server: &'a Server,
    programs: PathBuf,
    home: PathBuf,
}

impl<'a> Ours<'a> {
    /// Makes an empty repository in `home`; `tables` stand in the configuration.
    ///
    /// # Errors
    /// The agent failed.
    pub fn create(server: &'a Server, programs: &Path, home: &Path, tables: &str) -> io::Result<Self> {
        std::fs::create_dir(home)?;
        server.give(home)?;
        let (at, sockets) = (home.display(), server.directory().display());
        let config = format!(
            "[repository]\nurl = \"file://{at}/repo\"\n[keys]\ndirectory = \"{at}/keys\"\n\
             [cluster.main.postgres]\nhost = \"{sockets}\"\nuser = \"postgres\"\n\
             [cluster.main.status]\nstate_directory = \"{at}/state\"\n{tables}"
        );
        let path = home.join("seawall.toml");
        std::fs::write(&path, config)?;
        server.give(&path)?;
        let ours = Ours {
            server,
            programs: programs.to_owned(),
            home: home.to_owned(),
        };
        let output = home.join("init.out");
        measure(ours.command("wal-agent").args(["init", "--single-host"]), &output)?;
        measure(
            ours.command("wal-agent").args(["drop-slots", "--yes"]),
            &home.join("drop.out"),
        )?;
        Ok(ours)
    }

    /// Captures a component; what it took, and what it left.
    ///
    /// # Errors
    /// It failed.
    pub fn capture(&self, name: &str) -> io::Result<(Ran, Written)> {
        let before = self.files()?;
        let ran = measure(
            self.command("wal-agent").args(["backup", name, "--json"]),
            &self.home.join("backup.out"),
        )?;
        Ok((ran, self.files()?.since(&before)))
    }

    /// Restores the newest backup of a component, which is compared; by `compares` it has to be.
    ///
    /// # Errors
    /// It failed, or differs.
    pub fn restore(&self, name: &str, to: &Path) -> io::Result<Ran> {
        let mut command = self.command("wal-restore");
        command.args(["component", name, "--json", "--to"]).arg(to);
        let ran = measure(&mut command, &self.home.join("restore.out"))?;
        let said: serde_json::Value = serde_json::from_str(&ran.printed)?;
        match said["differs"].as_array() {
            Some(differs) if differs.is_empty() => Ok(ran),
            differs => Err(io::Error::other(format!("{name} differs: {differs:?}"))),
        }
    }

    /// Prints what is in one entry of the newest backup.
    ///
    /// # Errors
    /// It failed.
    pub fn print(&self, name: &str, entry: &str) -> io::Result<Ran> {
        let mut command = self.command("wal-restore");
        into_nothing(
            self.server,
            command.args(["component", name, "--cat", entry]),
            &self.home,
        )
    }

    fn files(&self) -> io::Result<Files> {
        Files::below(&self.home.join("repo"), |_| true)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.server.command(&self.programs.join(program));
        // As the units have it.
        command
            .env("SEAWALL_CONFIG", self.home.join("seawall.toml"))
            .env("MALLOC_MMAP_THRESHOLD_", "262144")
            .env("NO_COLOR", "1");
        command
    }
}

/// restic at its defaults.
#[derive(Debug)]
pub struct Restic<'a> {
    server: &'a Server,
    program: PathBuf,
    home: PathBuf,
}

impl<'a> Restic<'a> {
    /// Makes an empty repository in `home`.
    ///
    /// # Errors
    /// restic failed.
    pub fn create(server: &'a Server, program: &Path, home: &Path) -> io::Result<Self> {
        std::fs::create_dir(home)?;
        server.give(home)?;
        let restic = Restic {
            server,
            program: program.to_owned(),
            home: home.to_owned(),
        };
        measure(restic.command().arg("init"), &home.join("init.out"))?;
        Ok(restic)
    }

    /// Backs a directory up.
    ///
    /// # Errors
    /// restic failed.
    pub fn capture(&self, path: &Path) -> io::Result<(Ran, Written)> {
        let before = self.files()?;
        let ran = measure(self.command().arg("backup").arg(path), &self.home.join("backup.out"))?;
        Ok((ran, self.files()?.since(&before)))
    }

    /// Backs up what a shell command prints, the way its manual has it.
    ///
    /// # Errors
    /// restic or the command failed.
    pub fn capture_printed(&self, shell: &str, name: &str) -> io::Result<(Ran, Written)> {
        let before = self.files()?;
        let mut command = self.command();
        command.args([
            "backup",
            "--stdin-filename",
            name,
            "--stdin-from-command",
            "--",
            "/bin/sh",
            "-c",
            shell,
        ]);
        let ran = measure(&mut command, &self.home.join("backup.out"))?;
        Ok((ran, self.files()?.since(&before)))
    }

    /// Restores the newest snapshot.
    ///
    /// # Errors
    /// restic failed.
    pub fn restore(&self, to: &Path) -> io::Result<Ran> {
        let mut command = self.command();
        command.args(["restore", "latest", "--target"]).arg(to);
        measure(&mut command, &self.home.join("restore.out"))
    }

    /// Prints one file of the newest snapshot.
    ///
    /// # Errors
    /// restic failed.
    pub fn print(&self, file: &str) -> io::Result<Ran> {
        into_nothing(self.server, self.command().args(["dump", "latest", file]), &self.home)
    }

    fn files(&self) -> io::Result<Files> {
        Files::below(&self.home.join("repo"), |_| true)
    }

    fn command(&self) -> Command {
        let mut command = self.server.command(&self.program);
        command
            .arg("--repo")
            .arg(self.home.join("repo"))
            .arg("--cache-dir")
            .arg(self.home.join("cache"))
            .env("RESTIC_PASSWORD", "only for this run")
            .env("GOMAXPROCS", "2");
        command
    }
}

/// Runs a command of which only the time counts, not what it prints.
fn into_nothing(server: &Server, command: &mut Command, home: &Path) -> io::Result<Ran> {
    // A shell stands between, because what a program prints is kept otherwise.
    let mut shell = server.command(Path::new("/bin/sh"));
    shell.args(["-c", "exec \"$0\" \"$@\" >/dev/null"]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    measure(&mut shell, &home.join("print.out"))
}
