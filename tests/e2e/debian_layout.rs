//! Debian's layout with two tablespaces, restored beside the original, which goes on running.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;

use anyhow::Result;
use tests::wait::DEADLINE;
use tests::{Cluster, Scratch, Seawall, case, pgbench, wait_until};

const COUNT: &str = "select (select count(*) from hot) || ' ' || (select count(*) from cold)";

/// Includes beside, above and nowhere, by paths that are not the shortest.
async fn include_with_dots(scratch: &Scratch, cluster: &Cluster) -> Result<()> {
    scratch.dir("main/shared")?;
    scratch.dir("main/etc/more.d")?;
    scratch.dir("main/empty.d")?;
    scratch.write("main/shared/one.conf", b"maintenance_work_mem = '11MB'\n")?;
    scratch.write("main/etc/more.d/20.conf", b"vacuum_cost_delay = '7ms'\n")?;
    let conf = scratch.join("main/etc/postgresql.conf");
    let text = fs::read_to_string(&conf)?
        + "include '../shared/./one.conf'\ninclude_dir './more.d'\ninclude_dir = '..//empty.d'\n";
    fs::write(&conf, text)?;
    cluster.reload().await?;
    wait_until("the new settings", DEADLINE, async || {
        let shown = cluster.query_one("show maintenance_work_mem").await;
        shown.is_ok_and(|shown| shown == "11MB")
    })
    .await
}

#[test]
fn a_server_with_tablespaces_and_outside_configuration_is_restored_beside_itself() {
    case("debian_layout", async |scratch| {
        let cluster = Cluster::builder(15)
            .debian_layout(true)
            .setting("work_mem", "5MB")
            .tablespace("fast")
            .tablespace("slow")
            .create(&scratch, "main")
            .await?;
        pgbench::create_mix_table(&cluster, 5000).await?;
        cluster
            .exec(
                "create table hot tablespace fast as select generate_series(1, 20000) i;
                 create table cold tablespace slow as select generate_series(1, 30000) i;
                 create index cold_i on cold (i) tablespace fast;",
            )
            .await?;
        include_with_dots(&scratch, &cluster).await?;
        let seawall = Seawall::local(&scratch, &cluster).await?;
        let agent = seawall.run().await?;
        seawall.backup().await?;
        cluster.exec("insert into hot select generate_series(1, 11)").await?;
        let digest = pgbench::mix_digest(&cluster).await?;
        seawall.wait_archived(&cluster).await?;

        // Without a map it would write into the tablespaces of the original: refused, nothing written.
        let refused = scratch.join("refused").display().to_string();
        let args = ["--target", "latest", "--pgdata", refused.as_str()];
        let output = seawall.restore.run(&args).await?;
        output.assert_code(3)?;
        assert!(output.stderr.contains("HINT"), "{}", output.stderr);
        assert!(!scratch.join("refused/global/pg_control").exists());

        let mut maps = Vec::new();
        for (name, old) in cluster.tablespaces() {
            let new = scratch.dir(format!("two/ts/{name}"))?;
            maps.push(format!("{}={}", old.display(), new.display()));
        }
        let (fast, slow) = (maps[0].as_str(), maps[1].as_str());
        let target = ["--target", "latest", "--tablespace-map", fast, "--tablespace-map", slow];
        let (restored, _) = seawall.restore_and_start("two", &target).await?;

        assert!(cluster.is_running());
        assert_eq!(restored.query_one(COUNT).await?, "20011 30000");
        assert_eq!(cluster.query_one(COUNT).await?, "20011 30000");
        assert_eq!(pgbench::mix_digest(&restored).await?, digest);
        // Its settings came along, its files did not: nothing of the original is in use.
        assert_eq!(restored.query_one("show work_mem").await?, "5MB");
        assert_eq!(restored.query_one("show cluster_name").await?, "from conf.d");
        assert_eq!(restored.query_one("show maintenance_work_mem").await?, "11MB");
        assert_eq!(restored.query_one("show vacuum_cost_delay").await?, "7ms");
        let here = scratch.join("two").display().to_string();
        for setting in ["config_file", "hba_file", "ident_file", "data_directory"] {
            let path = restored.query_one(&format!("show {setting}")).await?;
            assert!(path.starts_with(&here), "{setting} is {path}");
        }
        let links = fs::read_dir(restored.data_directory().join("pg_tblspc"))?;
        let mut targets = Vec::new();
        for link in links {
            targets.push(fs::read_link(link?.path())?);
        }
        assert_eq!(targets.len(), 2);
        assert!(
            targets.iter().all(|path| path.starts_with(scratch.join("two/ts"))),
            "{targets:?}"
        );

        // Both go their own way from here.
        restored.exec("delete from hot").await?;
        cluster.exec("insert into cold values (0)").await?;
        assert_eq!(restored.query_one(COUNT).await?, "0 30000");
        assert_eq!(cluster.query_one(COUNT).await?, "20011 30001");
        restored.amcheck().await?;
        cluster.amcheck().await?;
        agent.stop(DEADLINE).await
    });
}
