//! `rclone serve s3`: a service that takes `If-None-Match` and locks and does not keep to them.

use anyhow::{Result, bail};
use tokio::net::TcpStream;

use crate::child::Child;
use crate::install::rclone_bin;
use crate::ports::free_ports;
use crate::s3_server::S3Server;
use crate::scratch::Scratch;
use crate::user;
use crate::wait::{DEADLINE, wait_until};

const ACCESS_KEY_ID: &str = "rcloneaccesskey";
const SECRET_ACCESS_KEY: &str = "rclonesecretkey123";

/// One server on a loopback port. Dropping it kills it.
#[derive(Debug)]
pub struct Rclone {
    _child: Child,
    port: u16,
    scratch: Scratch,
}

impl Rclone {
    /// A fresh, empty server over plain HTTP.
    pub async fn start(scratch: &Scratch) -> Result<Self> {
        let buckets = scratch.dir("rclone")?;
        let port = free_ports(1)?[0];
        let mut command = user::command(rclone_bin()?);
        command
            .current_dir(&buckets)
            .env("RCLONE_CONFIG", "/dev/null")
            .args(["serve", "s3"])
            .args(["--addr", &format!("127.0.0.1:{port}")])
            .args(["--auth-key", &format!("{ACCESS_KEY_ID},{SECRET_ACCESS_KEY}")])
            .arg(&buckets);
        let mut child = Child::spawn(scratch, "rclone", command)?;
        let mut ended = None;
        wait_until("rclone to listen", DEADLINE, async || {
            ended = child.ended();
            ended.is_some() || TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await?;
        if let Some(status) = ended {
            bail!("rclone ended with {status}\n{}", child.log());
        }
        Ok(Rclone {
            _child: child,
            port,
            scratch: scratch.clone(),
        })
    }
}

impl S3Server for Rclone {
    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn access_key_id(&self) -> &str {
        ACCESS_KEY_ID
    }

    fn secret_access_key(&self) -> &str {
        SECRET_ACCESS_KEY
    }

    async fn create_bucket(&self, name: &str) -> Result<()> {
        // A bucket is a directory.
        self.scratch.dir(format!("rclone/{name}")).map(drop)
    }
}
