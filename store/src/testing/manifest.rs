//! A manifest of nothing.

use crate::component::ComponentBackup;
use crate::id::{BackupId, LineageId};
use crate::manifest::Manifest;

/// A manifest whose backup has no files; what a test is about is put in by the test.
#[must_use]
pub fn empty_manifest(backup: BackupId, lineage: LineageId) -> Manifest {
    Manifest {
        timeline: 1,
        start_lsn: 1,
        end_lsn: 2,
        server_version: 150_000,
        system_identifier: 1,
        segment_bytes: 16 << 20,
        relation_segment_blocks: 131_072,
        source: "local".into(),
        duration_max_us: 86_400_000_000,
        component: None,
        ..Manifest::of_component(backup, lineage, ComponentBackup::default())
    }
}
