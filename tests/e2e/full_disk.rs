//! A disk that is full, under the repository and under a restore: said, survived, nothing half-done.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use tests::wait::DEADLINE;
use tests::{Cluster, Seawall, Tmpfs, case, wait_until};

const FAILED: i32 = 1;
const REFUSED: i32 = 3;
const NOISE: &str = "insert into t select i, sha512(i::text::bytea) from generate_series(1, 40000) i";

#[test]
fn a_full_repository_holds_the_wal_back_and_goes_on_when_there_is_room() {
    case("full_repository", async |scratch| {
        let disk = Tmpfs::mount(&scratch, "disk", 24)?;
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .create(&scratch, "main")
            .await?;
        cluster.exec("create table t (i int, noise bytea)").await?;
        let url = format!("file://{}/repo", disk.path().display());
        let config = Seawall::local_config(&scratch, &cluster)?.set("repository.url", url)?;
        let seawall = Seawall::configure(config)?;
        seawall.init().await?;
        let mut agent = seawall.run().await?;
        seawall.backup().await?;
        let archived = seawall.wait_archived(&cluster).await?;

        // More WAL than there is room. It is never confirmed, so PostgreSQL keeps it.
        while cluster.current_lsn().await? < archived + (48 << 20) {
            cluster.exec(NOISE).await?;
        }
        wait_until("the agent to say that the disk is full", DEADLINE, async || {
            agent.log().contains("No space left on device")
        })
        .await?;
        let confirmed = "select confirmed_lsn from (select restart_lsn as confirmed_lsn from pg_replication_slots where slot_name = 'seawall') s";
        let confirmed = tests::cluster::parse_lsn(&cluster.query_one(confirmed).await?)?;
        assert!(confirmed < cluster.current_lsn().await?);
        assert!(agent.ended().is_none(), "{}", agent.log());
        // A backup fails with a message, and is not listed.
        let backups = seawall.list().await?["backups"].as_array().map(Vec::len);
        let output = seawall.agent.run(&["backup", "--json"]).await?;
        output.assert_refused(FAILED, &["No space left on device"])?;
        let now = seawall.list().await?;
        assert_eq!(now["backups"].as_array().map(Vec::len), backups);

        // Room is made; nobody restarts anything.
        disk.make_room()?;
        let end = seawall.wait_archived(&cluster).await?;
        let list = seawall.list().await?;
        assert_eq!(list["holes"].as_array().map(Vec::len), Some(0), "{list}");
        seawall.backup().await?;
        let rows = cluster.query_one("select count(*) from t").await?;
        agent.stop(DEADLINE).await?;
        assert!(end > confirmed);
        let restored = seawall.restore_to("two", &["--target", "latest"]).await?;
        assert_eq!(restored.query_one("select count(*) from t").await?, rows);
        Ok(())
    });
}

#[test]
fn a_restore_onto_a_full_disk_fails_and_cannot_be_started() {
    case("full_target", async |scratch| {
        let cluster = Cluster::builder(15).create(&scratch, "main").await?;
        cluster.exec("create table t (i int, noise bytea)").await?;
        cluster.exec(NOISE).await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        seawall.backup().await?;
        seawall.wait_archived(&cluster).await?;
        agent.stop(DEADLINE).await?;

        // Too small for the files: known, and refused, before a byte is written.
        let small = Tmpfs::mount(&scratch, "small", 12)?;
        let data = small.path().join("data").display().to_string();
        let output = seawall.restore.run(&["--target", "latest", "--pgdata", &data]).await?;
        output.assert_refused(REFUSED, &["not enough space"])?;
        assert!(!small.path().join("data").exists());

        // Full in the middle of it, without a warning.
        let disk = Tmpfs::mount_for_files(&scratch, "files", 300)?;
        let data = disk.path().join("data");
        let target = data.display().to_string();
        let args = ["--target", "latest", "--pgdata", &target];
        let output = seawall.restore.run(&args).await?;
        output.assert_refused(FAILED, &["No space left on device"])?;
        assert!(!data.join("global/pg_control").exists());
        // There may be too little of it to even try.
        if let Ok(half) = Cluster::adopt(&scratch, "half", &data) {
            assert!(half.start().await.is_err(), "half a restore was started");
        }

        // The same command goes on where it failed, once there is room.
        disk.make_room()?;
        seawall.restore.run_ok(&args).await?;
        let restored = Cluster::adopt(&scratch, "whole", &data)?;
        restored.start().await?;
        restored.wait_promoted(DEADLINE).await?;
        assert_eq!(restored.query_one("select count(*) from t").await?, "40000");
        restored.kill9()?;
        Ok(())
    });
}
