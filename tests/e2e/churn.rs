//! Backups of a cluster whose files come, change and go under the copy: each one restores, and none calls a torn page corrupt.
//!
//! `SEAWALL_CHURN=30` takes so many backups, instead of six.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "churn/load.rs"]
mod load;

use std::fs;

use anyhow::{Context, Result};
use load::{Churn, Done, TABLESPACE, empty_directories};
use tests::cluster::lsn_text;
use tests::judge::restored_exactly;
use tests::oracle::{Expected, History, Mark, Options};
use tests::seawall::{json_array, json_lsn, json_str, json_u64};
use tests::wait::DEADLINE;
use tests::{Cluster, Oracle, Scratch, Seawall, case, pgbench};

/// Half of them on each of two majors.
const BACKUPS: usize = 6;

#[test]
fn backups_of_postgres_15_under_churn_restore_without_a_corrupt_page() {
    case("churn_15", async |scratch| Box::pin(churn(&scratch, 15)).await);
}

#[test]
fn backups_of_postgres_18_under_churn_restore_without_a_corrupt_page() {
    case("churn_18", async |scratch| Box::pin(churn(&scratch, 18)).await);
}

struct Taken {
    backup: String,
    end_lsn: u64,
    /// A point a little later, for every other one.
    mark: Option<Mark>,
}

async fn churn(scratch: &Scratch, major: u32) -> Result<()> {
    let backups = backups()?;
    let cluster = Cluster::builder(major)
        .setting("fsync", "off")
        .setting("track_commit_timestamp", "on")
        .setting("allow_in_place_tablespaces", "on")
        .setting("autovacuum_naptime", "1s")
        .tablespace(TABLESPACE)
        .create(scratch, "main")
        .await?;
    pgbench::init(&cluster, 1).await?;
    let seawall = Seawall::local(scratch, &cluster).await?;
    let agent = seawall.run().await?;
    let (taken, history) = Box::pin(take(&seawall, &cluster, backups)).await?;
    agent.assert_no_unexpected_warnings(&["fsync is off"])?;
    agent.stop(DEADLINE).await?;
    cluster.kill9()?;
    cluster.destroy_data_directory()?;

    for (number, taken) in taken.iter().enumerate() {
        empty_directories(scratch)?;
        let name = format!("r{number}");
        restore(&seawall, &name, taken, &history).await.context(name)?;
    }
    Ok(())
}

fn backups() -> Result<usize> {
    match std::env::var("SEAWALL_CHURN") {
        Ok(text) => {
            let all: usize = text.parse().with_context(|| format!("SEAWALL_CHURN={text}"))?;
            Ok(all.div_ceil(2))
        }
        Err(_) => Ok(BACKUPS / 2),
    }
}

/// One backup after the other under load.
async fn take(seawall: &Seawall, cluster: &Cluster, backups: usize) -> Result<(Vec<Taken>, History)> {
    let mut load = pgbench::Load::start(cluster, 2, 300)?;
    let options = Options {
        connections: 2,
        rate: 50,
        ..Options::default()
    };
    let oracle = Oracle::start(cluster, options).await?;
    let churn = Churn::start(cluster).await?;
    oracle.wait_for(100).await?;
    let mut taken = Vec::new();
    let (mut during, mut vanished, mut elapsed_ms) = (Done::default(), 0, 0);
    for number in 0..backups {
        let before = churn.done();
        // It insists that no page was called corrupt.
        let report = seawall.backup().await?;
        during = during.and(churn.done().since(before));
        vanished += json_u64(&report, "vanished_files")?;
        elapsed_ms += json_u64(&report, "elapsed_ms")?;
        let mark = match number % 2 {
            0 => None,
            _ => Some(oracle.mark(None).await?),
        };
        taken.push(Taken {
            backup: json_str(&report, "backup")?.to_owned(),
            end_lsn: json_lsn(&report, "end_lsn")?,
            mark,
        });
        oracle.wait_for(20).await?;
    }
    let all = churn.stop().await?;
    assert!(load.is_running(), "pgbench has given up");
    load.stop().await?;
    let history = oracle.stop().await?;
    println!(
        "{backups} backups in {elapsed_ms} ms, {vanished} files vanished under the copy; during backups: {during:?}; in all: {all:?}"
    );
    assert!(
        during.tables > 0 && during.tablespaces > 0 && during.databases > 0,
        "{during:?}"
    );
    let end = seawall.wait_archived(cluster).await?;
    assert!(taken.iter().all(|taken| taken.end_lsn < end));
    let list = seawall.list().await?;
    assert_eq!(json_array(&list, "backups")?.len(), backups, "{list}");
    Ok((taken, history))
}

/// To the end of the backup or a little later, at the original's places, then judged by everything that PostgreSQL has.
async fn restore(seawall: &Seawall, name: &str, taken: &Taken, history: &History) -> Result<()> {
    let lsn;
    let (point, expected): ([&str; 2], Expected) = match &taken.mark {
        Some(mark) => {
            lsn = lsn_text(mark.lsn);
            (["--target-lsn", &lsn], mark.expected.clone())
        }
        None => (["--target", "immediate"], history.expected_at_lsn(taken.end_lsn)),
    };
    assert!(expected.must.len() >= 50, "{}", expected.must.len());
    let target = [&["--backup", taken.backup.as_str()], point.as_slice()].concat();
    let restored = seawall.restore_to(name, &target).await?;
    restored_exactly(&restored, history, &expected).await?;
    fs::remove_dir_all(restored.data_directory())?;
    Ok(())
}
