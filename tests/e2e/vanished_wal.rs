//! WAL that was archived and is gone from the repository is not mistaken for WAL that never came.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;

use anyhow::ensure;
use tests::case::case;
use tests::seawall::{json_array, json_str};
use tests::wait::DEADLINE;
use tests::{Cluster, Seawall};

const REFUSED: i32 = 3;

#[test]
fn latest_does_not_stop_silently_before_wal_that_was_taken_away() {
    case("vanished_wal", async |scratch| {
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .create(&scratch, "main")
            .await?;
        let config = Seawall::local_config(&scratch, &cluster)?.set("cluster.main.retention.keep_last", 1)?;
        let seawall = Seawall::configure(config)?;
        seawall.init().await?;
        let agent = seawall.run().await?;
        cluster.exec("create table t (i int)").await?;
        seawall.backup().await?;
        for row in 0..6 {
            cluster
                .exec(&format!("insert into t values ({row}); select pg_switch_wal()"))
                .await?;
            seawall.wait_archived(&cluster).await?;
        }
        agent.stop(DEADLINE).await?;
        let latest = ["--target", "latest", "--dry-run", "--pgdata", "/nowhere/yet"];
        let whole = seawall.restore.run(&latest).await?;
        ensure!(whole.code() == 0, "{}", whole.stderr);
        // The third segment from the end, with the tails that hold the same.
        let listed = seawall.list().await?;
        let to = json_str(&json_array(&listed, "windows")?[0], "to_lsn")?.to_owned();
        let segment = tests::cluster::parse_lsn(&to)? / (1 << 20) - 3;
        let gone = seawall.wal_objects(&format!("{:08X}{:08X}{:08X}", 1, segment >> 12, segment & 0xfff))?;
        ensure!(!gone.is_empty(), "segment {segment:x} has no object");
        for path in &gone {
            fs::remove_file(path)?;
        }
        let refused = seawall.restore.run(&latest).await?;
        refused.assert_refused(REFUSED, &["is missing", "repair", "--or-latest"])?;
        let accepted = [latest.as_slice(), &["--or-latest"]].concat();
        ensure!(seawall.restore.run(&accepted).await?.code() == 0);
        Ok(())
    });
}
