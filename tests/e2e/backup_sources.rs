//! A backup of the data directory and one over the replication protocol are the same backup, and PostgreSQL's own tool agrees.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tests::cluster::lsn_text;
use tests::seawall::{flushed_lsn, json_array, json_str, json_u64};
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall, StopMode, case, pgbench, tree};

const MAPS: &str = "OID";

/// Files of the databases and the shared catalogs, by path: what a backup is for.
fn relations(data: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut out = BTreeMap::new();
    for top in ["base", "global"] {
        for file in tree::files(&data.join(top))? {
            let path = file.strip_prefix(data)?.to_owned();
            let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
            // pg_control changes with each checkpoint, the relation cache is made by whoever connects.
            let is_own = ["pg_control", "pg_internal.init"].contains(&name.as_str());
            // The other forks are hints: two readers may see them differently.
            let is_main = !name.contains('_') || name.ends_with("_init");
            if !is_own && is_main {
                out.insert(path, std::fs::read(&file)?);
            }
        }
    }
    Ok(out)
}

async fn both(scratch: &Scratch, major: u32, compression: bool) -> Result<()> {
    let cluster = Cluster::builder(major)
        .segment_size_mib(1)
        .setting("autovacuum", "off")
        .tablespace("elsewhere")
        .create(scratch, "main")
        .await?;
    pgbench::create_mix_table(&cluster, 20_000).await?;
    for sql in [
        "create table apart (i int primary key, t text) tablespace elsewhere",
        "insert into apart select i, repeat(i::text, 20) from generate_series(1, 5000) i",
        "create unlogged table gone (i int)",
        "insert into gone values (1)",
        "create database other",
        "create table empty ()",
    ] {
        cluster.exec(sql).await?;
    }
    let config = Seawall::local_config(scratch, &cluster)?
        .set(
            "cluster.main.backup.stream_compression",
            if compression { "zstd" } else { "none" },
        )?
        .set(
            "cluster.main.backup.last_known_good",
            vec!["select count(*), 'rows' from apart", "select 1 / 0"],
        )?;
    let seawall = Seawall::configure(config)?;
    seawall.init().await?;
    let agent = seawall.agent.start_daemon()?;
    seawall.wait_archived(&cluster).await?;
    cluster.exec("vacuum (freeze)").await?;
    cluster.exec("checkpoint").await?;

    let local = seawall.backup().await?;
    cluster.exec("checkpoint").await?;
    let remote = seawall
        .agent
        .run_ok(&["backup", "--source", "replication", "--json"])
        .await?
        .json()?;
    assert_eq!(json_str(&remote, "parent")?, json_str(&local, "backup")?);
    assert!(json_array(&remote, "corrupt_pages")?.is_empty(), "{remote}");
    let (new, all) = (json_u64(&remote, "new_pages")?, json_u64(&remote, "pages")?);
    assert!(
        new * 20 < all,
        "{new} of {all} pages are new: it was not compared with the local one"
    );
    let known = &seawall.list().await?["backups"][1]["last_known_good"];
    assert_eq!(known[0]["rows"][0], "5000|rows", "{known}");
    assert!(
        known[1]["error"].as_str().is_some_and(|error| error.contains("zero")),
        "{known}"
    );

    let end = lsn_text(flushed_lsn(&cluster).await?);
    seawall.wait_archived(&cluster).await?;
    agent.stop(DEADLINE).await?;
    cluster.kill9()?;
    cluster.destroy_data_directory()?;

    let mut files = Vec::new();
    let mut dumps = Vec::new();
    for (name, backup) in [("local", &local), ("remote", &remote)] {
        let target = [
            "--backup",
            json_str(backup, "backup")?,
            "--target-lsn",
            &end,
            "--or-latest",
        ];
        let (map, elsewhere) = mapped(scratch, &cluster, name)?;
        let mut args = target.to_vec();
        args.extend(["--tablespace-map", map.as_str()]);
        let data = seawall.restore_files(name, &args).await?;
        cluster
            .verify_backup(&data)
            .await
            .with_context(|| format!("pg_verifybackup of {name}"))?;
        files.push((relations(&data)?, relations_below(&elsewhere)?));
        let restored = Cluster::adopt(scratch, name, &data)?;
        restored.start_within(DEADLINE * 4).await?;
        restored.wait_promoted(DEADLINE * 4).await?;
        dumps.push(
            restored
                .dump_all()
                .await?
                .replace(&elsewhere.display().to_string(), MAPS),
        );
        restored.stop(StopMode::Fast).await?;
        if major != 14 {
            // The next major's pg_checksums, which stands in for that of 14, looks for its own version in a tablespace.
            restored.checksums_clean().await?;
        }
    }
    for (path, bytes) in &files[0].0 {
        assert!(files[1].0.get(path) == Some(bytes), "{} differs", path.display());
    }
    assert_eq!(files[0].0.len(), files[1].0.len());
    assert!(
        files[0].1 == files[1].1 && !files[0].1.is_empty(),
        "the tablespace differs"
    );
    assert_eq!(dumps[0], dumps[1]);
    ensure!(dumps[0].contains("CREATE DATABASE other"), "{}", dumps[0]);
    Ok(())
}

/// `NAME=DIR` for the cluster's one tablespace, and the directory.
fn mapped(scratch: &Scratch, cluster: &Cluster, name: &str) -> Result<(String, PathBuf)> {
    let directory = scratch.dir(format!("{name}-elsewhere"))?.join("t");
    let (_, from) = cluster.tablespaces().first().context("a tablespace")?;
    Ok((format!("{}={}", from.display(), directory.display()), directory))
}

fn relations_below(directory: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let files = tree::files(directory)?;
    files
        .into_iter()
        .map(|file| Ok((file.strip_prefix(directory)?.to_owned(), std::fs::read(&file)?)))
        .collect()
}

#[test]
fn postgresql_13_gives_the_same_backup_both_ways() {
    case("sources_13", async |scratch| both(&scratch, 13, false).await);
}

#[test]
fn postgresql_14_gives_the_same_backup_both_ways() {
    case("sources_14", async |scratch| both(&scratch, 14, false).await);
}

#[test]
fn postgresql_15_gives_the_same_backup_both_ways_compressed_on_the_way() {
    case("sources_15", async |scratch| both(&scratch, 15, true).await);
}

#[test]
fn postgresql_16_gives_the_same_backup_both_ways() {
    case("sources_16", async |scratch| both(&scratch, 16, false).await);
}

#[test]
fn postgresql_17_gives_the_same_backup_both_ways() {
    case("sources_17", async |scratch| both(&scratch, 17, false).await);
}

#[test]
fn postgresql_18_gives_the_same_backup_both_ways_compressed_on_the_way() {
    case("sources_18", async |scratch| both(&scratch, 18, true).await);
}

#[test]
fn pg_verifybackup_finds_what_is_changed_after_the_restore() {
    case("verifybackup", async |scratch| {
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .create(&scratch, "main")
            .await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        seawall.backup().await?;
        agent.stop(DEADLINE).await?;
        let data = seawall.restore_files("restored", &["--target", "latest"]).await?;
        cluster.verify_backup(&data).await?;
        let victim = data.join("base/1/1259");
        let file = std::fs::OpenOptions::new().write(true).open(&victim)?;
        file.write_all_at(&[0xAA], 5000)?;
        let error = cluster.verify_backup(&data).await.unwrap_err();
        ensure!(format!("{error:#}").contains("base/1/1259"), "{error:#}");
        Ok(())
    });
}
