//! `--prove` says what holds of a restored server, and fails when something does not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::program::Output;
use tests::seawall::json_array;
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall, StopMode, case};

const TABLES: &str = "
    create extension amcheck;
    create table customers (a int, b int, primary key (a, b));
    create table orders (id int primary key, a int, b int, foreign key (a, b) references customers);
    create table filler as select i, repeat('x', 1000) as text from generate_series(1, 500) i;
    insert into customers select i, i from generate_series(1, 100) i;
    insert into orders select i, i, i from generate_series(1, 100) i;
    insert into orders values (101, null, 7);
";

async fn backed_up(
    scratch: &Scratch,
    and_then: impl AsyncFnOnce(&Cluster) -> Result<()>,
) -> Result<(Seawall, Cluster)> {
    let cluster = Cluster::builder(15).segment_size_mib(1).create(scratch, "main").await?;
    cluster.exec(TABLES).await?;
    and_then(&cluster).await?;
    let known_good = ["select count(*) from orders", "select nothing from nowhere"];
    let config = Seawall::local_config(scratch, &cluster)?.set(
        "cluster.main.backup.last_known_good",
        known_good.map(str::to_owned).to_vec(),
    )?;
    let seawall = Seawall::configure(config)?;
    seawall.init().await?;
    let agent = seawall.run().await?;
    // With a corrupt page it says so, and goes on.
    seawall.agent.run_ok(&["backup"]).await?;
    cluster.exec("delete from orders where id = 100").await?;
    seawall.wait_archived(&cluster).await?;
    agent.stop(DEADLINE).await?;
    Ok((seawall, cluster))
}

/// Restores beside the original; the server is stopped again.
async fn prove(scratch: &Scratch, seawall: &Seawall, args: &[&str]) -> Result<(Output, Value)> {
    let place = Cluster::place(scratch, "proved")?;
    let (data, sockets) = (place.data.display().to_string(), place.sockets.display().to_string());
    let port = place.port.to_string();
    let all = [
        "--target", "latest", "--pgdata", &data, "--start", "--prove", "--json", "--port", &port,
    ];
    let output = seawall
        .restore
        .run(&[&all[..], &["--socket-dir", &sockets], args].concat())
        .await?;
    let report = serde_json::Deserializer::from_str(&output.stdout)
        .into_iter::<Value>()
        .next();
    place.adopt(scratch)?.stop(StopMode::Fast).await?;
    Ok((output, report.unwrap()?))
}

fn proof<'a>(report: &'a Value, name: &str) -> Result<&'a Value> {
    let proofs = json_array(report, "proofs")?;
    let found = proofs
        .iter()
        .find(|proof| proof["name"] == name && proof["database"] == "postgres");
    found.ok_or_else(|| anyhow::anyhow!("no proof \"{name}\": {report}"))
}

#[test]
fn a_healthy_server_is_proven_beside_what_was_known_of_it() {
    case("prove", async |scratch| {
        let (seawall, _) = backed_up(&scratch, async |_| Ok(())).await?;
        for args in [&[][..], &["--target-action", "pause"]] {
            let (output, report) = prove(&scratch, &seawall, args).await?;
            output.assert_code(0)?;
            let count = proof(&report, "select count(*) from orders")?;
            assert_eq!(count["detail"], "100 (when the backup was taken: 101)");
            ensure!(
                proof(&report, "select nothing from nowhere")?["ok"] == true,
                "it failed then as well"
            );
            assert_eq!(proof(&report, "foreign keys")?["detail"], "1 keys, no orphans");
            ensure!(
                proof(&report, "B-trees")?["detail"]
                    .as_str()
                    .unwrap()
                    .ends_with("checked")
            );
            ensure!(proof(&report, "every table is read")?["ok"] == true);
            ensure!(report["phases_ms"]["prove"].is_u64(), "{report}");
            std::fs::remove_dir_all(scratch.join("proved"))?;
        }
        let args = [
            "--target",
            "latest",
            "--pgdata",
            "/nowhere/data",
            "--start",
            "--prove",
            "--target-action",
            "shutdown",
        ];
        seawall
            .restore
            .run(&args)
            .await?
            .assert_refused(2, &["cannot be proven"])
    });
}

#[test]
fn orphans_and_a_page_that_cannot_be_read_are_found() {
    case("prove_wrong", async |scratch| {
        let spoil = async |cluster: &Cluster| {
            cluster
                .exec("set session_replication_role = replica; delete from customers where a = 50")
                .await?;
            let path = cluster.query_one("select pg_relation_filepath('filler')").await?;
            cluster.stop(StopMode::Fast).await?;
            let file = File::options().write(true).open(cluster.data_directory().join(path))?;
            file.write_all_at(&[0xA5; 32], 3 * 8192 + 4000)?;
            cluster.start().await
        };
        let (seawall, _) = backed_up(&scratch, spoil).await?;
        let (output, report) = prove(&scratch, &seawall, &[]).await?;
        ensure!(
            output.code() != 0 && output.stderr.contains("proofs do not hold"),
            "{}",
            output.stderr
        );
        let keys = proof(&report, "foreign keys")?;
        ensure!(
            keys["ok"] == false && keys["detail"].as_str().unwrap().contains("1 rows lead nowhere"),
            "{keys}"
        );
        let read = proof(&report, "every table is read")?;
        ensure!(
            read["ok"] == false && read["detail"].as_str().unwrap().contains("invalid page"),
            "{read}"
        );
        Ok(())
    });
}
