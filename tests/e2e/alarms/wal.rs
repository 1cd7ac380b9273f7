//! WAL that is lost, and an agent that is.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::config_file::ConfigFile;
use tests::receiver::get;
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall};

use super::stage::Stage;

pub async fn is_lost_and_taken_over(scratch: Scratch) -> Result<()> {
    let cluster = Cluster::builder(15)
        .segment_size_mib(1)
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "4MB")
        .create(&scratch, "main")
        .await?;
    let config = Seawall::local_config(&scratch, &cluster)?;
    let manual = |config: ConfigFile| config.set("cluster.main.backup.after_loss", "manual");
    let mut stage = Stage::set(cluster, config, true, manual).await?;
    let cluster = &stage.cluster;
    // Its slots are dropped while it is away, and the WAL goes.
    stage.agent.terminate(DEADLINE).await?;
    cluster
        .exec("select pg_drop_replication_slot(slot_name) from pg_replication_slots")
        .await?;
    for _ in 0..12 {
        cluster
            .exec("create table if not exists t (x text); insert into t select repeat('x', 2000) from generate_series(1, 500); select pg_switch_wal()")
            .await?;
        cluster.exec("checkpoint").await?;
    }
    let began = Instant::now();
    stage.agent = stage.seawall.run().await?;
    stage.noticed(began, "wal_hole", "WAL is missing").await?;
    stage
        .noticed(began, "backup_of_other_history", "cannot be restored")
        .await?;
    let mended = Instant::now();
    stage.seawall.agent.run_ok(&["backup"]).await?;
    for alarm in ["wal_hole", "backup_of_other_history"] {
        stage.over(mended, alarm).await?;
    }

    // Another agent takes over: the first one ends, and says so.
    let began = Instant::now();
    let other = scratch.dir("other")?.display().to_string();
    let second = stage
        .seawall
        .config
        .clone()
        .set("cluster.main.status.state_directory", other)?
        .set("cluster.main.wal.slot", "seawall_second")?
        .set("cluster.main.http.listen", "off")?;
    let second = Seawall::configure_as(second, "second")?;
    second.agent.run_ok(&["init", "--single-host"]).await?;
    let successor = second.run().await?;
    let is_it = |body: &serde_json::Value| body["event"] == "raised" && body["alarm"] == "agent_stopped";
    let message = stage
        .told
        .wait_for("agent_stopped", super::stage::NOTICED_MAX, 0, is_it)
        .await?;
    println!(
        "agent_stopped: noticed after {:.0?}: {}",
        began.elapsed(),
        message["text"]
    );
    ensure!(
        message["text"].as_str().is_some_and(|text| text.contains("taken over")),
        "{message}"
    );
    ensure!(stage.agent.wait(DEADLINE).await?.code() == Some(7));
    successor.kill9()?;

    // A dead agent is seen from outside only.
    ensure!(get(stage.port, "/healthz").await.is_err());
    tests::wait::delay(Duration::from_secs(11)).await;
    let line = stage.nagios_says(2).await?;
    ensure!(line.contains("no agent is running"), "{line}");

    // It is back: what was told is over.
    let mended = Instant::now();
    stage.agent = stage.seawall.run().await?;
    stage.over(mended, "agent_stopped").await?;
    ensure!(get(stage.port, "/healthz").await?.0 == 200);
    stage.end().await
}
