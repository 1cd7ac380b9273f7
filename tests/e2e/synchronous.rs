//! The agent as a synchronous standby: what a returned COMMIT means, and what happens when the repository is away.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use anyhow::Result;
use tests::wait::{DEADLINE, wait_for, wait_until};
use tests::{Cluster, Scratch, Seawall, StopMode, Weed, case};

const NAMED: (&str, &str) = ("synchronous_standby_names", "seawall");

async fn cluster(scratch: &Scratch) -> Result<Cluster> {
    let cluster = Cluster::builder(15)
        .segment_size_mib(1)
        .setting("wal_sender_timeout", "30s")
        .create(scratch, "main")
        .await?;
    cluster.exec("create table t (i int)").await?;
    Ok(cluster)
}

async fn become_synchronous(cluster: &Cluster) -> Result<()> {
    cluster.append_setting(NAMED.0, NAMED.1)?;
    cluster.reload().await?;
    wait_until("the agent to be a synchronous standby", DEADLINE, async || {
        let sql = "select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum')";
        cluster.query_one(sql).await.is_ok_and(|count| count == "1")
    })
    .await
}

async fn waiting(cluster: &Cluster) -> Result<u32> {
    let sql = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    Ok(cluster.query_one(sql).await?.parse()?)
}

/// On a store that can be frozen, with a short deadline for each request.
async fn on_s3(scratch: &Scratch, cluster: &Cluster, weed: &Weed, settings: &[(&str, &str)]) -> Result<Seawall> {
    let mut config = Seawall::s3(scratch, cluster, weed)
        .await?
        .config
        .set("repository.s3.request_timeout", "1s")?;
    for (key, value) in settings {
        config = config.set(key, *value)?;
    }
    Seawall::configure(config)
}

#[test]
fn a_commit_that_returned_is_in_the_repository_when_the_host_dies_in_the_next_moment() {
    case("sync_host_loss", async |scratch| {
        let cluster = cluster(&scratch).await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        seawall.backup().await?;
        become_synchronous(&cluster).await?;
        let client = cluster.connect().await?;
        let mut times = Vec::new();
        for i in 1..=50 {
            let begun = Instant::now();
            client.batch_execute(&format!("insert into t values ({i})")).await?;
            times.push(begun.elapsed());
        }
        agent.kill9()?;
        cluster.kill9()?;
        cluster.destroy_data_directory()?;
        times.sort();
        println!(
            "synchronous commit: median {:.1?}, longest {:.1?}",
            times[25], times[49]
        );
        // Not held back for ship_interval, which is a second.
        assert!(times[25] < Duration::from_millis(900), "{times:?}");
        let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
        assert_eq!(
            restored.query_one("select count(*) || ' ' || max(i) from t").await?,
            "50 50"
        );
        Ok(())
    });
}

#[test]
fn who_holds_waits_for_the_repository_and_who_degrades_does_not_and_comes_back() {
    case("sync_outage", async |scratch| {
        let weed = Weed::start(&scratch).await?;
        let cluster = cluster(&scratch).await?;
        let seawall = on_s3(&scratch, &cluster, &weed, &[]).await?;
        let agent = seawall.run().await?;
        become_synchronous(&cluster).await?;
        let client = cluster.connect().await?;
        client.batch_execute("insert into t values (1)").await?;

        // hold, the default: as long as the outage lasts.
        weed.freeze()?;
        let held = tokio::spawn(async move { client.batch_execute("insert into t values (2)").await });
        wait_until("the commit to wait", DEADLINE, async || {
            waiting(&cluster).await.is_ok_and(|n| n == 1)
        })
        .await?;
        let begun = Instant::now();
        wait_until("an outage of 6 s", DEADLINE, async || {
            begun.elapsed() > Duration::from_secs(6)
        })
        .await?;
        assert_eq!(waiting(&cluster).await?, 1);
        assert!(!held.is_finished());
        weed.thaw()?;
        held.await??;
        agent.stop(DEADLINE).await?;

        // degrade: after two seconds commits return, on record, and later they wait again.
        let config = seawall
            .config
            .clone()
            .set("cluster.main.wal.on_store_outage", "degrade")?
            .set("cluster.main.wal.degrade_after", "2s")?;
        let seawall = Seawall::configure(config)?;
        let agent = seawall.run().await?;
        let client = cluster.connect().await?;
        client.batch_execute("insert into t values (3)").await?;
        weed.freeze()?;
        let begun = Instant::now();
        client.batch_execute("insert into t values (4)").await?;
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_secs(1), "it did not even wait: {waited:?}");
        println!("commits returned {waited:.1?} after the outage began, degrade_after 2s");
        assert_eq!(cluster.query_one("show synchronous_standby_names").await?, "");
        let degraded = "commits no longer wait for it";
        assert!(agent.log().contains(degraded), "{}", agent.log());
        weed.thaw()?;
        wait_until("the setting to come back", DEADLINE, async || {
            cluster
                .query_one("show synchronous_standby_names")
                .await
                .is_ok_and(|names| names == "seawall")
        })
        .await?;
        client.batch_execute("insert into t values (5)").await?;
        let events = wait_for("the record", DEADLINE, async || {
            let list = seawall.list().await.ok()?;
            let events: Vec<String> = list["events"]
                .as_array()?
                .iter()
                .filter_map(|event| Some(event["event"].as_str()?.to_owned()))
                .collect();
            events.contains(&"synchronous".to_owned()).then_some(events)
        })
        .await?;
        assert_eq!(events, ["degraded", "synchronous"]);
        agent.stop(DEADLINE).await
    });
}

#[test]
fn a_policy_that_could_not_be_kept_is_refused_with_the_statement_that_fixes_it() {
    case("sync_privilege", async |scratch| {
        let cluster = cluster(&scratch).await?;
        cluster
            .exec(
                "create role seawall login replication; grant pg_read_all_settings to seawall; \
                 grant execute on function pg_backup_start(text, boolean), pg_backup_stop(boolean) to seawall",
            )
            .await?;
        let config = Seawall::local_config(&scratch, &cluster)?
            .set("cluster.main.postgres.user", "seawall")?
            .set("cluster.main.wal.on_store_outage", "degrade")?;
        let seawall = Seawall::configure(config)?;
        seawall.init().await?;
        let output = seawall.agent.run(&["run"]).await?;
        output.assert_refused(3, &["GRANT ALTER SYSTEM ON PARAMETER synchronous_standby_names"])?;
        cluster
            .exec(
                "grant alter system on parameter synchronous_standby_names to seawall; \
                 grant execute on function pg_reload_conf() to seawall",
            )
            .await?;
        seawall.run().await?.stop(DEADLINE).await
    });
}

#[test]
fn remote_apply_is_refused_at_the_start_and_noticed_within_ten_seconds_later() {
    case("sync_remote_apply", async |scratch| {
        let cluster = cluster(&scratch).await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        become_synchronous(&cluster).await?;
        cluster.append_setting("synchronous_commit", "remote_apply")?;
        let begun = Instant::now();
        cluster.reload().await?;
        wait_until("an ERROR about remote_apply", DEADLINE, async || {
            agent
                .log()
                .lines()
                .any(|line| line.contains("ERROR") && line.contains("remote_apply"))
        })
        .await?;
        let noticed = begun.elapsed();
        assert!(noticed < Duration::from_secs(10), "{noticed:?}");
        wait_until("status to say so", DEADLINE, async || {
            seawall
                .status()
                .await
                .is_ok_and(|status| status["remote_apply"] == true)
        })
        .await?;
        agent.stop(DEADLINE).await?;
        let output = seawall.agent.run(&["run"]).await?;
        output.assert_refused(3, &["remote_apply", "ALTER SYSTEM SET synchronous_commit"])
    });
}

#[test]
fn a_server_that_shuts_down_while_the_store_is_late_is_let_go_unconfirmed() {
    case("late_shutdown", async |scratch| {
        let weed = Weed::start(&scratch).await?;
        let cluster = cluster(&scratch).await?;
        let seawall = on_s3(
            &scratch,
            &cluster,
            &weed,
            &[("cluster.main.wal.shutdown_timeout", "3s")],
        )
        .await?;
        let agent = seawall.run().await?;
        seawall.backup().await?;
        cluster.exec("insert into t values (1)").await?;
        let archived = seawall.wait_archived(&cluster).await?;
        weed.freeze()?;
        cluster.exec("insert into t select generate_series(2, 1000)").await?;
        let begun = Instant::now();
        cluster.stop(StopMode::Fast).await?;
        let stopped = begun.elapsed();
        println!("pg_ctl stop -m fast took {stopped:.1?} with the store away, shutdown_timeout 3s");
        assert!(stopped < Duration::from_secs(15), "{stopped:?}");
        weed.thaw()?;
        cluster.start().await?;
        let end = seawall.wait_archived(&cluster).await?;
        assert!(end > archived);
        agent.stop(DEADLINE).await?;
        cluster.kill9()?;
        let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
        assert_eq!(restored.query_one("select count(*) from t").await?, "1000");
        Ok(())
    });
}

#[test]
fn of_two_agents_the_one_that_was_taken_over_stops_by_itself_and_writes_nothing_more() {
    case("taken_over", async |scratch| {
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .setting("wal_sender_timeout", "2s")
            .create(&scratch, "main")
            .await?;
        cluster.exec("create table t (i int)").await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let mut first = seawall.run().await?;
        seawall.backup().await?;
        cluster.exec("insert into t select generate_series(1, 1000)").await?;
        seawall.wait_archived(&cluster).await?;
        first.freeze()?;
        // Another host has another state directory, so nothing but the repository keeps them apart.
        let elsewhere = scratch.dir("elsewhere")?.display().to_string();
        let config = seawall
            .config
            .clone()
            .set("cluster.main.status.state_directory", elsewhere)?;
        let other = Seawall::configure_as(config, "other")?;
        let second = other.run().await?;
        cluster.exec("insert into t select generate_series(1001, 2000)").await?;
        other.wait_archived(&cluster).await?;
        let of_first = |paths: Vec<std::path::PathBuf>| {
            paths
                .iter()
                .filter(|path| path.to_string_lossy().ends_with(".00000001"))
                .count()
        };
        let count = || tests::tree::files(&seawall.repository().join("clusters/main")).map(of_first);
        let before = count()?;
        first.thaw()?;
        let status = first.wait(DEADLINE).await?;
        assert_eq!(status.code(), Some(7), "{}", first.log());
        assert!(first.log().contains("taken over"), "{}", first.log());
        cluster.exec("insert into t select generate_series(2001, 3000)").await?;
        other.wait_archived(&cluster).await?;
        assert_eq!(count()?, before, "an object of the stale epoch was written");
        second.stop(DEADLINE).await?;
        cluster.kill9()?;
        let restored = other.restore_to("latest", &["--target", "latest"]).await?;
        assert_eq!(restored.query_one("select count(*) from t").await?, "3000");
        Ok(())
    });
}
