//! WAL that the primary has removed and its standby still has: it is archived from there, and nothing is called lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::Result;
use tests::seawall::{json_array, json_str};
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall, case, user, wait_until};

async fn write(cluster: &Cluster, part: &str) -> Result<()> {
    cluster
        .exec(&format!("insert into t select '{part}', generate_series(1, 1000)"))
        .await
}

async fn much_wal(cluster: &Cluster) -> Result<()> {
    for _ in 0..12 {
        let fill =
            "select pg_logical_emit_message(true, 'fill', repeat('x', 900000)); select pg_switch_wal(); checkpoint";
        cluster.exec(fill).await?;
    }
    Ok(())
}

/// A standby that keeps all WAL, whatever its primary does.
async fn standby_of(primary: &Cluster, scratch: &Scratch) -> Result<Cluster> {
    primary
        .exec("select pg_create_physical_replication_slot('standby', true)")
        .await?;
    let data = scratch.dir("standby")?.join("data");
    let mut command = primary.tool("pg_basebackup");
    command
        .args([
            "--checkpoint=fast",
            "--write-recovery-conf",
            "--no-sync",
            "--slot=standby",
            "-D",
        ])
        .arg(&data);
    user::run(command, DEADLINE).await?;
    let standby = Cluster::adopt(scratch, "standby", &data)?;
    standby.start().await?;
    standby.exec("alter system set wal_keep_size = '1GB'").await?;
    standby.exec("select pg_reload_conf()").await?;
    Ok(standby)
}

async fn lost_here_kept_there(scratch: &Scratch, major: u32) -> Result<()> {
    let primary = Cluster::builder(major)
        .segment_size_mib(1)
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "4MB")
        .create(scratch, "main")
        .await?;
    primary.exec("create table t (part text, i int)").await?;
    let standby = standby_of(&primary, scratch).await?;
    let list = |one: &dyn Fn(&Cluster) -> String| format!("{},{}", one(&primary), one(&standby));
    let config = Seawall::local_config(scratch, &primary)?
        .set(
            "cluster.main.postgres.host",
            list(&|cluster| cluster.socket_dir().display().to_string()).as_str(),
        )?
        .set(
            "cluster.main.postgres.port",
            list(&|cluster| cluster.port().to_string()).as_str(),
        )?
        .set("cluster.main.postgres.target_session_attrs", "primary")?;
    let seawall = Seawall::configure(config)?;
    seawall.init().await?;
    let agent = seawall.run().await?;
    seawall.backup().await?;
    write(&primary, "before").await?;
    seawall.wait_archived(&primary).await?;
    let lineage = json_str(&seawall.status().await?, "lineage")?.to_owned();
    agent.stop(DEADLINE).await?;

    primary
        .exec("select pg_drop_replication_slot('seawall'); select pg_drop_replication_slot('seawall_overlap')")
        .await?;
    write(&primary, "during").await?;
    much_wal(&primary).await?;
    let replayed = primary.current_lsn().await?;
    wait_until("the standby to follow", DEADLINE, async || {
        let sql = format!("select pg_last_wal_replay_lsn() - '0/0'::pg_lsn >= {replayed}");
        standby
            .query_one(&sql)
            .await
            .is_ok_and(|follows| follows == "t" || follows == "true")
    })
    .await?;
    much_wal(&primary).await?;

    let agent = seawall.run().await?;
    write(&primary, "after").await?;
    seawall.wait_archived(&primary).await?;
    let log = agent.log();
    assert!(log.contains("WAL that one server has lost came from another"), "{log}");
    let list = seawall.list().await?;
    assert_eq!(json_array(&list, "holes")?.len(), 0, "{list}\n{log}");
    assert_eq!(seawall.lineages()?, [lineage.as_str()], "{log}");
    agent.stop(DEADLINE).await?;
    primary.kill9()?;
    standby.kill9()?;
    let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
    let sql = "select string_agg(distinct part, ' ' order by part) || ' ' || count(*) from t";
    assert_eq!(restored.query_one(sql).await?, "after before during 3000");
    restored.amcheck().await
}

#[test]
fn wal_that_the_primary_lost_comes_from_its_standby_on_postgres_15() {
    case("elsewhere_15", async |scratch| lost_here_kept_there(&scratch, 15).await);
}

#[test]
fn wal_that_the_primary_lost_comes_from_its_standby_on_postgres_17() {
    case("elsewhere_17", async |scratch| lost_here_kept_there(&scratch, 17).await);
}
