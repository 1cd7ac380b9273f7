//! One commit on an idle server is restorable three seconds later, whatever happens to the host.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use anyhow::Result;
use tests::seawall::flushed_lsn;
use tests::{Cluster, Scratch, Seawall, case};

/// The promise itself; the configuration ships once a second.
const PROMISE: Duration = Duration::from_secs(3);

#[test]
fn a_commit_on_an_idle_postgres_15_is_safe_three_seconds_later() {
    case("idle_commit_15", async |scratch| idle_commit(&scratch, 15).await);
}

#[test]
fn a_commit_on_an_idle_postgres_17_is_safe_three_seconds_later() {
    case("idle_commit_17", async |scratch| idle_commit(&scratch, 17).await);
}

async fn idle_commit(scratch: &Scratch, major: u32) -> Result<()> {
    let cluster = Cluster::builder(major).create(scratch, "main").await?;
    let seawall = Seawall::local(scratch, &cluster).await?;
    let agent = seawall.run().await?;
    cluster.exec("create table t (i int primary key)").await?;
    seawall.backup().await?;
    seawall.wait_archived(&cluster).await?;
    let client = cluster.connect().await?;

    let mut measured = Vec::new();
    for i in 1..=5 {
        let sql = format!("insert into t values ({i})");
        client.batch_execute(&sql).await?;
        let committed = Instant::now();
        let lsn = flushed_lsn(&cluster).await?;
        seawall.wait_archived_to(lsn).await?;
        measured.push(committed.elapsed());
    }
    // Host and server are gone in the moment in which the promise is due.
    agent.kill9()?;
    cluster.kill9()?;
    cluster.destroy_data_directory()?;
    println!("commit to archived on an idle server: {measured:.0?}");
    assert!(measured.iter().all(|time| *time < PROMISE), "{measured:?}");

    let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
    let rows = restored
        .query_one("select string_agg(i::text, ' ' order by i) from t")
        .await?;
    assert_eq!(rows, "1 2 3 4 5");
    Ok(())
}
