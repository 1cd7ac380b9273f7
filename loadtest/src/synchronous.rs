//! Commits a second that wait for us, beside those that wait for `pg_receivewal --synchronous`: the same server, the same load, in turn.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::time::Duration;
use tests::wait::{DEADLINE, wait_until};
use tests::{Child, Cluster, Scratch, Seawall, pgbench, user};

use crate::arguments::Arguments;

/// How often each of the two has its turn.
const ROUNDS: usize = 3;
/// Name of the peer's slot and of its connection.
const PEER: &str = "peer";

pub(crate) async fn measure(scratch: &Scratch, arguments: Arguments) -> Result<Value> {
    let cluster = Cluster::builder(15).create(scratch, "main").await?;
    pgbench::init(&cluster, 10).await?;
    let config = Seawall::local_config(scratch, &cluster)?;
    let interval = format!("{}ms", arguments.interval.as_millis());
    let seawall = Seawall::configure(config.set("cluster.main.wal.ship_interval", interval)?)?;
    seawall.init().await?;
    cluster
        .exec(&format!("select pg_create_physical_replication_slot('{PEER}', true)"))
        .await?;
    let (mut ours, mut theirs, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(run(&cluster, arguments).await?);
        let agent = seawall.run().await?;
        wait_for_commits(&cluster, "seawall").await?;
        wait_until("the agent to see that commits wait for it", DEADLINE, async || {
            seawall.status().await.is_ok_and(|status| status["synchronous"] == true)
        })
        .await?;
        ours.push(run(&cluster, arguments).await?);
        wait_for_commits(&cluster, "").await?;
        agent.stop(DEADLINE).await?;
        let peer = receivewal(scratch, &cluster)?;
        wait_for_commits(&cluster, PEER).await?;
        theirs.push(run(&cluster, arguments).await?);
        wait_for_commits(&cluster, "").await?;
        peer.stop(DEADLINE).await?;
    }
    let (alone, ours, theirs) = (median(alone), median(ours), median(theirs));
    println!("{} clients, commits a second (median of {ROUNDS})", arguments.clients);
    println!("nobody is waited for      {alone:>10.0}");
    println!("pg_receivewal             {theirs:>10.0}   {:.2} of it", theirs / alone);
    println!("seawall, local repository {ours:>10.0}   {:.2} of it", ours / alone);
    println!("seawall / pg_receivewal   {:>10.2}", ours / theirs);
    Ok(json!([
        { "name": "synchronous commits", "value": ours, "unit": "1/s", "bound": alone, "ratio": ours / alone, "peer": theirs },
        { "name": "synchronous commits, to pg_receivewal", "value": ours / theirs, "unit": "ratio" },
    ]))
}

fn receivewal(scratch: &Scratch, cluster: &Cluster) -> Result<Child> {
    let directory = scratch.dir("receivewal")?;
    user::give(&directory)?;
    let mut command = cluster.tool("pg_receivewal");
    command
        .args(["--synchronous", "--slot", PEER, "--no-password", "--directory"])
        .arg(&directory)
        .args(["--dbname", &format!("application_name={PEER}")]);
    Child::spawn(scratch, PEER, command)
}

/// From now on commits wait for this standby, or for nobody.
async fn wait_for_commits(cluster: &Cluster, standby: &str) -> Result<()> {
    cluster.append_setting("synchronous_standby_names", standby)?;
    cluster.reload().await?;
    if standby.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "select count(*) from pg_stat_replication where application_name = '{standby}' and sync_state = 'sync'"
    );
    wait_until("the standby to be synchronous", DEADLINE, async || {
        cluster.query_one(&sql).await.is_ok_and(|count| count == "1")
    })
    .await
}

/// Transactions a second.
async fn run(cluster: &Cluster, arguments: Arguments) -> Result<f64> {
    let mut command = cluster.tool("pgbench");
    command
        .args(["--no-vacuum", "--builtin=simple-update"])
        .arg(format!("--client={}", arguments.clients))
        .arg(format!("--time={}", arguments.duration.as_secs()));
    let text = user::run(command, arguments.duration + Duration::from_secs(60)).await?;
    let tps = text
        .lines()
        .find_map(|line| line.strip_prefix("tps = ")?.split_whitespace().next()?.parse().ok());
    tps.with_context(|| format!("no tps in {text}"))
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
