//! A SeaweedFS server: S3 as strict as the real one where it matters (conditional PUT, object lock).

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::certificates::Certificates;
use crate::child::Child;
use crate::install::weed_bin;
use crate::ports::free_ports;
use crate::s3_server::S3Server;
use crate::scratch::Scratch;
use crate::user;
use crate::wait::{DEADLINE, wait_until, within};

const ACCESS_KEY_ID: &str = "testaccesskey";
const SECRET_ACCESS_KEY: &str = "testsecretkey123";

/// May read, list and write; a bucket's policy can take away what a host does not need.
pub const HOST_KEY_ID: &str = "hostaccesskey0";
pub const HOST_SECRET: &str = "hostsecretkey00";

/// One server on loopback ports. Dropping it kills it.
#[derive(Debug)]
pub struct Weed {
    child: Option<Child>,
    ports: Ports,
    directory: PathBuf,
    certificates: Option<Certificates>,
    scratch: Scratch,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    s3: u16,
    https: u16,
    filer: u16,
    others: [u16; 6],
}

impl Weed {
    /// A fresh, empty server over plain HTTP.
    pub async fn start(scratch: &Scratch) -> Result<Self> {
        Self::start_as(scratch, false).await
    }

    /// The same over HTTPS, with a certificate of its own: see [`Weed::authority`].
    pub async fn start_tls(scratch: &Scratch) -> Result<Self> {
        Self::start_as(scratch, true).await
    }

    async fn start_as(scratch: &Scratch, tls: bool) -> Result<Self> {
        let directory = scratch.dir("weed")?;
        scratch.write("weed/ids.json", identities())?;
        let certificates = if tls {
            let certificates = Certificates::create(scratch).await?;
            let names = Some("DNS:localhost,IP:127.0.0.1");
            certificates.sign("weed", "ca", "localhost", names, 2).await?;
            Some(certificates)
        } else {
            None
        };
        // Between finding a free port and listening on it, somebody else may take it.
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut weed = Self {
                child: None,
                ports: Ports::find()?,
                directory: directory.clone(),
                certificates: certificates.clone(),
                scratch: scratch.clone(),
            };
            match weed.restart().await {
                Ok(()) => return Ok(weed),
                Err(error) if attempts == 3 => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Starts it again with the same ports and data, after [`Weed::stop`] or [`Weed::kill9`].
    pub async fn restart(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "weed runs already");
        self.ports.remove_sockets()?;
        let command = self.command()?;
        let mut child = Child::spawn(&self.scratch, "weed", command)?;
        let Ports { s3, filer, .. } = self.ports;
        let mut ended = None;
        wait_until("weed to be healthy", DEADLINE, async || {
            ended = child.ended();
            ended.is_some()
                || (matches!(http(s3, "GET", "/healthz").await, Ok(200))
                    && matches!(http(filer, "GET", "/").await, Ok(200)))
        })
        .await?;
        if let Some(status) = ended {
            bail!("weed ended with {status}\n{}", child.log());
        }
        self.child = Some(child);
        Ok(())
    }

    fn command(&self) -> Result<std::process::Command> {
        let [master, master_grpc, volume, volume_grpc, filer_grpc, s3_grpc] = self.ports.others;
        let mut command = user::command(weed_bin()?);
        command
            .current_dir(&self.directory)
            // Without it a PUT that asks for encryption at rest is answered with 500.
            .env("WEED_S3_SSE_KEK", "5e".repeat(32))
            .args(["-v=0", "server", "-dir=.", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"])
            .arg(format!("-master.port={master}"))
            .arg(format!("-master.port.grpc={master_grpc}"))
            .arg(format!("-volume.port={volume}"))
            .arg(format!("-volume.port.grpc={volume_grpc}"))
            .arg(format!("-filer.port={}", self.ports.filer))
            .arg(format!("-filer.port.grpc={filer_grpc}"))
            .arg(format!("-s3.port={}", self.ports.s3))
            .arg(format!("-s3.port.grpc={s3_grpc}"))
            // These two have fixed ports otherwise, and die when one is taken.
            .args(["-s3", "-s3.port.iceberg=0", "-s3.port.lance=0"])
            .args(["-s3.config=ids.json", "-s3.allowDeleteBucketNotEmpty=false"])
            .args(["-filer.maxMB=16", "-volume.max=100", "-master.volumeSizeLimitMB=1024"])
            // The only candidate: by default it waits 10 to 20 seconds after a restart to elect itself.
            .arg("-master.electionTimeout=1s")
            .args(["-master.telemetry=false", "-volume.preStopSeconds=0"]);
        if let Some(certificates) = &self.certificates {
            command
                .arg(format!("-s3.port.https={}", self.ports.https))
                .arg(format!("-s3.cert.file={}", certificates.text("weed.crt")))
                .arg(format!("-s3.key.file={}", certificates.text("weed.key")));
        }
        Ok(command)
    }

    /// The port that speaks TLS.
    pub fn tls_port(&self) -> u16 {
        self.ports.https
    }

    /// The authority to trust, with TLS only.
    pub fn authority(&self) -> Option<PathBuf> {
        self.certificates
            .as_ref()
            .map(|certificates| certificates.path("ca.crt"))
    }

    pub async fn has_bucket(&self, name: &str) -> Result<bool> {
        let path = format!("/buckets/{name}/");
        Ok(http(self.ports.filer, "GET", &path).await? == 200)
    }

    /// The server keeps its sockets and answers nothing, until [`Weed::thaw`].
    pub fn freeze(&self) -> Result<()> {
        self.child.as_ref().context("weed is down")?.freeze()
    }

    pub fn thaw(&self) -> Result<()> {
        self.child.as_ref().context("weed is down")?.thaw()
    }

    /// The orderly end, which takes it 15 seconds. An outage is [`Weed::kill9`] and [`Weed::restart`].
    pub async fn stop(&mut self) -> Result<()> {
        let mut child = self.child.take().context("weed is down")?;
        child.terminate(DEADLINE).await?;
        Ok(())
    }

    pub fn kill9(&mut self) -> Result<()> {
        self.child.take().context("weed is down")?.kill9()
    }
}

impl S3Server for Weed {
    fn endpoint(&self) -> String {
        match &self.certificates {
            Some(_) => format!("https://localhost:{}", self.ports.https),
            None => format!("http://127.0.0.1:{}", self.ports.s3),
        }
    }

    fn access_key_id(&self) -> &str {
        ACCESS_KEY_ID
    }

    fn secret_access_key(&self) -> &str {
        SECRET_ACCESS_KEY
    }

    async fn create_bucket(&self, name: &str) -> Result<()> {
        // A bucket is a directory of the filer: no signature is needed there.
        let path = format!("/buckets/{name}/");
        let status = http(self.ports.filer, "POST", &path).await?;
        ensure!(status == 201 || status == 200, "bucket {name}: HTTP {status}");
        Ok(())
    }
}

impl Ports {
    fn find() -> Result<Self> {
        let ports = free_ports(9)?;
        Ok(Self {
            s3: ports[0],
            https: ports[1],
            filer: ports[2],
            others: ports[3..].try_into()?,
        })
    }

    /// It names its Unix sockets by port, always in /tmp, and leaves them there; one of another user that is in its way goes unnoticed,
    /// and then its parts cannot reach each other.
    fn remove_sockets(&self) -> Result<()> {
        let ports = [self.s3, self.https, self.filer].into_iter().chain(self.others);
        let endings: Vec<String> = ports.map(|port| format!("-{port}.sock")).collect();
        for entry in std::fs::read_dir("/tmp")?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("seaweedfs-") && endings.iter().any(|end| name.ends_with(end)) {
                let path = entry.path();
                std::fs::remove_file(&path).with_context(|| format!("could not remove {}", path.display()))?;
            }
        }
        Ok(())
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        // While the ports are still ours: whoever gets them next makes sockets of the same names.
        let _ = self.ports.remove_sockets();
        self.child = None;
    }
}

fn identities() -> String {
    let all = ["Admin", "Read", "Write", "List", "Tagging"];
    serde_json::json!({ "identities": [
        { "name": "admin", "actions": all,
          "credentials": [{ "accessKey": ACCESS_KEY_ID, "secretKey": SECRET_ACCESS_KEY }] },
        { "name": "host", "actions": ["Read", "Write", "List"],
          "credentials": [{ "accessKey": HOST_KEY_ID, "secretKey": HOST_SECRET }] },
        { "name": "reader", "actions": ["Read", "List"],
          "credentials": [{ "accessKey": "readonlykey00", "secretKey": "readonlysecret00" }] },
    ]})
    .to_string()
}

/// The status of one request without a body. Enough for health and for making a directory.
async fn http(port: u16, method: &str, path: &str) -> Result<u16> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(1 << 16).read_to_end(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = within(path, Duration::from_secs(10), exchange).await??;
    let text = String::from_utf8_lossy(&answer);
    let status = text.split_whitespace().nth(1).context("no status line")?;
    Ok(status.parse()?)
}
