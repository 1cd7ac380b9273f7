//! The repository, and its copy.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::config_file::ConfigFile;
use tests::seawall::CLUSTER;
use tests::weed::Weed;
use tests::{Cluster, Scratch, Seawall, tree};

use super::stage::Stage;

/// Gone, planted into, rotten.
pub async fn is_away_or_spoilt(scratch: Scratch) -> Result<()> {
    let cluster = Cluster::builder(15).create(&scratch, "main").await?;
    let copy = scratch.dir("copy")?.join("repo");
    let config = Seawall::local_config(&scratch, &cluster)?;
    let url = format!("file://{}", copy.display());
    let config = config.set("copy.away.url", url)?;
    let seawall = Seawall::configure(config.clone())?;
    seawall.init().await?;
    seawall.agent.run_ok(&["copy", "away"]).await?;
    let stage = Stage::set(cluster, config, true, Ok).await?;
    let repository = stage.seawall.repository();
    let of_cluster = repository.join("clusters").join(CLUSTER);

    let began = Instant::now();
    fs::rename(&copy, copy.with_extension("moved"))?;
    // A byte of a pack; junk among the backups and the keys.
    let packs = tree::files(&of_cluster.join("packs"))?;
    let pack = packs
        .iter()
        .max_by_key(|path| fs::metadata(path).map_or(0, |meta| meta.len()))
        .unwrap();
    let whole = fs::read(pack)?;
    let mut rotten = whole.clone();
    let middle = rotten.len() / 2;
    rotten[middle] ^= 1;
    fs::write(pack, rotten)?;
    let planted = ["keys/99", "backups/01ARZ3NDEKTSV4RRFFQ69G5FAV"].map(|name| of_cluster.join(name));
    for path in &planted {
        tests::scratch::write_private(path, b"junk")?;
    }
    stage
        .cluster
        .exec("create table more as select generate_series(1, 1000) i")
        .await?;
    let verified = stage.seawall.agent.run(&["verify", "--all", "--json"]).await?;
    ensure!(verified.code() == 4, "{}", verified.stderr);
    stage.noticed(began, "copy_behind", "away").await?;
    stage.noticed(began, "trust_in_doubt", "keys/").await?;
    stage
        .noticed(began, "repository_damaged", "01ARZ3NDEKTSV4RRFFQ69G5FAV")
        .await?;
    let mended = Instant::now();
    fs::rename(copy.with_extension("moved"), &copy)?;
    for path in &planted {
        fs::remove_file(path)?;
    }
    stage.over(mended, "repository_damaged").await?;
    // Only now proofs can be looked at.
    stage.noticed(mended, "verify_damage", "damaged").await?;
    fs::write(pack, whole)?;
    let mended_too = Instant::now();
    stage.seawall.agent.run_ok(&["verify", "--all"]).await?;
    stage.over(mended_too, "verify_damage").await?;
    stage.over(mended, "copy_behind").await?;
    stage.over(mended, "trust_in_doubt").await?;

    let began = Instant::now();
    let moved = repository.with_extension("moved");
    fs::rename(&repository, &moved)?;
    stage.noticed(began, "repository_unreachable", "").await?;
    let mended = Instant::now();
    // What may have been made in its place holds nothing.
    if repository.exists() {
        ensure!(tree::files(&repository)?.is_empty(), "{:?}", tree::files(&repository)?);
        fs::remove_dir_all(&repository)?;
    }
    fs::rename(&moved, &repository)?;
    stage.over(mended, "repository_unreachable").await?;
    stage.end().await
}

/// A service that dies, and one that hangs; commits that no longer wait for it.
pub async fn waits_for_nobody(scratch: Scratch) -> Result<()> {
    let mut weed = Weed::start(&scratch).await?;
    let cluster = Cluster::builder(15).create(&scratch, "main").await?;
    let config = Seawall::s3_config(&scratch, &cluster, &weed).await?;
    let degrade = |config: ConfigFile| config.set("cluster.main.wal.on_store_outage", "degrade");
    let stage = Stage::set(cluster, config, true, degrade).await?;
    let cluster = &stage.cluster;
    for sql in [
        "alter system set synchronous_standby_names = 'seawall'",
        "select pg_reload_conf()",
    ] {
        cluster.exec(sql).await?;
    }
    tests::wait::delay(Duration::from_secs(10)).await;
    let began = Instant::now();
    weed.kill9()?;
    let client = cluster.connect().await?;
    let writing = tokio::spawn(async move {
        let _ = client.batch_execute("create table waits (i int)").await;
    });
    stage.noticed(began, "degraded", "no longer wait").await?;
    stage.noticed(began, "rpo_broken", "not archived").await?;
    stage.noticed(began, "repository_unreachable", "").await?;
    let mended = Instant::now();
    weed.restart().await?;
    writing.await?;
    for alarm in ["degraded", "rpo_broken", "repository_unreachable"] {
        stage.over(mended, alarm).await?;
    }
    stage.ready().await?;
    let before = stage.told.received().len();
    let began = Instant::now();
    weed.freeze()?;
    let is_it = |body: &serde_json::Value| body["event"] == "raised" && body["alarm"] == "repository_unreachable";
    let hangs = stage
        .told
        .wait_for("a service that hangs", super::stage::NOTICED_MAX, before, is_it)
        .await?;
    println!(
        "a service that hangs: noticed after {:.0?}: {}",
        began.elapsed(),
        hangs["text"]
    );
    weed.thaw()?;
    stage.ready().await?;
    stage.end().await
}
