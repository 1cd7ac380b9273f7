//! Every supported major of PostgreSQL, none skipped: streamed, killed, backed up twice, destroyed, restored exactly.
//!
//! Small on purpose. What is special about a fault or a stop point is tested elsewhere with one or two majors; here each major goes
//! once through everything that depends on its formats: WAL pages, `pg_control`, functions of a base backup, recovery settings.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::{Context, Result};
use tests::cluster::lsn_text;
use tests::oracle::{Expected, History, Mark, Options};
use tests::seawall::{json_array, json_str, json_u64};
use tests::seed::Rng;
use tests::wait::DEADLINE;
use tests::{Child, Cluster, Oracle, Scratch, Seawall, StopMode, case, pgbench};

const AGENT_KILLS: u32 = 3;

#[test]
fn postgresql_13_streams_survives_kills_and_restores() {
    case("matrix_13", async |scratch| whole_story(&scratch, 13, 1).await);
}

#[test]
fn postgresql_14_streams_survives_kills_and_restores() {
    case("matrix_14", async |scratch| whole_story(&scratch, 14, 1).await);
}

#[test]
fn postgresql_15_streams_survives_kills_and_restores() {
    case("matrix_15", async |scratch| whole_story(&scratch, 15, 1).await);
}

#[test]
fn postgresql_16_streams_survives_kills_and_restores() {
    case("matrix_16", async |scratch| whole_story(&scratch, 16, 1).await);
}

#[test]
fn postgresql_17_streams_survives_kills_and_restores() {
    case("matrix_17", async |scratch| whole_story(&scratch, 17, 1).await);
}

#[test]
fn postgresql_18_streams_survives_kills_and_restores() {
    case("matrix_18", async |scratch| whole_story(&scratch, 18, 1).await);
}

/// The size that nearly everybody has, and a larger one than a WAL object may be.
#[test]
fn segments_of_16_and_of_64_megabytes_make_no_difference() {
    case("matrix_16_mb", async |scratch| whole_story(&scratch, 15, 16).await);
    case("matrix_64_mb", async |scratch| whole_story(&scratch, 18, 64).await);
}

struct Story {
    between: Mark,
    after: Mark,
    history: History,
    mix: String,
}

async fn whole_story(scratch: &Scratch, major: u32, segment_mib: u32) -> Result<()> {
    let cluster = Cluster::builder(major)
        .segment_size_mib(segment_mib)
        .setting("track_commit_timestamp", "on")
        // At least two segments, whatever their size.
        .setting("min_wal_size", "128MB")
        .create(scratch, "main")
        .await?;
    let segment = format!("{segment_mib}MB");
    assert_eq!(cluster.query_one("show wal_segment_size").await?, segment);
    let version = cluster.query_one("show server_version_num").await?;
    assert!(version.starts_with(&major.to_string()), "{version}");
    pgbench::create_mix_table(&cluster, 2000).await?;
    let seawall = Seawall::local(scratch, &cluster).await?;
    let agent = seawall.run().await?;
    let story = Box::pin(live(&seawall, &cluster, agent)).await?;
    // All that follows comes from the repository alone.
    cluster.kill9()?;
    cluster.destroy_data_directory()?;

    let now = story.history.expected_now();
    let after = lsn_text(story.after.lsn);
    for (name, target, expected) in [
        (
            "time",
            ["--target-time", story.between.time.as_str()],
            &story.between.expected,
        ),
        ("lsn", ["--target-lsn", after.as_str()], &story.after.expected),
        ("latest", ["--target", "latest"], &now),
    ] {
        let restored = seawall.restore_to(name, &target).await?;
        judge(restored, &story, expected).await.with_context(|| name)?;
    }
    Ok(())
}

/// Load from before the first kill until after the second backup.
async fn live(seawall: &Seawall, cluster: &Cluster, mut agent: Child) -> Result<Story> {
    let first = seawall.backup().await?;
    let oracle = Oracle::start(cluster, Options::default()).await?;
    let mut rng = Rng::named("matrix");
    for _ in 0..AGENT_KILLS {
        oracle.wait_for(rng.between(20, 120)).await?;
        agent.kill9()?;
        oracle.wait_for(rng.between(1, 60)).await?;
        agent = seawall.run().await?;
    }
    oracle.wait_for(rng.between(20, 120)).await?;
    cluster.kill9()?;
    cluster.start().await?;
    oracle.wait_for(50).await?;
    let between = oracle.mark(None).await?;
    oracle.wait_for(50).await?;

    cluster
        .exec("update mix set amount = amount + 1 where id % 100 = 0")
        .await?;
    let second = seawall.backup().await?;
    assert_eq!(json_str(&second, "parent")?, json_str(&first, "backup")?);
    let (new, all) = (json_u64(&second, "new_pages")?, json_u64(&second, "pages")?);
    assert!(new * 2 < all, "{new} of {all} pages are new: that is no increment");
    oracle.wait_for(50).await?;
    let after = oracle.mark(None).await?;
    oracle.wait_for(50).await?;
    let history = oracle.stop().await?;
    let mix = pgbench::mix_digest(cluster).await?;
    seawall.wait_archived(cluster).await?;
    agent.stop(DEADLINE).await?;

    let list = seawall.list().await?;
    assert_eq!(json_array(&list, "holes")?.len(), 0, "{list}");
    assert_eq!(json_array(&list, "windows")?.len(), 1, "one unbroken window: {list}");
    assert_eq!(list["windows"][0]["from_lsn"], first["end_lsn"], "{list}");
    Ok(Story {
        between,
        after,
        history,
        mix,
    })
}

async fn judge(restored: Cluster, story: &Story, expected: &Expected) -> Result<()> {
    assert!(expected.must.len() >= 100, "{}", expected.must.len());
    let client = restored.connect().await?;
    let comparison = story.history.assert_exact(&client, expected).await?;
    drop(client);
    if *expected == story.history.expected_now() {
        assert_eq!(comparison.lost, Vec::<i64>::new());
        // The last change of `mix` came before the last two points and after the first.
        assert_eq!(pgbench::mix_digest(&restored).await?, story.mix);
    }
    restored.amcheck_if_packed().await?;
    restored.stop(StopMode::Fast).await?;
    restored.checksums_clean().await
}
