//! What the daemon does by itself.

use std::fs;
use std::time::Instant;

use anyhow::{Result, ensure};
use tests::config_file::ConfigFile;
use tests::wait::{DEADLINE, wait_for};
use tests::{Cluster, Scratch, Seawall};

use super::stage::Stage;

/// Backup, verification and pruning on schedule, that cannot be done, and then can.
pub async fn fails(scratch: Scratch) -> Result<()> {
    let cluster = Cluster::builder(15).create(&scratch, "main").await?;
    let config = Seawall::local_config(&scratch, &cluster)?;
    let junk = scratch.write("junk.key", "junk")?.display().to_string();
    let broken = |config: ConfigFile| {
        config
            .set("cluster.main.schedule.backup", "24h")?
            .set("cluster.main.schedule.verify", "24h")?
            .set("cluster.main.schedule.verify_share", 1)?
            .set("cluster.main.schedule.prune", "24h")?
            .set("cluster.main.postgres.data_directory", "/nowhere")?
            .set("keys.maintenance_key", "/nowhere/maintenance.key")?
            .set("keys.restore_key", junk)
    };
    let seawall = Seawall::configure(config.clone())?;
    seawall.init().await?;
    let stage = Stage::set(cluster, config, false, Ok).await?;
    let began = Instant::now();
    stage.reload(broken).await?;
    stage.noticed(began, "backup_failed", "on schedule failed").await?;
    stage.noticed(began, "prune_failed", "/nowhere/maintenance.key").await?;
    stage.noticed(began, "verify_failed", "junk.key").await?;
    stage.noticed(began, "no_backup", "nothing can be restored").await?;
    let line = stage.nagios_says(2).await?;
    ensure!(line.starts_with("SEAWALL CRITICAL - cluster main"), "{line}");

    // A schedule that can be kept: the first backup comes by itself.
    let mended = Instant::now();
    fs::remove_file(scratch.join("state/main.jobs.json"))?;
    stage
        .reload(|config| {
            config
                .set("cluster.main.schedule.backup", "24h")?
                .set("cluster.main.schedule.verify", "24h")?
                .set("cluster.main.schedule.prune", "24h")
        })
        .await?;
    for alarm in ["no_backup", "backup_failed", "prune_failed", "verify_failed"] {
        stage.over(mended, alarm).await?;
    }
    let status = wait_for("all three were done", DEADLINE, async || {
        let status = stage.seawall.status().await.ok()?;
        let jobs = status["jobs"].as_array()?.clone();
        let done = jobs.iter().filter(|job| job["succeeded_us"].is_i64()).count();
        (done == 3).then_some(status)
    })
    .await?;
    ensure!(status["last_verified"].is_string(), "{status}");
    stage.end().await
}
