//! Restores into a directory that is not empty: over a damaged cluster, and again after the restore was killed or its disk was full.
//!
//! `SEAWALL_KILLS=200` makes it longer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::case::case_for;
use tests::seawall::{json_array, json_u64};
use tests::seed::Rng;
use tests::tmpfs::Tmpfs;
use tests::wait::{DEADLINE, moment, within};
use tests::{Cluster, Scratch, Seawall, StopMode, case, pgbench, tree, user};

const KILLS: u64 = 24;
const PAGE_BYTES: u64 = 8192;
const REFUSED: i32 = 3;
/// What tells of the restore itself, and not of the backup.
const OF_THE_RESTORE: [&str; 3] = ["seawall.restore", "postgresql.auto.conf", "backup_manifest"];

async fn backed_up(scratch: &Scratch, scale: u32) -> Result<(Cluster, Seawall)> {
    let cluster = Cluster::builder(15)
        .segment_size_mib(1)
        .tablespace("fast")
        .create(scratch, "main")
        .await?;
    pgbench::init(&cluster, scale).await?;
    cluster
        .exec("create table elsewhere tablespace fast as select generate_series(1, 20000) i")
        .await?;
    let seawall = Seawall::local(scratch, &cluster).await?;
    let agent = seawall.run().await?;
    seawall.backup().await?;
    pgbench::transactions(&cluster, 2, 100).await?;
    seawall.wait_archived(&cluster).await?;
    agent.stop(DEADLINE).await?;
    Ok((cluster, seawall))
}

/// Relation files, the large ones first.
fn relations(data: &Path) -> Result<Vec<PathBuf>> {
    let mut files = tree::files(&data.join("base"))?;
    files.retain(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.bytes().all(|byte| byte.is_ascii_digit())
    });
    files.sort_by_key(|file| std::cmp::Reverse(file.metadata().map_or(0, |metadata| metadata.len())));
    Ok(files)
}

#[test]
fn a_damaged_cluster_is_restored_over_and_only_what_differs_is_fetched() {
    case("restore_over", async |scratch| {
        let (cluster, seawall) = backed_up(&scratch, 4).await?;
        let balance = cluster.query_one("select sum(abalance) from pgbench_accounts").await?;
        let data = cluster.data_directory().to_owned();
        let path = data.display().to_string();
        let (_, location) = &cluster.tablespaces()[0];
        let itself = format!("{0}={0}", location.display());
        let unnamed = ["--target", "latest", "--pgdata", &path, "--delta", "--json"];
        let over = [&unnamed[..], &["--tablespace-map", &itself]].concat();

        // A server that runs, and a directory that nobody said may be written over.
        let output = seawall.restore.run(&over).await?;
        output.assert_refused(REFUSED, &["is running in"])?;
        cluster.stop(StopMode::Fast).await?;
        let output = seawall.restore.run(&["--target", "latest", "--pgdata", &path]).await?;
        output.assert_refused(REFUSED, &["is not empty", "--delta"])?;
        let stranger = Cluster::builder(15).create(&scratch, "stranger").await?;
        stranger.stop(StopMode::Fast).await?;
        let other = stranger.data_directory().display().to_string();
        let output = seawall
            .restore
            .run(&["--target", "latest", "--pgdata", &other, "--delta"])
            .await?;
        output.assert_refused(REFUSED, &["is another one", "system identifier"])?;
        stranger.start().await?;
        // A copy of a data directory has links to the tablespaces of the original.
        let output = seawall.restore.run(&unnamed).await?;
        output.assert_refused(REFUSED, &["is not empty", "--tablespace-map"])?;
        fs::write(data.join("postmaster.pid"), "999999999\n")?;
        let output = seawall.restore.run(&over).await?;
        output.assert_refused(REFUSED, &["was not shut down", "remove postmaster.pid"])?;
        fs::remove_file(data.join("postmaster.pid"))?;
        let at_work = File::open(&data)?;
        rustix::fs::flock(&at_work, rustix::fs::FlockOperation::LockExclusive)?;
        let output = seawall.restore.run(&over).await?;
        output.assert_refused(REFUSED, &["another restore is at work"])?;
        drop(at_work);
        ensure!(data.join("global/pg_control").exists());

        // Pages overwritten, files that are gone, too short, too long, too many, or something else by now.
        let files = relations(&data)?;
        let largest = File::options().write(true).open(&files[0])?;
        for page in [0, 7, 300] {
            largest.write_all_at(&[0xA5; 100], page * PAGE_BYTES + 50)?;
        }
        fs::remove_file(&files[1])?;
        File::options()
            .write(true)
            .open(&files[2])?
            .set_len(5 * PAGE_BYTES + 11)?;
        let mut longer = File::options().append(true).open(&files[3])?;
        longer.write_all(&vec![7; 3 * PAGE_BYTES as usize])?;
        fs::remove_file(&files[4])?;
        std::os::unix::fs::symlink(&files[0], &files[4])?;
        fs::write(data.join("base/99999"), "not in the backup")?;
        fs::create_dir_all(data.join("base/77777/x"))?;
        fs::write(data.join("mine.txt"), "of the operator")?;
        fs::write(data.join("pg_wal/000000010000000000000099"), "of nobody")?;
        fs::write(data.join("recovery.signal"), "")?;
        for made in [
            "base/99999",
            "base/77777",
            "base/77777/x",
            "mine.txt",
            "recovery.signal",
        ] {
            user::give(&data.join(made))?;
        }

        // A plan tells the same as the restore that follows, and changes nothing.
        let dry = [&over[..], &["--dry-run"]].concat();
        let planned = seawall.restore.run_ok(&dry).await?.json()?;
        ensure!(data.join("base/99999").exists() && data.join("global/pg_control").exists());
        let report = seawall.restore.run_ok(&over).await?.json()?;
        let found = &report["comparison"];
        ensure!(*found == planned["comparison"], "{found} is not what {planned} says");
        let (held, written) = (json_u64(found, "held_bytes")?, json_u64(&report, "written_bytes")?);
        ensure!(held > 4 * written, "{held} bytes were held and {written} written");
        let removed = json_array(found, "removed")?;
        for name in ["base/99999", "base/77777", "recovery.signal"] {
            ensure!(
                removed.iter().any(|removed| removed == name),
                "{name} is not in {found}"
            );
        }
        ensure!(
            json_array(found, "left")?.iter().any(|left| left == "mine.txt"),
            "{found}"
        );
        let largest = files[0].strip_prefix(&data)?.display().to_string();
        let overwritten = json_array(found, "overwritten")?;
        ensure!(
            overwritten.iter().any(|name| *name == largest),
            "{largest} is not in {found}"
        );
        let warnings = json_array(&report, "restore_warnings")?;
        ensure!(
            warnings
                .iter()
                .any(|one| one.as_str().is_some_and(|text| text.contains("mine.txt"))),
            "{report}"
        );
        assert_eq!(fs::read_to_string(data.join("mine.txt"))?, "of the operator");
        fs::remove_file(data.join("mine.txt"))?;
        ensure!(!data.join("base/99999").exists() && !data.join("base/77777").exists());

        let ours = fs::read_dir(data.join("seawall.restore"))?.flatten();
        let kept = ours.map(|entry| entry.path().join("000000010000000000000099"));
        ensure!(kept.filter(|path| path.exists()).count() == 1, "its WAL is gone");

        // As if it had been restored into an empty directory; its tablespace has to be elsewhere meanwhile.
        let elsewhere = scratch.dir("elsewhere")?.join("fast");
        let map = format!("{}={}", location.display(), elsewhere.display());
        let fresh = seawall
            .restore_files("fresh", &["--target", "latest", "--tablespace-map", &map])
            .await?;
        let mut ignored = OF_THE_RESTORE.to_vec();
        ignored.push("pg_tblspc");
        tree::assert_same(&fresh, &data, &ignored)?;
        tree::assert_same(&elsewhere, location, &[])?;

        let restored = Cluster::adopt(&scratch, "main", &data)?;
        restored.start().await?;
        restored.wait_promoted(DEADLINE).await?;
        let again = restored.query_one("select sum(abalance) from pgbench_accounts").await?;
        assert_eq!(again, balance);
        assert_eq!(restored.query_one("select count(*) from elsewhere").await?, "20000");
        pgbench::assert_balanced(&restored).await?;
        restored.amcheck().await?;
        restored.stop(StopMode::Fast).await?;
        restored.checksums_clean().await
    });
}

/// A restore into a directory on a small disk, over and over.
struct Target<'a> {
    seawall: &'a Seawall,
    scratch: &'a Scratch,
    disk: Tmpfs,
    data: PathBuf,
    args: Vec<String>,
}

impl Target<'_> {
    fn spawn(&self) -> Result<tokio::process::Child> {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let mut command = tokio::process::Command::from(self.seawall.restore.command(&args));
        command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped());
        Ok(command.kill_on_drop(true).spawn()?)
    }

    /// Neither killed nor short of space.
    async fn complete(&self) -> Result<Duration> {
        let begun = Instant::now();
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        self.seawall.restore.run_ok(&args).await?;
        Ok(begun.elapsed())
    }

    async fn cannot_start(&self) -> Result<()> {
        // Where the files that a start looks at first are whole, it is tried.
        let is_whole = |name: &str, text: &str| {
            fs::read(self.data.join(name)).is_ok_and(|bytes| bytes.starts_with(text.as_bytes()))
        };
        if is_whole("PG_VERSION", "15") && is_whole("postgresql.conf", "#") {
            let server = Cluster::adopt(self.scratch, "target", &self.data)?;
            ensure!(server.start().await.is_err(), "half a cluster started");
        }
        Ok(())
    }

    /// Ends by SIGKILL after `life`, unless it was quicker; true when it was.
    async fn killed_after(&self, life: Duration) -> Result<bool> {
        let mut child = self.spawn()?;
        match within("wal-restore", life, child.wait()).await {
            Ok(status) => {
                let status = status?;
                ensure!(status.success(), "the restore ended with {status}");
                Ok(true)
            }
            Err(_) => {
                child.kill().await?;
                Ok(false)
            }
        }
    }

    /// After `life` no byte is left on the disk; true when the restore was quicker.
    async fn full_after(&self, life: Duration) -> Result<bool> {
        let child = self.spawn()?;
        moment(life).await;
        let filler = self.disk.path().join("filler");
        let mut file = File::create(&filler)?;
        while file.write_all(&[1; 1 << 16]).is_ok() {}
        let output = within("wal-restore", DEADLINE, child.wait_with_output()).await??;
        fs::remove_file(&filler)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success() || said.contains("No space left") || said.contains("not enough space"),
            "it does not say that the disk is full: {said}"
        );
        Ok(output.status.success())
    }
}

fn kills() -> Result<u64> {
    match std::env::var("SEAWALL_KILLS") {
        Ok(text) => text.parse().context("SEAWALL_KILLS is no number"),
        Err(_) => Ok(KILLS),
    }
}

#[test]
fn a_restore_that_was_cut_off_anywhere_never_starts_and_is_gone_on_with() {
    case_for("restore_cut_off", Duration::from_secs(3600), async |scratch| {
        let (cluster, seawall) = backed_up(&scratch, 3).await?;
        cluster.stop(StopMode::Fast).await?;
        let disk = Tmpfs::mount(&scratch, "disk", 390)?;
        let (data, fast) = (disk.path().join("data"), disk.path().join("fast"));
        let map = format!("{}={}", cluster.tablespaces()[0].1.display(), fast.display());
        let args = [
            "--target",
            "latest",
            "--pgdata",
            &data.display().to_string(),
            "--tablespace-map",
            &map,
        ];
        let target = Target {
            seawall: &seawall,
            scratch: &scratch,
            args: args.map(str::to_owned).to_vec(),
            data,
            disk,
        };
        let whole = target.complete().await?;
        let reference = scratch.dir("reference")?;
        let keep = |from: &Path, name: &str| {
            let to = reference.join(name);
            let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(&to).status();
            copied
                .is_ok_and(|status| status.success())
                .then_some(to)
                .context("could not copy")
        };
        let (whole_data, whole_fast) = (keep(&target.data, "data")?, keep(&fast, "fast")?);
        let empty = || {
            fs::remove_dir_all(&target.data)?;
            fs::remove_dir_all(&fast)
        };
        empty()?;

        let mut rng = Rng::named("restore_cut_off");
        let (mut cut, mut full, mut finished) = (0, 0, 0);
        for round in 1..=kills()? {
            let life = Duration::from_micros(rng.between(1_000, whole.as_micros() as u64));
            let is_done = match round % 10 {
                0 => {
                    full += 1;
                    target.full_after(life).await?
                }
                _ => target.killed_after(life).await?,
            };
            // With pg_control, which comes last, it was killed behind its end: then everything must be there.
            let is_done = is_done || target.data.join("global/pg_control").exists();
            if !is_done {
                cut += 1;
                target.cannot_start().await?;
            }
            // Often it goes on from what several of them left.
            if is_done || rng.one_in(3) {
                if !is_done {
                    target.complete().await?;
                }
                finished += 1;
                tree::assert_same(&whole_data, &target.data, &OF_THE_RESTORE)?;
                tree::assert_same(&whole_fast, &fast, &[])?;
                empty()?;
            }
        }
        if target.data.exists() {
            target.complete().await?;
            tree::assert_same(&whole_data, &target.data, &OF_THE_RESTORE)?;
        } else {
            target.complete().await?;
        }
        println!(
            "{cut} of {} were cut off, {full} by a full disk; {finished} finished",
            kills()?
        );
        ensure!(cut > 0 && full > 0);
        let restored = Cluster::adopt(&scratch, "target", &target.data)?;
        restored.start().await?;
        restored.wait_promoted(DEADLINE).await?;
        pgbench::assert_balanced(&restored).await?;
        restored.amcheck().await?;
        restored.stop(StopMode::Fast).await
    });
}
