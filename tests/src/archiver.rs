//! PostgreSQL's own archiver with `wal-agent archive-push` as its command, and the same command by hand.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::{Cluster, ClusterBuilder};
use crate::program::Output;
use crate::seawall::{CLUSTER, Seawall};
use crate::tree;
use crate::wait::{wait_for, wait_until};

/// The archiver waits a minute after three failures, and our command gives up after a minute.
const PUSH_DEADLINE: Duration = Duration::from_secs(150);

impl ClusterBuilder {
    /// A server with an archiver that has no command yet, and without slots.
    #[must_use]
    pub fn archiving(self) -> Self {
        self.setting("archive_mode", "on")
            .setting("archive_command", "")
            .setting("max_replication_slots", "0")
            // At least two segments of any size that a test uses.
            .setting("min_wal_size", "256MB")
    }
}

impl Cluster {
    /// Gives the archiver its command.
    pub async fn push_to(&self, seawall: &Seawall) -> Result<()> {
        self.append_setting("archive_command", &seawall.archive_command())?;
        self.reload().await
    }

    /// Files that wait to be archived.
    pub fn unpushed(&self) -> Result<Vec<String>> {
        let status = self.data_directory().join("pg_wal/archive_status");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(status)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            names.extend(name.strip_suffix(".ready").map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// Waits until nothing waits to be archived any more.
    pub async fn wait_pushed(&self) -> Result<()> {
        let what = format!("{} to archive all it has", self.name());
        let waited = wait_until(&what, PUSH_DEADLINE, async || {
            self.unpushed().is_ok_and(|names| names.is_empty())
        });
        let log = self.server_log();
        waited
            .await
            .with_context(|| log.lines().rev().take(20).collect::<Vec<_>>().join("\n"))
    }

    /// Ends the segment and waits until all is archived; returns where it ended.
    pub async fn switch_and_push(&self) -> Result<u64> {
        let end = self.switch_wal().await?;
        self.wait_pushed().await?;
        Ok(end)
    }

    /// Waits until the archiver has failed more often than `before`.
    pub async fn wait_archiver_failed(&self, before: u64) -> Result<u64> {
        wait_for("the archiver to fail", PUSH_DEADLINE, async || {
            let count = self.query_one("select failed_count from pg_stat_archiver").await.ok()?;
            count.parse().ok().filter(|count: &u64| *count > before)
        })
        .await
    }

    /// The segment that ends at `end`.
    pub async fn segment_before(&self, end: u64) -> Result<String> {
        let lsn = crate::cluster::lsn_text(end - 1);
        self.query_one(&format!("select pg_walfile_name('{lsn}')")).await
    }
}

impl Seawall {
    /// As an operator writes it, with %p for the path.
    pub fn archive_command(&self) -> String {
        let (program, config) = (self.agent.path().display(), self.agent.config().display());
        format!("{program} --config {config} archive-push %p")
    }

    /// Initialised for a server without slots.
    pub async fn init_without_slots(&self) -> Result<Output> {
        self.agent.run_ok(&["init", "--single-host", "--no-slots"]).await
    }

    /// `archive-push` of a file in the cluster's pg_wal, as PostgreSQL runs it: in the data directory, with a relative path.
    pub async fn push(&self, cluster: &Cluster, file: &str) -> Result<Output> {
        let path = format!("pg_wal/{file}");
        self.agent
            .run_in(cluster.data_directory(), &["archive-push", &path])
            .await
    }

    /// The same of a file anywhere.
    pub async fn push_file(&self, path: &Path) -> Result<Output> {
        self.agent.run(&["archive-push", &path.display().to_string()]).await
    }

    /// Names of all objects of a local repository below `wal/`, `tail/` and so on, sorted.
    pub fn objects(&self, kinds: &[&str]) -> Result<Vec<String>> {
        let cluster = self.repository().join("clusters").join(CLUSTER);
        let mut names = Vec::new();
        for kind in kinds {
            let dir = cluster.join(kind);
            if dir.is_dir() {
                for file in tree::files(&dir)? {
                    names.push(file.strip_prefix(&cluster)?.display().to_string());
                }
            }
        }
        names.sort();
        Ok(names)
    }
}
