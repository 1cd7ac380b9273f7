//! Every kind of stop point on each of three timelines, on every major version; and every kind that cannot be reached, refused before a
//! byte is written.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::{Context, Result, ensure};
use tests::cluster::lsn_text;
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall, case};

const REFUSED: i32 = 3;
const USAGE: i32 = 2;

/// A moment in the life of the cluster, by all its names.
struct Mark {
    /// Rows that are committed by then.
    rows: u32,
    time: String,
    lsn: String,
    /// The transaction that wrote the last of them.
    xid: String,
    point: String,
    timeline: String,
}

struct Story {
    seawall: Seawall,
    before: String,
    marks: Vec<Mark>,
}

async fn mark(cluster: &Cluster, timeline: u32, rows: u32) -> Result<Mark> {
    let row = "insert into t values (1) returning pg_current_xact_id()::text";
    let xid = cluster.query_one(row).await?;
    let point = format!("on {timeline}");
    cluster
        .exec(&format!("select pg_create_restore_point('{point}')"))
        .await?;
    let now = "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || 'Z'";
    let time = cluster.query_one(now).await?;
    let lsn = lsn_text(cluster.current_lsn().await?);
    // What none of them may have.
    cluster
        .exec("insert into t select 2 from generate_series(1, 10)")
        .await?;
    Ok(Mark {
        rows: rows + 1,
        time,
        lsn,
        xid,
        point,
        timeline: timeline.to_string(),
    })
}

async fn live(scratch: &Scratch, major: u32) -> Result<Story> {
    let cluster = Cluster::builder(major)
        .segment_size_mib(1)
        .create(scratch, "main")
        .await?;
    cluster.exec("create table t (i int)").await?;
    let seawall = Seawall::local(scratch, &cluster).await?;
    let agent = seawall.run().await?;
    let before = cluster
        .query_one("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || 'Z'")
        .await?;
    seawall.backup().await?;
    let mut marks = Vec::new();
    for timeline in 1..=3 {
        if timeline > 1 {
            cluster.switch_timeline().await?;
            cluster.wait_promoted(DEADLINE).await?;
        }
        marks.push(mark(&cluster, timeline, (timeline - 1) * 11).await?);
        if timeline == 2 {
            // A second backup: what lies behind it is reached from there.
            seawall.wait_archived(&cluster).await?;
            seawall.backup().await?;
        }
    }
    seawall.wait_archived(&cluster).await?;
    agent.stop(DEADLINE).await?;
    cluster.kill9()?;
    Ok(Story { seawall, before, marks })
}

async fn rows_at(story: &Story, name: &str, target: &[&str]) -> Result<String> {
    let (restored, report) = story.seawall.restore_and_start(name, target).await?;
    ensure!(report["ok"] == true, "{report}");
    let rows = restored.query_one("select count(*) from t").await?;
    restored.kill9()?;
    restored.destroy_data_directory()?;
    Ok(rows)
}

async fn all_targets(scratch: &Scratch, major: u32) -> Result<()> {
    let story = live(scratch, major).await?;
    for (number, mark) in story.marks.iter().enumerate() {
        let (with, without) = (mark.rows.to_string(), (mark.rows - 1).to_string());
        let timeline = ["--target-timeline", &mark.timeline];
        for (kind, target, rows) in [
            ("time", vec!["--target-time", &mark.time], &with),
            ("lsn", vec!["--target-lsn", &mark.lsn, "--exclusive"], &with),
            ("xid", vec!["--target-xid", &mark.xid], &with),
            ("before-xid", vec!["--target-xid", &mark.xid, "--exclusive"], &without),
            ("name", vec!["--target-name", &mark.point], &with),
            (
                "own-timeline",
                [&["--target-name", &mark.point], &timeline[..]].concat(),
                &with,
            ),
        ] {
            let found = rows_at(&story, &format!("{kind}{number}"), &target).await;
            let found = found.with_context(|| format!("{target:?}"))?;
            ensure!(found == *rows, "{target:?}: {found} rows instead of {rows}");
        }
    }
    let last = story.marks.last().unwrap();
    let rows = rows_at(&story, "latest", &["--target", "latest"]).await?;
    assert_eq!(rows, (last.rows + 10).to_string());
    let first = &story.marks[0];
    for (target, code, words) in [
        (
            &["--target-time", &story.before][..],
            REFUSED,
            "before the first backup",
        ),
        (
            &["--target-time", "2001-01-01 00:00:00Z"],
            REFUSED,
            "before the first backup",
        ),
        (&["--target-time", "2999-01-01 00:00:00Z"], REFUSED, "nothing later"),
        (&["--target-time", "2026-01-01 00:00:00"], USAGE, "offset"),
        (&["--target-lsn", "0/28"], REFUSED, "before the first backup"),
        (&["--target-lsn", "FFFF/28"], REFUSED, "nothing later"),
        (&["--target-xid", "4000000000"], REFUSED, "transaction 4000000000"),
        (&["--target-name", "never"], REFUSED, "restore point \"never\""),
        (
            &["--target-name", &last.point, "--target-timeline", "1"],
            REFUSED,
            "is not in the archived WAL",
        ),
        (&["--target-name", &first.point, "--exclusive"], USAGE, "--exclusive"),
        (&["--target", "latest", "--target-timeline", "9"], REFUSED, "timeline 9"),
    ] {
        let data = scratch.join("refused").display().to_string();
        let output = story
            .seawall
            .restore
            .run(&[target, &["--pgdata", &data]].concat())
            .await?;
        output.assert_refused(code, &[words])?;
        ensure!(!scratch.join("refused").exists(), "{target:?}: something was written");
    }
    Ok(())
}

macro_rules! on_each {
    ($($name:ident $major:literal)*) => {$(
        #[test]
        fn $name() {
            case(stringify!($name), async |scratch| Box::pin(all_targets(&scratch, $major)).await);
        }
    )*};
}

on_each! {
    postgres_13_stops_at_every_kind_of_target_on_three_timelines 13
    postgres_14_stops_at_every_kind_of_target_on_three_timelines 14
    postgres_15_stops_at_every_kind_of_target_on_three_timelines 15
    postgres_16_stops_at_every_kind_of_target_on_three_timelines 16
    postgres_17_stops_at_every_kind_of_target_on_three_timelines 17
    postgres_18_stops_at_every_kind_of_target_on_three_timelines 18
}
