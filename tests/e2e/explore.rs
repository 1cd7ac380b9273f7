//! Looking around before deciding: a restored server waits at its stop point, is moved on, and promoted where it is right; and what is
//! known of timelines and of libraries is told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::{Result, ensure};
use tests::cluster::lsn_text;
use tests::seawall::json_array;
use tests::{Cluster, Scratch, Seawall, StopMode, case};

const REFUSED: i32 = 3;

/// Rows, and the LSN behind them; several segments of WAL in between.
async fn write(cluster: &Cluster, rows: u32) -> Result<String> {
    cluster
        .exec(&format!(
            "insert into t select n, repeat('x', 100) from generate_series(1, {rows}) as n"
        ))
        .await?;
    let lsn = lsn_text(cluster.current_lsn().await?);
    cluster.exec("insert into t values (0, 'too much')").await?;
    Ok(lsn)
}

async fn rows(cluster: &Cluster) -> Result<String> {
    cluster.query_one("select count(*) from t").await
}

async fn look_around(scratch: &Scratch, major: u32) -> Result<()> {
    let cluster = Cluster::builder(major)
        .segment_size_mib(1)
        .create(scratch, "main")
        .await?;
    cluster
        .exec("create table t (i int, filler text); create index on t (filler)")
        .await?;
    let seawall = Seawall::local(scratch, &cluster).await?;
    let agent = seawall.run().await?;
    seawall.backup().await?;
    let first = write(&cluster, 10_000).await?;
    let second = write(&cluster, 20_000).await?;
    let third = write(&cluster, 30_000).await?;
    seawall.wait_archived(&cluster).await?;
    agent.stop(tests::wait::DEADLINE).await?;
    cluster.stop(StopMode::Fast).await?;

    let (restored, report) = seawall
        .explore("explored", &["--target-lsn", &first, "--exclusive"])
        .await?;
    ensure!(report["server"]["state"] == "paused", "{report}");
    // The host is the same one: nothing is to be said of its libraries.
    ensure!(json_array(&report, "restore_warnings")?.is_empty(), "{report}");
    ensure!(rows(&restored).await? == "10000");
    ensure!(restored.exec("insert into t values (1, 'no')").await.is_err());

    let data = restored.data_directory().display().to_string();
    let forward = async |lsn: &str, more: &[&str]| {
        let mut args = vec![
            "forward",
            "--pgdata",
            &data,
            "--target-lsn",
            lsn,
            "--exclusive",
            "--json",
        ];
        args.extend(more);
        seawall.restore.run(&args).await
    };
    let planned = forward(&second, &["--dry-run"]).await?;
    planned.assert_code(0)?;
    ensure!(planned.json()?["stop"]["kind"] == "lsn" && rows(&restored).await? == "10000");
    let moved = forward(&second, &[]).await?;
    moved.assert_code(0)?;
    ensure!(moved.json()?["server"]["state"] == "paused", "{:?}", moved.json());
    ensure!(rows(&restored).await? == "30001");
    forward(&first, &[])
        .await?
        .assert_refused(REFUSED, &["cannot go back"])?;
    ensure!(rows(&restored).await? == "30001", "a refusal has moved it");

    // One that was stopped goes on too.
    restored.stop(StopMode::Fast).await?;
    let promote = ["promote", "--pgdata", &data, "--json"];
    let output = seawall.restore.run(&promote).await?;
    output.assert_refused(REFUSED, &["does not run"])?;
    forward(&third, &[]).await?.assert_code(0)?;
    ensure!(rows(&restored).await? == "60002");
    let ended = seawall.restore.run_ok(&promote).await?.json()?;
    ensure!(ended["server"]["timeline"] == 2, "{ended}");
    restored.exec("insert into t values (1, 'yes')").await?;
    ensure!(rows(&restored).await? == "60003");
    forward(&third, &[])
        .await?
        .assert_refused(REFUSED, &["not in recovery"])?;
    let hba = std::fs::read_to_string(restored.data_directory().join("pg_hba.conf"))?;
    ensure!(!hba.contains("seawall"), "our way in is still there: {hba}");
    Ok(())
}

#[test]
fn a_restored_server_waits_is_moved_on_and_promoted_13() {
    case("explore_13", async |scratch| look_around(&scratch, 13).await);
}

#[test]
fn a_restored_server_waits_is_moved_on_and_promoted_15() {
    case("explore_15", async |scratch| look_around(&scratch, 15).await);
}

#[test]
fn a_restored_server_waits_is_moved_on_and_promoted_18() {
    case("explore_18", async |scratch| look_around(&scratch, 18).await);
}

#[test]
fn timelines_are_shown_as_a_tree() {
    case("explore_tree", async |scratch| {
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .create(&scratch, "main")
            .await?;
        cluster.exec("create table t (i int)").await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        seawall.backup().await?;
        cluster.switch_timeline().await?;
        cluster.wait_promoted(tests::wait::DEADLINE).await?;
        cluster.exec("insert into t values (1)").await?;
        seawall.wait_archived(&cluster).await?;
        agent.stop(tests::wait::DEADLINE).await?;
        let listing = seawall.restore.run_ok(&["list", "--json"]).await?.json()?;
        let timelines = json_array(&listing, "timelines")?;
        ensure!(timelines.len() == 2, "{listing}");
        ensure!(
            timelines[1]["parent"] == 1 && timelines[1]["switch_lsn"].is_string(),
            "{listing}"
        );
        let text = seawall.restore.run_ok(&["list"]).await?.stdout;
        ensure!(text.contains("└─ timeline 1: WAL"), "{text}");
        ensure!(text.contains("   └─ timeline 2, left 1 at "), "{text}");
        Ok(())
    });
}

#[test]
fn tables_that_wait_for_an_unfinished_transaction_are_named() {
    case("explore_locked", async |scratch| {
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .create(&scratch, "main")
            .await?;
        cluster
            .exec("create table dropped as select generate_series(1, 77) as i")
            .await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        seawall.backup().await?;
        cluster.exec("drop table dropped").await?;
        cluster.switch_wal().await?;
        seawall.wait_archived(&cluster).await?;
        agent.stop(tests::wait::DEADLINE).await?;
        cluster.stop(StopMode::Fast).await?;

        let asked = ["find", "--database", "postgres", "--table", "public.dropped", "--json"];
        let found = seawall.restore.run_ok(&asked).await?.json()?;
        let options = json_array(&json_array(&found, "events")?[0], "restore")?;
        let options: Vec<&str> = options.iter().filter_map(|option| option.as_str()).collect();
        let (restored, report) = seawall.explore("explored", &options).await?;
        let warnings = json_array(&report, "restore_warnings")?;
        let names_it = |warning: &serde_json::Value| {
            let text = warning.as_str().unwrap_or_default();
            text.contains("public.dropped") && text.contains("waits")
        };
        ensure!(warnings.iter().any(names_it), "{report}");
        let data = restored.data_directory().display().to_string();
        let promote = ["promote", "--pgdata", &data, "--json"];
        seawall.restore.run_ok(&promote).await?;
        ensure!(restored.query_one("select count(*) from dropped").await? == "77");
        Ok(())
    });
}
