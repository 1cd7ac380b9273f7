//! How far a backup is, in a file beside the daemon's state, for `status`. It is a convenience: nothing is decided by it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use store::pipeline::{Pace, Progress};
use tokio::task::JoinHandle;

use crate::open::Context;
use crate::output;
use crate::status::state_file;

/// Between two writes.
const EVERY: Duration = Duration::from_millis(500);
/// What is older than this was left by a process that is gone.
const STALE_US: i64 = 10_000_000;

/// A backup that is being taken.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunningBackup {
    /// Process that takes it.
    pub(crate) pid: u32,
    /// When it began and when this was written, microseconds since 1970.
    pub(crate) started_us: i64,
    /// As above.
    pub(crate) written_us: i64,
    /// Bytes of all files; of what was read; of what was read and is new; stored for it.
    pub(crate) bytes_total: u64,
    /// As above.
    pub(crate) bytes_read: u64,
    /// As above.
    pub(crate) bytes_new: u64,
    /// As above.
    pub(crate) bytes_stored: u64,
    /// Files listed and done.
    pub(crate) files_total: u64,
    /// As above.
    pub(crate) files_done: u64,
    /// Part of the time that it works, in thousandths; less than all while the brake is on.
    pub(crate) duty: u32,
}

impl RunningBackup {
    /// The one that is being taken on this host now, if there is one.
    pub(crate) fn read(context: &Context) -> Option<Self> {
        let running: RunningBackup = serde_json::from_slice(&std::fs::read(file(context)).ok()?).ok()?;
        (output::now_us() - running.written_us < STALE_US).then_some(running)
    }

    /// Bytes a second so far, once there is anything to say.
    fn rate(&self) -> Option<f64> {
        let seconds = (self.written_us - self.started_us) as f64 / 1e6;
        (seconds > 0.0 && self.bytes_read > 0).then(|| self.bytes_read as f64 / seconds)
    }

    /// Seconds left at the rate so far.
    pub(crate) fn left_s(&self) -> Option<u64> {
        let left = self.bytes_total.saturating_sub(self.bytes_read);
        self.rate().map(|rate| (left as f64 / rate).ceil() as u64)
    }
}

impl std::fmt::Display for RunningBackup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} of {} read, {} new, {} stored, {} of {} files",
            output::bytes(self.bytes_read),
            output::bytes(self.bytes_total),
            output::bytes(self.bytes_new),
            output::bytes(self.bytes_stored),
            self.files_done,
            self.files_total
        )?;
        if let (Some(rate), Some(left)) = (self.rate(), self.left_s()) {
            write!(f, ", {:.0} MB/s, about {left} s left", rate / 1e6)?;
        }
        if self.duty < 1000 {
            write!(f, ", held back to {} % of the time", self.duty / 10)?;
        }
        Ok(())
    }
}

/// Writes until it is dropped, and leaves nothing behind.
#[derive(Debug)]
pub(crate) struct Announcement {
    task: JoinHandle<()>,
    path: PathBuf,
}

impl Announcement {
    /// Begins.
    pub(crate) fn begin(context: &Context, progress: Arc<Progress>, pace: Arc<Pace>) -> Self {
        let path = file(context);
        if let Some(directory) = path.parent() {
            // Whoever cannot make it has been told so by the daemon; then `status` knows less.
            let _ = std::fs::create_dir_all(directory);
        }
        let (to, started_us) = (path.clone(), output::now_us());
        let task = tokio::spawn(async move {
            loop {
                let now = progress.now();
                let running = RunningBackup {
                    pid: std::process::id(),
                    started_us,
                    written_us: output::now_us(),
                    bytes_total: now.bytes_total,
                    bytes_read: now.bytes_read,
                    bytes_new: now.bytes_new,
                    bytes_stored: now.bytes_stored,
                    files_total: now.files_total,
                    files_done: now.files_done,
                    duty: pace.duty(),
                };
                if let Ok(json) = serde_json::to_vec_pretty(&running)
                    && let Err(error) = store::durable::atomic_write(&to, &json)
                {
                    tracing::debug!(%error, "cannot write how far the backup is");
                }
                tokio::time::sleep(EVERY).await;
            }
        });
        Announcement { task, path }
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

fn file(context: &Context) -> PathBuf {
    state_file(context).with_extension("backup.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_from_what_was_read() {
        let running = RunningBackup {
            started_us: 1_000_000,
            written_us: 11_000_000,
            bytes_total: 4_000_000_000,
            bytes_read: 1_000_000_000,
            duty: 500,
            ..RunningBackup::default()
        };
        assert_eq!(running.left_s(), Some(30));
        let text = running.to_string();
        assert!(text.contains("100 MB/s, about 30 s left, held back to 50 %"), "{text}");
        let begun = RunningBackup {
            bytes_read: 0,
            ..running
        };
        assert_eq!(begun.left_s(), None);
    }
}
