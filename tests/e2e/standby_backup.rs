//! Backups of a standby: restored exactly, and refused where PostgreSQL cannot vouch for them.
//!
//! The agent runs on the standby's host and knows nothing of the primary.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::Result;
use tests::caught_backup::{catch, create_noise, end_of, noise_digest, one_upload};
use tests::cluster::lsn_text;
use tests::judge::restored_exactly;
use tests::oracle::Options;
use tests::seawall::{flushed_lsn, json_array, json_lsn};
use tests::wait::DEADLINE;
use tests::{Child, Cluster, FaultS3, Oracle, Scratch, Seawall, case, pgbench, wait_until};

const FAILED: i32 = 1;

/// A primary, its standby, and an agent beside the standby, which keeps everything in the fault store.
struct Stage {
    server: FaultS3,
    primary: Cluster,
    standby: Cluster,
    seawall: Seawall,
    agent: Child,
}

impl Stage {
    /// With enough in it that a backup can be caught half-way.
    async fn start(scratch: &Scratch, major: u32, full_page_writes: &str) -> Result<Self> {
        let primary = create(scratch, major, full_page_writes).await?;
        create_noise(&primary).await?;
        Self::around(scratch, primary).await
    }

    async fn around(scratch: &Scratch, primary: Cluster) -> Result<Self> {
        let standby = primary.standby("standby").await?;
        let server = FaultS3::start().await?;
        let config = one_upload(Seawall::s3_config(scratch, &standby, &server).await?)?;
        let seawall = Seawall::configure(config)?;
        seawall.init().await?;
        let agent = seawall.run().await?;
        Ok(Self {
            server,
            primary,
            standby,
            seawall,
            agent,
        })
    }

    /// What the primary has flushed is replayed here.
    async fn replay(&self) -> Result<()> {
        self.standby.wait_replayed(flushed_lsn(&self.primary).await?).await
    }

    async fn set_full_page_writes(&self, value: &str) -> Result<()> {
        self.primary
            .exec(&format!("alter system set full_page_writes = {value}"))
            .await?;
        self.primary.reload().await?;
        // The checkpointer writes the record of the change when it has heard of it.
        let is_set = format!("select full_page_writes = '{value}'::bool from pg_control_checkpoint()");
        wait_until("the primary to change full_page_writes", DEADLINE, async || {
            let written = self.primary.exec("checkpoint").await;
            written.is_ok() && self.primary.query_one(&is_set).await.is_ok_and(|is_set| is_set == "t")
        })
        .await?;
        self.replay().await
    }

    async fn assert_backups(&self, count: usize) -> Result<()> {
        let list = self.seawall.list().await?;
        assert_eq!(json_array(&list, "backups")?.len(), count, "{list}");
        Ok(())
    }
}

async fn create(scratch: &Scratch, major: u32, full_page_writes: &str) -> Result<Cluster> {
    Cluster::builder(major)
        .segment_size_mib(1)
        .setting("fsync", "off")
        .setting("track_commit_timestamp", "on")
        .setting("full_page_writes", full_page_writes)
        .create(scratch, "main")
        .await
}

async fn of_standby(scratch: &Scratch, major: u32) -> Result<()> {
    let primary = create(scratch, major, "on").await?;
    pgbench::init(&primary, 1).await?;
    let stage = Stage::around(scratch, primary).await?;
    let (primary, seawall) = (&stage.primary, &stage.seawall);
    let load = pgbench::Load::start(primary, 2, 200)?;
    let oracle = Oracle::start(primary, Options::default()).await?;
    oracle.wait_for(100).await?;
    stage.replay().await?;
    let backup = seawall.backup().await?;
    oracle.wait_for(50).await?;
    let mark = oracle.mark(None).await?;
    oracle.wait_for(50).await?;
    let history = oracle.stop().await?;
    load.stop().await?;
    seawall.wait_archived_to(flushed_lsn(primary).await?).await?;
    stage.agent.assert_no_unexpected_warnings(&["fsync is off"])?;
    stage.standby.kill9()?;
    primary.kill9()?;

    let lsn = lsn_text(mark.lsn);
    let at_end = history.expected_at_lsn(json_lsn(&backup, "end_lsn")?);
    for (name, target, expected) in [
        ("end", ["--target", "immediate"], &at_end),
        ("mark", ["--target-lsn", &lsn], &mark.expected),
        ("latest", ["--target", "latest"], &history.expected_now()),
    ] {
        assert!(expected.must.len() >= 50, "{name}: {}", expected.must.len());
        let restored = seawall.restore_to(name, &target).await?;
        restored_exactly(&restored, &history, expected).await?;
    }
    Ok(())
}

#[test]
fn a_backup_of_a_standby_of_postgres_15_is_restored_exactly() {
    case("standby_15", async |scratch| Box::pin(of_standby(&scratch, 15)).await);
}

#[test]
fn a_backup_of_a_standby_of_postgres_18_is_restored_exactly() {
    case("standby_18", async |scratch| Box::pin(of_standby(&scratch, 18)).await);
}

async fn promoted_half_way(scratch: &Scratch, major: u32) -> Result<()> {
    let stage = Stage::start(scratch, major, "on").await?;
    let (standby, seawall) = (&stage.standby, &stage.seawall);
    let backup = catch(seawall, &stage.server, standby).await?;
    standby.promote().await?;
    stage.server.faults().heal();
    let (code, said) = end_of(backup).await?;
    assert_eq!(code, FAILED, "{said}");
    assert!(said.contains("promoted while the backup ran"), "{said}");
    assert!(said.contains("HINT: ") && !said.contains("panicked"), "{said}");
    stage.assert_backups(0).await?;

    // Server and agent go on, on the next timeline; the next backup is a whole one.
    standby
        .exec("create table afterwards as select generate_series(1, 1000) i")
        .await?;
    let report = seawall.backup().await?;
    assert_eq!(report["timeline"], 2, "{report}");
    stage.assert_backups(1).await?;
    seawall.wait_archived(standby).await?;
    let restored = seawall.restore_to("restored", &["--target", "latest"]).await?;
    assert_eq!(restored.query_one("select count(*) from afterwards").await?, "1000");
    assert_eq!(noise_digest(&restored).await?, noise_digest(standby).await?);
    Ok(())
}

#[test]
fn a_promotion_half_way_fails_the_backup_and_nothing_else() {
    case("promoted_half_way", async |scratch| {
        Box::pin(promoted_half_way(&scratch, 17)).await
    });
}

#[test]
fn a_standby_whose_wal_has_no_full_pages_is_not_backed_up() {
    case("standby_without_full_pages", async |scratch| {
        let stage = Stage::start(&scratch, 15, "off").await?;
        let (server, standby, seawall) = (&stage.server, &stage.standby, &stage.seawall);
        // From the start: the server itself refuses.
        stage.primary.exec("checkpoint").await?;
        stage.replay().await?;
        let output = seawall.agent.run(&["backup", "--json"]).await?;
        output.assert_refused(FAILED, &["full_page_writes=off"])?;
        stage.assert_backups(0).await?;

        // Half-way: nobody knows before the end.
        stage.set_full_page_writes("on").await?;
        let backup = catch(seawall, server, standby).await?;
        stage.set_full_page_writes("off").await?;
        server.faults().heal();
        let (code, said) = end_of(backup).await?;
        assert_eq!(code, FAILED, "{said}");
        assert!(
            said.contains("full_page_writes=off") && said.contains("HINT: "),
            "{said}"
        );
        stage.assert_backups(0).await?;

        stage.set_full_page_writes("on").await?;
        seawall.backup().await?;
        stage.assert_backups(1).await?;
        let restored = seawall.restore_to("restored", &["--target", "latest"]).await?;
        assert_eq!(noise_digest(&restored).await?, noise_digest(standby).await?);
        Ok(())
    });
}

/// A standby writes no record at the end of a backup, so where its primary is idle nothing follows in the archive.
async fn idle(scratch: &Scratch, major: u32) -> Result<()> {
    let primary = create(scratch, major, "on").await?;
    primary
        .exec("create table t as select generate_series(1, 1000) i; checkpoint")
        .await?;
    let stage = Stage::around(scratch, primary).await?;
    stage.replay().await?;
    let report = stage.seawall.backup().await?;
    stage.agent.kill9()?;
    let list = stage.seawall.list().await?;
    assert_eq!(
        list["windows"][0]["to_lsn"], report["end_lsn"],
        "something follows: {list}"
    );
    for target in ["latest", "immediate"] {
        let restored = stage.seawall.restore_to(target, &["--target", target]).await?;
        assert_eq!(restored.query_one("select count(*) from t").await?, "1000");
    }
    Ok(())
}

#[test]
fn a_backup_of_an_idle_standby_is_restored_to_its_end() {
    for major in [13, 18] {
        case("idle_standby", async |scratch| Box::pin(idle(&scratch, major)).await);
    }
}

#[test]
fn a_primary_without_full_pages_writes_them_during_a_backup() {
    case("primary_without_full_pages", async |scratch| {
        let cluster = create(&scratch, 15, "off").await?;
        pgbench::init(&cluster, 2).await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        let load = pgbench::Load::start(&cluster, 3, 0)?;
        let oracle = Oracle::start(&cluster, Options::default()).await?;
        oracle.wait_for(100).await?;
        let backup = seawall.backup().await?;
        oracle.wait_for(50).await?;
        let history = oracle.stop().await?;
        load.stop().await?;
        assert_eq!(cluster.query_one("show full_page_writes").await?, "off");
        seawall.wait_archived(&cluster).await?;
        agent.stop(DEADLINE).await?;
        let at_end = history.expected_at_lsn(json_lsn(&backup, "end_lsn")?);
        for (name, target, expected) in [
            ("end", ["--target", "immediate"], &at_end),
            ("latest", ["--target", "latest"], &history.expected_now()),
        ] {
            let restored = seawall.restore_to(name, &target).await?;
            restored_exactly(&restored, &history, expected).await?;
        }
        Ok(())
    });
}
