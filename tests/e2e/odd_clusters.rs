//! Clusters as nobody should have them, and as somebody has: where their tablespaces are, what their files are called, who may read
//! them. All of it comes back, but for what a server makes anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "odd_clusters/build.rs"]
mod build;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use build::{Odd, ROWS, build, no_files};
use tests::seawall::json_u64;
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall, StopMode, Tmpfs, case, tree};

/// Below directories that a server fills anew.
const EMPTIED: [&str; 7] = [
    "pg_wal",
    "pg_replslot",
    "pg_notify",
    "pg_subtrans",
    "pg_stat_tmp",
    "pg_dynshmem",
    "base/pgsql_tmp",
];
/// Of the running server, or neither files nor directories.
const LEFT_OUT: [&str; 5] = ["postmaster.pid", "postmaster.opts", "a pipe", "socket", "a link"];
/// What a restore adds.
const ADDED: [&str; 4] = ["backup_label", "backup_manifest", "recovery.signal", "seawall.restore"];

#[test]
fn an_odd_cluster_with_mode_0700_comes_back_as_it_was() {
    case("odd_0700", async |scratch| Box::pin(comes_back(&scratch, 0o700)).await);
}

#[test]
fn an_odd_cluster_with_mode_0750_comes_back_as_it_was() {
    case("odd_0750", async |scratch| Box::pin(comes_back(&scratch, 0o750)).await);
}

async fn comes_back(scratch: &Scratch, mode: u32) -> Result<()> {
    let odd = build(scratch, mode).await?;
    let cluster = &odd.cluster;
    no_files(cluster.data_directory()).await?;
    let seawall = Seawall::local(scratch, cluster).await?;
    let agent = seawall.run().await?;
    let temporary = build::paths(&odd.session, "relpersistence = 't'").await?;
    assert!(temporary.len() > odd.outside.len() && odd.unlogged.len() > odd.outside.len());
    seawall.backup().await?;
    agent.stop(DEADLINE).await?;

    let (data, places, said) = restore(&seawall, scratch, &odd).await?;
    // What is left out for good is said.
    assert!(
        said.contains("a link") && said.contains("/nonexistent/some.conf"),
        "{said}"
    );
    compare(&odd, &temporary, &data, &places)?;
    drop(odd.session);

    let restored = Cluster::adopt(scratch, "restored", &data)?;
    restored.start().await?;
    restored.wait_promoted(DEADLINE).await?;
    let shown = restored.query_one("show data_directory_mode").await?;
    assert_eq!(shown, format!("{mode:04o}"));
    assert_eq!(
        restored.query_one("select count(*) from pg_replication_slots").await?,
        "0"
    );
    let client = restored.connect().await?;
    let mut tables = 0;
    for row in client
        .query(
            "select relname from pg_class where relkind = 'r' and relname like '%kept%'",
            &[],
        )
        .await?
    {
        let kept: String = row.get(0);
        let unlogged = kept.replace("kept", "unlogged");
        let count = |table: &str| format!("select count(*)::int from {table}");
        let kept: i32 = client.query_one(&count(&kept), &[]).await?.get(0);
        assert_eq!(kept as u32, ROWS);
        let empty: i32 = client.query_one(&count(&unlogged), &[]).await?.get(0);
        assert_eq!(empty, 0, "{unlogged}");
        client
            .batch_execute(&format!("insert into {unlogged} values (1, 'again')"))
            .await?;
        tables += 1;
    }
    assert_eq!(tables, odd.outside.len() + 2);
    drop(client);
    restored.amcheck().await?;
    restored.stop(StopMode::Fast).await?;
    nobody_else_reads(&data)?;
    // PostgreSQL's program takes every file there for a relation.
    for path in build::BESIDE_RELATIONS {
        fs::remove_file(data.join(path))?;
    }
    restored.checksums_clean().await
}

/// With every tablespace at another place; returns what was printed too.
async fn restore(seawall: &Seawall, scratch: &Scratch, odd: &Odd) -> Result<(PathBuf, BTreeMap<u32, PathBuf>, String)> {
    let data = scratch.dir("restored")?.join("data");
    let mut places = BTreeMap::new();
    let mut args = vec![
        "--target".to_owned(),
        "immediate".into(),
        "--pgdata".into(),
        data.display().to_string(),
    ];
    for oid in odd.outside.keys() {
        let place = scratch.join(format!("restored/ts/{oid} it's \"here\""));
        args.extend(["--tablespace-map".into(), format!("{oid}={}", place.display())]);
        places.insert(*oid, place);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let output = seawall.restore.run_ok(&args).await?;
    Ok((data, places, output.stdout + &output.stderr))
}

/// Paths, kinds, modes and every byte.
fn compare(odd: &Odd, temporary: &[String], data: &Path, places: &BTreeMap<u32, PathBuf>) -> Result<()> {
    let original = odd.cluster.data_directory();
    let mut unexpected = Vec::new();
    let is_fine = |line: &str| is_expected(line, odd, temporary);
    unexpected.extend(
        tree::differences(original, data, &[])?
            .into_iter()
            .filter(|line| !is_fine(line)),
    );
    for (oid, location) in &odd.outside {
        let prefix = |line: String| line.replace(": ", &format!(": pg_tblspc/{oid}/"));
        let version = |root: &Path| -> Result<PathBuf> {
            let mut entries = fs::read_dir(root)?.filter_map(Result::ok);
            let version = entries.find(|entry| entry.file_name().as_encoded_bytes().starts_with(b"PG_15_"));
            Ok(version
                .with_context(|| format!("nothing in {}", root.display()))?
                .path())
        };
        let (left, right) = (version(location)?, version(&places[oid])?);
        let name = left.file_name().context("no name")?.to_string_lossy().into_owned();
        let lines = tree::differences(&left, &right, &[])?.into_iter();
        let lines = lines.map(|line| prefix(line).replace(&format!("{oid}/"), &format!("{oid}/{name}/")));
        unexpected.extend(lines.filter(|line| !is_fine(line)));
        let link = fs::read_link(data.join(format!("pg_tblspc/{oid}")))?;
        assert_eq!(&link, &places[oid]);
    }
    ensure!(unexpected.is_empty(), "the restore differs:\n{}", unexpected.join("\n"));
    for path in &odd.unlogged {
        assert!(original.join(path).exists() && !data.join(path).exists(), "{path}");
        assert!(data.join(format!("{path}_init")).exists(), "{path}");
    }
    for path in temporary {
        assert!(original.join(path).exists() && !data.join(path).exists(), "{path}");
    }
    Ok(())
}

/// A difference that there must be.
fn is_expected(line: &str, odd: &Odd, temporary: &[String]) -> bool {
    if let Some(path) = line.strip_prefix("only left: ") {
        let name = path.rsplit('/').next().unwrap_or_default();
        let main = path.trim_end_matches("_fsm").trim_end_matches("_vm");
        return EMPTIED
            .iter()
            .any(|directory| path.starts_with(&format!("{directory}/")))
            || path == "base/pgsql_tmp"
            || LEFT_OUT.contains(&path)
            || name == "pg_internal.init"
            || odd.unlogged.iter().chain(temporary).any(|relation| relation == main);
    }
    if let Some(path) = line.strip_prefix("only right: ") {
        return ADDED.iter().any(|added| Path::new(path).starts_with(added)) || path == "pg_wal/archive_status";
    }
    // The link is a directory now; tablespaces are elsewhere; recovery has its settings.
    let (path, what) = line.split_once(": ").unwrap_or_default();
    let is_moved = path.starts_with("pg_tblspc/") && what.matches("Link").count() == 2;
    path == "pg_wal" || path == "postgresql.auto.conf" || is_moved
}

fn nobody_else_reads(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_symlink() {
            continue;
        }
        ensure!(
            metadata.mode() & 0o007 == 0,
            "{}: {:o}",
            path.display(),
            metadata.mode()
        );
        if metadata.is_dir() {
            nobody_else_reads(&path)?;
        }
    }
    Ok(())
}

#[test]
fn a_restore_of_odd_names_that_was_interrupted_is_done_again() {
    case("odd_interrupted", async |scratch| {
        let odd = build(&scratch, 0o700).await?;
        let seawall = Seawall::local(&scratch, &odd.cluster).await?;
        let agent = seawall.run().await?;
        seawall.backup().await?;
        agent.stop(DEADLINE).await?;

        let disk = Tmpfs::mount_for_files(&scratch, "disk", 300)?;
        let data = disk.path().join("data").display().to_string();
        let mut args = vec!["--target", "immediate", "--pgdata", &data];
        let maps: Vec<String> = odd
            .outside
            .keys()
            .map(|oid| format!("{oid}={}/{oid}", disk.path().display()))
            .collect();
        for map in &maps {
            args.extend(["--tablespace-map", map]);
        }
        let output = seawall.restore.run(&args).await?;
        output.assert_refused(1, &["No space left on device"])?;
        disk.make_room()?;
        seawall.restore.run_ok(&args).await?;
        for name in ["x".repeat(200), "y".repeat(255), "read only".into()] {
            assert!(Path::new(&data).join(name).exists());
        }
        let restored = Cluster::adopt(&scratch, "restored", Path::new(&data))?;
        restored.start().await?;
        restored.wait_promoted(DEADLINE).await?;
        assert_eq!(restored.query_one("select count(*) from kept").await?, ROWS.to_string());
        Ok(())
    });
}

/// MiB of a file of holes; `SEAWALL_HOLES=9216` is past every number of 32 bits, and takes a minute.
const HOLES: u64 = 256;

fn holes_bytes() -> Result<u64> {
    match std::env::var("SEAWALL_HOLES") {
        Ok(text) => Ok(text.parse::<u64>().with_context(|| format!("SEAWALL_HOLES={text}"))? << 20),
        Err(_) => Ok(HOLES << 20),
    }
}

#[test]
fn a_file_of_holes_takes_no_room_in_the_repository_and_comes_back_whole() {
    case("odd_holes", async |scratch| {
        let cluster = Cluster::builder(15)
            .setting("fsync", "off")
            .create(&scratch, "main")
            .await?;
        let size = holes_bytes()?;
        let places = [0, size / 2 + 1, size - 5];
        let file = File::options()
            .write(true)
            .open(scratch.write("main/data/holes", b"")?)?;
        file.set_len(size)?;
        for at in places {
            file.write_all_at(b"data!", at)?;
        }
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        let report = seawall.backup().await?;
        assert!(json_u64(&report, "logical_bytes")? > size, "{report}");
        assert!(json_u64(&report, "new_stored_bytes")? < 16 << 20, "{report}");
        agent.stop(DEADLINE).await?;

        let data = seawall.restore_files("restored", &["--target", "immediate"]).await?;
        let restored = File::open(data.join("holes"))?;
        assert_eq!(restored.metadata()?.len(), size);
        let (mut block, mut found) = (vec![0; 1 << 20], Vec::new());
        for number in 0..size >> 20 {
            restored.read_exact_at(&mut block, number << 20)?;
            for (at, byte) in block.iter().enumerate().filter(|(_, byte)| **byte != 0) {
                found.push(((number << 20) + at as u64, *byte));
            }
        }
        let bytes = |at: u64| (at..).zip(*b"data!");
        let expected: Vec<(u64, u8)> = places.into_iter().flat_map(bytes).collect();
        assert_eq!(found, expected);
        Ok(())
    });
}
