//! A small cluster whose WAL goes to the fault store, and the ends that each of these tests comes to.

use std::cell::RefCell;

use anyhow::{Context, Result, ensure};
use tests::cluster::{lsn_text, parse_lsn};
use tests::fault_s3::{Fault, Method, Rule};
use tests::oracle::Options;
use tests::seawall::json_array;
use tests::stored_wal::{StoredPrefix, WalKey};
use tests::wait::{DEADLINE, wait_until};
use tests::{Child, Cluster, FaultS3, Oracle, Scratch, Seawall};

pub(crate) struct Stage {
    pub server: FaultS3,
    pub cluster: Cluster,
    pub seawall: Seawall,
    /// Where the agent's first stream begins.
    start: u64,
    oracle: RefCell<Option<Oracle>>,
    agent: RefCell<Option<Child>>,
}

impl Stage {
    /// Initialised; the agent does not run.
    pub(crate) async fn on(scratch: &Scratch, server: FaultS3, settings: &[(&str, &str)]) -> Result<Self> {
        let mut builder = Cluster::builder(15)
            .segment_size_mib(1)
            .setting("track_commit_timestamp", "on");
        for (name, value) in settings {
            builder = builder.setting(name, value);
        }
        let cluster = builder.create(scratch, "main").await?;
        let config = Seawall::s3_config(scratch, &cluster, &server)
            .await?
            .set("cluster.main.wal.ship_interval", "50ms")?;
        let seawall = Seawall::configure(config)?;
        seawall.init().await?;
        let mut stage = Self {
            server,
            cluster,
            seawall,
            start: 0,
            oracle: RefCell::new(None),
            agent: RefCell::new(None),
        };
        stage.start = stage.confirmed().await? & !((1 << 20) - 1);
        Ok(stage)
    }

    /// With a running agent, a backup and a few commits behind it.
    pub(crate) async fn running(scratch: &Scratch, settings: &[(&str, &str)]) -> Result<Self> {
        let stage = Self::on(scratch, FaultS3::start().await?, settings).await?;
        let agent = stage.seawall.run().await?;
        stage.seawall.backup().await?;
        stage.agent.replace(Some(agent));
        stage.commit(50).await?;
        Ok(stage)
    }

    /// The running agent, for a test that ends it itself.
    pub(crate) fn agent(&self) -> Child {
        self.agent.take().expect("the agent runs")
    }

    /// So many further commits.
    pub(crate) async fn commit(&self, more: u64) -> Result<()> {
        let oracle = match self.oracle.take() {
            Some(oracle) => oracle,
            None => Oracle::start(&self.cluster, Options::default()).await?,
        };
        let done = oracle.wait_for(more).await;
        self.oracle.replace(Some(oracle));
        done
    }

    /// The fault strikes PUTs so often under load, and nothing is confirmed meanwhile that the store's log does not prove;
    /// afterwards all that was committed by then is archived.
    pub(crate) async fn survive(&self, fault: Fault, times: u64) -> Result<()> {
        let faults = self.server.faults();
        let before = faults.count(fault);
        faults.add(Rule::new(fault).on(Method::Put).times(times));
        let mut lies = Vec::new();
        wait_until(fault.name(), DEADLINE, async || {
            lies.extend(self.lie().await);
            faults.count(fault) - before == times
        })
        .await?;
        self.commit(20).await?;
        lies.extend(self.lie().await);
        ensure!(lies.is_empty(), "during {}: {}", fault.name(), lies[0]);
        let archived = self.seawall.wait_archived(&self.cluster).await;
        archived.with_context(|| format!("after {}", fault.name()))?;
        Ok(())
    }

    /// Writes WAL until something has happened.
    pub(crate) async fn fill_segments_until(&self, mut happened: impl AsyncFnMut() -> bool) -> Result<()> {
        let client = self.cluster.connect().await?;
        wait_until("WAL to have its effect", DEADLINE, async || {
            let message = "select pg_logical_emit_message(false, 'fill', repeat('x', 200000))";
            let _ = client.batch_execute(message).await;
            happened().await
        })
        .await
    }

    /// The fault strikes one whole object.
    pub(crate) async fn strike_an_object(&self, fault: Fault) -> Result<()> {
        let once = Rule::new(fault).on(Method::Put).key("/wal/").times(1);
        self.server.faults().add(once);
        self.fill_segments_until(async || self.server.faults().count(fault) == 1)
            .await
    }

    /// What PostgreSQL has been told to be safe.
    pub(crate) async fn confirmed(&self) -> Result<u64> {
        let slot = "select restart_lsn from pg_replication_slots where slot_name = 'seawall'";
        parse_lsn(&self.cluster.query_one(slot).await?)
    }

    /// What has been confirmed although the store has not got it.
    async fn lie(&self) -> Option<String> {
        let confirmed = self.confirmed().await.ok()?;
        let mut stored = StoredPrefix::new(self.start);
        for (_, key) in self.server.log().completed_puts() {
            if let Some(wal) = WalKey::parse(&key) {
                stored.add(wal.start, wal.end);
            }
        }
        let [told, held] = [confirmed, stored.end()].map(lsn_text);
        (confirmed > stored.end()).then(|| format!("{told} was confirmed, but only {held} is stored"))
    }

    /// The process that serves us; it changes with the connection.
    pub(crate) async fn walsender(&self) -> Result<String> {
        let streaming = "select pid from pg_stat_replication where application_name = 'seawall'";
        self.cluster.query_one(streaming).await
    }

    /// The agent ends in order, with everything archived.
    pub(crate) async fn stop(&self) -> Result<()> {
        self.seawall.wait_archived(&self.cluster).await?;
        self.agent().stop(DEADLINE).await
    }

    /// As [`Stage::finish`], for a test whose faults must not have cost the session.
    pub(crate) async fn finish_quietly(self, allow: &[&str]) -> Result<()> {
        let agent = self.agent();
        let sessions = agent.log().matches("streaming").count();
        ensure!(sessions == 1, "{sessions} sessions instead of one:\n{}", agent.log());
        agent.assert_no_unexpected_warnings(allow)?;
        self.finish(agent).await
    }

    /// All is archived; the server is lost; what comes back from the bucket alone is what was acknowledged.
    pub(crate) async fn finish(self, agent: Child) -> Result<()> {
        self.server.faults().heal();
        let history = self.oracle.take().context("nothing was committed")?.stop().await?;
        self.seawall.wait_archived(&self.cluster).await?;
        agent.stop(DEADLINE).await?;
        self.cluster.kill9()?;
        self.cluster.destroy_data_directory()?;
        let list = self.seawall.list().await?;
        ensure!(json_array(&list, "holes")?.is_empty(), "{list}");
        let restored = self.seawall.restore_to("latest", &["--target", "latest"]).await?;
        let expected = history.expected_now();
        let comparison = history.assert_exact(&restored.connect().await?, &expected).await?;
        ensure!(
            comparison.lost.is_empty() && expected.must.len() > 50,
            "{}",
            comparison.report()
        );
        Ok(())
    }
}
