//! A place for a server that somebody else makes and starts.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::{Cluster, parse_lsn};
use crate::ports::free_ports;
use crate::scratch::Scratch;
use crate::user;
use crate::wait::{DEADLINE, wait_until};

/// Directories and a port that are free: given to a program that restores and starts a server there.
#[derive(Debug)]
pub struct Place {
    name: String,
    /// Does not exist yet.
    pub data: PathBuf,
    pub sockets: PathBuf,
    pub port: u16,
}

impl Cluster {
    /// A place below `<scratch>/<name>`.
    pub fn place(scratch: &Scratch, name: &str) -> Result<Place> {
        Ok(Place {
            name: name.to_owned(),
            data: scratch.dir(name)?.join("data"),
            sockets: scratch.dir(format!("{name}/s"))?,
            port: free_ports(1)?[0],
        })
    }

    /// Copies the data directory, as a snapshot of its disk would be. The server must be down; there are no tablespaces.
    pub async fn copy_data_directory(&self, to: &Path) -> Result<()> {
        ensure!(!self.is_running(), "{} runs", self.name);
        ensure!(self.tablespaces.is_empty(), "{} has tablespaces", self.name);
        let mut command = user::command("cp");
        command.arg("-a").arg(&self.data).arg(to);
        user::run(command, DEADLINE).await?;
        Ok(())
    }

    /// A standby that streams from this primary; it may still have to catch up.
    pub async fn standby(&self, name: &str) -> Result<Self> {
        let data = self.scratch.dir(name)?.join("data");
        let mut command = self.tool_or_newer("pg_basebackup")?;
        command
            .args(["--checkpoint=fast", "--write-recovery-conf", "--no-sync", "-D"])
            .arg(&data);
        user::run(command, DEADLINE).await?;
        let standby = Self::adopt(&self.scratch, name, &data)?;
        standby.start().await?;
        Ok(standby)
    }

    /// Waits until this standby has replayed all WAL before `lsn`.
    pub async fn wait_replayed(&self, lsn: u64) -> Result<()> {
        let what = format!("standby {} to catch up", self.name);
        wait_until(&what, DEADLINE, async || {
            let answer = self.query_one("select pg_last_wal_replay_lsn()").await;
            answer.is_ok_and(|text| parse_lsn(&text).is_ok_and(|at| at >= lsn))
        })
        .await
    }

    /// True when the server is up, or was ever up, with a timeline of its own: promoted.
    pub fn has_left_timeline(&self, timeline: u32) -> Result<bool> {
        let history = format!("{:08X}.history", timeline + 1);
        for entry in fs::read_dir(self.data.join("pg_wal"))? {
            if entry?.file_name().to_string_lossy() == history {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Place {
    /// The server that now runs there.
    pub fn adopt(self, scratch: &Scratch) -> Result<Cluster> {
        let mut cluster = Cluster::adopt(scratch, &self.name, &self.data)?;
        for (name, value) in &mut cluster.overrides {
            if name == "port" {
                *value = self.port.to_string();
            }
        }
        cluster.port = self.port;
        Ok(cluster)
    }
}
