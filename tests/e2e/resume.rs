//! A backup that is killed is never listed, and the next one goes on from it by what its pages are, not by what their dates say.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::{Context, Result};
use tests::seawall::{json_array, json_str, json_u64};
use tests::wait::{DEADLINE, wait_for};
use tests::{Cluster, Scratch, Seawall, case, pgbench, tree};

/// Random text does not compress: enough for several packs of 20 MiB.
const ROWS: u32 = 1_500_000;

async fn killed(scratch: &Scratch) -> Result<()> {
    let cluster = Cluster::builder(15)
        .segment_size_mib(1)
        .setting("autovacuum", "off")
        .setting("max_wal_size", "1GB")
        .create(scratch, "main")
        .await?;
    // Many tables, so that some are finished when the backup dies.
    for table in 0..30 {
        let sql = format!(
            "create table t{table} as select i, md5((i * {table} + i)::text) || md5(random()::text) as filler \
             from generate_series(1, {}) i",
            ROWS / 30
        );
        cluster.exec(&sql).await?;
    }
    cluster.exec("vacuum (freeze)").await?;
    cluster.exec("checkpoint").await?;
    let config = Seawall::local_config(scratch, &cluster)?
        .set("cluster.main.backup.progress_interval", "1s")?
        .set("cluster.main.backup.brake", "off")?
        .set("cluster.main.backup.nice", 0)?
        .set("cluster.main.backup.jobs", 1)?;
    let slow = config.clone().set("cluster.main.backup.rate_max", "40MiB")?;
    let seawall = Seawall::configure(slow)?;
    seawall.init().await?;
    let daemon = seawall.agent.start_daemon()?;
    seawall.wait_archived(&cluster).await?;

    let backup = seawall.agent.start(&["backup", "--json"])?;
    let notes = async || {
        let intents = seawall.repository().join("clusters/main/intents");
        let names = tree::files(&intents).ok()?;
        let notes = names.iter().filter(|name| !name.ends_with("start")).count();
        (notes >= 2).then_some(())
    };
    wait_for("the backup to note how far it is", DEADLINE * 2, notes).await?;
    let running = seawall.status().await?["running_backup"].clone();
    assert!(json_u64(&running, "bytes_read")? > 0, "{running}");
    assert!(json_u64(&running, "bytes_total")? > 80_000_000, "{running}");
    backup.kill9()?;
    assert!(json_array(&seawall.list().await?, "backups")?.is_empty());

    // Meanwhile pages change, in files that were copied and in others.
    cluster.exec("update t3 set filler = 'x' where i % 1000 = 0").await?;
    cluster
        .exec("drop table t5; create table t31 as select * from t6; truncate t7")
        .await?;
    cluster.exec("checkpoint").await?;
    let seawall = Seawall::configure(config)?;
    let second = seawall.backup().await?;
    let (new, all) = (json_u64(&second, "new_pages")?, json_u64(&second, "pages")?);
    println!("{new} of {all} pages were stored by the backup that went on");
    assert!(new < all * 9 / 10, "it began anew: {second}");
    let digests = digests(&cluster).await?;
    seawall.wait_archived(&cluster).await?;
    daemon.stop(DEADLINE).await?;
    cluster.kill9()?;
    let restored = seawall
        .restore_to("restored", &["--target-lsn", json_str(&second, "end_lsn")?])
        .await?;
    assert_eq!(self::digests(&restored).await?, digests);
    restored.amcheck().await
}

async fn digests(cluster: &Cluster) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for table in [1, 3, 6, 7, 29, 31] {
        let sql = format!("select md5(coalesce(string_agg(filler, ',' order by i, filler), '')) from t{table}");
        out.push(cluster.query_one(&sql).await.with_context(|| format!("t{table}"))?);
    }
    Ok(out)
}

#[test]
fn a_backup_that_is_killed_is_gone_on_from() {
    case("resume_killed", async |scratch| killed(&scratch).await);
}

#[test]
fn a_rate_is_kept() {
    case("rate_max", async |scratch| {
        let cluster = Cluster::builder(15)
            .setting("autovacuum", "off")
            .create(&scratch, "main")
            .await?;
        pgbench::create_mix_table(&cluster, 30_000).await?;
        let config = Seawall::local_config(&scratch, &cluster)?
            .set("cluster.main.backup.rate_max", "10MiB")?
            .set("cluster.main.backup.brake", "gentle")?;
        let seawall = Seawall::configure(config)?;
        seawall.init().await?;
        let agent = seawall.run().await?;
        let backup = seawall.backup().await?;
        let least_ms = json_u64(&backup, "logical_bytes")? * 1000 / (10 << 20) / 2;
        assert!(json_u64(&backup, "elapsed_ms")? > least_ms, "{backup}");
        agent.stop(DEADLINE).await
    });
}
