//! The daemon's state: what it archives, with which epoch, and what its parts tell each other.

use std::sync::Arc;

use anyhow::Context as _;
use pg::conninfo::ConnectOptions;
use pg::lsn::Lsn;
use pg::timeline::TimelineId;
use store::StoreError;
use store::keys::SigningKey;
use store::records::Lineage;
use store::repository::{Repository, Writer};
use tokio::sync::watch;
use wal::lag::Lag;
use wal::lane::LaneInputs;
use wal::receive::Orders;

use super::after_loss::{self, Losses};
use super::lease::Held;
use super::ledger::Ledger;
use super::state::Supervision;
use crate::open::Context;

/// What the daemon is made of.
pub struct Daemon {
    /// Where everything goes.
    pub repository: Arc<Repository>,
    /// This host's signing key.
    pub signing: Arc<SigningKey>,
    /// Writes what no epoch fences: lineages, declared holes, the ledger.
    pub control: Arc<Writer>,
    /// What the lane was given last.
    pub inputs: Option<LaneInputs>,
    /// The server that is streamed from had removed the WAL of this timeline up to there.
    pub removed_until: Option<(TimelineId, Lsn)>,
    /// Our epoch, from the moment on that a server has proven to be the one of our lineage.
    pub held: Option<Held>,
    /// What is archived now.
    pub lineage: Lineage,
    /// For the record.
    pub ledger: Ledger,
    /// What the stream is told while it runs.
    pub orders: watch::Sender<Orders>,
    /// Lost WAL that no backup makes up for yet.
    pub losses: Arc<Losses>,
    /// True when the slot must be dropped.
    pub abandon: watch::Sender<bool>,
    /// The epoch of the agent that has taken over.
    pub taken_over: Arc<watch::Sender<Option<u64>>>,
    /// The server that is streamed from.
    pub server: watch::Sender<Option<ConnectOptions>>,
    /// Commit to archived.
    pub lag: Lag,
    /// A stream was open once: what failed before is a mistake, what fails after is an outage.
    pub has_connected: bool,
}

impl Daemon {
    /// The server that the last turn went to; before the first one, any that the configuration names.
    pub fn server(&self, context: &Context) -> anyhow::Result<ConnectOptions> {
        let chosen = self.server.borrow().clone();
        chosen.map_or_else(|| context.connect_options(), Ok)
    }

    /// True when the last turn went to this server.
    pub fn is_same_server(&self, connect: &ConnectOptions) -> bool {
        let last = self.server.borrow();
        let address = |options: &ConnectOptions| options.servers.first().map(ToString::to_string);
        last.as_ref().is_some_and(|last| address(last) == address(connect))
    }

    /// Our epoch in the current lineage, taken if need be.
    pub async fn hold(&mut self) -> anyhow::Result<&Held> {
        let lineage = self.lineage.id;
        if self.held.as_ref().is_none_or(|held| held.lineage != lineage) {
            let taken = Held::take(&self.repository, &self.signing, lineage, Arc::clone(&self.taken_over));
            self.held = Some(taken.await?);
        }
        self.held.as_ref().context("no epoch is held")
    }

    /// Goes over to the lineage that the server has proven to belong to.
    pub async fn belong_to(
        &mut self,
        lineage: &Lineage,
        supervision: &watch::Sender<Supervision>,
    ) -> anyhow::Result<()> {
        if self.lineage.id == lineage.id {
            return Ok(());
        }
        tracing::warn!(lineage = %lineage.id, instead_of = %self.lineage.id, "the server's history is the one of another lineage; going on with that");
        let is_open = after_loss::is_open(&self.repository, lineage.id).await?;
        if is_open {
            self.losses.open(lineage.id);
        } else {
            self.losses.close();
        }
        self.orders.send_modify(|orders| orders.loss_is_open = is_open);
        self.lineage = lineage.clone();
        supervision.send_modify(|supervision| supervision.lineage = lineage.id);
        Ok(())
    }

    /// Whether there is archived WAL behind a point by now.
    pub async fn is_filled(&self, behind: Lsn) -> anyhow::Result<bool> {
        let coverage = self.repository.coverage(self.lineage.id).await?;
        Ok(coverage.newest_end().is_some_and(|end| end > behind))
    }

    /// Whether the repository answers, and nobody has taken over.
    pub async fn look(&self) -> Result<(), StoreError> {
        match &self.held {
            Some(held) => held.fence.look().await,
            None => {
                let any = self.repository.layout().lease(1)?;
                Ok(self.repository.store().head(&any).await.map(drop)?)
            }
        }
    }
}
