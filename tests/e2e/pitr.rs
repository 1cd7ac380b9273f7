//! The main promise: a restore to a point holds exactly what was committed before that point.
//!
//! Marks of the oracle lie before the backup, while it is taken, and after it. Each restore goes into a
//! fresh directory and is compared row by row, then checked by PostgreSQL's own tools.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::{Context, Result};
use tests::cluster::lsn_text;
use tests::oracle::{Expected, History, Mark, Options};
use tests::seawall::json_lsn;
use tests::wait::DEADLINE;
use tests::{Cluster, Oracle, Scratch, Seawall, StopMode, Weed, case, pgbench, wait_until};

#[test]
fn postgres_15_is_restored_exactly_to_every_kind_of_stop_point() {
    case("pitr_15", async |scratch| {
        let cluster = create(&scratch, 15).await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        every_stop_point(&seawall, cluster).await
    });
}

#[test]
fn postgres_17_is_restored_exactly_to_every_kind_of_stop_point() {
    case("pitr_17", async |scratch| {
        let cluster = create(&scratch, 17).await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        every_stop_point(&seawall, cluster).await
    });
}

#[test]
fn postgres_15_is_restored_exactly_from_a_bucket() {
    case("pitr_s3", async |scratch| {
        let weed = Weed::start(&scratch).await?;
        let cluster = create(&scratch, 15).await?;
        let seawall = Seawall::s3(&scratch, &cluster, &weed).await?;
        every_stop_point(&seawall, cluster).await
    });
}

async fn create(scratch: &Scratch, major: u32) -> Result<Cluster> {
    let cluster = Cluster::builder(major)
        .segment_size_mib(1)
        .setting("track_commit_timestamp", "on")
        .create(scratch, "main")
        .await?;
    pgbench::init(&cluster, 2).await?;
    pgbench::create_mix_table(&cluster, 5000).await?;
    cluster.exec("create table once (i int)").await?;
    Ok(cluster)
}

const POINT: &str = "after it, Grüße";

struct Story {
    before: Mark,
    during: Mark,
    after: Mark,
    backup_end: u64,
    /// A transaction that inserts one row into `once`.
    xid: String,
    history: History,
}

async fn every_stop_point(seawall: &Seawall, cluster: Cluster) -> Result<()> {
    let agent = seawall.run().await?;
    let story = Box::pin(live(seawall, &cluster)).await?;
    agent.assert_no_unexpected_warnings(&[])?;
    agent.stop(DEADLINE).await?;
    // All that follows comes from the repository alone.
    cluster.kill9()?;
    cluster.destroy_data_directory()?;

    let history = &story.history;
    for (name, mark) in [
        ("before", &story.before),
        ("during", &story.during),
        ("after", &story.after),
    ] {
        for (kind, target) in [
            ("--target-time", mark.time.clone()),
            ("--target-lsn", lsn_text(mark.lsn)),
        ] {
            let name = format!("{name}{}", kind.trim_start_matches('-'));
            let target = [kind, target.as_str()];
            let restored = seawall.restore_to(&name, &target).await?;
            judge(restored, history, &mark.expected).await.with_context(|| name)?;
        }
    }
    let restored = seawall.restore_to("name", &["--target-name", POINT]).await?;
    judge(restored, history, &story.after.expected).await.context("name")?;
    for (name, exclusive, rows) in [("with-it", None, "1"), ("without-it", Some("--exclusive"), "0")] {
        let mut target = vec!["--target-xid", &story.xid];
        target.extend(exclusive);
        let restored = seawall.restore_to(name, &target).await?;
        assert_eq!(restored.query_one("select count(*) from once").await?, rows, "{name}");
    }
    for (target, words) in [
        (["--target-xid", "4000000000"], "transaction 4000000000"),
        (["--target-name", "never set"], "restore point \"never set\""),
    ] {
        let args = [&target[..], &["--pgdata", "/nowhere/data"]].concat();
        let output = seawall.restore.run(&args).await?;
        output.assert_refused(3, &[words, "between"])?;
    }
    let restored = seawall.restore_to("immediate", &["--target", "immediate"]).await?;
    let expected = history.expected_at_lsn(story.backup_end);
    assert!(expected.must.len() < history.expected_now().must.len());
    judge(restored, history, &expected).await.context("immediate")?;

    let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
    judge(restored, history, &history.expected_now())
        .await
        .context("latest")
}

/// Load and oracle run from before the backup until after the last mark.
async fn live(seawall: &Seawall, cluster: &Cluster) -> Result<Story> {
    let load = pgbench::Load::start(cluster, 2, 200)?;
    let oracle = Oracle::start(cluster, Options::default()).await?;
    oracle.wait_for(100).await?;
    let backup = seawall.backup().await?;
    oracle.wait_for(50).await?;
    let before = oracle.mark(None).await?;
    // While a second one is taken: the first is what leads to the points before its end.
    let (second, during) = tokio::join!(seawall.backup(), async {
        oracle.wait_for(20).await?;
        oracle.mark(None).await
    });
    let (second, during) = (second?, during?);
    assert_ne!(backup["backup"], second["backup"]);
    oracle.wait_for(200).await?;
    let after = oracle.mark(Some(POINT)).await?;
    oracle.wait_for(100).await?;
    let xid = cluster
        .query_one("insert into once values (1) returning pg_current_xact_id()::text")
        .await?;
    oracle.wait_for(20).await?;
    let history = oracle.stop().await?;
    load.stop().await?;
    let end = seawall.wait_archived(cluster).await?;
    assert!(during.lsn < after.lsn && after.lsn < end);
    assert!(json_lsn(&backup, "end_lsn")? <= before.lsn && before.lsn < during.lsn);
    Ok(Story {
        before,
        during,
        after,
        // `immediate` is the end of the newest backup.
        backup_end: json_lsn(&second, "end_lsn")?,
        xid,
        history,
    })
}

async fn judge(restored: Cluster, history: &History, expected: &Expected) -> Result<()> {
    assert!(expected.must.len() >= 100, "{}", expected.must.len());
    let client = restored.connect().await?;
    history.assert_exact(&client, expected).await?;
    drop(client);
    pgbench::assert_balanced(&restored).await?;
    restored.amcheck().await?;
    // It is a server like any other: it takes writes.
    restored.exec("create table afterwards as select 1 as i").await?;
    wait_until("the clients to be gone", DEADLINE, async || {
        let others = "select count(*) from pg_stat_activity where backend_type = 'client backend'";
        restored.query_one(others).await.is_ok_and(|n| n == "1")
    })
    .await?;
    restored.stop(StopMode::Fast).await?;
    restored.checksums_clean().await
}

#[test]
fn a_restore_on_another_day_needs_no_agent_and_proves_itself() {
    case("restore_start", async |scratch| {
        let cluster = create(&scratch, 15).await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        seawall.backup().await?;
        let oracle = Oracle::start(&cluster, Options::default()).await?;
        oracle.wait_for(100).await?;
        let mark = oracle.mark(None).await?;
        oracle.wait_for(50).await?;
        let history = oracle.stop().await?;
        seawall.wait_archived(&cluster).await?;
        agent.kill9()?;
        cluster.kill9()?;

        let target = ["--target-time", mark.time.as_str()];
        let mut plan = target.to_vec();
        let dry = scratch.join("dry").display().to_string();
        plan.extend(["--pgdata", &dry, "--dry-run"]);
        seawall.restore.run_ok(&plan).await?;
        assert!(!scratch.join("dry").exists(), "a dry run wrote something");

        let (restored, report) = seawall.restore_and_start("proved", &target).await?;
        let client = restored.connect().await?;
        history.assert_exact(&client, &mark.expected).await?;
        assert!(report["rto_ms"].as_u64().is_some(), "{report}");
        assert!(report["phases_ms"].is_object(), "{report}");
        assert!(json_lsn(&report, "stop_lsn")? >= mark.lsn, "{report}");
        assert_eq!(restored.query_one("show archive_mode").await?, "off");
        Ok(())
    });
}
