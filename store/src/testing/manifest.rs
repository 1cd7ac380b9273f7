//! A manifest of nothing.

use std::collections::BTreeMap;

use crate::id::{BackupId, LineageId};
use crate::manifest::{ConfigurationPaths, Manifest, Totals};

/// A manifest whose backup has no files; what a test is about is put in by the test.
#[must_use]
pub fn empty_manifest(backup: BackupId, lineage: LineageId) -> Manifest {
    Manifest {
        backup,
        lineage,
        timeline: 1,
        start_lsn: 1,
        end_lsn: 2,
        started_us: 0,
        finished_us: 0,
        server_version: 150_000,
        system_identifier: 1,
        segment_bytes: 16 << 20,
        relation_segment_blocks: 131_072,
        checksum_version: 0,
        backup_label: Vec::new().into(),
        tablespace_map: Vec::new().into(),
        tablespaces: Vec::new(),
        file_table: Vec::new(),
        packs: Vec::new(),
        totals: Totals::default(),
        corrupt_pages: Vec::new(),
        settings: BTreeMap::new(),
        parent: None,
        owner_user: None,
        owner_group: None,
        source: "local".into(),
        from_standby: false,
        configuration: ConfigurationPaths::default(),
        vanished: Vec::new(),
        label: None,
        known_good: Vec::new(),
        duration_max_us: 86_400_000_000,
        component: None,
    }
}
