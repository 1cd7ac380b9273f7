//! Load: pgbench, and a table of mixed types that is the same for the same seed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::child::Child;
use crate::cluster::Cluster;
use crate::seed::seed;
use crate::user;
use crate::wait::DEADLINE;

/// Fills pgbench's tables; scale 1 is about 16 MB.
pub async fn init(cluster: &Cluster, scale: u32) -> Result<()> {
    let mut command = cluster.tool("pgbench");
    command
        .args(["--initialize", "--quiet"])
        .arg(format!("--scale={scale}"));
    user::run(command, Duration::from_secs(600)).await?;
    Ok(())
}

/// Runs that many transactions a client, and returns when they are done.
pub async fn transactions(cluster: &Cluster, clients: u32, each: u32) -> Result<()> {
    // Other rows each time: those that were updated before lie close together.
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let seed = seed().wrapping_add(RUNS.fetch_add(1, Ordering::Relaxed)) & 0x7FFF_FFFF;
    let mut command = cluster.tool("pgbench");
    command
        .arg(format!("--client={clients}"))
        .arg(format!("--transactions={each}"))
        .arg(format!("--random-seed={seed}"));
    user::run(command, Duration::from_secs(600)).await?;
    Ok(())
}

/// Load in the background until it is stopped or dropped.
#[derive(Debug)]
pub struct Load(Child);

impl Load {
    /// `rate` limits the transactions a second of all clients together; 0 is as fast as it goes.
    pub fn start(cluster: &Cluster, clients: u32, rate: u32) -> Result<Self> {
        let mut command = cluster.tool("pgbench");
        command
            .args(["--time=86400", "--no-vacuum"])
            .arg(format!("--client={clients}"))
            .arg(format!("--random-seed={}", seed() & 0x7FFF_FFFF));
        if rate > 0 {
            command.arg(format!("--rate={rate}"));
        }
        let name = format!("pgbench-{}", cluster.name());
        Ok(Self(Child::spawn(cluster.scratch(), &name, command)?))
    }

    /// False once pgbench has given up, for example because the server went away.
    pub fn is_running(&mut self) -> bool {
        self.0.ended().is_none()
    }

    pub async fn stop(mut self) -> Result<()> {
        self.0.terminate(DEADLINE).await?;
        Ok(())
    }
}

/// pgbench's own invariant: each transaction adds the same amount to three tables and to the history.
pub async fn assert_balanced(cluster: &Cluster) -> Result<()> {
    let sql = "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),
                      (select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history)";
    let row = cluster.connect().await?.query_one(sql, &[]).await?;
    let sums: [i64; 4] = [row.get(0), row.get(1), row.get(2), row.get(3)];
    ensure!(
        sums.iter().all(|sum| *sum == sums[0]),
        "pgbench is out of balance: {sums:?}"
    );
    Ok(())
}

/// The table `mix`: uuid, jsonb, words, numbers, some nulls, and values that are stored out of line.
pub async fn create_mix_table(cluster: &Cluster, rows: u32) -> Result<()> {
    let seed = seed();
    let sql = format!(
        "create table mix (
           id bigint primary key, tag uuid not null, doc jsonb, words text, amount numeric(12, 2), at timestamptz);
         insert into mix
         select i, md5('{seed} tag ' || i)::uuid,
           case when i % 7 <> 0 then jsonb_build_object(
             'n', i, 'even', i % 2 = 0, 'list', jsonb_build_array(i % 10, i % 100), 'key', md5('{seed} key ' || i)) end,
           (select string_agg((array['tide', 'wave', 'pier', 'gull', 'sand', 'buoy', 'moor', 'reef'])
               [1 + get_byte(decode(md5('{seed} ' || i || ' ' || w), 'hex'), 0) % 8], ' ')
             from generate_series(1, 1 + (i % 40)) w),
           (i % 100000) / 100.0, timestamptz '2020-01-01 00:00+00' + i * interval '1 minute'
         from generate_series(1, {rows}) i;
         update mix set words =
           (select string_agg(md5('{seed} long ' || id || ' ' || w), '') from generate_series(1, 200) w)
         where id % 200 = 0;
         create index mix_tag on mix (tag);
         create index mix_doc on mix using gin (doc);"
    );
    cluster.exec(&sql).await
}

/// A digest of all rows of `mix`: equal on the original and on its restore.
pub async fn mix_digest(cluster: &Cluster) -> Result<String> {
    let sql = "select count(*) || ' ' || coalesce(md5(string_agg(md5(mix::text), '' order by id)), '') from mix";
    cluster.query_one(sql).await
}
