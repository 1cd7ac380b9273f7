//! A throwaway PostgreSQL that writes the WAL of many small transactions.

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
const OPTIONS: &str = "-c listen_addresses= -c fsync=off -c synchronous_commit=off -c wal_keep_size=8GB -c max_wal_size=4GB \
    -c shared_buffers=256MB -c jit=off";

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
    let mut server = Server {
        bin: bin.to_owned(),
        directory: scratch.path().to_owned(),
        user: server_user(scratch.path())?,
        is_running: false,
    };
    if let Some((uid, gid)) = server.user {
        chown(scratch.path(), Some(uid), Some(gid))?;
    }
    server.start()?;
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

struct Server {
    bin: PathBuf,
    directory: PathBuf,
    user: Option<(u32, u32)>,
    is_running: bool,
}

impl Server {
    fn start(&mut self) -> io::Result<()> {
        let data = self.directory.join("data");
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
        self.run("initdb", args.iter().map(OsStr::new).chain([data.as_os_str()]))?;
        let options = format!("{OPTIONS} -c unix_socket_directories={}", self.directory.display());
        let log = self.directory.join("log");
        self.is_running = true;
        let args = [
            OsStr::new("start"),
            OsStr::new("-w"),
            OsStr::new("-D"),
            data.as_os_str(),
        ];
        let more = [
            OsStr::new("-l"),
            log.as_os_str(),
            OsStr::new("-o"),
            OsStr::new(&options),
        ];
        self.run("pg_ctl", args.into_iter().chain(more)).map(drop)
    }

    fn stop(&mut self, mode: &str) -> io::Result<()> {
        self.is_running = false;
        let data = self.directory.join("data");
        let args = ["stop", "-w", "-m", mode, "-D"];
        self.run("pg_ctl", args.iter().map(OsStr::new).chain([data.as_os_str()]))
            .map(drop)
    }

    fn query(&self, sql: &str) -> io::Result<String> {
        self.run("psql", ["-X", "-A", "-t", "-c", sql])
    }

    /// Runs a program to its end and gives what it printed.
    fn run<A: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = A>) -> io::Result<String> {
        let mut command = Command::new(self.bin.join(program));
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        let output_file = self.directory.join(format!("{program}.out"));
        command
            .args(args)
            .current_dir(&self.directory)
            .env_clear()
            .envs([("LC_ALL", "C"), ("TZ", "UTC"), ("PGUSER", "postgres")])
            .env("PGDATABASE", "postgres")
            .env("PGHOST", &self.directory);
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
