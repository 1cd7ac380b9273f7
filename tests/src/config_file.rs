//! Writes a seawall.toml for a repository in a directory or in a bucket.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use toml::{Table, Value};

use crate::cluster::Cluster;
use crate::s3_server::S3Server;
use crate::scratch::Scratch;

/// A configuration in the making. Any key can be set; the usual ones have a method.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    table: Table,
    scratch: Scratch,
}

impl ConfigFile {
    /// Repository in a directory, which the program makes itself.
    pub fn local(scratch: &Scratch, directory: &Path) -> Result<Self> {
        Self::empty(scratch)?.set("repository.url", format!("file://{}", directory.display()))
    }

    /// Repository in a bucket of `server`; `prefix` without slashes at its ends.
    pub fn s3(scratch: &Scratch, server: &impl S3Server, bucket: &str, prefix: &str) -> Result<Self> {
        let secret = scratch.write("etc/s3-secret", server.secret_access_key())?;
        let config = Self::empty(scratch)?
            .set("repository.url", format!("s3://{bucket}/{prefix}"))?
            .set("repository.s3.endpoint", server.endpoint())?
            .set("repository.s3.region", "us-east-1")?
            .set("repository.s3.path_style", true)?
            .set("repository.s3.access_key_id", server.access_key_id())?;
        config.set("repository.s3.secret_access_key_file", secret.display().to_string())
    }

    fn empty(scratch: &Scratch) -> Result<Self> {
        let config = Self {
            table: Table::new(),
            scratch: scratch.clone(),
        };
        let keys = scratch.dir("keys")?;
        config.set("keys.directory", keys.display().to_string())
    }

    /// A cluster with the quick settings of a test.
    pub fn cluster(self, name: &str, cluster: &Cluster) -> Result<Self> {
        let key = |key: &str| format!("cluster.{name}.{key}");
        let host = cluster.socket_dir().display().to_string();
        self.set(&key("postgres.host"), host)?
            .set(&key("postgres.port"), i64::from(cluster.port()))?
            .set(&key("postgres.user"), "postgres")?
            .set(&key("wal.slot"), "seawall")?
            .set(&key("wal.ship_interval"), "1s")?
            .set(&key("backup.jobs"), 2)?
            // Many agents run at once, on a disk that is not ours.
            .set(&key("http.listen"), "off")?
            .set(&key("objectives.disk_warn"), 100)?
            .set(&key("objectives.disk_page"), 100)
    }

    /// Sets one key, named with dots from the top: `cluster.main.backup.jobs`.
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Result<Self> {
        let (tables, last) = key.rsplit_once('.').unwrap_or(("", key));
        let mut table = &mut self.table;
        for part in tables.split('.').filter(|part| !part.is_empty()) {
            table = table
                .entry(part)
                .or_insert_with(|| Value::Table(Table::new()))
                .as_table_mut()
                .with_context(|| format!("{part} of {key} is not a table"))?;
        }
        table.insert(last.to_owned(), value.into());
        Ok(self)
    }

    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    pub fn text(&self) -> String {
        self.table.to_string()
    }

    /// Writes `etc/seawall.toml` and returns its path.
    pub fn write(&self) -> Result<PathBuf> {
        self.write_as("seawall")
    }

    /// The same with another name, for a test with several.
    pub fn write_as(&self, name: &str) -> Result<PathBuf> {
        self.scratch.write(format!("etc/{name}.toml"), self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_end_up_in_their_tables() {
        let scratch = Scratch::create().unwrap();
        let config = ConfigFile::local(&scratch, Path::new("/srv/repo"))
            .and_then(|config| config.set("cluster.main.backup.jobs", 3))
            .unwrap();
        let path = config.write().unwrap();
        let read: Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
        assert_eq!(read["repository"]["url"].as_str(), Some("file:///srv/repo"));
        assert_eq!(read["cluster"]["main"]["backup"]["jobs"].as_integer(), Some(3));
        assert!(config.set("repository.url.more", 1).is_err());
    }
}
