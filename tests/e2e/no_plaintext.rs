//! Who holds the repository reads nothing, and no secret is seen in `ps`, logs, errors or JSON.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::seawall::CLUSTER;
use tests::seed::Rng;
use tests::wait::{DEADLINE, Pace};
use tests::{Cluster, S3Server, Scratch, Seawall, Weed, case, tree};

const PASSWORD: &str = "tide-Table-9-moorings";
const NEEDLE: &str = "the gull over the third buoy knows the harbour master";

/// Two needles: words, and bytes that no compression can hide, so that what is only compressed shows.
async fn plant(cluster: &Cluster) -> Result<Vec<u8>> {
    let noise = Rng::named("no_plaintext").bytes(300_000);
    let client = cluster.connect().await?;
    client
        .batch_execute(
            "create table secrets (words text, noise bytea);
             alter table secrets alter column noise set storage external;",
        )
        .await?;
    client
        .execute("insert into secrets values ($1, $2)", &[&NEEDLE, &noise])
        .await?;
    Ok(noise)
}

/// Slices of the noise that lie within one row of the out-of-line table, each.
fn slices(noise: &[u8]) -> impl Iterator<Item = &[u8]> {
    noise.chunks(30_000).map(|part| &part[100..132])
}

fn assert_in(root: &Path, noise: &[u8], expected: bool) -> Result<()> {
    let words = tree::find_bytes(root, NEEDLE.as_bytes())?;
    ensure!(words.is_empty() != expected, "words: {words:?}");
    for slice in slices(noise) {
        let found = tree::find_bytes(root, slice)?;
        ensure!(found.is_empty() != expected, "noise: {found:?}");
    }
    Ok(())
}

#[test]
fn neither_rows_nor_wal_are_found_in_a_directory() {
    case("plaintext_local", async |scratch| {
        let cluster = Cluster::builder(15).tcp(true).create(&scratch, "main").await?;
        let config = password_login(&scratch, &cluster).await?;
        let watch = Watch::start();
        let seawall = Seawall::configure(config)?;
        let mut printed = seawall.init().await?.stdout;
        let agent = seawall.run().await?;
        let in_wal = plant(&cluster).await?;
        seawall.backup().await?;
        cluster.exec("create table later (words text)").await?;
        cluster.exec(&format!("insert into later values ('{NEEDLE}')")).await?;
        cluster.switch_wal().await?;
        seawall.wait_archived(&cluster).await?;

        // Our own files first: a needle that is nowhere proves nothing.
        cluster.exec("checkpoint").await?;
        assert_in(cluster.data_directory(), &in_wal, true)?;
        assert!(seawall.stored_bytes(&["packs"])? > 300_000);
        assert!(seawall.stored_bytes(&["wal", "tail"])? > 300_000);
        assert_in(&seawall.repository(), &in_wal, false)?;

        printed += &ask_everything(&seawall, &scratch).await?;
        let (restored, report) = seawall.restore_and_start("two", &["--target", "latest"]).await?;
        let rows = restored.query_one("select count(*) from secrets").await?;
        assert_eq!(rows, "1");
        printed += &report.to_string();
        printed += &agent.log();
        agent.stop(DEADLINE).await?;

        let secrets = secrets(&scratch, &[PASSWORD])?;
        assert_hidden(&printed, &secrets)?;
        watch.assert_hidden(&secrets)
    });
}

#[test]
fn neither_rows_nor_secrets_are_found_in_a_bucket() {
    case("plaintext_s3", async |scratch| {
        let weed = Weed::start(&scratch).await?;
        let cluster = Cluster::builder(17).create(&scratch, "main").await?;
        let watch = Watch::start();
        let seawall = Seawall::s3(&scratch, &cluster, &weed).await?;
        let agent = seawall.run().await?;
        let noise = plant(&cluster).await?;
        seawall.backup().await?;
        seawall.wait_archived(&cluster).await?;
        let bucket = scratch.join("weed");
        let volumes = tree::files(&bucket)?;
        let stored: u64 = volumes.iter().map(|f| f.metadata().map_or(0, |m| m.len())).sum();
        assert!(stored > 600_000, "{stored} bytes in {}", bucket.display());
        assert_in(&bucket, &noise, false)?;

        let mut printed = ask_everything(&seawall, &scratch).await?;
        printed += &agent.log();
        agent.stop(DEADLINE).await?;
        let secrets = secrets(&scratch, &[weed.secret_access_key()])?;
        assert_hidden(&printed, &secrets)?;
        watch.assert_hidden(&secrets)
    });
}

/// A role that must give its password, over TCP.
async fn password_login(scratch: &Scratch, cluster: &Cluster) -> Result<tests::ConfigFile> {
    let sql = format!("create role tides superuser replication login password '{PASSWORD}'");
    cluster.exec(&sql).await?;
    let hba = cluster.etc_directory().join("pg_hba.conf");
    let lines = "local all postgres trust\nhost all all 127.0.0.1/32 scram-sha-256\n\
                 host replication all 127.0.0.1/32 scram-sha-256\n";
    fs::write(hba, lines)?;
    cluster.restart().await?;
    let file = scratch.write("etc/pg-password", format!("{PASSWORD}\n"))?;
    let key = |key: &str| format!("cluster.{CLUSTER}.postgres.{key}");
    Seawall::local_config(scratch, cluster)?
        .set(&key("host"), "127.0.0.1")?
        .set(&key("sslmode"), "disable")?
        .set(&key("user"), "tides")?
        .set(&key("password_file"), file.display().to_string())
}

/// All that both programs print, when all is well and when it is not.
async fn ask_everything(seawall: &Seawall, scratch: &Scratch) -> Result<String> {
    let mut printed = String::new();
    let agent: [&[&str]; 6] = [
        &["list", "--json"],
        &["status", "--json"],
        &["check"],
        &["check", "--config"],
        &["list"],
        &["status"],
    ];
    for args in agent {
        let output = seawall.agent.run(args).await?;
        printed += &(output.stdout + &output.stderr);
    }
    let dry = scratch.join("dry").display().to_string();
    let restore: [&[&str]; 4] = [
        &["list", "--json"],
        &["--target", "latest", "--pgdata", &dry, "--dry-run", "--json"],
        &["--target-lsn", "FF/FF000000", "--pgdata", &dry],
        &["wal-get", "000000010000000000000009", "/nowhere/at/all"],
    ];
    for args in restore {
        let output = seawall.restore.run(args).await?;
        printed += &(output.stdout + &output.stderr);
    }
    // With the wrong password, and with the wrong access key: errors like to say too much.
    let wrong = scratch.write("etc/wrong", "not-the-one\n")?;
    let path = wrong.display().to_string();
    for key in [
        "cluster.main.postgres.password_file",
        "repository.s3.secret_access_key_file",
    ] {
        let config = seawall.config.clone().set(key, path.clone())?;
        let wrong = Seawall::configure_as(config, "wrong")?;
        let verbose = wrong.agent.clone().env("SEAWALL_LOG_LEVEL", "trace");
        let output = verbose.run(&["check"]).await?;
        printed += &(output.stdout + &output.stderr);
    }
    ensure!(printed.len() > 1000, "hardly anything was printed: {printed}");
    Ok(printed)
}

/// Everything secret, in each form in which somebody could print it.
fn secrets(scratch: &Scratch, more: &[&str]) -> Result<BTreeSet<String>> {
    let mut secrets: BTreeSet<String> = more.iter().map(|text| (*text).to_owned()).collect();
    for file in tree::files(&scratch.join("keys"))? {
        let bytes = fs::read(&file)?;
        if let Ok(text) = std::str::from_utf8(&bytes) {
            let words = text.split(|c: char| c.is_whitespace() || "=\":".contains(c));
            secrets.extend(words.filter(|word| word.len() >= 32).map(str::to_owned));
        }
        let raw = bytes.iter().map(|byte| format!("{byte:02x}"));
        secrets.insert(raw.collect::<String>());
    }
    ensure!(
        secrets.len() > more.len() + 2,
        "no keys in {}",
        scratch.join("keys").display()
    );
    Ok(secrets)
}

fn assert_hidden(printed: &str, secrets: &BTreeSet<String>) -> Result<()> {
    let printed_lower = printed.to_lowercase();
    for secret in secrets {
        let shown = printed.contains(secret) || printed_lower.contains(&secret.to_lowercase());
        // Which one, without printing it once more.
        ensure!(!shown, "a secret of {} characters was printed", secret.len());
    }
    Ok(())
}

/// Reads the command lines of all processes, again and again, as `ps` would.
struct Watch {
    seen: Arc<Mutex<BTreeSet<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    fn start() -> Self {
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut pace = Pace::every(Duration::from_millis(5));
            loop {
                pace.tick().await;
                let lines = command_lines();
                shared.lock().unwrap().extend(lines);
            }
        });
        Self { seen, task }
    }

    fn assert_hidden(self, secrets: &BTreeSet<String>) -> Result<()> {
        self.task.abort();
        let seen = self.seen.lock().unwrap();
        let ours = seen.iter().filter(|line| line.contains("wal-agent")).count();
        ensure!(ours > 0, "the watch has seen no agent");
        let all: Vec<&str> = seen.iter().map(String::as_str).collect();
        assert_hidden(&all.join("\n"), secrets)
    }
}

fn command_lines() -> Vec<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines
        .filter(|line| !line.is_empty())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .collect()
}
