//! Without a slot: PostgreSQL's own archiver pushes WAL with `wal-agent archive-push`, and what it pushed is restored.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::Result;
use tests::cluster::lsn_text;
use tests::oracle::Options;
use tests::seawall::{json_array, json_lsn};
use tests::wait::DEADLINE;
use tests::{Cluster, Oracle, Scratch, Seawall, StopMode, Weed, case, user, wait_until};

const REFUSED: i32 = 3;
const UNREACHABLE: i32 = 6;

/// A cluster that archives to a new local repository, without slots.
async fn pushing(scratch: &Scratch, major: u32, segment_mib: u32) -> Result<(Cluster, Seawall)> {
    let cluster = Cluster::builder(major)
        .segment_size_mib(segment_mib)
        .setting("track_commit_timestamp", "on")
        .setting("max_wal_size", "1GB")
        .archiving()
        .create(scratch, "main")
        .await?;
    let seawall = Seawall::configure(Seawall::local_config(scratch, &cluster)?)?;
    seawall.init_without_slots().await?;
    cluster.push_to(&seawall).await?;
    Ok((cluster, seawall))
}

#[test]
fn postgres_15_is_restored_from_what_its_archiver_pushed() {
    case("push_15", async |scratch| archiver_alone(&scratch, 15, 1).await);
}

#[test]
fn postgres_17_with_64_mb_segments_is_restored_from_what_its_archiver_pushed() {
    case("push_17", async |scratch| archiver_alone(&scratch, 17, 64).await);
}

async fn archiver_alone(scratch: &Scratch, major: u32, segment_mib: u32) -> Result<()> {
    let (cluster, seawall) = pushing(scratch, major, segment_mib).await?;
    let oracle = Oracle::start(&cluster, Options::default()).await?;
    oracle.wait_for(100).await?;
    // No daemon runs, and none is missed.
    let backup = seawall.backup().await?;
    oracle.wait_for(100).await?;
    let mark = oracle.mark(None).await?;
    // More than one range of a large segment.
    cluster
        .exec("create table big as select i, md5(i::text) from generate_series(1, 300000) i")
        .await?;
    oracle.wait_for(100).await?;
    // The newest archived segment need not be on the server any more for the next backup.
    cluster.switch_and_push().await?;
    cluster.exec("checkpoint; checkpoint").await?;
    let second = seawall.backup().await?;
    assert_ne!(backup["backup"], second["backup"]);
    oracle.wait_for(50).await?;
    let history = oracle.stop().await?;
    cluster.switch_and_push().await?;

    // It ends a segment, and is content with the part of it that holds its record.
    seawall.agent.run_ok(&["check"]).await?;
    cluster.wait_pushed().await?;
    let status = seawall.status().await?;
    assert_eq!(status["running"], false, "{status}");
    assert!(status["archive_command"]["last_archived"].is_string(), "{status}");
    let warnings = status["warnings"].to_string();
    assert!(
        !warnings.contains("no agent") && !warnings.contains("archive_command"),
        "{warnings}"
    );
    let log = cluster.server_log();
    let complaints: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("wal-agent:") || line.contains("archive command failed"))
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    // Whole objects only, in no epoch; nobody took a lease.
    let wal = seawall.objects(&["wal"])?;
    assert!(wal.iter().all(|name| name.ends_with(".00000000")), "{wal:#?}");
    assert_eq!(seawall.objects(&["tail", "leases"])?, [""; 0]);
    let list = seawall.list().await?;
    assert_eq!(json_array(&list, "holes")?.len(), 0, "{list}");

    cluster.kill9()?;
    cluster.destroy_data_directory()?;
    let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
    let client = restored.connect().await?;
    history.assert_exact(&client, &history.expected_now()).await?;
    assert_eq!(restored.query_one("select count(*) from big").await?, "300000");
    restored.amcheck().await?;
    let lsn = lsn_text(mark.lsn);
    for (name, target) in [
        ("lsn", ["--target-lsn", lsn.as_str()]),
        ("time", ["--target-time", mark.time.as_str()]),
    ] {
        let restored = seawall.restore_to(name, &target).await?;
        let client = restored.connect().await?;
        history.assert_exact(&client, &mark.expected).await?;
    }
    Ok(())
}

#[test]
fn what_waits_is_archived_ahead_and_a_note_is_not_believed_where_the_object_or_the_file_is_another() {
    case("push_ahead", async |scratch| {
        let (cluster, seawall) = pushing(&scratch, 15, 1).await?;
        cluster.exec("create table t (i int, what text)").await?;
        cluster.switch_and_push().await?;
        seawall.backup().await?;
        // The archiver stands still, and ten segments come to wait.
        cluster.append_setting("archive_command", "")?;
        cluster.reload().await?;
        cluster
            .exec("insert into t select i, md5(i::text) from generate_series(1, 100000) i")
            .await?;
        cluster.switch_wal().await?;
        let waiting = cluster.unpushed()?;
        let [first, second, third, fourth, rest @ ..] = waiting.as_slice() else {
            panic!("{waiting:?}");
        };
        assert!(rest.len() > 5, "{waiting:?}");
        let notes = scratch.path().join("state/archived-ahead/main");
        seawall.push(&cluster, first).await?.assert_code(0)?;
        for segment in [second, third, fourth].into_iter().chain(&rest[..5]) {
            assert_eq!(seawall.wal_objects(segment)?.len(), 1, "{segment}");
            assert!(notes.join(segment).exists(), "{segment}");
        }
        assert!(!notes.join(first).exists());
        assert!(seawall.wal_objects(&rest[5])?.is_empty(), "more than a run is to take");

        // Its turn: a look, and the note is gone.
        let stored = std::fs::metadata(&seawall.wal_objects(second)?[0])?.modified()?;
        // Nor does a mistake hold WAL up that is about something else.
        let config = std::fs::read_to_string(seawall.agent.config())?;
        let mistaken = format!("{config}\n[component.settings]\nkind = \"config\"\nsecrets = [\"x\"]\n");
        std::fs::write(seawall.agent.config(), mistaken)?;
        let pushed = seawall.push(&cluster, second).await?;
        pushed.assert_code(0)?;
        assert!(pushed.stderr.contains("component.settings"), "{}", pushed.stderr);
        std::fs::write(seawall.agent.config(), config)?;
        assert_eq!(std::fs::metadata(&seawall.wal_objects(second)?[0])?.modified()?, stored);
        assert!(!notes.join(second).exists());
        // The object is gone: it is archived again.
        std::fs::remove_file(&seawall.wal_objects(third)?[0])?;
        seawall.push(&cluster, third).await?.assert_code(0)?;
        assert_eq!(seawall.wal_objects(third)?.len(), 1);
        // The file is not what it was: it is read, and refused.
        let path = cluster.data_directory().join("pg_wal").join(fourth);
        let whole = std::fs::read(&path)?;
        let mut flipped = whole.clone();
        flipped[500_000] ^= 1;
        std::fs::write(&path, &flipped)?;
        seawall
            .push(&cluster, fourth)
            .await?
            .assert_refused(REFUSED, &["is refused"])?;
        std::fs::write(&path, &whole)?;

        cluster.push_to(&seawall).await?;
        cluster.wait_pushed().await?;
        assert_eq!(std::fs::read_dir(&notes)?.count(), 0, "a note was left");
        let list = seawall.list().await?;
        assert_eq!(json_array(&list, "holes")?.len(), 0, "{list}");
        cluster.kill9()?;
        let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
        assert_eq!(restored.query_one("select count(*) from t").await?, "100000");
        Ok(())
    });
}

#[test]
fn a_backup_is_refused_while_the_archiver_fails() {
    case("push_failing", async |scratch| {
        let (cluster, seawall) = pushing(&scratch, 15, 1).await?;
        cluster.switch_and_push().await?;
        cluster.append_setting("archive_command", "false # archive-push %p")?;
        cluster.reload().await?;
        cluster.switch_wal().await?;
        cluster.wait_archiver_failed(0).await?;
        let refused = seawall.agent.run(&["backup"]).await?;
        refused.assert_refused(REFUSED, &["archive_command fails since"])?;
        let status = seawall.status().await?;
        assert!(
            status["warnings"].to_string().contains("archive_command fails"),
            "{status}"
        );
        // Another command is none of ours: then there must be a slot.
        cluster.append_setting("archive_command", "true")?;
        cluster.reload().await?;
        cluster.wait_pushed().await?;
        let refused = seawall.agent.run(&["backup"]).await?;
        refused.assert_refused(REFUSED, &["max_replication_slots is 0"])
    });
}

#[test]
fn an_outage_of_the_store_is_told_to_postgres_which_keeps_all_and_pushes_it_later() {
    case("push_outage", async |scratch| {
        let mut weed = Weed::start(&scratch).await?;
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .archiving()
            .create(&scratch, "main")
            .await?;
        let seawall = Seawall::configure(Seawall::s3_config(&scratch, &cluster, &weed).await?)?;
        seawall.init_without_slots().await?;
        cluster.push_to(&seawall).await?;
        cluster.exec("create table t (i int)").await?;
        seawall.backup().await?;
        cluster.exec("insert into t select generate_series(1, 1000)").await?;
        cluster.switch_and_push().await?;

        weed.kill9()?;
        cluster.exec("insert into t select generate_series(1, 30000)").await?;
        let end = cluster.switch_wal().await?;
        let segment = cluster.segment_before(end).await?;
        assert!(cluster.unpushed()?.contains(&segment));
        // The archiver has its answer within about a minute, and so has this.
        let failed = seawall.push(&cluster, &segment).await?;
        failed.assert_code(UNREACHABLE)?;
        cluster.wait_archiver_failed(0).await?;
        assert!(
            cluster.unpushed()?.contains(&segment),
            "given up without being archived"
        );
        assert!(cluster.is_running());

        weed.restart().await?;
        cluster.exec("insert into t select generate_series(1, 1000)").await?;
        cluster.switch_and_push().await?;
        let list = seawall.list().await?;
        assert_eq!(json_array(&list, "holes")?.len(), 0, "{list}");
        assert!(!cluster.server_log().contains("terminated by signal"));
        cluster.kill9()?;
        let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
        assert_eq!(restored.query_one("select count(*) from t").await?, "32000");
        Ok(())
    });
}

/// A standby of `primary`, with its archiver's settings.
async fn standby(scratch: &Scratch, primary: &Cluster, name: &str) -> Result<Cluster> {
    let data = scratch.dir(name)?.join("data");
    let mut command = primary.tool("pg_basebackup");
    command
        .args([
            "--checkpoint=fast",
            "--write-recovery-conf",
            "--no-slot",
            "--no-sync",
            "-D",
        ])
        .arg(&data);
    user::run(command, DEADLINE).await?;
    let standby = Cluster::adopt(scratch, name, &data)?;
    standby.start().await?;
    Ok(standby)
}

async fn caught_up(standby: &Cluster, lsn: u64) -> Result<()> {
    wait_until("the standby to catch up", DEADLINE, async || {
        let answer = standby.query_one("select pg_last_wal_replay_lsn()").await;
        answer.is_ok_and(|text| tests::cluster::parse_lsn(&text).is_ok_and(|at| at >= lsn))
    })
    .await
}

async fn rows(cluster: &Cluster) -> Result<String> {
    let sql = "select string_agg(distinct branch, ' ' order by branch) || ' ' || count(*) from t";
    cluster.query_one(sql).await
}

async fn write(cluster: &Cluster, branch: &str, rows: u32) -> Result<()> {
    let sql = format!("insert into t select '{branch}' from generate_series(1, {rows})");
    cluster.exec(&sql).await
}

#[test]
fn a_promoted_standby_pushes_its_history_and_what_the_old_timeline_left_unfinished() {
    case("push_promotion", async |scratch| {
        let (primary, seawall) = pushing(&scratch, 15, 1).await?;
        primary.exec("create table t (branch text)").await?;
        seawall.backup().await?;
        let (one, two) = tokio::join!(standby(&scratch, &primary, "one"), standby(&scratch, &primary, "two"));
        let (one, two) = (one?, two?);
        // Ends in the middle of a segment, of which the primary never pushed anything.
        write(&primary, "a-before", 9_000).await?;
        let early = tests::seawall::flushed_lsn(&primary).await?;
        caught_up(&one, early).await?;
        caught_up(&two, early).await?;
        two.stop(StopMode::Fast).await?;
        write(&primary, "a-later", 10).await?;
        let before = tests::seawall::flushed_lsn(&primary).await?;
        caught_up(&one, before).await?;
        primary.kill9()?;
        one.exec("select pg_promote()").await?;
        one.wait_promoted(DEADLINE).await?;
        write(&one, "b-after", 20_000).await?;
        one.switch_and_push().await?;

        let history = seawall.objects(&["wal"])?;
        let histories = history.iter().filter(|name| name.contains("/00000002/history."));
        assert_eq!(histories.count(), 1, "{history:#?}");
        // What .partial held, up to the last record of the old timeline.
        let tails = seawall.objects(&["tail"])?;
        assert_eq!(tails.len(), 1, "{tails:#?}");
        assert!(
            tails[0].contains("/00000001/") && tails[0].ends_with(".00000000"),
            "{tails:#?}"
        );
        let list = seawall.list().await?;
        assert_eq!(json_array(&list, "holes")?.len(), 0, "{list}");
        let old = json_array(&list, "windows")?
            .iter()
            .find(|window| window["timeline"] == 1);
        assert!(json_lsn(old.unwrap(), "to_lsn")? >= before, "{list}");

        // The other standby was left behind and makes a timeline 2 of its own: never spliced in.
        let archived = seawall.objects(&["wal", "tail"])?;
        std::fs::remove_file(two.data_directory().join("standby.signal"))?;
        end_recovery_alone(&two)?;
        two.start().await?;
        two.wait_promoted(DEADLINE).await?;
        write(&two, "c-other", 20_000).await?;
        two.switch_wal().await?;
        two.wait_archiver_failed(0).await?;
        let refused = seawall.push(&two, "00000002.history").await?;
        refused.assert_refused(REFUSED, &["another history of timeline 2"])?;
        assert_eq!(seawall.objects(&["wal", "tail"])?, archived);
        two.kill9()?;

        one.kill9()?;
        let restored = seawall.restore_to("new", &["--target", "latest"]).await?;
        assert_eq!(rows(&restored).await?, "a-before a-later b-after 29010");
        let lsn = lsn_text(before);
        let target = ["--target-lsn", lsn.as_str(), "--target-timeline", "1"];
        let restored = seawall.restore_to("old", &target).await?;
        assert_eq!(rows(&restored).await?, "a-before a-later 9010");
        Ok(())
    });
}

/// Lets a standby that is down end its recovery with what it has.
fn end_recovery_alone(cluster: &Cluster) -> Result<()> {
    tests::scratch::write_private(&cluster.data_directory().join("recovery.signal"), b"")?;
    cluster.append_setting("restore_command", "false")?;
    cluster.append_setting("primary_conninfo", "")
}

#[test]
fn an_archiver_beside_a_streaming_agent_makes_no_trouble() {
    case("push_beside", async |scratch| {
        let cluster = Cluster::builder(17)
            .segment_size_mib(1)
            .setting("track_commit_timestamp", "on")
            .setting("archive_mode", "on")
            .create(&scratch, "main")
            .await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        cluster.push_to(&seawall).await?;
        let agent = seawall.run().await?;
        let oracle = Oracle::start(&cluster, Options::default()).await?;
        oracle.wait_for(100).await?;
        seawall.backup().await?;
        cluster
            .exec("create table big as select i, md5(i::text) from generate_series(1, 30000) i")
            .await?;
        cluster.switch_and_push().await?;
        seawall.wait_archived(&cluster).await?;
        agent.assert_no_unexpected_warnings(&[])?;
        agent.stop(DEADLINE).await?;

        // While the agent is away the archiver goes on alone; the agent goes on behind it.
        cluster
            .exec("insert into big select i, md5(i::text) from generate_series(1, 30000) i")
            .await?;
        oracle.wait_for(50).await?;
        let end = cluster.switch_and_push().await?;
        let agent = seawall.run().await?;
        oracle.wait_for(50).await?;
        let history = oracle.stop().await?;
        cluster.switch_and_push().await?;
        assert!(seawall.wait_archived(&cluster).await? > end);
        agent.assert_no_unexpected_warnings(&[])?;
        agent.stop(DEADLINE).await?;

        let objects = seawall.objects(&["wal"])?;
        for epoch in ["00000000", "00000001", "00000002"] {
            assert!(
                objects.iter().any(|name| name.ends_with(epoch)),
                "{epoch}: {objects:#?}"
            );
        }
        let list = seawall.list().await?;
        assert_eq!(json_array(&list, "holes")?.len(), 0, "{list}");
        assert!(!cluster.server_log().contains("archive command failed"));
        cluster.kill9()?;
        let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
        let client = restored.connect().await?;
        history.assert_exact(&client, &history.expected_now()).await?;
        assert_eq!(restored.query_one("select count(*) from big").await?, "60000");
        Ok(())
    });
}
