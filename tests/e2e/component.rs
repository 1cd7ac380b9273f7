//! A component from the configuration to the repository and back: directories, by hand and on schedule, kept by rules of their own, beside a
//! cluster that knows nothing of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use tests::case::case;
use tests::config_file::ConfigFile;
use tests::seawall::{json_array, json_str, json_u64};
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall, Tmpfs, tree, user, wait_until};

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const REFUSED: i32 = 3;

/// Bytes that do not compress, and are the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    store::testing::bytes_of(seed, len).to_vec()
}

fn uploads(scratch: &Scratch) -> Result<PathBuf> {
    let uploads = scratch.dir("srv/uploads")?;
    fs::create_dir_all(uploads.join("a/b"))?;
    fs::write(uploads.join("a/b/big"), noise(1, 5_000_000))?;
    fs::write(uploads.join("a.txt"), b"text")?;
    fs::write(uploads.join("a/left.tmp"), b"left out")?;
    std::os::unix::fs::symlink("a.txt", uploads.join("link"))?;
    give_all(&uploads)?;
    Ok(uploads)
}

fn give_all(root: &Path) -> Result<()> {
    user::give(root)?;
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        if path.is_dir() {
            give_all(&path)?;
        } else if !path.is_symlink() {
            user::give(&path)?;
        }
    }
    Ok(())
}

fn config(scratch: &Scratch, cluster: &Cluster, uploads: &Path) -> Result<ConfigFile> {
    Seawall::local_config(scratch, cluster)?
        .set("component.uploads.kind", "files")?
        .set("component.uploads.paths", vec![uploads.display().to_string()])?
        .set("component.uploads.exclude", vec!["*.tmp".to_owned()])
}

async fn components(seawall: &Seawall) -> Result<Vec<Value>> {
    Ok(json_array(&seawall.list().await?, "components")?.clone())
}

async fn take(seawall: &Seawall) -> Result<Value> {
    let report = seawall.agent.run_ok(&["backup", "uploads", "--json"]).await?.json()?;
    Ok(json_array(&report, "backups")?[0].clone())
}

async fn bring_back(seawall: &Seawall, to: &Path, more: &[&str]) -> Result<Value> {
    let to = to.display().to_string();
    let arguments = [&["component", "uploads", "--json", "--to", &to], more].concat();
    seawall.restore.run_ok(&arguments).await?.json()
}

#[test]
fn directories_are_captured_beside_a_cluster_and_come_back() {
    case("component", async |scratch| {
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .create(&scratch, "main")
            .await?;
        let uploads = uploads(&scratch)?;
        let config = config(&scratch, &cluster, &uploads)?
            .set("component.uploads.keep_last", 1)?
            .set("cluster.main.retention.keep_last", 1)?;
        let seawall = Seawall::configure(config)?;
        seawall.init().await?;
        let agent = seawall.run().await?;
        cluster.exec("create table t as select 1 as i").await?;
        let of_cluster = seawall.backup().await?;

        let first = take(&seawall).await?;
        assert_eq!((json_u64(&first, "files")?, json_str(&first, "kind")?), (2, "files"));
        let before = scratch.join("before");
        copy(&uploads, &before)?;
        fs::write(uploads.join("a.txt"), b"another text")?;
        fs::remove_file(uploads.join("link"))?;
        let second = take(&seawall).await?;
        assert!(json_u64(&second, "new_stored_bytes")? < 20_000, "{second}");
        assert_eq!(json_str(&second, "parent")?, json_str(&first, "backup")?);

        // Each comes back as it was; nothing of the cluster's is disturbed by them.
        let below = |to: &Path| to.join(uploads.strip_prefix("/").unwrap());
        let (one, two) = (scratch.join("one"), scratch.join("two"));
        let report = bring_back(&seawall, &one, &["--backup", json_str(&first, "backup")?]).await?;
        assert_eq!(report["differs"], serde_json::json!([]), "{report}");
        tree::assert_same(&before, &below(&one), &["a/left.tmp"])?;
        let asked = bring_back(&seawall, &two, &["--dry-run"]).await?;
        assert!(!two.exists() && json_u64(&asked, "made")? == 2, "{asked}");
        bring_back(&seawall, &two, &[]).await?;
        tree::assert_same(&uploads, &below(&two), &["a/left.tmp"])?;
        let full = two.display().to_string();
        let again = seawall.restore.run(&["component", "uploads", "--to", &full]).await?;
        again.assert_refused(REFUSED, &["not empty"])?;
        let over = bring_back(&seawall, &two, &["--over", "--at", json_str(&first, "finished")?]).await?;
        assert_eq!(
            (json_u64(&over, "replaced")?, json_u64(&over, "same")?),
            (1, 1),
            "{over}"
        );
        assert_eq!(fs::read(below(&two).join("a.txt"))?, b"text");
        let path = uploads.join("a.txt").display().to_string();
        let printed = seawall
            .restore
            .run_ok(&["component", "uploads", "--cat", &path])
            .await?;
        assert_eq!(printed.stdout, "another text");
        let listed = seawall.restore.run_ok(&["component", "uploads", "--list"]).await?;
        assert!(
            listed.stdout.contains("a/b/big") && !listed.stdout.contains("left.tmp"),
            "{}",
            listed.stdout
        );

        // What is not there is named.
        let none = seawall.restore.run(&["component", "cache", "--list"]).await?;
        none.assert_refused(REFUSED, &["no backup of component \"cache\"", "uploads"])?;
        let none = seawall.agent.run(&["backup", "cache"]).await?;
        none.assert_refused(USAGE, &["component \"cache\" is not in the configuration"])?;
        let id = json_str(&second, "backup")?;
        let pgdata = scratch.join("pgdata").display().to_string();
        let wrong = ["--pgdata", &pgdata, "--target", "latest", "--backup", id];
        seawall
            .restore
            .run(&wrong)
            .await?
            .assert_refused(REFUSED, &["of the component \"uploads\""])?;
        let list = seawall.list().await?;
        assert_eq!(
            (
                json_array(&list, "backups")?.len(),
                json_array(&list, "components")?.len()
            ),
            (1, 2)
        );
        let restored = seawall.restore_to("cluster", &["--target", "latest"]).await?;
        assert_eq!(restored.query_one("select i from t").await?, "1");

        // Rules of its own: the older one goes, the cluster's backup does not.
        let verified = seawall.agent.run(&["verify", "--all"]).await?;
        assert_eq!(verified.code(), 0, "{}", verified.stdout);
        seawall.agent.run_ok(&["prune", "--json"]).await?;
        let kept = components(&seawall).await?;
        assert_eq!(kept.len(), 1);
        assert_eq!(json_str(&kept[0], "backup")?, id);
        assert_eq!(
            json_array(&seawall.list().await?, "backups")?[0]["backup"],
            of_cluster["backup"]
        );
        agent.stop(DEADLINE).await?;
        seawall.age_repository(Duration::from_secs(3 * 86_400))?;
        seawall.agent.run_ok(&["prune", "--json"]).await?;
        let three = scratch.join("three");
        bring_back(&seawall, &three, &[]).await?;
        tree::assert_same(&uploads, &below(&three), &["a/left.tmp"])?;
        Ok(())
    });
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().unwrap());
        if path.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&path)?, target)?;
        } else if path.is_dir() {
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

#[test]
fn what_fails_is_not_listed_and_what_runs_around_it_is_told() {
    case("component_faults", async |scratch| {
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .create(&scratch, "main")
            .await?;
        let uploads = uploads(&scratch)?;
        let script = |name: &str, text: &str| -> Result<String> {
            let path = scratch.write(name, format!("#!/bin/sh\n{text}\n"))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            Ok(path.display().to_string())
        };
        let said = scratch.dir("said")?;
        user::give(&said)?;
        let before = script(
            "before.sh",
            &format!(
                "echo $SEAWALL_COMPONENT > {}/before; test ! -e {}/no",
                said.display(),
                said.display()
            ),
        )?;
        let after = script("after.sh", &format!("touch {}/after", said.display()))?;
        let config = config(&scratch, &cluster, &uploads)?
            .set("component.uploads.before", vec![before])?
            .set("component.uploads.after", vec![after])?
            .set("cluster.main.backup.rate_max", "1MiB")?;
        let seawall = Seawall::configure(config)?;
        seawall.init().await?;

        // The program before it says no: nothing is captured.
        scratch.write("said/no", b"")?;
        let refused = seawall.agent.run(&["backup", "uploads"]).await?;
        refused.assert_refused(FAILED, &["before.sh", "failed"])?;
        assert_eq!(fs::read_to_string(said.join("before"))?.trim(), "uploads");
        // What it has made in part must not stay.
        assert!(said.join("after").exists());
        fs::remove_file(said.join("after"))?;
        fs::remove_file(said.join("no"))?;

        // Killed in the middle: it takes five seconds at least.
        let mut killed = seawall.agent.start(&["backup", "uploads"])?;
        wait_until("the capture to begin", DEADLINE, async || {
            fs::read_dir(seawall.repository().join("clusters/main/intents")).is_ok_and(|mut all| all.next().is_some())
        })
        .await?;
        assert!(killed.ended().is_none(), "{}", killed.log());
        killed.kill9()?;
        assert_eq!(components(&seawall).await?.len(), 0);

        // A file that nobody may read, where this is not root: the capture fails, and says which.
        if user::server_user().is_some() {
            let secret = uploads.join("secret");
            fs::write(&secret, b"x")?;
            fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
            let unreadable = seawall.agent.run(&["backup", "uploads"]).await?;
            assert_eq!(unreadable.code(), FAILED, "{}", unreadable.stderr);
            assert!(unreadable.stderr.contains("secret"), "{}", unreadable.stderr);
            assert_eq!(components(&seawall).await?.len(), 0);
            fs::remove_file(secret)?;
        }
        assert!(said.join("after").exists());
        take(&seawall).await?;

        // A restore onto a disk that is too small fails, and goes on when there is room.
        let disk = Tmpfs::mount(&scratch, "disk", 3)?;
        let to = disk.path().join("here");
        let full = seawall
            .restore
            .run(&["component", "uploads", "--to", &to.display().to_string()])
            .await?;
        assert_eq!(full.code(), FAILED, "{}", full.stderr);
        assert!(full.stderr.contains("No space left on device"), "{}", full.stderr);
        let marker = to.join(components::restore::MARKER);
        assert!(marker.exists());
        // With a part of it nothing is gone on with: the rest would stay half there, and look whole.
        let place = to.display().to_string();
        let part = [
            "component",
            "uploads",
            "--to",
            &place,
            "--path",
            &uploads.display().to_string(),
        ];
        let refused = seawall.restore.run(&part).await?;
        refused.assert_refused(3, &["another part of this backup"])?;
        assert!(marker.exists());
        disk.make_room()?;
        bring_back(&seawall, &to, &["--over"]).await?;
        assert!(!marker.exists());
        tree::assert_same(&uploads, &to.join(uploads.strip_prefix("/").unwrap()), &["a/left.tmp"])?;
        Ok(())
    });
}

#[test]
fn the_daemon_captures_on_schedule_and_says_so() {
    case("component_schedule", async |scratch| {
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .create(&scratch, "main")
            .await?;
        let uploads = uploads(&scratch)?;
        let config = config(&scratch, &cluster, &uploads)?.set("component.uploads.schedule", "1h")?;
        let seawall = Seawall::configure(config)?;
        seawall.init().await?;
        let agent = seawall.run().await?;
        wait_until("the first capture", DEADLINE, async || {
            components(&seawall).await.is_ok_and(|all| all.len() == 1)
        })
        .await?;
        wait_until("status to say so", DEADLINE, async || {
            let status = seawall.agent.run(&["status"]).await;
            status.is_ok_and(|status| status.stdout.contains("backup uploads: next"))
        })
        .await?;
        let good = seawall.agent.run_ok(&["check", "--json"]).await?.json()?;
        let areas = json_array(&good, "areas")?;
        assert!(
            areas
                .iter()
                .any(|area| area["area"] == "component uploads" && area["state"] == "files"),
            "{good}"
        );
        fs::rename(&uploads, uploads.with_extension("away"))?;
        let away = seawall.agent.run(&["check"]).await?;
        assert_eq!(away.code(), REFUSED, "{}", away.stdout);
        assert!(
            away.stdout.contains("cannot find") && away.stdout.contains("No such file"),
            "{}",
            away.stdout
        );
        agent.stop(DEADLINE).await?;
        Ok(())
    });
}
