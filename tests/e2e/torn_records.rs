//! The server is killed in the middle of records of many megabytes. The half of a record that was streamed stays as it is, what the
//! server writes over the rest after recovery is followed, and the archive has no hole.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::{Context, Result};
use tests::oracle::Options;
use tests::seawall::json_array;
use tests::seed::Rng;
use tests::wait::{DEADLINE, within};
use tests::{Cluster, Oracle, Scratch, Seawall, case, wait_until};

const CRASHES: u64 = 6;
/// One record; it lies in some thirty segments.
const RECORD: u64 = 30_000_000;

#[test]
fn records_that_postgres_15_left_unfinished_are_archived_and_skipped() {
    case("torn_15", async |scratch| torn_records(&scratch, 15).await);
}

#[test]
fn records_that_postgres_18_left_unfinished_are_archived_and_skipped() {
    case("torn_18", async |scratch| torn_records(&scratch, 18).await);
}

async fn torn_records(scratch: &Scratch, major: u32) -> Result<()> {
    let cluster = Cluster::builder(major)
        .segment_size_mib(1)
        .setting("track_commit_timestamp", "on")
        // A record that does not fit is written and flushed, segment by segment, before it is complete.
        .setting("wal_buffers", "64kB")
        .create(scratch, "main")
        .await?;
    let seawall = Seawall::local(scratch, &cluster).await?;
    let mut agent = seawall.run().await?;
    seawall.backup().await?;
    let options = Options {
        connections: 2,
        rate: 50,
        ..Options::default()
    };
    let oracle = Oracle::start(&cluster, options).await?;
    let mut rng = Rng::named("torn_records");
    for crash in 0..CRASHES {
        oracle.wait_for(20).await?;
        crash_within_a_record(&cluster, rng.between(RECORD / 10, RECORD / 2)).await?;
        if crash % 3 == 2 {
            agent.kill9()?;
            cluster.start().await?;
            agent = seawall.run().await?;
        } else {
            cluster.start().await?;
        }
        seawall.wait_archived(&cluster).await?;
    }
    oracle.wait_for(20).await?;
    let mark = oracle.mark(None).await?;
    oracle.wait_for(20).await?;
    let history = oracle.stop().await?;
    seawall.wait_archived(&cluster).await?;
    let list = seawall.list().await?;
    assert_eq!(json_array(&list, "holes")?.len(), 0, "{list}");
    assert_eq!(json_array(&list, "windows")?.len(), 1, "{list}");
    assert_eq!(seawall.lineages()?.len(), 1, "{}", agent.log());
    agent.stop(DEADLINE).await?;
    cluster.kill9()?;
    cluster.destroy_data_directory()?;

    let time = ["--target-time", mark.time.as_str()];
    for (name, target, expected) in [
        ("time", time, &mark.expected),
        ("latest", ["--target", "latest"], &history.expected_now()),
    ] {
        let restored = seawall.restore_to(name, &target).await?;
        let client = restored.connect().await?;
        history.assert_exact(&client, expected).await.context(name)?;
        let log = restored.server_log();
        let skipped = log.matches("successfully skipped missing contrecord").count() as u64;
        println!("{name}: {skipped} of {CRASHES} crashes left half a record");
        assert!(skipped * 2 >= CRASHES, "the test does not hit what it is for:\n{log}");
    }
    Ok(())
}

/// Kills the server when that many bytes of a record are on its disk, and the rest is not.
async fn crash_within_a_record(cluster: &Cluster, bytes: u64) -> Result<()> {
    let (emitter, observer) = (cluster.connect().await?, cluster.connect().await?);
    let from = cluster.current_lsn().await?;
    let sql = format!("select pg_logical_emit_message(false, 'seawall-test', repeat('x', {RECORD}))");
    let emitting = tokio::spawn(async move { emitter.batch_execute(&sql).await });
    let goal = format!(
        "select pg_current_wal_flush_lsn() >= '{}'",
        tests::cluster::lsn_text(from + bytes)
    );
    wait_until("half a record", DEADLINE, async || {
        let answer = tests::cluster::query_one(&observer, &goal).await;
        answer.is_ok_and(|answer| answer == "t")
    })
    .await?;
    cluster.kill9()?;
    // It may have come to its end; then this crash was one like any other.
    let _ = within("the emitting connection", DEADLINE, emitting).await?;
    Ok(())
}
