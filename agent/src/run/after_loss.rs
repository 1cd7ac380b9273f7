//! After a hole or a new lineage nothing that the server did meanwhile can be restored until there is a backup: take it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use store::id::LineageId;
use store::repository::Repository;
use tokio::sync::watch;
use wal::receive::Orders;

use crate::open::Context;
use crate::{exit, take_backup};

/// Pause before another attempt: first and longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// Between two looks whether the operator has taken the backup.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Kept with the backup.
const LABEL: &str = "after a loss of WAL";

/// True when a backup must make up for lost WAL: the lineage has left another and has none yet, or a hole is younger than all of them.
pub async fn is_open(repository: &Repository, lineage: LineageId) -> anyhow::Result<bool> {
    let lineages = repository.lineages().await?;
    let has_parent = lineages
        .iter()
        .any(|known| known.id == lineage && known.parent.is_some());
    let backups = repository.manifests().await?;
    let holes = repository.declared_holes().await?;
    let ours: Vec<_> = backups.iter().filter(|backup| backup.lineage == lineage).collect();
    let mut holes = holes.iter().filter(|hole| hole.lineage == lineage);
    // A backup of an older timeline begins before a hole of a newer one, whatever its LSN.
    let makes_up = |end: u64, timeline: u32| {
        ours.iter()
            .any(|backup| backup.timeline >= timeline && backup.start_lsn >= end)
    };
    Ok((has_parent && ours.is_empty()) || holes.any(|hole| !makes_up(hole.end, hole.timeline)))
}

/// Sees to it that each loss is answered by a backup.
pub struct Answering {
    /// Configuration.
    pub context: Arc<Context>,
    /// Where backups and holes are.
    pub repository: Arc<Repository>,
    /// The lineage in which WAL was lost, while no backup makes up for it.
    pub loss: Arc<watch::Sender<Option<LineageId>>>,
    /// Told when commits may be confirmed again.
    pub orders: watch::Sender<Orders>,
}

/// The thread that it runs on: a backup must not hold up the stream.
pub struct Thread {
    leave: watch::Sender<bool>,
    thread: std::thread::JoinHandle<()>,
}

impl Thread {
    /// Ends it, and a backup that it takes just now.
    pub fn finish(self) {
        let _ = self.leave.send(true);
        if self.thread.join().is_err() {
            tracing::warn!("the thread that takes backups after a loss of WAL has failed");
        }
    }
}

impl Answering {
    /// Starts.
    pub fn start(self, mut stop: watch::Receiver<bool>) -> anyhow::Result<Thread> {
        let (leave, mut left) = watch::channel(false);
        let runtime = tokio::runtime::Handle::current();
        let work = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = self.answer() => {}
                    _ = stop.wait_for(|stop| *stop) => {}
                    _ = left.wait_for(|leave| *leave) => {}
                }
            });
        };
        let thread = std::thread::Builder::new()
            .name("after-loss".into())
            .spawn(work)
            .context("cannot start a thread")?;
        Ok(Thread { leave, thread })
    }

    /// Waits for losses and answers them, one after another.
    async fn answer(&self) {
        let mut losses = self.loss.subscribe();
        loop {
            let Ok(open) = losses.wait_for(Option::is_some).await.map(|open| *open) else {
                return;
            };
            let Some(lineage) = open else { continue };
            if !self.until_answered(lineage, &losses).await {
                continue;
            }
            let is_answered = self.loss.send_if_modified(|now| {
                let same = *now == open;
                if same {
                    *now = None;
                }
                same
            });
            if is_answered {
                tracing::info!(%lineage, "a backup makes up for the lost WAL");
                self.orders.send_modify(|orders| orders.loss_is_open = false);
            }
        }
    }

    /// True when a backup makes up for the loss; false when another lineage's loss has come instead.
    async fn until_answered(&self, lineage: LineageId, losses: &watch::Receiver<Option<LineageId>>) -> bool {
        let mut pause = RETRY.0;
        loop {
            match is_open(&self.repository, lineage).await {
                Ok(false) => return true,
                Ok(true) if self.context.cluster.backup.after_loss => {
                    match take_backup::take(&self.context, Some(LABEL.to_owned()), Arc::default()).await {
                        Ok(_) => continue,
                        Err(failure) => {
                            let error = exit::describe(&failure);
                            tracing::error!(%error, retry_s = pause.as_secs(), "no backup after a loss of WAL yet: nothing since is protected; trying again");
                        }
                    }
                }
                Ok(true) => pause = LOOK_EVERY,
                Err(error) => tracing::debug!(%error, "cannot look for a backup"),
            }
            if *losses.borrow() != Some(lineage) {
                return false;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }
}
