//! After a hole or a new lineage nothing that the server did meanwhile can be restored until there is a backup: take it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use pg::lsn::Lsn;
use pg::timeline::TimelineId;
use store::id::LineageId;
use store::records::GIVEN_UP;
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
    let holes = holes
        .iter()
        .filter(|hole| hole.lineage == lineage && hole.reason != GIVEN_UP);
    // A backup of an older timeline begins before a hole of a newer one, whatever its LSN.
    let makes_up = |end: u64, timeline: u32| {
        ours.iter()
            .any(|backup| backup.timeline >= timeline && backup.start_lsn >= end)
    };
    if has_parent && ours.is_empty() {
        return Ok(true);
    }
    let open: Vec<_> = holes.filter(|hole| !makes_up(hole.end, hole.timeline)).collect();
    if open.is_empty() {
        return Ok(false);
    }
    // What came in after all is no loss.
    let coverage = repository.coverage(lineage).await?;
    Ok(open.iter().any(|hole| {
        let timeline = TimelineId::new(hole.timeline);
        let (start, end) = (Lsn::new(hole.start), Lsn::new(hole.end));
        timeline.is_none_or(|timeline| !coverage.missing(timeline, start, end).is_empty())
    }))
}

/// Lost WAL that no backup makes up for yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// In this lineage.
    pub lineage: LineageId,
    /// Tells it from an earlier one in the same lineage, which the backup that is being taken makes up for.
    pub number: u64,
}

/// What must be made up for, shared by those who find losses and the one who answers them.
#[derive(Debug)]
pub struct Losses(watch::Sender<Option<Loss>>, AtomicU64);

impl Losses {
    /// None, or the one that was found open at the start.
    #[must_use]
    pub fn new(open: Option<LineageId>) -> Self {
        Losses(
            watch::Sender::new(open.map(|lineage| Loss { lineage, number: 0 })),
            AtomicU64::new(1),
        )
    }

    /// WAL of a lineage was lost just now.
    pub fn open(&self, lineage: LineageId) {
        let number = self.1.fetch_add(1, Ordering::Relaxed);
        self.0.send_replace(Some(Loss { lineage, number }));
    }

    /// Nothing is lost in the lineage that is archived now.
    pub fn close(&self) {
        self.0.send_replace(None);
    }

    /// Whether a backup is awaited.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Takes a loss as answered, unless another has come since.
    fn answer(&self, answered: Loss) -> bool {
        self.0.send_if_modified(|now| {
            let same = *now == Some(answered);
            if same {
                *now = None;
            }
            same
        })
    }
}

/// Sees to it that each loss is answered by a backup.
pub struct Answering {
    /// Configuration.
    pub context: Arc<Context>,
    /// Where backups and holes are.
    pub repository: Arc<Repository>,
    /// The WAL that no backup makes up for yet.
    pub losses: Arc<Losses>,
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
        let mut losses = self.losses.0.subscribe();
        loop {
            let Ok(open) = losses.wait_for(Option::is_some).await.map(|open| *open) else {
                return;
            };
            let Some(loss) = open else { continue };
            if self.until_answered(loss, &losses).await && self.losses.answer(loss) {
                tracing::info!(lineage = %loss.lineage, "a backup makes up for the lost WAL");
                self.orders.send_modify(|orders| orders.loss_is_open = false);
            }
        }
    }

    /// True when a backup makes up for the loss; false when another loss has come instead.
    async fn until_answered(&self, loss: Loss, losses: &watch::Receiver<Option<Loss>>) -> bool {
        let (mut pause, mut was_taken) = (RETRY.0, false);
        loop {
            match is_open(&self.repository, loss.lineage).await {
                Ok(false) => return true,
                Ok(true) if self.context.cluster.backup.after_loss => {
                    match take_backup::take(
                        &self.context,
                        Some(loss.lineage),
                        Some(LABEL.to_owned()),
                        None,
                        Arc::default(),
                    )
                    .await
                    {
                        Ok(_) if !was_taken => {
                            was_taken = true;
                            continue;
                        }
                        Ok(_) => {}
                        Err(failure) => {
                            let error = exit::describe(&failure);
                            tracing::error!(%error, retry_s = pause.as_secs(), "no backup after a loss of WAL yet: nothing since is protected; trying again");
                        }
                    }
                }
                Ok(true) => pause = LOOK_EVERY,
                Err(error) => tracing::debug!(%error, "cannot look for a backup"),
            }
            if *losses.borrow() != Some(loss) {
                return false;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_loss_is_not_answered_by_the_backup_for_the_first() {
        let lineage = LineageId::default();
        let losses = Losses::new(Some(lineage));
        let first = Loss { lineage, number: 0 };
        losses.open(lineage);
        assert!(!losses.answer(first) && losses.is_open());
        assert!(losses.answer(Loss { lineage, number: 1 }) && !losses.is_open());
    }
}
