//! `wal-agent prune`: what the rules do not keep is given up at once and deleted after the grace; what is kept restores, the agent goes on, and
//! nobody takes deleted WAL for a loss. Time is the store's: the files of the repository are made older.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use tests::case::case;
use tests::seawall::{CLUSTER, json_array, json_str, json_u64};
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall, tree};

/// More than the grace of 48 hours.
const THREE_DAYS: Duration = Duration::from_secs(3 * 86_400);
/// Exit code: the configuration.
const USAGE: i32 = 2;
/// Exit code: a key is missing or wrong.
const KEY: i32 = 5;

async fn stage(scratch: &Scratch) -> Result<(Cluster, Seawall)> {
    let cluster = Cluster::builder(15).segment_size_mib(1).create(scratch, "main").await?;
    let config = Seawall::local_config(scratch, &cluster)?.set("cluster.main.retention.keep_last", 1)?;
    let seawall = Seawall::configure(config)?;
    seawall.init().await?;
    cluster.exec("create table t (i bigint, filler text)").await?;
    Ok((cluster, seawall))
}

/// A thousand rows more, some MiB of WAL, and a backup.
async fn more(cluster: &Cluster, seawall: &Seawall) -> Result<Value> {
    let agent = seawall.run().await?;
    // Each backup has pages of its own.
    cluster.exec("update t set filler = reverse(filler)").await?;
    for _ in 0..3 {
        cluster
            .exec("insert into t select g, repeat(md5(g::text), 30) from generate_series(1, 1000) g; select pg_switch_wal()")
            .await?;
    }
    let backup = seawall.backup().await?;
    cluster.exec("select pg_switch_wal()").await?;
    seawall.wait_archived(cluster).await?;
    agent.stop(DEADLINE).await?;
    Ok(backup)
}

fn names(seawall: &Seawall) -> Result<Vec<String>> {
    let files = tree::files(&seawall.repository())?;
    let mut names: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    names.sort();
    Ok(names)
}

async fn prune(seawall: &Seawall, arguments: &[&str]) -> Result<Value> {
    let all: Vec<&str> = ["prune", "--json"]
        .into_iter()
        .chain(arguments.iter().copied())
        .collect();
    seawall.agent.run_ok(&all).await?.json()
}

async fn is_sound(seawall: &Seawall) -> Result<()> {
    let verified = seawall.agent.run(&["verify", "--all", "--json"]).await?;
    let report = verified.json()?;
    let damage = json_array(&report, "findings")?
        .iter()
        .filter(|finding| finding["severity"] == "damage");
    assert_eq!(damage.count(), 0, "{report}");
    assert_eq!(verified.code(), 0);
    Ok(())
}

async fn rows(seawall: &Seawall, name: &str, target: &[&str]) -> Result<String> {
    let restored = seawall.restore_to(name, target).await?;
    restored.query_one("select count(*) from t").await
}

#[test]
fn what_is_not_kept_goes_in_two_steps_and_what_is_kept_restores() {
    case("prune", async |scratch| {
        let (cluster, seawall) = stage(&scratch).await?;
        let first = more(&cluster, &seawall).await?;
        let second = more(&cluster, &seawall).await?;
        more(&cluster, &seawall).await?;
        let pinned = json_str(&first, "backup")?;
        seawall.agent.run_ok(&["pin", pinned, "--reason", "audit"]).await?;

        // Asking changes nothing.
        let before = names(&seawall)?;
        let asked = prune(&seawall, &["--dry-run"]).await?;
        assert_eq!(
            (json_u64(&asked, "retire")?, &asked["dry_run"]),
            (1, &Value::Bool(true))
        );
        assert_eq!(names(&seawall)?, before);

        // The second one is given up, and nothing that it needs is deleted yet.
        let given_up = prune(&seawall, &[]).await?;
        assert_eq!(json_u64(&given_up, "retire")?, 1);
        let manifest = format!("backups/{}", json_str(&second, "backup")?);
        let after = names(&seawall)?;
        let gone: Vec<_> = before.iter().filter(|name| !after.contains(name)).collect();
        assert!(
            gone.iter()
                .all(|name| name.contains(&manifest) || name.contains("intents/")),
            "{gone:?}"
        );
        assert_eq!(json_array(&seawall.list().await?, "backups")?.len(), 2);
        assert!(json_u64(&given_up["waiting"], "packs")? > 0 && json_u64(&given_up["waiting"], "wal")? > 0);

        // It is gone: that has to be seen first, by a run that begins after it.
        seawall.age_repository(THREE_DAYS)?;
        let seen = prune(&seawall, &[]).await?;
        assert_eq!(json_u64(&seen["delete"], "packs")?, 0, "{seen}");
        // WAL between what stays goes by its grace alone.
        assert!(json_u64(&seen["delete"], "wal")? > 3, "{seen}");
        // Three days later packs go that only it needed.
        seawall.age_repository(THREE_DAYS)?;
        let deleted = prune(&seawall, &[]).await?;
        assert!(json_u64(&deleted["delete"], "packs")? > 0, "{deleted}");
        is_sound(&seawall).await?;
        let end = json_str(&first, "end_lsn")?;
        assert_eq!(rows(&seawall, "pinned", &["--target-lsn", end]).await?, "3000");
        assert_eq!(rows(&seawall, "latest", &["--target", "latest"]).await?, "9000");

        // Nobody takes that for a loss: neither the list, nor the agent.
        let list = seawall.list().await?;
        assert_eq!(json_array(&list, "holes")?.len(), 0, "{list}");
        let backup = more(&cluster, &seawall).await?;
        assert!(
            backup["parent"].is_string() && json_u64(&backup, "new_pages")? < json_u64(&backup, "pages")?,
            "{backup}"
        );
        let events = json_array(&seawall.list().await?, "events")?.clone();
        assert!(events.iter().all(|event| event["event"] != "hole"), "{events:?}");
        assert_eq!(rows(&seawall, "end", &["--target", "latest"]).await?, "12000");

        // Again and again: in the end only what is needed is there.
        seawall.agent.run_ok(&["unpin", pinned]).await?;
        for _ in 0..4 {
            prune(&seawall, &[]).await?;
            seawall.age_repository(THREE_DAYS)?;
        }
        prune(&seawall, &[]).await?;
        is_sound(&seawall).await?;
        assert_eq!(json_array(&seawall.list().await?, "backups")?.len(), 1);
        assert_eq!(rows(&seawall, "last", &["--target", "latest"]).await?, "12000");
        let left = names(&seawall)?;
        assert!(
            left.iter().filter(|name| name.contains("/condemned/")).count() <= 1,
            "{left:?}"
        );
        Ok(())
    });
}

#[test]
fn the_wrong_key_a_short_grace_and_a_manifest_that_cannot_be_read_are_refused() {
    case("prune_refused", async |scratch| {
        let (cluster, seawall) = stage(&scratch).await?;
        more(&cluster, &seawall).await?;
        let backup = more(&cluster, &seawall).await?;
        let config = seawall.config.clone().set("cluster.main.retention.grace", "25h")?;
        let short = Seawall::configure_as(config, "short")?;
        let refused = short.agent.run(&["prune"]).await?;
        refused.assert_refused(USAGE, &["grace"])?;
        let keys = scratch.join("keys");
        let config = seawall
            .config
            .clone()
            .set("keys.maintenance_key", keys.join("away.key").display().to_string())?;
        let keyless = Seawall::configure_as(config, "keyless")?;
        let refused = keyless.agent.run(&["prune"]).await?;
        refused.assert_refused(KEY, &["does not exist"])?;
        // A manifest with a flipped bit: nobody knows what it needs, so nothing is deleted.
        seawall.age_repository(THREE_DAYS)?;
        let path = seawall
            .repository()
            .join("clusters")
            .join(CLUSTER)
            .join("backups")
            .join(json_str(&backup, "backup")?);
        let mut bytes = std::fs::read(&path)?;
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes)?;
        let before = names(&seawall)?.len();
        let refused = seawall.agent.run(&["prune"]).await?;
        assert_ne!(refused.code(), 0);
        // The mark of its time.
        assert_eq!(names(&seawall)?.len(), before + 1);
        Ok(())
    });
}

#[test]
fn a_backup_that_was_proven_stays_until_a_newer_one_is() {
    case("prune_proven", async |scratch| {
        let (cluster, seawall) = stage(&scratch).await?;
        let first = more(&cluster, &seawall).await?;
        let second = more(&cluster, &seawall).await?;
        let third = more(&cluster, &seawall).await?;
        let ids = [
            json_str(&first, "backup")?,
            json_str(&second, "backup")?,
            json_str(&third, "backup")?,
        ];
        prove(&scratch, &seawall, &first).await?;
        let asked = prune(&seawall, &["--dry-run"]).await?;
        assert_eq!(kept(&asked)?, [ids[0], ids[2]]);
        assert!(
            asked["backups"][0]["reasons"].to_string().contains("newest proven"),
            "{asked}"
        );
        // Proofs of restores are no shares of what was read.
        let verified = seawall.agent.run(&["verify", "--share", "2"]).await?;
        assert_eq!(verified.code(), 0, "{}", verified.stderr);
        prove(&scratch, &seawall, &second).await?;
        assert_eq!(kept(&prune(&seawall, &["--dry-run"]).await?)?, ids[1..]);
        prune(&seawall, &[]).await?;
        assert_eq!(json_array(&seawall.list().await?, "backups")?.len(), 2);
        assert_eq!(rows(&seawall, "latest", &["--target", "latest"]).await?, "9000");
        Ok(())
    });
}

fn kept(report: &Value) -> Result<Vec<String>> {
    let kept = json_array(report, "backups")?
        .iter()
        .filter(|backup| backup["kept"] == true);
    kept.map(|backup| Ok(json_str(backup, "backup")?.to_owned())).collect()
}

/// Restores a backup to its end, with proofs.
async fn prove(scratch: &Scratch, seawall: &Seawall, backup: &Value) -> Result<()> {
    let place = Cluster::place(scratch, &format!("proof-{}", json_str(backup, "backup")?))?;
    let (data, sockets) = (place.data.display().to_string(), place.sockets.display().to_string());
    let (port, end) = (place.port.to_string(), json_str(backup, "end_lsn")?);
    let arguments = [
        "--target-lsn",
        end,
        "--backup",
        json_str(backup, "backup")?,
        "--pgdata",
        &data,
        "--start",
        "--prove",
        "--port",
        &port,
        "--socket-dir",
        &sockets,
    ];
    let output = seawall.restore.run(&arguments).await?;
    output.assert_code(0)?;
    assert!(!output.stderr.contains("cannot be noted"), "{}", output.stderr);
    place.adopt(scratch)?.stop(tests::StopMode::Fast).await
}
