//! A promoted standby takes over: the agent follows to the new timeline, and both can be restored.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::Result;
use tests::cluster::lsn_text;
use tests::seawall::{json_array, json_lsn, json_u64};
use tests::wait::DEADLINE;
use tests::{Cluster, Seawall, StopMode, case};

const SLOTS: &str = "
    select pg_create_physical_replication_slot('seawall', true);
    select pg_create_physical_replication_slot('seawall_overlap', true);";

async fn rows(cluster: &Cluster) -> Result<String> {
    cluster
        .query_one("select string_agg(distinct branch, ' ' order by branch) || ' ' || count(*) from t")
        .await
}

async fn write(cluster: &Cluster, branch: &str, rows: u32) -> Result<()> {
    let sql = format!("insert into t select '{branch}' from generate_series(1, {rows})");
    cluster.exec(&sql).await
}

#[test]
fn the_agent_follows_a_promoted_standby_and_both_timelines_are_restored() {
    case("timeline", async |scratch| {
        let primary = Cluster::builder(15)
            .segment_size_mib(1)
            .setting("wal_keep_size", "256MB")
            .create(&scratch, "main")
            .await?;
        primary.exec("create table t (branch text)").await?;
        let standby = primary.standby("standby").await?;
        let seawall = Seawall::local(&scratch, &primary).await?;
        let agent = seawall.run().await?;
        let backup = seawall.backup().await?;
        write(&primary, "a-before", 20_000).await?;
        let before = seawall.wait_archived(&primary).await?;
        // What an operator prepares on a standby that may take over.
        standby.exec(SLOTS).await?;
        standby.wait_replayed(before).await?;
        agent.stop(DEADLINE).await?;
        // The primary goes on alone: its last rows are on the old timeline only, and nowhere else.
        primary.stop(StopMode::Fast).await?;
        standby.promote().await?;
        write(&standby, "b-after", 30_000).await?;

        let socket = standby.socket_dir().display().to_string();
        let config = seawall
            .config
            .clone()
            .set("cluster.main.postgres.host", socket)?
            .set("cluster.main.postgres.port", i64::from(standby.port()))?;
        let seawall = Seawall::configure(config)?;
        let agent = seawall.run().await?;
        let after = seawall.wait_archived(&standby).await?;
        assert_eq!(json_u64(&seawall.status().await?, "timeline")?, 2);
        let list = seawall.list().await?;
        assert_eq!(json_array(&list, "holes")?.len(), 0, "{list}");
        let lineages = seawall.lineages()?;
        let [lineage] = lineages.as_slice() else {
            panic!("a switch begins no lineage: {lineages:?}")
        };
        let mut timelines = Vec::new();
        for window in json_array(&list, "windows")? {
            assert_eq!(window["lineage"], lineage.as_str(), "{list}");
            timelines.push(json_u64(window, "timeline")?);
        }
        assert_eq!(timelines, [1, 2], "{list}");
        // The history came before the WAL of its timeline.
        let wal = tests::tree::files(&seawall.repository().join("clusters/main/wal"))?;
        let is_history = |path: &std::path::PathBuf| path.to_string_lossy().contains("/00000002/history.");
        assert_eq!(wal.iter().filter(|path| is_history(path)).count(), 1, "{wal:?}");

        // A backup of the new timeline, then rows that only it can be rolled forward to.
        seawall.backup().await?;
        write(&standby, "c-later", 5).await?;
        let end = seawall.wait_archived(&standby).await?;
        assert!(end > after);
        agent.assert_no_unexpected_warnings(&[])?;
        agent.stop(DEADLINE).await?;
        standby.kill9()?;

        let old = lsn_text(before);
        let target = ["--target-lsn", old.as_str(), "--target-timeline", "1"];
        let restored = seawall.restore_to("old", &target).await?;
        assert_eq!(rows(&restored).await?, "a-before 20000");
        // From the backup of timeline 1, across the switch.
        let id = backup["backup"].as_str().unwrap();
        let new = lsn_text(after);
        let target = ["--target-lsn", new.as_str(), "--backup", id];
        let restored = seawall.restore_to("across", &target).await?;
        assert_eq!(rows(&restored).await?, "a-before b-after 50000");
        let restored = seawall.restore_to("new", &["--target", "latest"]).await?;
        assert_eq!(rows(&restored).await?, "a-before b-after c-later 50005");
        restored.amcheck().await
    });
}

#[test]
fn a_restored_server_is_archived_again_as_a_timeline_of_the_same_lineage() {
    case("timeline_restored", async |scratch| {
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .create(&scratch, "main")
            .await?;
        cluster.exec("create table t (branch text)").await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        seawall.backup().await?;
        write(&cluster, "a-before", 1000).await?;
        let accident = seawall.wait_archived(&cluster).await?;
        write(&cluster, "z-accident", 1000).await?;
        let end = seawall.wait_archived(&cluster).await?;
        agent.stop(DEADLINE).await?;
        cluster.kill9()?;

        let at = lsn_text(accident);
        let restored = seawall.restore_to("two", &["--target-lsn", &at]).await?;
        assert_eq!(rows(&restored).await?, "a-before 1000");
        let socket = restored.socket_dir().display().to_string();
        let config = seawall
            .config
            .clone()
            .set("cluster.main.postgres.host", socket)?
            .set("cluster.main.postgres.port", i64::from(restored.port()))?;
        let seawall = Seawall::configure(config)?;
        seawall.agent.run_ok(&["init", "--single-host"]).await?;
        let agent = seawall.run().await?;
        write(&restored, "b-after", 500).await?;
        seawall.wait_archived(&restored).await?;
        seawall.backup().await?;
        assert_eq!(json_u64(&seawall.status().await?, "timeline")?, 2);
        agent.stop(DEADLINE).await?;
        restored.kill9()?;

        // Both branches of the split are kept: the accident too, for whoever wants to look at it.
        let list = seawall.list().await?;
        let windows = json_array(&list, "windows")?;
        let old = windows.iter().find(|window| window["timeline"] == 1).unwrap();
        assert!(json_lsn(old, "to_lsn")? >= end, "{list}");
        let latest = seawall.restore_to("latest", &["--target", "latest"]).await?;
        assert_eq!(rows(&latest).await?, "a-before b-after 1500");
        let target = ["--target", "latest", "--target-timeline", "1"];
        let accident = seawall.restore_to("accident", &target).await?;
        assert_eq!(rows(&accident).await?, "a-before z-accident 2000");
        Ok(())
    });
}
