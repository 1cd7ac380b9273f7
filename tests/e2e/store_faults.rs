//! The store misbehaves at a third to two thirds of all requests, gets well, and misbehaves again, under load, for as many faults
//! as are asked for: nothing acknowledged is lost, nothing gets stuck, memory stays within its limit, and the archive has caught
//! up within a minute each time.
//!
//! `SEAWALL_FAULTS` says how many faults a run injects. Runs add up in `target/store-faults/summary.json`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "store_faults/spell.rs"]
mod spell;
#[path = "store_faults/summary.rs"]
mod summary;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use summary::{Cycle, Summary};
use tests::fault_s3::Entry;
use tests::oracle::Options;
use tests::seawall::{flushed_lsn, json_array};
use tests::seed::Rng;
use tests::stored_wal::WalKey;
use tests::wait::{DEADLINE, wait_for};
use tests::{Child, Cluster, FaultS3, Oracle, Scratch, Seawall, case, pgbench};

/// Without `SEAWALL_FAULTS`: about two minutes.
const FAULTS: u64 = 2_000;
/// Clusters that are played on at once when more than that is asked for.
const AT_ONCE: usize = 6;
/// A cycle ends with a restore; more faults than this are several cycles.
const FAULTS_PER_CYCLE: u64 = 1_000;
/// A spell of misbehaviour ends with this many faults, or when it has lasted so long.
const SPELL: (u64, Duration) = (400, Duration::from_secs(20));
/// From the end of a spell until all that was written by then is archived.
const RECOVERY_MAX: Duration = Duration::from_secs(60);
/// Waited for longer, to know how long it takes.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(240);
/// `wal.memory_max` of the agent.
const WAL_MEMORY: &str = "16MiB";
/// All that the process may ever have: what it is itself, and its WAL once as it came and once as it is sent.
const MEMORY_MAX_KIB: u64 = 96 << 10;

#[test]
fn a_store_that_misbehaves_loses_nothing_and_is_caught_up_with_within_a_minute() {
    let wanted = match std::env::var("SEAWALL_FAULTS") {
        Ok(text) => text.trim().parse().expect("SEAWALL_FAULTS is a number"),
        Err(_) => FAULTS,
    };
    let injected = AtomicU64::new(0);
    let adding = Mutex::new(());
    // Most of the time each of them waits for the next attempt.
    let at_once = if wanted > FAULTS { AT_ONCE } else { 1 };
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| play(wanted, &injected, &adding));
        }
    });
}

/// Cycles until enough faults were injected by all together.
fn play(wanted: u64, injected: &AtomicU64, adding: &Mutex<()>) {
    loop {
        let begun = injected.load(Ordering::Relaxed);
        if begun >= wanted {
            return;
        }
        let goal = FAULTS_PER_CYCLE.min(wanted - begun);
        let mut done = None;
        case("store_faults", async |scratch| {
            done = Some(Box::pin(cycle(&scratch, goal)).await?);
            Ok(())
        });
        let cycle = done.expect("a cycle that did not fail has a result");
        injected.fetch_add(cycle.faults.values().sum(), Ordering::Relaxed);
        let alone = adding.lock();
        println!("{}", Summary::add(&cycle).unwrap());
        drop(alone);
        // After it was written down: a failure is a result too.
        assert_eq!(cycle.lost, 0, "{cycle:?}");
        assert!(cycle.peak_memory_kib <= MEMORY_MAX_KIB, "{cycle:?}");
        assert!(cycle.recovery_max <= RECOVERY_MAX, "{cycle:?}");
    }
}

async fn cycle(scratch: &Scratch, goal: u64) -> Result<Cycle> {
    let begun = Instant::now();
    let mut server = FaultS3::start().await?;
    let cluster = Cluster::builder(15)
        .segment_size_mib(1)
        .setting("track_commit_timestamp", "on")
        .create(scratch, "main")
        .await?;
    pgbench::init(&cluster, 1).await?;
    let seawall = install(scratch, &cluster, &server).await?;
    let mut agent = seawall.run().await?;
    seawall.backup().await?;
    let load = pgbench::Load::start(&cluster, 2, 200)?;
    let oracle = Oracle::start(&cluster, Options::default()).await?;

    let mut rng = Rng::named("store_faults");
    let mut recovery_max = Duration::ZERO;
    while server.faults().total() < goal {
        let spell = Instant::now();
        misbehave(&mut server, &mut rng, goal).await?;
        let lasted = spell.elapsed();
        let recovery = recover(&cluster, &mut agent).await?;
        let total = server.faults().total();
        println!("{total} faults; the last spell took {lasted:.1?}, the recovery {recovery:.1?}");
        recovery_max = recovery_max.max(recovery);
    }
    load.stop().await?;
    let history = oracle.stop().await?;
    seawall.wait_archived(&cluster).await?;
    let peak_memory_kib = agent.peak_memory_kib()?;
    let sessions = agent.log().matches("streaming").count() as u64;
    agent.stop(DEADLINE).await?;
    cluster.kill9()?;
    cluster.destroy_data_directory()?;

    judge(&seawall, &server.log().entries()).await?;
    let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
    let expected = history.expected_now();
    let comparison = history.compare(&restored.connect().await?, &expected).await?;
    let losses = comparison.lost.len() as u64;
    ensure!(losses > 0 || comparison.is_clean(), "{}", comparison.report());
    pgbench::assert_balanced(&restored).await?;
    Ok(Cycle {
        faults: server.faults().injected(),
        requests: server.log().len() as u64,
        acknowledged: expected.must.len() as u64,
        lost: losses,
        sessions,
        peak_memory_kib,
        recovery_max,
        took: begun.elapsed(),
    })
}

async fn install(scratch: &Scratch, cluster: &Cluster, server: &FaultS3) -> Result<Seawall> {
    let config = Seawall::s3_config(scratch, cluster, server)
        .await?
        // Many requests, and none that keeps an upload busy for long.
        .set("cluster.main.wal.ship_interval", "10ms")?
        .set("cluster.main.wal.uploads_in_flight", 16)?
        .set("cluster.main.wal.memory_max", WAL_MEMORY)?
        .set("repository.s3.request_timeout", "5s")?
        .set("repository.s3.connect_timeout", "2s")?;
    let seawall = Seawall::configure(config)?;
    seawall.init().await?;
    Ok(seawall)
}

/// One spell: rules in force until enough has gone wrong, sometimes a store that is dead for a while, and then it is well again.
async fn misbehave(server: &mut FaultS3, rng: &mut Rng, goal: u64) -> Result<()> {
    let before = server.faults().total();
    for rule in spell::draw(rng) {
        server.faults().add(rule);
    }
    let enough = SPELL.0.min(goal.saturating_sub(before));
    let begun = Instant::now();
    wait_for("the faults of a spell", 2 * SPELL.1, async || {
        let injected = server.faults().total() - before;
        (injected >= enough || begun.elapsed() > SPELL.1).then_some(())
    })
    .await?;
    if rng.one_in(3) {
        server.die().await?;
        let dead = Instant::now();
        let lasts = Duration::from_millis(rng.between(500, 3000));
        wait_for("the end of an outage", DEADLINE, async || {
            (dead.elapsed() > lasts).then_some(())
        })
        .await?;
        server.revive().await?;
    }
    server.faults().heal();
    Ok(())
}

/// Waits until all that is flushed now has been confirmed by the agent; returns how long that took.
async fn recover(cluster: &Cluster, agent: &mut Child) -> Result<Duration> {
    let begun = Instant::now();
    let goal = flushed_lsn(cluster).await?;
    let client = cluster.connect().await?;
    let question =
        "select coalesce(max(flush_lsn - '0/0'), 0)::int8 from pg_stat_replication where application_name = 'seawall'";
    wait_for("the archive to catch up", RECOVERY_DEADLINE, async || {
        let row = client.query_one(question, &[]).await.ok()?;
        (agent.ended().is_some() || row.get::<_, i64>(0) as u64 >= goal).then_some(())
    })
    .await
    .context("the agent is stuck")?;
    ensure!(agent.ended().is_none(), "the agent ended by itself:\n{}", agent.log());
    Ok(begun.elapsed())
}

/// What must be true of the repository, whatever went wrong with it.
async fn judge(seawall: &Seawall, entries: &[Entry]) -> Result<()> {
    let overwritten: Vec<&Entry> = entries.iter().filter(|entry| entry.overwrote).collect();
    ensure!(overwritten.is_empty(), "overwritten: {overwritten:?}");
    let mut lineages: Vec<String> = entries
        .iter()
        .filter(|entry| entry.durable.is_some())
        .filter_map(|entry| Some(WalKey::parse(&entry.key)?.lineage))
        .collect();
    lineages.sort();
    lineages.dedup();
    ensure!(lineages.len() == 1, "one history, but the lineages {lineages:?}");
    let list = seawall.list().await?;
    ensure!(json_array(&list, "holes")?.is_empty(), "{list}");
    ensure!(json_array(&list, "windows")?.len() == 1, "{list}");
    Ok(())
}
