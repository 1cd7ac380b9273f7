//! A throw-away PostgreSQL cluster for the tests of this package.
//!
//! Binaries come from `SEAWALL_PG<major>_BIN` or Debian's place for the version, which is 15 where
//! none is named; a missing server fails the test. As root, the server runs as user `postgres`.
//! Everything is removed on drop.

#[path = "../../../tests/src/ports.rs"]
mod ports;

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use pg::conninfo::{ChannelBinding, ConnectOptions, Host, Password, Server, SslMode, TargetSessionAttrs};
use ports::free_ports;

pub(crate) struct Cluster {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) data: PathBuf,
    pub(crate) port: u16,
    major: u32,
    running: bool,
}

/// The version that most tests run with.
const MAJOR: u32 = 15;

/// Clients that each method of authentication is for, all with the password `secret`.
const HBA: &str = "\
local all all trust
local replication all trust
host replication scram 127.0.0.1/32 scram-sha-256
host replication md5 127.0.0.1/32 md5
host replication clear 127.0.0.1/32 password
hostssl replication tls 127.0.0.1/32 scram-sha-256
";

const CONF: &str = "\
listen_addresses = '127.0.0.1'
wal_level = replica
max_wal_senders = 10
max_replication_slots = 10
fsync = off
shared_buffers = 16MB
max_wal_size = 64MB
min_wal_size = 32MB
autovacuum = off
";

fn bin(major: u32, name: &str) -> PathBuf {
    let variable = format!("SEAWALL_PG{major}_BIN");
    let debian = format!("/usr/lib/postgresql/{major}/bin");
    let path = Path::new(&std::env::var(&variable).unwrap_or(debian)).join(name);
    assert!(path.exists(), "{} is missing: set {variable}", path.display());
    path
}

/// The user that must run the server, when we are root.
fn server_user() -> Option<(u32, u32)> {
    let id = |args: &[&str]| -> u32 {
        let output = Command::new("id").args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    };
    (id(&["-u"]) == 0).then(|| (id(&["-u", "postgres"]), id(&["-g", "postgres"])))
}

pub(crate) fn give_to_server(path: &Path) {
    if let Some((uid, gid)) = server_user() {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

fn command(major: u32, name: &str) -> Command {
    let mut command = Command::new(bin(major, name));
    command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
    command
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

fn empty_place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    give_to_server(directory.path());
    let data = directory.path().join("data");
    (directory, data)
}

impl Cluster {
    /// A new cluster with data checksums and the roles of `HBA`.
    pub(crate) fn start() -> Cluster {
        let mut cluster = Cluster::make(MAJOR);
        std::fs::write(cluster.data.join("pg_hba.conf"), HBA).unwrap();
        make_certificates(cluster.directory.path(), &cluster.data);
        cluster.up();
        cluster.sql(
            "CREATE ROLE scram REPLICATION LOGIN PASSWORD 'secret';
             CREATE ROLE tls REPLICATION LOGIN PASSWORD 'secret';
             CREATE ROLE clear REPLICATION LOGIN PASSWORD 'secret';
             SET password_encryption = md5;
             CREATE ROLE md5 REPLICATION LOGIN PASSWORD 'secret';",
        );
        cluster
    }

    /// A new cluster of a major version, with data checksums, for connections by the socket.
    pub(crate) fn start_version(major: u32) -> Cluster {
        let mut cluster = Cluster::make(major);
        cluster.up();
        cluster
    }

    fn make(major: u32) -> Cluster {
        let (directory, data) = empty_place();
        let mut initdb = command(major, "initdb");
        initdb
            .args(["-k", "-N", "-U", "postgres", "-A", "trust", "-D"])
            .arg(&data);
        run(&mut initdb);
        let conf = std::fs::read_to_string(data.join("postgresql.conf")).unwrap();
        std::fs::write(data.join("postgresql.conf"), conf + CONF).unwrap();
        Cluster {
            directory,
            data,
            port: free_ports(1).unwrap()[0],
            major,
            running: false,
        }
    }

    /// A running standby of this cluster.
    pub(crate) fn standby(&self) -> Cluster {
        let (directory, data) = empty_place();
        let mut copy = command(self.major, "pg_basebackup");
        copy.args(["-R", "-N", "-c", "fast", "-X", "stream", "-U", "postgres", "-D"])
            .arg(&data);
        copy.arg("-h")
            .arg(self.directory.path())
            .args(["-p", &self.port.to_string()]);
        run(&mut copy);
        let mut standby = Cluster {
            directory,
            data,
            port: free_ports(1).unwrap()[0],
            major: self.major,
            running: false,
        };
        standby.up();
        standby
    }

    fn pg_ctl(&self, args: &[&str]) {
        let mut ctl = command(self.major, "pg_ctl");
        ctl.args(args).args(["-w", "-D"]).arg(&self.data);
        // The server inherits these; a pipe would stay open as long as it runs.
        let status = ctl.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        assert!(status.success(), "pg_ctl {args:?}: {log}");
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn up(&mut self) {
        let sockets = self.directory.path().display();
        let options = format!("-p {} -c unix_socket_directories={sockets}", self.port);
        let log = self.log();
        self.pg_ctl(&["start", "-l", log.to_str().unwrap(), "-o", &options]);
        self.running = true;
    }

    pub(crate) fn stop(&mut self) {
        self.running = false;
        self.pg_ctl(&["stop", "-m", "fast"]);
    }

    /// Stops without any goodbye.
    pub(crate) fn crash(&mut self) {
        self.running = false;
        self.pg_ctl(&["stop", "-m", "immediate"]);
    }

    pub(crate) fn promote(&self) {
        self.pg_ctl(&["promote"]);
    }

    /// Runs SQL as superuser; the answer is unaligned text.
    pub(crate) fn sql(&self, text: &str) -> String {
        run(&mut self.psql(text)).trim().to_owned()
    }

    fn psql(&self, text: &str) -> Command {
        // Not every installation has its own, and this one talks to all.
        let mut psql = command(MAJOR, "psql");
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres"]);
        psql.arg("-h")
            .arg(self.directory.path())
            .args(["-p", &self.port.to_string()]);
        psql.args(["-d", "postgres", "-c", text]);
        psql
    }

    /// Whether the server accepts a statement.
    pub(crate) fn accepts(&self, text: &str) -> bool {
        self.psql(text).output().unwrap().status.success()
    }

    /// Output of `pg_controldata` for the label, without blanks around it.
    pub(crate) fn controldata(&self, label: &str) -> String {
        let text = run(command(self.major, "pg_controldata").arg(&self.data));
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(label)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {label} in {text}")).trim().to_owned()
    }

    pub(crate) fn by_socket(&self) -> ConnectOptions {
        let socket = Host::Unix(self.directory.path().to_owned());
        ConnectOptions {
            servers: vec![Server::new(socket, self.port)],
            target_session_attrs: TargetSessionAttrs::Any,
            user: "postgres".to_owned(),
            dbname: None,
            sslmode: SslMode::Prefer,
            sslrootcert: None,
            client_cert: None,
            channel_binding: ChannelBinding::Prefer,
            application_name: "pg tests".to_owned(),
            connect_timeout: Duration::from_secs(10),
        }
    }

    pub(crate) fn by_tcp(&self, user: &str, password: &str) -> ConnectOptions {
        ConnectOptions {
            servers: vec![self.at("127.0.0.1", password)],
            user: user.to_owned(),
            sslmode: SslMode::Disable,
            ..self.by_socket()
        }
    }

    /// This server by a host name.
    pub(crate) fn at(&self, host: &str, password: &str) -> Server {
        Server {
            password: Some(Password::new(password.to_owned())),
            ..Server::new(Host::Tcp(host.to_owned()), self.port)
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.running {
            let mut ctl = command(self.major, "pg_ctl");
            ctl.args(["stop", "-m", "immediate", "-w", "-D"]).arg(&self.data);
            let _ = ctl.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}

/// A CA, a server certificate of it for `localhost`, and another CA; TLS is switched on.
fn make_certificates(directory: &Path, data: &Path) {
    let openssl = |args: &str| {
        run(Command::new("openssl").args(args.split(' ')).current_dir(directory));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
    for ca in ["ca", "other"] {
        openssl(&format!(
            "req -x509 {key} -keyout {ca}.key -out {ca}.crt -subj /CN={ca}"
        ));
    }
    openssl(&format!(
        "req -x509 {key} -keyout data/server.key -out data/server.crt -subj /CN=server -CA ca.crt -CAkey \
         ca.key -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE"
    ));
    std::fs::set_permissions(data.join("server.key"), PermissionsExt::from_mode(0o600)).unwrap();
    for file in ["server.key", "server.crt"] {
        give_to_server(&data.join(file));
    }
    let conf = std::fs::read_to_string(data.join("postgresql.conf")).unwrap();
    std::fs::write(data.join("postgresql.conf"), conf + "ssl = on\n").unwrap();
}
