//! Seconds until a server that lost everything takes queries again, from a store that is some way off: ours beside pgBackRest, and the
//! recovery alone beside `cp` from a local directory, which nobody can beat by much.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::wait::{DEADLINE, wait_until};
use tests::{Cluster, S3Server, Scratch, Seawall, StopMode, Weed, install, pgbench, user};

use crate::arguments::Arguments;
use crate::far::Far;

const BUCKET: &str = "peer";
pub(crate) const LIMIT: Duration = Duration::from_secs(900);

/// pgBackRest with its repository in a bucket of the same server.
struct Peer {
    program: PathBuf,
    config: PathBuf,
}

impl Peer {
    async fn new(scratch: &Scratch, cluster: &Cluster, weed: &Weed) -> Result<Self> {
        weed.create_bucket(BUCKET).await?;
        let peer = Peer {
            program: install::pgbackrest_bin()?,
            config: scratch.write("etc/pgbackrest.conf", "")?,
        };
        let home = scratch.dir("pgbackrest")?;
        user::give(&home)?;
        peer.write(scratch, cluster, weed, weed.tls_port())?;
        Ok(peer)
    }

    /// As its manual has it for a fast network: asynchronous, two processes.
    fn write(&self, scratch: &Scratch, cluster: &Cluster, weed: &Weed, port: u16) -> Result<()> {
        let home = scratch.join("pgbackrest");
        let text = format!(
            "[global]\nrepo1-type=s3\nrepo1-path=/peer\nrepo1-s3-bucket={BUCKET}\nrepo1-s3-endpoint=127.0.0.1\nrepo1-s3-region=us-east-1\n\
             repo1-s3-key={}\nrepo1-s3-key-secret={}\nrepo1-s3-uri-style=path\nrepo1-storage-host=127.0.0.1\nrepo1-storage-port={port}\n\
             repo1-storage-verify-tls=n\nrepo1-bundle=y\nrepo1-block=y\nrepo1-retention-full=9\n\
             log-path={at}\nlock-path={at}/lock\nspool-path={at}/spool\nlog-level-file=off\nlog-level-console=warn\n\
             compress-type=zst\ncompress-level=3\nprocess-max=2\nstart-fast=y\narchive-async=y\narchive-get-queue-max=512MB\n\
             [bench]\npg1-path={}\npg1-socket-path={}\npg1-port={}\npg1-user=postgres\n",
            weed.access_key_id(),
            weed.secret_access_key(),
            cluster.data_directory().display(),
            cluster.socket_dir().display(),
            cluster.port(),
            at = home.display(),
        );
        tests::scratch::write_private(&self.config, text.as_bytes())
    }

    fn words(&self) -> String {
        format!(
            "{} --config={} --stanza=bench",
            self.program.display(),
            self.config.display()
        )
    }

    async fn run(&self, args: &[&str]) -> Result<String> {
        let mut command = user::command(&self.program);
        command
            .arg(format!("--config={}", self.config.display()))
            .arg("--stanza=bench")
            .args(args);
        user::run(command, LIMIT).await
    }
}

pub(crate) async fn measure(scratch: &Scratch, arguments: Arguments) -> Result<Value> {
    let weed = Weed::start_tls(scratch).await?;
    let local = scratch.dir("archive")?;
    user::give(&local)?;
    let cluster = Cluster::builder(15)
        .setting("archive_mode", "on")
        .setting("max_wal_size", "20GB")
        .setting("checkpoint_timeout", "1h")
        .create(scratch, "main")
        .await?;
    let peer = Peer::new(scratch, &cluster, &weed).await?;
    let push = format!("cp %p {}/%f && {} archive-push %p", local.display(), peer.words());
    cluster.append_setting("archive_command", &push)?;
    cluster.reload().await?;
    let authority = weed.authority().map(|path| path.display().to_string());
    let config = Seawall::s3_config(scratch, &cluster, &weed).await?;
    let seawall = Seawall::configure(config.set("repository.s3.ca_file", authority.unwrap_or_default())?)?;
    seawall.init().await?;
    let agent = seawall.run().await?;
    peer.run(&["stanza-create"]).await?;
    pgbench::init(&cluster, arguments.scale).await?;
    cluster.exec("checkpoint").await?;
    seawall.backup().await?;
    peer.run(&["--type=full", "backup"]).await?;
    let segments = write_wal(&cluster, arguments.segments).await?;
    archived(&cluster, &seawall).await?;
    agent.stop(DEADLINE).await?;
    cluster.stop(StopMode::Fast).await?;
    let bytes = tests::tree::files(cluster.data_directory())?
        .iter()
        .map(|file| file.metadata().map_or(0, |metadata| metadata.len()))
        .sum::<u64>();
    cluster.destroy_data_directory()?;

    let far = Far::to(weed.tls_port(), arguments.round_trip).await?;
    let endpoint = format!("https://127.0.0.1:{}", far.port);
    let seawall = Seawall::configure(seawall.config.clone().set("repository.s3.endpoint", endpoint)?)?;
    peer.write(scratch, &cluster, &weed, far.port)?;
    println!(
        "{:.1} GB with its WAL, {segments} segments to replay, the store {:?} away",
        bytes as f64 / 1e9,
        arguments.round_trip
    );
    let alone = Box::pin(replay_alone(scratch, &seawall, &peer, &local)).await?;
    let (ours, phases) = whole_of_ours(&seawall).await?;
    let theirs = Box::pin(whole_of_theirs(scratch, &peer)).await?;
    let [cp, get, peer_get] = alone;
    println!(
        "recovery alone, s:  cp {cp:.2}   wal-get {get:.2} ({:.2} of cp)   pgBackRest {peer_get:.2}",
        get / cp
    );
    println!(
        "from nothing to the first query, s:  wal-restore {ours:.2}   pgBackRest {theirs:.2}   ({:.2} of it)",
        ours / theirs
    );
    println!("wal-restore by phase, ms: {phases}");
    Ok(json!([
        { "name": "recovery, wal-get", "value": get, "unit": "s", "bound": cp, "ratio": get / cp, "peer": peer_get },
        { "name": "from nothing to the first query", "value": ours, "unit": "s", "bound": theirs, "ratio": ours / theirs },
    ]))
}

/// Load until so many segments are full.
async fn write_wal(cluster: &Cluster, segments: u32) -> Result<u64> {
    let begin = cluster.current_lsn().await?;
    let wanted = u64::from(segments) * (16 << 20);
    while cluster.current_lsn().await? - begin < wanted {
        // As long after a checkpoint as most pages are written as a whole, or this takes hours.
        cluster.exec("checkpoint").await?;
        pgbench::transactions(cluster, 8, 2000).await?;
    }
    let end = cluster.switch_wal().await?;
    Ok((end - begin) / (16 << 20))
}

async fn archived(cluster: &Cluster, seawall: &Seawall) -> Result<()> {
    let last = cluster
        .query_one("select pg_walfile_name(pg_current_wal_insert_lsn() - 16 * 1024 * 1024)")
        .await?;
    let sql = format!("select last_archived_wal >= '{last}' from pg_stat_archiver");
    wait_until("archive_command to be done", LIMIT, async || {
        cluster.query_one(&sql).await.is_ok_and(|done| done == "t")
    })
    .await?;
    seawall.wait_archived(cluster).await.map(drop)
}

/// The same files, recovered by three commands in turn, twice: the better one of each.
async fn replay_alone(scratch: &Scratch, seawall: &Seawall, peer: &Peer, local: &Path) -> Result<[f64; 3]> {
    let base = seawall.restore_files("base", &["--target", "latest"]).await?;
    let mut all = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..2 {
        for (which, seconds) in all.iter_mut().enumerate() {
            let place = format!("r{round}{which}");
            let data = scratch.dir(&place)?.join("data");
            let mut copy = user::command("cp");
            copy.arg("-a").arg(&base).arg(&data);
            user::run(copy, LIMIT).await?;
            let mut server = Cluster::adopt(scratch, &place, &data)?;
            let command = match which {
                0 => format!("cp {}/%f %p", local.display()),
                1 => format!(
                    "{} --config {} wal-get %f %p --pgdata {}",
                    seawall.restore.path().display(),
                    seawall.restore.config().display(),
                    data.display()
                ),
                _ => format!("{} --pg1-path={} archive-get %f %p", peer.words(), data.display()),
            };
            server.override_setting("restore_command", &command);
            sync_disks();
            let begun = Instant::now();
            server.start_within(LIMIT).await?;
            server.wait_promoted(LIMIT).await?;
            seconds.push(begun.elapsed().as_secs_f64());
            ensure!(server.query_one("select count(*) from pgbench_branches").await? != "0");
            server.kill9()?;
            server.destroy_data_directory()?;
        }
    }
    let fastest = |seconds: &Vec<f64>| seconds.iter().copied().fold(f64::INFINITY, f64::min);
    Ok([fastest(&all[0]), fastest(&all[1]), fastest(&all[2])])
}

/// What others left to be written is written before.
fn sync_disks() {
    let _ = Command::new("sync").status();
}

async fn whole_of_ours(seawall: &Seawall) -> Result<(f64, Value)> {
    sync_disks();
    let begun = Instant::now();
    let (server, report) = seawall.restore_and_start("ours", &["--target", "latest"]).await?;
    server.query_one("select count(*) from pgbench_branches").await?;
    let seconds = begun.elapsed().as_secs_f64();
    server.kill9()?;
    server.destroy_data_directory()?;
    Ok((seconds, report["phases_ms"].clone()))
}

async fn whole_of_theirs(scratch: &Scratch, peer: &Peer) -> Result<f64> {
    let data = scratch.dir("theirs")?.join("data");
    std::fs::create_dir(&data)?;
    user::give(&data)?;
    sync_disks();
    let begun = Instant::now();
    let to = format!("--pg1-path={}", data.display());
    let get = format!(
        "--recovery-option=restore_command={} {to} archive-get %f %p",
        peer.words()
    );
    peer.run(&[&to, "--archive-mode=off", &get, "restore"]).await?;
    let server = Cluster::adopt(scratch, "theirs", &data)?;
    server.start_within(LIMIT).await?;
    server.wait_promoted(LIMIT).await?;
    server.query_one("select count(*) from pgbench_branches").await?;
    let seconds = begun.elapsed().as_secs_f64();
    server.kill9()?;
    Ok(seconds)
}
