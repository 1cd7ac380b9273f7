//! `wal-agent runbook`: what it prints is pasted into a shell, as it stands, after real disasters; and `wal-agent timeline`, which tells of them.
//!
//! Left out by name: `systemctl` and `journalctl`. In the place of the first the agent is started and stopped here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "runbook/paste.rs"]
mod paste;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use paste::{Page, Pasting};
use tests::case::case;
use tests::seawall::{CLUSTER, json_array, json_str};
use tests::{Cluster, Scratch, Seawall, StopMode, tree};

/// What must be printed even if nothing answers.
const PRINT_MAX: Duration = Duration::from_secs(50);
const ROWS: &str = "select count(*) || ' ' || sum(id) from orders";

/// A server with a backup, its agent running, and the page that was printed then.
async fn stage(scratch: &Scratch) -> Result<(Cluster, Seawall, Pasting)> {
    let cluster = Cluster::builder(15)
        .segment_size_mib(1)
        .tablespace("fast")
        .create(scratch, "main")
        .await?;
    cluster
        .exec("create table orders as select id, md5(id::text) from generate_series(1, 20000) id; create table far (i int) tablespace fast")
        .await?;
    let seawall = Seawall::local(scratch, &cluster).await?;
    let agent = seawall.run().await?;
    seawall.backup().await?;
    cluster
        .exec("insert into orders select id, '' from generate_series(20001, 20500) id; insert into far values (7)")
        .await?;
    seawall.wait_archived(&cluster).await?;
    let page = Page::print(&seawall).await?;
    ensure!(!page.text().contains("Could not be looked up"), "{}", page.text());
    let pasting = Pasting::new(seawall.clone(), page, agent)?;
    Ok((cluster, seawall, pasting))
}

#[test]
fn a_destroyed_data_directory_comes_back_in_place() {
    case("runbook_data_directory", async |scratch| {
        let (cluster, seawall, mut pasting) = stage(&scratch).await?;
        let rows = cluster.query_one(ROWS).await?;
        cluster.kill9()?;
        cluster.destroy_data_directory()?;
        pasting.usual("data-directory", &[], &[]).await?;
        ensure!(cluster.query_one(ROWS).await? == rows);
        ensure!(cluster.query_one("select i::text from far").await? == "7");

        // Once more, with a cluster that is there, and damaged.
        cluster.exec("insert into orders values (20501, '')").await?;
        let rows = cluster.query_one(ROWS).await?;
        let file = cluster.query_one("select pg_relation_filepath('orders')").await?;
        seawall.wait_archived(&cluster).await?;
        cluster.stop(StopMode::Fast).await?;
        fs::write(cluster.data_directory().join(file), vec![0xA5; 8192 * 3])?;
        let said = pasting.usual("data-directory", &[], &[]).await?;
        ensure!(said.contains("are right already"), "{said}");
        ensure!(cluster.query_one(ROWS).await? == rows);
        pasting.stop().await
    });
}

/// Everything is gone but the configuration, and the restore key in a safe.
fn lose_host(scratch: &Scratch, cluster: &Cluster, pasting: &mut Pasting) -> Result<PathBuf> {
    pasting.kill()?;
    cluster.kill9()?;
    cluster.destroy_data_directory()?;
    let safe = scratch.dir("safe")?.join("restore.key");
    fs::rename(scratch.join("keys/restore.key"), &safe)?;
    for directory in ["keys", "state"] {
        for file in tree::files(&scratch.join(directory))? {
            fs::remove_file(file)?;
        }
    }
    Ok(safe)
}

#[test]
fn what_a_stolen_host_has_signed_does_not_count_and_the_rest_comes_back() {
    case("runbook_stolen", async |scratch| {
        let (cluster, seawall, mut pasting) = stage(&scratch).await?;
        let rows = cluster.query_one(ROWS).await?;
        let target = cluster.query_one("select clock_timestamp()::text").await?;
        cluster.exec("insert into far values (9)").await?;
        seawall.wait_archived(&cluster).await?;
        let zulu = "select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
        let since = cluster.query_one(zulu).await?;
        cluster.exec("drop table orders").await?;
        seawall.wait_archived(&cluster).await?;
        let safe = lose_host(&scratch, &cluster, &mut pasting)?;
        let data = scratch.dir("elsewhere")?.join("data");
        let values = [
            ("SINCE", since),
            ("TARGET", target),
            ("DATA", data.display().to_string()),
            ("RESTORE_KEY", safe.display().to_string()),
        ];
        // What the thief has stored is named.
        let pasted = pasting.usual("stolen-host", &values, &[("verify --all", 4)]).await;
        let restored = Cluster::adopt(&scratch, "elsewhere", &data);
        let said = pasted?;
        let _restored = restored?;
        let mut damage = said.lines().filter(|line| line.starts_with("DAMAGE: "));
        ensure!(damage.all(|line| line.contains("had been revoked before")), "{said}");
        ensure!(cluster.query_one(ROWS).await? == rows);
        let timeline = seawall.agent.run_ok(&["timeline"]).await?.stdout;
        ensure!(timeline.contains("| key revoked |"), "{timeline}");
        pasting.stop().await
    });
}

#[test]
fn a_lost_host_is_restored_elsewhere_and_is_production_again() {
    case("runbook_host_lost", async |scratch| {
        let (cluster, seawall, mut pasting) = stage(&scratch).await?;
        let rows = cluster.query_one(ROWS).await?;
        let safe = lose_host(&scratch, &cluster, &mut pasting)?;
        let data = scratch.dir("elsewhere")?.join("data");
        let values = [
            ("DATA", data.display().to_string()),
            ("RESTORE_KEY", safe.display().to_string()),
        ];
        let pasted = pasting.usual("host-lost", &values, &[]).await;
        // Whatever was started there is ended in the end.
        let restored = Cluster::adopt(&scratch, "elsewhere", &data);
        pasted?;
        let _restored = restored?;
        // At the address of before.
        ensure!(cluster.query_one(ROWS).await? == rows);
        cluster.exec("insert into orders values (0, 'on the new host')").await?;
        seawall.wait_archived(&cluster).await?;
        let listed = seawall.list().await?;
        ensure!(json_array(&listed, "backups")?.len() == 2, "{listed}");
        pasting.stop().await
    });
}

#[test]
fn a_dropped_table_comes_back_and_the_timeline_tells_of_it() {
    case("runbook_table", async |scratch| {
        let (cluster, seawall, mut pasting) = stage(&scratch).await?;
        let rows = cluster.query_one(ROWS).await?;
        let target = cluster.query_one("select clock_timestamp()::text").await?;
        cluster.exec("drop table orders").await?;
        cluster.exec("insert into far values (8)").await?;
        seawall.wait_archived(&cluster).await?;
        let values = [
            ("DATABASE", "postgres".to_owned()),
            ("TABLE", "public.orders".to_owned()),
            ("TARGET", target.clone()),
            ("SCRATCH", scratch.join("t").display().to_string()),
        ];
        let said = pasting.usual("table-dropped", &values, &[]).await?;
        ensure!(said.contains("drop"), "{said}");
        ensure!(cluster.query_one(ROWS).await? == rows);
        ensure!(cluster.query_one("select count(*)::text from far").await? == "2");

        seawall.backup().await?;
        let timeline = seawall.agent.run_ok(&["timeline", "--json"]).await?.json()?;
        let entries = json_array(&timeline, "entries")?;
        let told: Vec<(&str, &str)> = entries
            .iter()
            .map(|entry| Ok((json_str(entry, "time")?, json_str(entry, "what")?)))
            .collect::<Result<_>>()?;
        ensure!(told.is_sorted_by_key(|(time, _)| *time), "{told:?}");
        let whats: Vec<&str> = told.iter().map(|(_, what)| *what).collect();
        let expected = [
            "archive begun",
            "backup begun",
            "backup ended",
            "backup begun",
            "backup ended",
        ];
        ensure!(whats == expected, "{whats:?}");
        let later = ["timeline", "--since", &target, "--until", "2100-01-01 00:00:00Z"];
        let text = seawall.agent.run_ok(&later).await?.stdout;
        ensure!(
            text.matches("| backup ended |").count() == 1 && !text.contains("archive begun"),
            "{text}"
        );
        let wrong = seawall.agent.run(&["timeline", "--since", "yesterday"]).await?;
        ensure!(
            wrong.code() == 2 && wrong.stderr.contains("with its offset"),
            "{}",
            wrong.stderr
        );
        pasting.stop().await
    });
}

#[test]
fn damage_of_the_repository_is_named_and_made_up_for() {
    case("runbook_damage", async |scratch| {
        let (_cluster, seawall, mut pasting) = stage(&scratch).await?;
        let packs = seawall.repository().join("clusters").join(CLUSTER).join("packs");
        let size = |path: &PathBuf| fs::metadata(path).map_or(0, |meta| meta.len());
        let pack = tree::files(&packs)?.into_iter().max_by_key(size).context("no pack")?;
        let mut bytes = fs::read(&pack)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        fs::write(&pack, bytes)?;
        // Damage at first, and none in the end.
        let said = pasting.usual("repository-damaged", &[], &[("verify --all", 4)]).await?;
        let name = pack.file_name().unwrap().to_string_lossy().into_owned();
        ensure!(
            said.contains(&name) && said.contains("the live cluster"),
            "{name}: {said}"
        );
        pasting.stop().await
    });
}

#[test]
fn every_command_parses_and_a_page_is_printed_when_all_is_away() {
    case("runbook_commands", async |scratch| {
        let (cluster, seawall, mut pasting) = stage(&scratch).await?;
        let commands = pasting.page().ours();
        ensure!(commands.len() > 100, "{commands:?}");
        for (scenario, script) in commands {
            let output = pasting.shell(&format!("{script} --help")).await?;
            ensure!(
                output.status.success(),
                "{scenario}: {script}\n{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        // With a copy there are more of them.
        let copied = seawall
            .config
            .clone()
            .set("copy.far.url", format!("file://{}", scratch.join("far").display()))?;
        let copied = Page::print(&Seawall::configure_as(copied, "copied")?).await?;
        for (scenario, script) in copied.ours() {
            let output = pasting.shell(&format!("{script} --help")).await?;
            ensure!(
                output.status.success(),
                "{scenario}: {script}\n{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }

        // No secret is in it.
        for key in tree::files(&scratch.join("keys"))? {
            let json: serde_json::Value = serde_json::from_slice(&fs::read(&key)?)?;
            for (name, value) in json.as_object().context("a key file is an object")? {
                let text = value.as_str().filter(|text| text.len() >= 32);
                ensure!(
                    text.is_none_or(|text| !pasting.page().text().contains(text)),
                    "{name} of {}",
                    key.display()
                );
            }
        }

        pasting.stop().await?;
        cluster.kill9()?;
        fs::rename(seawall.repository(), scratch.join("gone"))?;
        fs::remove_file(scratch.join("keys/host.key"))?;
        let file = scratch.dir("out")?.join("runbook.md");
        let began = std::time::Instant::now();
        let printed = seawall
            .agent
            .run(&["runbook", "--output", &file.display().to_string()])
            .await?;
        printed.assert_code(0)?;
        ensure!(began.elapsed() < PRINT_MAX, "{:?}", began.elapsed());
        let text = fs::read_to_string(&file)?;
        ensure!(
            text.contains("Could not be looked up") && text.contains("\n## host-lost: "),
            "{text}"
        );
        ensure!(text.contains("The data directory is a guess"), "{text}");
        let one = seawall
            .agent
            .run_ok(&["runbook", "--scenario", "failover"])
            .await?
            .stdout;
        ensure!(
            one.matches("\n## ").count() == 1 && one.contains("\n## failover: "),
            "{one}"
        );
        Ok(())
    });
}
