//! A backup that is caught in the middle of its copy: the store holds its packs, so it waits with the server's backup under way.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::child::Child;
use crate::cluster::Cluster;
use crate::config_file::ConfigFile;
use crate::fault_s3::{Fault, FaultS3, Method, Rule};
use crate::seawall::Seawall;
use crate::wait::{DEADLINE, wait_for};

/// Bytes that no compressor makes smaller, many times over what may be on its way at once: with one upload in flight two packs of
/// 16 MiB wait and two are filled.
const NOISE: &str = "
    create table noise (n int, bytes bytea);
    alter table noise alter column bytes set storage external;
    insert into noise select n, bytes from
      (select string_agg(sha512(i::text::bytea), '') as bytes from generate_series(1, 16384) i) t, generate_series(1, 96) n;
    create function noise_digest() returns text language sql as
      $$ select md5(string_agg(n || ' ' || md5(bytes), ',' order by n)) from noise $$;";

/// For how many seconds the server has heard nothing from the session of the backup, which has asked for its start and for nothing
/// else since; less than zero when there is none.
const IDLE: &str = "
    select coalesce(extract(epoch from clock_timestamp() - max(state_change)), -1) from pg_stat_activity
    where application_name = 'seawall' and state = 'idle' and (query like '%pg_backup_start(%' or query like '%pg_start_backup(%')";

/// About 100 MB, in the table `noise`.
pub async fn create_noise(cluster: &Cluster) -> Result<()> {
    cluster.exec(NOISE).await
}

/// Equal on the original and on its restore.
pub async fn noise_digest(cluster: &Cluster) -> Result<String> {
    cluster.query_one("select noise_digest()").await
}

/// For a backup that shall be caught.
pub fn one_upload(config: ConfigFile) -> Result<ConfigFile> {
    config.set("cluster.main.backup.uploads_in_flight", 1)
}

/// Starts a backup and returns it when the store holds its packs; [`crate::fault_s3::Faults::heal`] lets it go on. The cluster must
/// have its noise, and the configuration one upload.
pub async fn catch(seawall: &Seawall, server: &FaultS3, cluster: &Cluster) -> Result<Child> {
    server
        .faults()
        .add(Rule::new(Fault::Hold).on(Method::Put).key("/packs/"));
    let mut backup = seawall.agent.start(&["backup", "--json"])?;
    wait_idle(cluster, &mut backup, Duration::ZERO).await?;
    let faults = server.faults();
    wait_for("the store to hold a pack", DEADLINE, async || {
        (faults.held() > 0).then_some(())
    })
    .await?;
    Ok(backup)
}

/// Waits until the server has heard nothing from the session of a caught backup for so long.
pub async fn wait_idle(cluster: &Cluster, backup: &mut Child, idle: Duration) -> Result<()> {
    let client = cluster.connect().await?;
    let probe = async || {
        if let Some(status) = backup.ended() {
            return Some(Some(status));
        }
        let seconds = crate::cluster::query_one(&client, IDLE).await.ok()?;
        let seconds: f64 = seconds.parse().ok()?;
        (seconds >= idle.as_secs_f64()).then_some(None)
    };
    let ended = wait_for("the session of the backup", DEADLINE, probe).await?;
    match ended {
        None => Ok(()),
        Some(status) => bail!("the backup ended with {status}\n{}", backup.log()),
    }
}

/// The exit code of a backup that goes on, and what it has said.
pub async fn end_of(mut backup: Child) -> Result<(i32, String)> {
    let status = backup.wait(DEADLINE).await?;
    Ok((status.code().context("it was killed")?, backup.log()))
}
