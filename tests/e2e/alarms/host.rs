//! The host: its disks, its files, the configuration, and those who are told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use anyhow::{Result, ensure};
use tests::config_file::ConfigFile;
use tests::ports::free_ports;
use tests::tmpfs::Tmpfs;
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall};

use super::stage::Stage;

/// The repository's disk, and what the server keeps meanwhile.
pub async fn runs_full(scratch: Scratch) -> Result<()> {
    let disk = Tmpfs::mount(&scratch, "disk", 100)?;
    let cluster = Cluster::builder(15).create(&scratch, "main").await?;
    let config = Seawall::local_config(&scratch, &cluster)?;
    let url = format!("file://{}", disk.path().join("repo").display());
    let change = |config: ConfigFile| {
        config
            .set("repository.url", url)?
            .set("cluster.main.objectives.disk_warn", 60)?
            .set("cluster.main.objectives.disk_page", 80)?
            .set("cluster.main.wal.retained_warn", "4MiB")?
            .set("cluster.main.wal.retained_page", "24MiB")
    };
    let stage = Stage::set(cluster, config, true, change).await?;
    let began = Instant::now();
    let filler = disk.path().join("filler");
    fs::write(&filler, vec![1; 64 << 20])?;
    let of_repository = "the disk of repository";
    stage.noticed(began, "disk_high", of_repository).await?;
    let began = Instant::now();
    // Until nothing fits any more.
    let more = disk.path().join("more");
    let _ = fs::write(&more, vec![1; 100 << 20]);
    stage
        .cluster
        .exec("create table big as select i, repeat(md5(i::text), 20) from generate_series(1, 60000) i")
        .await?;
    stage.noticed(began, "disk_full", of_repository).await?;
    stage.noticed(began, "wal_retained_much", "of WAL for us").await?;
    stage.noticed(began, "rpo_broken", "not archived").await?;
    let mended = Instant::now();
    fs::remove_file(&more)?;
    fs::remove_file(&filler)?;
    disk.make_room()?;
    for alarm in ["rpo_broken", "wal_retained_much"] {
        stage.over(mended, alarm).await?;
    }
    let is_it = |body: &serde_json::Value| body["event"] == "cleared" && body["subject"] == "repository";
    stage
        .told
        .wait_for("room again", super::stage::NOTICED_MAX, 0, is_it)
        .await?;
    stage.end().await
}

/// Keys, state, configuration, receivers, and promises by age.
pub async fn loses_what_it_needs(scratch: Scratch) -> Result<()> {
    let cluster = Cluster::builder(15).create(&scratch, "main").await?;
    let config = Seawall::local_config(&scratch, &cluster)?;
    let nobody = free_ports(1)?[0];
    let told = scratch.join("told.jsonl");
    let command = format!("cat >> {}", told.display());
    let pings = tests::receiver::Receiver::start().await?;
    let ping = pings.url("/alive");
    let change = |config: ConfigFile| {
        config
            .set("notify.gone.type", "slack")?
            .set("notify.gone.url", format!("http://127.0.0.1:{nobody}/hook"))?
            .set("notify.program.type", "command")?
            .set(
                "notify.program.command",
                vec!["/bin/sh".to_owned(), "-c".to_owned(), command],
            )?
            .set("notify.alive.type", "ping")?
            .set("notify.alive.url", ping)?
            .set("notify.alive.every", "10s")?
            .set("cluster.main.objectives.drill_age", "1m")?
            .set("cluster.main.objectives.verify_age", "1m")?
            .set("cluster.main.objectives.backup_age", "1m")
    };
    let mut stage = Stage::set(cluster, config, true, change).await?;
    let began = Instant::now();
    let key = scratch.join("keys/host.key");
    let kept = key.with_extension("moved");
    fs::rename(&key, &kept)?;
    let state = scratch.join("state");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o500))?;
    stage.reload(|config| config.set("cluster.main.wal.slto", "x")).await?;
    stage.noticed(began, "key_unreadable", "host.key").await?;
    stage.noticed(began, "state_unwritable", "denied").await?;
    stage.noticed(began, "reload_failed", "slto").await?;
    stage.noticed(began, "notify_failing", "\"gone\"").await?;
    stage.noticed(began, "backup_old", "newest backup").await?;
    stage.noticed(began, "verify_old", "compared").await?;
    stage.noticed(began, "drill_old", "proven").await?;
    ensure!(fs::read_to_string(&told)?.contains("\"alarm\":\"backup_old\""));
    // The opposite of an alarm is no longer heard once something pages.
    let heard = pings.received().len();
    ensure!(heard > 0, "nobody said that all is well");
    tests::wait::delay(std::time::Duration::from_secs(15)).await;
    ensure!(pings.received().len() <= heard + 1);

    let mended = Instant::now();
    fs::rename(&kept, &key)?;
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700))?;
    let other = Seawall::configure_as(fine(stage.seawall.config.clone())?, "fine")?;
    other.agent.run_ok(&["verify", "--all"]).await?;
    // What was told is written down then, and known behind the next beginning.
    stage.over(mended, "state_unwritable").await?;
    stage.reload(fine).await?;
    stage.agent.wait_for_log("read again; going on", DEADLINE).await?;
    for alarm in [
        "key_unreadable",
        "reload_failed",
        "backup_old",
        "verify_old",
        "drill_old",
        "notify_failing",
    ] {
        stage.over(mended, alarm).await?;
    }
    // Who is asked for it gets a message; who is not there is named.
    let output = stage.seawall.agent.run(&["notify-test", "--json"]).await?;
    ensure!(output.code() == 0, "{}", output.stderr);
    stage.end().await
}

/// As it should have been from the start.
fn fine(config: ConfigFile) -> Result<ConfigFile> {
    config
        .set("notify.gone.type", "command")?
        .set("notify.gone.command", vec!["/bin/true".to_owned()])?
        .set("cluster.main.objectives.drill_age", "40d")?
        .set("cluster.main.objectives.verify_age", "8d")?
        .set("cluster.main.objectives.backup_age", "36h")
}
