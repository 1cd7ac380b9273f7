//! Looking into directories and removing what is in them, without ever following a link.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{DIRECTORY, Tree, failed};
use crate::error::Result;
use crate::paths::Place;

/// Deeper than this nothing of a server lies.
const DEPTH_MAX: usize = 64;

impl Tree {
    /// What a directory holds: names and kinds; nothing when it is not there.
    pub(crate) fn list(&self, place: &Place) -> Result<Vec<(OsString, FileType)>> {
        let directory = if place.names.is_empty() {
            rustix::fs::openat(self.root(place)?, ".", DIRECTORY, Mode::empty())
        } else {
            let (parent, name) = self.parent(place)?;
            rustix::fs::openat(&parent, name, DIRECTORY, Mode::empty())
        };
        match directory {
            Ok(directory) => entries(directory).map_err(failed("read directory", place)),
            Err(Errno::NOENT) => Ok(Vec::new()),
            Err(errno) => Err(failed("open directory", place)(errno)),
        }
    }

    /// Opens a plain file to read and write it; `None` where there is none, or where it has another name too: what is written into it
    /// would change somebody's copy (`pg_upgrade --link`, `cp -al`).
    pub(crate) fn open_existing(&self, place: &Place) -> Result<Option<File>> {
        let (parent, name) = match self.parent(place) {
            Ok(found) => found,
            Err(crate::error::RestoreError::Io { source, .. }) if is_no_directory(&source) => return Ok(None),
            Err(error) => return Err(error),
        };
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&parent, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::ACCESS) => return Ok(None),
            Err(errno) => return Err(failed("open", place)(errno)),
        };
        let is_ours_alone = |metadata: std::fs::Metadata| metadata.is_file() && metadata.nlink() == 1;
        let is_kept = file.metadata().is_ok_and(is_ours_alone);
        Ok(is_kept.then_some(file))
    }

    /// Gives a file that is kept its owner, mode and length.
    pub(crate) fn keep_file(&self, place: &Place, size: u64, mode: u32) -> Result<()> {
        let file = self.open_file(place)?;
        self.own(&file, place)?;
        rustix::fs::fchmod(&file, super::permissions(mode)).map_err(failed("change the mode of", place))?;
        rustix::fs::ftruncate(&file, size).map_err(failed("set the length of", place))
    }

    /// Removes a file, a link, or a directory with everything in it.
    pub(crate) fn remove_any(&self, place: &Place) -> Result<()> {
        let (parent, name) = self.parent(place)?;
        remove_at(&parent, name, 0).map_err(failed("remove", place))
    }
}

fn is_no_directory(error: &std::io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

fn entries(directory: impl AsFd) -> rustix::io::Result<Vec<(OsString, FileType)>> {
    let mut out = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let kind = match entry.file_type() {
            // Some file systems do not say.
            FileType::Unknown => {
                let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        out.push((name.to_owned(), kind));
    }
    Ok(out)
}

fn remove_at(parent: impl AsFd, name: &OsStr, depth: usize) -> rustix::io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(Errno::LOOP);
    }
    match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says ISDIR, POSIX says PERM.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let directory = rustix::fs::openat(&parent, name, DIRECTORY, Mode::empty())?;
    for (inner, _) in entries(&directory)? {
        remove_at(&directory, &inner, depth + 1)?;
    }
    rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::place;

    #[test]
    fn a_directory_goes_with_everything_in_it_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("kept"), "x").unwrap();
        std::fs::create_dir_all(dir.path().join("base/5/6")).unwrap();
        std::fs::write(dir.path().join("base/5/6/file"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("base/5/link")).unwrap();
        let tree = Tree::open(dir.path(), &[], None).unwrap();
        let base = place(b"base", &[]).unwrap();
        assert_eq!(tree.list(&base).unwrap(), [("5".into(), FileType::Directory)]);
        tree.remove_any(&base).unwrap();
        tree.remove_any(&base).unwrap();
        assert!(!dir.path().join("base").exists());
        assert!(tree.list(&base).unwrap().is_empty());
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn only_a_plain_file_is_opened_to_be_kept() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path(), &[], None).unwrap();
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        std::fs::write(dir.path().join("file"), "12345").unwrap();
        std::os::unix::fs::symlink(dir.path().join("file"), dir.path().join("link")).unwrap();
        let is_some = |path: &[u8]| tree.open_existing(&place(path, &[]).unwrap()).unwrap().is_some();
        assert!(is_some(b"file"));
        std::fs::write(dir.path().join("shared"), "12345").unwrap();
        std::fs::hard_link(dir.path().join("shared"), dir.path().join("snapshot")).unwrap();
        assert!(!is_some(b"shared"));
        for path in [
            &b"directory"[..],
            b"link",
            b"nothing",
            b"file/below",
            b"link/below",
            b"no/where",
        ] {
            assert!(!is_some(path), "{}", path.escape_ascii());
        }
        tree.keep_file(&place(b"file", &[]).unwrap(), 3, 0o640).unwrap();
        assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"123");
    }
}
