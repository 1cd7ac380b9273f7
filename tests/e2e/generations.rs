//! Generation upon generation of increments: after all of them were taken, and some given up and deleted, each of the others is still
//! restored byte for byte.
//!
//! A backup is compared with the files that it was taken of, page by page, in all forks, and nothing is masked. That is fair because
//! nothing writes after the checkpoint that the backup begins with: no vacuum by itself, no background writer, no checkpoint, a
//! buffer cache that holds everything. So the files are read for comparison right behind the backup; where the server has written a
//! page in between, the comparison fails.
//!
//! Half-way the data checksums are enabled, which changes every page and writes no WAL: what was read before is not what is there.
//! `SEAWALL_GENERATIONS=50` makes it longer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::seawall::{json_array, json_str, json_u64};
use tests::seed::Rng;
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall, StopMode, case, tree, user};

const ROUNDS: usize = 12;
const TABLES: u64 = 5;
const PAGE_BYTES: usize = 8192;
/// More than the grace of 48 hours.
const THREE_DAYS: Duration = Duration::from_secs(3 * 86_400);

/// A digest of every page of every relation file, by its path.
type Pages = BTreeMap<PathBuf, Vec<u64>>;

struct Generation {
    backup: String,
    pages: Pages,
}

#[test]
fn every_generation_is_restored_byte_for_byte_after_all_later_ones() {
    case("generations", async |scratch| Box::pin(generations(&scratch)).await);
}

async fn generations(scratch: &Scratch) -> Result<()> {
    let rounds = rounds()?;
    let cluster = quiet_cluster(scratch).await?;
    let config = Seawall::local_config(scratch, &cluster)?.set("cluster.main.retention.keep_last", 1)?;
    let seawall = Seawall::configure(config)?;
    seawall.init().await?;
    let agent = seawall.run().await?;
    let mut rng = Rng::named("generations");
    let mut kept: Vec<Generation> = Vec::new();
    for round in 0..rounds {
        if round == rounds / 2 {
            enable_checksums(&cluster).await?;
        }
        for _ in 0..rng.between(3, 8) {
            change(&cluster, &mut rng).await?;
        }
        cluster.exec("checkpoint").await?;
        let report = seawall.backup().await?;
        let (new, all) = (json_u64(&report, "new_pages")?, json_u64(&report, "pages")?);
        if let Some(before) = kept.last() {
            assert_eq!(json_str(&report, "parent")?, before.backup);
            // Catalogs alone are a thousand pages, and they stay.
            let is_whole = round == rounds / 2;
            ensure!(
                is_whole == (new > all * 9 / 10),
                "round {round}: {new} of {all} pages are new"
            );
        }
        kept.push(Generation {
            backup: json_str(&report, "backup")?.to_owned(),
            pages: pages_in(cluster.data_directory())?,
        });
    }
    agent.stop(DEADLINE).await?;
    cluster.stop(StopMode::Fast).await?;
    cluster.destroy_data_directory()?;

    give_up_some(&seawall, &mut kept, &mut rng).await?;
    // In any order: which one is read first must not matter.
    while !kept.is_empty() {
        let generation = kept.swap_remove(rng.below(kept.len() as u64) as usize);
        let backup = generation.backup.as_str();
        let target = ["--backup", backup, "--target", "immediate"];
        let data = seawall.restore_files(backup, &target).await?;
        compare(&generation.pages, &pages_in(&data)?).with_context(|| backup.to_owned())?;
        fs::remove_dir_all(scratch.join(backup))?;
    }
    Ok(())
}

/// Any of them, but the last: what only they needed is deleted.
async fn give_up_some(seawall: &Seawall, kept: &mut Vec<Generation>, rng: &mut Rng) -> Result<()> {
    let (all, last) = (kept.len(), kept.len() - 1);
    let stays: Vec<bool> = (0..all).map(|at| at == last || rng.below(2) == 0).collect();
    let mut stay = stays.iter();
    kept.retain(|_| *stay.next().unwrap());
    for generation in kept.iter() {
        let pin = ["pin", &generation.backup, "--reason", "a part"];
        seawall.agent.run_ok(&pin).await?;
    }
    let mut deleted = 0;
    for _ in 0..3 {
        let pruned = seawall.agent.run_ok(&["prune", "--json"]).await?.json()?;
        deleted += json_u64(&pruned["delete"], "packs")?;
        seawall.age_repository(THREE_DAYS)?;
    }
    let left = json_array(&seawall.list().await?, "backups")?.len();
    println!("{all} backups, {left} kept, {deleted} packs deleted");
    ensure!(left == kept.len() && left < all, "{left} of {all} backups are left");
    // Of a few generations it can be that each pack has a page that somebody kept needs.
    ensure!(deleted > 0 || all < 50, "nothing was deleted");
    Ok(())
}

fn rounds() -> Result<usize> {
    match std::env::var("SEAWALL_GENERATIONS") {
        Ok(text) => text.parse().with_context(|| format!("SEAWALL_GENERATIONS={text}")),
        Err(_) => Ok(ROUNDS),
    }
}

/// A server that writes its files when it is told to, and at no other time.
async fn quiet_cluster(scratch: &Scratch) -> Result<Cluster> {
    let cluster = Cluster::builder(15)
        .segment_size_mib(1)
        .checksums(false)
        .setting("fsync", "off")
        .setting("autovacuum", "off")
        .setting("bgwriter_lru_maxpages", "0")
        .setting("checkpoint_timeout", "1d")
        .setting("max_wal_size", "4GB")
        .setting("shared_buffers", "128MB")
        .create(scratch, "main")
        .await?;
    for table in 0..TABLES {
        create(&cluster, table).await?;
    }
    Ok(cluster)
}

async fn create(cluster: &Cluster, table: u64) -> Result<()> {
    let sql = format!(
        "create table g{table} (id int, words text, amount int default 0);
         insert into g{table} select i, repeat(md5(i::text), 3) from generate_series(1, 3000) i;
         create index g{table}_id on g{table} (id);
         create index g{table}_words on g{table} using gin (to_tsvector('simple', words));"
    );
    cluster.exec(&sql).await
}

/// One thing that happens to tables: pages in their middle change, files grow, shrink, come and go.
async fn change(cluster: &Cluster, rng: &mut Rng) -> Result<()> {
    let table = format!("g{}", rng.below(TABLES));
    let (at, some) = (rng.below(3000), rng.between(1, 400));
    match rng.below(10) {
        0 | 1 => {
            let sql = format!(
                "insert into {table} select i, repeat(md5(i::text), {}) from generate_series({at}, {at} + {some}) i",
                1 + some % 9
            );
            cluster.exec(&sql).await
        }
        2 | 3 => {
            cluster
                .exec(&format!(
                    "update {table} set amount = amount + 1 where id % {} = 3",
                    5 + some
                ))
                .await
        }
        4 | 5 => {
            cluster
                .exec(&format!("delete from {table} where id between {at} and {at} + {some}"))
                .await
        }
        6 => {
            // The end is cut off the file.
            cluster.exec(&format!("delete from {table} where id > {at}")).await?;
            cluster.exec(&format!("vacuum {table}")).await
        }
        7 => cluster.exec(&format!("vacuum full {table}")).await,
        8 => {
            cluster
                .exec(&format!("truncate {table}; insert into {table} values ({at}, 'alone')"))
                .await
        }
        _ => {
            cluster.exec(&format!("drop table {table}")).await?;
            create(cluster, table[1..].parse()?).await
        }
    }
}

async fn enable_checksums(cluster: &Cluster) -> Result<()> {
    cluster.stop(StopMode::Fast).await?;
    let mut command = cluster.tool("pg_checksums");
    command
        .args(["--enable", "--no-sync", "-D"])
        .arg(cluster.data_directory());
    user::run(command, DEADLINE).await?;
    cluster.start().await
}

/// Files whose name begins with a digit are parts of relations.
fn pages_in(data: &Path) -> Result<Pages> {
    let mut pages = Pages::new();
    for directory in ["base", "global"] {
        for path in tree::files(&data.join(directory))? {
            let name = path.file_name().context("no name")?.as_encoded_bytes();
            if name[0].is_ascii_digit() {
                pages.insert(path.strip_prefix(data)?.to_owned(), pages_of(&path)?);
            }
        }
    }
    ensure!(pages.len() > 800, "only {} relation files", pages.len());
    Ok(pages)
}

fn pages_of(path: &Path) -> Result<Vec<u64>> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    ensure!(
        bytes.len() % PAGE_BYTES == 0,
        "{} has {} bytes",
        path.display(),
        bytes.len()
    );
    let digest = |page: &[u8]| {
        let mut hasher = DefaultHasher::new();
        page.hash(&mut hasher);
        hasher.finish()
    };
    Ok(bytes.chunks(PAGE_BYTES).map(digest).collect())
}

fn compare(expected: &Pages, found: &Pages) -> Result<()> {
    let mut lines = Vec::new();
    for path in expected.keys().chain(found.keys()) {
        match (expected.get(path), found.get(path)) {
            (Some(left), Some(right)) if left == right => {}
            (Some(left), Some(right)) if left.len() == right.len() => {
                let differ = left
                    .iter()
                    .zip(right)
                    .enumerate()
                    .filter(|(_, (left, right))| left != right);
                let blocks: Vec<usize> = differ.map(|(block, _)| block).collect();
                lines.push(format!("{}: pages {blocks:?}", path.display()));
            }
            (left, right) => {
                lines.push(format!(
                    "{}: {:?} and {:?} pages",
                    path.display(),
                    left.map(Vec::len),
                    right.map(Vec::len)
                ));
            }
        }
    }
    lines.dedup();
    ensure!(lines.is_empty(), "the restore differs:\n{}", lines.join("\n"));
    Ok(())
}
