//! What a scenario plays on: a server behind an address, perhaps its standby, a store, and Seawall.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::child::unexpected_warnings;
use tests::fault_s3::{Fault, Rule};
use tests::seawall::flushed_lsn;
use tests::wait::{DEADLINE, wait_until};
use tests::{Address, Child, Cluster, FaultS3, Scratch, Seawall};
use tokio_postgres::Config;

use super::load;
use super::process::{Role, Watched};
use crate::scenario::{Event, Scenario, Store};

/// What an operator prepares on a standby that may take over.
const SLOTS: &str = "
    select pg_create_physical_replication_slot('seawall', true);
    select pg_create_physical_replication_slot('seawall_overlap', true);";

/// See the module.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) scratch: Scratch,
    pub(crate) primary: Cluster,
    pub(crate) standby: Option<Cluster>,
    pub(crate) address: Address,
    pub(crate) seawall: Seawall,
    pub(crate) agent: Option<Child>,
    pub(crate) store: Option<FaultS3>,
    pub(crate) watched: Watched,
    /// Lines of the agents that have ended.
    pub(crate) warnings: Vec<String>,
}

impl Stage {
    /// Everything but the agent, which does not run yet.
    pub(crate) async fn set_up(scratch: &Scratch, scenario: &Scenario) -> Result<Self> {
        let primary = Cluster::builder(15)
            .setting("shared_buffers", "128MB")
            .setting("max_wal_size", "4GB")
            .setting("checkpoint_timeout", "1h")
            .create(scratch, "main")
            .await?;
        primary.exec(load::TABLE).await?;
        primary.exec("create table bulk (line text not null)").await?;
        if scenario.database_mb > 0 {
            let lines = super::events::prepare_bulk(scratch, scenario.database_mb)?;
            let sql = format!("copy bulk from '{}'", lines.display());
            primary.exec(&sql).await?;
            std::fs::remove_file(lines)?;
            // Or the server does it by itself, at some moment of the run, and writes as much WAL again.
            primary.exec("vacuum (freeze, analyze) bulk").await?;
        }
        for event in &scenario.events {
            if let Event::BulkCopy { megabytes, .. } = event {
                super::events::prepare_bulk(scratch, *megabytes)?;
            }
        }
        let address = Address::of(scratch, "address", &primary)?;
        let (store, config) = match scenario.store {
            Store::Local => (None, Seawall::local_config(scratch, &primary)?),
            Store::S3 { .. } => {
                let store = FaultS3::start().await?;
                let config = Seawall::s3_config(scratch, &primary, &store).await?;
                (Some(store), config)
            }
        };
        let config = config
            .set("cluster.main.postgres.host", address.host().display().to_string())?
            .set("cluster.main.postgres.port", i64::from(address.port()))?
            .set(
                "cluster.main.wal.ship_interval",
                format!("{}ms", scenario.ship_interval_ms),
            )?;
        let seawall = Seawall::configure(config)?;
        seawall.init().await?;
        let mut stage = Self {
            scratch: scratch.clone(),
            standby: None,
            address,
            seawall,
            agent: None,
            store,
            watched: Watched::default(),
            warnings: Vec::new(),
            primary,
        };
        if scenario.has_failover() {
            stage.standby = Some(stage.synchronous_standby().await?);
        }
        Ok(stage)
    }

    /// Acknowledged is what the standby has too: a failover loses nothing that was promised.
    async fn synchronous_standby(&self) -> Result<Cluster> {
        let standby = self.primary.standby("standby").await?;
        standby.exec(SLOTS).await?;
        self.primary
            .append_setting("synchronous_standby_names", "walreceiver")?;
        self.primary.reload().await?;
        wait_until("the standby to be synchronous", DEADLINE, async || {
            let sql = "select count(*) from pg_stat_replication where sync_state = 'sync'";
            self.primary.query_one(sql).await.is_ok_and(|count| count == "1")
        })
        .await?;
        Ok(standby)
    }

    /// The store is as far and as bad as the scenario says from now on.
    pub(crate) fn make_store_slow(&self, store: Store) {
        if let (
            Some(server),
            Store::S3 {
                latency_ms,
                errors_percent,
            },
        ) = (&self.store, store)
        {
            // The first rule that strikes decides.
            if errors_percent > 0 {
                server
                    .faults()
                    .add(Rule::new(Fault::InternalError).percent(errors_percent));
            }
            if latency_ms > 0 {
                let delay = Fault::Delay(Duration::from_millis(latency_ms));
                server.faults().add(Rule::new(delay));
            }
        }
    }

    pub(crate) async fn start_agent(&mut self) -> Result<()> {
        let agent = self.seawall.run().await?;
        self.watched.add(Role::Agent, agent.id());
        self.agent = Some(agent);
        Ok(())
    }

    pub(crate) async fn stop_agent(&mut self) -> Result<()> {
        let agent = self.agent.take().context("no agent runs")?;
        self.watched.remove(agent.id());
        self.note_warnings(&agent);
        agent.stop(DEADLINE).await
    }

    pub(crate) fn note_warnings(&mut self, program: &Child) {
        let log = program.log();
        let lines = unexpected_warnings(&log, &[]);
        self.warnings.extend(lines.into_iter().map(str::to_owned));
    }

    /// Clients that find the server wherever it is.
    pub(crate) fn clients(&self) -> Config {
        let mut config = Config::new();
        config
            .host_path(self.address.host())
            .port(self.address.port())
            .user("postgres")
            .dbname("postgres")
            .application_name("loadtest")
            .connect_timeout(Duration::from_secs(5));
        config
    }

    /// The host is lost with all it has; returns how long it took to have everything back, and the server.
    pub(crate) async fn lose_and_restore(&mut self) -> Result<(Duration, Cluster)> {
        ensure!(self.agent.is_none(), "the agent still runs");
        if let Some(store) = &self.store {
            store.faults().heal();
        }
        if self.primary.is_running() {
            self.primary.kill9()?;
        }
        let begun = Instant::now();
        let restored = self.seawall.restore_to("restored", &["--target", "latest"]).await?;
        Ok((begun.elapsed(), restored))
    }

    pub(crate) async fn flushed(&self) -> Result<u64> {
        flushed_lsn(&self.primary).await
    }
}
