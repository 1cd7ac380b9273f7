//! What a whole cluster may be set to, and what a file's mode may be: no timeout of the server ends a backup that takes longer, and
//! no file that cannot be read is left out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result};
use tests::caught_backup::{catch, create_noise, end_of, noise_digest, one_upload, wait_idle};
use tests::cluster::query_one;
use tests::fault_s3::{Fault, Method, Rule};
use tests::seawall::{json_array, json_u64};
use tests::wait::{DEADLINE, wait_for, wait_until};
use tests::{Cluster, FaultS3, Scratch, Seawall, case};

const FAILED: i32 = 1;

/// Each of them ends a session or a statement of somebody who does nothing about it.
const TIMEOUTS: [&str; 5] = [
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
];
const TIMEOUT: &str = "1s";
/// So long that it would have struck.
const PAST_TIMEOUT: Duration = Duration::from_millis(2500);

/// For everybody, from the next session on.
async fn set_timeouts(cluster: &Cluster) -> Result<usize> {
    let client = cluster.connect().await?;
    let mut set = 0;
    for name in TIMEOUTS {
        let known = format!("select count(*) from pg_settings where name = '{name}'");
        if query_one(&client, &known).await? == "1" {
            client
                .batch_execute(&format!("alter system set {name} = '{TIMEOUT}'"))
                .await?;
            set += 1;
        }
    }
    client.batch_execute("select pg_reload_conf()").await?;
    wait_for("the timeouts", DEADLINE, async || {
        let now = cluster.query_one("show statement_timeout").await.ok()?;
        (now == TIMEOUT).then_some(())
    })
    .await?;
    Ok(set)
}

/// The cluster's timeouts are set when this returns; the agent does not run.
async fn prepare(scratch: &Scratch, cluster: &Cluster) -> Result<(FaultS3, Seawall)> {
    let server = FaultS3::start().await?;
    let config = one_upload(Seawall::s3_config(scratch, cluster, &server).await?)?;
    let seawall = Seawall::configure(config.set("cluster.main.backup.checkpoint", "spread")?)?;
    seawall.init().await?;
    // The last one is new in 17, the one before in 14.
    assert_eq!(set_timeouts(cluster).await?, TIMEOUTS.len());
    Ok((server, seawall))
}

/// A spread checkpoint takes three seconds.
async fn create(scratch: &Scratch) -> Result<Cluster> {
    Cluster::builder(17)
        .segment_size_mib(1)
        .setting("fsync", "off")
        .setting("checkpoint_timeout", "30s")
        .setting("checkpoint_completion_target", "0.1")
        .setting("max_wal_size", "1GB")
        .setting("log_min_duration_statement", TIMEOUT)
        .create(scratch, "main")
        .await
}

#[test]
fn timeouts_of_the_whole_cluster_do_not_end_a_backup_that_takes_longer() {
    case("timeouts", async |scratch| {
        let cluster = create(&scratch).await?;
        create_noise(&cluster).await?;
        let digest = noise_digest(&cluster).await?;
        let (server, seawall) = prepare(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        // Pages to write, for the checkpoint to spread.
        cluster
            .exec("create table dirt as select generate_series(1, 50000) i")
            .await?;

        // Its start is one long statement, its copy a long silence.
        let mut backup = catch(&seawall, &server, &cluster).await?;
        wait_idle(&cluster, &mut backup, PAST_TIMEOUT).await?;
        server.faults().heal();
        let (code, said) = end_of(backup).await?;
        assert_eq!(code, 0, "{said}");
        let log = cluster.server_log();
        let is_start = |line: &&str| line.contains("duration: ") && line.contains("pg_backup_start");
        assert!(
            log.lines().any(|line| is_start(&line)),
            "the start of the backup was quick:\n{log}"
        );
        assert!(
            !log.contains("canceling statement") && !log.contains("terminating connection"),
            "{log}"
        );
        agent.stop(DEADLINE).await?;

        let restored = seawall.restore_to("restored", &["--target", "immediate"]).await?;
        // They came along.
        assert_eq!(restored.query_one("show idle_session_timeout").await?, TIMEOUT);
        let client = restored.connect().await?;
        client
            .batch_execute("set statement_timeout = 0; set transaction_timeout = 0")
            .await?;
        assert_eq!(query_one(&client, "select noise_digest()").await?, digest);
        Ok(())
    });
}

#[test]
fn a_store_that_is_slow_before_the_backup_begins_does_not_cost_it_its_session() {
    case("timeouts_before", async |scratch| {
        let cluster = create(&scratch).await?;
        let (server, seawall) = prepare(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        seawall.wait_archived(&cluster).await?;

        // Connected, it looks at the archive first.
        server
            .faults()
            .add(Rule::new(Fault::Hold).on(Method::List).key("/wal/"));
        let backup = seawall.agent.start(&["backup", "--json"])?;
        wait_for("the store to hold a listing", DEADLINE, async || {
            (server.faults().held() > 0).then_some(())
        })
        .await?;
        wait_until("the session to be idle or gone", DEADLINE, async || {
            is_quiet_or_gone(&cluster).await
        })
        .await?;
        server.faults().heal();
        let (code, said) = end_of(backup).await?;
        assert_eq!(code, 0, "{said}");
        agent.stop(DEADLINE).await?;
        let restored = seawall.restore_to("restored", &["--target", "immediate"]).await?;
        assert_eq!(restored.query_one("select 1").await?, "1");
        Ok(())
    });
}

/// No session of an agent has said anything for so long that every timeout has struck, or there is none any more.
async fn is_quiet_or_gone(cluster: &Cluster) -> bool {
    let sql = format!(
        "select coalesce(max(extract(epoch from clock_timestamp() - state_change)), 1000) > {} from pg_stat_activity
         where application_name = 'seawall' and backend_type = 'client backend'",
        PAST_TIMEOUT.as_secs_f64()
    );
    cluster.query_one(&sql).await.is_ok_and(|quiet| quiet == "t")
}

#[test]
fn what_the_agent_may_not_read_fails_the_backup() {
    case("unreadable", async |scratch| {
        let cluster = Cluster::builder(15).create(&scratch, "main").await?;
        cluster
            .exec("create table t as select generate_series(1, 1000) i; checkpoint")
            .await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        let data = cluster.data_directory();
        let relation = cluster.query_one("select pg_relation_filepath('t')").await?;
        scratch.write("main/data/extra.conf", "# not of PostgreSQL")?;
        scratch.write("main/data/extra.d/one", "1")?;

        // The agent runs as the owner of these files, who may not read them either.
        for path in [relation.as_str(), "extra.conf", "extra.d", "extra.d/one"] {
            let path = data.join(path);
            let before = fs::metadata(&path)?.permissions();
            fs::set_permissions(&path, Permissions::from_mode(0o000))?;
            let output = seawall.agent.run(&["backup", "--json"]).await?;
            let name = path.display().to_string();
            output
                .assert_refused(FAILED, &["permission denied", &name])
                .context(name)?;
            let list = seawall.list().await?;
            assert_eq!(json_array(&list, "backups")?.len(), 0, "{list}");
            fs::set_permissions(&path, before)?;
        }
        let report = seawall.backup().await?;
        assert!(json_u64(&report, "files")? > 900, "{report}");
        let data = seawall.restore_files("restored", &["--target", "immediate"]).await?;
        for path in [relation.as_str(), "extra.conf", "extra.d/one"] {
            assert!(data.join(path).is_file(), "{path}");
        }
        agent.stop(DEADLINE).await
    });
}
