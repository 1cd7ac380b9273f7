//! Directories as a pipeline wants them: every entry in the order of path bytes, any number of them in the memory of one directory a level.
//!
//! `a`, `a-b`, `a/b`: a directory's content comes where its name with a slash behind it would, not right behind it.
//!
//! Nothing is reached through a link. Directories that go away while we walk are as if they had gone before.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, openat2, readlinkat, statat};
use rustix::io::Errno;
use store::StoreError;
use store::file_table::{Attributes, EntryClass, EntryType, FileEntry, Stamp};
use store::pipeline::{FileJob, Listed};

use super::before::Before;
use super::counts::Counts;
use super::exclude::Excludes;
use super::owners::Owners;
use super::xattr;

/// Where a walk begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Path in the backup, without a slash before it; empty for the root of the backup itself.
    pub name: Vec<u8>,
    /// Where it lies: without a link in it.
    pub on_disk: PathBuf,
}

/// What is to come of a directory: an entry of it, or what lies below that entry.
#[derive(Debug)]
enum Item {
    Entry(Box<[u8]>, Stat),
    Below(Box<[u8]>),
}

impl Item {
    /// What it is sorted by.
    fn key(&self) -> (&[u8], bool) {
        match self {
            Item::Entry(name, _) => (name, false),
            Item::Below(name) => (name, true),
        }
    }
}

/// An open directory.
#[derive(Debug)]
struct Level {
    /// Path in the backup, with a slash behind it unless it is empty.
    prefix: Vec<u8>,
    /// Path below its root, for patterns.
    below_root: PathBuf,
    on_disk: PathBuf,
    fd: Arc<OwnedFd>,
    /// The next one last.
    items: Vec<Item>,
}

/// A walk over some roots.
#[derive(Debug)]
pub struct Walk {
    roots: std::vec::IntoIter<Root>,
    levels: Vec<Level>,
    excludes: Excludes,
    one_file_system: bool,
    owners: Owners,
    before: Option<Before>,
    /// First names of files that have several.
    links: HashMap<(u64, u64), Vec<u8>>,
    now_ns: i64,
    counts: Counts,
}

/// How a walk is done.
#[derive(Clone, Debug)]
pub struct WalkOptions {
    /// What is left out.
    pub excludes: Excludes,
    /// Other file systems are left out.
    pub one_file_system: bool,
    /// The time, nanoseconds since 1970: from here on what is read is read.
    pub now_ns: i64,
}

impl Walk {
    /// Over these roots, which are sorted by name, and none below another. What is the same as `before` is not read again.
    #[must_use]
    pub fn new(roots: Vec<Root>, options: WalkOptions, before: Option<Before>) -> Self {
        Walk {
            roots: roots.into_iter(),
            levels: Vec::new(),
            excludes: options.excludes,
            one_file_system: options.one_file_system,
            owners: Owners::of_system(),
            before,
            links: HashMap::new(),
            now_ns: options.now_ns,
            counts: Counts::default(),
        }
    }

    /// What was listed.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    fn open_root(&mut self, root: Root) -> Result<Option<Listed>, StoreError> {
        let failed = |source: Errno| io_error("look at", &root.on_disk, source);
        let stat = statat(CWD, &root.on_disk, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let prefix = match root.name.as_slice() {
                [] => Vec::new(),
                name => [name, b"/"].concat(),
            };
            self.open_level(prefix, PathBuf::new(), root.on_disk.clone())?;
        }
        if root.name.is_empty() {
            return Ok(None);
        }
        self.entry(root.name, root.on_disk, None, &stat)
    }

    fn open_level(&mut self, prefix: Vec<u8>, below_root: PathBuf, on_disk: PathBuf) -> Result<(), StoreError> {
        let failed = |source: Errno| io_error("list", &on_disk, source);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match openat2(CWD, &on_disk, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            Ok(fd) => Arc::new(fd),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !self.levels.is_empty() => return Ok(()),
            Err(errno) => return Err(failed(errno)),
        };
        let device = rustix::fs::fstat(&fd).map_err(failed)?.st_dev;
        let mut items = Vec::new();
        for listed in Dir::read_from(&fd).map_err(failed)? {
            let name: Box<[u8]> = listed.map_err(failed)?.file_name().to_bytes().into();
            if matches!(&*name, b"." | b"..") {
                continue;
            }
            let stat = match statat(&*fd, OsStr::from_bytes(&name), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(failed(errno)),
            };
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if self
                .excludes
                .has(&below_root.join(OsStr::from_bytes(&name)), is_directory)
            {
                self.counts.excluded += 1;
                continue;
            }
            if is_directory && !(self.one_file_system && stat.st_dev != device) {
                items.push(Item::Below([&name, b"/".as_slice()].concat().into()));
            }
            items.push(Item::Entry(name, stat));
        }
        items.sort_unstable_by(|a, b| b.key().cmp(&a.key()));
        self.levels.push(Level {
            prefix,
            below_root,
            on_disk,
            fd,
            items,
        });
        Ok(())
    }

    fn step(&mut self) -> Result<Option<Listed>, StoreError> {
        loop {
            let Some(level) = self.levels.last_mut() else {
                let Some(root) = self.roots.next() else { return Ok(None) };
                match self.open_root(root)? {
                    Some(listed) => return Ok(Some(listed)),
                    None => continue,
                }
            };
            match level.items.pop() {
                None => drop(self.levels.pop()),
                Some(Item::Below(name)) => {
                    let plain = OsStr::from_bytes(name.strip_suffix(b"/").unwrap_or(&name));
                    let (below_root, on_disk) = (level.below_root.join(plain), level.on_disk.join(plain));
                    let prefix = [level.prefix.as_slice(), &name].concat();
                    self.open_level(prefix, below_root, on_disk)?;
                }
                Some(Item::Entry(name, stat)) => {
                    let path = [level.prefix.as_slice(), &name].concat();
                    let on_disk = level.on_disk.join(OsStr::from_bytes(&name));
                    let fd = Arc::clone(&level.fd);
                    if let Some(listed) = self.entry(path, on_disk, Some((&fd, &name)), &stat)? {
                        return Ok(Some(listed));
                    }
                }
            }
        }
    }

    fn entry(
        &mut self,
        path: Vec<u8>,
        on_disk: PathBuf,
        at: Option<(&OwnedFd, &[u8])>,
        stat: &Stat,
    ) -> Result<Option<Listed>, StoreError> {
        let mode = stat.st_mode & 0o7777;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mut attributes = self.attributes(&on_disk, stat, kind)?;
        let bare = |entry_type| FileEntry {
            attributes: Some(Box::new(attributes.clone())),
            ..FileEntry::bare(path.clone(), entry_type, mode)
        };
        self.counts.add(&path, mode, kind, stat);
        match kind {
            FileType::Directory => Ok(Some(Listed::Entry(bare(EntryType::Directory)))),
            FileType::Symlink => {
                let target = match at {
                    Some((fd, name)) => readlinkat(fd, OsStr::from_bytes(name), Vec::new()),
                    None => readlinkat(CWD, &on_disk, Vec::new()),
                };
                match target {
                    Ok(target) => Ok(Some(Listed::Entry(FileEntry {
                        target: Some(target.into_bytes().into()),
                        ..bare(EntryType::Link)
                    }))),
                    Err(Errno::NOENT | Errno::INVAL) => Ok(None),
                    Err(errno) => Err(io_error("read the link", &on_disk, errno)),
                }
            }
            FileType::RegularFile => {
                if stat.st_nlink > 1 {
                    let first = self
                        .links
                        .entry((stat.st_dev, stat.st_ino))
                        .or_insert_with(|| path.clone());
                    attributes.same_as = (*first != path).then(|| first.clone().into());
                }
                let before = self.before.as_mut();
                let known = match before {
                    Some(before) => before.same(&path, stat.st_size.cast_unsigned(), &mut attributes)?,
                    None => None,
                };
                let job = FileJob {
                    path,
                    on_disk,
                    mode,
                    size: stat.st_size.cast_unsigned(),
                    class: EntryClass::Content,
                    first_block: 0,
                    is_judged: false,
                    may_vanish: true,
                    attributes: Some(Box::new(attributes)),
                };
                Ok(Some(match known {
                    Some(stored) => {
                        self.counts.unchanged += 1;
                        Listed::Same(job, stored)
                    }
                    None => Listed::File(job),
                }))
            }
            _ => {
                attributes.device = Some((stat.st_mode & 0o170_000, stat.st_rdev));
                let entry = FileEntry {
                    attributes: Some(Box::new(attributes)),
                    ..FileEntry::bare(path, EntryType::Other, mode)
                };
                Ok(Some(Listed::Entry(entry)))
            }
        }
    }

    fn attributes(&mut self, on_disk: &Path, stat: &Stat, kind: FileType) -> Result<Attributes, StoreError> {
        let nanoseconds = |seconds: i64, rest: u64| {
            let rest = i64::try_from(rest).unwrap_or(0);
            seconds.saturating_mul(1_000_000_000).saturating_add(rest)
        };
        Ok(Attributes {
            uid: stat.st_uid,
            gid: stat.st_gid,
            user: self.owners.user(stat.st_uid),
            group: self.owners.group(stat.st_gid),
            modified_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            extended: xattr::read(on_disk).map_err(|errno| io_error("read the attributes of", on_disk, errno))?,
            same_as: None,
            device: None,
            stamp: (kind == FileType::RegularFile).then(|| Stamp {
                device: stat.st_dev,
                inode: stat.st_ino,
                changed_ns: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
                read_ns: self.now_ns,
            }),
        })
    }
}

impl Iterator for Walk {
    type Item = Result<Listed, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

fn io_error(action: &'static str, path: &Path, errno: Errno) -> StoreError {
    StoreError::Io {
        action,
        path: path.to_string_lossy().escape_debug().to_string(),
        source: errno.into(),
    }
}
