//! Uploads finish in any order. After a crash an object can lie behind one that never came: that WAL is not archived, PostgreSQL
//! must not be told so, and the next start must fetch what is missing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tests::seawall::{json_array, json_str};
use tests::wait::DEADLINE;
use tests::{Cluster, Seawall, case, user};

const SEGMENT_BYTES: u64 = 1 << 20;

/// PostgreSQL's name for a segment of 1 MiB on timeline 1.
fn segment_name(number: u64) -> String {
    let per_id = (1u64 << 32) / SEGMENT_BYTES;
    format!("{:08X}{:08X}{:08X}", 1, number / per_id, number % per_id)
}

#[test]
fn a_missing_object_before_others_is_fetched_after_a_crash_and_never_confirmed() {
    case("out_of_order", async |scratch| {
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .create(&scratch, "main")
            .await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let mut agent = seawall.run().await?;
        cluster.exec("create table t (i int, filler text)").await?;
        seawall.backup().await?;
        let archived = seawall.wait_archived(&cluster).await?;
        let lineage = json_str(&seawall.status().await?, "lineage")?.to_owned();

        // One segment cannot be stored; those behind it can.
        let blocked = archived / SEGMENT_BYTES + 2;
        let root = seawall.repository().join("clusters/main");
        let directories: Vec<PathBuf> = ["wal", "tail"]
            .map(|lane| {
                root.join(lane)
                    .join(&lineage)
                    .join("00000001")
                    .join(segment_name(blocked))
            })
            .into();
        for directory in &directories {
            fs::create_dir_all(directory)?;
            // What we made on the way there stays, and must be the agent's.
            for made in directory.ancestors().take(3) {
                user::give(made)?;
            }
            fs::set_permissions(directory, fs::Permissions::from_mode(0o000))?;
        }
        let rows = "insert into t select i, repeat('x', 500) from generate_series(1, 16000) i";
        cluster.exec(rows).await?;
        agent.wait_for_log("could not be made durable", DEADLINE).await?;
        agent.kill9()?;
        let confirmed = "select max(restart_lsn - '0/0')::int8 from pg_replication_slots where slot_name = 'seawall'";
        let confirmed: u64 = cluster.query_one(confirmed).await?.parse()?;
        assert!(
            confirmed <= blocked * SEGMENT_BYTES,
            "{confirmed} was confirmed, {blocked} was not stored"
        );

        for directory in &directories {
            fs::remove_dir(directory)?;
        }
        // Were the host lost now, the latest would be what lies before the missing object, and no refusal.
        let early = seawall.restore_to("early", &["--target", "latest"]).await?;
        assert_eq!(early.query_one("select count(*) from t").await?, "0");
        early.kill9()?;
        let agent = seawall.agent.start_daemon()?;
        seawall.wait_archived(&cluster).await?;
        let list = seawall.list().await?;
        assert_eq!(json_array(&list, "holes")?.len(), 0, "{list}");
        agent.stop(DEADLINE).await?;
        cluster.kill9()?;
        let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
        assert_eq!(restored.query_one("select count(*) from t").await?, "16000");
        Ok(())
    });
}
