//! What a path below the data directory is: a relation file, a file of its own kind, or a file
//! that a base backup leaves out.
//!
//! Paths are bytes, relative to the data directory, with `/` between the parts; those of
//! tablespaces go through their link (`pg_tblspc/<oid>/...`). Names: docs, "Database File Layout";
//! src/backend/storage/file/reinit.c (`parse_filename_for_nontemp_relation`), src/common/relpath.c.

mod exclude;

use std::collections::BTreeSet;

pub use exclude::{Exclusion, RESTORE_DIRECTORY, excluded};

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FileClass {
    /// A part of a relation: pages.
    Relation(RelationFile),
    /// `global/pg_control`
    Control,
    /// `backup_label`, which a running server may have from an exclusive backup.
    BackupLabel,
    /// `tablespace_map`
    TablespaceMap,
    /// `PG_VERSION`, of the cluster or of a database.
    Version,
    /// `pg_filenode.map`: the relation mapper's file of a database or of `global`.
    RelationMap,
    /// Anything else.
    Other,
}

/// Part of a relation's storage.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fork {
    /// The content.
    Main,
    /// Free space map.
    Fsm,
    /// Visibility map.
    Vm,
    /// What an unlogged relation is reset to after a crash.
    Init,
}

/// One file of a relation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelationFile {
    /// Oid of the tablespace; `None` for `base` and `global`.
    pub tablespace: Option<u32>,
    /// Oid of the database; 0 for `global`.
    pub database: u32,
    /// Number that names the files of the relation.
    pub relfilenode: u32,
    /// Which fork.
    pub fork: Fork,
    /// Which file of the fork, from 0; each but the last has the same number of blocks.
    pub segment: u32,
    /// Whether it belongs to a temporary relation of a session.
    pub temporary: bool,
}

impl RelationFile {
    /// Block number of the first page of this file, given the blocks in a file (pg_control);
    /// `None` when no relation can be that long.
    pub fn first_block(&self, relation_segment_blocks: u32) -> Option<u32> {
        first_block(self.segment, relation_segment_blocks)
    }
}

/// Block number of the first page of file `segment`, given the blocks in a file; `None` when it
/// does not fit a block number.
pub const fn first_block(segment: u32, relation_segment_blocks: u32) -> Option<u32> {
    segment.checked_mul(relation_segment_blocks)
}

impl FileClass {
    /// Classifies a path.
    pub fn of(path: &[u8]) -> FileClass {
        let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        match parts.as_slice() {
            [b"global", b"pg_control"] => FileClass::Control,
            [b"backup_label"] => FileClass::BackupLabel,
            [b"tablespace_map"] => FileClass::TablespaceMap,
            [b"PG_VERSION"] => FileClass::Version,
            [b"global", name] => file_of(name, None, 0),
            [b"base", database, name] => match number(database) {
                Some(database) => file_of(name, None, database),
                None => FileClass::Other,
            },
            [b"pg_tblspc", tablespace, version, database, name]
                if is_tablespace_version(version) =>
            {
                match (number(tablespace), number(database)) {
                    (Some(tablespace), Some(database)) => {
                        file_of(name, Some(tablespace), database)
                    }
                    _ => FileClass::Other,
                }
            }
            _ => FileClass::Other,
        }
    }
}

fn file_of(name: &[u8], tablespace: Option<u32>, database: u32) -> FileClass {
    match name {
        b"pg_filenode.map" => FileClass::RelationMap,
        b"PG_VERSION" => FileClass::Version,
        _ => match parse_name(name) {
            Some(parsed) => {
                let Name { relfilenode, fork, segment, temporary } = parsed;
                FileClass::Relation(RelationFile {
                    tablespace,
                    database,
                    relfilenode,
                    fork,
                    segment,
                    temporary,
                })
            }
            None => FileClass::Other,
        },
    }
}

#[derive(Clone, Copy)]
struct Name {
    relfilenode: u32,
    fork: Fork,
    segment: u32,
    temporary: bool,
}

/// `[t<backend>_]<relfilenode>[_fsm|_vm|_init][.<segment>]`
fn parse_name(name: &[u8]) -> Option<Name> {
    let name = std::str::from_utf8(name).ok()?;
    let (stem, segment) = match name.split_once('.') {
        Some((stem, digits)) => (stem, number(digits.as_bytes())?),
        None => (name, 0),
    };
    let (stem, temporary) = match stem.strip_prefix('t') {
        Some(rest) => {
            let (backend, rest) = rest.split_once('_')?;
            let plain = !backend.is_empty() && backend.bytes().all(|b| b.is_ascii_digit());
            plain.then_some((rest, true))?
        }
        None => (stem, false),
    };
    let (digits, fork) = match stem.split_once('_') {
        None => (stem, Fork::Main),
        Some((digits, "fsm")) => (digits, Fork::Fsm),
        Some((digits, "vm")) => (digits, Fork::Vm),
        Some((digits, "init")) => (digits, Fork::Init),
        Some(_) => return None,
    };
    Some(Name { relfilenode: number(digits.as_bytes())?, fork, segment, temporary })
}

/// A number as PostgreSQL prints it: no sign, no leading zero, not zero.
fn number(digits: &[u8]) -> Option<u32> {
    if digits.first() == Some(&b'0') || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `PG_<major>_<catalog version>` (src/include/common/relpath.h, `TABLESPACE_VERSION_DIRECTORY`).
fn is_tablespace_version(name: &[u8]) -> bool {
    let numbers = std::str::from_utf8(name).ok().and_then(|name| name.strip_prefix("PG_"));
    numbers
        .and_then(|numbers| numbers.split_once('_'))
        .is_some_and(|(major, catalog)| {
            number(major.as_bytes()).is_some() && number(catalog.as_bytes()).is_some()
        })
}

/// Names of the files of a database directory that belong to unlogged relations and are not their
/// init fork. A base backup leaves them out, because recovery makes them anew from the init fork
/// (src/backend/backup/basebackup.c, `sendDir`; src/backend/storage/file/reinit.c). `names` must
/// be all names of one directory, listed at once.
pub fn unlogged_without_init<'a>(names: &[&'a [u8]]) -> BTreeSet<&'a [u8]> {
    let permanent = |name: &[u8]| parse_name(name).filter(|parsed| !parsed.temporary);
    let unlogged: BTreeSet<u32> = names
        .iter()
        .filter_map(|name| permanent(name))
        .filter(|parsed| parsed.fork == Fork::Init)
        .map(|parsed| parsed.relfilenode)
        .collect();
    names
        .iter()
        .filter(|name| {
            permanent(name).is_some_and(|parsed| {
                parsed.fork != Fork::Init && unlogged.contains(&parsed.relfilenode)
            })
        })
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(path: &str) -> RelationFile {
        match FileClass::of(path.as_bytes()) {
            FileClass::Relation(file) => file,
            other => panic!("{path} is {other:?}"),
        }
    }

    #[test]
    fn relation_files_are_recognised_everywhere() {
        let base = RelationFile {
            tablespace: None,
            database: 5,
            relfilenode: 1259,
            fork: Fork::Main,
            segment: 0,
            temporary: false,
        };
        assert_eq!(relation("base/5/1259"), base);
        assert_eq!(relation("base/5/1259.3"), RelationFile { segment: 3, ..base });
        assert_eq!(relation("base/5/1259_fsm"), RelationFile { fork: Fork::Fsm, ..base });
        assert_eq!(
            relation("base/5/1259_vm.1"),
            RelationFile { fork: Fork::Vm, segment: 1, ..base }
        );
        assert_eq!(relation("global/1259_init").database, 0);
        let temporary = relation("base/5/t3_12345_vm");
        assert!(temporary.temporary && temporary.relfilenode == 12345);
        let elsewhere = relation("pg_tblspc/16385/PG_15_202209061/5/1259");
        assert_eq!(elsewhere, RelationFile { tablespace: Some(16385), ..base });
    }

    #[test]
    fn files_of_their_own_kind_are_named() {
        for (path, class) in [
            ("global/pg_control", FileClass::Control),
            ("backup_label", FileClass::BackupLabel),
            ("tablespace_map", FileClass::TablespaceMap),
            ("PG_VERSION", FileClass::Version),
            ("base/5/PG_VERSION", FileClass::Version),
            ("base/5/pg_filenode.map", FileClass::RelationMap),
            ("global/pg_filenode.map", FileClass::RelationMap),
        ] {
            assert_eq!(FileClass::of(path.as_bytes()), class, "{path}");
        }
    }

    #[test]
    fn near_misses_are_other_files() {
        for path in [
            "",
            "base/5/0",
            "base/5/01259",
            "base/5/1259.",
            "base/5/1259.0",
            "base/5/1259_tmp",
            "base/5/1259_vm_1",
            "base/5/t_1259",
            "base/5/t3_",
            "base/5/99999999999",
            "base/x/1259",
            "base/1259",
            "base/5/6/1259",
            "pg_tblspc/16385/5/1259",
            "pg_tblspc/16385/PG_15/5/1259",
            "pg_xact/0000",
            "base/5/\u{661}",
        ] {
            assert_eq!(FileClass::of(path.as_bytes()), FileClass::Other, "{path}");
        }
    }

    #[test]
    fn block_numbers_go_on_over_the_files_of_a_fork() {
        assert_eq!(relation("base/5/1259.2").first_block(131_072), Some(262_144));
        assert_eq!(first_block(u32::MAX, 131_072), None);
    }

    #[test]
    fn only_the_init_fork_of_an_unlogged_relation_is_kept() {
        let names: Vec<&[u8]> = [
            "100", "100.1", "100_fsm", "100_init", "200", "200_vm", "t3_100", "300_init.1", "300",
        ]
        .iter()
        .map(|name| name.as_bytes())
        .collect();
        let left_out: Vec<&[u8]> = unlogged_without_init(&names).into_iter().collect();
        assert_eq!(left_out, [&b"100"[..], b"100.1", b"100_fsm", b"300"]);
    }
}
