//! Writes the daemon's state to a file, for `status`. It is a cache: losing it loses nothing.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use store::id::LineageId;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wal::receive::StreamStatus;

use super::health::Report;
use super::watching::Seen;
use crate::exit::Failure;
use crate::open::Context;
use crate::output;
use crate::status::{DaemonState, LagState, state_file};

/// Between two writes.
const EVERY: Duration = Duration::from_millis(500);

/// One agent for a cluster on a host: a lock on a file beside the state, held until the process ends. Without a state directory
/// there is no lock; the slot keeps a second agent out all the same.
///
/// # Errors
/// Another agent holds it.
pub fn alone(context: &Context) -> anyhow::Result<Option<File>> {
    let path = state_file(context).with_extension("lock");
    if let Some(directory) = path.parent() {
        // Reported by the keeper.
        let _ = std::fs::create_dir_all(directory);
    }
    let Ok(file) = File::options().create(true).truncate(false).write(true).open(&path) else {
        return Ok(None);
    };
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Failure::refused(
            format!(
                "another agent runs for cluster \"{}\" on this host",
                context.cluster.name
            ),
            "`wal-agent status` shows it. Stop it first, or leave it alone.",
        )
        .into()),
        Err(_) => Ok(None),
    }
}

/// What the supervisor knows beside the stream.
#[derive(Debug, Clone)]
pub struct Supervision {
    /// The lineage that is archived now.
    pub lineage: LineageId,
    /// Why the lane is not streaming, if it is not.
    pub error: Option<String>,
}

/// The task that writes.
pub struct Keeper {
    task: JoinHandle<()>,
    path: PathBuf,
    status: watch::Receiver<StreamStatus>,
    supervision: watch::Receiver<Supervision>,
    seen: watch::Receiver<Seen>,
    report: watch::Receiver<Report>,
}

impl Keeper {
    /// Starts writing.
    pub fn start(
        context: &Context,
        status: watch::Receiver<StreamStatus>,
        supervision: watch::Receiver<Supervision>,
        seen: watch::Receiver<Seen>,
        report: watch::Receiver<Report>,
    ) -> Self {
        let path = state_file(context);
        if let Some(directory) = path.parent()
            && let Err(error) = std::fs::create_dir_all(directory)
        {
            tracing::warn!(%error, path = %directory.display(), "cannot make the state directory; `status` will know less");
        }
        let (file, stream, supervisor) = (path.clone(), status.clone(), supervision.clone());
        let (server, health) = (seen.clone(), report.clone());
        let task = tokio::spawn(async move {
            loop {
                let state = describe(&stream.borrow(), &supervisor.borrow(), &server.borrow(), true);
                write(&file, &with_alarms(state, &health.borrow()));
                tokio::time::sleep(EVERY).await;
            }
        });
        Keeper {
            task,
            path,
            status,
            supervision,
            seen,
            report,
        }
    }

    /// The last state; afterwards no agent runs.
    pub async fn finish(self) {
        self.task.abort();
        let _ = self.task.await;
        let state = describe(
            &self.status.borrow(),
            &self.supervision.borrow(),
            &self.seen.borrow(),
            false,
        );
        write(&self.path, &with_alarms(state, &self.report.borrow()));
    }
}

fn write(path: &std::path::Path, state: &DaemonState) {
    if let Ok(json) = serde_json::to_vec_pretty(state)
        && let Err(error) = store::durable::atomic_write(path, &json)
    {
        tracing::debug!(%error, "cannot write the state file");
    }
}

fn with_alarms(state: DaemonState, report: &Report) -> DaemonState {
    DaemonState {
        rpo_ms: state.rpo_ms.max(report.facts.behind_ms),
        rpo_history_ms: report.rpo_history_ms.clone(),
        alarms: report.open.clone(),
        jobs: report.facts.jobs.clone(),
        ..state
    }
}

/// What is said of the stream.
pub fn describe(status: &StreamStatus, supervision: &Supervision, seen: &Seen, running: bool) -> DaemonState {
    DaemonState {
        pid: std::process::id(),
        written_us: if running { output::now_us() } else { 0 },
        streaming: running && supervision.error.is_none() && status.timeline > 0,
        lineage: supervision.lineage.to_string(),
        timeline: status.timeline,
        received_lsn: status.received.to_string(),
        archived_lsn: status.archived.to_string(),
        server_lsn: status.server.to_string(),
        rpo_ms: status.oldest_unarchived_us / 1000,
        unarchived_bytes: status.server.as_u64().saturating_sub(status.archived.as_u64()),
        last_commit_us: status.last_commit_us,
        contact_us: status.contact_us,
        lag: LagState {
            commits: status.lag.commits,
            p50_us: status.lag.p50_us,
            p99_us: status.lag.p99_us,
            max_us: status.lag.max_us,
        },
        wal_bytes: status.wal_bytes,
        stored_bytes: status.stored_bytes,
        objects: status.objects,
        tails: status.tails,
        error: supervision.error.clone(),
        retained_bytes: seen.retained_bytes,
        pg_wal_full_in_s: seen.full_in.map(|left| left.as_secs()),
        synchronous: seen.synchronous,
        degraded: seen.degraded,
        remote_apply: seen.remote_apply,
        rpo_history_ms: Vec::new(),
        alarms: Vec::new(),
        jobs: Vec::new(),
    }
}
