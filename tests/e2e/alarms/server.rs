//! The server.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::{Cluster, Scratch, Seawall, StopMode};

use super::stage::Stage;

/// It is stopped, refuses us, has no connection left.
pub async fn is_away_or_full(scratch: Scratch) -> Result<()> {
    let cluster = Cluster::builder(15)
        .setting("max_connections", "12")
        .setting("max_wal_senders", "5")
        .create(&scratch, "main")
        .await?;
    let config = Seawall::local_config(&scratch, &cluster)?;
    let stage = Stage::set(cluster, config, true, Ok).await?;
    let cluster = &stage.cluster;

    stage.lint_metrics().await?;
    let began = Instant::now();
    cluster.stop(StopMode::Immediate).await?;
    stage.noticed(began, "not_streaming", "").await?;
    stage.nagios_says(2).await?;
    let mended = Instant::now();
    cluster.start().await?;
    stage.over(mended, "not_streaming").await?;
    stage.ready().await?;

    // All connections are taken, while WAL is streamed.
    let began = Instant::now();
    let mut clients = Vec::new();
    tokio::select! {
        noticed = stage.noticed(began, "server_silent", "too many clients") => noticed?,
        never = take_all(cluster, &mut clients) => match never {},
    }
    let mended = Instant::now();
    drop(clients);
    stage.over(mended, "server_silent").await?;

    let began = Instant::now();
    let hba = cluster.data_directory().join("pg_hba.conf");
    let allowed = fs::read(&hba)?;
    let refused = [b"local replication all reject\n".as_slice(), &allowed].concat();
    tests::scratch::write_private(&hba, &refused)?;
    cluster.reload().await?;
    cluster
        .exec("select pg_terminate_backend(pid) from pg_stat_replication")
        .await?;
    stage.noticed(began, "not_streaming", "pg_hba.conf").await?;
    let mended = Instant::now();
    tests::scratch::write_private(&hba, &allowed)?;
    cluster.reload().await?;
    stage.over(mended, "not_streaming").await?;
    stage.ready().await?;

    // The stream is open, and nothing comes: of commits that were never seen nobody knows the age.
    let sender = cluster
        .query_one("select pid from pg_stat_replication where application_name = 'seawall'")
        .await?;
    let signal = |name: &str| -> Result<()> {
        let status = std::process::Command::new("kill").args([name, &sender]).status()?;
        ensure!(status.success(), "kill {name} {sender}");
        Ok(())
    };
    signal("-STOP")?;
    cluster.exec("create table unseen as select 1 as i").await?;
    let noticed = stage.noticed(Instant::now(), "rpo_broken", "not archived").await;
    signal("-CONT")?;
    noticed?;
    stage.over(Instant::now(), "rpo_broken").await?;
    stage.end().await
}

/// Takes every connection of the server, and each that somebody else gives back: the agent may have held one while the rest was taken.
async fn take_all(cluster: &Cluster, clients: &mut Vec<tokio_postgres::Client>) -> std::convert::Infallible {
    loop {
        match cluster.connect().await {
            Ok(client) => clients.push(client),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Settings, rights, slots.
pub async fn has_changed(scratch: Scratch) -> Result<()> {
    let cluster = Cluster::builder(15).create(&scratch, "main").await?;
    cluster
        .exec(
            "create role seawall login replication; grant pg_read_all_settings to seawall; \
             grant execute on function pg_backup_start(text, boolean), pg_backup_stop(boolean) to seawall",
        )
        .await?;
    let config = Seawall::local_config(&scratch, &cluster)?.set("cluster.main.postgres.user", "seawall")?;
    let change = |config: tests::config_file::ConfigFile| {
        // Archiving by command, beside the stream, that fails.
        config.set("cluster.main.backup.after_loss", "manual")
    };
    let stage = Stage::set(cluster, config, true, change).await?;
    let cluster = &stage.cluster;
    let began = Instant::now();
    for sql in [
        "alter system set full_page_writes = off",
        "alter system set synchronous_standby_names = 'seawall'",
        "alter system set synchronous_commit = 'remote_apply'",
        "select pg_reload_conf()",
    ] {
        cluster
            .exec(&format!("set synchronous_commit = local; {sql}"))
            .await
            .or(cluster.exec(sql).await)?;
    }
    let admin = cluster.connect().await?;
    admin.batch_execute("set synchronous_commit = local").await?;
    admin
        .batch_execute(
            "select pg_create_physical_replication_slot('seawall_old', true); \
             revoke execute on function pg_backup_start(text, boolean) from seawall",
        )
        .await?;
    stage.noticed(began, "remote_apply", "wait for ever").await?;
    stage
        .noticed(began, "server_setting_unwise", "full_page_writes is off")
        .await?;
    stage
        .noticed(began, "server_setting", "may not start a base backup")
        .await?;
    stage.noticed(began, "idle_slot", "seawall_old").await?;
    let mended = Instant::now();
    admin
        .batch_execute(
            "select pg_drop_replication_slot('seawall_old'); \
             grant execute on function pg_backup_start(text, boolean) to seawall",
        )
        .await?;
    for sql in [
        "alter system reset full_page_writes",
        "alter system reset synchronous_standby_names",
        "alter system reset synchronous_commit",
        "select pg_reload_conf()",
    ] {
        admin.batch_execute(sql).await?;
    }
    for alarm in ["remote_apply", "server_setting_unwise", "server_setting", "idle_slot"] {
        stage.over(mended, alarm).await?;
    }
    stage.end().await
}

/// Its disk.
pub async fn has_corrupt_pages(scratch: Scratch) -> Result<()> {
    let cluster = Cluster::builder(15)
        .checksums(true)
        .setting("archive_mode", "on")
        .create(&scratch, "main")
        .await?;
    cluster
        .exec("create table t as select i, md5(i::text) from generate_series(1, 5000) i")
        .await?;
    let config = Seawall::local_config(&scratch, &cluster)?;
    let stage = Stage::set(cluster, config, true, Ok).await?;
    let cluster = &stage.cluster;
    let path = cluster.query_one("select pg_relation_filepath('t')").await?;
    cluster.stop(StopMode::Fast).await?;
    let file = fs::File::options()
        .write(true)
        .open(cluster.data_directory().join(&path))?;
    file.write_all_at(b"rot", 8192 * 3 + 4000)?;
    cluster.start().await?;
    let began = Instant::now();
    ensure!(cluster.exec("select count(*) from t").await.is_err());
    // A command that is ours and fails.
    for sql in [
        "alter system set archive_command = '/bin/false archive-push %p'",
        "select pg_reload_conf()",
    ] {
        cluster.exec(sql).await?;
    }
    cluster.switch_wal().await?;
    // Streaming begins again first.
    stage.seawall.wait_archived(cluster).await?;
    let backup = stage.seawall.agent.run(&["backup", "--json"]).await?;
    ensure!(backup.stdout.contains("corrupt_pages"), "{}", backup.stderr);
    stage.noticed(began, "checksum_failures", "corrupt pages").await?;
    stage
        .noticed(began, "archiver_failing", "archive_command fails")
        .await?;
    stage
        .noticed(Instant::now(), "corrupt_pages", "corrupt in the database itself")
        .await?;
    let mended = Instant::now();
    cluster.exec("drop table t; checkpoint").await?;
    cluster.exec("select pg_stat_reset()").await?;
    for sql in ["alter system set archive_command = 'true'", "select pg_reload_conf()"] {
        cluster.exec(sql).await?;
    }
    stage.seawall.agent.run_ok(&["backup"]).await?;
    for alarm in ["checksum_failures", "archiver_failing", "corrupt_pages"] {
        stage.over(mended, alarm).await?;
    }
    stage.end().await
}
