//! Does the whole survive, and how late is the archive: a real server, a writer, a stopwatch.
//!
//! `scenario` and `scenarios` play what stands in `scenarios/*.toml` ([`scenario`], [`run`]), hold it against the thresholds there ([`judge`])
//! and draw it ([`report`]). The other words ask one question each.
//!
//! `lag`: how long after a commit was acknowledged is it in the repository? Measured
//! from outside, at the server (`pg_stat_replication.flush_lsn`, which the agent reports only for what
//! is durable), and set beside the agent's own figures.

mod arguments;
mod far;
mod figures;
mod judge;
mod lag;
mod play;
mod recovery;
mod report;
mod run;
mod scenario;
mod summary;
mod synchronous;
mod writer;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::wait::{DEADLINE, within};
use tests::{Cluster, Scratch, Seawall};

use crate::arguments::{Arguments, Question, Words};
use crate::lag::Lag;
use crate::writer::Writer;

/// Setup, backup and the end, beside the measured time.
const OVERHEAD: Duration = Duration::from_secs(180);

/// Of threads that work for the test itself; the machine has hardly more.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    let words = match Words::parse(std::env::args().skip(1)) {
        Ok(words) => words,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            return ExitCode::from(2);
        }
    };
    let done = match words {
        Words::Ask(arguments) => run(arguments).map(|()| true),
        Words::Play(wanted) => play::play(&wanted),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(WORKERS).enable_all().build()?)
}

fn run(arguments: Arguments) -> Result<()> {
    let scratch = Scratch::create()?;
    let measured = runtime()?.block_on(async {
        let all = Box::pin(async {
            match arguments.question {
                Question::Lag => measure(&scratch, arguments).await,
                Question::Synchronous => write(&synchronous::measure(&scratch, arguments).await?),
                Question::Recovery => write(&recovery::measure(&scratch, arguments).await?),
            }
        });
        let limit = match arguments.question {
            Question::Recovery => recovery::LIMIT * 4,
            Question::Lag | Question::Synchronous => arguments.duration * 9 + OVERHEAD,
        };
        within("the load test", limit, all).await?
    });
    if measured.is_err() {
        eprintln!("{}", scratch.log_tails());
    }
    measured
}

async fn measure(scratch: &Scratch, arguments: Arguments) -> Result<()> {
    let cluster = Cluster::builder(15).create(scratch, "main").await?;
    let interval = format!("{}ms", arguments.interval.as_millis());
    let config = Seawall::local_config(scratch, &cluster)?.set("cluster.main.wal.ship_interval", interval)?;
    let seawall = Seawall::configure(config)?;
    seawall.init().await?;
    let agent = seawall.run().await?;
    cluster.exec(writer::TABLE).await?;
    seawall.backup().await?;
    seawall.wait_archived(&cluster).await?;
    println!(
        "{} commits and {} MB of WAL a second for {:.0?}, wal.ship_interval {:?}",
        arguments.rate, arguments.wal_mb_s, arguments.duration, arguments.interval
    );
    let wal_before = cluster.current_lsn().await?;
    let lag = Lag::watch(&cluster).await?;
    let writer = Writer::start(&cluster, arguments.rate, arguments.wal_mb_s, lag.sender()).await?;
    let committed = writer.stop_after(arguments.duration).await?;
    let wal_bytes = cluster.current_lsn().await? - wal_before;
    let figures = lag.finish(DEADLINE).await?;
    // Its state file is at most a second old.
    seawall.wait_archived(&cluster).await?;
    let own = seawall.status().await?["lag"].clone();
    agent.stop(DEADLINE).await?;

    ensure!(committed > 0, "nothing was committed");
    ensure!(
        figures.len() == committed,
        "{committed} commits were acknowledged, {} were seen to be archived",
        figures.len()
    );
    let ms = |us: u64| us as f64 / 1000.0;
    let summary = json!({
        "commits": committed,
        "commits_per_second": committed as f64 / arguments.duration.as_secs_f64(),
        "seconds": arguments.duration.as_secs(),
        "wal_mb_s": wal_bytes as f64 / 1e6 / arguments.duration.as_secs_f64(),
        "interval_ms": arguments.interval.as_millis(),
        "p50_ms": ms(figures.value_at_quantile(0.50)),
        "p99_ms": ms(figures.value_at_quantile(0.99)),
        "max_ms": ms(figures.max()),
        "agent": own,
    });
    print(&summary);
    write(&summary)
}

fn print(summary: &Value) {
    println!(
        "WAL written: {:.1} MB/s",
        summary["wal_mb_s"].as_f64().unwrap_or_default()
    );
    let outside = |key: &str| format!("{:.1}", summary[key].as_f64().unwrap_or_default());
    let own = |key: &str| {
        let us = summary["agent"][key].as_f64().unwrap_or_default();
        format!("{:.1}", us / 1000.0)
    };
    println!("commit to archived, ms        p50        p99        max    commits");
    for (name, [p50, p99, max], commits) in [
        (
            "from outside",
            ["p50_ms", "p99_ms", "max_ms"].map(outside),
            &summary["commits"],
        ),
        (
            "by the agent",
            ["p50_us", "p99_us", "max_us"].map(own),
            &summary["agent"]["commits"],
        ),
    ] {
        println!("{name:<22} {p50:>10} {p99:>10} {max:>10} {:>10}", commits.to_string());
    }
}

fn write(summary: &Value) -> Result<()> {
    summary::write(summary).map(drop)
}
