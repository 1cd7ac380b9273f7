//! What kind of cluster a test wants.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Cluster;
use crate::scratch::{Scratch, write_private};
use crate::user;

/// For a server that is busy only with a test, on a machine that is busy with other tests.
const SETTINGS: [(&str, &str); 14] = [
    ("fsync", "on"),
    ("wal_level", "replica"),
    ("max_wal_senders", "10"),
    ("max_replication_slots", "10"),
    ("max_connections", "60"),
    ("shared_buffers", "32MB"),
    ("max_wal_size", "256MB"),
    ("min_wal_size", "32MB"),
    // The suites that are unpacked beside the system come without LLVM.
    ("jit", "off"),
    ("log_checkpoints", "on"),
    ("log_replication_commands", "on"),
    ("log_line_prefix", "%m [%p] %a "),
    ("log_timezone", "UTC"),
    ("timezone", "UTC"),
];

/// See [`Cluster::builder`].
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    major: u32,
    segment_size_mib: u32,
    checksums: bool,
    debian_layout: bool,
    tcp: bool,
    settings: Vec<(String, String)>,
    tablespaces: Vec<String>,
}

impl ClusterBuilder {
    pub(super) fn new(major: u32) -> Self {
        Self {
            major,
            segment_size_mib: 16,
            checksums: true,
            debian_layout: false,
            tcp: false,
            settings: Vec::new(),
            tablespaces: Vec::new(),
        }
    }

    /// Size of a WAL segment: 1 makes many of them quickly.
    #[must_use]
    pub fn segment_size_mib(mut self, size: u32) -> Self {
        self.segment_size_mib = size;
        self
    }

    #[must_use]
    pub fn checksums(mut self, on: bool) -> Self {
        self.checksums = on;
        self
    }

    /// A line of postgresql.conf; the last one of a name wins.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A tablespace with a directory of its own outside of the data directory.
    #[must_use]
    pub fn tablespace(mut self, name: &str) -> Self {
        self.tablespaces.push(name.to_owned());
        self
    }

    /// Configuration files outside of the data directory, as Debian's packages have them.
    #[must_use]
    pub fn debian_layout(mut self, on: bool) -> Self {
        self.debian_layout = on;
        self
    }

    /// Listens on 127.0.0.1 as well. Without it there is a Unix socket only, and no port to collide.
    #[must_use]
    pub fn tcp(mut self, on: bool) -> Self {
        self.tcp = on;
        self
    }

    /// Makes the cluster and starts it. Its files are below `<scratch>/<name>`; keep the name short.
    pub async fn create(self, scratch: &Scratch, name: &str) -> Result<Cluster> {
        scratch.dir(name)?;
        let data = scratch.join(name).join("data");
        let mut cluster = Cluster::at(scratch, name, self.major, data)?;
        self.initdb(&cluster).await?;
        self.configure(&mut cluster)?;
        cluster.start().await?;
        for tablespace in &self.tablespaces {
            let dir = scratch.dir(format!("{name}/ts/{tablespace}"))?;
            let sql = format!("create tablespace {tablespace} location '{}'", dir.display());
            cluster.exec(&sql).await?;
            cluster.tablespaces.push((tablespace.clone(), dir));
        }
        Ok(cluster)
    }

    async fn initdb(&self, cluster: &Cluster) -> Result<()> {
        let mut command = cluster.tool("initdb");
        command
            .arg("-D")
            .arg(&cluster.data)
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"])
            .arg(format!("--wal-segsize={}", self.segment_size_mib));
        if self.checksums {
            command.arg("--data-checksums");
        } else if self.major >= 18 {
            command.arg("--no-data-checksums");
        }
        user::run(command, Duration::from_secs(120))
            .await
            .context("initdb failed")?;
        Ok(())
    }

    fn configure(&self, cluster: &mut Cluster) -> Result<()> {
        if self.debian_layout {
            self.move_configuration(cluster)?;
        }
        let socket_dir = cluster.socket_dir.display().to_string();
        let listen = if self.tcp { "127.0.0.1" } else { "" };
        let mut settings: Vec<(String, String)> = SETTINGS
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        settings.push(("unix_socket_directories".into(), socket_dir));
        settings.push(("listen_addresses".into(), listen.into()));
        settings.push(("port".into(), cluster.port.to_string()));
        settings.extend(self.settings.iter().cloned());
        for (name, value) in &settings {
            cluster.append_setting(name, value)?;
        }
        Ok(())
    }

    /// Debian's way: nothing to configure in the data directory, absolute paths, a conf.d beside.
    fn move_configuration(&self, cluster: &mut Cluster) -> Result<()> {
        let etc = cluster.scratch.dir(format!("{}/etc", cluster.name))?;
        cluster.scratch.dir(format!("{}/etc/conf.d", cluster.name))?;
        for file in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
            fs::rename(cluster.data.join(file), etc.join(file))?;
        }
        cluster.etc = etc.clone();
        for (name, path) in [
            ("data_directory", cluster.data.clone()),
            ("hba_file", etc.join("pg_hba.conf")),
            ("ident_file", etc.join("pg_ident.conf")),
        ] {
            cluster.append_setting(name, &path.display().to_string())?;
        }
        // A directive, not a setting; read where it stands.
        let conf = etc.join("postgresql.conf");
        let text = fs::read_to_string(&conf)? + "include_dir 'conf.d'\n";
        fs::write(&conf, text)?;
        write_private(&etc.join("conf.d/10-test.conf"), b"cluster_name = 'from conf.d'\n")
    }
}
