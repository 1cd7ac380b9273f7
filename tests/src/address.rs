//! One address behind which servers take turns, as a DNS name or a service address moves from host to host.
//!
//! A directory of sockets with one link. Whoever connects there reaches the server that the link points to at that moment;
//! connections that are open stay where they are.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::scratch::Scratch;

/// The port in the name of every socket.
const PORT: u16 = 5432;

/// See the module.
#[derive(Debug, Clone)]
pub struct Address {
    directory: PathBuf,
}

impl Address {
    /// An address of `cluster`.
    pub fn of(scratch: &Scratch, name: &str, cluster: &Cluster) -> Result<Self> {
        let address = Self {
            directory: scratch.dir(name)?,
        };
        address.move_to(cluster)?;
        Ok(address)
    }

    /// From now on `cluster` answers.
    pub fn move_to(&self, cluster: &Cluster) -> Result<()> {
        let socket = cluster.socket_dir().join(format!(".s.PGSQL.{}", cluster.port()));
        let aside = self.directory.join("next");
        symlink(&socket, &aside).with_context(|| format!("link to {}", socket.display()))?;
        // By rename: nobody finds nothing there in between.
        fs::rename(&aside, self.directory.join(format!(".s.PGSQL.{PORT}")))?;
        Ok(())
    }

    /// What a client gives as host.
    pub fn host(&self) -> &Path {
        &self.directory
    }

    pub fn port(&self) -> u16 {
        PORT
    }
}
