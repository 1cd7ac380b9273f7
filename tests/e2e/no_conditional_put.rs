//! A real S3 service without conditional PUT: it is noticed at `init`; told so, a single writer loses nothing there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use tests::case::case;
use tests::rclone::Rclone;
use tests::wait::DEADLINE;
use tests::{Cluster, Seawall};

/// Exit code: the store cannot be used as it is.
const UNREACHABLE: i32 = 6;

#[test]
fn a_service_without_conditional_put_is_told_and_one_writer_works_there() {
    case("no_conditional_put", async |scratch| {
        let server = Rclone::start(&scratch).await?;
        let cluster = Cluster::builder(15)
            .segment_size_mib(1)
            .create(&scratch, "main")
            .await?;
        let config = Seawall::s3_config(&scratch, &cluster, &server).await?;

        // It takes a lock and forgets it: nobody may rely on that.
        let locked = config
            .clone()
            .set("repository.s3.object_lock", "compliance")?
            .set("repository.s3.lock_for", "1d")?;
        let refused = Seawall::configure_as(locked, "locked")?;
        let refused = refused.agent.run(&["init", "--single-host"]).await?;
        refused.assert_refused(UNREACHABLE, &["lock"])?;

        // Believed to have it, the service is found out; told that it has not, there is nothing to say.
        let believed = Seawall::configure_as(config.clone(), "believed")?;
        let told = believed.init().await?;
        assert!(told.stderr.contains("ignores If-None-Match"), "{}", told.stderr);
        let seawall = Seawall::configure(config.set("repository.s3.conditional_put", false)?)?;
        let again = seawall.init().await?;
        assert!(!again.stderr.contains("If-None-Match"), "{}", again.stderr);

        cluster
            .exec("create table t as select g as i from generate_series(1, 1000) g")
            .await?;
        let agent = seawall.run().await?;
        seawall.backup().await?;
        for _ in 0..3 {
            cluster
                .exec("insert into t select g from generate_series(1, 1000) g; select pg_switch_wal()")
                .await?;
        }
        seawall.backup().await?;
        cluster
            .exec("insert into t select g from generate_series(1, 500) g")
            .await?;
        seawall.wait_archived(&cluster).await?;
        agent.stop(DEADLINE).await?;
        seawall.agent.run_ok(&["verify", "--all"]).await?;
        let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
        assert_eq!(restored.query_one("select count(*) from t").await?, "4500");
        Ok(())
    });
}
