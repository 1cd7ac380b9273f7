//! Damage that nobody touches: a backup names exactly the pages that are broken on the server's disk, and nothing else.
//!
//! One bit is flipped in each of a few cold pages while the server is down. The backup goes on, keeps the pages as they are, and so
//! does the next one, which finds them unchanged. PostgreSQL's own count of bad pages is the judge.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use tests::cluster::query_one;
use tests::program::Output;
use tests::seawall::{json_array, json_str};
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall, StopMode, case, user};

const PAGE_BYTES: u64 = 8192;

/// Wide rows and rows out of line, frozen: nobody sets a hint bit on these pages later.
const TABLES: &str = "
    create table cold as select i, repeat(md5(i::text), 4) as words from generate_series(1, 20000) i;
    create index cold_i on cold (i);
    create index cold_words on cold using hash (words);
    create table wide (i int, big text);
    alter table wide alter column big set storage external;
    insert into wide select i, repeat(md5(i::text), 200) from generate_series(1, 100) i;
    create table away tablespace slow as select generate_series(1, 20000) i;";

/// A bit of a page, counted from its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bit {
    Data,
    /// A line pointer.
    Item,
    /// The checksum itself.
    Checksum,
    /// `pd_lower`.
    Header,
    /// The high half of the page's LSN: it seems to be younger than the backup, and than all WAL.
    Lsn,
}

impl Bit {
    fn place(self) -> (u64, u8) {
        match self {
            Bit::Data => (5000, 0x10),
            Bit::Item => (25, 0x40),
            Bit::Checksum => (8, 0x01),
            Bit::Header => (12, 0x04),
            Bit::Lsn => (1, 0x01),
        }
    }
}

/// A page by the path of its file, and what is done to it.
type Page = (String, u32, Bit);

fn flip(data: &Path, (path, block, bit): &Page) -> Result<()> {
    let file = File::options().read(true).write(true).open(data.join(path))?;
    let (at, mask) = bit.place();
    let at = u64::from(*block) * PAGE_BYTES + at;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)
        .with_context(|| format!("{path} {block}"))?;
    byte[0] ^= mask;
    file.write_all_at(&byte, at)?;
    Ok(())
}

/// The file of a relation in a database.
async fn path_of(cluster: &Cluster, database: &str, relation: &str) -> Result<String> {
    let client = cluster.connect_to(database).await?;
    query_one(&client, &format!("select pg_relation_filepath('{relation}')")).await
}

async fn choose(cluster: &Cluster) -> Result<Vec<Page>> {
    let toast = "(select reltoastrelid::regclass from pg_class where oid = 'wide'::regclass)";
    let toast = cluster.query_one(&format!("select {toast}")).await?;
    // The table may have grown by more pages than it needs.
    let last = cluster
        .query_one("select max((ctid::text::point)[0])::int from cold")
        .await?;
    let behind = cluster.query_one("select pg_relation_size('cold') / 8192 + 1").await?;
    let mut pages = Vec::new();
    for (database, relation, block, bit) in [
        ("postgres", "cold", 0, Bit::Data),
        ("postgres", "cold", 7, Bit::Checksum),
        ("postgres", "cold", 8, Bit::Lsn),
        ("postgres", "cold", 130, Bit::Header),
        ("postgres", "cold", last.parse()?, Bit::Item),
        ("postgres", "cold", behind.parse()?, Bit::Data),
        ("postgres", "cold_i", 3, Bit::Data),
        ("postgres", "cold_words", 2, Bit::Item),
        ("postgres", &toast, 5, Bit::Data),
        ("postgres", "away", 1, Bit::Data),
        // Catalogs, of this database, of another one, and of all.
        ("postgres", "pg_description", 4, Bit::Data),
        ("template1", "pg_description", 6, Bit::Item),
        ("postgres", "pg_shdescription", 0, Bit::Data),
    ] {
        pages.push((path_of(cluster, database, relation).await?, block, bit));
    }
    Ok(pages)
}

/// Two pages that were never written, as a crash leaves them behind the end of a table. The first one stays as it is.
async fn extend(cluster: &Cluster, path: &str) -> Result<()> {
    cluster.stop(StopMode::Fast).await?;
    let file = File::options().write(true).open(cluster.data_directory().join(path))?;
    file.set_len(file.metadata()?.len() + 2 * PAGE_BYTES)?;
    cluster.start().await
}

/// While the server is down.
async fn flip_all(cluster: &Cluster, pages: &[Page]) -> Result<()> {
    cluster.stop(StopMode::Fast).await?;
    for page in pages {
        flip(cluster.data_directory(), page)?;
    }
    cluster.start().await
}

/// A backup of a damaged cluster, with what it has printed.
async fn backup(seawall: &Seawall) -> Result<(Value, Output)> {
    let output = seawall.agent.run_ok(&["backup", "--json"]).await?;
    Ok((output.json()?, output))
}

/// Path and block of what a report names: `block 7 of base/5/16400: checksum 1234, expected 5678`.
fn named(report: &Value) -> Result<BTreeSet<(String, u32)>> {
    let lines = json_array(report, "corrupt_pages")?;
    let mut pages = BTreeSet::new();
    for line in lines {
        let line = line.as_str().context("no text")?;
        let (block, rest) = line
            .strip_prefix("block ")
            .and_then(|rest| rest.split_once(" of "))
            .context("no block")?;
        let (path, _) = rest.split_once(": ").context("no reason")?;
        pages.insert((path.to_owned(), block.parse()?));
    }
    assert_eq!(pages.len(), lines.len(), "a page is named twice: {report}");
    Ok(pages)
}

async fn exactly_these_pages(scratch: &Scratch, major: u32) -> Result<()> {
    let cluster = Cluster::builder(major)
        .segment_size_mib(1)
        .setting("autovacuum", "off")
        .setting("fsync", "off")
        .tablespace("slow")
        .create(scratch, "main")
        .await?;
    cluster.exec(TABLES).await?;
    for statement in ["vacuum freeze", "checkpoint"] {
        cluster.exec(statement).await?;
    }
    let seawall = Seawall::local(scratch, &cluster).await?;
    let agent = seawall.run().await?;
    // What was whole before is in the parent of the damaged one.
    seawall.backup().await?;

    let pages = choose(&cluster).await?;
    let cold = path_of(&cluster, "postgres", "cold").await?;
    extend(&cluster, &cold).await?;
    // Free space maps are not protected by WAL, and repaired when they are wrong.
    let map = (cold + "_fsm", 2, Bit::Data);
    let expected: BTreeSet<(String, u32)> = pages.iter().map(|page| (page.0.clone(), page.1)).collect();
    assert_eq!(expected.len(), pages.len());
    let all: Vec<Page> = pages.iter().chain([&map]).cloned().collect();
    flip_all(&cluster, &all).await?;

    let (report, output) = backup(&seawall).await?;
    assert_eq!(named(&report)?, expected, "{report}");
    let errors = output.stderr.matches("a page of the database is corrupt").count();
    assert_eq!(errors, pages.len(), "{}", output.stderr);
    // They did not change since, and are named all the same.
    let (again, _) = backup(&seawall).await?;
    assert_eq!(again["parent"], report["backup"], "{again}");
    assert_eq!(named(&again)?, expected, "{again}");
    // A repaired disk is a clean backup.
    flip_all(&cluster, &all).await?;
    seawall.backup().await?;
    let list = seawall.list().await?;
    let counts: Vec<Option<u64>> = json_array(&list, "backups")?
        .iter()
        .map(|backup| backup["corrupt_pages"].as_u64())
        .collect();
    let n = Some(pages.len() as u64);
    assert!(
        counts == [Some(0), n, n, Some(0)] || counts == [Some(0), n, n, Some(0)].into_iter().rev().collect::<Vec<_>>(),
        "{list}"
    );
    agent.stop(DEADLINE).await?;

    // The damage comes back as it was. PostgreSQL counts the same pages, and the free space map's; it passes over the one that was
    // never written.
    let restored = restore(&seawall, scratch, "restored", json_str(&again, "backup")?).await?;
    restored.stop(StopMode::Fast).await?;
    assert_eq!(bad_checksums(&restored).await?, pages.len() - 1 + 1);
    flip_back_and_compare(&restored, &cluster, &pages)
}

/// With the tablespace beside the original's.
async fn restore(seawall: &Seawall, scratch: &Scratch, name: &str, backup: &str) -> Result<Cluster> {
    let old = scratch.join("main/ts/slow").display().to_string();
    let map = format!("{old}={}", scratch.dir(format!("{name}/slow"))?.display());
    let target = ["--backup", backup, "--target", "immediate", "--tablespace-map", &map];
    seawall.restore_to(name, &target).await
}

/// PostgreSQL's own count, over all forks.
async fn bad_checksums(cluster: &Cluster) -> Result<usize> {
    let mut command = cluster.tool("pg_checksums");
    command.arg("--check").arg("-D").arg(cluster.data_directory());
    let output = user::output(command, DEADLINE).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("Bad checksums:"));
    Ok(line.with_context(|| text.clone().into_owned())?.trim().parse()?)
}

/// One bit is all that differs from the page as it was.
fn flip_back_and_compare(restored: &Cluster, original: &Cluster, pages: &[Page]) -> Result<()> {
    for page in pages {
        flip(restored.data_directory(), page)?;
        let read = |cluster: &Cluster| -> Result<Vec<u8>> {
            let bytes = fs::read(cluster.data_directory().join(&page.0))?;
            let at = page.1 as usize * PAGE_BYTES as usize;
            Ok(bytes[at..at + PAGE_BYTES as usize].to_vec())
        };
        assert!(
            read(restored)? == read(original)?,
            "{page:?} differs in more than a bit"
        );
    }
    Ok(())
}

#[test]
fn flipped_bits_in_cold_pages_of_postgres_15_are_named_one_by_one() {
    case("cold_damage_15", async |scratch| {
        exactly_these_pages(&scratch, 15).await
    });
}

#[test]
fn flipped_bits_in_cold_pages_of_postgres_18_are_named_one_by_one() {
    case("cold_damage_18", async |scratch| {
        exactly_these_pages(&scratch, 18).await
    });
}
