//! One of each kind of component, with content that can grow, and a look at what came back of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::install::pg_bin;
use tests::redis::Redis;
use tests::seawall::{json_array, json_str};
use tests::{Cluster, ConfigFile, Scratch, Seawall, Tmpfs, tree, user};

/// The components.
pub const ALL: [&str; 5] = ["uploads", "settings", "cache", "dumps", "code"];

/// What is captured.
pub struct Systems {
    pub cluster: Cluster,
    pub redis: Redis,
    /// File systems of their own, so that they can go away.
    pub uploads: Tmpfs,
    pub settings: Tmpfs,
    pub code: PathBuf,
    seed: std::cell::Cell<u64>,
}

impl Systems {
    pub async fn start(scratch: &Scratch) -> Result<Self> {
        let cluster = Cluster::builder(15).segment_size_mib(1).create(scratch, "main").await?;
        cluster.exec("create table noise (words text)").await?;
        let systems = Systems {
            redis: Redis::start(scratch, "redis", "").await?,
            uploads: Tmpfs::mount(scratch, "uploads", 100)?,
            settings: Tmpfs::mount(scratch, "settings", 100)?,
            code: scratch.dir("code")?,
            cluster,
            seed: 1.into(),
        };
        git(&systems.code, &["init", "--quiet", "--initial-branch=main"])?;
        for name in ALL {
            systems.grow(name, 1).await?;
        }
        Ok(systems)
    }

    /// A configuration that has all of them.
    pub fn config(&self, base: ConfigFile) -> Result<ConfigFile> {
        base.set("component.uploads.kind", "files")?
            .set("component.uploads.paths", vec![text(self.uploads.path())])?
            .set("component.settings.kind", "config")?
            .set("component.settings.paths", vec![text(self.settings.path())])?
            .set("component.cache.kind", "redis")?
            .set("component.cache.address", format!("127.0.0.1:{}", self.redis.port))?
            .set("component.cache.server", text(&self.redis.program))?
            .set("component.dumps.kind", "postgres-dump")?
            .set("component.dumps.bin_directory", text(&pg_bin(15)?))?
            .set("component.code.kind", "git")?
            .set("component.code.repositories", vec![text(&self.code)])
    }

    /// So many MiB more that nothing makes smaller than by half.
    pub async fn grow(&self, name: &str, mib: usize) -> Result<()> {
        for _ in 0..mib {
            self.seed.set(self.seed.get() + 1);
            let (seed, noise) = (self.seed.get(), store::testing::bytes_of(self.seed.get(), 1 << 20));
            match name {
                "uploads" => write(&self.uploads.path().join(format!("{seed}")), &noise)?,
                "settings" => write(&self.settings.path().join(format!("{seed}.conf")), &noise)?,
                "code" => write(&self.code.join(format!("{seed}")), &noise)?,
                "cache" => {
                    let mut client = self.redis.client()?;
                    for (number, part) in noise.chunks(16 << 10).enumerate() {
                        client.ask(&format!("SET noise:{seed}:{number} {}", hex(part)))?;
                    }
                }
                _ => {
                    let words = hex(&noise);
                    let rows = words.as_bytes().chunks(2000).map(String::from_utf8_lossy);
                    let values = rows.map(|row| format!("('{row}')")).collect::<Vec<_>>().join(",");
                    self.cluster.exec(&format!("insert into noise values {values}")).await?;
                }
            }
        }
        if name == "code" {
            git(&self.code, &["add", "--all"])?;
            git(&self.code, &["commit", "--quiet", "-m", "more"])?;
            give_all(&self.code)?;
        }
        Ok(())
    }

    /// What was restored is what there is now.
    pub fn assert_back(&self, name: &str, to: &Path, report: &Value) -> Result<()> {
        ensure!(report["differs"] == serde_json::json!([]), "{name}: {report}");
        ensure!(!to.join(components::restore::MARKER).exists(), "{name}: not complete");
        let below = |source: &Path| to.join(source.strip_prefix("/").unwrap_or(source));
        match name {
            "uploads" => tree::assert_same(self.uploads.path(), &below(self.uploads.path()), &[]),
            "settings" => tree::assert_same(self.settings.path(), &below(self.settings.path()), &[]),
            "code" => {
                let back = below(&self.code).join(".git");
                let log = ["log", "--format=%H", "--stat", "main"];
                ensure!(git(&back, &log)? == git(&self.code, &log)?, "{name}: another history");
                Ok(())
            }
            // Both were loaded, or counted, by their own programs: that is what `differs` says.
            _ => Ok(()),
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content)?;
    user::give(path)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn give_all(root: &Path) -> Result<()> {
    user::give(root)?;
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        match path.is_dir() {
            true => give_all(&path)?,
            false => user::give(&path)?,
        }
    }
    Ok(())
}

pub fn git(directory: &Path, arguments: &[&str]) -> Result<String> {
    let settings = ["user.name=A", "user.email=a@localhost", "safe.directory=*", "gc.auto=0"];
    let done = Command::new("git")
        .arg("-C")
        .arg(directory)
        .args(settings.iter().flat_map(|setting| ["-c", setting]))
        .args(arguments)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

/// Ids of the backups that are listed, of all components.
pub async fn listed(seawall: &Seawall) -> Result<Vec<String>> {
    let list = seawall.list().await?;
    let ids = json_array(&list, "components")?
        .iter()
        .map(|one| json_str(one, "backup"));
    ids.map(|id| id.map(str::to_owned)).collect()
}

pub async fn take(seawall: &Seawall, name: &str) -> Result<()> {
    seawall
        .agent
        .run_ok(&["backup", name])
        .await
        .map(drop)
        .context(name.to_owned())
}

/// The newest backup, into a directory.
pub async fn bring_back(seawall: &Seawall, name: &str, to: &Path) -> Result<Value> {
    let to = text(to);
    let done = seawall
        .restore
        .run_ok(&["component", name, "--json", "--to", &to])
        .await;
    done.context(name.to_owned())?.json()
}
