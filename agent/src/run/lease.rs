//! The writer epoch: taken by a lease that only one can create, and watched for whoever takes the next one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use store::crash::{self, CrashPoint};
use store::envelope::Kind;
use store::keys::file::HostKeys;
use store::object::list_all;
use store::records::Lease;
use store::repository::{Fence, NewObject, Put, Repository, Writer};
use store::{StoreError, keys};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::exit::Failure;
use crate::open::host_name;
use crate::output;

/// Attempts to take the next writer epoch when others take it at the same time.
const ATTEMPTS: u32 = 16;
/// Between two looks whether somebody has taken over: six requests a minute, about 0.1 $ a month at list price.
const EVERY: Duration = Duration::from_secs(10);

/// Takes the next writer epoch.
pub async fn take(repository: &Arc<Repository>, host: &HostKeys) -> anyhow::Result<Writer> {
    let signing = Arc::new(keys::SigningKey::from_seed(host.signing.seed().clone())?);
    let control = Writer::new(Arc::clone(repository), Arc::clone(&signing), 0);
    let prefix = repository.layout().prefix("leases");
    for _ in 0..ATTEMPTS {
        let leases = list_all(repository.store().as_ref(), &prefix).await?;
        let taken = leases
            .iter()
            .filter_map(|meta| u64::from_str_radix(meta.name.file_name(), 16).ok())
            .max()
            .unwrap_or(0);
        let lease = Lease {
            epoch: taken + 1,
            host: host_name(),
            taken_us: output::now_us(),
            after: None,
        };
        let plain = minicbor::to_vec(&lease)?;
        let name = repository.layout().lease(lease.epoch)?;
        match control
            .put(&name, NewObject::metadata(Kind::Lease, &plain, lease.taken_us))
            .await
        {
            Ok(Put::Created) => {
                crash::point(CrashPoint::AfterLease);
                return Ok(Writer::new(Arc::clone(repository), signing, lease.epoch));
            }
            Ok(Put::Same) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error).context("cannot take a writer epoch"),
        }
    }
    Err(Failure::refused(
        "other agents keep taking the writer epoch",
        "Run one agent for a cluster.",
    )
    .into())
}

/// Looks from time to time whether the epoch was taken over; the receiver turns true then, and stays so.
pub fn keep_watch(fence: Arc<Fence>) -> (JoinHandle<()>, watch::Receiver<bool>) {
    let (sender, receiver) = watch::channel(false);
    let task = tokio::spawn(async move {
        loop {
            tokio::time::sleep(EVERY).await;
            match fence.look().await {
                Ok(()) => {}
                Err(error @ StoreError::TakenOver { .. }) => {
                    tracing::error!(%error, "another agent has taken over; stopping");
                    let _ = sender.send(true);
                    return std::future::pending().await;
                }
                Err(error) => tracing::debug!(%error, "could not look whether the epoch was taken over"),
            }
        }
    });
    (task, receiver)
}
