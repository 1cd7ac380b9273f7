//! What a base backup leaves out.
//!
//! Lists: docs, "Making a Base Backup Using the Low Level API" and "Streaming Replication
//! Protocol: BASE_BACKUP"; src/backend/backup/basebackup.c (`excludeDirContents`, `excludeFiles`).
//! Added are the signal files of recovery, which a restore writes itself, labels left over from an
//! earlier restore, and our own marker files. Nothing else may ever be left out.

/// Directory that a restore keeps its own state in.
pub const RESTORE_DIRECTORY: &str = "seawall.restore";

/// Prefix of our own files in a data directory.
const OWN_PREFIX: &[u8] = b".seawall";

/// Why a path is left out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Exclusion {
    /// Below a directory that is kept empty, because the server fills it anew.
    EmptiedDirectory,
    /// A file about the running server or about another restore.
    ServerFile,
    /// Temporary files and temporary relations.
    Temporary,
    /// Ours.
    Own,
}

/// Directories that are kept without their content.
const EMPTIED: [&[u8]; 8] = [
    b"pg_wal",
    b"pg_replslot",
    b"pg_dynshmem",
    b"pg_notify",
    b"pg_serial",
    b"pg_snapshots",
    b"pg_stat_tmp",
    b"pg_subtrans",
];

/// Directories in `pg_wal` that are kept, without their content.
const KEPT_IN_WAL: [&[u8]; 2] = [b"archive_status", b"summaries"];

/// Files that are left out wherever they are, as the server does it.
const FILES: [&[u8]; 8] = [
    b"postgresql.auto.conf.tmp",
    b"current_logfiles.tmp",
    b"backup_label",
    b"tablespace_map",
    b"backup_manifest",
    b"postmaster.pid",
    b"postmaster.opts",
    b".DS_Store",
];

/// Files that are left out of the top of the data directory only.
const TOP_FILES: [&[u8]; 4] = [
    b"backup_label.old",
    b"tablespace_map.old",
    b"recovery.signal",
    b"standby.signal",
];

/// Says whether, and why, a path relative to the data directory is left out of a base backup. For
/// a directory that is left out, everything below it is too.
pub fn excluded(path: &[u8]) -> Option<Exclusion> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    if parts.iter().any(|part| part.starts_with(OWN_PREFIX)) || parts.first() == Some(&RESTORE_DIRECTORY.as_bytes()) {
        return Some(Exclusion::Own);
    }
    match parts.as_slice() {
        [b"pg_wal", directory] if KEPT_IN_WAL.contains(directory) => return None,
        [top, _, ..] if EMPTIED.contains(top) => return Some(Exclusion::EmptiedDirectory),
        [name] if TOP_FILES.contains(name) => return Some(Exclusion::ServerFile),
        _ => {}
    }
    if parts.iter().any(|part| part.starts_with(b"pgsql_tmp")) {
        return Some(Exclusion::Temporary);
    }
    let name = *parts.last()?;
    if FILES.contains(&name) || name.starts_with(b"pg_internal.init") {
        return Some(Exclusion::ServerFile);
    }
    match super::FileClass::of(path) {
        super::FileClass::Relation(file) if file.temporary => Some(Exclusion::Temporary),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emptied_directories_stay_and_their_content_goes() {
        for directory in ["pg_wal", "pg_replslot", "pg_subtrans", "pg_wal/archive_status"] {
            assert_eq!(excluded(directory.as_bytes()), None, "{directory}");
        }
        assert_eq!(excluded(b"pg_wal/summaries"), None);
        for path in [
            "pg_wal/000000010000000000000001",
            "pg_wal/archive_status/000000010000000000000001.done",
            "pg_wal/other",
            "pg_replslot/seawall/state",
            "pg_dynshmem/mmap.1",
            "pg_notify/0000",
            "pg_serial/0000",
            "pg_snapshots/1",
            "pg_stat_tmp/global.stat",
            "pg_subtrans/0000",
        ] {
            assert_eq!(excluded(path.as_bytes()), Some(Exclusion::EmptiedDirectory), "{path}");
        }
    }

    #[test]
    fn files_of_the_running_server_go() {
        for path in [
            "postmaster.pid",
            "postmaster.opts",
            "postgresql.auto.conf.tmp",
            "current_logfiles.tmp",
            "backup_label",
            "backup_label.old",
            "tablespace_map",
            "tablespace_map.old",
            "backup_manifest",
            "recovery.signal",
            "standby.signal",
            "global/pg_internal.init",
            "base/5/pg_internal.init.1234",
            "pg_tblspc/16385/PG_15_202209061/5/pg_internal.init",
        ] {
            assert_eq!(excluded(path.as_bytes()), Some(Exclusion::ServerFile), "{path}");
        }
    }

    #[test]
    fn temporary_files_and_our_own_go() {
        for path in [
            "base/pgsql_tmp",
            "base/pgsql_tmp/pgsql_tmp1234.0",
            "pg_tblspc/16385/PG_15_202209061/pgsql_tmp/x",
            "base/5/t3_16400",
            "base/5/t3_16400_fsm.1",
            "pg_tblspc/16385/PG_15_202209061/5/t12_9",
        ] {
            assert_eq!(excluded(path.as_bytes()), Some(Exclusion::Temporary), "{path}");
        }
        for path in ["seawall.restore", "seawall.restore/plan", ".seawall", ".seawall-lock"] {
            assert_eq!(excluded(path.as_bytes()), Some(Exclusion::Own), "{path}");
        }
    }

    #[test]
    fn what_the_cluster_needs_stays() {
        for path in [
            "",
            "PG_VERSION",
            "global/pg_control",
            "base/5/1259",
            "base/5/16400_init",
            "pg_xact/0000",
            "pg_multixact/members/0000",
            "pg_logical/replorigin_checkpoint",
            "pg_twophase/00000001",
            "pg_stat/pgstat.stat",
            "pg_tblspc/16385",
            "postgresql.auto.conf",
            "current_logfiles",
            "log/t3_1",
            "old/recovery.signal",
            "seawall.restored",
        ] {
            assert_eq!(excluded(path.as_bytes()), None, "{path}");
        }
    }
}
