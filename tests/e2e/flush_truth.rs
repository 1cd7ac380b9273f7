//! PostgreSQL is never told a lie: every position that it shows as written or flushed by us was stored, without a hole, before it
//! was shown. The fault store's own log of completed PUTs is the judge, ten thousand times, while the store misbehaves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "flush_truth/judge.rs"]
mod judge;
#[path = "flush_truth/sampler.rs"]
mod sampler;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use judge::Verdict;
use sampler::Sampler;
use tests::cluster::parse_lsn;
use tests::fault_s3::{Fault, Method, Rule};
use tests::oracle::Options;
use tests::wait::{DEADLINE, Pace};
use tests::{Cluster, FaultS3, Oracle, Scratch, Seawall, case, pgbench, wait_until};

/// Of all modes together.
const SAMPLES: usize = 10_000;
const MODES: [&str; 3] = ["remote_write", "on", "local"];
/// How long one kind of fault stays in force.
const SPELL: Duration = Duration::from_millis(1500);

struct Stage {
    server: FaultS3,
    cluster: Cluster,
    /// Where the agent's first stream begins.
    start: u64,
}

#[test]
fn no_position_that_postgresql_shows_is_ahead_of_what_is_stored() {
    case("flush_truth", async |scratch| {
        let (stage, seawall) = prepare(&scratch).await?;
        let Stage { server, cluster, start } = &stage;
        let agent = seawall.run().await?;
        let load = pgbench::Load::start(cluster, 2, 300)?;
        let oracle = Oracle::start(cluster, Options::default()).await?;
        oracle.wait_for(50).await?;
        let sampler = Sampler::start(cluster).await?;
        let mut synchronous = Vec::new();
        let mut spells = Spells::default();
        for (round, mode) in MODES.into_iter().enumerate() {
            set(cluster, "synchronous_commit", mode).await?;
            let goal = SAMPLES * (round + 1) / MODES.len();
            let half = SAMPLES * (2 * round + 1) / (2 * MODES.len());
            sampler.set_mode(mode);
            spells.until(server, async || sampler.count() >= half).await?;
            let window = begin_synchronous(cluster, &oracle, mode).await?;
            spells.until(server, async || sampler.count() >= goal).await?;
            synchronous.push((mode, window, Instant::now()));
            end_synchronous(cluster, server).await?;
        }
        let samples = sampler.stop().await?;
        server.faults().heal();
        load.stop().await?;
        let history = oracle.stop().await?;
        seawall.wait_archived(cluster).await?;
        agent.stop(DEADLINE).await?;

        let puts = server.log().completed_puts();
        let verdict = Verdict::of(&samples, &puts, *start, server.log())?;
        verdict.assert_meaningful(&MODES)?;
        for (mode, from, until) in synchronous {
            if mode != "local" {
                judge::check_acknowledged(history.commits(), &puts, *start, from, until)?;
            }
        }
        for kind in Spells::KINDS {
            ensure!(server.faults().count(kind) > 0, "no {} was injected", kind.name());
        }
        println!("{verdict}\nfaults: {:?}", server.faults().injected());
        Ok(())
    });
}

async fn prepare(scratch: &Scratch) -> Result<(Stage, Seawall)> {
    let server = FaultS3::start().await?;
    let cluster = Cluster::builder(15)
        .segment_size_mib(1)
        .setting("track_commit_timestamp", "on")
        .create(scratch, "main")
        .await?;
    pgbench::init(&cluster, 1).await?;
    let config = Seawall::s3_config(scratch, &cluster, &server)
        .await?
        .set("cluster.main.wal.ship_interval", "50ms")?
        // A swallowed request is to be given up during the test.
        .set("repository.s3.request_timeout", "3s")?;
    let seawall = Seawall::configure(config)?;
    seawall.init().await?;
    let slot = "select restart_lsn from pg_replication_slots where slot_name = 'seawall'";
    let restart = parse_lsn(&cluster.query_one(slot).await?)?;
    // The agent streams from the first byte of the segment.
    let start = restart & !((1 << 20) - 1);
    Ok((Stage { server, cluster, start }, seawall))
}

/// The faults, one kind after the other, again and again.
#[derive(Debug, Default)]
struct Spells {
    begun: usize,
}

impl Spells {
    const KINDS: [Fault; 11] = [
        Fault::Delay(Duration::from_millis(400)),
        Fault::Hold,
        Fault::DropBefore,
        Fault::DropAfter,
        Fault::SlowDown,
        Fault::Conflict,
        Fault::EchoOfItself,
        Fault::ErrorAfter,
        Fault::ErrorInSuccess,
        Fault::AccessDenied,
        Fault::BlackHole,
    ];

    /// Changes the fault in force at a steady pace until `done`.
    async fn until(&mut self, server: &FaultS3, mut done: impl AsyncFnMut() -> bool) -> Result<()> {
        let mut pace = Pace::every(SPELL);
        let begun = Instant::now();
        while !done().await {
            ensure!(begun.elapsed() < 4 * DEADLINE, "the samples do not come");
            pace.tick().await;
            server.faults().heal();
            let fault = Self::KINDS[self.begun % Self::KINDS.len()];
            let rule = Rule::new(fault).on(Method::Put);
            server.faults().add(match fault {
                // Odd ones: what comes behind is stored first.
                Fault::Delay(_) | Fault::Hold => rule.every(2),
                // Each of them ends the session, or keeps one upload busy for its whole time.
                Fault::AccessDenied | Fault::BlackHole => rule.times(1),
                _ => rule.percent(40),
            });
            self.begun += 1;
        }
        server.faults().heal();
        Ok(())
    }
}

async fn set(cluster: &Cluster, name: &str, value: &str) -> Result<()> {
    let client = cluster.connect().await?;
    client
        .batch_execute(&format!("alter system set {name} = '{value}'"))
        .await?;
    client.batch_execute("select pg_reload_conf()").await?;
    wait_until(&format!("{name} = {value}"), DEADLINE, async || {
        cluster
            .query_one(&format!("show {name}"))
            .await
            .is_ok_and(|now| now == value)
    })
    .await
}

/// Commits wait for us from here on. Returns since when that is certain.
async fn begin_synchronous(cluster: &Cluster, oracle: &Oracle, mode: &str) -> Result<Instant> {
    set(cluster, "synchronous_standby_names", "seawall").await?;
    if mode != "local" {
        let waiting = "select count(*) > 0 from pg_stat_activity where wait_event = 'SyncRep'";
        wait_until("a commit that waits for us", DEADLINE, async || {
            cluster.query_one(waiting).await.is_ok_and(|answer| answer == "t")
        })
        .await?;
        // Each connection has begun another transaction since.
        oracle.wait_for(40).await?;
    }
    Ok(Instant::now())
}

async fn end_synchronous(cluster: &Cluster, server: &FaultS3) -> Result<()> {
    server.faults().heal();
    set(cluster, "synchronous_standby_names", "").await
}
