//! `wal-agent adopt`: a restored or an upgraded server is production again. Its lineage goes on, or a new one begins; what was archived
//! before is kept and can be restored; nothing is changed before the plan is agreed to, or while the old server lives.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tests::cluster::lsn_text;
use tests::install::pg_bin;
use tests::program::Output;
use tests::seawall::{json_array, json_str, json_u64};
use tests::wait::DEADLINE;
use tests::{Child, Cluster, Scratch, Seawall, StopMode, case, tree, user};

const REFUSED: i32 = 3;
const DRY: [&str; 3] = ["adopt", "--dry-run", "--json"];
const ADOPT: [&str; 3] = ["adopt", "--yes", "--json"];
const UPGRADE_DEADLINE: Duration = Duration::from_secs(300);

async fn write(cluster: &Cluster, branch: &str, rows: u32) -> Result<()> {
    let sql = format!("insert into t select '{branch}' from generate_series(1, {rows})");
    cluster.exec(&sql).await
}

async fn rows(cluster: &Cluster) -> Result<String> {
    cluster
        .query_one(
            "select string_agg(branch || ' ' || n, ', ' order by branch) from (select branch, count(*) n from t group by 1) s",
        )
        .await
}

/// A production server with its agent, one backup and some rows, all of them archived.
async fn production(scratch: &Scratch, major: u32) -> Result<(Cluster, Seawall, Child)> {
    let cluster = Cluster::builder(major)
        .segment_size_mib(1)
        .setting("archive_mode", "on")
        .setting("archive_command", "true")
        .create(scratch, "main")
        .await?;
    cluster.exec("create table t (branch text)").await?;
    let seawall = Seawall::local(scratch, &cluster).await?;
    let agent = seawall.run().await?;
    cluster
        .exec("alter system set synchronous_standby_names = 'ANY 1 (seawall)'")
        .await?;
    cluster.reload().await?;
    seawall.backup().await?;
    write(&cluster, "a", 1000).await?;
    seawall.wait_archived(&cluster).await?;
    Ok((cluster, seawall, agent))
}

/// The installation on a host that knows nothing of the first one.
fn on_another_host(scratch: &Scratch, seawall: &Seawall, cluster: &Cluster) -> Result<Seawall> {
    let state = scratch.dir("state2")?.display().to_string();
    let config = seawall.config.clone();
    let config = config
        .set("cluster.main.postgres.host", cluster.socket_dir().display().to_string())?
        .set("cluster.main.postgres.port", i64::from(cluster.port()))?
        .set("cluster.main.status.state_directory", state)?;
    Seawall::configure_as(config, "two")
}

/// What `adopt` could change: objects of these kinds (while another server is archived: those that its agent does not write), slots, what
/// ALTER SYSTEM writes.
async fn changeable_of(kinds: &[&str], seawall: &Seawall, cluster: &Cluster) -> Result<(Vec<PathBuf>, String, String)> {
    let mut found = changeable(seawall, cluster).await?;
    let is_of = |path: &PathBuf| path.iter().any(|part| kinds.iter().any(|kind| part == *kind));
    found.0.retain(is_of);
    Ok(found)
}

/// All of it.
async fn changeable(seawall: &Seawall, cluster: &Cluster) -> Result<(Vec<PathBuf>, String, String)> {
    let slots = "select count(*) from pg_replication_slots";
    Ok((
        tree::files(&seawall.repository())?,
        cluster.query_one(slots).await?,
        std::fs::read_to_string(cluster.data_directory().join("postgresql.auto.conf"))?,
    ))
}

fn statements(report: &Value) -> Result<String> {
    let todo = json_array(report, "left_to_do")?;
    let statements = todo.iter().filter_map(|todo| todo["statement"].as_str());
    Ok(statements.collect::<Vec<_>>().join("\n"))
}

fn texts(report: &Value, key: &str) -> Result<Vec<String>> {
    let texts = json_array(report, key)?.iter().filter_map(Value::as_str);
    Ok(texts.map(str::to_owned).collect())
}

fn quiet(output: &Output) -> Result<Value> {
    output.assert_no_unexpected_warnings(&[])?;
    output.json()
}

#[test]
fn a_restored_server_is_production_again_and_the_old_branch_is_kept() {
    case("adopt_restored", async |scratch| {
        let (cluster, seawall, agent) = production(&scratch, 15).await?;
        let old_lineages = seawall.lineages()?;
        let accident = seawall.wait_archived(&cluster).await?;
        write(&cluster, "z", 10).await?;
        seawall.wait_archived(&cluster).await?;
        agent.kill9()?;
        cluster.kill9()?;
        cluster.destroy_data_directory()?;

        let at = lsn_text(accident);
        let (restored, report) = seawall.restore_and_start("restored", &["--target-lsn", &at]).await?;
        assert_eq!(report["server"]["timeline"], 2, "{report}");
        let seawall = seawall.at(restored.socket_dir(), restored.port())?;

        // Only looking changes nothing, and nobody is adopted without being asked.
        let before = changeable(&seawall, &restored).await?;
        let plan = quiet(&seawall.agent.run_ok(&DRY).await?)?;
        assert_eq!(json_str(&plan, "course")?, "goes on", "{plan}");
        assert_eq!(plan["kept_branch"]["timeline"], 1, "{plan}");
        assert_eq!(plan["dry_run"], true);
        let asked = seawall.agent.run(&["adopt"]).await?;
        asked.assert_refused(REFUSED, &["--dry-run", "--yes", "terminal"])?;
        assert_eq!(changeable(&seawall, &restored).await?, before);

        let adopted = quiet(&seawall.agent.run_ok(&ADOPT).await?)?;
        assert_eq!(seawall.lineages()?, old_lineages, "a restore begins no lineage");
        assert_eq!(json_str(&adopted, "lineage")?, old_lineages[0]);
        assert_eq!(json_u64(&adopted, "timeline")?, 2);
        assert!(adopted["protected_since"].is_string(), "{adopted}");
        let reset = texts(&adopted, "settings_reset")?;
        for name in [
            "restore_command",
            "recovery_target_lsn",
            "recovery_target_timeline",
            "primary_conninfo",
        ] {
            assert!(reset.iter().any(|reset| reset == name), "{reset:?}");
        }
        let (_, slots, auto_conf) = changeable(&seawall, &restored).await?;
        assert_eq!(slots, "2");
        assert!(
            !auto_conf.contains("recovery_target") && !auto_conf.contains("restore_command"),
            "{auto_conf}"
        );
        // What stays off until the operator says otherwise, and how he does.
        assert!(
            auto_conf.contains("archive_mode = 'off'") && auto_conf.contains("max_connections"),
            "{auto_conf}"
        );
        assert_eq!(restored.query_one("show synchronous_standby_names").await?, "");
        let left = statements(&adopted)?;
        assert!(left.contains("ALTER SYSTEM SET archive_mode = 'on';"), "{left}");
        assert!(
            left.contains("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (seawall)';"),
            "{left}"
        );
        assert!(left.contains("wal-agent run"), "{left}");

        // A second time there is nothing left to do.
        let again = seawall
            .agent
            .run_ok(&["adopt", "--yes", "--json", "--no-backup"])
            .await?;
        let again = quiet(&again)?;
        assert_eq!(json_array(&again, "settings_reset")?.len(), 0, "{again}");
        assert!(again["backup"].is_null() && statements(&again)?.contains("wal-agent backup"));

        // Beside the agent that runs now only a backup is taken.
        let agent = seawall.run().await?;
        write(&restored, "b", 500).await?;
        let output = seawall.agent.run_ok(&["adopt", "--yes"]).await?;
        output.assert_no_unexpected_warnings(&[])?;
        assert!(
            output.stdout.contains("an agent streams from the slot already"),
            "{}",
            output.stdout
        );
        assert!(output.stdout.contains("is adopted") && !output.stdout.contains("start the agent now"));
        write(&restored, "c", 5).await?;
        seawall.wait_archived(&restored).await?;
        agent.assert_no_unexpected_warnings(&[])?;
        agent.kill9()?;
        restored.kill9()?;
        restored.destroy_data_directory()?;

        let backup = json_str(&adopted["backup"], "backup")?;
        let target = ["--target", "latest", "--backup", backup];
        let latest = seawall.restore_to("latest", &target).await?;
        assert_eq!(rows(&latest).await?, "a 1000, b 500, c 5");
        latest.amcheck().await?;
        let target = ["--target", "latest", "--target-timeline", "1"];
        let old = seawall.restore_to("old", &target).await?;
        assert_eq!(rows(&old).await?, "a 1000, z 10");
        Ok(())
    });
}

#[test]
fn what_the_role_may_not_do_is_left_to_the_operator() {
    case("adopt_role", async |scratch| {
        let (cluster, seawall, agent) = production(&scratch, 15).await?;
        for sql in [
            "create role seawall login replication in role pg_read_all_settings",
            "grant execute on function pg_backup_start(text, boolean), pg_backup_stop(boolean) to seawall",
        ] {
            cluster.exec(sql).await?;
        }
        seawall.wait_archived(&cluster).await?;
        agent.stop(DEADLINE).await?;
        cluster.kill9()?;
        let (restored, _) = seawall.restore_and_start("restored", &["--target", "latest"]).await?;
        let seawall = seawall.at(restored.socket_dir(), restored.port())?;
        let config = seawall.config.clone().set("cluster.main.postgres.user", "seawall")?;
        let seawall = Seawall::configure(config)?;
        let adopted = quiet(&seawall.agent.run_ok(&ADOPT).await?)?;
        assert_eq!(json_array(&adopted, "settings_reset")?.len(), 0, "{adopted}");
        assert!(
            statements(&adopted)?.contains("ALTER SYSTEM RESET restore_command;"),
            "{adopted}"
        );
        assert!(adopted["backup"].is_object(), "{adopted}");
        Ok(())
    });
}

#[test]
fn nothing_is_adopted_in_recovery_or_while_the_old_server_lives() {
    case("adopt_refused", async |scratch| {
        let (cluster, seawall, agent) = production(&scratch, 15).await?;
        let target = ["--target", "latest", "--target-action", "pause"];
        let (restored, _) = seawall.restore_and_start("beside", &target).await?;
        let elsewhere = on_another_host(&scratch, &seawall, &restored)?;
        let paused = elsewhere.agent.run(&ADOPT).await?;
        paused.assert_refused(REFUSED, &["recovery", "paused", "pg_promote"])?;
        restored.promote().await?;
        let kinds = ["lineages", "leases", "backups", "intents", "holes", "ledger"];
        let before = changeable_of(&kinds, &seawall, &restored).await?;

        // It does nothing, but its WAL was archived just now.
        let may_live = elsewhere.agent.run(&ADOPT).await?;
        may_live.assert_refused(REFUSED, &["the old server of cluster \"main\"", "--old-is-gone"])?;
        // An agent of this host that serves another server.
        let here = seawall.at(restored.socket_dir(), restored.port())?;
        let other = here.agent.run(&ADOPT).await?;
        other.assert_refused(REFUSED, &["does not stream from this server"])?;
        let seawall = seawall.at(cluster.socket_dir(), cluster.port())?;
        assert_eq!(changeable_of(&kinds, &seawall, &restored).await?, before);

        // It writes while we look.
        let writing = async {
            loop {
                write(&cluster, "x", 1).await?;
                seawall.wait_archived(&cluster).await?;
            }
        };
        let lives: Output = tokio::select! {
            output = elsewhere.agent.run(&ADOPT) => output?,
            failed = writing => return failed,
        };
        lives.assert_refused(REFUSED, &["the old server of cluster \"main\" lives", "for good"])?;
        assert_eq!(changeable_of(&kinds, &seawall, &restored).await?, before);
        // Nobody was taken over.
        assert_eq!(seawall.status().await?["streaming"], true);
        agent.assert_no_unexpected_warnings(&[])?;

        // Lost for good; only the operator knows.
        agent.kill9()?;
        cluster.kill9()?;
        let may_live = elsewhere.agent.run(&ADOPT).await?;
        may_live.assert_refused(REFUSED, &["may live"])?;
        let mut gone = ADOPT.to_vec();
        gone.push("--old-is-gone");
        let adopted = quiet(&elsewhere.agent.run_ok(&gone).await?)?;
        assert_eq!(json_str(&adopted, "course")?, "goes on", "{adopted}");
        assert!(adopted["backup"].is_object(), "{adopted}");
        Ok(())
    });
}

/// `pg_upgrade` into a new cluster, which is running when this returns.
async fn upgrade(scratch: &Scratch, old: &Cluster, major: u32) -> Result<Cluster> {
    let new = Cluster::builder(major)
        .segment_size_mib(1)
        .create(scratch, "new")
        .await?;
    new.stop(StopMode::Fast).await?;
    old.stop(StopMode::Fast).await?;
    let mut command = user::command(pg_bin(major)?.join("pg_upgrade"));
    command
        .arg("--old-bindir")
        .arg(pg_bin(old.major())?)
        .arg("--new-bindir")
        .arg(pg_bin(major)?)
        .arg("--old-datadir")
        .arg(old.data_directory())
        .arg("--new-datadir")
        .arg(new.data_directory())
        .args(["--username", "postgres", "--socketdir"])
        .arg(scratch.dir("u")?)
        .current_dir(scratch.dir("upgrade")?);
    user::run(command, UPGRADE_DEADLINE).await?;
    new.start().await?;
    Ok(new)
}

async fn upgraded(scratch: &Scratch, from: u32, to: u32) -> Result<()> {
    let old = Cluster::builder(from)
        .segment_size_mib(1)
        .create(scratch, "main")
        .await?;
    old.exec("create table t (branch text)").await?;
    let seawall = Seawall::local(scratch, &old).await?;
    let agent = seawall.run().await?;
    let first = seawall.backup().await?;
    write(&old, "before", 1000).await?;
    seawall.wait_archived(&old).await?;
    agent.stop(DEADLINE).await?;
    let [lineage] = seawall.lineages()?.try_into().ok().context("one lineage")?;
    let new = upgrade(scratch, &old, to).await?;
    let config = seawall.config.clone();
    let config = config.set("cluster.main.postgres.bin_directory", pg_bin(to)?.display().to_string())?;
    let seawall = Seawall::configure(config)?.at(new.socket_dir(), new.port())?;

    // No daemon begins a lineage for another system identifier: the address may be wrong.
    let run = seawall.agent.run(&["run"]).await?;
    run.assert_refused(REFUSED, &["system identifier", "wal-agent adopt"])?;
    let before = changeable(&seawall, &new).await?;
    let plan = quiet(&seawall.agent.run_ok(&DRY).await?)?;
    assert_eq!(json_str(&plan, "course")?, "new lineage", "{plan}");
    assert!(json_str(&plan, "reason")?.contains(&format!("PostgreSQL {to} instead of {from}")));
    assert_eq!(changeable(&seawall, &new).await?, before);

    let adopted = quiet(&seawall.agent.run_ok(&ADOPT).await?)?;
    assert_eq!(json_str(&adopted, "parent")?, lineage);
    let begun = json_str(&adopted, "lineage")?;
    assert_eq!(seawall.lineages()?, [lineage.as_str(), begun]);
    let agent = seawall.run().await?;
    write(&new, "after", 500).await?;
    seawall.wait_archived(&new).await?;
    assert_eq!(json_str(&seawall.status().await?, "lineage")?, begun);
    agent.assert_no_unexpected_warnings(&[])?;
    agent.stop(DEADLINE).await?;
    new.kill9()?;

    let latest = seawall.restore_to("latest", &["--target", "latest"]).await?;
    assert_eq!(
        (latest.major(), rows(&latest).await?),
        (to, "after 500, before 1000".to_owned())
    );
    latest.amcheck().await?;
    let backup = json_str(&first, "backup")?;
    let target = ["--target", "latest", "--backup", backup];
    let downgraded = seawall.restore_to("downgraded", &target).await?;
    assert_eq!(
        (downgraded.major(), rows(&downgraded).await?),
        (from, "before 1000".to_owned())
    );
    Ok(())
}

#[test]
fn after_pg_upgrade_from_13_to_17_a_new_lineage_begins_and_the_old_one_is_kept() {
    case("adopt_13_17", async |scratch| upgraded(&scratch, 13, 17).await);
}

#[test]
fn after_pg_upgrade_from_15_to_18_a_new_lineage_begins_and_the_old_one_is_kept() {
    case("adopt_15_18", async |scratch| upgraded(&scratch, 15, 18).await);
}

#[test]
fn an_upgrade_that_is_given_up_goes_back_to_the_old_lineage() {
    case("adopt_back", async |scratch| {
        let old = Cluster::builder(15)
            .segment_size_mib(1)
            .create(&scratch, "main")
            .await?;
        old.exec("create table t (branch text)").await?;
        let seawall = Seawall::local(&scratch, &old).await?;
        let agent = seawall.run().await?;
        write(&old, "before", 10).await?;
        seawall.wait_archived(&old).await?;
        agent.stop(DEADLINE).await?;
        let lineages = seawall.lineages()?;
        let new = upgrade(&scratch, &old, 17).await?;
        let upgraded = seawall.at(new.socket_dir(), new.port())?;
        upgraded.agent.run_ok(&["adopt", "--yes", "--no-backup"]).await?;
        assert_eq!(seawall.lineages()?.len(), 2);
        new.stop(StopMode::Fast).await?;

        old.start().await?;
        let seawall = seawall.at(old.socket_dir(), old.port())?;
        let adopted = quiet(&seawall.agent.run_ok(&ADOPT).await?)?;
        assert_eq!(json_str(&adopted, "course")?, "goes on", "{adopted}");
        assert_eq!(json_str(&adopted, "lineage")?, lineages[0]);
        let warnings = texts(&adopted, "warnings")?;
        assert!(
            warnings.iter().any(|warning| warning.contains("is newer than")),
            "{adopted}"
        );
        Ok(())
    });
}
