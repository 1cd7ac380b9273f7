//! WAL-G and WAL-RUS, which have one command line: where a program is given. Compression by zstd 3, two at once, as for all.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peers::backup::{Taken, take};
use crate::peers::process::{Ran, measure};
use crate::peers::program::{Able, Lacks, Over, Program};
use crate::peers::settings::JOBS;
use crate::server::Server;

/// Increments on one another.
const STEPS_MAX: &str = "30";

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// In Go.
    WalG,
    /// In Rust.
    WalRus,
}

impl Flavour {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Flavour::WalG => "WAL-G",
            Flavour::WalRus => "WAL-RUS",
        }
    }
}

/// One of them with a repository in a directory of its own.
#[derive(Debug)]
pub struct WalG<'a> {
    flavour: Flavour,
    server: &'a Server,
    program: PathBuf,
    home: PathBuf,
}

impl<'a> WalG<'a> {
    /// Makes an empty repository in `home`.
    ///
    /// # Errors
    /// It failed.
    pub fn create(flavour: Flavour, server: &'a Server, program: &Path, home: &Path) -> io::Result<Self> {
        for directory in [home.to_owned(), home.join("repo")] {
            std::fs::create_dir(&directory)?;
            server.give(&directory)?;
        }
        // The server's user may not see where it was given; for its commands the environment is in a file.
        let copy = home.join("program");
        std::fs::copy(program, &copy)?;
        std::fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let new = WalG {
            flavour,
            server,
            program: copy,
            home: home.to_owned(),
        };
        let mut run = "#!/bin/sh\n".to_owned();
        for (name, value) in new.environment() {
            run += &format!("export {name}='{value}'\n");
        }
        run += &format!("exec {} \"$@\"\n", new.program.display());
        std::fs::write(home.join("run.sh"), run)?;
        Ok(new)
    }

    fn environment(&self) -> [(&'static str, String); 9] {
        let jobs = JOBS.to_string();
        [
            ("WALG_FILE_PREFIX", format!("{}/repo", self.home.display())),
            ("WALG_COMPRESSION_METHOD", "zstd".to_owned()),
            ("WALG_COMPRESSION_LEVEL", "3".to_owned()),
            ("WALG_DELTA_MAX_STEPS", STEPS_MAX.to_owned()),
            ("WALG_UPLOAD_CONCURRENCY", jobs.clone()),
            ("WALG_UPLOAD_DISK_CONCURRENCY", jobs.clone()),
            ("WALG_DOWNLOAD_CONCURRENCY", jobs.clone()),
            ("GOMAXPROCS", jobs),
            ("PGDATA", self.server.data().to_string_lossy().into_owned()),
        ]
    }

    fn command(&self) -> Command {
        let mut command = self.server.command(Path::new("/bin/sh"));
        command.arg(self.home.join("run.sh"));
        command
    }

    /// Restores; that it is durable is asked for apart, because not both see to it.
    fn restored(&self, to: &Path) -> io::Result<Ran> {
        let mut command = self.server.command(Path::new("/bin/sh"));
        command
            .args(["-ec", "/bin/sh \"$0\" backup-fetch \"$1\" LATEST; sync -f \"$1\""])
            .args([self.home.join("run.sh").as_path(), to]);
        measure(&mut command, &self.home.join("restore.out"))
    }
}

impl Program for WalG<'_> {
    fn name(&self) -> &'static str {
        self.flavour.name()
    }

    fn home(&self) -> &Path {
        &self.home
    }

    fn backup(&self, is_increment: bool) -> io::Result<Able<Taken>> {
        let mut command = self.command();
        command.arg("backup-push");
        if !is_increment {
            command.arg("--full");
        }
        command.arg(self.server.data());
        let output = self.home.join("backup.out");
        let is_backup = |path: &Path| path.iter().any(|part| part == "basebackups_005");
        take(self.server, &mut command, &output, &self.home.join("repo"), is_backup).map(Ok)
    }

    fn restore(&self, to: &Path, over: Over) -> io::Result<Able<Ran>> {
        match over {
            Over::Nothing => self.restored(to).map(Ok),
            Over::Cluster => Ok(Err(Lacks("only into an empty directory"))),
        }
    }

    fn push(&self, _data: &Path) -> Able<String> {
        Ok(format!("/bin/sh {}/run.sh wal-push %p", self.home.display()))
    }

    fn get(&self, _data: &Path) -> Able<String> {
        Ok(format!("/bin/sh {}/run.sh wal-fetch %f %p", self.home.display()))
    }

    fn is_wal(&self, path: &Path) -> bool {
        path.iter().any(|part| part == "wal_005")
    }

    fn recover(&self, to: &Path, time: &str) -> io::Result<Able<Ran>> {
        let ran = self.restored(to)?;
        let Ok(get) = self.get(to) else {
            return Err(io::Error::other("no restore_command"));
        };
        super::base_backup::recovery_settings(self.server, to, &get, time)?;
        Ok(Ok(ran))
    }
}
