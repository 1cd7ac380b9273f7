//! `wal-agent verify` beside a running agent: a healthy repository has no findings, each share goes on where the last one ended, and
//! what is damaged, missing or rolled back is named, with what can still be reached.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;
use tests::case::case;
use tests::seawall::{CLUSTER, json_array};
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall, tree};

/// Exit code: the repository is damaged.
const DAMAGED: i32 = 4;

async fn stage(scratch: &Scratch) -> Result<(Cluster, Seawall)> {
    let cluster = Cluster::builder(15).segment_size_mib(1).create(scratch, "main").await?;
    let seawall = Seawall::local(scratch, &cluster).await?;
    let agent = seawall.run().await?;
    cluster
        .exec("create table t as select i, md5(i::text) from generate_series(1, 20000) i")
        .await?;
    seawall.backup().await?;
    cluster.exec("update t set md5 = '' where i % 100 = 0").await?;
    seawall.backup().await?;
    cluster
        .exec("insert into t select i, '' from generate_series(1, 30000) i")
        .await?;
    seawall.wait_archived(&cluster).await?;
    agent.stop(DEADLINE).await?;
    Ok((cluster, seawall))
}

/// What it prints and how it ends, whether something is damaged or not.
async fn verify(seawall: &Seawall, arguments: &[&str]) -> Result<(i32, Value)> {
    let mut all = vec!["verify", "--json"];
    all.extend(arguments);
    let output = seawall.agent.run(&all).await?;
    Ok((output.code(), output.json()?))
}

fn reasons(report: &Value, severity: &str) -> Vec<String> {
    let findings = report["findings"].as_array().cloned().unwrap_or_default();
    let found = findings.iter().filter(|finding| finding["severity"] == severity);
    found
        .map(|finding| format!("{} {}", finding["object"], finding["reason"]))
        .collect()
}

fn is_said(report: &Value, words: &str) -> bool {
    reasons(report, "damage").iter().any(|reason| reason.contains(words))
}

fn objects(seawall: &Seawall, directory: &str) -> Result<Vec<PathBuf>> {
    let mut files = tree::files(&seawall.repository().join("clusters").join(CLUSTER).join(directory))?;
    files.sort();
    Ok(files)
}

/// Something is done to a file; afterwards it is as it was.
async fn with_damage(
    path: &Path,
    damage: impl FnOnce(&Path) -> Result<()>,
    look: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    let healthy = fs::read(path)?;
    damage(path)?;
    look().await?;
    fs::write(path, healthy)?;
    Ok(())
}

fn flip(path: &Path) -> Result<()> {
    let mut bytes = fs::read(path)?;
    let middle = bytes.len() * 2 / 3;
    bytes[middle] ^= 4;
    fs::write(path, bytes)?;
    Ok(())
}

#[test]
fn what_is_damaged_missing_or_rolled_back_is_named_and_nothing_else() {
    case("verify", async |scratch| {
        let (_cluster, seawall) = stage(&scratch).await?;
        let (code, healthy) = verify(&seawall, &["--all"]).await?;
        assert_eq!((code, reasons(&healthy, "damage")), (0, vec![]), "{healthy}");
        assert!(reasons(&healthy, "notice").is_empty(), "{healthy}");
        assert_eq!(healthy["read"]["objects"], healthy["read"]["content_compared"]);
        let reachable = json_array(&healthy, "reachable")?.clone();
        assert_eq!(reachable.len(), 1);
        assert!(reachable[0]["newest_commit"].is_string(), "{healthy}");

        // A byte of a pack: its backups are not counted upon any more, which structure alone cannot know.
        let packs = objects(&seawall, "packs")?;
        let largest = packs
            .iter()
            .max_by_key(|path| fs::metadata(path).map_or(0, |meta| meta.len()))
            .unwrap();
        with_damage(largest, flip, async || {
            let (code, _) = verify(&seawall, &[]).await?;
            assert_eq!(code, 0);
            let (code, report) = verify(&seawall, &["--all"]).await?;
            let damages = reasons(&report, "damage");
            assert_eq!((code, damages.len()), (DAMAGED, 1), "{report}");
            assert!(
                damages[0].contains(largest.file_name().unwrap().to_str().unwrap()),
                "{damages:?}"
            );
            assert!(json_array(&report, "reachable")?.is_empty(), "{report}");
            Ok(())
        })
        .await?;

        // A range of WAL is gone.
        let wal = objects(&seawall, "wal")?;
        let behind = &wal[wal.len() - 2];
        let gone = |path: &Path| fs::remove_file(path).map_err(Into::into);
        with_damage(behind, gone, async || {
            let (code, report) = verify(&seawall, &[]).await?;
            assert_eq!(code, DAMAGED, "{report}");
            assert!(is_said(&report, "nobody declared it lost"), "{report}");
            Ok(())
        })
        .await?;

        // The newest objects are gone: the agent of this host remembers how far it was.
        let mut newest = objects(&seawall, "tail")?;
        newest.retain(|path| path.file_name() > wal.last().unwrap().file_name());
        let kept: Vec<Vec<u8>> = newest.iter().map(|path| fs::read(path).unwrap()).collect();
        newest.iter().for_each(|path| fs::remove_file(path).unwrap());
        let (code, report) = verify(&seawall, &[]).await?;
        assert_eq!(code, DAMAGED, "{report}");
        assert!(is_said(&report, "it was archived up to"), "{report}");
        for (path, bytes) in newest.iter().zip(kept) {
            fs::write(path, bytes)?;
        }

        // What verify itself reads is damaged: it says so and goes on.
        for path in [&objects(&seawall, "lineages")?[0], &objects(&seawall, "backups")?[0]] {
            with_damage(path, flip, async || {
                let (code, report) = verify(&seawall, &[]).await?;
                let name = path.file_name().unwrap().to_str().unwrap();
                assert!(code == DAMAGED && is_said(&report, name), "{report}");
                Ok(())
            })
            .await?;
        }
        let head = |path: &Path| {
            let mut bytes = fs::read(path)?;
            bytes[150] ^= 1;
            Ok(fs::write(path, bytes)?)
        };
        with_damage(wal.last().unwrap(), head, async || {
            let (code, report) = verify(&seawall, &[]).await?;
            assert_eq!(code, DAMAGED, "{report}");
            let name = wal.last().unwrap().file_name().unwrap().to_str().unwrap();
            assert!(is_said(&report, name), "{report}");
            assert_eq!(verify(&seawall, &["--all"]).await?.0, DAMAGED);
            Ok(())
        })
        .await?;

        // A pack is gone: structure names the backups that need it.
        with_damage(largest, gone, async || {
            let (code, report) = verify(&seawall, &[]).await?;
            assert_eq!(code, DAMAGED, "{report}");
            assert!(
                reasons(&report, "damage")
                    .iter()
                    .any(|reason| reason.contains("needs it")),
                "{report}"
            );
            Ok(())
        })
        .await?;
        assert_eq!(verify(&seawall, &["--all"]).await?.0, 0);
        Ok(())
    });
}

#[test]
fn shares_go_on_where_the_last_one_ended_and_without_the_restore_key_signatures_are_compared() {
    case("verify_shares", async |scratch| {
        let (_cluster, seawall) = stage(&scratch).await?;
        let before = verify(&seawall, &[]).await?.1["objects"].as_u64().unwrap();
        let mut read = 0;
        for _ in 0..4 {
            let (code, report) = verify(&seawall, &["--share", "4"]).await?;
            assert_eq!(code, 0, "{report}");
            read += report["read"]["objects"].as_u64().unwrap();
        }
        // What each share wrote down is an object too.
        assert!((before..before + 4).contains(&read), "{read} of {before}");

        let keys = scratch.join("keys");
        fs::rename(keys.join("restore.key"), scratch.join("restore.key"))?;
        let (code, report) = verify(&seawall, &["--all"]).await?;
        assert_eq!((code, report["key"].as_str()), (0, Some("maintenance")), "{report}");
        let compared = report["read"]["content_compared"].as_u64().unwrap();
        assert!(
            compared > 0 && compared < report["read"]["objects"].as_u64().unwrap(),
            "{report}"
        );
        fs::rename(keys.join("maintenance.key"), scratch.join("maintenance.key"))?;
        let (code, report) = verify(&seawall, &["--all"]).await?;
        assert_eq!((code, report["key"].as_str()), (0, Some("host")), "{report}");
        let packs = objects(&seawall, "packs")?;
        for path in [
            &packs[0],
            &objects(&seawall, "wal")?[0],
            &objects(&seawall, "backups")?[0],
        ] {
            with_damage(path, flip, async || {
                let (code, report) = verify(&seawall, &["--all"]).await?;
                assert_eq!(code, DAMAGED, "{} {report}", path.display());
                Ok(())
            })
            .await?;
        }
        Ok(())
    });
}
