//! Two places: while one of them is dead, WAL goes on as `confirm` says; it catches up; both verify and restore by themselves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::case::case;
use tests::seawall::{json_array, json_str, json_u64};
use tests::wait::{DEADLINE, wait_until};
use tests::{Child, Cluster, ConfigFile, FaultS3, S3Server, Scratch, Seawall};

/// Exit code: the store or the server cannot be reached.
const UNREACHABLE: i32 = 6;
/// Exit code: it would not be what was asked for.
const REFUSED: i32 = 3;

struct Stage {
    cluster: Cluster,
    seawall: Seawall,
    rows: u64,
}

/// The repository in a directory, a copy on a server that can die.
async fn stage(scratch: &Scratch, copy: &FaultS3, confirm: &str) -> Result<Stage> {
    let cluster = Cluster::builder(15).segment_size_mib(1).create(scratch, "main").await?;
    cluster.exec("create table t (i bigint, filler text)").await?;
    let config = Seawall::local_config(scratch, &cluster)?.set("repository.confirm", confirm)?;
    let config = with_copy(config, scratch, copy).await?;
    let seawall = Seawall::configure(config)?;
    seawall.init().await?;
    Ok(Stage {
        cluster,
        seawall,
        rows: 0,
    })
}

async fn with_copy(config: ConfigFile, scratch: &Scratch, server: &FaultS3) -> Result<ConfigFile> {
    server.create_bucket("copies").await?;
    let secret = scratch.write("etc/copy-secret", server.secret_access_key())?;
    config
        .set("copy.away.url", "s3://copies/there")?
        .set("copy.away.s3.endpoint", server.endpoint())?
        .set("copy.away.s3.access_key_id", server.access_key_id())?
        .set("copy.away.s3.secret_access_key_file", secret.display().to_string())?
        .set("copy.away.s3.request_timeout", "2s")?
        .set("copy.away.s3.connect_timeout", "1s")
}

impl Stage {
    async fn commit(&mut self) -> Result<()> {
        let sql =
            "insert into t select g, repeat(md5(g::text), 30) from generate_series(1, 1000) g; select pg_switch_wal()";
        self.cluster.exec(sql).await?;
        self.rows += 1000;
        Ok(())
    }

    /// Some WAL and a backup, all of it archived.
    async fn back_up(&mut self) -> Result<()> {
        self.commit().await?;
        self.seawall.backup().await?;
        self.seawall.wait_archived(&self.cluster).await.map(drop)
    }

    /// What the agent says of the copy.
    async fn standing(&self) -> Result<String> {
        let status = self.seawall.status().await?;
        let copies = json_array(&status, "copies")?;
        let away = copies.iter().find(|copy| copy["name"] == "away");
        Ok(away
            .map_or("unknown", |copy| copy["standing"].as_str().unwrap())
            .to_owned())
    }

    async fn wait_for(&self, standing: &str) -> Result<()> {
        wait_until(
            &format!("the copy to be {standing}"),
            Duration::from_secs(120),
            async || self.standing().await.is_ok_and(|found| found == standing),
        )
        .await
    }

    /// Both places, each by itself, give all rows.
    async fn both_restore(&self, agent: Child) -> Result<()> {
        agent.stop(DEADLINE).await?;
        for (name, place) in [("first", None), ("second", Some("away"))] {
            let copy: Vec<&str> = place.into_iter().flat_map(|name| ["--copy", name]).collect();
            let verify: Vec<&str> = ["verify", "--all"].into_iter().chain(copy.iter().copied()).collect();
            self.seawall.agent.run_ok(&verify).await?;
            let target: Vec<&str> = ["--target", "latest"].into_iter().chain(copy).collect();
            let restored = self.seawall.restore_to(name, &target).await?;
            let rows = restored.query_one("select count(*) from t").await?;
            ensure!(rows == self.rows.to_string(), "{name}: {rows} rows of {}", self.rows);
            restored.stop(tests::StopMode::Fast).await?;
        }
        Ok(())
    }
}

#[test]
fn by_first_a_dead_copy_holds_nothing_up_and_catches_up() {
    case("copies_first", async |scratch| {
        let mut server = FaultS3::start().await?;
        let mut stage = stage(&scratch, &server, "first").await?;
        // An empty place is filled, and then gets everything at once.
        let agent = stage.seawall.run().await?;
        stage.wait_for("whole").await?;
        stage.back_up().await?;

        server.die().await?;
        stage.commit().await?;
        stage.back_up().await?;
        stage.wait_for("behind").await?;
        let status = stage.seawall.status().await?;
        let warnings = json_array(&status, "warnings")?;
        ensure!(
            warnings.iter().any(|text| text.as_str().unwrap().contains("away")),
            "{warnings:?}"
        );

        server.revive().await?;
        stage.wait_for("whole").await?;
        stage.commit().await?;
        stage.seawall.wait_archived(&stage.cluster).await?;
        stage.both_restore(agent).await?;

        // By hand there is nothing left to do, and what the copy has lost comes back.
        let copied = stage.seawall.agent.run_ok(&["copy", "--json"]).await?.json()?;
        ensure!(
            json_u64(&json_array(&copied, "copies")?[0], "backups")? == 0,
            "{copied}"
        );
        let key = server.objects().keys("/packs/").into_iter().next().unwrap();
        server.objects().remove(&key);
        let copied = stage.seawall.agent.run_ok(&["copy", "away", "--json"]).await?.json()?;
        ensure!(
            json_u64(&json_array(&copied, "copies")?[0], "objects")? == 1,
            "{copied}"
        );
        ensure!(server.objects().keys("/packs/").contains(&key));
        Ok(())
    });
}

#[test]
fn by_any_the_repository_itself_may_die_and_is_filled_from_the_copy() {
    case("copies_any", async |scratch| {
        // Here the copy is the directory, and the repository the server that dies.
        let mut server = FaultS3::start().await?;
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .create(&scratch, "main")
            .await?;
        cluster.exec("create table t (i bigint, filler text)").await?;
        let config = Seawall::s3_config(&scratch, &cluster, &server).await?;
        let copy = scratch.dir("copy")?.join("repo").display().to_string();
        let config = config
            .set("repository.confirm", "any")?
            .set("repository.s3.request_timeout", "2s")?
            .set("repository.s3.connect_timeout", "1s")?
            .set("copy.away.url", format!("file://{copy}"))?;
        let seawall = Seawall::configure(config)?;
        seawall.init().await?;
        let mut stage = Stage {
            cluster,
            seawall,
            rows: 0,
        };
        // A directory that is not there may be one that is not mounted.
        let refused = stage.seawall.agent.run(&["run"]).await?;
        ensure!(
            refused.code() != 0 && refused.stderr.contains("wal-agent copy"),
            "{}",
            refused.stderr
        );
        stage.seawall.agent.run_ok(&["copy", "away"]).await?;
        let agent = stage.seawall.run().await?;
        stage.wait_for("whole").await?;
        stage.back_up().await?;

        server.die().await?;
        for _ in 0..3 {
            stage.commit().await?;
        }
        // The agent's own word: `status` reads the repository, which is away.
        let wanted = tests::seawall::flushed_lsn(&stage.cluster).await?;
        let state = scratch.join("state/main.json");
        wait_until("WAL to be archived", DEADLINE, async || {
            let state: serde_json::Value =
                serde_json::from_slice(&std::fs::read(&state).unwrap_or_default()).unwrap_or_default();
            tests::seawall::json_lsn(&state, "archived_lsn").is_ok_and(|lsn| lsn >= wanted)
        })
        .await?;
        // It starts only when it has seen all places: there may be more in the other one.
        agent.kill9()?;
        let refused = stage.seawall.agent.run(&["run"]).await?;
        ensure!(refused.code() == UNREACHABLE, "{}", refused.stderr);

        // Who restores from the repository now would lose what only the copy has.
        server.revive().await?;
        let target = scratch.join("too-old/data").display().to_string();
        let refused = stage
            .seawall
            .restore
            .run(&["--target", "latest", "--pgdata", &target])
            .await?;
        refused.assert_refused(REFUSED, &["--copy away"])?;

        let agent = stage.seawall.run().await?;
        stage.commit().await?;
        stage.seawall.wait_archived(&stage.cluster).await?;
        stage.wait_for("whole").await?;
        let list = stage.seawall.list().await?;
        ensure!(json_array(&list, "holes")?.is_empty(), "{list}");
        stage.both_restore(agent).await
    });
}

#[test]
fn by_all_nothing_is_confirmed_that_a_copy_lacks() {
    case("copies_all", async |scratch| {
        let mut server = FaultS3::start().await?;
        let mut stage = stage(&scratch, &server, "all").await?;
        let agent = stage.seawall.run().await?;
        stage.wait_for("whole").await?;
        stage.back_up().await?;

        server.die().await?;
        let before = json_str(&stage.seawall.status().await?, "archived_lsn")?.to_owned();
        let stored = stage.seawall.stored_bytes(&["wal", "tail"])?;
        stage.commit().await?;
        wait_until("WAL to be behind", DEADLINE, async || {
            let status = stage.seawall.status().await;
            status.is_ok_and(|status| json_u64(&status, "rpo_ms").is_ok_and(|ms| ms > 3000))
        })
        .await?;
        ensure!(stage.seawall.stored_bytes(&["wal", "tail"])? == stored);
        let now = json_str(&stage.seawall.status().await?, "archived_lsn")?.to_owned();
        ensure!(now == before, "{now} was confirmed with a dead copy, {before} before");
        // Neither does another start take it for stored.
        agent.kill9()?;
        let mut agent = stage.seawall.agent.start_daemon()?;
        agent.wait_for_log("will try again", DEADLINE).await?;
        ensure!(stage.seawall.stored_bytes(&["wal", "tail"])? == stored);
        server.revive().await?;
        stage.seawall.wait_archived(&stage.cluster).await?;
        stage.both_restore(agent).await
    });
}

#[test]
fn a_copy_that_is_made_after_the_start_is_found_and_one_that_is_gone_is_not_made_anew_by_mistake() {
    case("copies_late", async |scratch| {
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .create(&scratch, "main")
            .await?;
        let copy = scratch.dir("copy")?.join("repo");
        let url = format!("file://{}", copy.display());
        let config = Seawall::local_config(&scratch, &cluster)?.set("copy.away.url", url)?;
        let seawall = Seawall::configure(config)?;
        seawall.init().await?;
        let mut agent = seawall.run().await?;
        let standing = async |wanted: &str| {
            wait_until(wanted, DEADLINE, async || {
                let status = seawall.status().await;
                let copies = status.map(|status| status["copies"].as_array().cloned().unwrap_or_default());
                let mut copies = copies.unwrap_or_default().into_iter();
                copies.any(|seen| seen["name"] == "away" && seen["standing"] == wanted)
            })
            .await
        };
        standing("not there").await?;
        let status = seawall.status().await?;
        ensure!(
            status["warnings"].to_string().contains("wal-agent copy away"),
            "{status}"
        );
        seawall.agent.run_ok(&["copy", "away"]).await?;
        agent.wait_for_log("beginning again with it", DEADLINE).await?;
        standing("whole").await?;
        cluster.exec("create table t as select 1 as i").await?;
        seawall.backup().await?;
        seawall.wait_archived(&cluster).await?;
        standing("whole").await?;
        let restored = seawall
            .restore
            .run(&[
                "--copy",
                "away",
                "--target",
                "latest",
                "--dry-run",
                "--pgdata",
                "/nowhere/yet",
            ])
            .await?;
        ensure!(restored.code() == 0, "{}", restored.stderr);

        // Not mounted: what would be made in its stead lies on another disk.
        std::fs::rename(&copy, copy.with_extension("moved"))?;
        let refused = seawall.agent.run(&["copy", "away"]).await?;
        refused.assert_refused(REFUSED, &["was whole before", "--anew"])?;
        ensure!(!copy.exists());
        seawall.agent.run_ok(&["copy", "away", "--anew"]).await?;
        ensure!(copy.exists());
        agent.stop(DEADLINE).await
    });
}
