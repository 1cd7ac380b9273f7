//! A restored, never started cluster, and what a fault may do to copies of it: end or wait, never promote.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::scratch::write_private;
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall, StopMode, Weed, user, wait_until};

/// A server that has not ended by then is one that waits; both are right.
const PATIENCE: Duration = Duration::from_secs(20);
const ROWS: &str = "5007";

/// Something that goes wrong, and is repaired.
pub(crate) struct Fault<'a> {
    set: Box<dyn Fn() -> Result<()> + 'a>,
    repair: Box<dyn Fn() -> Result<()> + 'a>,
    /// Whether `wal-get` itself can be asked while it lasts.
    direct: bool,
}

impl<'a> Fault<'a> {
    pub(crate) fn new(set: impl Fn() -> Result<()> + 'a, repair: impl Fn() -> Result<()> + 'a) -> Self {
        Self {
            set: Box::new(set),
            repair: Box::new(repair),
            direct: true,
        }
    }

    pub(crate) fn indirect(mut self) -> Self {
        self.direct = false;
        self
    }
}

pub(crate) struct Stage {
    pub(crate) seawall: Seawall,
    /// In the middle of the WAL that recovery needs.
    pub(crate) segment: String,
    /// A restore key of another installation: whole, and not the one.
    pub(crate) foreign_key: String,
    /// Restored and never touched again: copies are made of it.
    base: PathBuf,
    /// A copy whose WAL is asked for directly. What is fetched ahead for it comes and goes in it, at any time.
    asked: PathBuf,
    scratch: Scratch,
    copies: Cell<u32>,
    /// Two copies, with a target and with an open end, that every fault is tried on; none: each fault has copies of its own.
    shared: Option<[Cluster; 2]>,
}

impl Stage {
    pub(crate) async fn local(scratch: &Scratch, major: u32) -> Result<Self> {
        let cluster = create(scratch, major).await?;
        let seawall = Seawall::local(scratch, &cluster).await?;
        Self::set(scratch, seawall, cluster).await
    }

    pub(crate) async fn s3(scratch: &Scratch, major: u32, weed: &Weed) -> Result<Self> {
        let cluster = create(scratch, major).await?;
        let seawall = Seawall::s3(scratch, &cluster, weed).await?;
        Self::set(scratch, seawall, cluster).await
    }

    /// The cheaper one: each fault is tried on the same two directories, and these recover at the end, in [`Stage::end`].
    pub(crate) async fn shared(scratch: &Scratch, major: u32) -> Result<Self> {
        let mut stage = Self::local(scratch, major).await?;
        let program = stage.wrapper()?;
        let copies = [
            stage.copy("with a target", Some(&program), false).await?,
            stage.copy("with an open end", Some(&program), true).await?,
        ];
        stage.shared = Some(copies);
        Ok(stage)
    }

    async fn set(scratch: &Scratch, seawall: Seawall, cluster: Cluster) -> Result<Self> {
        let foreign_key = foreign_key(&seawall, scratch).await?;
        let agent = seawall.run().await?;
        cluster.exec("create table t (i int)").await?;
        seawall.backup().await?;
        let mut segment = String::new();
        for round in 1..=5 {
            let sql = "insert into t select generate_series(1, 1000)";
            cluster.exec(sql).await?;
            if round == 3 {
                let sql = "select pg_walfile_name(pg_current_wal_flush_lsn())";
                segment = cluster.query_one(sql).await?;
            }
            cluster.switch_wal().await?;
        }
        cluster.exec("insert into t select generate_series(1, 7)").await?;
        seawall.wait_archived(&cluster).await?;
        agent.stop(DEADLINE).await?;
        cluster.kill9()?;
        cluster.destroy_data_directory()?;
        let base = seawall.restore_files("base", &["--target", "latest"]).await?;
        let asked = scratch.dir("asked")?.join("data");
        copy_directory(&base, &asked).await?;
        Ok(Self {
            seawall,
            segment,
            foreign_key,
            base,
            asked,
            scratch: scratch.clone(),
            copies: Cell::new(0),
            shared: None,
        })
    }

    /// A program that ends as the kernel ends one when memory is short, in the middle of one segment, while the file
    /// [`Stage::killing`] exists. Otherwise it is `wal-restore`.
    pub(crate) fn wrapper(&self) -> Result<String> {
        let script = format!(
            "#!/bin/sh\nif [ \"$2\" = {} ] && [ -e {} ]; then\n  {program} \"$@\" & kill -9 $!\n  wait $!\n  exit $?\nfi\nexec {program} \"$@\"\n",
            self.segment,
            self.killing().display(),
            program = self.seawall.restore.path().display(),
        );
        let wrapper = self.scratch.write("etc/wrapper.sh", script)?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o700))?;
        Ok(wrapper.display().to_string())
    }

    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    pub(crate) fn killing(&self) -> PathBuf {
        self.scratch.join("kill")
    }

    /// The object that holds the segment.
    pub(crate) fn victim(&self) -> Result<PathBuf> {
        let mut objects = self.seawall.wal_objects(&self.segment)?;
        objects.sort_by_key(|path| path.metadata().map_or(0, |meta| meta.len()));
        objects
            .pop()
            .with_context(|| format!("no object of segment {}", self.segment))
    }

    /// Asks `wal-get` itself, and insists on its exit code and on what that promises.
    pub(crate) async fn get(&self, file: &str, code: i32) -> Result<()> {
        let destination = self.scratch.dir("direct")?.join("RECOVERYXLOG");
        let (path, asked) = (destination.display().to_string(), self.asked.display().to_string());
        let output = self
            .seawall
            .restore
            .run(&["wal-get", file, &path, "--pgdata", &asked])
            .await?;
        output.assert_code(code)?;
        if code == 0 {
            fs::remove_file(&destination)?;
        } else {
            ensure!(!destination.exists(), "code {code}, and a file all the same");
        }
        if code > 1 {
            ensure!(
                output.stderr.contains(file),
                "it does not say what failed: {}",
                output.stderr
            );
        }
        Ok(())
    }

    /// 0 for what is there; 1 for what is proven not to be there, which PostgreSQL asks for routinely.
    pub(crate) async fn answers_when_all_is_well(&self) -> Result<()> {
        self.get(&self.segment, 0).await?;
        self.get("00000001.history", 1).await?;
        self.get("00000002.history", 1).await?;
        self.get("000000010000000F000000F0", 1).await?;
        self.get("not-a-wal-file", 255).await?;
        let untouched = self.copy("healthy", None, true).await?;
        self.recovers(untouched).await
    }

    pub(crate) async fn survives(&self, name: &str, fault: &Fault<'_>) -> Result<()> {
        self.survives_with(name, fault, None).await
    }

    /// Breaks, looks, repairs, looks again: with `wal-get` alone and with two servers.
    pub(crate) async fn survives_with(&self, name: &str, fault: &Fault<'_>, command: Option<&str>) -> Result<()> {
        let run = async {
            if fault.direct {
                (fault.set)()?;
                self.get(&self.segment, 255).await?;
                (fault.repair)()?;
                self.get(&self.segment, 0).await?;
            }
            for (at, open_end) in [false, true].into_iter().enumerate() {
                (fault.set)()?;
                if let Some(copies) = &self.shared {
                    self.fail_on(&copies[at], name, open_end).await?;
                    (fault.repair)()?;
                } else {
                    let failed = self.fail(name, command, open_end).await?;
                    (fault.repair)()?;
                    self.recovers(failed).await?;
                }
            }
            anyhow::Ok(())
        };
        Box::pin(run).await.with_context(|| name.to_owned())
    }

    /// After all faults the shared copies recover as if nothing had been.
    pub(crate) async fn end(self) -> Result<()> {
        let copies = self.shared.as_ref().context("nothing is shared")?;
        for copy in copies {
            self.recover(copy).await?;
        }
        Ok(())
    }

    /// Starts a copy into the fault. It ends or it waits; it has not promoted.
    pub(crate) async fn fail(&self, name: &str, command: Option<&str>, open_end: bool) -> Result<Cluster> {
        let server = self.copy(name, command, open_end).await?;
        self.fail_on(&server, name, open_end).await?;
        Ok(server)
    }

    async fn fail_on(&self, server: &Cluster, name: &str, open_end: bool) -> Result<()> {
        let before = server.server_log().len();
        let log = || server.server_log().split_off(before);
        server.launch().await?;
        wait_until("the server to begin", DEADLINE, async || {
            log().contains("starting PostgreSQL")
        })
        .await?;
        let ended = server.wait_down(PATIENCE).await.is_ok();
        let log = log();
        println!("{name}, open end {open_end}: {}", if ended { "ended" } else { "waits" });
        for line in log.lines().filter(|line| line.contains("FATAL")) {
            println!("  {line}");
        }
        ensure!(
            !server.has_left_timeline(1)? && !log.contains("selected new timeline"),
            "promoted early:\n{log}"
        );
        if !ended {
            let answer = server.query_one("select pg_is_in_recovery()").await;
            ensure!(!answer.is_ok_and(|answer| answer == "f"), "left recovery:\n{log}");
            // Not killed: that would leave the tool behind, at work in the directory.
            server.stop(StopMode::Immediate).await?;
        }
        Ok(())
    }

    /// After the repair the same directory recovers to the end.
    pub(crate) async fn recovers(&self, server: Cluster) -> Result<()> {
        self.recover(&server).await
    }

    async fn recover(&self, server: &Cluster) -> Result<()> {
        server.start().await?;
        server.wait_promoted(DEADLINE).await?;
        let rows = server.query_one("select count(*) from t").await?;
        ensure!(rows == ROWS, "{rows} rows of {ROWS}");
        ensure!(server.has_left_timeline(1)?, "promoted without a timeline of its own");
        Ok(())
    }

    async fn copy(&self, name: &str, command: Option<&str>, open_end: bool) -> Result<Cluster> {
        let n = self.copies.replace(self.copies.get() + 1);
        let place = format!("c{n}");
        let target = self.scratch.dir(&place)?.join("data");
        copy_directory(&self.base, &target).await.context(name.to_owned())?;
        let mut server = Cluster::adopt(&self.scratch, &place, &target)?;
        // As the restore wrote it, but for this copy: what is fetched ahead belongs to one directory.
        let program = match command {
            Some(wrapper) => wrapper.to_owned(),
            None => self.seawall.restore.path().display().to_string(),
        };
        let config = self.scratch.join("etc/seawall.toml");
        let command = format!(
            "SEAWALL_CONFIG={} {program} wal-get %f %p --pgdata {}",
            config.display(),
            target.display()
        );
        server.override_setting("restore_command", &command);
        if open_end {
            server.override_setting("recovery_target_lsn", "");
            server.override_setting("recovery_target_action", "promote");
        }
        Ok(server)
    }
}

async fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    let mut cp = user::command("cp");
    cp.arg("-a").arg(from).arg(to);
    user::run(cp, DEADLINE).await.map(drop)
}

async fn create(scratch: &Scratch, major: u32) -> Result<Cluster> {
    Cluster::builder(major)
        .segment_size_mib(1)
        .setting("autovacuum", "off")
        .create(scratch, "main")
        .await
}

async fn foreign_key(seawall: &Seawall, scratch: &Scratch) -> Result<String> {
    let directory = scratch.dir("other-keys")?;
    let repository = format!("file://{}", scratch.join("other-repo").display());
    let config = seawall
        .config
        .clone()
        .set("keys.directory", directory.display().to_string())?
        .set("repository.url", repository)?
        .set("cluster.main.wal.slot", "another")?;
    let other = Seawall::configure_as(config, "other")?;
    other.init().await?;
    let key = directory.join("restore.key");
    ensure!(key.is_file(), "no restore.key in {}", directory.display());
    Ok(key.display().to_string())
}

/// The whole content at once, as the server user wrote it.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> Result<()> {
    write_private(path, content)
}

pub(crate) fn change_byte(content: &[u8], at: usize) -> Vec<u8> {
    let mut changed = content.to_vec();
    changed[at] ^= 0x20;
    changed
}
