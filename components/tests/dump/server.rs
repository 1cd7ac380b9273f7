//! PostgreSQL servers on the loopback interface, each in a directory of its own, ended by id when the test lets go of them.

use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use components::dump;

use crate::ports::free_port;

/// Where the programs of a version are.
pub fn bin(major: u32) -> PathBuf {
    let variable = format!("SEAWALL_PG{major}_BIN");
    let path = std::env::var_os(&variable);
    PathBuf::from(path.unwrap_or_else(|| panic!("{variable} is not set; HINT: make setup, and load its env file")))
}

/// PostgreSQL does not run as root: there servers run as `postgres`.
pub fn user() -> Option<(u32, u32)> {
    let id = |flag: &str| {
        let output = Command::new("id").args([flag, "postgres"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    };
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    is_root.then(|| (id("-u"), id("-g")))
}

pub struct Server {
    pub major: u32,
    pub port: u16,
    pub directory: PathBuf,
    process: Child,
}

impl Server {
    /// With trust for everybody, unless `access` (lines of pg_hba.conf) says otherwise; over TCP only by `access`.
    pub fn start(major: u32, directory: &Path, settings: &[&str], access: &str) -> Server {
        std::fs::create_dir_all(directory).unwrap();
        let given = user();
        if let Some((uid, gid)) = given {
            chown(directory, Some(uid), Some(gid)).unwrap();
        }
        let command = |name: &str| {
            let mut command = Command::new(bin(major).join(name));
            command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
            if let Some((uid, gid)) = given {
                command.uid(uid).gid(gid);
            }
            command
        };
        let data = directory.join("data");
        let mut initdb = command("initdb");
        let made = initdb
            .args([
                "-A",
                "trust",
                "--no-sync",
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "--locale=C",
                "-D",
            ])
            .arg(&data);
        let made = made.output().unwrap();
        assert!(made.status.success(), "{made:?}");
        std::fs::write(data.join("pg_hba.conf"), format!("{access}\nlocal all all trust\n")).unwrap();
        let port = free_port();
        let log = File::create(directory.join("log")).unwrap();
        let mut postgres = command("postgres");
        postgres
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(directory)
            .args(["-p", &port.to_string()]);
        postgres.args([
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "fsync=off",
            "-c",
            "shared_buffers=32MB",
        ]);
        for setting in settings {
            postgres.args(["-c", setting]);
        }
        let process = postgres.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut server = Server {
            major,
            port,
            directory: directory.to_owned(),
            process,
        };
        server.wait_until_ready();
        server
    }

    fn wait_until_ready(&mut self) {
        let until = Instant::now() + Duration::from_secs(60);
        while !self.psql("postgres", "select 1").status.success() {
            let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            assert!(
                Instant::now() < until && self.process.try_wait().unwrap().is_none(),
                "{log}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(bin(self.major).join(program));
        command
            .env("PGHOST", &self.directory)
            .env("PGPORT", self.port.to_string());
        command.env("PGUSER", "postgres").env("LC_ALL", "C");
        command
    }

    fn psql(&self, database: &str, sql: &str) -> std::process::Output {
        let mut psql = self.client("psql");
        psql.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            database,
            "-c",
            sql,
        ]);
        psql.output().unwrap()
    }

    pub fn sql(&self, database: &str, sql: &str) -> String {
        let output = self.psql(database, sql);
        assert!(
            output.status.success(),
            "{sql}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// All that can be said of it, as SQL; without what is another one each time.
    pub fn all_of_it(&self) -> String {
        let output = self.client("pg_dumpall").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text
            .lines()
            .filter(|line| !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict "));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// By its socket, as its superuser.
    pub fn by_socket(&self) -> dump::Server {
        self.by(&[
            ("PGHOST", &self.directory.display().to_string()),
            ("PGUSER", "postgres"),
        ])
    }

    /// By TCP.
    pub fn by_tcp(&self, more: &[(&str, &str)]) -> dump::Server {
        self.by(&[&[("PGHOST", "127.0.0.1")], more].concat())
    }

    fn by(&self, variables: &[(&str, &str)]) -> dump::Server {
        let port = self.port.to_string();
        let all = [
            variables,
            &[
                ("PGPORT", port.as_str()),
                ("PGDATABASE", "postgres"),
                ("PATH", "/usr/bin:/bin"),
            ],
        ]
        .concat();
        dump::Server {
            environment: all
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
            ..dump::Server::default()
        }
    }

    /// As a power failure would.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = self.process.id().to_string();
        let _ = Command::new("kill")
            .args(["-QUIT", &pid])
            .stderr(Stdio::null())
            .status();
        let _ = self.process.wait();
    }
}
