//! One PostgreSQL server: made, started, stopped, killed, destroyed, adopted after a restore.

mod builder;
mod control;
mod place;
mod query;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

pub use builder::ClusterBuilder;
pub use control::StopMode;
pub use place::Place;
pub use query::{connect, lsn_text, parse_lsn, query_one};

use crate::install::pg_bin;
use crate::ports::free_ports;
use crate::scratch::Scratch;
use crate::user;

/// A server in a scratch directory. Dropping it kills what runs.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    major: u32,
    bin: PathBuf,
    data: PathBuf,
    /// Where postgresql.conf is; the data directory, except in Debian's layout.
    etc: PathBuf,
    /// Short: its path ends up in a socket's address.
    socket_dir: PathBuf,
    log: PathBuf,
    tablespaces: Vec<(String, PathBuf)>,
    port: u16,
    /// Settings on the command line, stronger than those in files.
    overrides: Vec<(String, String)>,
    scratch: Scratch,
}

impl Cluster {
    /// Start here: `Cluster::builder(15).setting("wal_level", "logical").create(&scratch, "main")`.
    pub fn builder(major: u32) -> ClusterBuilder {
        ClusterBuilder::new(major)
    }

    /// Takes over a data directory that somebody else made (a restore), under a socket of its own, so
    /// that the original may still run. Not started yet.
    pub fn adopt(scratch: &Scratch, name: &str, data: &Path) -> Result<Self> {
        let version = fs::read_to_string(data.join("PG_VERSION"))
            .with_context(|| format!("{} is not a data directory", data.display()))?;
        let major = version.trim().parse()?;
        let mut cluster = Self::at(scratch, name, major, data.to_owned())?;
        for (name, value) in [
            ("unix_socket_directories", cluster.socket_dir.display().to_string()),
            ("port", cluster.port.to_string()),
            ("listen_addresses", String::new()),
        ] {
            cluster.overrides.push((name.to_owned(), value));
        }
        Ok(cluster)
    }

    /// As [`Cluster::adopt`], for a cluster whose postgresql.conf is not in the data directory.
    pub fn adopt_debian(scratch: &Scratch, name: &str, data: &Path, etc: &Path) -> Result<Self> {
        let mut cluster = Self::adopt(scratch, name, data)?;
        cluster.etc = etc.to_owned();
        for (name, file) in [("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")] {
            let value = etc.join(file).display().to_string();
            cluster.overrides.push((name.to_owned(), value));
        }
        let value = data.display().to_string();
        cluster.overrides.push(("data_directory".to_owned(), value));
        Ok(cluster)
    }

    fn at(scratch: &Scratch, name: &str, major: u32, data: PathBuf) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            major,
            bin: pg_bin(major)?,
            etc: data.clone(),
            data,
            socket_dir: scratch.dir(Path::new(name).join("s"))?,
            log: scratch.join(name).join("postgres.log"),
            tablespaces: Vec::new(),
            port: free_ports(1)?[0],
            overrides: Vec::new(),
            scratch: scratch.clone(),
        })
    }

    /// Adds a setting to the command line of the next start, stronger than any file.
    pub fn override_setting(&mut self, name: &str, value: &str) {
        self.overrides.push((name.to_owned(), value.to_owned()));
    }

    /// Appends to postgresql.conf; takes effect at the next start (or reload).
    pub fn append_setting(&self, name: &str, value: &str) -> Result<()> {
        let path = self.etc.join("postgresql.conf");
        let mut text = fs::read_to_string(&path)?;
        text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        fs::write(path, text)?;
        Ok(())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn major(&self) -> u32 {
        self.major
    }

    pub fn data_directory(&self) -> &Path {
        &self.data
    }

    pub fn etc_directory(&self) -> &Path {
        &self.etc
    }

    /// What a client gives as host.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Names and directories of the tablespaces that the builder made.
    pub fn tablespaces(&self) -> &[(String, PathBuf)] {
        &self.tablespaces
    }

    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// What the server has logged so far.
    pub fn server_log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// One of PostgreSQL's programs, of this version, set to connect to this cluster.
    pub fn tool(&self, program: &str) -> Command {
        self.program(&self.bin.join(program))
    }

    /// As [`Cluster::tool`]; PostgreSQL 14 comes as a server alone, and the next major's client programs know it and its
    /// `pg_control`.
    pub(crate) fn tool_or_newer(&self, program: &str) -> Result<Command> {
        let own = self.bin.join(program);
        if self.major != 14 || own.exists() {
            return Ok(self.program(&own));
        }
        Ok(self.program(&pg_bin(15)?.join(program)))
    }

    fn program(&self, path: &Path) -> Command {
        let mut command = user::command(path);
        command
            .env("PGHOST", &self.socket_dir)
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        command
    }

    /// Loses everything: data directory and the content of all tablespaces. The server must be down.
    pub fn destroy_data_directory(&self) -> Result<()> {
        ensure!(
            self.postmaster().is_none(),
            "{} still runs; stop or kill9 it first",
            self.name
        );
        fs::remove_dir_all(&self.data).with_context(|| format!("remove {}", self.data.display()))?;
        for (_, dir) in &self.tablespaces {
            for entry in fs::read_dir(dir)? {
                let path = entry?.path();
                if path.is_dir() {
                    fs::remove_dir_all(&path)?;
                } else {
                    fs::remove_file(&path)?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.kill_all() {
            eprintln!("could not kill cluster {}: {error:#}", self.name);
        }
    }
}
