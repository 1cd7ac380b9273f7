//! The same server with another history: rolled back to an older copy, or with its WAL reset. System identifier and timeline stay
//! the same, the bytes do not. The agent must notice before it uploads anything, begin a new lineage loudly, and never splice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::fs;

use anyhow::Result;
use tests::cluster::lsn_text;
use tests::program::Output;
use tests::seawall::{json_array, json_lsn, json_str};
use tests::wait::{DEADLINE, wait_for};
use tests::{Child, Cluster, Scratch, Seawall, StopMode, case, user, wait_until};

struct Before {
    cluster: Cluster,
    seawall: Seawall,
    lineage: String,
    /// What the old lineage holds when the server is down for the last time with its old history.
    objects: BTreeSet<String>,
    /// Where that ends.
    end: u64,
}

/// Everything up to the accident: a snapshot, then a branch that is archived and will be lost.
async fn lost_branch(scratch: &Scratch, major: u32) -> Result<(Before, Child)> {
    let cluster = Cluster::builder(major)
        .segment_size_mib(1)
        .setting("wal_keep_size", "256MB")
        .create(scratch, "main")
        .await?;
    // Not by itself: what is refused before there is a backup of the new history is looked at too.
    let config = Seawall::local_config(scratch, &cluster)?.set("cluster.main.backup.after_loss", "manual")?;
    let seawall = Seawall::configure(config)?;
    seawall.init().await?;
    let agent = seawall.run().await?;
    cluster.exec("create table t (branch text, i int)").await?;
    seawall.backup().await?;
    write(&cluster, "common", 2_000).await?;
    cluster.exec("checkpoint").await?;
    seawall.wait_archived(&cluster).await?;
    cluster.stop(StopMode::Fast).await?;
    cluster.copy_data_directory(&scratch.join("snapshot")).await?;
    cluster.start().await?;
    write(&cluster, "lost", 30_000).await?;
    seawall.wait_archived(&cluster).await?;
    let lineage = json_str(&seawall.status().await?, "lineage")?.to_owned();
    let before = Before {
        cluster,
        seawall,
        lineage,
        objects: BTreeSet::new(),
        end: 0,
    };
    Ok((before, agent))
}

impl Before {
    /// Notes what the old lineage holds. The server must be down, and nothing may be on its way.
    async fn note(&mut self) -> Result<()> {
        self.objects = self.seawall.wal_of(&self.lineage)?;
        let list = self.seawall.list().await?;
        let windows = json_array(&list, "windows")?;
        assert_eq!(windows.len(), 1, "{list}");
        self.end = json_lsn(&windows[0], "to_lsn")?;
        Ok(())
    }
}

fn roll_back(scratch: &Scratch, cluster: &Cluster) -> Result<()> {
    cluster.destroy_data_directory()?;
    fs::rename(scratch.join("snapshot"), cluster.data_directory())?;
    Ok(())
}

/// The agent knows that its server is gone: what it had received is shipped or given up.
async fn wait_cut_off(agent: &Child, earlier: usize) -> Result<()> {
    wait_until("the agent to miss its server", DEADLINE, async || {
        attempts(agent) > earlier
    })
    .await
}

fn attempts(agent: &Child) -> usize {
    agent.log().matches("not streaming; trying again").count()
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

/// The agent has begun a new lineage by itself, loudly, and the old one has not one new object.
async fn is_told_apart(before: &Before, agent: &Child) -> Result<String> {
    let new = new_lineage(&before.seawall, &before.lineage).await?;
    let log = agent.log();
    let named = |line: &str| line.contains("ERROR") && line.contains("history") && line.contains(&before.lineage);
    assert!(log.lines().any(named), "no ERROR about the history:\n{log}");
    let born = |line: &str| line.contains("ERROR") && line.contains("a new lineage") && line.contains(&new);
    assert!(log.lines().any(born), "no ERROR about the new lineage:\n{log}");
    assert_eq!(before.seawall.lineages()?, [before.lineage.as_str(), new.as_str()]);
    assert_eq!(before.seawall.wal_of(&before.lineage)?, before.objects);
    Ok(new)
}

/// What can be restored without asking is never the branch that was left: refused, or the new history.
fn never_the_old_branch(output: &Output, new: &str) -> Result<()> {
    if output.code() == 0 {
        assert!(output.stdout.contains(new), "{}", output.stdout);
        return Ok(());
    }
    output.assert_refused(3, &[new, "--backup"])
}

async fn both_branches_are_whole(before: &Before, agent: Child, old_rows: &str, holes: usize) -> Result<()> {
    let new = is_told_apart(before, &agent).await?;
    let Before { cluster, seawall, .. } = before;
    let nowhere = seawall.repository().with_file_name("nowhere").display().to_string();
    let latest = [
        "--target",
        "latest",
        "--dry-run",
        "--json",
        "--pgdata",
        nowhere.as_str(),
    ];
    never_the_old_branch(&seawall.restore.run(&latest).await?, &new)?;
    write(cluster, "more", 100).await?;
    seawall.backup().await?;
    write(cluster, "last", 10).await?;
    seawall.wait_archived(cluster).await?;
    let all = rows(cluster).await?;
    agent.stop(DEADLINE).await?;
    cluster.kill9()?;

    let list = seawall.list().await?;
    // Where the old WAL is gone nobody can say that there was none: what may be lost begins exactly where the old lineage ends.
    let declared = json_array(&list, "holes")?;
    assert_eq!(declared.len(), holes, "{list}");
    for hole in declared {
        assert_eq!(hole["lineage"], before.lineage.as_str(), "{list}");
        assert_eq!(json_lsn(hole, "start")?, before.end, "{list}");
    }
    let windows = json_array(&list, "windows")?;
    let mut of_old = windows
        .iter()
        .filter(|window| window["lineage"] == before.lineage.as_str());
    let old_window = of_old.next().expect("the old lineage is still there");
    assert!(
        of_old.next().is_none() && windows.iter().any(|window| window["lineage"] == new.as_str()),
        "{list}"
    );
    // Not a byte was added to the old lineage, until the very end.
    assert_eq!(json_lsn(old_window, "to_lsn")?, before.end, "{list}");
    assert_eq!(seawall.wal_of(&before.lineage)?, before.objects);

    let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
    assert_eq!(rows(&restored).await?, all);
    restored.amcheck().await?;
    let backups = json_array(&list, "backups")?;
    let first = backups
        .iter()
        .find(|backup| backup["lineage"] == before.lineage.as_str());
    let first = json_str(first.expect("the first backup"), "backup")?;
    let end = lsn_text(before.end - 1);
    let target = ["--target-lsn", end.as_str(), "--backup", first, "--or-latest"];
    let restored = seawall.restore_to("lost", &target).await?;
    assert_eq!(rows(&restored).await?, old_rows);
    restored.amcheck().await
}

async fn rolled_back_live(scratch: &Scratch, major: u32) -> Result<()> {
    let (mut before, agent) = lost_branch(scratch, major).await?;
    let earlier = attempts(&agent);
    before.cluster.kill9()?;
    wait_cut_off(&agent, earlier).await?;
    before.note().await?;
    roll_back(scratch, &before.cluster)?;
    before.cluster.start().await?;
    write(&before.cluster, "new", 60_000).await?;
    both_branches_are_whole(&before, agent, "common 2000, lost 30000", 0).await
}

#[test]
fn a_rollback_of_postgres_15_while_the_agent_runs_begins_a_new_lineage() {
    case("lineage_live_15", async |scratch| rolled_back_live(&scratch, 15).await);
}

#[test]
fn a_rollback_of_postgres_17_while_the_agent_runs_begins_a_new_lineage() {
    case("lineage_live_17", async |scratch| rolled_back_live(&scratch, 17).await);
}

#[test]
fn a_rollback_of_postgres_18_while_the_agent_runs_begins_a_new_lineage() {
    case("lineage_live_18", async |scratch| rolled_back_live(&scratch, 18).await);
}

async fn rolled_back_away(scratch: &Scratch, major: u32) -> Result<()> {
    let (mut before, agent) = lost_branch(scratch, major).await?;
    agent.kill9()?;
    before.cluster.kill9()?;
    before.note().await?;
    roll_back(scratch, &before.cluster)?;
    before.cluster.start().await?;
    // Far past the end of the archive: by its LSN alone it could be the same history.
    write(&before.cluster, "new", 60_000).await?;
    assert!(before.cluster.current_lsn().await? > before.end);
    let agent = before.seawall.agent.start_daemon()?;
    both_branches_are_whole(&before, agent, "common 2000, lost 30000", 0).await
}

#[test]
fn a_rollback_of_postgres_15_while_the_agent_was_away_begins_a_new_lineage() {
    case("lineage_away_15", async |scratch| rolled_back_away(&scratch, 15).await);
}

#[test]
fn a_rollback_of_postgres_17_while_the_agent_was_away_begins_a_new_lineage() {
    case("lineage_away_17", async |scratch| rolled_back_away(&scratch, 17).await);
}

#[test]
fn a_rollback_of_postgres_18_while_the_agent_was_away_begins_a_new_lineage() {
    case("lineage_away_18", async |scratch| rolled_back_away(&scratch, 18).await);
}

/// `pg_resetwal` throws the WAL away and goes on with the same data, identifier and timeline at another LSN.
async fn wal_reset(scratch: &Scratch, major: u32, next: Option<u64>) -> Result<()> {
    let (mut before, agent) = lost_branch(scratch, major).await?;
    let segment = format!(
        "select pg_walfile_name(pg_current_wal_lsn() + {})",
        next.unwrap_or_default()
    );
    let segment = before.cluster.query_one(&segment).await?;
    let earlier = attempts(&agent);
    before.cluster.stop(StopMode::Fast).await?;
    wait_cut_off(&agent, earlier).await?;
    before.note().await?;
    let mut command = before.cluster.tool("pg_resetwal");
    command.arg("-f").arg("-D").arg(before.cluster.data_directory());
    if next.is_some() {
        command.args(["-l", segment.as_str()]);
    }
    user::run(command, DEADLINE).await?;
    before.cluster.start().await?;
    write(&before.cluster, "new", 100).await?;
    both_branches_are_whole(&before, agent, "common 2000, lost 30000", 1).await
}

#[test]
fn a_reset_of_the_wal_of_postgres_15_begins_a_new_lineage() {
    // Without a place named it goes on in the next segment: nearly where it was.
    case("lineage_reset_near_15", async |scratch| {
        wal_reset(&scratch, 15, None).await
    });
    case("lineage_reset_15", async |scratch| {
        wal_reset(&scratch, 15, Some(256 << 20)).await
    });
}

#[test]
fn a_reset_of_the_wal_of_postgres_17_begins_a_new_lineage() {
    case("lineage_reset_17", async |scratch| {
        wal_reset(&scratch, 17, Some(256 << 20)).await
    });
}

#[test]
fn a_reset_of_the_wal_of_postgres_18_begins_a_new_lineage() {
    case("lineage_reset_18", async |scratch| {
        wal_reset(&scratch, 18, Some(256 << 20)).await
    });
}

#[test]
fn an_operator_who_said_stop_gets_a_stop() {
    case("lineage_stop", async |scratch| {
        let (before, agent) = lost_branch(&scratch, 15).await?;
        agent.stop(DEADLINE).await?;
        before.cluster.kill9()?;
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
