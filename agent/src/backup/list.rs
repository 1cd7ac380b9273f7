//! Which files, directories and links make up the cluster (B05, B24 to B30).
//!
//! Links are followed where PostgreSQL itself puts or allows them: tablespaces, and anything that stands for a directory of its own.
//! Every other link is recorded as a link. What the server documents as not to be copied is left out, and nothing else.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pg::relation::{FileClass, Fork, excluded, unlogged_without_init};
use store::file_table::{EntryClass, EntryType, FileEntry};
use store::manifest::Tablespace;
use store::pipeline::FileJob;

use super::error::BackupError;

/// Directories of a cluster: a link in their place is followed.
const OWN_DIRECTORIES: [&[u8]; 17] = [
    b"base",
    b"global",
    b"pg_commit_ts",
    b"pg_dynshmem",
    b"pg_logical",
    b"pg_multixact",
    b"pg_notify",
    b"pg_replslot",
    b"pg_serial",
    b"pg_snapshots",
    b"pg_stat",
    b"pg_stat_tmp",
    b"pg_subtrans",
    b"pg_tblspc",
    b"pg_twophase",
    b"pg_wal",
    b"pg_xact",
];
/// Deeper than this there is a link that leads back.
const DEPTH_MAX: usize = 32;

/// What there is to copy.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Files but pg_control, by path.
    pub(super) jobs: Vec<FileJob>,
    /// Directories and links.
    pub(super) entries: Vec<FileEntry>,
    pub(super) tablespaces: Vec<Tablespace>,
    /// pg_control, which is read last.
    pub(super) control: Option<FileJob>,
}

/// What the walk needs to know of the cluster.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    pub(super) data_directory: PathBuf,
    /// `PG_<major>_<catalog version>`: ours in a tablespace that several versions may share.
    pub(super) tablespace_version: String,
    pub(super) relation_segment_blocks: u32,
}

/// Walks the data directory and its tablespaces.
pub(super) fn walk(cluster: &Cluster) -> Result<Listing, BackupError> {
    let mut walk = Walk {
        cluster,
        out: Listing::default(),
    };
    walk.directory(b"", &cluster.data_directory, 0)?;
    let mut out = walk.out;
    out.jobs.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(out)
}

struct Walk<'a> {
    cluster: &'a Cluster,
    out: Listing,
}

impl Walk<'_> {
    fn directory(&mut self, relative: &[u8], on_disk: &Path, depth: usize) -> Result<(), BackupError> {
        if depth > DEPTH_MAX {
            let source = std::io::Error::other("too many levels of directories: a link leads back");
            return Err(BackupError::io("list", on_disk, source));
        }
        let names = match names_in(on_disk) {
            Ok(names) => names,
            // Dropped since its parent was listed.
            Err(error) if error.kind() == ErrorKind::NotFound && depth > 0 => return Ok(()),
            Err(error) => return Err(BackupError::io("list", on_disk, error)),
        };
        let refs: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let unlogged = if is_database(relative) {
            unlogged_without_init(&refs)
        } else {
            Default::default()
        };
        for name in &refs {
            let path = join(relative, name);
            let is_foreign_version = is_tablespace(relative) && *name != self.cluster.tablespace_version.as_bytes();
            if unlogged.contains(name) || is_foreign_version || excluded(&path).is_some() {
                continue;
            }
            self.entry(path, &on_disk.join(OsStr::from_bytes(name)), depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: Vec<u8>, on_disk: &Path, depth: usize) -> Result<(), BackupError> {
        let Some(mut metadata) = look(on_disk, std::fs::symlink_metadata(on_disk))? else {
            return Ok(());
        };
        if is_tablespace(&path) {
            return self.tablespace(path, on_disk, &metadata, depth);
        }
        if metadata.is_symlink() {
            if !is_followed(&path) {
                let target =
                    std::fs::read_link(on_disk).map_err(|error| BackupError::io("read the link", on_disk, error))?;
                let link = FileEntry::bare(path, EntryType::Link, mode(&metadata));
                self.out.entries.push(FileEntry {
                    target: Some(target.into_os_string().into_vec().into()),
                    ..link
                });
                return Ok(());
            }
            metadata =
                std::fs::metadata(on_disk).map_err(|error| BackupError::io("follow the link", on_disk, error))?;
        }
        if metadata.is_dir() {
            self.out
                .entries
                .push(FileEntry::bare(path.clone(), EntryType::Directory, mode(&metadata)));
            return self.directory(&path, on_disk, depth + 1);
        }
        if metadata.is_file() {
            self.file(path, on_disk, &metadata);
        } else {
            tracing::info!(path = %on_disk.display(), "left out a socket, pipe or device");
        }
        Ok(())
    }

    /// `pg_tblspc/<oid>`: a link to a directory, or (15 and later, for tests) a directory in place.
    fn tablespace(
        &mut self,
        path: Vec<u8>,
        on_disk: &Path,
        metadata: &Metadata,
        depth: usize,
    ) -> Result<(), BackupError> {
        let oid = path
            .rsplit(|byte| *byte == b'/')
            .next()
            .and_then(|name| std::str::from_utf8(name).ok()?.parse().ok())
            .unwrap_or(0);
        if !metadata.is_symlink() {
            self.out.tablespaces.push(Tablespace {
                oid,
                location: path.clone().into(),
                in_place: true,
            });
            self.out
                .entries
                .push(FileEntry::bare(path.clone(), EntryType::Directory, mode(metadata)));
            return self.directory(&path, on_disk, depth + 1);
        }
        let target = std::fs::read_link(on_disk).map_err(|error| BackupError::io("read the link", on_disk, error))?;
        let target = target.into_os_string().into_vec();
        let Some(behind) = look(on_disk, std::fs::metadata(on_disk))? else {
            // A tablespace that is dropped loses its directory first; the link to nothing is recorded.
            let link = FileEntry::bare(path, EntryType::Link, mode(metadata));
            self.out.entries.push(FileEntry {
                target: Some(target.into()),
                ..link
            });
            return Ok(());
        };
        self.out.tablespaces.push(Tablespace {
            oid,
            location: target.clone().into(),
            in_place: false,
        });
        let link = FileEntry::bare(path.clone(), EntryType::Link, mode(&behind));
        self.out.entries.push(FileEntry {
            target: Some(target.into()),
            ..link
        });
        self.directory(&path, on_disk, depth + 1)
    }

    fn file(&mut self, path: Vec<u8>, on_disk: &Path, metadata: &Metadata) {
        let mut job = FileJob {
            on_disk: on_disk.to_owned(),
            mode: mode(metadata),
            size: metadata.len(),
            class: EntryClass::Content,
            first_block: 0,
            is_judged: false,
            // The server truncates and removes files of every directory while it runs; these two it only replaces.
            may_vanish: !matches!(path.as_slice(), b"PG_VERSION" | b"global/pg_filenode.map"),
            path,
        };
        match FileClass::of(&job.path) {
            FileClass::Control => {
                job.class = EntryClass::Control;
                self.out.control = Some(job);
                return;
            }
            FileClass::Relation(file) => {
                if let Some(first_block) = file.first_block(self.cluster.relation_segment_blocks) {
                    job.class = EntryClass::Relation;
                    job.first_block = first_block;
                    job.is_judged = matches!(file.fork, Fork::Main | Fork::Init);
                }
            }
            _ => {}
        }
        self.out.jobs.push(job);
    }
}

fn names_in(directory: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.push(entry?.file_name().into_vec());
    }
    names.sort_unstable();
    Ok(names)
}

/// `None` when it went away since it was listed.
fn look(path: &Path, metadata: std::io::Result<Metadata>) -> Result<Option<Metadata>, BackupError> {
    match metadata {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(BackupError::io("look at", path, error)),
    }
}

fn mode(metadata: &Metadata) -> u32 {
    metadata.permissions().mode() & 0o7777
}

fn join(relative: &[u8], name: &[u8]) -> Vec<u8> {
    if relative.is_empty() {
        name.to_vec()
    } else {
        [relative, b"/", name].concat()
    }
}

/// `pg_tblspc/<oid>`
fn is_tablespace(path: &[u8]) -> bool {
    path.strip_prefix(b"pg_tblspc/")
        .is_some_and(|oid| !oid.is_empty() && oid.iter().all(u8::is_ascii_digit))
}

/// A directory that holds the files of one database.
fn is_database(relative: &[u8]) -> bool {
    matches!(FileClass::of(&join(relative, b"1")), FileClass::Relation(file) if file.database != 0)
}

fn is_followed(path: &[u8]) -> bool {
    OWN_DIRECTORIES.contains(&path)
        || [&b"base/"[..], b"global/", b"pg_tblspc/", b"pg_wal/"]
            .iter()
            .any(|below| path.starts_with(below))
}

#[cfg(test)]
mod tests;
