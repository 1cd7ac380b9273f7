//! `global/pg_control`: what the cluster is and how far it has come.
//!
//! Read last by a backup and placed last by a restore. Layout: `ControlFileData` in
//! src/include/catalog/pg_control.h on a 64-bit little-endian machine. From 13 to 18 all fields up
//! to `data_checksum_version` lie at the same place (17 put `wal_level` into padding of the
//! checkpoint copy); 18 put one byte before the nonce, which moves the CRC.

use crate::bytes_at::{i32_at, u32_at, u64_at};
use crate::identity::SystemIdentifier;
use crate::lsn::Lsn;
use crate::segment::SegmentSize;
use crate::timeline::TimelineId;

/// Size of the file in bytes (`PG_CONTROL_FILE_SIZE`); only the start of it is used.
pub const CONTROL_FILE_BYTES: usize = 8192;

/// Value of `floatFormat`, which shows the machine's floating-point format.
const FLOAT_FORMAT: f64 = 1_234_567.0;

/// Why a control file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Shorter than its fields.
    #[error("pg_control is too short: {bytes} bytes")]
    TooShort {
        /// Its length in bytes.
        bytes: usize,
    },
    /// Not the format of PostgreSQL 13 to 18.
    #[error("pg_control has unsupported version {version}")]
    Version {
        /// `pg_control_version` as found.
        version: u32,
    },
    /// The CRC does not match.
    #[error("pg_control is corrupt: CRC {found:08X}, expected {expected:08X}")]
    Crc {
        /// CRC of the content.
        expected: u32,
        /// CRC in the file.
        found: u32,
    },
    /// A field has a value that it cannot have.
    #[error("pg_control has an impossible {field}")]
    Field {
        /// Name of the field in PostgreSQL's source.
        field: &'static str,
    },
}

/// State of the cluster (`DBState`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ClusterState {
    /// `DB_STARTUP`
    StartingUp,
    /// `DB_SHUTDOWNED`
    ShutDown,
    /// `DB_SHUTDOWNED_IN_RECOVERY`
    ShutDownInRecovery,
    /// `DB_SHUTDOWNING`
    ShuttingDown,
    /// `DB_IN_CRASH_RECOVERY`
    InCrashRecovery,
    /// `DB_IN_ARCHIVE_RECOVERY`
    InArchiveRecovery,
    /// `DB_IN_PRODUCTION`
    InProduction,
}

/// `wal_level` as pg_control keeps it (`WalLevel`, src/include/access/xlog.h).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WalLevel {
    /// Too little for a backup.
    Minimal,
    /// Enough.
    Replica,
    /// More than enough.
    Logical,
}

/// The fields of pg_control that a backup or a restore needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlFile {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// Format of the file: 1300, 1700 or 1800.
    pub control_version: u32,
    /// Format of the system catalogs.
    pub catalog_version: u32,
    /// What the cluster is doing.
    pub state: ClusterState,
    /// LSN of the latest checkpoint record.
    pub checkpoint: Lsn,
    /// Where redo from that checkpoint starts.
    pub redo: Lsn,
    /// Timeline of that checkpoint.
    pub timeline: TimelineId,
    /// When that checkpoint was made, in seconds since 1970.
    pub checkpoint_time: i64,
    /// Recovery must reach this LSN before the cluster is consistent; zero outside recovery.
    pub min_recovery_point: Lsn,
    /// Timeline of `min_recovery_point`; `None` outside recovery.
    pub min_recovery_timeline: Option<TimelineId>,
    /// Redo LSN of the backup that is being recovered; zero otherwise.
    pub backup_start_point: Lsn,
    /// End of the backup that is being recovered, when it came from a standby; zero otherwise.
    pub backup_end_point: Lsn,
    /// `wal_level` of the server.
    pub wal_level: WalLevel,
    /// `max_connections`; a standby needs at least as many.
    pub max_connections: i32,
    /// `max_worker_processes`; likewise.
    pub max_worker_processes: i32,
    /// `max_wal_senders`; likewise.
    pub max_wal_senders: i32,
    /// `max_prepared_transactions`; likewise.
    pub max_prepared_xacts: i32,
    /// `max_locks_per_transaction`; likewise.
    pub max_locks_per_xact: i32,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
    /// Size of a relation block in bytes.
    pub block_size: u32,
    /// Blocks in one file of a relation.
    pub relation_segment_blocks: u32,
    /// Size of a WAL block in bytes.
    pub wal_block_size: u32,
    /// Size of a WAL segment.
    pub segment_size: SegmentSize,
    /// Zero when data checksums are off.
    pub data_checksum_version: u32,
}

impl ControlFile {
    /// Whether relation pages carry checksums.
    pub fn data_checksums(&self) -> bool {
        self.data_checksum_version != 0
    }

    /// Reads the file; the CRC is checked before anything but the version.
    ///
    /// # Errors
    /// [`ControlError`]. A file that was read while the server wrote it fails with
    /// [`ControlError::Crc`] and should be read again.
    pub fn parse(bytes: &[u8]) -> Result<ControlFile, ControlError> {
        let short = || ControlError::TooShort { bytes: bytes.len() };
        check_crc(bytes)?;
        let u32_of = |at| u32_at(bytes, at).ok_or_else(short);
        let i32_of = |at| i32_at(bytes, at).ok_or_else(short);
        let lsn_of = |at| u64_at(bytes, at).map(Lsn::new).ok_or_else(short);
        let timeline = TimelineId::new(u32_of(48)?);
        if u64_at(bytes, 208).map(f64::from_bits) != Some(FLOAT_FORMAT) {
            return Err(ControlError::Field { field: "floatFormat" });
        }
        let control = ControlFile {
            system_identifier: SystemIdentifier(u64_at(bytes, 0).ok_or_else(short)?),
            control_version: u32_of(8)?,
            catalog_version: u32_of(12)?,
            state: cluster_state(u32_of(16)?).ok_or(ControlError::Field { field: "state" })?,
            checkpoint: lsn_of(32)?,
            redo: lsn_of(40)?,
            timeline: timeline.ok_or(ControlError::Field {
                field: "ThisTimeLineID",
            })?,
            checkpoint_time: u64_at(bytes, 104).ok_or_else(short)?.cast_signed(),
            min_recovery_point: lsn_of(136)?,
            min_recovery_timeline: TimelineId::new(u32_of(144)?),
            backup_start_point: lsn_of(152)?,
            backup_end_point: lsn_of(160)?,
            wal_level: wal_level(i32_of(172)?).ok_or(ControlError::Field { field: "wal_level" })?,
            max_connections: i32_of(180)?,
            max_worker_processes: i32_of(184)?,
            max_wal_senders: i32_of(188)?,
            max_prepared_xacts: i32_of(192)?,
            max_locks_per_xact: i32_of(196)?,
            track_commit_timestamp: bytes.get(200).ok_or_else(short)? != &0,
            block_size: u32_of(216)?,
            relation_segment_blocks: u32_of(220)?,
            wal_block_size: u32_of(224)?,
            segment_size: SegmentSize::new(u64::from(u32_of(228)?))
                .map_err(|_| ControlError::Field { field: "xlog_seg_size" })?,
            data_checksum_version: u32_of(252)?,
        };
        for (field, value) in [
            ("blcksz", control.block_size),
            ("relseg_size", control.relation_segment_blocks),
            ("xlog_blcksz", control.wal_block_size),
        ] {
            if value == 0 {
                return Err(ControlError::Field { field });
            }
        }
        Ok(control)
    }
}

/// CRC-32C of everything before the CRC (`ReadControlFile`, src/backend/access/transam/xlog.c).
fn check_crc(bytes: &[u8]) -> Result<(), ControlError> {
    let short = || ControlError::TooShort { bytes: bytes.len() };
    let crc_at = match u32_at(bytes, 8).ok_or_else(short)? {
        1300 | 1700 => 288,
        1800 => 292,
        version => return Err(ControlError::Version { version }),
    };
    let expected = crc32c::crc32c(bytes.get(..crc_at).ok_or_else(short)?);
    let found = u32_at(bytes, crc_at).ok_or_else(short)?;
    if expected == found {
        Ok(())
    } else {
        Err(ControlError::Crc { expected, found })
    }
}

fn cluster_state(value: u32) -> Option<ClusterState> {
    Some(match value {
        0 => ClusterState::StartingUp,
        1 => ClusterState::ShutDown,
        2 => ClusterState::ShutDownInRecovery,
        3 => ClusterState::ShuttingDown,
        4 => ClusterState::InCrashRecovery,
        5 => ClusterState::InArchiveRecovery,
        6 => ClusterState::InProduction,
        _ => return None,
    })
}

fn wal_level(value: i32) -> Option<WalLevel> {
    Some(match value {
        0 => WalLevel::Minimal,
        1 => WalLevel::Replica,
        2 => WalLevel::Logical,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
