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
            [b"pg_tblspc", tablespace, version, database, name] if is_tablespace_version(version) => {
                match (number(tablespace), number(database)) {
                    (Some(tablespace), Some(database)) => file_of(name, Some(tablespace), database),
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
                let Name {
                    relfilenode,
                    fork,
                    segment,
                    temporary,
                } = parsed;
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
    Some(Name {
        relfilenode: number(digits.as_bytes())?,
        fork,
        segment,
        temporary,
    })
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
        .is_some_and(|(major, catalog)| number(major.as_bytes()).is_some() && number(catalog.as_bytes()).is_some())
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
            permanent(name).is_some_and(|parsed| parsed.fork != Fork::Init && unlogged.contains(&parsed.relfilenode))
        })
        .copied()
        .collect()
}

#[cfg(test)]
mod tests;
