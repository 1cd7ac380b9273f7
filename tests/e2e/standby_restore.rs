//! A new replica out of the repository: it follows the archive, and streams from a primary that was named.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::{Result, ensure};
use tests::wait::{DEADLINE, wait_until};
use tests::{Cluster, Scratch, Seawall, case};

const USAGE: i32 = 2;

async fn replicas(scratch: &Scratch, major: u32) -> Result<()> {
    let cluster = Cluster::builder(major).create(scratch, "main").await?;
    cluster.exec("create table t (i int)").await?;
    let seawall = Seawall::local(scratch, &cluster).await?;
    let agent = seawall.run().await?;
    seawall.backup().await?;
    cluster.exec("insert into t select generate_series(1, 100)").await?;

    let primary = format!(
        "host={} port={} user=postgres application_name=replica",
        cluster.socket_dir().display(),
        cluster.port()
    );
    let args = ["--standby", "--primary-conninfo", &primary];
    let streams = seawall.restore_files("streams", &args).await?;
    let follows = seawall.restore_files("follows", &["--standby"]).await?;
    let streams = Cluster::adopt(scratch, "streams", &streams)?;
    let follows = Cluster::adopt(scratch, "follows", &follows)?;
    streams.start().await?;
    follows.start().await?;
    wait_until("the replica to stream", DEADLINE, async || {
        let sql = "select count(*) from pg_stat_replication where application_name = 'replica' and state = 'streaming'";
        cluster.query_one(sql).await.is_ok_and(|count| count == "1")
    })
    .await?;
    cluster.exec("insert into t select generate_series(1, 11)").await?;
    seawall.wait_archived(&cluster).await?;
    for replica in [&streams, &follows] {
        wait_until("the replica to have all rows", DEADLINE, async || {
            replica
                .query_one("select count(*) from t")
                .await
                .is_ok_and(|count| count == "111")
        })
        .await?;
        ensure!(replica.query_one("select pg_is_in_recovery()").await? == "t");
    }

    let secret = "host=h password=secret";
    let pgdata = scratch.join("never").display().to_string();
    let args = ["--standby", "--primary-conninfo", secret, "--pgdata", &pgdata];
    let output = seawall.restore.run(&args).await?;
    output.assert_refused(USAGE, &["holds a password"])?;
    agent.stop(DEADLINE).await.map(drop)
}

#[test]
fn a_replica_follows_the_archive_or_streams_15() {
    case("standby_restore_15", async |scratch| replicas(&scratch, 15).await);
}

#[test]
fn a_replica_follows_the_archive_or_streams_18() {
    case("standby_restore_18", async |scratch| replicas(&scratch, 18).await);
}
