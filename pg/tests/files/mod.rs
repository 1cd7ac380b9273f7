//! What was received and what is parsed against the files of a cluster.

use pg::control::{ClusterState, ControlFile, WalLevel};
use pg::lsn::Lsn;
use pg::page::{PAGE_BYTES, PageState, check, page_lsn};
use pg::relation::{FileClass, Fork, excluded};
use pg::segment::{SegmentSize, segment_name};
use pg::timeline::TimelineId;

use super::cluster::Cluster;

pub(crate) fn control_file_says_what_pg_controldata_says(cluster: &Cluster) {
    let bytes = std::fs::read(cluster.data.join("global/pg_control")).unwrap();
    let control = ControlFile::parse(&bytes).unwrap();
    for (label, value) in [
        ("Database system identifier", control.system_identifier.to_string()),
        ("pg_control version number", control.control_version.to_string()),
        ("Catalog version number", control.catalog_version.to_string()),
        ("Latest checkpoint location", control.checkpoint.to_string()),
        ("Latest checkpoint's REDO location", control.redo.to_string()),
        ("Latest checkpoint's TimeLineID", control.timeline.to_string()),
        (
            "Minimum recovery ending location",
            control.min_recovery_point.to_string(),
        ),
        ("Backup start location", control.backup_start_point.to_string()),
        ("Backup end location", control.backup_end_point.to_string()),
        ("max_connections setting", control.max_connections.to_string()),
        ("max_worker_processes setting", control.max_worker_processes.to_string()),
        ("max_wal_senders setting", control.max_wal_senders.to_string()),
        ("max_prepared_xacts setting", control.max_prepared_xacts.to_string()),
        ("max_locks_per_xact setting", control.max_locks_per_xact.to_string()),
        ("Database block size", control.block_size.to_string()),
        (
            "Blocks per segment of large relation",
            control.relation_segment_blocks.to_string(),
        ),
        ("WAL block size", control.wal_block_size.to_string()),
        ("Bytes per WAL segment", control.segment_size.bytes().to_string()),
        ("Data page checksum version", control.data_checksum_version.to_string()),
    ] {
        assert_eq!(cluster.controldata(label), value, "{label}");
    }
    assert_eq!(control.state, ClusterState::ShutDown);
    assert_eq!(control.wal_level, WalLevel::Replica);
    assert!(!control.track_commit_timestamp);
    assert_eq!(control.min_recovery_timeline, None);
    let checkpoint =
        std::time::UNIX_EPOCH + std::time::Duration::from_secs(u64::try_from(control.checkpoint_time).unwrap());
    assert!(checkpoint.elapsed().unwrap() < std::time::Duration::from_secs(600));
}

pub(crate) fn every_page_has_its_checksum(cluster: &Cluster) {
    let control = std::fs::read(cluster.data.join("global/pg_control")).unwrap();
    let control = ControlFile::parse(&control).unwrap();
    let (mut pages, mut forks, mut damaged) = (0, std::collections::BTreeSet::new(), 0);
    for directory in ["global", "base/1", "base/4", "base/5"] {
        for entry in std::fs::read_dir(cluster.data.join(directory)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let path = format!("{directory}/{name}");
            let FileClass::Relation(file) = FileClass::of(path.as_bytes()) else {
                continue;
            };
            assert_eq!(excluded(path.as_bytes()), None, "{path}");
            let first = file.first_block(control.relation_segment_blocks).unwrap();
            let content = std::fs::read(cluster.data.join(&path)).unwrap();
            for (index, page) in content.chunks(PAGE_BYTES).enumerate() {
                let block = first + u32::try_from(index).unwrap();
                let state = check(page, block, true);
                assert!(
                    matches!(state, PageState::Ok | PageState::New),
                    "{path} {block} {state:?}"
                );
                assert!(page_lsn(page) <= control.checkpoint, "{path} {block}");
                if state == PageState::Ok {
                    pages += 1;
                    forks.insert(file.fork);
                    let mut torn = page.to_vec();
                    torn[PAGE_BYTES / 2] ^= 1;
                    damaged += u32::from(matches!(check(&torn, block, true), PageState::Corrupt { .. }));
                }
            }
        }
    }
    assert!(
        pages > 3000 && damaged == pages,
        "{pages} pages, {damaged} found damaged"
    );
    assert!(
        [Fork::Main, Fork::Fsm, Fork::Vm]
            .iter()
            .all(|fork| forks.contains(fork))
    );
}

/// `received` starts at a segment's start.
pub(crate) fn same_as_pg_wal(cluster: &Cluster, from: Lsn, received: &[u8]) {
    let size = SegmentSize::DEFAULT;
    let mut at = 0;
    while at < received.len() {
        let number = size.segment_of(from.saturating_add(at as u64));
        let name = segment_name(TimelineId::FIRST, number, size);
        let file = std::fs::read(cluster.data.join("pg_wal").join(&name)).unwrap();
        let part = (received.len() - at).min(file.len());
        assert!(received[at..at + part] == file[..part], "segment {name} differs");
        at += part;
    }
}
