//! Writing below a directory that we opened, without ever following a link, whatever a manifest says and whoever else writes there.

use std::ffi::OsStr;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;

use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
    openat2,
};
use rustix::io::Errno;
use store::StoreError;
use store::file_table::{Attributes, EntryType, FileEntry};

use crate::ComponentError;

/// How the name begins under which is written what takes the place of another file.
pub(crate) const ASIDE: &str = ".seawall-new-";
/// Zeros in pieces of this length are left out of a file.
const HOLE_BYTES: usize = 4096;
/// A directory of ours can be written to while it is filled.
const OURS: u32 = 0o700;

/// The directory of a restore.
#[derive(Debug)]
pub(crate) struct Target {
    root: OwnedFd,
    path: PathBuf,
    /// Owners are given back: we may.
    gives_owners: bool,
}

impl Target {
    /// Opens a directory that exists.
    pub(crate) fn open(path: &Path, gives_owners: bool) -> Result<Self, ComponentError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| ComponentError::io("open directory", path)(errno.into()))?;
        Ok(Target {
            root,
            path: path.to_owned(),
            gives_owners,
        })
    }

    fn failed(&self, action: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> ComponentError {
        let path = self.path.join(OsStr::from_bytes(path));
        move |errno| ComponentError::io(action, &path)(errno.into())
    }

    fn open_at(&self, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            match openat2(&self.root, OsStr::from_bytes(path), flags, mode, resolve) {
                // Something was renamed on the way (openat2(2)).
                Err(Errno::AGAIN | Errno::INTR) => {}
                done => return done,
            }
        }
    }

    /// The directory that holds a path, and the last name.
    fn parent<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p OsStr), ComponentError> {
        let slash = path.iter().rposition(|byte| *byte == b'/');
        let (above, name) = match slash {
            Some(at) => (
                path.get(..at).unwrap_or_default(),
                path.get(at + 1..).unwrap_or_default(),
            ),
            None => (b".".as_slice(), path),
        };
        let directory = OFlags::RDONLY | OFlags::DIRECTORY;
        let above_fd = self.open_at(above, directory, Mode::empty());
        let above_fd = above_fd.map_err(self.failed("open the directory of", path))?;
        Ok((above_fd, OsStr::from_bytes(name)))
    }

    /// What is there, if anything.
    pub(crate) fn stat(&self, path: &[u8]) -> Result<Option<Stat>, ComponentError> {
        match self.open_at(path, OFlags::PATH, Mode::empty()) {
            Ok(there) => Ok(Some(rustix::fs::fstat(&there).map_err(self.failed("look at", path))?)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed("look at", path)(errno)),
        }
    }

    /// Makes the directories above a path that no entry has made.
    pub(crate) fn make_above(&self, path: &[u8]) -> Result<(), ComponentError> {
        for (at, byte) in path.iter().enumerate() {
            if *byte == b'/' {
                self.make_directory(path.get(..at).unwrap_or_default())?;
            }
        }
        Ok(())
    }

    /// Makes a directory that is not there.
    pub(crate) fn make_directory(&self, path: &[u8]) -> Result<(), ComponentError> {
        let (parent, name) = self.parent(path)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(OURS)) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let directory = OFlags::RDONLY | OFlags::DIRECTORY;
                let there = self.open_at(path, directory, Mode::empty());
                there.map(drop).map_err(self.failed("use as a directory", path))
            }
            Err(errno) => Err(self.failed("create directory", path)(errno)),
        }
    }

    /// Creates a file of that length, all of it a hole.
    pub(crate) fn create(&self, path: &[u8], size: u64) -> Result<File, ComponentError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = self.open_at(path, flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(file.map_err(self.failed("create", path))?);
        file.set_len(size)
            .map_err(ComponentError::io("set the length of", &self.show(path)))?;
        Ok(file)
    }

    /// Opens a file to read it.
    pub(crate) fn read(&self, path: &[u8]) -> Result<File, ComponentError> {
        let file = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty());
        file.map(File::from).map_err(self.failed("open", path))
    }

    /// Opens a file that [`Self::create`] made.
    pub(crate) fn write(&self, path: &[u8]) -> Result<File, ComponentError> {
        let file = self.open_at(path, OFlags::WRONLY, Mode::empty());
        file.map(File::from).map_err(self.failed("open", path))
    }

    /// Makes a link, pipe, socket or device.
    pub(crate) fn make_other(&self, path: &[u8], entry: &FileEntry) -> Result<(), ComponentError> {
        let (parent, name) = self.parent(path)?;
        if let (EntryType::Link, Some(target)) = (entry.entry_type, &entry.target) {
            let made = rustix::fs::symlinkat(OsStr::from_bytes(target), &parent, name);
            return made.map_err(self.failed("create link", path));
        }
        let device = entry.attributes.as_ref().and_then(|attributes| attributes.device);
        let Some((kind, number)) = device else {
            return Err(
                StoreError::damaged("the file table", format!("\"{}\" is of no kind", path.escape_ascii())).into(),
            );
        };
        let kind = FileType::from_raw_mode(kind);
        let made = rustix::fs::mknodat(&parent, name, kind, Mode::from_raw_mode(0o600), number);
        made.map_err(self.failed("create", path))
    }

    /// Gives a file another name.
    pub(crate) fn link(&self, from: &[u8], to: &[u8]) -> Result<(), ComponentError> {
        let ((from_parent, from_name), (to_parent, to_name)) = (self.parent(from)?, self.parent(to)?);
        let linked = rustix::fs::linkat(&from_parent, from_name, &to_parent, to_name, AtFlags::empty());
        linked.map_err(self.failed("link", to))
    }

    /// Puts what was written aside in its place.
    pub(crate) fn place(&self, path: &[u8]) -> Result<(), ComponentError> {
        let aside = aside(path);
        let ((parent, name), (_, from)) = (self.parent(path)?, self.parent(&aside)?);
        rustix::fs::renameat(&parent, from, &parent, name).map_err(self.failed("replace", path))
    }

    /// Removes what is no directory; it may be gone already.
    pub(crate) fn remove(&self, path: &[u8]) -> Result<(), ComponentError> {
        let (parent, name) = self.parent(path)?;
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed("remove", path)(errno)),
        }
    }

    /// Owner, extended attributes, mode and time, in this order: a change of owner takes bits of the mode away, and a mode may forbid attributes. All of it on what was opened:
    /// whoever puts something else in its place meanwhile changes nothing of that.
    pub(crate) fn dress(
        &self,
        path: &[u8],
        entry: &FileEntry,
        owner: Option<(u32, u32)>,
    ) -> Result<(), ComponentError> {
        let there = self
            .open_at(path, OFlags::PATH, Mode::empty())
            .map_err(self.failed("open", path))?;
        let found = FileType::from_raw_mode(rustix::fs::fstat(&there).map_err(self.failed("look at", path))?.st_mode);
        let is_it = match entry.entry_type {
            EntryType::File => found == FileType::RegularFile,
            EntryType::Directory => found == FileType::Directory,
            EntryType::Link => found == FileType::Symlink,
            EntryType::Other => !matches!(found, FileType::RegularFile | FileType::Directory | FileType::Symlink),
        };
        if !is_it {
            return Err(self.failed("use what is in the place of", path)(Errno::EXIST));
        }
        // An `O_PATH` descriptor has no other way to what it means (open(2)).
        let itself = PathBuf::from(format!("/proc/self/fd/{}", there.as_raw_fd()));
        if let Some((uid, gid)) = owner.filter(|_| self.gives_owners) {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            let given = rustix::fs::chownat(&there, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH);
            given.map_err(self.failed("change the owner of", path))?;
        }
        let attributes = entry.attributes.as_deref();
        if let Some(attributes) = attributes
            && matches!(entry.entry_type, EntryType::File | EntryType::Directory)
        {
            self.extended(path, &itself, attributes)?;
        }
        if entry.entry_type != EntryType::Link {
            let mode = Mode::from_raw_mode(entry.mode & 0o7777);
            let changed = rustix::fs::chmodat(CWD, &itself, mode, AtFlags::empty());
            changed.map_err(self.failed("change the mode of", path))?;
        }
        let Some(attributes) = attributes else {
            return Ok(());
        };
        let (seconds, rest) = (
            attributes.modified_ns.div_euclid(1_000_000_000),
            attributes.modified_ns.rem_euclid(1_000_000_000),
        );
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: seconds,
                tv_nsec: rest,
            },
        };
        let set = match entry.entry_type {
            EntryType::Link => {
                let (parent, name) = self.parent(path)?;
                rustix::fs::utimensat(&parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            }
            _ => rustix::fs::utimensat(CWD, &itself, &times, AtFlags::empty()),
        };
        set.map_err(self.failed("set the time of", path))
    }

    fn extended(&self, path: &[u8], itself: &Path, attributes: &Attributes) -> Result<(), ComponentError> {
        for (name, value) in &attributes.extended {
            match rustix::fs::setxattr(itself, OsStr::from_bytes(name), value, XattrFlags::empty()) {
                Ok(()) => {}
                // Those of `trusted.` are root's, and not every file system has all.
                Err(Errno::PERM | Errno::NOTSUP) if !self.gives_owners => {}
                Err(errno) => return Err(self.failed("set an attribute of", path)(errno)),
            }
        }
        Ok(())
    }

    /// Makes everything durable.
    pub(crate) fn sync(&self) -> Result<(), ComponentError> {
        rustix::fs::syncfs(self.root.as_fd()).map_err(self.failed("sync", b""))
    }

    pub(crate) fn show(&self, path: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(path))
    }
}

/// Where a file is written that is to replace another: beside it, under a name that is short however long its own is, and the same every time.
pub(crate) fn aside(path: &[u8]) -> Vec<u8> {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    let above = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let name = format!("{ASIDE}{:016x}", hasher.finish());
    [path.get(..above).unwrap_or_default(), name.as_bytes()].concat()
}

/// Writes, but leaves zeros out: the file is all holes.
pub(crate) fn write_sparse(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        // Up to where the file's own blocks begin.
        let to_block = HOLE_BYTES - usize::try_from(at % HOLE_BYTES as u64).unwrap_or(0);
        let zeros = |piece: &[u8]| piece.iter().all(|byte| *byte == 0);
        let mut length = 0;
        let mut next = to_block.min(bytes.len());
        let is_hole = zeros(bytes.get(..next).unwrap_or_default());
        // As many blocks as are of one kind.
        while length < bytes.len() && zeros(bytes.get(length..next).unwrap_or_default()) == is_hole {
            length = next;
            next = (length + HOLE_BYTES).min(bytes.len());
        }
        let (now, rest) = bytes.split_at(length);
        if !is_hole {
            file.write_all_at(now, at)?;
        }
        at += now.len() as u64;
        bytes = rest;
    }
    Ok(())
}

/// Why a path out of a manifest is refused.
pub(crate) fn refuse_path(path: &[u8]) -> Result<(), ComponentError> {
    let is_bad = |name: &[u8]| matches!(name, b"" | b"." | b"..") || name.len() > 255;
    if path.len() <= 4096 && !path.contains(&0) && !path.split(|byte| *byte == b'/').any(is_bad) {
        return Ok(());
    }
    let reason = format!("\"{}\" is no path below a directory", path.escape_ascii());
    Err(StoreError::damaged("the file table", reason).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn zeros_become_holes_and_everything_else_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let target = Target::open(directory.path(), false).unwrap();
        let mut content = vec![0; 3 << 20];
        content[100] = 7;
        content[(1 << 20) + 5000] = 8;
        content[(2 << 20) - 1] = 9;
        let file = target.create(b"f", content.len() as u64).unwrap();
        for (at, part) in content.chunks(300_007).enumerate() {
            write_sparse(&file, part, at as u64 * 300_007).unwrap();
        }
        drop(file);
        let path = directory.path().join("f");
        assert!(std::fs::read(&path).unwrap() == content);
        assert!(path.metadata().unwrap().blocks() * 512 < 128 << 10);
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let (directory, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), directory.path().join("out")).unwrap();
        let target = Target::open(directory.path(), false).unwrap();
        assert!(target.create(b"out/f", 1).is_err());
        assert!(target.make_directory(b"out").is_err());
        assert!(target.create(b"out", 1).is_err());
        assert!(target.create(b"../f", 1).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        for path in ["", "/etc", "a//b", "a/../b", "..", "a/."] {
            assert!(refuse_path(path.as_bytes()).is_err(), "{path}");
        }
        assert!(refuse_path(b"a/b..c/.d").is_ok());
    }
}
