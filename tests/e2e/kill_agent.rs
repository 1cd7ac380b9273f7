//! The agent is killed twenty times under load. What it had confirmed is in the repository each time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::Result;
use serde_json::Value;
use tests::cluster::parse_lsn;
use tests::oracle::Options;
use tests::seawall::{json_array, json_lsn};
use tests::seed::Rng;
use tests::wait::DEADLINE;
use tests::{Cluster, Oracle, Seawall, case, pgbench};

const KILLS: usize = 20;

#[test]
fn an_agent_killed_twenty_times_leaves_no_hole_and_loses_no_commit() {
    case("kill_agent", async |scratch| {
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .setting("track_commit_timestamp", "on")
            .create(&scratch, "main")
            .await?;
        pgbench::init(&cluster, 1).await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        let backup = seawall.backup().await?;
        let load = pgbench::Load::start(&cluster, 2, 200)?;
        let oracle = Oracle::start(&cluster, Options::default()).await?;
        oracle.wait_for(50).await?;
        agent.kill9()?;

        let mut rng = Rng::named("kill_agent");
        let mut confirmed = 0;
        let mut streamed = 0;
        for _ in 0..KILLS {
            let mut agent = seawall.agent.start_daemon()?;
            // Every third dies while it starts; the others at any moment of their work.
            if !rng.one_in(3) {
                agent.wait_for_log("streaming", DEADLINE).await?;
                streamed += 1;
            }
            oracle.wait_for(rng.between(1, 800)).await?;
            agent.kill9()?;
            confirmed = kept_its_word(&seawall, &cluster, confirmed).await?;
        }
        assert!(streamed >= KILLS / 4, "only {streamed} came to work");
        assert!(confirmed > json_lsn(&backup, "end_lsn")?);

        let agent = seawall.run().await?;
        let history = oracle.stop().await?;
        load.stop().await?;
        let end = seawall.wait_archived(&cluster).await?;
        agent.stop(DEADLINE).await?;
        cluster.kill9()?;
        cluster.destroy_data_directory()?;

        let list = seawall.list().await?;
        assert!(archived_to(&list)? >= end, "{list}");
        let windows = json_array(&list, "windows")?;
        assert_eq!(windows.len(), 1, "one unbroken window: {list}");
        assert_eq!(windows[0]["from_lsn"], backup["end_lsn"], "{list}");

        let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
        let client = restored.connect().await?;
        let expected = history.expected_now();
        let comparison = history.assert_exact(&client, &expected).await?;
        assert_eq!(comparison.lost, Vec::<i64>::new());
        assert!(expected.must.len() > 500, "{}", expected.must.len());
        pgbench::assert_balanced(&restored).await?;
        restored.amcheck().await
    });
}

/// What PostgreSQL was told to be safe is in the repository, without a hole. Returns what it was told.
async fn kept_its_word(seawall: &Seawall, cluster: &Cluster, before: u64) -> Result<u64> {
    let sql = "select restart_lsn from pg_replication_slots where slot_name = 'seawall'";
    let confirmed = parse_lsn(&cluster.query_one(sql).await?)?;
    assert!(confirmed >= before, "the slot moved back");
    let list = seawall.list().await?;
    assert_eq!(json_array(&list, "holes")?.len(), 0, "{list}");
    let archived = archived_to(&list)?;
    assert!(
        archived >= confirmed,
        "confirmed {confirmed:X}, in the repository {archived:X}"
    );
    Ok(confirmed)
}

fn archived_to(list: &Value) -> Result<u64> {
    let mut end = 0;
    for window in json_array(list, "windows")? {
        end = end.max(json_lsn(window, "to_lsn")?);
    }
    Ok(end)
}
