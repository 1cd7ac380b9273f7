//! Another server where ours should be: a foreign cluster behind the same address, and a clone that runs with the configuration of
//! production. Neither adds an object to the lineage of production, both are named in the log, and production goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use anyhow::Result;
use tests::seawall::{json_array, json_str};
use tests::wait::{DEADLINE, wait_for};
use tests::{Address, Child, Cluster, Scratch, Seawall, StopMode, case, wait_until};

const REFUSED: i32 = 3;

async fn create(scratch: &Scratch, name: &str, major: u32) -> Result<Cluster> {
    Cluster::builder(major)
        .segment_size_mib(1)
        .setting("autovacuum", "off")
        .create(scratch, name)
        .await
}

async fn write(cluster: &Cluster, who: &str, rows: u32) -> Result<()> {
    let sql = format!("insert into t select '{who}' from generate_series(1, {rows})");
    cluster.exec(&sql).await
}

async fn rows(cluster: &Cluster) -> Result<String> {
    cluster
        .query_one(
            "select string_agg(who || ' ' || n, ', ' order by who) from (select who, count(*) n from t group by 1) s",
        )
        .await
}

async fn identifier(cluster: &Cluster) -> Result<String> {
    let sql = "select system_identifier from pg_control_system()";
    cluster.query_one(sql).await
}

/// Behind the address of production another cluster answers, of the same major and with more WAL.
async fn foreign_cluster(scratch: &Scratch, major: u32) -> Result<()> {
    let ours = create(scratch, "main", major).await?;
    let foreign = create(scratch, "other", major).await?;
    for cluster in [&ours, &foreign] {
        cluster.exec("create table t (who text)").await?;
    }
    write(&foreign, "foreign", 50_000).await?;
    let address = Address::of(scratch, "address", &ours)?;
    let config = Seawall::local_config(scratch, &ours)?
        .set("cluster.main.postgres.host", address.host().display().to_string())?
        .set("cluster.main.postgres.port", i64::from(address.port()))?;
    let seawall = Seawall::configure(config)?;
    seawall.init().await?;
    let mut agent = seawall.run().await?;
    seawall.backup().await?;
    write(&ours, "ours", 1_000).await?;
    seawall.wait_archived(&ours).await?;

    // The address moves while the agent runs; the connection breaks with the server.
    address.move_to(&foreign)?;
    ours.kill9()?;
    let ended = agent.wait(DEADLINE).await?;
    assert_eq!(ended.code(), Some(REFUSED), "{}", agent.log());
    let lineage = &seawall.lineages()?[0];
    let archived = seawall.wal_of(lineage)?;
    told_apart(&agent.log(), &ours_and_theirs(&ours, &foreign).await?);
    // And again with slots that look like ours: nobody is streamed from, before or after.
    foreign
        .exec("select pg_create_physical_replication_slot('seawall', true)")
        .await?;
    let output = seawall.agent.run(&["run"]).await?;
    output.assert_refused(REFUSED, &["system identifier"])?;
    let backup = seawall.agent.run(&["backup"]).await?;
    backup.assert_refused(REFUSED, &["another cluster"])?;
    let init = seawall.agent.run(&["init", "--single-host"]).await?;
    init.assert_refused(REFUSED, &["another cluster"])?;
    let slots = foreign
        .query_one("select string_agg(slot_name, ' ') from pg_replication_slots")
        .await?;
    assert_eq!(slots, "seawall", "slots were made on a server that is not ours");

    // Not one object, in no lineage, and no new lineage.
    assert_eq!(seawall.wal_of(lineage)?, archived);
    assert_eq!(seawall.lineages()?, [lineage.as_str()]);
    assert_eq!(json_array(&seawall.list().await?, "backups")?.len(), 1);

    // Production comes back to its address, and nothing was lost.
    ours.start().await?;
    address.move_to(&ours)?;
    let agent = seawall.run().await?;
    write(&ours, "ours", 1).await?;
    seawall.wait_archived(&ours).await?;
    agent.stop(DEADLINE).await?;
    assert_eq!(seawall.lineages()?, [lineage.as_str()]);
    let restored = seawall.restore_to("latest", &["--target", "latest"]).await?;
    assert_eq!(rows(&restored).await?, "ours 1001");
    Ok(())
}

/// The identifiers of both, the one of a server that is down from its control file.
async fn ours_and_theirs(ours: &Cluster, foreign: &Cluster) -> Result<[String; 2]> {
    let control = std::fs::read(ours.data_directory().join("global/pg_control"))?;
    let ours = u64::from_le_bytes(control[..8].try_into()?).to_string();
    Ok([ours, identifier(foreign).await?])
}

/// The log names both clusters in one line that is an error.
fn told_apart(log: &str, identifiers: &[String; 2]) {
    let named = |line: &str| identifiers.iter().all(|identifier| line.contains(identifier.as_str()));
    assert!(log.lines().any(named), "{identifiers:?} are not named:\n{log}");
}

#[test]
fn a_foreign_postgres_15_behind_the_same_address_is_refused() {
    case("foreign_15", async |scratch| foreign_cluster(&scratch, 15).await);
}

#[test]
fn a_foreign_postgres_17_behind_the_same_address_is_refused() {
    case("foreign_17", async |scratch| foreign_cluster(&scratch, 17).await);
}

#[test]
fn a_foreign_postgres_18_behind_the_same_address_is_refused() {
    case("foreign_18", async |scratch| foreign_cluster(&scratch, 18).await);
}

/// Production, and a copy of it on another host with another agent: same keys, same repository, same slots.
struct Clone {
    ours: Cluster,
    seawall: Seawall,
    agent: Child,
    lineage: String,
    copy: Cluster,
    /// The installation of the copy.
    other: Seawall,
}

impl Clone {
    async fn create(scratch: &Scratch, major: u32) -> Result<Self> {
        let ours = create(scratch, "main", major).await?;
        ours.exec("create table t (who text)").await?;
        let seawall = Seawall::local(scratch, &ours).await?;
        let agent = seawall.run().await?;
        seawall.backup().await?;
        let lineage = seawall.lineages()?[0].clone();
        write(&ours, "common", 1_000).await?;
        seawall.wait_archived(&ours).await?;
        ours.stop(StopMode::Fast).await?;
        let data = scratch.dir("copy")?.join("data");
        ours.copy_data_directory(&data).await?;
        ours.start().await?;
        let copy = Cluster::adopt(scratch, "copy", &data)?;
        let config = seawall
            .config
            .clone()
            .set("cluster.main.postgres.host", copy.socket_dir().display().to_string())?
            .set("cluster.main.postgres.port", i64::from(copy.port()))?
            .set(
                "cluster.main.status.state_directory",
                scratch.dir("copy-state")?.display().to_string(),
            )?;
        let other = Seawall::configure_as(config, "copy")?;
        wait_until("the agent of production", DEADLINE, async || {
            seawall.status().await.is_ok_and(|status| status["streaming"] == true)
        })
        .await?;
        Ok(Self {
            ours,
            seawall,
            agent,
            lineage,
            copy,
            other,
        })
    }

    /// Names in the lineage of production that the agent of the copy wrote: they end with its epoch.
    fn spliced(&self, agent: &Child) -> Result<Vec<String>> {
        let log = agent.log();
        let epoch = log
            .lines()
            .find_map(|line| line.split_once("epoch taken epoch=")?.1.split_whitespace().next());
        let suffix = format!(".{:08x}", epoch.expect("an epoch in the log").parse::<u32>()?);
        let mut names: Vec<String> = self.seawall.wal_of(&self.lineage)?.into_iter().collect();
        assert!(
            names.iter().all(|name| name.as_bytes()[name.len() - 9] == b'.'),
            "{names:?}"
        );
        names.retain(|name| name.to_lowercase().ends_with(&suffix));
        Ok(names)
    }

    /// Whatever the copy did: production is archived in its lineage, also by an agent that starts again, and restored as if there
    /// had been no copy.
    async fn production_goes_on(self, scratch: &Scratch, of_ours: &str) -> Result<()> {
        write(&self.ours, "ours", 500).await?;
        self.seawall.wait_archived(&self.ours).await?;
        self.agent.stop(DEADLINE).await?;
        let agent = self.seawall.run().await?;
        write(&self.ours, "ours", 500).await?;
        self.seawall.wait_archived(&self.ours).await?;
        let status = self.seawall.status().await?;
        assert_eq!(json_str(&status, "lineage")?, self.lineage, "{status}");
        agent.stop(DEADLINE).await?;
        self.ours.kill9()?;
        let list = self.seawall.list().await?;
        assert_eq!(json_array(&list, "holes")?.len(), 0, "{list}");
        let backups = json_array(&list, "backups")?;
        let ours = backups.iter().find(|backup| backup["lineage"] == self.lineage.as_str());
        let backup = json_str(ours.expect("the backup of production"), "backup")?;
        // Two servers are alive: which of them is meant must be said.
        let place = Cluster::place(scratch, "unclear")?;
        let data = place.data.display().to_string();
        let unclear = self
            .seawall
            .restore
            .run(&["--target", "latest", "--pgdata", &data])
            .await?;
        unclear.assert_code(3)?;
        assert!(
            unclear.stderr.contains("two servers are archived"),
            "{}",
            unclear.stderr
        );
        let target = ["--target", "latest", "--target-timeline", "1", "--backup", backup];
        let restored = self.seawall.restore_to("ours", &target).await?;
        assert_eq!(rows(&restored).await?, of_ours);
        restored.amcheck().await
    }
}

/// A copy of the disk, started beside production. Both go on under one identifier and one timeline.
async fn copy_of_the_disk(scratch: &Scratch, major: u32) -> Result<()> {
    let story = Clone::create(scratch, major).await?;
    write(&story.ours, "ours", 2_000).await?;
    story.seawall.wait_archived(&story.ours).await?;
    story.copy.start().await?;
    // Further than production: by its LSN alone the copy could be production.
    write(&story.copy, "copy", 60_000).await?;
    assert!(story.copy.current_lsn().await? > story.ours.current_lsn().await?);

    let mut agent = story.other.agent.start_daemon()?;
    agent.wait_for_log("a new lineage begins", DEADLINE).await?;
    let new = wait_for("the lineage of the copy", DEADLINE, async || {
        let status = story.other.status().await.ok()?;
        let lineage = json_str(&status, "lineage").ok()?.to_owned();
        (lineage != story.lineage && status["streaming"] == true).then_some(lineage)
    })
    .await?;
    story.other.wait_archived(&story.copy).await?;
    let log = agent.log();
    let named = |line: &str| line.contains("ERROR") && line.contains("history") && line.contains(&story.lineage);
    assert!(log.lines().any(named), "no ERROR about the history:\n{log}");
    assert_eq!(story.spliced(&agent)?, Vec::<String>::new());
    assert_eq!(story.seawall.lineages()?, [story.lineage.as_str(), new.as_str()]);
    assert!(!story.seawall.wal_of(&new)?.is_empty());
    // Its agent takes a backup by itself. Until there is one, a restore refuses for that.
    wait_until("the first backup of the copy", 2 * DEADLINE, async || {
        let list = story.other.list().await.unwrap_or_default();
        let mut backups = list["backups"].as_array().into_iter().flatten();
        backups.any(|backup| backup["lineage"] == new.as_str())
    })
    .await?;
    agent.stop(DEADLINE).await?;
    story.production_goes_on(scratch, "common 1000, ours 3000").await
}

#[test]
fn a_copy_of_the_disk_of_postgres_15_never_joins_production() {
    case("copy_15", async |scratch| copy_of_the_disk(&scratch, 15).await);
}

#[test]
fn a_copy_of_the_disk_of_postgres_17_never_joins_production() {
    case("copy_17", async |scratch| copy_of_the_disk(&scratch, 17).await);
}

#[test]
fn a_copy_of_the_disk_of_postgres_18_never_joins_production() {
    case("copy_18", async |scratch| copy_of_the_disk(&scratch, 18).await);
}
