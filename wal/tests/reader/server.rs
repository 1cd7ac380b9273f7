//! A PostgreSQL 15 of its own for each test, removed at the end.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The role PostgreSQL runs as where the test runs as root.
const SERVER_USER: &str = "postgres";

/// A cluster with segments of 1 MiB in a directory under the system's temporary one.
pub(crate) struct Server {
    dir: PathBuf,
}

impl Server {
    pub(crate) fn start(name: &str) -> Server {
        let dir = std::env::temp_dir().join(format!("seawall-reader-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        if is_root() {
            run(Command::new("chown").arg(SERVER_USER).arg(&dir));
        }
        let server = Server { dir };
        let initdb = [
            "--wal-segsize=1",
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--locale=C",
        ];
        run(server.command("initdb").args(initdb).arg("-D").arg(server.data()));
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\nautovacuum = off\n\
             wal_level = logical\nwal_compression = on\nmax_prepared_transactions = 10\nwal_keep_size = '1GB'\n\
             checkpoint_timeout = '1h'\nmax_wal_size = '1GB'\n",
            server.dir.display()
        );
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(server.data().join("postgresql.conf"))
            .expect("conf");
        file.write_all(settings.as_bytes()).expect("settings written");
        server.restart();
        server
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// A program of the server, run as the user that may run it, with times in UTC.
    pub(crate) fn command(&self, program: &str) -> Command {
        let bin = std::env::var("SEAWALL_PG15_BIN").unwrap_or_else(|_| "/usr/lib/postgresql/15/bin".into());
        let program = PathBuf::from(bin).join(program);
        assert!(
            program.exists(),
            "no {}: set SEAWALL_PG15_BIN to the binaries of PostgreSQL 15",
            program.display()
        );
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid", SERVER_USER, "--regid", SERVER_USER, "--init-groups"])
                .arg(program);
            command
        } else {
            Command::new(program)
        };
        command
            .env("TZ", "UTC")
            .env("PGHOST", &self.dir)
            .env("PGUSER", "postgres")
            .current_dir(&self.dir);
        command
    }

    pub(crate) fn restart(&self) {
        let log = self.dir.join("log");
        run(self
            .command("pg_ctl")
            .args(["start", "--silent", "-w", "-D"])
            .arg(self.data())
            .arg("-l")
            .arg(log));
    }

    pub(crate) fn stop(&self, mode: &str) {
        run(self
            .command("pg_ctl")
            .args(["stop", "--silent", "-m", mode, "-D"])
            .arg(self.data()));
    }

    /// Runs a script outside of a transaction; returns what its queries returned.
    pub(crate) fn sql(&self, script: &str) -> String {
        let mut command = self.command("psql");
        command.args([
            "--no-psqlrc",
            "--quiet",
            "-At",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            "postgres",
        ]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql");
        child
            .stdin
            .take()
            .expect("piped")
            .write_all(script.as_bytes())
            .expect("script taken");
        let output = child.wait_with_output().expect("psql");
        assert!(output.status.success(), "psql: {}", output.status);
        String::from_utf8(output.stdout).expect("text")
    }

    pub(crate) fn pgbench(&self) {
        run(self
            .command("pgbench")
            .args(["--initialize", "--quiet", "--scale=1", "postgres"])
            .stderr(Stdio::null()));
        let load = [
            "--client=4",
            "--jobs=2",
            "--transactions=150",
            "--no-vacuum",
            "postgres",
        ];
        run(self
            .command("pgbench")
            .args(load)
            .stdout(Stdio::null())
            .stderr(Stdio::null()));
    }

    /// Ends with a commit, so that all of it is in the files.
    pub(crate) fn flush_lsn(&self) -> u64 {
        let lsn =
            self.sql("CREATE TABLE IF NOT EXISTS flushed (); DROP TABLE flushed; SELECT pg_current_wal_flush_lsn();");
        let (high, low) = lsn.trim().split_once('/').expect("an LSN");
        let hex = |text: &str| u64::from_str_radix(text, 16).expect("hexadecimal");
        hex(high) << 32 | hex(low)
    }

    pub(crate) fn system_identifier(&self) -> u64 {
        let output = self
            .command("pg_controldata")
            .arg(self.data())
            .env("LC_ALL", "C")
            .output()
            .expect("pg_controldata");
        let text = String::from_utf8(output.stdout).expect("text");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Database system identifier:"))
            .expect("an identifier");
        line.trim().parse().expect("a number")
    }

    pub(crate) fn wal(&self) -> PathBuf {
        self.data().join("pg_wal")
    }

    pub(crate) fn segment_name(&self, timeline: u32, number: u64) -> String {
        format!("{timeline:08X}{:08X}{:08X}", number >> 12, number & 0xFFF)
    }

    pub(crate) fn segment(&self, timeline: u32, number: u64) -> Vec<u8> {
        fs::read(self.wal().join(self.segment_name(timeline, number))).expect("a segment")
    }

    /// The segments of a timeline, by number.
    fn segments(&self, timeline: u32) -> Vec<u64> {
        let names = fs::read_dir(self.wal())
            .expect("pg_wal")
            .map(|entry| entry.expect("an entry").file_name());
        let prefix = format!("{timeline:08X}");
        let mut numbers: Vec<u64> = names
            .filter_map(|name| {
                let rest = name.to_str()?.strip_prefix(&prefix)?.to_owned();
                let (high, low) = rest.split_at_checked(8)?;
                Some(u64::from_str_radix(high, 16).ok()? << 12 | u64::from_str_radix(low, 16).ok()?)
            })
            .collect();
        numbers.sort_unstable();
        numbers
    }

    pub(crate) fn first_segment_of(&self, timeline: u32) -> u64 {
        self.segments(timeline)[0]
    }

    pub(crate) fn remove_segments_from(&self, timeline: u32, first: u64) {
        for number in self.segments(timeline).into_iter().filter(|number| *number >= first) {
            fs::remove_file(self.wal().join(self.segment_name(timeline, number))).expect("removed");
        }
    }

    /// Makes the next start an archive recovery that finds no more WAL.
    pub(crate) fn promote_on_start(&self) {
        fs::write(self.data().join("recovery.signal"), "").expect("signal");
        if is_root() {
            run(Command::new("chown")
                .arg(SERVER_USER)
                .arg(self.data().join("recovery.signal")));
        }
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(self.data().join("postgresql.conf"))
            .expect("conf");
        file.write_all(b"restore_command = 'false'\n")
            .expect("settings written");
    }

    pub(crate) fn wait_for_promotion(&self) {
        let promoted = (0..1000).any(|_| self.sql("SELECT pg_is_in_recovery();").trim() == "f");
        assert!(promoted, "the server is still in recovery");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already stopped in most tests; then this fails, and nothing is wrong.
        let mut stop = self.command("pg_ctl");
        stop.args(["stop", "--silent", "-m", "immediate", "-D"])
            .arg(self.data())
            .stderr(Stdio::null());
        let _ = stop.status();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().expect("id");
    output.stdout.trim_ascii() == b"0"
}

fn run(command: &mut Command) {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    assert!(
        status.as_ref().is_ok_and(|status| status.success()),
        "{command:?}: {status:?}"
    );
}
