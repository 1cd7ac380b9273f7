//! Ways in which real object stores have surprised backup tools, one test for each: the WAL lane outlives them, or says what is
//! wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "store_quirks/stage.rs"]
mod stage;

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;
use stage::Stage;
use tests::fault_s3::{Fault, Method, Rule};
use tests::oracle::Options;
use tests::seawall::{flushed_lsn, json_array};
use tests::wait::DEADLINE;
use tests::{Cluster, FaultS3, Oracle, Scratch, Seawall, case, pgbench, wait_until};

const RETRIED: &str = "object store request failed, will try again";

#[test]
fn pages_of_three_names_lose_nothing_on_the_way_from_init_to_restore() {
    case("quirk_small_pages", async |scratch| {
        let server = FaultS3::start().await?;
        server.faults().limit_pages(Some(3));
        let stage = Stage::on(&scratch, server, &[]).await?;
        let mut agent = stage.seawall.run().await?;
        stage.seawall.backup().await?;
        stage.commit(300).await?;
        // Another start finds its place in many pages, and a lease of its own.
        for _ in 0..4 {
            agent.stop(DEADLINE).await?;
            agent = stage.seawall.run().await?;
            stage.commit(50).await?;
        }
        assert!(stage.server.objects().keys("/tail/").len() > 6);
        stage.finish(agent).await
    });
}

#[test]
fn a_success_with_an_error_in_its_body_or_with_nothing_is_no_success() {
    case("quirk_error_in_success", async |scratch| {
        let stage = Stage::running(&scratch, &[]).await?;
        stage.survive(Fault::ErrorInSuccess, 12).await?;
        stage.survive(Fault::EmptySuccess, 12).await?;
        stage.finish_quietly(&[RETRIED]).await
    });
}

#[test]
fn a_put_whose_answer_is_lost_counts_once_whether_412_or_409_comes_back() {
    case("quirk_lost_answer", async |scratch| {
        let stage = Stage::running(&scratch, &[]).await?;
        stage.survive(Fault::DropAfter, 12).await?;
        stage.survive(Fault::ErrorAfter, 12).await?;
        // The second attempt is told of a conflict before it is told that the object is there.
        let faults = stage.server.faults();
        faults.add(Rule::new(Fault::DropAfter).on(Method::Put).times(1));
        stage.survive(Fault::Conflict, 3).await?;
        // Something on the way repeats the request by itself: all that comes back is 412.
        stage.survive(Fault::EchoOfItself, 12).await?;
        let entries = stage.server.log().entries();
        assert!(!entries.iter().any(|entry| entry.overwrote));
        stage.finish_quietly(&[RETRIED]).await
    });
}

#[test]
fn throttling_a_skewed_clock_and_expired_keys_are_waited_out() {
    case("quirk_throttled", async |scratch| {
        let stage = Stage::running(&scratch, &[]).await?;
        for fault in [Fault::SlowDown, Fault::TimeTooSkewed, Fault::ExpiredToken] {
            stage.survive(fault, 12).await?;
        }
        stage.finish_quietly(&[RETRIED]).await
    });
}

#[test]
fn bytes_that_are_damaged_on_the_way_are_sent_again() {
    case("quirk_damaged_on_the_way", async |scratch| {
        let stage = Stage::running(&scratch, &[]).await?;
        stage.survive(Fault::DamagedOnTheWay, 12).await?;
        stage.finish_quietly(&[RETRIED]).await
    });
}

#[test]
fn a_wal_object_that_the_store_kept_in_half_is_named_and_never_restored() {
    case("quirk_stored_short", async |scratch| {
        damaged_at_rest(scratch, Fault::StoredShort).await
    });
}

#[test]
fn a_wal_object_with_a_flipped_bit_is_named_and_never_restored() {
    case("quirk_stored_flipped", async |scratch| {
        damaged_at_rest(scratch, Fault::StoredFlipped).await
    });
}

async fn damaged_at_rest(scratch: Scratch, fault: Fault) -> Result<()> {
    let stage = Stage::running(&scratch, &[]).await?;
    stage.strike_an_object(fault).await?;
    stage.commit(100).await?;
    stage.stop().await?;
    let entries = stage.server.log().entries();
    let damaged = entries.iter().find(|entry| entry.fault == Some(fault)).unwrap();
    let name = damaged.key.rsplit('/').next().unwrap();
    stage.cluster.kill9()?;
    let place = Cluster::place(&scratch, "refused")?;
    let [data, sockets, port] = [
        place.data.display().to_string(),
        place.sockets.display().to_string(),
        place.port.to_string(),
    ];
    let mut args = vec!["--target", "latest", "--pgdata", &data, "--start", "--json"];
    args.extend(["--socket-dir", &sockets, "--port", &port]);
    let output = stage.seawall.restore.run(&args).await?;
    assert_ne!(output.code(), 0, "{}", output.stdout);
    let segment = damaged.key.rsplit('/').nth(1).unwrap();
    assert!(
        output.stderr.contains(segment),
        "{segment} is not named:\n{}",
        output.stderr
    );
    // The plan has met it, or recovery: then the message names the log, and that names the object.
    let log = fs::read_to_string(place.data.join("seawall.restore/server.log")).unwrap_or_default();
    let said = output.stderr + &log;
    assert!(
        said.contains(name) && said.contains("HINT: The stored bytes were changed"),
        "{name}:\n{said}"
    );
    Ok(())
}

#[test]
fn half_an_object_left_by_a_broken_connection_does_not_stop_the_archive() {
    case("quirk_cut_off", async |scratch| {
        left_behind(scratch, Fault::CutOff).await
    });
}

#[test]
fn a_damaged_object_left_by_a_broken_connection_is_not_taken_for_what_was_sent() {
    case("quirk_garbled", async |scratch| {
        left_behind(scratch, Fault::Garbled).await
    });
}

/// The name of a whole range is taken by something that is not what was sent, and the agent is not told that it was stored.
async fn left_behind(scratch: Scratch, fault: Fault) -> Result<()> {
    let stage = Stage::running(&scratch, &[]).await?;
    stage.strike_an_object(fault).await?;
    stage.commit(20).await?;
    stage.seawall.wait_archived(&stage.cluster).await?;
    let agent = stage.agent();
    stage.finish(agent).await
}

#[test]
fn a_stale_listing_makes_no_new_history_and_loses_nothing() {
    case("quirk_stale_list", async |scratch| {
        let stage = Stage::running(&scratch, &[]).await?;
        let then = Instant::now();
        stage
            .fill_segments_until(async || stage.server.log().count(Method::Put, "/wal/") > 5)
            .await?;
        stage.seawall.wait_archived(&stage.cluster).await?;
        stage.cluster.exec("checkpoint").await?;
        stage.agent().kill9()?;
        let confirmed = stage.confirmed().await?;
        stage.server.faults().add(Rule::new(Fault::ListAsOf(then)));
        let agent = stage.seawall.agent.start_daemon()?;
        stage.commit(50).await?;
        let goal = flushed_lsn(&stage.cluster).await?;
        let mut lowest = confirmed;
        wait_until("WAL to be archived behind a stale listing", DEADLINE, async || {
            let now = stage.confirmed().await.unwrap_or(0);
            lowest = lowest.min(now);
            now >= goal
        })
        .await?;
        assert_eq!(lowest, confirmed, "what was confirmed was taken back");
        stage.server.faults().heal();
        assert_eq!(stage.server.objects().keys("/lineages/").len(), 1, "{}", agent.log());
        stage.finish(agent).await
    });
}

#[test]
fn an_agent_that_starts_again_behind_a_stale_listing_takes_an_epoch_of_its_own() {
    case("quirk_stale_leases", async |scratch| {
        let stage = Stage::running(&scratch, &[]).await?;
        stage
            .server
            .faults()
            .add(Rule::new(Fault::ListAsOf(Instant::now())).key("/leases/"));
        let mut agent = stage.agent();
        for _ in 0..2 {
            agent.kill9()?;
            agent = stage.seawall.run().await?;
            stage.commit(50).await?;
        }
        assert_eq!(stage.server.objects().keys("/leases/").len(), 3);
        stage.finish(agent).await
    });
}

#[test]
fn a_store_that_ignores_conditions_is_found_out_by_init_and_by_check() {
    case("quirk_condition_ignored", async |scratch| {
        let server = FaultS3::start().await?;
        server.faults().add(Rule::new(Fault::ConditionIgnored));
        let cluster = Cluster::builder(15).create(&scratch, "main").await?;
        let config = Seawall::s3_config(&scratch, &cluster, &server).await?;
        let seawall = Seawall::configure(config)?;
        let init = seawall.init().await?;
        assert!(
            init.stderr.contains("WARN") && init.stderr.contains("If-None-Match"),
            "{}",
            init.stderr
        );
        let agent = seawall.run().await?;
        let check = seawall.agent.run_ok(&["check", "--json"]).await?.json()?;
        assert_eq!(check["create_only"], false, "{check}");
        let check = seawall.agent.run_ok(&["check"]).await?;
        assert!(
            check.stdout.contains("create-only is IGNORED by the store"),
            "{}",
            check.stdout
        );
        server.faults().heal();
        let check = seawall.agent.run_ok(&["check", "--json"]).await?.json()?;
        assert_eq!(check["create_only"], true, "{check}");
        agent.stop(DEADLINE).await
    });
}

#[test]
fn an_upload_of_twelve_seconds_does_not_cost_the_connection() {
    case("quirk_slow_put", async |scratch| {
        let stage = Stage::running(&scratch, &[("wal_sender_timeout", "5s")]).await?;
        let walsender = stage.walsender().await?;
        pgbench::init(&stage.cluster, 1).await?;
        stage.seawall.wait_archived(&stage.cluster).await?;
        let slow = Fault::Delay(Duration::from_secs(12));
        stage.server.faults().add(Rule::new(slow).on(Method::Put));
        let load = pgbench::Load::start(&stage.cluster, 1, 50)?;
        // Twice: the stream stands still while uploads wait, and goes on.
        for _ in 0..2 {
            let before = stage.confirmed().await?;
            wait_until("a slow upload", DEADLINE, async || {
                stage.confirmed().await.is_ok_and(|confirmed| confirmed > before)
            })
            .await?;
        }
        load.stop().await?;
        assert_eq!(stage.walsender().await?, walsender, "it was disconnected");
        stage.server.faults().heal();
        stage.finish_quietly(&[]).await
    });
}

#[test]
fn an_outage_keeps_memory_within_its_limit_however_many_tails_wait() {
    case("quirk_outage_memory", async |scratch| {
        let server = FaultS3::start().await?;
        let cluster = Cluster::builder(15)
            .setting("track_commit_timestamp", "on")
            .create(&scratch, "main")
            .await?;
        let config = Seawall::s3_config(&scratch, &cluster, &server)
            .await?
            .set("cluster.main.wal.ship_interval", "10ms")?
            .set("cluster.main.wal.memory_max", "16MiB")?;
        let seawall = Seawall::configure(config)?;
        seawall.init().await?;
        let agent = seawall.run().await?;
        // The open segment is nearly full, and then commits trickle in while nothing can be stored.
        cluster.switch_wal().await?;
        let most =
            "select pg_logical_emit_message(true, 'fill', repeat(md5(i::text), 32768)) from generate_series(1, 12) i";
        cluster.exec(most).await?;
        seawall.wait_archived(&cluster).await?;
        server.faults().add(Rule::new(Fault::Hold).on(Method::Put));
        let oracle = Oracle::start(
            &cluster,
            Options {
                connections: 2,
                rate: 50,
                payload_bytes_max: 8,
            },
        )
        .await?;
        oracle.wait_for(2500).await?;
        let peak = agent.peak_memory_kib()?;
        server.faults().heal();
        oracle.stop().await?;
        seawall.wait_archived(&cluster).await?;
        agent.stop(DEADLINE).await?;
        // Two ranges of 16 MiB, as they came and as they are sent, and the program itself.
        assert!(peak < 128 << 10, "{peak} KiB");
        Ok(())
    });
}

#[test]
fn a_listing_of_the_repository_names_no_hole_after_uploads_that_finish_in_any_order() {
    case("quirk_out_of_order", async |scratch| {
        let stage = Stage::running(&scratch, &[]).await?;
        stage
            .server
            .faults()
            .add(Rule::new(Fault::Hold).on(Method::Put).every(2).times(20));
        stage
            .fill_segments_until(async || stage.server.faults().held() >= 3)
            .await?;
        stage.server.faults().heal();
        stage.commit(50).await?;
        stage.seawall.wait_archived(&stage.cluster).await?;
        let list = stage.seawall.list().await?;
        assert_eq!(json_array(&list, "holes")?.len(), 0, "{list}");
        stage.finish_quietly(&[]).await
    });
}
