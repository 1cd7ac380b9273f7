//! The writer epoch: taken by a lease that only one can create, and watched for whoever takes a later one for the same lineage.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use store::StoreError;
use store::crash::{self, CrashPoint};
use store::envelope::Kind;
use store::id::LineageId;
use store::keys::SigningKey;
use store::object::list_all;
use store::records::Lease;
use store::repository::{Fence, NewObject, Put, Repository, Writer};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::exit::Failure;
use crate::open::host_name;
use crate::output;

/// Attempts to take the next writer epoch when others take it at the same time.
const ATTEMPTS: u32 = 16;
/// Between two looks whether somebody has taken over: six requests a minute, about 0.1 $ a month at list price.
const EVERY: Duration = Duration::from_secs(10);

/// An epoch that we hold.
pub struct Held {
    /// Signs and creates objects in it.
    pub writer: Arc<Writer>,
    /// Whether nobody has taken over.
    pub fence: Arc<Fence>,
    /// For this lineage.
    pub lineage: LineageId,
    watch: JoinHandle<()>,
}

impl Held {
    /// Takes the next epoch and watches it; `taken_over` is told who takes over, and stays so.
    pub async fn take(
        repository: &Arc<Repository>,
        signing: &Arc<SigningKey>,
        lineage: LineageId,
        taken_over: Arc<watch::Sender<Option<u64>>>,
    ) -> anyhow::Result<Self> {
        let writer = take(repository, signing, lineage).await?;
        let fence = Arc::new(Fence::new(Arc::clone(repository), writer.epoch(), lineage));
        tracing::info!(epoch = writer.epoch(), %lineage, "epoch taken");
        Ok(Held {
            writer: Arc::new(writer),
            watch: keep_watch(Arc::clone(&fence), taken_over),
            fence,
            lineage,
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

async fn take(repository: &Arc<Repository>, signing: &Arc<SigningKey>, lineage: LineageId) -> anyhow::Result<Writer> {
    let control = Writer::new(Arc::clone(repository), Arc::clone(signing), 0);
    let prefix = repository.layout().prefix("leases");
    let mut refused = 0;
    for _ in 0..ATTEMPTS {
        let leases = list_all(repository.store().as_ref(), &prefix).await?;
        let taken = leases
            .iter()
            .filter_map(|meta| u64::from_str_radix(meta.name.file_name(), 16).ok())
            .max()
            .unwrap_or(0)
            // A listing may be older than the refusal.
            .max(refused);
        let lease = Lease {
            epoch: taken + 1,
            host: host_name(),
            taken_us: output::now_us(),
            after: None,
            lineage: Some(lineage),
        };
        let plain = minicbor::to_vec(&lease)?;
        let name = repository.layout().lease(lease.epoch)?;
        match control
            .put(&name, NewObject::metadata(Kind::Lease, &plain, lease.taken_us))
            .await
        {
            Ok(Put::Created) => {
                crash::point(CrashPoint::AfterLease);
                return Ok(Writer::new(Arc::clone(repository), Arc::clone(signing), lease.epoch));
            }
            Ok(Put::Same) | Err(StoreError::Conflict { .. }) => refused = lease.epoch,
            // Half a lease under that name, ours or another's: no epoch of anybody's.
            Err(error) if error.damaged_object().is_some() => refused = lease.epoch,
            Err(error) => return Err(error).context("cannot take a writer epoch"),
        }
    }
    Err(Failure::refused(
        "other agents keep taking the writer epoch",
        "Run one agent for a cluster.",
    )
    .into())
}

fn keep_watch(fence: Arc<Fence>, taken_over: Arc<watch::Sender<Option<u64>>>) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(EVERY).await;
            match fence.look().await {
                Ok(()) => {}
                Err(error @ StoreError::TakenOver { by, .. }) => {
                    tracing::error!(%error, "another agent has taken over; stopping");
                    taken_over.send_replace(Some(by));
                    return;
                }
                Err(error) => tracing::debug!(%error, "could not look whether the epoch was taken over"),
            }
        }
    })
}
