//! Seawall installed for one cluster: configuration, both programs, and what every test asks of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::child::Child;
use crate::cluster::{Cluster, parse_lsn};
use crate::config_file::ConfigFile;
use crate::install;
use crate::program::{Output, Program};
use crate::s3_server::S3Server;
use crate::scratch::Scratch;
use crate::tree;
use crate::wait::{DEADLINE, wait_for};

/// A recovery of a test's cluster takes seconds; one that takes this long has failed.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(120);

/// The name of the cluster in the configuration.
pub const CLUSTER: &str = "main";

/// Where a repository on S3 is.
pub const BUCKET: &str = "seawall";
pub const PREFIX: &str = "e2e";

/// One installation. Its repository is `<scratch>/repo`, or a bucket.
#[derive(Debug, Clone)]
pub struct Seawall {
    pub agent: Program,
    pub restore: Program,
    pub config: ConfigFile,
    scratch: Scratch,
}

impl Seawall {
    /// With a repository in a directory; initialised, not running.
    pub async fn local(scratch: &Scratch, cluster: &Cluster) -> Result<Self> {
        let seawall = Self::configure(Self::local_config(scratch, cluster)?)?;
        seawall.init().await?;
        Ok(seawall)
    }

    /// With a repository in a new bucket of `server`; initialised, not running.
    pub async fn s3(scratch: &Scratch, cluster: &Cluster, server: &impl S3Server) -> Result<Self> {
        let seawall = Self::configure(Self::s3_config(scratch, cluster, server).await?)?;
        seawall.init().await?;
        Ok(seawall)
    }

    /// The configuration of [`Seawall::local`], for a test that changes it.
    pub fn local_config(scratch: &Scratch, cluster: &Cluster) -> Result<ConfigFile> {
        let config = ConfigFile::local(scratch, &scratch.join("repo"))?;
        complete(config, scratch, cluster)
    }

    /// The configuration of [`Seawall::s3`] and its bucket, for a test that changes it.
    pub async fn s3_config(scratch: &Scratch, cluster: &Cluster, server: &impl S3Server) -> Result<ConfigFile> {
        server.create_bucket(BUCKET).await?;
        let config = ConfigFile::s3(scratch, server, BUCKET, PREFIX)?;
        complete(config, scratch, cluster)
    }

    /// Only writes the configuration.
    pub fn configure(config: ConfigFile) -> Result<Self> {
        Self::configure_as(config, "seawall")
    }

    /// The same in a file of another name, for a test with several installations.
    pub fn configure_as(config: ConfigFile, name: &str) -> Result<Self> {
        let (scratch, path) = (config.scratch().clone(), config.write_as(name)?);
        Ok(Self {
            agent: Program::agent(&scratch, &path)?,
            restore: Program::restore(&scratch, &path)?,
            config,
            scratch,
        })
    }

    pub async fn init(&self) -> Result<Output> {
        self.agent.run_ok(&["init", "--single-host"]).await
    }

    /// The directory of the local repository.
    pub fn repository(&self) -> PathBuf {
        self.scratch.join("repo")
    }

    /// Everything in the local repository is older, by the times of its files.
    pub fn age_repository(&self, by: Duration) -> Result<()> {
        for path in tree::files(&self.repository())? {
            let file = std::fs::File::options().write(true).open(&path)?;
            let modified = file.metadata()?.modified()?;
            file.set_modified(modified - by)?;
        }
        Ok(())
    }

    /// Starts the daemon and waits until it streams.
    pub async fn run(&self) -> Result<Child> {
        let mut agent = self.agent.start_daemon()?;
        agent.wait_for_log("streaming", DEADLINE).await?;
        Ok(agent)
    }

    /// Takes a backup; the daemon must run. Returns what it printed.
    pub async fn backup(&self) -> Result<Value> {
        let backup = self.agent.run_ok(&["backup", "--json"]).await?.json()?;
        let corrupt = backup["corrupt_pages"].as_array().map(Vec::len);
        ensure!(corrupt == Some(0), "corrupt pages in {backup}");
        Ok(backup)
    }

    pub async fn list(&self) -> Result<Value> {
        self.agent.run_ok(&["list", "--json"]).await?.json()
    }

    pub async fn status(&self) -> Result<Value> {
        self.agent.run_ok(&["status", "--json"]).await?.json()
    }

    /// Waits until everything that the server has flushed is archived; returns that LSN.
    pub async fn wait_archived(&self, cluster: &Cluster) -> Result<u64> {
        let lsn = flushed_lsn(cluster).await?;
        self.wait_archived_to(lsn).await?;
        Ok(lsn)
    }

    /// Waits until all WAL before `lsn` is archived; returns how long that took.
    pub async fn wait_archived_to(&self, lsn: u64) -> Result<Duration> {
        let start = Instant::now();
        let probe = async || {
            let status = self.status().await.ok()?;
            (json_lsn(&status, "archived_lsn").ok()? >= lsn).then_some(())
        };
        wait_for("WAL to be archived", DEADLINE, probe).await?;
        Ok(start.elapsed())
    }

    /// Restores into `<scratch>/<name>/data` without starting it.
    pub async fn restore_files(&self, name: &str, target: &[&str]) -> Result<PathBuf> {
        let data = self.scratch.dir(name)?.join("data");
        let data_text = data.display().to_string();
        let mut args = target.to_vec();
        args.extend(["--pgdata", data_text.as_str()]);
        self.restore.run_ok(&args).await?;
        Ok(data)
    }

    /// Restores, starts the result on a socket of its own, and waits until it accepts writes.
    pub async fn restore_to(&self, name: &str, target: &[&str]) -> Result<Cluster> {
        let data = self.restore_files(name, target).await?;
        let cluster = Cluster::adopt(&self.scratch, name, &data)?;
        cluster.start_within(RECOVERY_DEADLINE).await?;
        cluster.wait_promoted(RECOVERY_DEADLINE).await?;
        Ok(cluster)
    }

    /// As [`Seawall::restore_to`], but the program itself starts and proves it. Returns its report too.
    pub async fn restore_and_start(&self, name: &str, target: &[&str]) -> Result<(Cluster, Value)> {
        self.restore_started(name, "--start", target).await
    }

    /// The same, but it waits at its stop point, and how to look is said.
    pub async fn explore(&self, name: &str, target: &[&str]) -> Result<(Cluster, Value)> {
        self.restore_started(name, "--explore", target).await
    }

    async fn restore_started(&self, name: &str, how: &str, target: &[&str]) -> Result<(Cluster, Value)> {
        let running = Cluster::place(&self.scratch, name)?;
        let port = running.port.to_string();
        let (data, sockets) = (running.data.display(), running.sockets.display());
        let (data, sockets) = (data.to_string(), sockets.to_string());
        let mut args = target.to_vec();
        args.extend(["--pgdata", &data, how, "--port", &port]);
        args.extend(["--socket-dir", &sockets, "--json"]);
        let report = self.restore.run_ok(&args).await?.json()?;
        Ok((running.adopt(&self.scratch)?, report))
    }

    /// Bytes of all objects whose name has one of the kinds (`packs`, `wal`) below the cluster.
    pub fn stored_bytes(&self, kinds: &[&str]) -> Result<u64> {
        let cluster = self.repository().join("clusters").join(CLUSTER);
        let mut bytes = 0;
        for kind in kinds {
            let dir = cluster.join(kind);
            if dir.is_dir() {
                for file in tree::files(&dir)? {
                    bytes += file.metadata()?.len();
                }
            }
        }
        Ok(bytes)
    }

    /// The same installation, for the server at another address.
    pub fn at(&self, host: &Path, port: u16) -> Result<Self> {
        let config = self.config.clone();
        Self::configure(
            config
                .set("cluster.main.postgres.host", host.display().to_string())?
                .set("cluster.main.postgres.port", i64::from(port))?,
        )
    }

    /// What is stored of one lineage's WAL: the names of all its objects, tails and histories, in a local repository. Nothing is
    /// ever overwritten, so equal names are equal content.
    pub fn wal_of(&self, lineage: &str) -> Result<BTreeSet<String>> {
        let cluster = self.repository().join("clusters").join(CLUSTER);
        let mut names = BTreeSet::new();
        for lane in ["wal", "tail"] {
            let directory = cluster.join(lane).join(lineage);
            if directory.is_dir() {
                for file in tree::files(&directory)? {
                    names.insert(file.strip_prefix(&cluster)?.display().to_string());
                }
            }
        }
        Ok(names)
    }

    /// The lineages that the repository knows, oldest first.
    pub fn lineages(&self) -> Result<Vec<String>> {
        let directory = self.repository().join("clusters").join(CLUSTER).join("lineages");
        let name = |file: &PathBuf| file.file_name().map(|name| name.to_string_lossy().into_owned());
        let mut lineages: Vec<String> = tree::files(&directory)?.iter().filter_map(name).collect();
        lineages.sort();
        Ok(lineages)
    }

    /// The files of the WAL objects of one segment, in a local repository.
    pub fn wal_objects(&self, segment: &str) -> Result<Vec<PathBuf>> {
        let wal = self.repository().join("clusters").join(CLUSTER).join("wal");
        let in_segment = |path: &Path| path.iter().any(|part| part == segment);
        let mut files = tree::files(&wal)?;
        files.retain(|path| in_segment(path));
        Ok(files)
    }
}

fn complete(config: ConfigFile, scratch: &Scratch, cluster: &Cluster) -> Result<ConfigFile> {
    let state = scratch.dir("state")?.display().to_string();
    let programs = install::pg_bin(cluster.major())?.display().to_string();
    config
        .cluster(CLUSTER, cluster)?
        .set("cluster.main.status.state_directory", state)?
        .set("cluster.main.postgres.bin_directory", programs)
}

/// What the server has made durable itself. The insert LSN may be past a page header that no record
/// has followed yet, so on an idle server it would never be archived.
pub async fn flushed_lsn(cluster: &Cluster) -> Result<u64> {
    parse_lsn(&cluster.query_one("select pg_current_wal_flush_lsn()").await?)
}

pub fn json_lsn(value: &Value, key: &str) -> Result<u64> {
    parse_lsn(json_str(value, key)?)
}

pub fn json_str<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key].as_str().with_context(|| format!("no text {key} in {value}"))
}

pub fn json_u64(value: &Value, key: &str) -> Result<u64> {
    value[key]
        .as_u64()
        .with_context(|| format!("no number {key} in {value}"))
}

pub fn json_f64(value: &Value, key: &str) -> Result<f64> {
    value[key]
        .as_f64()
        .with_context(|| format!("no number {key} in {value}"))
}

pub fn json_array<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value[key]
        .as_array()
        .with_context(|| format!("no array {key} in {value}"))
}
