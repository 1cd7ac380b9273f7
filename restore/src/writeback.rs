//! Files go to disk while more are fetched: the kernel would keep 2 GB of them in memory, and the sync at the end would write all that
//! with nothing else to do.
//!
//! A write that fails is told once to whoever syncs next, so what fails here fails the restore.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{RestoreError, Result};
use crate::tree::Tree;

/// Between two syncs, so that each has something to write.
const PAUSE: Duration = Duration::from_millis(500);

/// A thread that syncs the target's file systems over and over.
pub(crate) struct Writeback {
    stop: Sender<()>,
    thread: JoinHandle<Result<()>>,
}

impl Writeback {
    /// Starts it. It ends when this value is dropped, too, after the sync it is in.
    pub(crate) fn start(tree: &Arc<Tree>) -> Self {
        let (stop, stopped) = mpsc::channel();
        let tree = Arc::clone(tree);
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                tree.sync()?;
            }
            Ok(())
        });
        Writeback { stop, thread }
    }

    /// Ends it.
    ///
    /// # Errors
    /// Something could not be written.
    pub(crate) fn finish(self) -> Result<()> {
        drop(self.stop);
        self.thread
            .join()
            .map_err(|_| RestoreError::Failed("a worker stopped".into()))?
    }
}
