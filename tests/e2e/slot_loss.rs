//! The slot goes: dropped, invalidated, timed out, or given up to save the server. Whatever WAL is lost is declared as a hole with its
//! exact range, a backup follows by itself, and what is still there is never called lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::Result;
use serde_json::Value;
use tests::cluster::parse_lsn;
use tests::seawall::{json_array, json_lsn, json_str};
use tests::wait::{DEADLINE, wait_for};
use tests::{Cluster, Scratch, Seawall, StopMode, Weed, case};

const MIB: u64 = 1 << 20;

async fn cluster(scratch: &Scratch, major: u32, settings: &[(&str, &str)]) -> Result<Cluster> {
    let mut builder = Cluster::builder(major)
        .segment_size_mib(1)
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "4MB");
    for (name, value) in settings {
        builder = builder.setting(name, value);
    }
    let cluster = builder.create(scratch, "main").await?;
    cluster.exec("create table t (part text, i int)").await?;
    Ok(cluster)
}

async fn write(cluster: &Cluster, part: &str) -> Result<()> {
    cluster
        .exec(&format!("insert into t select '{part}', generate_series(1, 1000)"))
        .await
}

/// Enough WAL that a checkpoint removes all that no slot holds back.
async fn much_wal(cluster: &Cluster) -> Result<()> {
    for _ in 0..12 {
        cluster
            .exec(
                "select pg_logical_emit_message(true, 'fill', repeat('x', 900000)); select pg_switch_wal(); checkpoint",
            )
            .await?;
    }
    Ok(())
}

async fn parts(cluster: &Cluster) -> Result<String> {
    cluster
        .query_one("select string_agg(distinct part, ' ' order by part) || ' ' || count(*) from t")
        .await
}

/// First byte of the oldest segment that the server has.
async fn oldest(cluster: &Cluster) -> Result<u64> {
    let sql = "select min(name) from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$'";
    let name = cluster.query_one(sql).await?;
    let digits = |range| u64::from_str_radix(&name[range], 16).map_err(anyhow::Error::from);
    Ok((digits(8..16)? << 32) + digits(16..24)? * MIB)
}

/// Waits for the hole to be declared; checks that its range is the exact one.
async fn hole_is_declared(seawall: &Seawall, start: u64, end: u64) -> Result<()> {
    let list = wait_for("a hole in the list", DEADLINE, async || {
        let list = seawall.list().await.ok()?;
        (!list["holes"].as_array()?.is_empty()).then_some(list)
    })
    .await?;
    let holes = json_array(&list, "holes")?;
    assert_eq!(holes.len(), 1, "{list}");
    assert_eq!(json_lsn(&holes[0], "start")?, start, "{list}");
    assert_eq!(json_lsn(&holes[0], "end")?, end, "{list}");
    Ok(())
}

/// Waits for a backup of the lineage that is archived now, taken by nobody but the agent.
async fn backup_follows(seawall: &Seawall, before: usize) -> Result<Value> {
    wait_for("a backup after the loss", DEADLINE, async || {
        let (list, status) = (seawall.list().await.ok()?, seawall.status().await.ok()?);
        let backups = list["backups"].as_array()?;
        let newest = backups.last()?;
        (backups.len() > before && newest["lineage"] == status["lineage"] && status["streaming"] == true)
            .then(|| newest.clone())
    })
    .await
}

/// A slot is lost while the agent is away, by `lose`; returns the agent's log.
async fn lost_while_away(scratch: &Scratch, major: u32, settings: &[(&str, &str)], drop: bool) -> Result<()> {
    let cluster = cluster(scratch, major, settings).await?;
    let seawall = Seawall::local(scratch, &cluster).await?;
    let agent = seawall.run().await?;
    seawall.backup().await?;
    write(&cluster, "before").await?;
    let end = seawall.wait_archived(&cluster).await?;
    agent.stop(DEADLINE).await?;
    let end = end.max(json_lsn(&seawall.list().await?["windows"][0], "to_lsn")?);

    if drop {
        cluster
            .exec("select pg_drop_replication_slot('seawall'); select pg_drop_replication_slot('seawall_overlap')")
            .await?;
    }
    write(&cluster, "during").await?;
    much_wal(&cluster).await?;
    if major >= 18 && !drop {
        let sql = "select count(*) from pg_replication_slots where invalidation_reason is null";
        let lost = async || {
            cluster.exec("checkpoint").await.ok()?;
            (cluster.query_one(sql).await.ok()? == "0").then_some(())
        };
        wait_for("the slots to be invalidated", 2 * DEADLINE, lost).await?;
        much_wal(&cluster).await?;
    }
    if drop {
        // As somebody would who only looks at the error: at the newest position.
        cluster
            .exec("select pg_create_physical_replication_slot('seawall', true); select pg_create_physical_replication_slot('seawall_overlap', true)")
            .await?;
    }
    let gone_until = oldest(&cluster).await?;
    assert!(gone_until > end, "nothing was lost: {gone_until:X} {end:X}");
    let agent = seawall.agent.start_daemon()?;
    hole_is_declared(&seawall, end, gone_until).await?;
    let backup = backup_follows(&seawall, 1).await?;
    assert_eq!(backup["label"], "after a loss of WAL");
    let log = agent.log();
    assert!(log.contains("ERROR") && log.contains("WAL is lost"), "{log}");
    write(&cluster, "after").await?;
    seawall.wait_archived(&cluster).await?;
    agent.stop(DEADLINE).await?;
    cluster.kill9()?;

    let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
    assert_eq!(parts(&restored).await?, "after before during 3000");
    // pg_amcheck came with 14.
    if major > 13 {
        restored.amcheck().await?;
    }
    restored.stop(StopMode::Fast).await?;
    restored.checksums_clean().await
}

#[test]
fn a_slot_that_was_dropped_and_made_again_leaves_a_declared_hole_and_a_new_backup() {
    case("slot_dropped", async |scratch| {
        lost_while_away(&scratch, 15, &[], true).await
    });
}

#[test]
fn a_slot_over_its_limit_leaves_a_declared_hole_and_a_new_backup_on_postgres_13() {
    case("slot_limit_13", async |scratch| {
        lost_while_away(&scratch, 13, &[("max_slot_wal_keep_size", "3MB")], false).await
    });
}

#[test]
fn a_slot_over_its_limit_leaves_a_declared_hole_and_a_new_backup_on_postgres_17() {
    case("slot_limit_17", async |scratch| {
        lost_while_away(&scratch, 17, &[("max_slot_wal_keep_size", "3MB")], false).await
    });
}

#[test]
fn a_slot_that_was_idle_for_too_long_leaves_a_declared_hole_and_a_new_backup() {
    case("slot_idle", async |scratch| {
        lost_while_away(&scratch, 18, &[("idle_replication_slot_timeout", "1s")], false).await
    });
}

#[test]
fn a_dropped_slot_whose_wal_is_still_there_is_no_loss() {
    case("slot_no_loss", async |scratch| {
        let cluster = cluster(&scratch, 15, &[("wal_keep_size", "64MB")]).await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        seawall.backup().await?;
        write(&cluster, "before").await?;
        seawall.wait_archived(&cluster).await?;
        let lineage = json_str(&seawall.status().await?, "lineage")?.to_owned();
        agent.stop(DEADLINE).await?;
        cluster
            .exec("select pg_drop_replication_slot('seawall'); select pg_drop_replication_slot('seawall_overlap')")
            .await?;
        write(&cluster, "during").await?;
        much_wal(&cluster).await?;
        let agent = seawall.run().await?;
        seawall.wait_archived(&cluster).await?;
        assert_eq!(json_str(&seawall.status().await?, "lineage")?, lineage);
        let list = seawall.list().await?;
        assert_eq!(json_array(&list, "holes")?.len(), 0, "{list}");
        assert_eq!(json_array(&list, "backups")?.len(), 1, "{list}");
        agent.stop(DEADLINE).await?;
        cluster.kill9()?;
        let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
        assert_eq!(parts(&restored).await?, "before during 2000");
        Ok(())
    });
}

/// The store is dead and `pg_wal` fills. PostgreSQL stays up; with `retained_drop` the slot goes, and the truth is told afterwards.
#[test]
fn a_full_pg_wal_is_let_go_only_where_the_operator_chose_it_and_then_truthfully() {
    case("retained_drop", async |scratch| {
        let weed = Weed::start(&scratch).await?;
        let cluster = cluster(&scratch, 15, &[]).await?;
        let first = Seawall::s3(&scratch, &cluster, &weed).await?;
        let config = first
            .config
            .clone()
            .set("repository.s3.request_timeout", "1s")?
            .set("cluster.main.wal.retained_warn", "2MiB")?
            .set("cluster.main.wal.retained_page", "4MiB")?
            .set("cluster.main.wal.retained_drop", "8MiB")?;
        let seawall = Seawall::configure(config)?;
        let agent = seawall.run().await?;
        seawall.backup().await?;
        write(&cluster, "before").await?;
        seawall.wait_archived(&cluster).await?;
        let old = json_str(&seawall.status().await?, "lineage")?.to_owned();

        weed.freeze()?;
        write(&cluster, "during").await?;
        let slots = "select count(*) from pg_replication_slots";
        let gone = async || {
            much_wal(&cluster).await.ok()?;
            (cluster.query_one(slots).await.ok()? == "0").then_some(())
        };
        wait_for("the slot to be dropped", DEADLINE, gone).await?;
        much_wal(&cluster).await?;
        write(&cluster, "later").await?;
        let log = agent.log();
        assert!(log.contains("much WAL for us"), "{log}");
        assert!(
            log.contains("the slot was dropped so that the server's disk does not fill"),
            "{log}"
        );

        weed.thaw()?;
        let backup = backup_follows(&seawall, 1).await?;
        assert_ne!(json_str(&backup, "lineage")?, old);
        let list = seawall.list().await?;
        let holes = json_array(&list, "holes")?;
        // More than one where the frozen store had taken an object in and its neighbour not.
        assert!(
            !holes.is_empty() && holes.iter().all(|hole| hole["lineage"] == old.as_str()),
            "{list}"
        );
        // In order, and no more lies between them than was on its way when the store froze: four objects.
        let mut between = 0;
        for pair in holes.windows(2) {
            let (end, start) = (json_lsn(&pair[0], "end")?, json_lsn(&pair[1], "start")?);
            assert!(end < start, "{list}");
            between += start - end;
        }
        assert!(between <= 4 * MIB, "{list}");
        // Not one byte of what is called archived is missing, and not one that is archived is called lost.
        let window = json_array(&list, "windows")?
            .iter()
            .find(|window| window["lineage"] == old.as_str())
            .unwrap();
        assert_eq!(json_lsn(window, "to_lsn")?, json_lsn(&holes[0], "start")?, "{list}");
        let last = &holes[holes.len() - 1];
        assert!(json_lsn(last, "end")? <= parse_lsn(&cluster.query_one("select pg_current_wal_lsn()").await?)?);
        seawall.wait_archived(&cluster).await?;
        agent.stop(DEADLINE).await?;
        cluster.kill9()?;
        let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
        assert_eq!(parts(&restored).await?, "before during later 3000");
        Ok(())
    });
}
