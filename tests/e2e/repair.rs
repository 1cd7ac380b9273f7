//! `wal-agent repair`: what is damaged or gone comes back from a copy, from the live cluster, from footers; nothing is deleted or changed; both
//! verifying and restoring are content with it, and prune takes spares away with what they stand in for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::case::case;
use tests::seawall::{CLUSTER, json_array, json_str, json_u64};
use tests::wait::DEADLINE;
use tests::{Cluster, ConfigFile, Scratch, Seawall, tree};

/// Exit code: something is damaged.
const DAMAGED: i32 = 4;
/// More than the grace of 48 hours.
const THREE_DAYS: Duration = Duration::from_secs(3 * 86_400);

struct Stage {
    cluster: Cluster,
    seawall: Seawall,
    /// The configuration without the copy.
    alone: ConfigFile,
    /// End of the first backup.
    first_end: String,
}

/// Two backups with WAL between and behind them, the server running.
async fn stage(scratch: &Scratch, copy: Option<&Path>) -> Result<Stage> {
    let cluster = Cluster::builder(15).segment_size_mib(1).create(scratch, "main").await?;
    let mut config = Seawall::local_config(scratch, &cluster)?.set("cluster.main.retention.keep_last", 1)?;
    let alone = config.clone();
    if let Some(copy) = copy {
        config = config.set("copy.away.url", format!("file://{}", copy.display()))?;
    }
    let seawall = Seawall::configure(config)?;
    seawall.init().await?;
    if copy.is_some() {
        seawall.agent.run_ok(&["copy", "away"]).await?;
    }
    let agent = seawall.run().await?;
    cluster
        .exec("create table t as select i, md5(i::text) from generate_series(1, 60000) i")
        .await?;
    let first = seawall.backup().await?;
    for _ in 0..3 {
        cluster
            .exec("insert into t select i, md5(i::text) from generate_series(1, 10000) i; select pg_switch_wal()")
            .await?;
    }
    seawall.backup().await?;
    cluster.exec("insert into t values (0, '')").await?;
    seawall.wait_archived(&cluster).await?;
    agent.stop(DEADLINE).await?;
    Ok(Stage {
        cluster,
        seawall,
        alone,
        first_end: json_str(&first, "end_lsn")?.to_owned(),
    })
}

impl Stage {
    fn objects(&self, directory: &str) -> Result<Vec<PathBuf>> {
        let directory = self.seawall.repository().join("clusters").join(CLUSTER).join(directory);
        // A folder that holds nothing any more is gone.
        if !directory.exists() {
            return Ok(Vec::new());
        }
        let mut files = tree::files(&directory)?;
        files.sort();
        Ok(files)
    }

    fn largest_pack(&self) -> Result<PathBuf> {
        let packs = self.objects("packs")?;
        let largest = packs
            .into_iter()
            .max_by_key(|path| fs::metadata(path).map_or(0, |meta| meta.len()));
        Ok(largest.unwrap())
    }

    async fn repair(&self, arguments: &[&str]) -> Result<(i32, Value)> {
        let all: Vec<&str> = ["repair", "--json"]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        let output = self.seawall.agent.run(&all).await?;
        Ok((output.code(), output.json()?))
    }

    async fn verify(&self) -> Result<(i32, Value)> {
        let output = self.seawall.agent.run(&["verify", "--all", "--json"]).await?;
        Ok((output.code(), output.json()?))
    }

    async fn is_sound(&self) -> Result<Value> {
        let (code, report) = self.verify().await?;
        ensure!(code == 0, "{report}");
        Ok(report)
    }

    async fn rows(&self, name: &str, target: &[&str]) -> Result<String> {
        let restored = self.seawall.restore_to(name, target).await?;
        restored.query_one("select count(*) || ' ' || sum(i) from t").await
    }
}

fn flip(path: &Path) -> Result<()> {
    let mut bytes = fs::read(path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(path, bytes)?;
    Ok(())
}

fn cut(path: &Path) -> Result<()> {
    let bytes = fs::read(path)?;
    fs::write(path, &bytes[..bytes.len() / 2])?;
    Ok(())
}

fn contents(path: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = tree::files(path)?;
    files.sort();
    files
        .into_iter()
        .map(|path| Ok((path.clone(), fs::read(&path)?)))
        .collect()
}

#[test]
fn what_a_copy_has_comes_back_and_goes_again_with_what_it_stands_in_for() {
    case("repair", async |scratch| {
        let copy = scratch.dir("copy")?.join("repo");
        let stage = stage(&scratch, Some(&copy)).await?;
        let first = ["--target-lsn", &stage.first_end];
        let (then, now) = (
            stage.rows("then", &first).await?,
            stage.rows("now", &["--target", "latest"]).await?,
        );

        let wal = stage.objects("wal")?;
        let of_wal: Vec<&PathBuf> = wal
            .iter()
            .filter(|path| !path.to_string_lossy().contains("history"))
            .collect();
        flip(of_wal[of_wal.len() / 3])?;
        fs::remove_file(of_wal[of_wal.len() / 2])?;
        let packs = stage.objects("packs")?;
        for (at, pack) in (0..).zip(&packs) {
            match at % 3 {
                0 => flip(pack)?,
                1 => cut(pack)?,
                _ => fs::remove_file(pack)?,
            }
        }
        for manifest in stage.objects("backups")? {
            flip(&manifest)?;
        }
        let broken = 2 + packs.len() + 2;
        let refused = stage.seawall.restore.run(&["list"]).await?;
        ensure!(
            refused.stderr.contains("damaged") || refused.code() != 0,
            "{}",
            refused.stderr
        );

        // Asking changes nothing.
        let before = contents(&stage.seawall.repository())?;
        let (code, asked) = stage.repair(&["--dry-run"]).await?;
        ensure!(code == 0 && json_u64(&asked, "left")? == 0, "{asked}");
        ensure!(contents(&stage.seawall.repository())? == before);
        let (code, report) = stage.repair(&[]).await?;
        ensure!(code == 0 && json_u64(&report, "left")? == 0, "{report}");
        // Among them packs that nobody named as long as no manifest could be read.
        let repaired = json_array(&report, "objects")?.len();
        ensure!(repaired == broken, "{repaired} of {broken}: {report}");
        // What was damaged is as it was.
        let after = contents(&stage.seawall.repository())?;
        ensure!(before.iter().all(|object| after.contains(object)));
        let (_, again) = stage.repair(&[]).await?;
        ensure!(json_array(&again, "objects")?.is_empty(), "{again}");

        let verified = stage.is_sound().await?;
        ensure!(json_array(&verified, "reachable")?.len() == 1, "{verified}");
        ensure!(stage.rows("then-repaired", &first).await? == then);
        ensure!(stage.rows("now-repaired", &["--target", "latest"]).await? == now);

        // What follows from other damage is not excused by the spare of a manifest.
        let wal = stage.objects("wal")?;
        let needed = &wal[wal.len() / 2];
        let bytes = fs::read(needed)?;
        fs::remove_file(needed)?;
        let (code, report) = stage.verify().await?;
        ensure!(code == DAMAGED, "{report}");
        fs::write(needed, bytes)?;
        stage.is_sound().await?;

        // Life goes on, and in the end the spares are gone with what they stood in for.
        let agent = stage.seawall.run().await?;
        stage.cluster.exec("truncate t; insert into t values (1, '')").await?;
        stage.seawall.backup().await?;
        stage.seawall.wait_archived(&stage.cluster).await?;
        agent.stop(DEADLINE).await?;
        let spares = stage.objects("spares")?.len();
        // The copy keeps what is given up here, and nothing of that comes back.
        let alone = Seawall::configure_as(stage.alone.clone(), "alone")?;
        for _ in 0..4 {
            alone.agent.run_ok(&["prune"]).await?;
            stage.seawall.age_repository(THREE_DAYS)?;
            let (code, report) = stage.repair(&["--structure"]).await?;
            ensure!(code == 0 && json_array(&report, "objects")?.is_empty(), "{report}");
        }
        alone.agent.run_ok(&["prune"]).await?;
        stage.is_sound().await?;
        let left = stage.objects("spares")?;
        ensure!(left.len() < spares, "{left:?}");
        for spare in left {
            let original = spare.parent().unwrap().display().to_string().replace("/spares/", "/");
            ensure!(Path::new(&original).exists(), "{original}");
        }
        ensure!(stage.rows("end", &["--target", "latest"]).await? == "1 1");
        Ok(())
    });
}

#[test]
fn what_the_live_cluster_still_has_is_made_anew() {
    case("repair_live", async |scratch| {
        let stage = stage(&scratch, None).await?;
        let first = ["--target-lsn", &stage.first_end];
        let (then, now) = (
            stage.rows("then", &first).await?,
            stage.rows("now", &["--target", "latest"]).await?,
        );
        // A bit in the pack that has most of the data: what stands beside it in the pack is read as before.
        let pack = stage.largest_pack()?;
        let whole = fs::read(&pack)?;
        flip(&pack)?;
        for index in stage.objects("index")? {
            flip(&index)?;
        }
        let (code, report) = stage.repair(&[]).await?;
        let objects = json_array(&report, "objects")?;
        ensure!(code == 0 && objects.len() >= 2, "{report}");
        ensure!(
            objects
                .iter()
                .any(|object| object["from"].as_str().unwrap().contains("footers")),
            "{report}"
        );
        let of_pack = objects.iter().find(|object| object["chunks"].is_u64()).unwrap();
        ensure!(of_pack["from"] == "the live cluster", "{report}");
        stage.is_sound().await?;
        ensure!(stage.rows("then-repaired", &first).await? == then);
        ensure!(stage.rows("now-repaired", &["--target", "latest"]).await? == now);

        // Cut short, and the cluster has changed since: it says so, and no restore begins that could not end.
        for spare in stage.objects("spares")? {
            fs::remove_file(spare)?;
        }
        fs::write(&pack, whole)?;
        cut(&pack)?;
        stage
            .cluster
            .exec("update t set i = i where i % 50 = 0; checkpoint")
            .await?;
        let output = stage.seawall.agent.run(&["repair"]).await?;
        output.assert_refused(DAMAGED, &["cannot be made up for", "Take a new backup"])?;
        ensure!(output.stdout.contains("from the live cluster, "), "{}", output.stdout);
        let (code, report) = stage.verify().await?;
        ensure!(code == DAMAGED, "{report}");
        // The next backup stores what is missing.
        let agent = stage.seawall.run().await?;
        let backup = stage.seawall.backup().await?;
        ensure!(json_u64(&backup, "new_pages")? > 0, "{backup}");
        stage.seawall.wait_archived(&stage.cluster).await?;
        agent.stop(DEADLINE).await?;
        ensure!(stage.rows("end", &["--target", "latest"]).await? == now);
        Ok(())
    });
}
