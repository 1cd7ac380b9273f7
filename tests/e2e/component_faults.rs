//! Each kind of component, and what goes away in the middle: what is captured, where it goes to, the disk that it comes back on. Each time it is
//! said and nothing is listed that is not whole; and when what went away is back, the same command does it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "component_faults/systems.rs"]
mod systems;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use systems::{ALL, Systems, bring_back, git, listed, take};
use tests::fault_s3::{Fault, Method, Rule};
use tests::redis::Redis;
use tests::wait::DEADLINE;
use tests::{Child, FaultS3, Scratch, Seawall, Tmpfs, case, wait_until};

const FAILED: i32 = 1;
/// So many MiB of content are captured at a rate that takes some seconds.
const MUCH_MIB: usize = 12;

/// A capture that was started ends with an error, which says so, and lists nothing.
async fn assert_fails(seawall: &Seawall, mut capture: Child, name: &str, words: &[&str]) -> Result<()> {
    let status = capture.wait(DEADLINE).await?;
    let log = capture.log();
    ensure!(status.code().is_some_and(|code| code != 0), "{name}: {status}\n{log}");
    let said = |word: &&&str| !log.contains(**word);
    ensure!(words.iter().find(said).is_none(), "{name}: {words:?} in\n{log}");
    ensure!(
        listed(seawall)
            .await?
            .iter()
            .all(|id| !log.contains(&format!("Backup {id}")))
    );
    Ok(())
}

/// Starts a capture, and waits until it reads.
async fn in_the_middle(seawall: &Seawall, name: &str, reads: impl AsyncFn(&Child) -> bool) -> Result<Child> {
    let mut capture = seawall.agent.start(&["backup", name])?;
    let mut is_over = false;
    wait_until(&format!("the capture of {name}"), DEADLINE, async || {
        is_over = capture.ended().is_some();
        is_over || reads(&capture).await
    })
    .await?;
    ensure!(!is_over, "{name} was captured too soon\n{}", capture.log());
    Ok(capture)
}

/// A program that another one has started.
fn child_of(parent: u32, name: &str) -> Option<Pid> {
    let of = |process: PathBuf| {
        let stat = fs::read_to_string(process.join("stat")).ok()?;
        let (head, tail) = stat.rsplit_once(')')?;
        let is_it = head.ends_with(&format!("({name}")) && tail.split_whitespace().nth(1)? == parent.to_string();
        is_it.then(|| head.split(' ').next()?.parse().ok().and_then(Pid::from_raw))?
    };
    fs::read_dir("/proc").ok()?.find_map(|entry| of(entry.ok()?.path()))
}

/// So much was read from files: more than the program and its configuration are, less than there is.
fn has_read(capture: &Child, bytes: u64) -> bool {
    let counters = fs::read_to_string(format!("/proc/{}/io", capture.id())).unwrap_or_default();
    let read = counters.lines().find_map(|line| line.strip_prefix("rchar: "));
    read.is_some_and(|read| read.parse::<u64>().is_ok_and(|read| read > bytes))
}

#[test]
fn what_is_captured_goes_away_in_the_middle() {
    case("component_source_faults", async |scratch: Scratch| {
        let mut systems = Systems::start(&scratch).await?;
        let config = systems.config(Seawall::local_config(&scratch, &systems.cluster)?)?;
        let seawall = Seawall::configure(config.set("cluster.main.backup.rate_max", "2MiB")?)?;
        seawall.init().await?;
        for name in ALL {
            take(&seawall, name).await?;
            systems.grow(name, MUCH_MIB).await?;
        }
        let before = listed(&seawall).await?;

        // A file system: not one file of it is there any more, and none was deleted.
        for name in ["uploads", "settings"] {
            let source = if name == "uploads" {
                &systems.uploads
            } else {
                &systems.settings
            };
            let capture = in_the_middle(&seawall, name, async |capture| has_read(capture, 3 << 20)).await?;
            source.unmount()?;
            assert_fails(&seawall, capture, name, &["its file system went away"]).await?;
            source.mount_again()?;
            systems.grow(name, 2).await?;
        }
        // A server.
        let capture = in_the_middle(&seawall, "cache", async |_| {
            let asked = systems
                .redis
                .client()
                .and_then(|mut client| client.ask("INFO replication"));
            asked.is_ok_and(|said| said.contains("connected_slaves:1"))
        })
        .await?;
        let another = Redis::start(&scratch, "redis-again", "").await?;
        drop(std::mem::replace(&mut systems.redis, another));
        assert_fails(&seawall, capture, "cache", &["redis"]).await?;
        let dumps = "select count(*) from pg_stat_activity where query like 'COPY %'";
        let capture = in_the_middle(&seawall, "dumps", async |_| {
            systems.cluster.query_one(dumps).await.is_ok_and(|count| count != "0")
        })
        .await?;
        systems.cluster.kill9()?;
        assert_fails(&seawall, capture, "dumps", &["server"]).await?;
        systems.cluster.start().await?;
        // A program that reads for us; and then what it reads.
        let capture = in_the_middle(&seawall, "code", async |capture| {
            child_of(capture.id(), "git").is_some()
        })
        .await?;
        let program = wait_for_git(&capture).await?;
        kill_process(program, Signal::KILL)?;
        assert_fails(&seawall, capture, "code", &["git"]).await?;
        assert_eq!(listed(&seawall).await?, before);
        let files = git(&systems.code, &["ls-tree", "HEAD"])?;
        let blob = files.split_whitespace().nth(2).context("no file")?;
        let object = systems.code.join(".git/objects").join(&blob[..2]).join(&blob[2..]);
        let whole = fs::read(&object)?;
        fs::remove_file(&object)?;
        let capture = seawall.agent.start(&["backup", "code"])?;
        assert_fails(&seawall, capture, "code", &["git"]).await?;
        fs::write(&object, whole)?;
        assert_eq!(listed(&seawall).await?, before);

        // What was listed before is whole, and so is what is captured now.
        let config = systems.config(Seawall::local_config(&scratch, &systems.cluster)?)?;
        let again = Seawall::configure(config)?;
        systems.grow("cache", 1).await?;
        for name in ALL {
            let old = bring_back(&again, name, &scratch.join(format!("old-{name}"))).await?;
            assert_eq!(old["differs"], serde_json::json!([]), "{name}");
            take(&again, name).await?;
            let to = scratch.join(format!("new-{name}"));
            let report = bring_back(&again, name, &to).await?;
            systems.assert_back(name, &to, &report)?;
        }
        Ok(())
    });
}

/// The program that packs, not the ones before it that only ask.
async fn wait_for_git(capture: &Child) -> Result<Pid> {
    let mut found = None;
    wait_until("git to pack", DEADLINE, async || {
        found = child_of(capture.id(), "git").filter(|pid| {
            let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
            line.is_ok_and(|line| String::from_utf8_lossy(&line).contains("pack-objects"))
        });
        found.is_some()
    })
    .await?;
    found.context("no git")
}

#[test]
fn the_disk_is_full_where_it_goes_and_where_it_comes_back() {
    case("component_disk_faults", async |scratch: Scratch| {
        let systems = Systems::start(&scratch).await?;
        let disk = Tmpfs::mount(&scratch, "disk", 100)?;
        let url = format!("file://{}/repo", disk.path().display());
        let config = Seawall::local_config(&scratch, &systems.cluster)?.set("repository.url", url)?;
        let seawall = Seawall::configure(systems.config(config)?)?;
        seawall.init().await?;
        for name in ALL {
            take(&seawall, name).await?;
            systems.grow(name, MUCH_MIB).await?;
            let before = listed(&seawall).await?;
            disk.leave_room(3)?;
            let full = seawall.agent.run(&["backup", name]).await?;
            full.assert_refused(FAILED, &["No space left on device", "was not captured"])
                .context(name)?;
            assert_eq!(listed(&seawall).await?, before, "{name}");
            bring_back(&seawall, name, &scratch.join(format!("old-{name}"))).await?;
            disk.make_room()?;
            take(&seawall, name).await?;
        }
        let verified = seawall.agent.run(&["verify", "--all"]).await?;
        assert_eq!(verified.code(), 0, "{}{}", verified.stdout, verified.stderr);

        // In the middle of the files; and, of a repository, in the middle of what is made of them.
        for (name, mib) in ALL.iter().map(|name| (*name, 4)).chain([("code", 20)]) {
            let small = Tmpfs::mount(&scratch, &format!("small-{name}-{mib}"), mib)?;
            let to = small.path().join("here");
            let target = to.display().to_string();
            let arguments = ["component", name, "--json", "--to", &target];
            let full = seawall.restore.run(&arguments).await?;
            ensure!(full.code() == FAILED, "{name}: {}{}", full.stdout, full.stderr);
            ensure!(
                full.stderr.contains("No space left on device"),
                "{name}: {}",
                full.stderr
            );
            ensure!(to.join(components::restore::MARKER).exists(), "{name}: it looks whole");
            small.make_room()?;
            let report = bring_back(&seawall, name, &to).await?;
            systems.assert_back(name, &to, &report)?;
        }
        Ok(())
    });
}

#[test]
fn the_store_goes_away_in_the_middle() {
    case("component_store_faults", async |scratch: Scratch| {
        let systems = Systems::start(&scratch).await?;
        let mut server = FaultS3::start().await?;
        let config = Seawall::s3_config(&scratch, &systems.cluster, &server).await?;
        let seawall = Seawall::configure(systems.config(config)?)?;
        seawall.init().await?;
        for name in ALL {
            take(&seawall, name).await?;
            systems.grow(name, MUCH_MIB).await?;
            let before = listed(&seawall).await?;
            // Rights are taken away before the first pack, and before the manifest: all else is there.
            for kind in ["packs/", "backups/"] {
                server
                    .faults()
                    .add(Rule::new(Fault::AccessDenied).on(Method::Put).key(kind));
                let denied = seawall.agent.run(&["backup", name]).await?;
                ensure!(denied.code() != 0, "{name} {kind}: {}", denied.stdout);
                denied.assert_refused(denied.code(), &["was not captured"])?;
                server.faults().heal();
                assert_eq!(listed(&seawall).await?, before, "{name} {kind}");
            }
            let old = bring_back(&seawall, name, &scratch.join(format!("old-{name}"))).await?;
            assert_eq!(old["differs"], serde_json::json!([]), "{name}");

            // Away while packs are on their way, and back: the capture waits, and is whole.
            server
                .faults()
                .add(Rule::new(Fault::Hold).on(Method::Put).key("packs/"));
            let mut capture = seawall.agent.start(&["backup", name])?;
            wait_until("a pack on its way", DEADLINE, async || server.faults().held() > 0).await?;
            server.die().await?;
            server.faults().heal();
            server.faults().release();
            capture.wait_for_log("request failed", DEADLINE).await?;
            server.revive().await?;
            let status = capture.wait(DEADLINE).await?;
            ensure!(status.success(), "{name}: {status}\n{}", capture.log());
            let to = scratch.join(format!("new-{name}"));
            let report = bring_back(&seawall, name, &to).await?;
            systems.assert_back(name, &to, &report)?;
        }
        Ok(())
    });
}
