//! `wal-agent key`: every key is replaced while backups go on, and whatever was stored stays readable for those who may read it; a host whose
//! key was revoked adds nothing that counts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use tests::case::case;
use tests::scratch::write_private;
use tests::seawall::{CLUSTER, json_array, json_str, json_u64};
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall};

/// Exit code: a key is missing or wrong.
const KEY: i32 = 5;
/// Exit code: nothing was changed.
const REFUSED: i32 = 3;

async fn stage(scratch: &Scratch) -> Result<(Cluster, Seawall)> {
    let cluster = Cluster::builder(15).segment_size_mib(1).create(scratch, "main").await?;
    let seawall = Seawall::local(scratch, &cluster).await?;
    cluster.exec("create table t (i bigint)").await?;
    Ok((cluster, seawall))
}

/// The directory of the key files.
fn keys(scratch: &Scratch) -> PathBuf {
    scratch.join("keys")
}

/// A hundred rows more, and a backup of them.
async fn more(cluster: &Cluster, seawall: &Seawall) -> Result<Value> {
    cluster
        .exec("insert into t select (select coalesce(max(i), 0) from t) + g from generate_series(1, 100) g")
        .await?;
    let agent = seawall.run().await?;
    let backup = seawall.backup().await?;
    seawall.wait_archived(cluster).await?;
    agent.stop(DEADLINE).await?;
    Ok(backup)
}

/// The same installation with another restore key file.
fn with_restore_key(seawall: &Seawall, name: &str, key: &Path) -> Result<Seawall> {
    let config = seawall
        .config
        .clone()
        .set("keys.restore_key", key.display().to_string())?;
    Seawall::configure_as(config, name)
}

async fn rows(seawall: &Seawall, name: &str, target: &[&str]) -> Result<String> {
    let restored = seawall.restore_to(name, target).await?;
    restored.query_one("select count(*) from t").await
}

async fn key(seawall: &Seawall, arguments: &[&str]) -> Result<String> {
    let all: Vec<&str> = std::iter::once("key").chain(arguments.iter().copied()).collect();
    Ok(seawall.agent.run_ok(&all).await?.stdout)
}

#[test]
fn keys_are_replaced_one_by_one_and_what_was_stored_stays_readable() {
    case("keys_rotate", async |scratch| {
        let (cluster, seawall) = stage(&scratch).await?;
        let keys = keys(&scratch);
        let at = |name: &str| keys.join(name);
        let text = |path: &Path| path.display().to_string();
        let first = more(&cluster, &seawall).await?;
        let first_end = json_str(&first, "end_lsn")?.to_owned();
        key(&seawall, &["check"]).await?;

        // Two of three parts of the first restore key, on paper.
        let paper = scratch.dir("paper")?;
        let split = [
            "export",
            "--parts",
            "3",
            "--threshold",
            "2",
            "--directory",
            &text(&paper),
        ];
        key(&seawall, &split).await?;
        let part = |number: u32| text(&paper.join(format!("seawall-{CLUSTER}-key-{number}.txt")));
        let imported = scratch.join("imported.key");
        key(&seawall, &["import", &part(3), &part(1), "--output", &text(&imported)]).await?;
        assert_eq!(fs::read(&imported)?, fs::read(at("restore.key"))?);
        let too_few = scratch.join("too-few.key");
        let refused = seawall
            .agent
            .run(&["key", "import", &part(2), "--output", &text(&too_few)])
            .await?;
        assert_eq!(refused.code(), KEY, "{}", refused.stderr);
        assert!(refused.stderr.contains("2 parts are needed, and 1 are here") && !too_few.exists());

        let friend = scratch.join("friend.key");
        key(&seawall, &["add-recipient", "friend", "--output", &text(&friend)]).await?;
        for which in ["host", "maintenance", "restore"] {
            key(&seawall, &["rotate", which]).await?;
            key(&seawall, &["check"]).await?;
            more(&cluster, &seawall).await?;
        }
        let verify = seawall.agent.run_ok(&["verify", "--all", "--json"]).await?.json()?;
        assert!(
            json_array(&verify, "findings")?
                .iter()
                .all(|finding| finding["severity"] != "damage"),
            "{verify}"
        );

        // The new restore key and the friend's open everything, from before they were there as well.
        let as_friend = with_restore_key(&seawall, "friend", &friend)?;
        for (who, name) in [(&seawall, "new"), (&as_friend, "friend")] {
            assert_eq!(
                rows(who, &format!("{name}-latest"), &["--target", "latest"]).await?,
                "400"
            );
            let early = ["--target-lsn", &first_end, "--or-latest"];
            assert_eq!(rows(who, &format!("{name}-first"), &early[..2]).await?, "100");
        }
        // The old one opens what it was made for, and says that it was replaced.
        let replaced = fs::read_dir(&keys)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        let replaced = replaced
            .iter()
            .find(|path| text(path).contains("restore.key.replaced-"))
            .unwrap();
        let before = with_restore_key(&seawall, "before", replaced)?;
        assert_eq!(
            rows(&before, "before-first", &["--target-lsn", &first_end]).await?,
            "100"
        );
        let listed = before.restore.run(&["list"]).await?;
        assert!(
            listed.stderr.contains("it was replaced by another"),
            "{}",
            listed.stderr
        );
        let checked = before.agent.run(&["key", "check"]).await?;
        assert_eq!(checked.code(), KEY);
        let rotated = before.agent.run(&["key", "rotate", "host"]).await?;
        assert_eq!(rotated.code(), KEY, "{}", rotated.stderr);
        assert!(!keys.join("host.key.new").exists());
        // Who can restore can look, without a host's key; and a key that is named is missed.
        let without = seawall
            .config
            .clone()
            .set("keys.host_key", text(&keys.join("none.key")))?;
        let without = Seawall::configure_as(without, "without")?;
        without.agent.run_ok(&["list"]).await?;
        let checked = without.agent.run(&["key", "check"]).await?;
        assert_eq!(checked.code(), KEY);
        assert!(checked.stdout.contains("it is not there"), "{}", checked.stdout);
        let changed = before.agent.run(&["key", "remove-recipient", "friend"]).await?;
        assert_eq!(changed.code(), KEY, "{}", changed.stderr);

        // Nothing new is sealed to who was removed.
        key(&seawall, &["remove-recipient", "friend"]).await?;
        more(&cluster, &seawall).await?;
        let target = scratch.join("removed/data");
        let latest = ["--target", "latest", "--pgdata", &text(&target)];
        let refused = as_friend.restore.run(&latest).await?;
        assert_ne!(refused.code(), 0, "{}", refused.stdout);
        assert!(refused.stderr.contains("key"), "{}", refused.stderr);
        assert!(!target.join("PG_VERSION").exists(), "files were made first");
        assert_eq!(
            rows(&as_friend, "friend-again", &["--target-lsn", &first_end]).await?,
            "100"
        );
        assert_eq!(rows(&seawall, "end", &["--target", "latest"]).await?, "500");
        Ok(())
    });
}

#[test]
fn a_rotation_of_the_restore_key_that_was_interrupted_is_gone_on_with() {
    case("keys_interrupted", async |scratch| {
        let (cluster, seawall) = stage(&scratch).await?;
        let keys = keys(&scratch);
        more(&cluster, &seawall).await?;
        key(&seawall, &["rotate", "restore"]).await?;
        // As it was when the new key had signed nothing yet: the root has changed hands, and the old key is a recipient still.
        let periods = seawall.repository().join("clusters").join(CLUSTER).join("keys");
        let mut by_age = Vec::new();
        for entry in fs::read_dir(&periods)? {
            let path = entry?.path();
            by_age.push((fs::metadata(&path)?.modified()?, path));
        }
        by_age.sort();
        fs::remove_file(&by_age.pop().unwrap().1)?;
        fs::rename(keys.join("restore.key"), keys.join("restore.key.new"))?;
        let replaced = fs::read_dir(&keys)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        let is_replaced = |path: &&PathBuf| path.to_string_lossy().contains("restore.key.replaced-");
        fs::rename(replaced.iter().find(is_replaced).unwrap(), keys.join("restore.key"))?;

        let refused = seawall.agent.run(&["key", "rotate", "host"]).await?;
        assert_eq!(refused.code(), KEY, "{}", refused.stderr);
        key(&seawall, &["rotate", "restore"]).await?;
        key(&seawall, &["check"]).await?;
        key(&seawall, &["rotate", "host"]).await?;
        more(&cluster, &seawall).await?;
        assert_eq!(rows(&seawall, "after", &["--target", "latest"]).await?, "200");
        Ok(())
    });
}

#[test]
fn what_a_revoked_host_writes_does_not_count_and_the_next_backup_sends_everything_again() {
    case("keys_revoke", async |scratch| {
        let (cluster, seawall) = stage(&scratch).await?;
        let keys = keys(&scratch);
        more(&cluster, &seawall).await?;
        let increment = more(&cluster, &seawall).await?;
        assert!(increment["parent"].is_string(), "{increment}");

        // A thief has a copy of all that is on the host; the restore key is elsewhere.
        let stolen = scratch.join("stolen.key");
        write_private(&stolen, &fs::read(keys.join("host.key"))?)?;
        let config = seawall
            .config
            .clone()
            .set("keys.host_key", stolen.display().to_string())?;
        let thief = Seawall::configure_as(config, "thief")?;
        key(&seawall, &["rotate", "host"]).await?;
        let shown = seawall.agent.run_ok(&["key", "show", "--json"]).await?.json()?;
        let signers = json_array(&shown, "signers")?;
        let old = signers.iter().find(|signer| signer["role"] == "host").unwrap();
        let old = json_str(old, "id")?.to_owned();
        let asked = seawall.agent.run(&["key", "revoke", &old]).await?;
        assert_eq!(asked.code(), REFUSED, "{}", asked.stdout);
        assert!(asked.stderr.contains("nothing was changed"), "{}", asked.stderr);
        assert_eq!(thief.agent.run(&["list"]).await?.code(), 0);
        key(&seawall, &["revoke", &old, "--since", "now", "--yes"]).await?;
        let refused = thief.agent.run(&["backup"]).await?;
        assert_eq!(refused.code(), KEY);
        assert!(refused.stderr.contains("was revoked"), "{}", refused.stderr);

        // He goes past our program, and puts a list of keys of his own.
        let objects = seawall.repository().join("clusters").join(CLUSTER);
        write_private(&objects.join("keys/99"), &fs::read(objects.join("keys/1"))?)?;
        let backup = more(&cluster, &seawall).await?;
        assert!(backup["parent"].is_null(), "{backup}");
        assert_eq!(json_u64(&backup, "new_pages")?, json_u64(&backup, "pages")?, "{backup}");
        let next = more(&cluster, &seawall).await?;
        assert!(
            next["parent"].is_string() && json_u64(&next, "new_pages")? < json_u64(&next, "pages")?,
            "{next}"
        );
        let listed = seawall.agent.run_ok(&["list"]).await?;
        assert!(
            listed.stderr.contains("not signed by the root key"),
            "{}",
            listed.stderr
        );

        // All backups can be restored, those of before by what the old key has signed.
        assert_eq!(rows(&seawall, "latest", &["--target", "latest"]).await?, "400");
        let end = json_str(&increment, "end_lsn")?;
        assert_eq!(rows(&seawall, "before", &["--target-lsn", end]).await?, "200");
        // What comes with the old signature from now on does not count, wherever it says that it belongs.
        let manifest = objects.join("backups").join(json_str(&increment, "backup")?);
        let bytes = fs::read(&manifest)?;
        fs::remove_file(&manifest)?;
        write_private(&manifest, &bytes)?;
        let verified = seawall.agent.run(&["verify", "--json"]).await?;
        let findings = json_array(&verified.json()?, "findings")?.clone();
        let is_told = findings
            .iter()
            .any(|finding| finding["reason"].as_str().unwrap().contains("revoked"));
        assert!(is_told, "{findings:?}");
        Ok(())
    });
}

/// The id of the key that this host signed with first.
async fn first_signer(seawall: &Seawall) -> Result<String> {
    let shown = seawall.agent.run_ok(&["key", "show", "--json"]).await?.json()?;
    let signers = json_array(&shown, "signers")?;
    let is_it = |signer: &&Value| signer["role"] == "host" && signer["revoked_us"].is_null();
    Ok(json_str(signers.iter().find(is_it).unwrap(), "id")?.to_owned())
}

/// Segments, and the server lets go of what it need not keep.
async fn write_much(cluster: &Cluster) -> Result<()> {
    for _ in 0..12 {
        cluster
            .exec("insert into t select (select coalesce(max(i), 0) from t) + g from generate_series(1, 10) g; select pg_switch_wal()")
            .await?;
        cluster.exec("checkpoint").await?;
    }
    Ok(())
}

#[test]
fn an_agent_whose_key_is_revoked_ends_before_that_counts_and_its_successor_goes_on() {
    case("keys_revoke_running", async |scratch| {
        let (cluster, seawall) = stage(&scratch).await?;
        let mut agent = seawall.run().await?;
        seawall.backup().await?;
        let old = first_signer(&seawall).await?;
        key(&seawall, &["rotate", "host"]).await?;
        let said = key(&seawall, &["revoke", &old, "--yes"]).await?;
        assert!(said.contains("notices within a minute"), "{said}");
        write_much(&cluster).await?;
        // It looks whom the repository trusts once a minute.
        let ended = agent.wait(Duration::from_secs(120)).await?;
        assert_eq!(ended.code(), Some(KEY), "{}", agent.log());
        write_much(&cluster).await?;
        let agent = seawall.run().await?;
        seawall.wait_archived(&cluster).await?;
        let listed = seawall.list().await?;
        assert!(json_array(&listed, "holes")?.is_empty(), "{listed}");
        assert_eq!(rows(&seawall, "in-time", &["--target", "latest"]).await?, "240");
        agent.stop(DEADLINE).await
    });
}

#[test]
fn what_was_signed_after_a_revocation_is_passed_over_and_stops_no_restore() {
    case("keys_revoke_now", async |scratch| {
        let (cluster, seawall) = stage(&scratch).await?;
        let mut agent = seawall.run().await?;
        let before = seawall.backup().await?;
        cluster.exec("insert into t select generate_series(1, 10)").await?;
        seawall.wait_archived(&cluster).await?;
        let old = first_signer(&seawall).await?;
        key(&seawall, &["rotate", "host"]).await?;
        key(&seawall, &["revoke", &old, "--since", "now", "--yes"]).await?;
        // Confirmed, and it does not count: the server keeps it no longer.
        write_much(&cluster).await?;
        agent.wait(Duration::from_secs(120)).await?;
        let agent = seawall.run().await?;
        let made_up = async || {
            let listed = seawall.list().await.ok()?;
            (json_array(&listed, "backups").ok()?.len() >= 2).then_some(())
        };
        tests::wait::wait_for("a backup by itself, or none that is needed", DEADLINE, made_up)
            .await
            .or(seawall.backup().await.map(drop))?;
        seawall.wait_archived(&cluster).await?;
        agent.stop(DEADLINE).await?;
        assert_eq!(rows(&seawall, "now", &["--target", "latest"]).await?, "130");
        let id = json_str(&before, "backup")?;
        let old_end = rows(
            &seawall,
            "before",
            &["--backup", id, "--target", "latest", "--or-latest"],
        )
        .await?;
        assert!(["10", "130"].contains(&old_end.as_str()), "{old_end}");
        Ok(())
    });
}

/// The same installation, whose restore and maintenance keys are printed by commands.
fn with_commands(seawall: &Seawall, name: &str, restore: &[&str], maintenance: &[&str]) -> Result<Seawall> {
    let config = seawall
        .config
        .clone()
        .set("keys.restore_key_command", restore.to_vec())?
        .set("keys.maintenance_key_command", maintenance.to_vec())?;
    Seawall::configure_as(config, name)
}

#[test]
fn keys_that_commands_print_need_not_lie_on_a_disk() {
    case("keys_command", async |scratch| {
        let (cluster, seawall) = stage(&scratch).await?;
        more(&cluster, &seawall).await?;
        // Out of sight of the configuration; a program knows where they are.
        let safe = scratch.dir("safe")?;
        let in_safe = |name: &str| safe.join(name).display().to_string();
        for name in ["restore.key", "maintenance.key"] {
            fs::rename(keys(&scratch).join(name), safe.join(name))?;
        }
        let without = seawall.restore.run(&["list"]).await?;
        assert_eq!(without.code(), KEY, "{}", without.stderr);

        let (restore, maintenance) = (in_safe("restore.key"), in_safe("maintenance.key"));
        let by_command = with_commands(&seawall, "by-command", &["cat", &restore], &["cat", &maintenance])?;
        assert_eq!(rows(&by_command, "restored", &["--target", "latest"]).await?, "100");
        let verified = by_command.agent.run_ok(&["verify", "--all", "--json"]).await?.json()?;
        assert_eq!(verified["key"], "restore", "{verified}");
        by_command.agent.run_ok(&["prune", "--dry-run"]).await?;
        let checked = key(&by_command, &["check"]).await?;
        assert!(checked.contains("restore_key_command: good"), "{checked}");
        assert!(checked.contains("maintenance_key_command: good"), "{checked}");
        key(
            &by_command,
            &["add-recipient", "friend", "--output", &in_safe("friend.key")],
        )
        .await?;
        let status = by_command.agent.run_ok(&["status", "--json"]).await?.json()?;
        let warned = json_array(&status, "warnings")?;
        let is_told = |warning: &Value| {
            warning
                .as_str()
                .is_some_and(|text| text.contains("restore_key_command"))
        };
        assert!(warned.iter().any(is_told), "{warned:?}");
        // The file that it would write is not the one that the command prints.
        for which in ["restore", "maintenance"] {
            let refused = by_command.agent.run(&["key", "rotate", which]).await?;
            assert_ne!(refused.code(), 0);
            assert!(refused.stderr.contains("go on with the old one"), "{}", refused.stderr);
        }

        // Whatever goes wrong is said, and a secret is never in it.
        let secret = fs::read_to_string(&restore)?;
        let cut = format!("head -c 300 {restore}");
        let fails = format!("cat {restore}; exit 7");
        let commands: [(&[&str], &str); 5] = [
            (&["/no/such/program"], "cannot be run"),
            (&["true"], "not a key file"),
            (&["sh", "-c", &cut], "not a key file"),
            (&["sh", "-c", &fails], "exit status: 7"),
            (&["cat", &maintenance], "not a restore key"),
        ];
        for (number, (command, reason)) in commands.into_iter().enumerate() {
            let wrong = with_commands(&seawall, &format!("wrong-{number}"), command, &[])?;
            let refused = wrong.restore.run(&["list"]).await?;
            assert_eq!(refused.code(), KEY, "{}", refused.stderr);
            assert!(refused.stderr.contains(reason), "{reason}: {}", refused.stderr);
            assert!(refused.stderr.contains("restore_key_command"), "{}", refused.stderr);
            let checked = wrong.agent.run(&["key", "check"]).await?;
            assert_eq!(checked.code(), KEY, "{}", checked.stdout);
            assert!(checked.stdout.contains(reason), "{}", checked.stdout);
            let words = secret.split('"').filter(|word| word.len() == 64);
            assert!(words.into_iter().all(|word| !refused.stderr.contains(word)));
        }
        Ok(())
    });
}
