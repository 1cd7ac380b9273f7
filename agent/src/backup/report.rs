//! What a backup has to say when it is done.

use std::time::Duration;

use pg::lsn::Lsn;
use serde::{Serialize, Serializer};
use store::id::BackupId;
use store::manifest::{CorruptPage, Manifest};

/// A backup that exists.
#[derive(Debug, Clone)]
pub(crate) struct BackupReport {
    /// Its id.
    pub(crate) backup: BackupId,
    /// Timeline of both LSNs.
    pub(crate) timeline: u32,
    /// WAL is needed from here.
    pub(crate) start_lsn: Lsn,
    /// Consistent from here.
    pub(crate) end_lsn: Lsn,
    /// Bytes of all files.
    pub(crate) logical_bytes: u64,
    /// Bytes added to the repository.
    pub(crate) new_stored_bytes: u64,
    /// Files.
    pub(crate) files: u64,
    /// Pages of relation files.
    pub(crate) pages: u64,
    /// Pages that differed from the parent.
    pub(crate) new_pages: u64,
    /// Corrupt pages in the database itself, a line each.
    pub(crate) corrupt_pages: Vec<String>,
    /// Files that the server removed meanwhile.
    pub(crate) vanished_files: usize,
    /// From the first step to the manifest.
    pub(crate) elapsed: Duration,
    /// Logical megabytes (10^6 bytes) a second of the copy.
    pub(crate) mb_s: f64,
    /// Backup that it was compared with.
    pub(crate) parent: Option<BackupId>,
}

impl BackupReport {
    pub(super) fn new(manifest: &Manifest, elapsed: Duration, copying: Duration) -> Self {
        let totals = manifest.totals;
        BackupReport {
            backup: manifest.backup,
            timeline: manifest.timeline,
            start_lsn: Lsn::new(manifest.start_lsn),
            end_lsn: Lsn::new(manifest.end_lsn),
            logical_bytes: totals.logical_bytes,
            new_stored_bytes: totals.new_stored_bytes,
            files: totals.files,
            pages: totals.pages,
            new_pages: totals.new_pages,
            corrupt_pages: manifest.corrupt_pages.iter().map(describe).collect(),
            vanished_files: manifest.vanished.len(),
            elapsed,
            mb_s: totals.logical_bytes as f64 / 1e6 / copying.as_secs_f64().max(1e-6),
            parent: manifest.parent,
        }
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "backup": self.backup.to_string(),
            "timeline": self.timeline,
            "start_lsn": self.start_lsn.to_string(),
            "end_lsn": self.end_lsn.to_string(),
            "logical_bytes": self.logical_bytes,
            "new_stored_bytes": self.new_stored_bytes,
            "files": self.files,
            "pages": self.pages,
            "new_pages": self.new_pages,
            "corrupt_pages": self.corrupt_pages,
            "vanished_files": self.vanished_files,
            "elapsed_ms": u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX),
            "mb_s": self.mb_s,
            "parent": self.parent.map(|parent| parent.to_string()),
        })
    }
}

impl Serialize for BackupReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json().serialize(serializer)
    }
}

fn describe(page: &CorruptPage) -> String {
    let path = String::from_utf8_lossy(&page.path);
    match page.reason.as_str() {
        "checksum" => format!(
            "block {} of {path}: checksum {:04X}, expected {:04X}",
            page.block, page.found, page.expected
        ),
        reason => format!("block {} of {path}: {reason}", page.block),
    }
}
