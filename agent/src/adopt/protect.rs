//! The first backup, with WAL streamed beside it until it is complete: by the agent that runs already, or by the same code in here.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use store::id::LineageId;
use store::records::Lineage;
use tokio::sync::{oneshot, watch};
use wal::receive::StreamStatus;

use crate::backup::{BackupReport, Progress};
use crate::cli::AdoptOptions;
use crate::exit::Failure;
use crate::open::Context;
use crate::run::Running;
use crate::run::state::Supervision;
use crate::take_backup;

/// Kept with the backup.
const LABEL: &str = "adopt";
/// How long it may take until there is a stream.
const STREAM_WAIT: Duration = Duration::from_secs(120);

/// What came of it.
#[derive(Debug)]
pub(super) struct Protected {
    /// Is archived now.
    pub(super) lineage: LineageId,
    /// The first backup, unless it is left to the operator.
    pub(super) backup: Option<BackupReport>,
    /// An agent goes on archiving.
    pub(super) is_streamed: bool,
}

/// Beside an agent that streams: only the backup.
pub(super) async fn beside_an_agent(
    context: &Context,
    lineage: &Lineage,
    options: &AdoptOptions,
) -> anyhow::Result<Protected> {
    let mut backup = None;
    if !options.no_backup {
        let (progress, bar) = super::progress(options);
        let taken = take_backup::take(context, Some(lineage.id), Some(LABEL.to_owned()), None, progress).await;
        bar.finish();
        backup = Some(taken?);
    }
    Ok(Protected {
        lineage: lineage.id,
        backup,
        is_streamed: true,
    })
}

/// Streams until there is a backup, or until the stream has begun where none is wanted; then stops in order.
pub(super) async fn by_ourselves(
    context: Arc<Context>,
    running: Running,
    options: &AdoptOptions,
) -> anyhow::Result<Protected> {
    let (stop, stopped) = watch::channel(false);
    let (progress, bar) = super::progress(options);
    let work = Work {
        context,
        seen: running.seen(),
        progress: (!options.no_backup).then_some(progress),
    };
    let (thread, mut done) = work.start(stopped.clone())?;
    let mut running = Box::pin(running.until_stopped(stopped, None));
    let ended = tokio::select! {
        ended = &mut running => Err(ended),
        done = &mut done => Ok(done),
    };
    let _ = stop.send(true);
    let outcome = match ended {
        Ok(done) => {
            let left = running.await;
            let protected = done.context("the thread that takes the backup has failed")?;
            protected.and_then(|protected| left.map(|()| protected))
        }
        Err(left) => {
            // It ends with the stream.
            let _ = done.await;
            left.and_then(|()| Err(anyhow::anyhow!("the WAL lane ended before the backup did")))
        }
    };
    bar.finish();
    if thread.join().is_err() {
        tracing::warn!("the thread that takes the backup has failed");
    }
    outcome
}

/// What is done beside the stream, on a thread of its own: a backup must not hold it up.
struct Work {
    context: Arc<Context>,
    seen: (watch::Receiver<StreamStatus>, watch::Receiver<Supervision>),
    /// Of the backup; `None` when none is wanted.
    progress: Option<Arc<Progress>>,
}

type Done = oneshot::Receiver<anyhow::Result<Protected>>;

impl Work {
    fn start(self, mut stop: watch::Receiver<bool>) -> anyhow::Result<(std::thread::JoinHandle<()>, Done)> {
        let (sender, done) = oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        let work = move || {
            let result = runtime.block_on(async {
                tokio::select! {
                    result = self.run() => result,
                    _ = stop.wait_for(|stop| *stop) => Err(anyhow::anyhow!("stopped")),
                }
            });
            let _ = sender.send(result);
        };
        let thread = std::thread::Builder::new()
            .name("adopt".into())
            .spawn(work)
            .context("cannot start a thread")?;
        Ok((thread, done))
    }

    async fn run(self) -> anyhow::Result<Protected> {
        let lineage = self.streamed_lineage().await?;
        let backup = match self.progress {
            Some(progress) => {
                let label = Some(LABEL.to_owned());
                Some(take_backup::take(&self.context, Some(lineage), label, None, progress).await?)
            }
            None => None,
        };
        Ok(Protected {
            lineage,
            backup,
            is_streamed: false,
        })
    }

    /// The lineage that is streamed, once a stream is open.
    async fn streamed_lineage(&self) -> anyhow::Result<LineageId> {
        let (mut status, supervision) = self.seen.clone();
        let is_open = |status: &StreamStatus| status.timeline > 0 && supervision.borrow().error.is_none();
        if tokio::time::timeout(STREAM_WAIT, status.wait_for(is_open))
            .await
            .is_ok()
        {
            return Ok(supervision.borrow().lineage);
        }
        let why = supervision.borrow().error.clone();
        Err(Failure::unreachable(
            format!(
                "no WAL is streamed after {} s: {}",
                STREAM_WAIT.as_secs(),
                why.as_deref().unwrap_or("it has not come so far")
            ),
            "Repair what keeps it; then adopt again, or start `wal-agent run` and take a backup.",
        )
        .into())
    }
}
