//! A throwaway PostgreSQL, and the WAL of many small transactions that one writes.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Rows of `pgbench_accounts` in 100,000: pages enough that most of the WAL is their images after the checkpoint, as on a busy server.
const SCALE: &str = "30";
/// Transactions of each client between two looks at how much WAL there is.
const TRANSACTIONS: &str = "1000";
/// Nothing is recycled, nothing waits for a disk, no checkpoint comes in between.
const WAL_OPTIONS: &str = "-c listen_addresses= -c fsync=off -c synchronous_commit=off -c wal_keep_size=8GB -c max_wal_size=4GB \
    -c shared_buffers=256MB -c jit=off";

/// Of a log that are shown when a server does not start.
const LOG_LINES: usize = 12;
/// Programs of others look for the system's by it.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Of a server that was restored: it archives nothing.
const RESTORED_OPTIONS: &str =
    "-c listen_addresses= -c shared_buffers=256MB -c max_wal_size=4GB -c jit=off -c archive_mode=off";

/// WAL files that a server left.
#[derive(Debug)]
pub struct ServerWal {
    /// Its directory of WAL.
    pub directory: PathBuf,
    /// Name of the first segment of pgbench's transactions.
    pub first: String,
    _scratch: TempDir,
}

/// Runs pgbench on a new cluster until there are `bytes` of WAL; the server is gone afterwards, the files are not.
///
/// # Errors
/// A program of `bin` failed.
pub fn pgbench_wal(bin: &Path, bytes: u64) -> io::Result<ServerWal> {
    let scratch = tempfile::Builder::new().prefix("seawall-bench").tempdir()?;
    let mut server = Server::create(bin, scratch.path(), WAL_OPTIONS)?;
    server.run("pgbench", ["-q", "-i", "-s", SCALE])?;
    server.query("checkpoint")?;
    server.query("select pg_switch_wal()")?;
    let begin = server.query("select pg_current_wal_insert_lsn()")?;
    let first = server.query("select pg_walfile_name(pg_current_wal_insert_lsn())")?;
    let is_enough = format!("select pg_current_wal_insert_lsn() - '{begin}'::pg_lsn > {bytes}");
    while server.query(&is_enough)? != "t" {
        server.run("pgbench", ["-n", "-c", "4", "-j", "2", "-t", TRANSACTIONS])?;
    }
    server.stop("fast")?;
    Ok(ServerWal {
        directory: scratch.path().join("data/pg_wal"),
        first,
        _scratch: scratch,
    })
}

/// One cluster in `<directory>/data`, with its socket in `directory`. Dropping it stops the server.
#[derive(Debug)]
pub struct Server {
    bin: PathBuf,
    directory: PathBuf,
    user: Option<(u32, u32)>,
    is_running: bool,
}

impl Server {
    /// Makes a cluster with data checksums and starts it. `directory` is ours and is given to the server's user; `options` go to
    /// `postgres`.
    ///
    /// # Errors
    /// A program of `bin` failed.
    pub fn create(bin: &Path, directory: &Path, options: &str) -> io::Result<Self> {
        let mut server = Server {
            bin: bin.to_owned(),
            directory: directory.to_owned(),
            user: server_user(directory)?,
            is_running: false,
        };
        server.give(directory)?;
        server.make()?;
        server.start(options)?;
        Ok(server)
    }

    /// Lets the server's user own a file or a directory.
    ///
    /// # Errors
    /// It is not ours to give.
    pub fn give(&self, path: &Path) -> io::Result<()> {
        match self.user {
            Some((uid, gid)) => chown(path, Some(uid), Some(gid)),
            None => Ok(()),
        }
    }

    /// Where the server's programs are.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Where its socket is, and everything else of the run.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Id of the server's first process.
    ///
    /// # Errors
    /// It does not run.
    pub fn process(&self) -> io::Result<u32> {
        let text = std::fs::read_to_string(self.data().join("postmaster.pid"))?;
        let id = text.lines().next().and_then(|line| line.trim().parse().ok());
        id.ok_or_else(|| io::Error::other("no process in postmaster.pid"))
    }

    /// Starts a server on a cluster that was restored into `<directory>/data`, with the programs and the user of this one.
    ///
    /// # Errors
    /// It does not start.
    pub fn adopt(&self, directory: &Path) -> io::Result<Self> {
        let mut server = Server {
            bin: self.bin.clone(),
            directory: directory.to_owned(),
            user: self.user,
            is_running: false,
        };
        server.start(RESTORED_OPTIONS)?;
        Ok(server)
    }

    fn make(&self) -> io::Result<()> {
        let data = self.data();
        let args = [
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
            "-k",
            "-D",
        ];
        self.run("initdb", args.iter().map(OsStr::new).chain([data.as_os_str()]))
            .map(drop)
    }

    fn start(&mut self, options: &str) -> io::Result<()> {
        let data = self.data();
        let options = format!("{options} -c unix_socket_directories={}", self.directory.display());
        let log = self.directory.join("log");
        self.is_running = true;
        let args = [
            OsStr::new("start"),
            OsStr::new("-w"),
            OsStr::new("-t"),
            OsStr::new("600"),
            OsStr::new("-D"),
            data.as_os_str(),
        ];
        let more = [
            OsStr::new("-l"),
            log.as_os_str(),
            OsStr::new("-o"),
            OsStr::new(&options),
        ];
        self.run("pg_ctl", args.into_iter().chain(more))
            .map(drop)
            .map_err(|error| {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                let lines: Vec<&str> = said.lines().rev().take(LOG_LINES).collect();
                io::Error::other(format!("{error}; its log, the last line first: {}", lines.join(" / ")))
            })
    }

    /// Stops it as `pg_ctl stop -m` does.
    ///
    /// # Errors
    /// It does not stop.
    pub fn stop(&mut self, mode: &str) -> io::Result<()> {
        self.is_running = false;
        let data = self.data();
        let args = ["stop", "-w", "-m", mode, "-D"];
        self.run("pg_ctl", args.iter().map(OsStr::new).chain([data.as_os_str()]))
            .map(drop)
    }

    /// What psql prints for a statement, unaligned.
    ///
    /// # Errors
    /// It failed.
    pub fn query(&self, sql: &str) -> io::Result<String> {
        self.run("psql", ["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql])
    }

    /// A command of the server's user, with an environment that leads to this server and nothing else in it.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
            .current_dir(&self.directory)
            .env_clear()
            .envs([("LC_ALL", "C"), ("TZ", "UTC"), ("PATH", PATH), ("PGUSER", "postgres")])
            .env("PGDATABASE", "postgres")
            .env("PGHOST", &self.directory);
        command
    }

    /// Runs a program of the server to its end and gives what it printed.
    ///
    /// # Errors
    /// It failed.
    pub fn run<A: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = A>) -> io::Result<String> {
        let mut command = self.command(&self.bin.join(program));
        let output_file = self.directory.join(format!("{program}.out"));
        command.args(args);
        // A file, because a server that was started would hold a pipe open.
        let file = std::fs::File::create(&output_file)?;
        let status = command.stderr(file.try_clone()?).stdout(file).status();
        let printed = std::fs::read_to_string(&output_file)?;
        match status {
            Ok(status) if status.success() => Ok(printed.trim().to_owned()),
            Ok(status) => Err(io::Error::other(format!("{program} ended with {status}: {printed}"))),
            Err(error) => Err(io::Error::other(format!(
                "{}: {error}",
                self.bin.join(program).display()
            ))),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.is_running {
            // Another error is on its way already.
            let _ = self.stop("immediate");
        }
    }
}

/// PostgreSQL refuses root: then the server is run by user `postgres`. `of` was made by us.
fn server_user(of: &Path) -> io::Result<Option<(u32, u32)>> {
    if std::fs::metadata(of)?.uid() != 0 {
        return Ok(None);
    }
    let id = |flag| {
        let output = Command::new("id").args([flag, "postgres"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        text.parse()
            .map_err(|_| io::Error::other("PostgreSQL does not run as root, and there is no user postgres"))
    };
    Ok(Some((id("-u")?, id("-g")?)))
}
