//! The oracle itself, against PostgreSQL alone: it must be right before it judges a restore.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::Result;
use tests::cluster::lsn_text;
use tests::oracle::Options;
use tests::wait::DEADLINE;
use tests::{Cluster, Oracle, StopMode, case, pgbench, user};

#[test]
fn the_oracle_knows_a_live_cluster_through_marks_and_crashes() {
    case("oracle", async |scratch| {
        let cluster = Cluster::builder(17)
            .setting("track_commit_timestamp", "on")
            .create(&scratch, "main")
            .await?;
        let mut load = pgbench_load(&cluster).await?;
        let oracle = Oracle::start(&cluster, Options::default()).await?;
        oracle.wait_for(200).await?;
        let mark = oracle.mark(Some("here")).await?;
        oracle.wait_for(200).await?;
        assert!(load.is_running());
        cluster.kill9()?;
        cluster.start().await?;
        oracle.wait_for(100).await?;
        let history = oracle.stop().await?;
        load.stop().await?;

        let client = cluster.connect().await?;
        let now = history.expected_now();
        history.assert_exact(&client, &now).await?;
        assert!(now.must.len() >= 500 && now.may.len() <= 4, "{}", now.may.len());

        // Both ways to look back agree with the mark, which saw it.
        assert_eq!(mark.expected.may.len(), 0);
        assert_eq!(
            history.expected_at_lsn(mark.lsn),
            mark.expected,
            "{}",
            lsn_text(mark.lsn)
        );
        let at_time = history.expected_at_time(mark.time_us);
        assert_eq!(at_time.must, mark.expected.must);

        // What a wrong restore would look like is noticed.
        let comparison = history.compare(&client, &mark.expected).await?;
        assert!(comparison.unexpected.len() >= 300 && comparison.lost.is_empty());
        let victim = *now.must.iter().nth(50).unwrap();
        let sql = format!(
            "delete from oracle where n = {victim}; update oracle set payload = 'x' where n = {}",
            now.must.last().unwrap()
        );
        cluster.exec(&sql).await?;
        let comparison = history.compare(&client, &now).await?;
        assert_eq!((comparison.missing, comparison.lost), (vec![victim], vec![victim]));
        assert_eq!(comparison.damaged, [*now.must.last().unwrap()]);
        assert!(comparison.inconsistent.len() >= 2, "{:?}", comparison.inconsistent);
        Ok(())
    });
}

async fn pgbench_load(cluster: &Cluster) -> Result<pgbench::Load> {
    pgbench::init(cluster, 1).await?;
    pgbench::transactions(cluster, 2, 10).await?;
    pgbench::Load::start(cluster, 1, 50)
}

/// PostgreSQL's own tools restore to each kind of point; the oracle agrees with all of them.
#[test]
fn the_oracle_agrees_with_recovery_to_a_time_an_lsn_and_a_name() {
    case("oracle_recovery", async |scratch| {
        let archive = scratch.dir("archive")?;
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .setting("track_commit_timestamp", "on")
            .setting("archive_mode", "on")
            .setting("archive_command", &format!("cp %p {}/%f", archive.display()))
            .create(&scratch, "main")
            .await?;
        let oracle = Oracle::start(&cluster, Options::default()).await?;
        oracle.wait_for(50).await?;
        let base = scratch.join("base");
        let mut command = cluster.tool("pg_basebackup");
        command.args(["--checkpoint=fast", "--no-sync", "-D"]).arg(&base);
        user::run(command, DEADLINE).await?;
        oracle.wait_for(100).await?;
        let mark = oracle.mark(Some("here")).await?;
        oracle.wait_for(100).await?;
        let history = oracle.stop().await?;
        cluster.switch_wal().await?;
        cluster.stop(StopMode::Fast).await?;

        for (kind, target) in [
            ("time", mark.time.clone()),
            ("lsn", lsn_text(mark.lsn)),
            ("name", "here".to_owned()),
        ] {
            let target_dir = scratch.dir(kind)?.join("data");
            let mut command = user::command("cp");
            command.arg("-a").arg(&base).arg(&target_dir);
            user::run(command, DEADLINE).await?;
            scratch.write(format!("{kind}/data/recovery.signal"), "")?;
            let mut restored = Cluster::adopt(&scratch, kind, &target_dir)?;
            restored.override_setting("restore_command", &format!("cp {}/%f %p", archive.display()));
            restored.override_setting(&format!("recovery_target_{kind}"), &target);
            restored.override_setting("recovery_target_action", "promote");
            restored.override_setting("archive_mode", "off");
            restored.start().await?;
            restored.wait_promoted(DEADLINE).await?;
            let client = restored.connect().await?;
            history.assert_exact(&client, &mark.expected).await?;
        }
        Ok(())
    });
}
