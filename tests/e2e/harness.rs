//! The harness itself, without any of our binaries: if this fails, no other end-to-end test counts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use tests::wait::DEADLINE;
use tests::{Child, Cluster, S3Server, Scratch, StopMode, Weed, case, install, pgbench, tree, user, wait_until};

/// Copies a stopped cluster, as the simplest restore there is.
async fn copy(cluster: &Cluster, scratch: &Scratch, name: &str) -> Result<std::path::PathBuf> {
    let target = scratch.dir(name)?.join("data");
    let mut command = user::command("cp");
    command.arg("-a").arg(cluster.data_directory()).arg(&target);
    user::run(command, DEADLINE).await?;
    Ok(target)
}

async fn life_of_a_cluster(scratch: &Scratch, major: u32) -> Result<()> {
    let cluster = Cluster::builder(major)
        .segment_size_mib(1)
        .tablespace("fast")
        .create(scratch, "main")
        .await?;
    assert_eq!(cluster.query_one("show wal_segment_size").await?, "1MB");
    pgbench::create_mix_table(&cluster, 2000).await?;
    cluster
        .exec("create table t tablespace fast as select generate_series(1, 1000) i")
        .await?;
    let digest = pgbench::mix_digest(&cluster).await?;
    assert!(cluster.switch_wal().await? <= cluster.current_lsn().await?);

    let pid = cluster.query_one("select pg_backend_pid()").await?;
    assert!(pid.parse::<u32>().is_ok());
    cluster.kill9()?;
    assert!(!cluster.is_running());
    assert!(cluster.kill9().is_err());
    cluster.start().await?;
    assert_eq!(pgbench::mix_digest(&cluster).await?, digest);
    if install::pg_bin(major)?.join("pg_amcheck").exists() {
        cluster.amcheck().await?;
    }
    cluster.stop(StopMode::Fast).await?;
    cluster.checksums_clean().await?;

    let copied = copy(&cluster, scratch, "two").await?;
    tree::assert_same(cluster.data_directory(), &copied, &[])?;
    cluster.start().await?;
    // A second postmaster on the tablespace of the first would not do; reading `mix` is harmless.
    let second = Cluster::adopt(scratch, "two", &copied)?;
    second.start().await?;
    assert_ne!(
        second.query_one("show unix_socket_directories").await?,
        cluster.socket_dir().display().to_string()
    );
    assert_eq!(pgbench::mix_digest(&second).await?, digest);
    assert!(!tree::differences(cluster.data_directory(), &copied, &["pg_wal"])?.is_empty());
    drop(second);

    assert!(cluster.destroy_data_directory().is_err());
    cluster.kill9()?;
    cluster.destroy_data_directory()?;
    assert!(!cluster.data_directory().exists());
    assert!(cluster.start().await.is_err());
    Ok(())
}

#[test]
fn postgres_15_lives_dies_and_is_adopted() {
    case("postgres_15", async |scratch| life_of_a_cluster(&scratch, 15).await);
}

#[test]
fn postgres_17_lives_dies_and_is_adopted() {
    case("postgres_17", async |scratch| life_of_a_cluster(&scratch, 17).await);
}

#[test]
fn debian_layout_keeps_configuration_outside() {
    case("debian_layout", async |scratch| {
        let cluster = Cluster::builder(15)
            .debian_layout(true)
            .checksums(false)
            .setting("work_mem", "5MB")
            .tcp(true)
            .create(&scratch, "main")
            .await?;
        let etc = cluster.etc_directory().to_owned();
        assert!(!cluster.data_directory().join("postgresql.conf").exists());
        assert!(!cluster.data_directory().join("pg_hba.conf").exists());
        assert_eq!(
            cluster.query_one("show config_file").await?,
            etc.join("postgresql.conf").display().to_string()
        );
        assert_eq!(
            cluster.query_one("show hba_file").await?,
            etc.join("pg_hba.conf").display().to_string()
        );
        assert_eq!(cluster.query_one("show cluster_name").await?, "from conf.d");
        assert_eq!(cluster.query_one("show work_mem").await?, "5MB");
        assert_eq!(cluster.query_one("show data_checksums").await?, "off");
        std::net::TcpStream::connect(("127.0.0.1", cluster.port()))?;

        cluster.stop(StopMode::Fast).await?;
        let copied = copy(&cluster, &scratch, "two").await?;
        let second = Cluster::adopt_debian(&scratch, "two", &copied, &etc)?;
        cluster.start().await?;
        second.start().await?;
        assert_eq!(
            second.query_one("show data_directory").await?,
            copied.display().to_string()
        );
        Ok(())
    });
}

#[test]
fn a_server_that_cannot_start_says_why() {
    case("cannot_start", async |scratch| {
        let mut cluster = Cluster::builder(15).create(&scratch, "main").await?;
        cluster.stop(StopMode::Immediate).await?;
        cluster.override_setting("shared_buffers", "none");
        let error = format!("{:#}", cluster.start().await.unwrap_err());
        assert!(error.contains("shared_buffers"), "{error}");
        Ok(())
    });
}

#[test]
fn seaweedfs_makes_buckets_and_keeps_them_through_an_outage() {
    case("weed", async |scratch| {
        let mut weed = Weed::start(&scratch).await?;
        assert!(weed.endpoint().starts_with("http://127.0.0.1:"));
        assert!(!weed.has_bucket("first-bucket").await?);
        weed.create_bucket("first-bucket").await?;
        weed.freeze()?;
        weed.thaw()?;
        weed.kill9()?;
        assert!(weed.has_bucket("first-bucket").await.is_err());
        weed.restart().await?;
        assert!(weed.has_bucket("first-bucket").await?);
        weed.create_bucket("second-bucket").await
    });
}

#[test]
fn seaweedfs_speaks_tls() {
    case("weed_tls", async |scratch| {
        let weed = Weed::start_tls(&scratch).await?;
        let address = weed.endpoint().replace("https://", "");
        let mut command = user::command("openssl");
        command
            .args([
                "s_client",
                "-brief",
                "-verify_return_error",
                "-connect",
                &address,
                "-CAfile",
            ])
            .arg(weed.authority().unwrap());
        user::run(command, DEADLINE).await?;
        Ok(())
    });
}

#[test]
fn a_child_is_stopped_by_its_id_and_its_output_is_kept() {
    case("child", async |scratch| {
        let mut command = user::command("sh");
        command.args(["-c", "echo ready; echo ' WARN careful' >&2; exec sleep 600"]);
        let mut child = Child::spawn(&scratch, "sleeper", command)?;
        child.wait_for_log("ready", DEADLINE).await?;
        wait_until("the warning", DEADLINE, async || child.log().contains("careful")).await?;
        assert!(child.assert_no_unexpected_warnings(&[]).is_err());
        child.assert_no_unexpected_warnings(&["careful"])?;
        let id = child.id();
        child.stop(DEADLINE).await?;
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());

        let mut failing = Child::spawn(&scratch, "failing", user::command("false"))?;
        let error = failing.wait_for_log("never", DEADLINE).await.unwrap_err();
        assert!(error.to_string().contains("ended with"), "{error}");
        Ok(())
    });
}

#[test]
fn a_wait_ends_at_its_deadline_with_its_name() {
    case("wait", async |_| {
        let start = Instant::now();
        let waited = wait_until("the tide", Duration::from_millis(100), async || false).await;
        assert!(waited.unwrap_err().to_string().contains("the tide"));
        let waited = wait_until("a hung probe", Duration::from_millis(100), async || {
            std::future::pending::<bool>().await
        });
        assert!(waited.await.is_err());
        assert!(start.elapsed() < Duration::from_secs(10));
        Ok(())
    });
}

#[test]
fn commands_run_as_a_user_that_postgres_accepts() {
    case("user", async |scratch| {
        let mut command = user::command("sh");
        command.args(["-c", "id -u && touch mine"]).current_dir(scratch.path());
        let uid = user::run(command, DEADLINE).await?;
        assert_ne!(uid.trim(), "0");
        let own = Command::new("id").arg("-u").output()?;
        let own = String::from_utf8(own.stdout)?;
        assert!(own.trim() == "0" || own == uid);
        Ok(())
    });
}
