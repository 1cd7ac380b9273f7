//! The product in two minutes: a server under load, a backup, two accidents, a restore, a comparison.
//!
//! `make demo` runs it. It exits with an error when a row is lost, and writes `target/demo/summary.json`.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tests::oracle::{Comparison, History, Mark, Options};
use tests::seawall::{json_array, json_f64, json_lsn, json_u64};
use tests::wait::within;
use tests::{Child, Cluster, Oracle, Scratch, Seawall, Weed, pgbench};

/// pgbench's scale: about 300 MB.
const SCALE: u32 = 20;
const LOAD_RATE: u32 = 400;
/// The whole of it, on a slow machine.
const DEADLINE: Duration = Duration::from_secs(240);

fn main() -> ExitCode {
    let repository = match repository() {
        Ok(repository) => repository,
        Err(error) => {
            eprintln!("demo: {error:#}");
            return ExitCode::from(2);
        }
    };
    match run(&repository) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn repository() -> Result<String> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Ok("local".to_owned()),
        ["--repo", kind @ ("local" | "s3")] => Ok(kind.to_owned()),
        _ => bail!("unknown arguments {args:?}\nHINT: demo [--repo local|s3]"),
    }
}

fn run(repository: &str) -> Result<()> {
    let scratch = Scratch::create()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let shown = runtime.block_on(async {
        let story = Box::pin(tell(&scratch, repository));
        within("the demo", DEADLINE, story).await?
    });
    if shown.is_err() {
        eprintln!("{}", scratch.log_tails());
    }
    shown
}

/// Prints what happens now, with the time since the start.
struct Narrator(Instant);

impl Narrator {
    fn say(&self, text: impl AsRef<str>) {
        println!("{:6.1} s  {}", self.0.elapsed().as_secs_f64(), text.as_ref());
    }
}

/// What is known when the host is gone.
struct Accident {
    /// Just before the table was dropped.
    before: Mark,
    destroyed_at: SystemTime,
    history: History,
    backup: Value,
}

async fn tell(scratch: &Scratch, repository: &str) -> Result<()> {
    let narrator = Narrator(Instant::now());
    let weed = match repository {
        "s3" => Some(Weed::start(scratch).await?),
        _ => None,
    };
    narrator.say(format!("PostgreSQL 15 with pgbench's tables at scale {SCALE}"));
    let cluster = Cluster::builder(15)
        .setting("track_commit_timestamp", "on")
        .setting("max_wal_size", "1GB")
        .setting("shared_buffers", "128MB")
        .create(scratch, "primary")
        .await?;
    pgbench::init(&cluster, SCALE).await?;
    let seawall = match &weed {
        Some(weed) => Seawall::s3(scratch, &cluster, weed).await?,
        None => Seawall::local(scratch, &cluster).await?,
    };
    let place = match &weed {
        Some(_) => "a bucket of a local S3 server",
        None => "a local directory",
    };
    narrator.say(format!("wal-agent init and run: WAL streams into {place}"));
    let agent = seawall.run().await?;
    let accident = Box::pin(live_and_die(&narrator, &seawall, cluster, agent)).await?;
    let (restored, report) = Box::pin(come_back(&narrator, &seawall, &accident)).await?;
    let client = restored.connect().await?;
    let comparison = accident.history.compare(&client, &accident.before.expected).await?;
    let accounts = restored.query_one("select count(*) from pgbench_accounts").await?;
    pgbench::assert_balanced(&restored).await?;
    narrator.say("compared, row by row");
    let rpo = rpo(&seawall, &accident).await?;
    let summary = summary(&accident, &report, &comparison, rpo)?;
    write_summary(&summary)?;
    print_table(&summary, &accounts);
    ensure!(comparison.is_clean(), "{}", comparison.report());
    ensure!(
        accounts == (SCALE * 100_000).to_string(),
        "{accounts} accounts are left"
    );
    Ok(())
}

/// Load, a backup, a dropped table, and then no host any more.
async fn live_and_die(narrator: &Narrator, seawall: &Seawall, cluster: Cluster, agent: Child) -> Result<Accident> {
    let load = pgbench::Load::start(&cluster, 4, LOAD_RATE)?;
    let oracle = Oracle::start(&cluster, Options::default()).await?;
    oracle.wait_for(400).await?;
    narrator.say("load runs; an oracle notes each row whose commit was acknowledged; base backup begins");
    let backup = seawall.backup().await?;
    narrator.say(format!(
        "backup done: {} of {} pages read and stored at {:.0} MB/s, {} rows committed meanwhile",
        backup["new_pages"],
        backup["pages"],
        json_f64(&backup, "mb_s")?,
        oracle.acknowledged()
    ));
    oracle.wait_for(2000).await?;

    let before = oracle.mark(None).await?;
    // What holds a lock on it goes first, as in every such story.
    load.stop().await?;
    cluster.exec("drop table pgbench_accounts").await?;
    narrator.say(format!(
        "accident 1: DROP TABLE pgbench_accounts, just after {}",
        before.time
    ));
    oracle.wait_for(1200).await?;
    // Host and disk are gone at once, under load. The agent first: it must not ship anything more.
    agent.kill9()?;
    cluster.kill9()?;
    let destroyed_at = SystemTime::now();
    cluster.destroy_data_directory()?;
    narrator.say("accident 2: server and agent killed, the data directory destroyed");
    let history = oracle.stop().await?;
    Ok(Accident {
        before,
        destroyed_at,
        history,
        backup,
    })
}

async fn come_back(narrator: &Narrator, seawall: &Seawall, accident: &Accident) -> Result<(Cluster, Value)> {
    let time = &accident.before.time;
    narrator.say(format!("wal-restore --target-time '{time}' --start"));
    let start = Instant::now();
    let target = ["--target-time", time.as_str()];
    let (restored, mut report) = seawall.restore_and_start("restored", &target).await?;
    let measured = u64::try_from(start.elapsed().as_millis())?;
    let said = json_u64(&report, "rto_ms")?;
    ensure!(said <= measured, "wal-restore says {said} ms, it took {measured} ms");
    // From the command to a server that takes writes, as the operator waits for it.
    report["rto_ms"] = measured.into();
    narrator.say(format!("restored and open for writes after {measured} ms"));
    Ok((restored, report))
}

/// The age of the oldest acknowledged commit that was not archived when the host went.
async fn rpo(seawall: &Seawall, accident: &Accident) -> Result<u64> {
    let mut archived = 0;
    for window in json_array(&seawall.list().await?, "windows")? {
        archived = archived.max(json_lsn(window, "to_lsn")?);
    }
    ensure!(archived > 0, "the repository shows no WAL");
    let oldest = accident
        .history
        .commits()
        .iter()
        .filter(|commit| commit.lsn_after.is_none_or(|after| after > archived))
        .filter_map(|commit| commit.acknowledged_at)
        .min();
    let age = oldest.map(|at| accident.destroyed_at.duration_since(at).unwrap_or_default());
    Ok(u64::try_from(age.unwrap_or_default().as_millis())?)
}

fn summary(accident: &Accident, report: &Value, comparison: &Comparison, rpo_ms: u64) -> Result<Value> {
    Ok(json!({
        "rows_expected": accident.before.expected.must.len(),
        "rows_restored": comparison.present,
        "rows_lost": comparison.missing.len(),
        "rpo_ms": rpo_ms,
        "rto_ms": json_u64(report, "rto_ms")?,
        "logical_bytes": json_u64(&accident.backup, "logical_bytes")?,
        "stored_bytes": json_u64(&accident.backup, "new_stored_bytes")?,
        "backup_mb_s": json_f64(&accident.backup, "mb_s")?,
        "restore_mb_s": json_f64(report, "restore_mb_s")?,
    }))
}

fn write_summary(summary: &Value) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the package has no parent directory")?;
    let directory = root.join("target/demo");
    fs::create_dir_all(&directory)?;
    let text = serde_json::to_string_pretty(summary)? + "\n";
    let path = directory.join("summary.json");
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

fn print_table(summary: &Value, accounts: &str) {
    let megabytes = |key: &str| summary[key].as_f64().unwrap_or_default() / 1e6;
    let number = |key: &str| summary[key].to_string();
    let rate = |key: &str| format!("{:.0} MB/s", summary[key].as_f64().unwrap_or_default());
    let ratio = megabytes("logical_bytes") / megabytes("stored_bytes");
    let rows = [
        ("rows compared", number("rows_expected")),
        ("rows restored", number("rows_restored")),
        ("rows lost", number("rows_lost")),
        ("dropped table", format!("{accounts} rows back")),
        ("RPO measured", format!("{} ms", number("rpo_ms"))),
        ("RTO measured", format!("{} ms", number("rto_ms"))),
        ("logical", format!("{:.1} MB", megabytes("logical_bytes"))),
        (
            "stored",
            format!("{:.1} MB (1 : {ratio:.1})", megabytes("stored_bytes")),
        ),
        ("backup", rate("backup_mb_s")),
        ("restore", rate("restore_mb_s")),
    ];
    println!("\n+----------------+----------------------+");
    for (name, value) in rows {
        println!("| {name:<14} | {value:>20} |");
    }
    println!("+----------------+----------------------+");
    println!("RPO: age of the oldest acknowledged commit not yet archived when the host was lost.");
    println!("RTO: from the command to a server that takes writes.\n");
}
