//! A data directory that was rolled back goes on under the same system identifier and timeline, with
//! other bytes at the same LSNs. The agent must notice, begin a new lineage loudly, and never splice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;

use anyhow::Result;
use tests::cluster::lsn_text;
use tests::seawall::{json_array, json_lsn, json_str};
use tests::wait::{DEADLINE, wait_for};
use tests::{Child, Cluster, Scratch, Seawall, StopMode, case, user};

struct Before {
    cluster: Cluster,
    seawall: Seawall,
    lineage: String,
    lost_end: u64,
}

/// Everything up to the rollback: a snapshot, then a branch that is archived and will be lost.
async fn lost_branch(scratch: &Scratch) -> Result<(Before, Child)> {
    let cluster = Cluster::builder(15)
        .segment_size_mib(1)
        .setting("wal_keep_size", "256MB")
        .create(scratch, "main")
        .await?;
    let seawall = Seawall::local(scratch, &cluster).await?;
    let agent = seawall.run().await?;
    cluster.exec("create table t (branch text, i int)").await?;
    seawall.backup().await?;
    write(&cluster, "common", 2_000).await?;
    cluster.exec("checkpoint").await?;
    seawall.wait_archived(&cluster).await?;
    cluster.stop(StopMode::Fast).await?;
    let mut command = user::command("cp");
    command
        .arg("-a")
        .arg(cluster.data_directory())
        .arg(scratch.join("snapshot"));
    user::run(command, DEADLINE).await?;
    cluster.start().await?;
    write(&cluster, "lost", 30_000).await?;
    let lost_end = seawall.wait_archived(&cluster).await?;
    let lineage = json_str(&seawall.status().await?, "lineage")?.to_owned();
    let before = Before {
        cluster,
        seawall,
        lineage,
        lost_end,
    };
    Ok((before, agent))
}

fn roll_back(scratch: &Scratch, cluster: &Cluster) -> Result<()> {
    cluster.kill9()?;
    cluster.destroy_data_directory()?;
    fs::rename(scratch.join("snapshot"), cluster.data_directory())?;
    Ok(())
}

async fn write(cluster: &Cluster, branch: &str, rows: u32) -> Result<()> {
    let sql = format!("insert into t select '{branch}', generate_series(1, {rows})");
    cluster.exec(&sql).await
}

async fn rows(cluster: &Cluster) -> Result<String> {
    cluster
        .query_one("select string_agg(branch || ' ' || n, ', ' order by branch) from (select branch, count(*) n from t group by 1) s")
        .await
}

/// Waits until the agent archives another lineage than that; returns the new one.
async fn new_lineage(seawall: &Seawall, old: &str) -> Result<String> {
    wait_for("a new lineage", DEADLINE, async || {
        let status = seawall.status().await.ok()?;
        let lineage = json_str(&status, "lineage").ok()?.to_owned();
        (lineage != old && !lineage.is_empty() && status["streaming"] == true).then_some(lineage)
    })
    .await
}

async fn both_branches_are_whole(before: &Before, agent: Child) -> Result<()> {
    let Before {
        cluster,
        seawall,
        lineage,
        lost_end,
    } = before;
    let new = new_lineage(seawall, lineage).await?;
    let log = agent.log();
    let loud = log
        .lines()
        .any(|line| line.contains("ERROR") && line.contains("lineage"));
    assert!(loud, "no ERROR about the lineage:\n{log}");
    // Until the new history has a backup, the newest that can be restored is the branch that was left: never without being told.
    let nowhere = seawall.repository().with_file_name("nowhere").display().to_string();
    let latest = ["--target", "latest", "--pgdata", nowhere.as_str()];
    seawall
        .restore
        .run(&latest)
        .await?
        .assert_refused(3, &[new.as_str(), "--backup"])?;
    write(cluster, "more", 100).await?;
    seawall.backup().await?;
    write(cluster, "last", 10).await?;
    seawall.wait_archived(cluster).await?;
    let all = rows(cluster).await?;
    agent.stop(DEADLINE).await?;
    cluster.kill9()?;

    let list = seawall.list().await?;
    assert_eq!(json_array(&list, "holes")?.len(), 0, "{list}");
    let windows = json_array(&list, "windows")?;
    let mut of_old = windows.iter().filter(|window| window["lineage"] == lineage.as_str());
    let old_window = of_old.next().expect("the old lineage is still there");
    assert!(
        of_old.next().is_none() && windows.iter().any(|window| window["lineage"] == new.as_str()),
        "{list}"
    );
    // Not a byte was added to the old lineage: it ends where it was when the directory went back.
    assert_eq!(json_lsn(old_window, "to_lsn")?, *lost_end, "{list}");

    let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
    assert_eq!(rows(&restored).await?, all);
    restored.amcheck().await?;
    let backups = json_array(&list, "backups")?;
    let first = backups.iter().find(|backup| backup["lineage"] == lineage.as_str());
    let first = json_str(first.expect("the first backup"), "backup")?;
    let end = lsn_text(*lost_end - 1);
    let target = ["--target-lsn", end.as_str(), "--backup", first, "--or-latest"];
    let restored = seawall.restore_to("lost", &target).await?;
    assert_eq!(rows(&restored).await?, "common 2000, lost 30000");
    restored.amcheck().await
}

#[test]
fn a_rollback_while_the_agent_runs_begins_a_new_lineage() {
    case("lineage_live", async |scratch| {
        let (before, agent) = lost_branch(&scratch).await?;
        roll_back(&scratch, &before.cluster)?;
        before.cluster.start().await?;
        write(&before.cluster, "new", 60_000).await?;
        both_branches_are_whole(&before, agent).await
    });
}

#[test]
fn a_rollback_while_the_agent_was_away_begins_a_new_lineage() {
    case("lineage_away", async |scratch| {
        let (before, agent) = lost_branch(&scratch).await?;
        agent.kill9()?;
        roll_back(&scratch, &before.cluster)?;
        before.cluster.start().await?;
        // Far past the end of the archive: by its LSN alone it could be the same history.
        write(&before.cluster, "new", 60_000).await?;
        assert!(before.cluster.current_lsn().await? > before.lost_end);
        let agent = before.seawall.agent.start_daemon()?;
        both_branches_are_whole(&before, agent).await
    });
}

#[test]
fn an_operator_who_said_stop_gets_a_stop() {
    case("lineage_stop", async |scratch| {
        let (before, agent) = lost_branch(&scratch).await?;
        agent.stop(DEADLINE).await?;
        roll_back(&scratch, &before.cluster)?;
        before.cluster.start().await?;
        write(&before.cluster, "new", 60_000).await?;
        let objects = tests::tree::files(&before.seawall.repository().join("clusters/main/wal"))?;
        // Nobody streams: the archive still holds the other history at these LSNs, and a backup must not be listed with it.
        let output = before.seawall.agent.run(&["backup"]).await?;
        output.assert_refused(3, &["history", "wal-agent run"])?;
        let config = before
            .seawall
            .config
            .clone()
            .set("cluster.main.wal.on_unknown_history", "stop")?;
        let seawall = Seawall::configure(config)?;
        let output = seawall.agent.run(&["run"]).await?;
        output.assert_refused(3, &["history", "new-lineage"])?;
        let now = tests::tree::files(&seawall.repository().join("clusters/main/wal"))?;
        assert_eq!(now, objects);
        assert!(before.cluster.is_running());
        Ok(())
    });
}
