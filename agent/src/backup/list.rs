//! Which files, directories and links make up the cluster (B05, B24 to B30).
//!
//! Links are followed where PostgreSQL itself puts or allows them: tablespaces, and anything that stands for a directory of its own.
//! Every other link is recorded as a link. What the server documents as not to be copied is left out, and nothing else.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pg::relation::{FileClass, Fork, excluded, unlogged_without_init};
use store::StoreError;
use store::file_table::{EntryClass, EntryType, FileEntry};
use store::manifest::Tablespace;
use store::pipeline::{FileJob, Listed};

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

/// What the walk needs to know of the cluster.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    pub(super) data_directory: PathBuf,
    /// `PG_<major>_<catalog version>`: ours in a tablespace that several versions may share.
    pub(super) tablespace_version: String,
    pub(super) relation_segment_blocks: u32,
}

/// Walks the data directory and its tablespaces, in the order of path bytes; a directory is listed when the walk comes to it.
#[derive(Debug)]
pub(super) struct Walk {
    cluster: Cluster,
    open: Vec<Directory>,
    /// What the last name is, when it is to be listed.
    found: Option<Listed>,
    /// Tablespaces, as they were met.
    pub(super) tablespaces: Vec<Tablespace>,
    /// pg_control, which is read last and not listed.
    pub(super) control: Option<FileJob>,
}

/// A directory that is being walked.
#[derive(Debug)]
struct Directory {
    relative: Vec<u8>,
    names: Names,
    /// Directories in it whose own content comes next: `a/` sorts behind `a.b`.
    below: BTreeSet<Vec<u8>>,
}

impl Walk {
    /// Begins with the data directory.
    pub(super) fn begin(cluster: Cluster) -> Result<Self, StoreError> {
        let mut walk = Walk {
            cluster,
            open: Vec::new(),
            found: None,
            tablespaces: Vec::new(),
            control: None,
        };
        walk.enter(Vec::new())?;
        Ok(walk)
    }

    /// Name of the directory of this server in a tablespace.
    pub(super) fn tablespace_version(&self) -> &str {
        &self.cluster.tablespace_version
    }

    fn on_disk(&self, path: &[u8]) -> PathBuf {
        self.cluster.data_directory.join(OsStr::from_bytes(path))
    }

    /// Lists a directory.
    fn enter(&mut self, relative: Vec<u8>) -> Result<(), StoreError> {
        let on_disk = self.on_disk(&relative);
        if self.open.len() > DEPTH_MAX {
            let source = std::io::Error::other("too many levels of directories: a link leads back");
            return Err(failed("list", &on_disk, source));
        }
        let names = match names_in(&on_disk) {
            Ok(names) => names,
            // Dropped since its parent was listed.
            Err(error) if error.kind() == ErrorKind::NotFound && !relative.is_empty() => return Ok(()),
            Err(error) => return Err(failed("list", &on_disk, error)),
        };
        let refs: Vec<&[u8]> = names.iter().collect();
        let unlogged = if is_database(&relative) {
            unlogged_without_init(&refs)
        } else {
            Default::default()
        };
        let is_left_out = |name: &[u8]| {
            let is_foreign_version = is_tablespace(&relative) && *name != *self.cluster.tablespace_version.as_bytes();
            unlogged.contains(name) || is_foreign_version || excluded(&join(&relative, name)).is_some()
        };
        let kept: Vec<bool> = refs.iter().map(|name| !is_left_out(name)).collect();
        let mut names = names;
        let mut kept = kept.into_iter();
        names.places.retain(|_| kept.next().unwrap_or(true));
        self.open.push(Directory {
            relative,
            names,
            below: BTreeSet::new(),
        });
        Ok(())
    }

    /// Goes on by one name or one directory; false at the end.
    fn step(&mut self) -> Result<bool, StoreError> {
        let Some(directory) = self.open.last_mut() else {
            return Ok(false);
        };
        let is_below_next = match (directory.below.first(), directory.names.peek()) {
            (Some(below), Some(name)) => **below < *name,
            (below, _) => below.is_some(),
        };
        if is_below_next {
            let name = directory.below.pop_first().unwrap_or_default();
            let path = join(&directory.relative, name.strip_suffix(b"/").unwrap_or(&name));
            self.enter(path)?;
        } else if let Some(name) = directory.names.peek() {
            let path = join(&directory.relative, name);
            directory.names.skip();
            self.entry(path)?;
        } else {
            self.open.pop();
        }
        Ok(true)
    }

    fn entry(&mut self, path: Vec<u8>) -> Result<(), StoreError> {
        let on_disk = self.on_disk(&path);
        let Some(mut metadata) = look(&on_disk, std::fs::symlink_metadata(&on_disk))? else {
            return Ok(());
        };
        if is_tablespace(&path) {
            return self.tablespace(path, &on_disk, &metadata);
        }
        if metadata.is_symlink() {
            if !is_followed(&path) {
                let target = std::fs::read_link(&on_disk).map_err(|error| failed("read the link", &on_disk, error))?;
                self.link(path, mode(&metadata), target);
                return Ok(());
            }
            metadata = std::fs::metadata(&on_disk).map_err(|error| failed("follow the link", &on_disk, error))?;
        }
        if metadata.is_dir() {
            self.directory(path, &metadata);
        } else if metadata.is_file() {
            self.file(path, on_disk, &metadata);
        } else {
            tracing::info!(path = %on_disk.display(), "left out a socket, pipe or device");
        }
        Ok(())
    }

    fn directory(&mut self, path: Vec<u8>, metadata: &Metadata) {
        self.descend(&path);
        self.found = Some(Listed::Entry(FileEntry::bare(
            path,
            EntryType::Directory,
            mode(metadata),
        )));
    }

    /// What is in this directory comes when its turn has come.
    fn descend(&mut self, path: &[u8]) {
        if let Some(directory) = self.open.last_mut() {
            let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            directory.below.insert([name, b"/"].concat());
        }
    }

    fn link(&mut self, path: Vec<u8>, mode: u32, target: PathBuf) {
        let link = FileEntry::bare(path, EntryType::Link, mode);
        self.found = Some(Listed::Entry(FileEntry {
            target: Some(target.into_os_string().into_vec().into()),
            ..link
        }));
    }

    /// `pg_tblspc/<oid>`: a link to a directory, or (15 and later, for tests) a directory in place.
    fn tablespace(&mut self, path: Vec<u8>, on_disk: &Path, metadata: &Metadata) -> Result<(), StoreError> {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let oid = std::str::from_utf8(name)
            .ok()
            .and_then(|name| name.parse().ok())
            .unwrap_or(0);
        if !metadata.is_symlink() {
            self.tablespaces.push(Tablespace {
                oid,
                location: path.clone().into(),
                in_place: true,
            });
            self.directory(path, metadata);
            return Ok(());
        }
        let target = std::fs::read_link(on_disk).map_err(|error| failed("read the link", on_disk, error))?;
        let Some(behind) = look(on_disk, std::fs::metadata(on_disk))? else {
            // A tablespace that is dropped loses its directory first; the link to nothing is recorded.
            self.link(path, mode(metadata), target);
            return Ok(());
        };
        self.tablespaces.push(Tablespace {
            oid,
            location: target.clone().into_os_string().into_vec().into(),
            in_place: false,
        });
        self.descend(&path);
        self.link(path, mode(&behind), target);
        Ok(())
    }

    fn file(&mut self, path: Vec<u8>, on_disk: PathBuf, metadata: &Metadata) {
        let (class, first_block, is_judged) = classify(&path, self.cluster.relation_segment_blocks);
        let job = FileJob {
            on_disk,
            mode: mode(metadata),
            size: metadata.len(),
            class,
            first_block,
            is_judged,
            // The server truncates and removes files of every directory while it runs; these two it only replaces.
            may_vanish: !matches!(path.as_slice(), b"PG_VERSION" | b"global/pg_filenode.map"),
            attributes: None,
            path,
        };
        if class == EntryClass::Control {
            self.control = Some(job);
        } else {
            self.found = Some(Listed::File(job));
        }
    }
}

impl Iterator for Walk {
    type Item = Result<Listed, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.step() {
                Ok(true) => {
                    if let Some(found) = self.found.take() {
                        return Some(Ok(found));
                    }
                }
                Ok(false) => return None,
                Err(error) => {
                    self.open.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}

/// How a file is stored, the block that it begins with, and whether a bad page in it is a finding.
pub(super) fn classify(path: &[u8], relation_segment_blocks: u32) -> (EntryClass, u32, bool) {
    match FileClass::of(path) {
        FileClass::Control => (EntryClass::Control, 0, false),
        FileClass::Relation(file) => match file.first_block(relation_segment_blocks) {
            Some(first_block) => {
                let is_judged = matches!(file.fork, Fork::Main | Fork::Init);
                (EntryClass::Relation, first_block, is_judged)
            }
            None => (EntryClass::Content, 0, false),
        },
        _ => (EntryClass::Content, 0, false),
    }
}

/// Files and bytes that a walk finds; a second walk a moment later may find others.
pub(super) fn measure(cluster: &Cluster) -> Result<(u64, u64), StoreError> {
    let (mut files, mut bytes) = (0, 0);
    for listed in Walk::begin(cluster.clone())? {
        if let Listed::File(job) = listed? {
            files += 1;
            bytes += job.size;
        }
    }
    Ok((files, bytes))
}

fn failed(action: &'static str, path: &Path, source: std::io::Error) -> StoreError {
    StoreError::Io {
        action,
        path: path.display().to_string(),
        source,
    }
}

/// Names of a directory in order, a few bytes each: there may be hundreds of thousands.
#[derive(Debug, Default)]
struct Names {
    bytes: Vec<u8>,
    places: Vec<(u32, u32)>,
    next: usize,
}

impl Names {
    fn of(&self, place: &(u32, u32)) -> &[u8] {
        self.bytes.get(place.0 as usize..place.1 as usize).unwrap_or_default()
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.places.iter().map(|place| self.of(place))
    }

    fn peek(&self) -> Option<&[u8]> {
        self.places.get(self.next).map(|place| self.of(place))
    }

    fn skip(&mut self) {
        self.next += 1;
    }
}

fn names_in(directory: &Path) -> std::io::Result<Names> {
    let mut names = Names::default();
    let at = |bytes: &Vec<u8>| u32::try_from(bytes.len()).map_err(|_| std::io::Error::other("4 GiB of names"));
    for entry in std::fs::read_dir(directory)? {
        let begin = at(&names.bytes)?;
        names.bytes.extend_from_slice(entry?.file_name().as_bytes());
        names.places.push((begin, at(&names.bytes)?));
    }
    let mut places = std::mem::take(&mut names.places);
    places.sort_unstable_by(|a, b| names.of(a).cmp(names.of(b)));
    names.places = places;
    Ok(names)
}

/// `None` when it went away since it was listed.
fn look(path: &Path, metadata: std::io::Result<Metadata>) -> Result<Option<Metadata>, StoreError> {
    match metadata {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("look at", path, error)),
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
