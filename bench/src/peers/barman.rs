//! Barman by the streaming protocol: `pg_basebackup` under it, compressed by the server; WAL by `put-wal`, as its
//! `barman-wal-archive` does it, without the ssh between two hosts.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peers::archiver::{Place, segments};
use crate::peers::backup::{Taken, take};
use crate::peers::process::{Ran, measure};
use crate::peers::program::{Able, Lacks, Over, Program};
use crate::peers::settings::JOBS;
use crate::server::Server;

/// Barman with a home of its own.
#[derive(Debug)]
pub struct Barman<'a> {
    server: &'a Server,
    program: PathBuf,
    home: PathBuf,
}

impl<'a> Barman<'a> {
    /// Its name.
    pub const NAME: &'static str = "Barman";

    /// Makes an empty catalogue in `home`. It refuses to begin before it has seen WAL, so one segment is archived.
    ///
    /// # Errors
    /// It failed.
    pub fn create(server: &'a Server, program: &Path, home: &Path) -> io::Result<Self> {
        std::fs::create_dir(home)?;
        server.give(home)?;
        let (at, bin) = (home.display(), server.bin().display());
        let server_at = format!("host={} user=postgres dbname=postgres", server.directory().display());
        let config = format!(
            "[barman]\nbarman_home={at}/repo\nbarman_lock_directory={at}\nbarman_user=postgres\nlog_file={at}/barman.log\n\
             log_level=WARNING\n\
             [bench]\ndescription=bench\nconninfo={server_at}\nstreaming_conninfo={server_at}\nbackup_method=postgres\n\
             archiver=on\nbackup_compression=zstd\nbackup_compression_level=3\nbackup_compression_location=server\n\
             backup_compression_workers={JOBS}\ncompression=zstd\ncompression_level=3\npath_prefix={bin}\n\
             immediate_checkpoint=true\nstaging_path={at}/stage\nstaging_location=local\nparallel_jobs={JOBS}\n"
        );
        std::fs::write(home.join("barman.conf"), config)?;
        let put = format!(
            "set -e\nsums=$(mktemp -d)\ntrap 'rm -r \"$sums\"' EXIT\ncd \"${{1%/*}}\"\nsha256sum \"${{1##*/}}\" >\"$sums/SHA256SUMS\"\n\
             tar -cf - \"${{1##*/}}\" -C \"$sums\" SHA256SUMS | {} -c {at}/barman.conf put-wal bench\n",
            program.display()
        );
        std::fs::write(home.join("put.sh"), put)?;
        for name in ["stage", "repo"] {
            std::fs::create_dir(home.join(name))?;
            server.give(&home.join(name))?;
        }
        let new = Barman {
            server,
            program: program.to_owned(),
            home: home.to_owned(),
        };
        let first = current(server)?;
        new.archive_from(&first)?;
        Ok(new)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.server.command(&self.program);
        command.arg("-c").arg(self.home.join("barman.conf")).args(args);
        command
    }

    /// Archives the server's segments from `first` on to the present one.
    fn archive_from(&self, first: &str) -> io::Result<()> {
        self.server.query("select pg_create_restore_point('barman')")?;
        self.server.query("select pg_switch_wal()")?;
        let place = Place::of_server(self.server, &self.home.join("archiver"))?;
        let pushed = place.push(self, &segments(self.server, first, &current(self.server)?)?)?;
        pushed.map_err(|lacks| io::Error::other(lacks.0))?;
        std::fs::remove_dir_all(self.home.join("archiver"))
    }

    /// Restores; nobody else makes it durable.
    fn restored(&self, to: &Path, args: &[&str]) -> io::Result<Ran> {
        let mut command = self.server.command(Path::new("/bin/sh"));
        let script = format!(
            "{} -c {}/barman.conf restore bench latest {to} {} && sync -f {to}",
            self.program.display(),
            self.home.display(),
            args.join(" "),
            to = to.display()
        );
        command.args(["-c", &script]);
        measure(&mut command, &self.home.join("restore.out"))
    }
}

/// The segment that the server writes.
fn current(server: &Server) -> io::Result<String> {
    server.query("select pg_walfile_name(pg_current_wal_insert_lsn())")
}

impl Program for Barman<'_> {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn home(&self) -> &Path {
        &self.home
    }

    fn backup(&self, is_increment: bool) -> io::Result<Able<Taken>> {
        if is_increment {
            return Ok(Err(Lacks("increments need PostgreSQL 17")));
        }
        let first = current(self.server)?;
        let mut command = self.command(&["backup", "bench"]);
        let output = self.home.join("backup.out");
        let is_backup = |path: &Path| path.iter().any(|part| part == "base" || part == "meta");
        let taken = take(self.server, &mut command, &output, &self.home.join("repo"), is_backup)?;
        // It restores nothing whose WAL it has not seen.
        self.archive_from(&first)?;
        Ok(Ok(taken))
    }

    fn restore(&self, to: &Path, over: Over) -> io::Result<Able<Ran>> {
        match over {
            Over::Nothing => self.restored(to, &["--target-immediate", "--no-get-wal"]).map(Ok),
            Over::Cluster => Ok(Err(Lacks("not of a compressed backup"))),
        }
    }

    fn push(&self, _data: &Path) -> Able<String> {
        Ok(format!("/bin/sh {}/put.sh %p", self.home.display()))
    }

    fn after_pushes(&self) -> Option<Command> {
        Some(self.command(&["archive-wal", "bench"]))
    }

    fn get(&self, _data: &Path) -> Able<String> {
        let program = self.program.display();
        Ok(format!(
            "{program} -c {}/barman.conf get-wal bench %f >%p",
            self.home.display()
        ))
    }

    fn is_wal(&self, path: &Path) -> bool {
        path.iter().any(|part| part == "wals") && path.extension().is_none()
    }

    fn recover(&self, to: &Path, time: &str) -> io::Result<Able<Ran>> {
        let time = format!("\"{time}\"");
        let args = ["--target-time", &time, "--target-action", "promote", "--no-get-wal"];
        self.restored(to, &args).map(Ok)
    }
}
