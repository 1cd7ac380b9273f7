//! `wal-agent drill`: a rehearsal that measures, is kept, and leaves nothing; and that fails on everything that would spoil a restore.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::case::case;
use tests::seawall::{CLUSTER, json_array, json_str, json_u64};
use tests::wait::DEADLINE;
use tests::{Cluster, ConfigFile, Scratch, Seawall, tree};

const ROWS: &str = "SELECT count(*) = 5000 FROM t";

async fn stage(scratch: &Scratch, change: impl FnOnce(ConfigFile) -> Result<ConfigFile>) -> Result<(Cluster, Seawall)> {
    let cluster = Cluster::builder(15)
        .segment_size_mib(1)
        .tablespace("elsewhere")
        .create(scratch, "main")
        .await?;
    let config = Seawall::local_config(scratch, &cluster)?
        .set("cluster.main.drill.assertions", vec![ROWS.to_owned()])?
        .set(
            "cluster.main.drill.directory",
            scratch.dir("drills")?.display().to_string(),
        )?;
    let seawall = Seawall::configure(change(config)?)?;
    seawall.init().await?;
    let agent = seawall.run().await?;
    cluster
        .exec("create table t as select i, md5(i::text) from generate_series(1, 4000) i; create table far (i int) tablespace elsewhere")
        .await?;
    seawall.backup().await?;
    for from in [4001, 4501] {
        cluster
            .exec(&format!("insert into t select i, md5(i::text) from generate_series({from}, {from} + 499) i; select pg_switch_wal()"))
            .await?;
    }
    seawall.wait_archived(&cluster).await?;
    agent.stop(DEADLINE).await?;
    Ok((cluster, seawall))
}

async fn drill(seawall: &Seawall, arguments: &[&str]) -> Result<(i32, Value, String)> {
    let all: Vec<&str> = ["drill", "--json"]
        .into_iter()
        .chain(arguments.iter().copied())
        .collect();
    let output = seawall.agent.run(&all).await?;
    let report = serde_json::from_str(&output.stdout).unwrap_or(Value::Null);
    Ok((output.code(), report, output.stderr.clone()))
}

fn left(scratch: &Scratch) -> Result<Vec<PathBuf>> {
    tree::files(&scratch.join("drills"))
}

#[test]
fn a_drill_measures_and_is_kept_and_leaves_nothing() {
    case("drill", async |scratch| {
        let (cluster, seawall) = stage(&scratch, Ok).await?;
        let planned = seawall.agent.run_ok(&["drill", "--dry-run"]).await?;
        ensure!(planned.stdout.contains("Nothing was changed"), "{}", planned.stdout);
        let (code, report, said) = drill(&seawall, &[]).await?;
        ensure!(code == 0 && report["passed"] == true, "{report} {said}");
        ensure!(
            json_u64(&report, "rto_ms")? > 0 && json_u64(&report["phases_ms"], "prove")? > 0,
            "{report}"
        );
        ensure!(json_u64(&report, "proofs")? >= 3, "{report}");
        ensure!(left(&scratch)?.is_empty(), "{:?}", left(&scratch)?);
        // The server itself was not touched, nor its tablespace.
        ensure!(cluster.query_one("select count(*) from t").await? == "5000");
        cluster.exec("insert into far values (1)").await?;

        let status = seawall.status().await?;
        ensure!(
            status["last_proven"].is_string() && status["last_drill"]["passed"] == true,
            "{status}"
        );
        ensure!(
            status["rto_estimate_s"].as_f64().is_some_and(|seconds| seconds > 0.0),
            "{status}"
        );
        let listed = seawall.list().await?;
        let events = json_array(&listed, "events")?;
        let passed = events.iter().find(|event| event["event"] == "drill-passed").unwrap();
        ensure!(json_str(passed, "detail")?.contains("Time to restore"), "{passed}");

        // Any point that can be reached: the assertion holds at the end only.
        let other = seawall.config.clone().set(
            "cluster.main.drill.assertions",
            vec!["SELECT count(*) >= 4000 FROM t".to_owned()],
        )?;
        let other = Seawall::configure_as(other, "random")?;
        for _ in 0..3 {
            let (code, report, said) = drill(&other, &["--target", "random"]).await?;
            ensure!(code == 0, "{report} {said}");
        }
        // Kept, and then cleared away by the next one, with the server that runs in it.
        let (code, _, said) = drill(&seawall, &["--keep"]).await?;
        ensure!(code == 0, "{said}");
        ensure!(left(&scratch)?.iter().any(|path| path.ends_with("data/postmaster.pid")));
        let (code, _, said) = drill(&seawall, &[]).await?;
        ensure!(code == 0 && left(&scratch)?.is_empty(), "{said} {:?}", left(&scratch)?);

        // What is not ours stays; who cannot restore is told so.
        let foreign = scratch.dir("drills/drill-main")?.join("precious");
        tests::scratch::write_private(&foreign, b"1")?;
        let (code, _, said) = drill(&seawall, &[]).await?;
        ensure!(
            code == 3 && said.contains("no drill has made") && foreign.exists(),
            "{code} {said}"
        );
        fs::remove_file(&foreign)?;
        let config = seawall.config.clone().set("keys.restore_key", "/nowhere/restore.key")?;
        let keyless = Seawall::configure_as(config, "keyless")?;
        let (code, _, said) = drill(&keyless, &[]).await?;
        ensure!(code == 5 && said.contains("restore key"), "{code} {said}");
        Ok(())
    });
}

/// The objects of a kind, the largest last.
fn objects(seawall: &Seawall, kind: &str) -> Result<Vec<PathBuf>> {
    let mut files = tree::files(&seawall.repository().join("clusters").join(CLUSTER).join(kind))?;
    files.sort_by_key(|path| fs::metadata(path).map_or(0, |meta| meta.len()));
    Ok(files)
}

#[test]
fn a_drill_fails_on_everything_that_would_spoil_a_restore() {
    case("drill_fails", async |scratch| {
        let (_cluster, seawall) = stage(&scratch, Ok).await?;
        let fails = async |what: &str, words: &str| -> Result<()> {
            let (code, report, said) = drill(&seawall, &[]).await?;
            ensure!(code != 0 && report["passed"] == false, "{what}: {code} {report} {said}");
            ensure!(said.contains(words), "{what}: {said}");
            ensure!(left(&scratch)?.is_empty(), "{what}: {:?}", left(&scratch)?);
            println!("{what}: {}", report["error"]);
            Ok(())
        };
        // A chunk: the pack with the most in it.
        let pack = objects(&seawall, "packs")?.pop().unwrap();
        let whole = fs::read(&pack)?;
        fs::remove_file(&pack)?;
        fails("a missing pack", "pack").await?;
        let mut rotten = whole.clone();
        let middle = rotten.len() / 2;
        rotten[middle] ^= 1;
        tests::scratch::write_private(&pack, &rotten)?;
        fails("a rotten chunk", "damaged").await?;
        tests::scratch::write_private(&pack, &whole)?;
        // WAL in the middle.
        let listed = seawall.list().await?;
        let to = json_str(&json_array(&listed, "windows")?[0], "to_lsn")?.to_owned();
        let segment = tests::cluster::parse_lsn(&to)? / (1 << 20) - 1;
        let wal = seawall.wal_objects(&format!("{:08X}{:08X}{:08X}", 1, segment >> 12, segment & 0xfff))?;
        ensure!(!wal.is_empty());
        let kept: Vec<_> = wal
            .iter()
            .map(|path| Ok((path, fs::read(path)?)))
            .collect::<Result<_>>()?;
        for path in &wal {
            fs::remove_file(path)?;
        }
        fails("missing WAL", "WAL from").await?;
        for (path, bytes) in kept {
            fs::create_dir_all(path.parent().unwrap())?;
            tests::scratch::write_private(path, &bytes)?;
        }
        // What is true of the database is not true of what came back.
        let config = seawall.config.clone().set(
            "cluster.main.drill.assertions",
            vec!["SELECT count(*) = 1 FROM t".to_owned()],
        )?;
        let wrong = Seawall::configure_as(config, "wrong")?;
        let (code, report, said) = drill(&wrong, &[]).await?;
        ensure!(code != 0 && said.contains("it is not true"), "{code} {report} {said}");
        let status = seawall.status().await?;
        ensure!(status["last_drill"]["passed"] == false, "{status}");
        let (code, _, said) = drill(&seawall, &[]).await?;
        ensure!(code == 0, "{said}");
        Ok(())
    });
}

#[test]
fn a_drill_fails_on_a_lost_history_a_wrong_timeline_and_a_truncated_relation() {
    case("drill_timelines", async |scratch| {
        let (cluster, seawall) = stage(&scratch, |config| {
            config.set(
                "cluster.main.drill.assertions",
                vec!["SELECT count(*) = 5500 FROM t".to_owned()],
            )
        })
        .await?;
        let agent = seawall.run().await?;
        cluster.switch_timeline().await?;
        cluster.wait_promoted(DEADLINE).await?;
        cluster
            .exec("insert into t select i, md5(i::text) from generate_series(5001, 5500) i; select pg_switch_wal()")
            .await?;
        seawall.wait_archived(&cluster).await?;
        agent.stop(DEADLINE).await?;
        let (code, report, said) = drill(&seawall, &[]).await?;
        ensure!(code == 0, "{report} {said}");
        let fails = async |what: &str| -> Result<()> {
            let (code, report, said) = drill(&seawall, &[]).await?;
            ensure!(code != 0 && report["passed"] == false, "{what}: {code} {report} {said}");
            ensure!(left(&scratch)?.is_empty(), "{what}: {:?}", left(&scratch)?);
            println!("{what}: {}", report["error"]);
            Ok(())
        };

        let mut wal = objects(&seawall, "wal")?;
        wal.extend(objects(&seawall, "tail")?);
        let is_of_second = |path: &&PathBuf| path.iter().any(|part| part == "00000002");
        let second: Vec<&PathBuf> = wal.iter().filter(is_of_second).collect();
        let histories: Vec<&PathBuf> = second
            .iter()
            .copied()
            .filter(|path| path.to_string_lossy().contains("history"))
            .collect();
        ensure!(histories.len() == 1 && second.len() > 1, "{wal:?}");
        // Without its history nobody knows how the timeline is reached; with nothing left of it the restore ends on the one before.
        for (what, taken) in [("a lost history", &histories), ("a wrong timeline", &second)] {
            let mut kept = Vec::new();
            for path in taken {
                kept.push((path, fs::read(path)?));
                fs::remove_file(path)?;
            }
            fails(what).await?;
            for (path, bytes) in kept {
                fs::create_dir_all(path.parent().unwrap())?;
                tests::scratch::write_private(path, &bytes)?;
            }
        }

        // A disk that lost the end of a file, unnoticed until it was backed up.
        let relation = cluster.query_one("select pg_relation_filepath('t')").await?;
        cluster.stop(tests::StopMode::Fast).await?;
        let file = fs::OpenOptions::new()
            .write(true)
            .open(cluster.data_directory().join(relation))?;
        file.set_len(8192 * 10)?;
        cluster.start().await?;
        let agent = seawall.run().await?;
        seawall.backup().await?;
        seawall.wait_archived(&cluster).await?;
        agent.stop(DEADLINE).await?;
        fails("a truncated relation").await
    });
}
