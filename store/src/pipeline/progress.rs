//! Counters that a progress display reads while the pipeline runs.

use std::sync::atomic::{AtomicU64, Ordering};

/// How far a backup is. Written with relaxed order: for people, not for decisions.
#[derive(Debug, Default)]
pub struct Progress {
    bytes_total: AtomicU64,
    bytes_read: AtomicU64,
    bytes_new: AtomicU64,
    files_total: AtomicU64,
    files_done: AtomicU64,
    bytes_stored: AtomicU64,
}

/// One look at [`Progress`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgressNow {
    /// Bytes of all files when they were listed.
    pub bytes_total: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes of them that earlier backups do not have.
    pub bytes_new: u64,
    /// Files listed.
    pub files_total: u64,
    /// Files whose last byte is packed.
    pub files_done: u64,
    /// Bytes that are durable in the repository.
    pub bytes_stored: u64,
}

impl Progress {
    /// The counters now.
    #[must_use]
    pub fn now(&self) -> ProgressNow {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ProgressNow {
            bytes_total: load(&self.bytes_total),
            bytes_read: load(&self.bytes_read),
            bytes_new: load(&self.bytes_new),
            files_total: load(&self.files_total),
            files_done: load(&self.files_done),
            bytes_stored: load(&self.bytes_stored),
        }
    }

    /// So many more files and bytes are to come.
    pub fn expect(&self, files: u64, bytes: u64) {
        self.files_total.fetch_add(files, Ordering::Relaxed);
        self.bytes_total.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn read(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn is_new(&self, bytes: u64) {
        self.bytes_new.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn file_done(&self) {
        self.files_done.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stored(&self, bytes: u64) {
        self.bytes_stored.fetch_add(bytes, Ordering::Relaxed);
    }
}
