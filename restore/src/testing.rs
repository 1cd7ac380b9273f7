//! Values for unit tests.

use store::manifest::{ConfigurationPaths, Manifest, Totals};

/// A manifest without files.
pub(crate) fn manifest() -> Manifest {
    Manifest {
        backup: Default::default(),
        lineage: Default::default(),
        timeline: 1,
        start_lsn: 0x200_0028,
        end_lsn: 0x200_0100,
        started_us: 0,
        finished_us: 0,
        server_version: 150_018,
        system_identifier: 7,
        segment_bytes: 16 << 20,
        relation_segment_blocks: 131_072,
        checksum_version: 1,
        backup_label: Vec::new().into(),
        tablespace_map: Vec::new().into(),
        tablespaces: Vec::new(),
        file_table: Vec::new(),
        packs: Vec::new(),
        totals: Totals::default(),
        corrupt_pages: Vec::new(),
        settings: Default::default(),
        parent: None,
        owner_user: None,
        owner_group: None,
        source: "local".into(),
        from_standby: false,
        configuration: ConfigurationPaths::default(),
        vanished: Vec::new(),
        label: None,
        known_good: Vec::new(),
    }
}
