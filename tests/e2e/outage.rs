//! The store is dead for long, and `pg_wal` lies on a small disk: both policies do as they say, the server stays up, and afterwards the
//! archive tells the truth. `SEAWALL_OUTAGE` is the length in seconds; `make outage` plays ten minutes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tests::case::case_for;
use tests::seawall::{json_array, json_lsn, json_str};
use tests::tmpfs::Tmpfs;
use tests::wait::{DEADLINE, Pace, delay, wait_for, wait_until};
use tests::{Cluster, Scratch, Seawall, StopMode, Weed};

const MIB: u64 = 1 << 20;
/// Time for everything around the outage.
const LIMIT: Duration = Duration::from_secs(600);
/// How often the server writes a MiB while it has to be let go: the room above `retained_drop` is full in nine seconds.
const EVERY_MIB: Duration = Duration::from_millis(125);
/// Disk of `pg_wal`.
const DISK_MIB: u32 = 96;

fn outage() -> Duration {
    let seconds = std::env::var("SEAWALL_OUTAGE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(15))
}

/// A cluster whose `pg_wal` is on a disk of its own, and an agent on a store that can be frozen.
async fn stage(scratch: &Scratch, disk: &Tmpfs, weed: &Weed, settings: &[(&str, &str)]) -> Result<(Cluster, Seawall)> {
    let cluster = Cluster::builder(15)
        .segment_size_mib(1)
        .setting("max_wal_size", "16MB")
        .setting("min_wal_size", "2MB")
        .setting("wal_sender_timeout", "30s")
        // Only processes die here. A checkpoint that waits for a slow disk would keep WAL for longer than the small one has room for.
        .setting("fsync", "off")
        // A vacuum of all that was written is a hundred MiB of WAL in an instant: more than the disk has, whoever looks at it.
        .setting("autovacuum", "off")
        .create(scratch, "main")
        .await?;
    cluster.stop(StopMode::Fast).await?;
    let pg_wal = cluster.data_directory().join("pg_wal");
    let moved = std::process::Command::new("mv")
        .arg(&pg_wal)
        .arg(disk.path().join("pg_wal"))
        .status()?;
    anyhow::ensure!(moved.success(), "could not move pg_wal");
    std::os::unix::fs::symlink(disk.path().join("pg_wal"), &pg_wal)?;
    cluster.start().await?;
    cluster.exec("create table t (i int, filler text)").await?;
    let mut config = Seawall::s3(scratch, &cluster, weed)
        .await?
        .config
        .set("repository.s3.request_timeout", "1s")?;
    for (key, value) in settings {
        config = config.set(key, *value)?;
    }
    Ok((cluster, Seawall::configure(config)?))
}

async fn become_synchronous(cluster: &Cluster) -> Result<()> {
    cluster.append_setting("synchronous_standby_names", "seawall")?;
    cluster.reload().await?;
    wait_until("the agent to be a synchronous standby", DEADLINE, async || {
        let sql = "select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum')";
        cluster.query_one(sql).await.is_ok_and(|count| count == "1")
    })
    .await
}

#[test]
fn with_hold_commits_wait_as_long_as_it_lasts_and_nothing_is_lost() {
    case_for("outage_hold", outage() + LIMIT, async |scratch| {
        let disk = Tmpfs::mount(&scratch, "pg_wal", DISK_MIB)?;
        let weed = Weed::start(&scratch).await?;
        let (cluster, seawall) = stage(&scratch, &disk, &weed, &[]).await?;
        let agent = seawall.run().await?;
        seawall.backup().await?;
        become_synchronous(&cluster).await?;
        cluster.exec("insert into t values (1)").await?;

        weed.freeze()?;
        let begun = Instant::now();
        let mut held = Vec::new();
        for client in 2..=5 {
            let connection = cluster.connect().await?;
            held.push(tokio::spawn(async move {
                let sql = format!("insert into t values ({client})");
                connection.batch_execute(&sql).await.map(|()| Instant::now())
            }));
        }
        wait_until("the outage to end", outage() + DEADLINE, async || {
            let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
            let early = held.iter().any(tokio::task::JoinHandle::is_finished);
            assert!(!early, "a commit returned that is nowhere but on this host");
            let up = cluster.query_one(waiting).await;
            assert!(up.is_ok(), "the server is down: {up:?}");
            begun.elapsed() > outage()
        })
        .await?;
        weed.thaw()?;
        let thawed = Instant::now();
        for commit in held {
            let returned = commit.await??;
            println!(
                "a held commit returned {:.1?} after the store was back",
                returned - thawed
            );
        }
        let list = seawall.list().await?;
        assert!(json_array(&list, "holes")?.is_empty(), "{list}");
        seawall.wait_archived(&cluster).await?;
        agent.stop(DEADLINE).await?;
        cluster.kill9()?;
        let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
        assert_eq!(restored.query_one("select count(*) from t").await?, "5");
        Ok(())
    });
}

#[test]
fn with_degrade_and_a_small_pg_wal_the_server_goes_on_and_what_is_lost_is_said() {
    case_for("outage_degrade", outage() + LIMIT, async |scratch| {
        let disk = Tmpfs::mount(&scratch, "pg_wal", DISK_MIB)?;
        let weed = Weed::start(&scratch).await?;
        let settings = [
            ("cluster.main.wal.on_store_outage", "degrade"),
            ("cluster.main.wal.degrade_after", "2s"),
            ("cluster.main.wal.retained_warn", "8MiB"),
            ("cluster.main.wal.retained_page", "16MiB"),
            ("cluster.main.wal.retained_drop", "24MiB"),
        ];
        let (cluster, seawall) = stage(&scratch, &disk, &weed, &settings).await?;
        let agent = seawall.run().await?;
        seawall.backup().await?;
        become_synchronous(&cluster).await?;
        cluster.exec("insert into t values (0)").await?;
        let old = json_str(&seawall.status().await?, "lineage")?.to_owned();

        weed.freeze()?;
        let begun = Instant::now();
        cluster.exec("insert into t values (1)").await?;
        println!(
            "commits return {:.1?} after the outage began, degrade_after 2s",
            begun.elapsed()
        );
        // So much that the disk would be full twice over, and never faster than a busy machine can look at it; then whatever time is
        // left, slowly.
        let mut beat = Pace::every(EVERY_MIB);
        let (mut rows, mut wal) = (2, 0);
        while begun.elapsed() < outage() || wal < 2 * u64::from(DISK_MIB) * MIB {
            let sql =
                format!("insert into t select {rows}, repeat(md5(random()::text), 60) from generate_series(1, 500)");
            cluster.exec(&sql).await.context("the server is no longer up")?;
            rows += 1;
            wal += MIB;
            beat.tick().await;
            if wal > 3 * u64::from(DISK_MIB) * MIB {
                delay(Duration::from_millis(500)).await;
            }
        }
        let log = agent.log();
        let dropped = "the slot was dropped so that the server's disk does not fill";
        assert!(
            log.contains(dropped) && log.contains("commits no longer wait for it"),
            "{log}"
        );
        assert_eq!(
            cluster.query_one("select count(*) from pg_replication_slots").await?,
            "0"
        );

        weed.thaw()?;
        let backup = wait_for("a backup that makes up for it", 3 * DEADLINE, async || {
            let list = seawall.list().await.ok()?;
            let newest = list["backups"].as_array()?.last()?.clone();
            (newest["lineage"] != old.as_str()).then_some(newest)
        })
        .await?;
        assert_eq!(backup["label"], "after a loss of WAL");
        wait_until("commits to wait for us again", DEADLINE, async || {
            let names = cluster.query_one("show synchronous_standby_names").await;
            names.is_ok_and(|names| names == "seawall")
        })
        .await?;
        let list = seawall.list().await?;
        let holes = json_array(&list, "holes")?;
        let window = json_array(&list, "windows")?;
        let of_old = window.iter().find(|window| window["lineage"] == old.as_str()).unwrap();
        assert!(!holes.is_empty(), "{list}");
        assert_eq!(json_lsn(of_old, "to_lsn")?, json_lsn(&holes[0], "start")?, "{list}");
        cluster.exec(&format!("insert into t values ({rows})")).await?;
        seawall.wait_archived(&cluster).await?;
        agent.stop(DEADLINE).await?;
        cluster.kill9()?;
        let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
        let seen = restored.query_one("select count(distinct i) from t").await?;
        assert_eq!(
            seen,
            (rows + 1).to_string(),
            "every row is there: the backup after the loss has them"
        );
        Ok(())
    });
}
