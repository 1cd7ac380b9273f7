//! Writing below directories that we opened, without ever following a link.
//!
//! Every name on the way is opened with `O_NOFOLLOW`, every file is created new: nothing that someone planted is written through.
//! A crash leaves what was written so far and the marker of an interrupted restore.

mod remove;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{RestoreError, Result};
use crate::owner::Owner;
use crate::paths::Place;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const NEW_FILE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The directories of a restore.
#[derive(Debug)]
pub(crate) struct Tree {
    data: OwnedFd,
    tablespaces: HashMap<u32, OwnedFd>,
    owner: Option<Owner>,
}

fn failed(action: &'static str, place: &Place) -> impl FnOnce(Errno) -> RestoreError {
    let path = place.show();
    move |errno| RestoreError::Io {
        action,
        path,
        source: errno.into(),
    }
}

impl Tree {
    /// Opens the directories, which exist.
    pub(crate) fn open(data: &Path, tablespaces: &[(u32, &Path)], owner: Option<Owner>) -> Result<Tree> {
        let open = |path: &Path| {
            rustix::fs::open(path, DIRECTORY, Mode::empty())
                .map_err(|errno| RestoreError::io("open directory", path)(errno.into()))
        };
        let tablespaces = tablespaces
            .iter()
            .map(|(oid, path)| Ok((*oid, open(path)?)))
            .collect::<Result<_>>()?;
        Ok(Tree {
            data: open(data)?,
            tablespaces,
            owner,
        })
    }

    /// Keeps every other restore out of the data directory while this value lives.
    pub(crate) fn lock(&self) -> Result<()> {
        match rustix::fs::flock(&self.data, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(()),
            Err(Errno::WOULDBLOCK) => Err(RestoreError::refused(
                "another restore is at work in the data directory",
                "Wait for its end, or end it; then run this one again: it goes on from there.",
            )),
            Err(errno) => Err(RestoreError::io("lock", Path::new("the data directory"))(errno.into())),
        }
    }

    /// Gives a directory another name, where it is one.
    pub(crate) fn move_directory(&self, from: &Place, to: &Place) -> Result<()> {
        let ((from_parent, from_name), (to_parent, to_name)) = (self.parent(from)?, self.parent(to)?);
        match rustix::fs::openat(&from_parent, from_name, DIRECTORY, Mode::empty()) {
            Ok(_) => {}
            // Missing, or a link.
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => return Ok(()),
            Err(errno) => return Err(failed("open directory", from)(errno)),
        }
        rustix::fs::renameat(&from_parent, from_name, &to_parent, to_name).map_err(failed("rename", from))?;
        rustix::fs::fsync(&to_parent).map_err(failed("fsync the directory of", to))
    }

    /// The tablespaces that lie outside of the data directory.
    pub(crate) fn tablespaces(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.tablespaces.keys().copied().collect();
        all.sort_unstable();
        all
    }

    fn root(&self, place: &Place) -> Result<BorrowedFd<'_>> {
        match place.tablespace {
            None => Ok(self.data.as_fd()),
            Some(oid) => self.tablespaces.get(&oid).map(AsFd::as_fd).ok_or_else(|| {
                RestoreError::damaged("the file table", format!("tablespace {oid} is not in the manifest"))
            }),
        }
    }

    /// The directory that holds a place, and its last name.
    fn parent<'p>(&self, place: &'p Place) -> Result<(OwnedFd, &'p OsStr)> {
        let (last, above) = place
            .names
            .split_last()
            .ok_or_else(|| RestoreError::damaged("the file table", "a file has the path of a directory"))?;
        let mut at = self
            .root(place)?
            .try_clone_to_owned()
            .map_err(|error| RestoreError::io("open", Path::new(&place.show()))(error))?;
        for name in above {
            at = rustix::fs::openat(&at, &**name, DIRECTORY, Mode::empty())
                .map_err(failed("open the directory of", place))?;
        }
        Ok((at, last))
    }

    fn own(&self, file: impl AsFd, place: &Place) -> Result<()> {
        let Some(owner) = &self.owner else { return Ok(()) };
        rustix::fs::fchown(file, Some(owner.uid), Some(owner.gid)).map_err(failed("change the owner of", place))
    }

    /// Makes a directory. One that is there already keeps its content and gets the mode.
    pub(crate) fn make_directory(&self, place: &Place, mode: u32) -> Result<()> {
        let directory = if place.names.is_empty() {
            self.root(place)?
                .try_clone_to_owned()
                .map_err(|error| RestoreError::io("open", Path::new(&place.show()))(error))?
        } else {
            let (parent, name) = self.parent(place)?;
            match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed("create directory", place)(errno)),
            }
            rustix::fs::openat(&parent, name, DIRECTORY, Mode::empty()).map_err(failed("open directory", place))?
        };
        self.own(&directory, place)?;
        rustix::fs::fchmod(&directory, permissions(mode | 0o700)).map_err(failed("change the mode of", place))
    }

    /// Makes the directories above a place that are missing.
    pub(crate) fn make_ancestors(&self, place: &Place, mode: u32) -> Result<()> {
        for depth in 1..place.names.len() {
            let ancestor = Place {
                tablespace: place.tablespace,
                names: place.names.iter().take(depth).cloned().collect(),
            };
            self.make_directory(&ancestor, mode)?;
        }
        Ok(())
    }

    /// Makes a link in the data directory.
    pub(crate) fn make_link(&self, place: &Place, target: &Path) -> Result<()> {
        let (parent, name) = self.parent(place)?;
        rustix::fs::symlinkat(target, &parent, name).map_err(failed("create link", place))?;
        let Some(owner) = &self.owner else { return Ok(()) };
        rustix::fs::chownat(
            &parent,
            name,
            Some(owner.uid),
            Some(owner.gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(failed("change the owner of", place))
    }

    /// Creates a file of this length, all zeros and nothing of it allocated.
    pub(crate) fn create_file(&self, place: &Place, size: u64, mode: u32) -> Result<File> {
        let (parent, name) = self.parent(place)?;
        let file =
            rustix::fs::openat(&parent, name, NEW_FILE, Mode::RUSR | Mode::WUSR).map_err(failed("create", place))?;
        self.own(&file, place)?;
        rustix::fs::fchmod(&file, permissions(mode)).map_err(failed("change the mode of", place))?;
        let file = File::from(file);
        file.set_len(size)
            .map_err(|error| RestoreError::io("set the length of", Path::new(&place.show()))(error))?;
        Ok(file)
    }

    /// Opens a file that [`Tree::create_file`] made, to write into it.
    pub(crate) fn open_file(&self, place: &Place) -> Result<File> {
        let (parent, name) = self.parent(place)?;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&parent, name, flags, Mode::empty())
            .map(File::from)
            .map_err(failed("open", place))
    }

    /// The content of a file, `None` when there is none; links are not followed.
    pub(crate) fn read_file(&self, place: &Place) -> Result<Option<Vec<u8>>> {
        let (parent, name) = match self.parent(place) {
            Err(RestoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = match rustix::fs::openat(&parent, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(failed("open", place)(errno)),
        };
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes)
            .map_err(|error| RestoreError::io("read", Path::new(&place.show()))(error))?;
        Ok(Some(bytes))
    }

    /// Writes or replaces a small file, durably: a temporary, fsync, rename, fsync of the directory.
    pub(crate) fn write_file(&self, place: &Place, bytes: &[u8], mode: u32) -> Result<()> {
        let (parent, name) = self.parent(place)?;
        let mut temporary = place.clone();
        let mut temporary_name = name.to_owned();
        temporary_name.push(".seawall");
        if let Some(last) = temporary.names.last_mut() {
            *last = temporary_name.into();
        }
        let temporary_name = temporary
            .names
            .last()
            .map(|name| name.to_os_string())
            .unwrap_or_default();
        match rustix::fs::unlinkat(&parent, &temporary_name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed("remove", &temporary)(errno)),
        }
        let mut file = self.create_file(&temporary, 0, mode)?;
        let io = |error| RestoreError::io("write", Path::new(&place.show()))(error);
        file.write_all(bytes).map_err(io)?;
        file.sync_all().map_err(io)?;
        rustix::fs::renameat(&parent, &temporary_name, &parent, name).map_err(failed("rename to", place))?;
        rustix::fs::fsync(&parent).map_err(failed("fsync the directory of", place))
    }

    /// Removes a file, durably; a missing one is fine.
    pub(crate) fn remove_file(&self, place: &Place) -> Result<()> {
        let (parent, name) = self.parent(place)?;
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed("remove", place)(errno)),
        }
        rustix::fs::fsync(&parent).map_err(failed("fsync the directory of", place))
    }

    /// Makes everything written so far durable, on every file system of the restore.
    pub(crate) fn sync(&self) -> Result<()> {
        for (path, root) in std::iter::once(("the data directory".to_owned(), &self.data)).chain(
            self.tablespaces
                .iter()
                .map(|(oid, root)| (format!("tablespace {oid}"), root)),
        ) {
            rustix::fs::syncfs(root).map_err(|errno| RestoreError::Io {
                action: "sync",
                path,
                source: errno.into(),
            })?;
        }
        Ok(())
    }
}

fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o777)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::place;

    #[test]
    fn nothing_is_written_through_a_planted_link() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path(), &[], None).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("base")).unwrap();
        assert!(tree.create_file(&place(b"base/1", &[]).unwrap(), 0, 0o600).is_err());
        assert!(tree.make_directory(&place(b"base", &[]).unwrap(), 0o700).is_err());
        std::os::unix::fs::symlink(outside.path().join("x"), dir.path().join("PG_VERSION")).unwrap();
        assert!(tree.create_file(&place(b"PG_VERSION", &[]).unwrap(), 0, 0o600).is_err());
        assert!(tree.open_file(&place(b"PG_VERSION", &[]).unwrap()).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn files_have_their_length_and_mode_and_are_replaced_whole() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path(), &[], None).unwrap();
        let file = place(b"base/5/1", &[]).unwrap();
        tree.make_ancestors(&file, 0o750).unwrap();
        tree.create_file(&file, 8192, 0o640).unwrap();
        let metadata = dir.path().join("base/5/1").metadata().unwrap();
        assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (8192, 0o640));
        let conf = place(b"conf", &[]).unwrap();
        assert_eq!(tree.read_file(&conf).unwrap(), None);
        tree.write_file(&conf, b"a", 0o600).unwrap();
        tree.write_file(&conf, b"b", 0o600).unwrap();
        assert_eq!(tree.read_file(&conf).unwrap().unwrap(), b"b");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        tree.sync().unwrap();
    }
}
