//! Directories as a pipeline wants them: every entry in the order of path bytes, any number of them in the memory of one directory a level.
//!
//! `a`, `a-b`, `a/b`: a directory's content comes where its name with a slash behind it would, not right behind it.
//!
//! Nothing is reached through a link. Directories that go away while we walk are as if they had gone before.

use std::collections::{BTreeMap, HashMap};
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
use crate::Standing;

/// Where a walk begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Path in the backup, without a slash before it; empty for the root of the backup itself.
    pub name: Vec<u8>,
    /// Where it lies: without a link in it.
    pub on_disk: PathBuf,
}

/// Roots, and the directories above them: these are captured too, and nothing else that is in them.
#[derive(Debug, Default)]
struct Above {
    children: BTreeMap<Vec<u8>, Above>,
    root: Option<PathBuf>,
}

impl Above {
    fn of(roots: Vec<Root>) -> Self {
        let mut top = Above::default();
        for root in roots {
            let names = root.name.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
            let place = names.fold(&mut top, |at, name| at.children.entry(name.to_vec()).or_default());
            place.root = Some(root.on_disk);
        }
        top
    }
}

/// What is to come of a directory: an entry of it, or what lies below that entry.
#[derive(Debug)]
enum Item {
    Entry(Box<[u8]>, Stat),
    Below(Box<[u8]>),
    /// Above a root, or a root.
    Named(Box<[u8]>, PathBuf, Stat),
    BelowNamed(Box<[u8]>, PathBuf, Above),
}

impl Item {
    /// What it is sorted by: below `a` comes where `a/` would.
    fn key(&self) -> &[u8] {
        match self {
            Item::Entry(name, _) | Item::Below(name) | Item::Named(name, _, _) | Item::BelowNamed(name, _, _) => name,
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
    /// None above the roots.
    fd: Option<Arc<OwnedFd>>,
    /// Its file system; none above the roots.
    device: Option<u64>,
    /// The next one last.
    items: Vec<Item>,
}

/// A walk over some roots.
#[derive(Debug)]
pub struct Walk {
    above: Option<Above>,
    levels: Vec<Level>,
    excludes: Excludes,
    one_file_system: bool,
    owners: Owners,
    before: Option<Before>,
    /// First names of files that have several.
    links: HashMap<(u64, u64), Vec<u8>>,
    now_ns: i64,
    counts: Counts,
    standing: Vec<Standing>,
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
    /// Over these roots, none below another. What is the same as `before` is not read again.
    #[must_use]
    pub fn new(roots: Vec<Root>, options: WalkOptions, before: Option<Before>) -> Self {
        Walk {
            above: Some(Above::of(roots)),
            levels: Vec::new(),
            excludes: options.excludes,
            one_file_system: options.one_file_system,
            owners: Owners::of_system(),
            before,
            links: HashMap::new(),
            now_ns: options.now_ns,
            counts: Counts::default(),
            standing: Vec::new(),
        }
    }

    /// The roots that were listed.
    #[must_use]
    pub fn standing(&self) -> &[Standing] {
        &self.standing
    }

    /// What was listed.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Roots and what is above them, below one path.
    fn open_named(&mut self, prefix: Vec<u8>, on_disk: PathBuf, above: Above) -> Result<(), StoreError> {
        if let Some(root) = above.root {
            return self.open_level(prefix, PathBuf::new(), root, None);
        }
        let mut items = Vec::new();
        for (name, child) in above.children {
            let own = on_disk.join(OsStr::from_bytes(&name));
            let (place, flags) = match &child.root {
                Some(root) => (root.clone(), AtFlags::SYMLINK_NOFOLLOW),
                // On the way to a root there may be links: the root is what they lead to.
                None => (own.clone(), AtFlags::empty()),
            };
            let stat = statat(CWD, &place, flags).map_err(|errno| io_error("look at", &place, errno))?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                items.push(Item::BelowNamed([name.as_slice(), b"/"].concat().into(), own, child));
            }
            items.push(Item::Named(name.into(), place, stat));
        }
        items.sort_unstable_by(|a, b| b.key().cmp(a.key()));
        self.levels.push(Level {
            prefix,
            below_root: PathBuf::new(),
            on_disk,
            fd: None,
            device: None,
            items,
        });
        Ok(())
    }

    /// `above`: the device of the directory that this one is in; none for a root.
    fn open_level(
        &mut self,
        prefix: Vec<u8>,
        below_root: PathBuf,
        on_disk: PathBuf,
        above: Option<u64>,
    ) -> Result<(), StoreError> {
        let failed = |source: Errno| io_error("list", &on_disk, source);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match openat2(CWD, &on_disk, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            Ok(fd) => Arc::new(fd),
            // A root must be there.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !below_root.as_os_str().is_empty() => return Ok(()),
            Err(errno) => return Err(failed(errno)),
        };
        let itself = rustix::fs::fstat(&fd).map_err(failed)?;
        let device = itself.st_dev;
        // A root, or a file system that is mounted below one.
        if above != Some(device) {
            self.standing.push(Standing {
                on_disk: on_disk.clone(),
                device,
                inode: itself.st_ino,
            });
        }
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
        items.sort_unstable_by(|a, b| b.key().cmp(a.key()));
        self.levels.push(Level {
            prefix,
            below_root,
            on_disk,
            fd: Some(fd),
            device: Some(device),
            items,
        });
        Ok(())
    }

    fn step(&mut self) -> Result<Option<Listed>, StoreError> {
        loop {
            let Some(level) = self.levels.last_mut() else {
                match self.above.take() {
                    Some(above) => self.open_named(Vec::new(), PathBuf::from("/"), above)?,
                    None => return Ok(None),
                }
                continue;
            };
            match level.items.pop() {
                None => drop(self.levels.pop()),
                Some(Item::Below(name)) => {
                    let plain = OsStr::from_bytes(name.strip_suffix(b"/").unwrap_or(&name));
                    let (below_root, on_disk) = (level.below_root.join(plain), level.on_disk.join(plain));
                    let prefix = [level.prefix.as_slice(), &name].concat();
                    let above = level.device;
                    self.open_level(prefix, below_root, on_disk, above)?;
                }
                Some(Item::BelowNamed(name, on_disk, above)) => {
                    let prefix = [level.prefix.as_slice(), &name].concat();
                    self.open_named(prefix, on_disk, above)?;
                }
                Some(Item::Named(name, on_disk, stat)) => {
                    let path = [level.prefix.as_slice(), &name].concat();
                    if let Some(listed) = self.entry(path, on_disk, None, &stat)? {
                        return Ok(Some(listed));
                    }
                }
                Some(Item::Entry(name, stat)) => {
                    let path = [level.prefix.as_slice(), &name].concat();
                    let on_disk = level.on_disk.join(OsStr::from_bytes(&name));
                    let fd = level.fd.clone();
                    let at = fd.as_deref().map(|fd| (fd, &*name));
                    if let Some(listed) = self.entry(path, on_disk, at, &stat)? {
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
        self.counts.add(mode, kind, stat);
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
