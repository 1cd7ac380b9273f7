//! Files that are there after a crash: create-new and replace, for single files outside the object store.
//!
//! # Why this is correct
//! 1. The bytes go to a temporary in the directory of the target, so the target name never shows a part of them.
//! 2. The temporary is fsynced before it gets its name. A name that survives a crash therefore has all its bytes. An fsync
//!    error is returned and the temporary thrown away: after a failed fsync the kernel may call lost pages clean, so it is
//!    never tried again on the same file.
//! 3. The name is given by `link` (create-new: fails if it exists, atomic among processes) or `rename` (replace: readers see
//!    the old file or the new one).
//! 4. The directory is fsynced after that, because the name is the directory's content. Only then `Ok` is returned.
//!
//! A crash before 3 leaves the old state and perhaps a temporary (`.<name>.<random>.tmp`), after 3 the new state or the old.
//! An error from 4 means that the new name is visible but perhaps not durable: for `atomic_write` repeat the call; for
//! `create_new` the repeated call answers `AlreadyExists`, after it has fsynced the directory.
//!
//! Ancestors that the caller has just created are the caller's: [`fsync_dir`] each one's parent.

use std::fs::{File, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::NamedTempFile;

/// Mode of files written here unless another is given: for the owner only.
pub const OWNER_ONLY: u32 = 0o600;

/// Creates `path` with `bytes`, mode 0600, durable when `Ok`.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] if there is something of this name (it is not touched), or any I/O error.
pub fn create_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create_new_with_mode(path, bytes, OWNER_ONLY)
}

/// As [`create_new`] with file permission bits `mode`.
///
/// # Errors
/// As [`create_new`].
pub fn create_new_with_mode(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let parent = parent_of(path)?;
    if path.symlink_metadata().is_ok() {
        fsync_dir(parent)?;
        return Err(ErrorKind::AlreadyExists.into());
    }
    let temporary = written_temporary(path, parent, bytes, mode)?;
    match temporary.persist_noclobber(path) {
        Ok(_) => fsync_dir(parent),
        Err(failed) => {
            if failed.error.kind() == ErrorKind::AlreadyExists {
                fsync_dir(parent)?;
            }
            Err(failed.error)
        }
    }
}

/// Writes or replaces `path` with `bytes`, mode 0600, durable when `Ok`. A reader sees the old content or the new.
///
/// # Errors
/// Any I/O error; before the rename the old content is untouched.
pub fn atomic_write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    atomic_write_with_mode(path, bytes, OWNER_ONLY)
}

/// As [`atomic_write`] with file permission bits `mode`.
///
/// # Errors
/// As [`atomic_write`].
pub fn atomic_write_with_mode(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let parent = parent_of(path)?;
    let temporary = written_temporary(path, parent, bytes, mode)?;
    temporary.persist(path).map_err(|failed| failed.error)?;
    fsync_dir(parent)
}

/// Makes the entries of directory `path` (names created, renamed or removed in it) durable.
///
/// # Errors
/// It is no directory, or the fsync failed.
pub fn fsync_dir(path: &Path) -> io::Result<()> {
    let directory = File::open(path)?;
    if !directory.metadata()?.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    directory.sync_all()
}

fn parent_of(path: &Path) -> io::Result<&Path> {
    match path.parent() {
        None => Err(io::Error::new(ErrorKind::InvalidInput, "the path has no directory")),
        Some(parent) if parent.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(parent) => Ok(parent),
    }
}

/// A temporary beside `path`, with all bytes, its mode, and fsynced. Dropping it removes it.
fn written_temporary(path: &Path, parent: &Path, bytes: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the path names no file"))?;
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    let mut temporary = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".tmp")
        .tempfile_in(parent)?;
    temporary.write_all(bytes)?;
    temporary.as_file().set_permissions(Permissions::from_mode(mode))?;
    temporary.as_file().sync_all()?;
    Ok(temporary)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn create_new_refuses_to_replace_and_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create_new(&path, b"one").unwrap();
        let error = create_new(&path, b"two").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, OWNER_ONLY);
        assert_eq!(names(dir.path()), ["key"]);
    }

    #[test]
    fn create_new_does_not_write_through_a_dangling_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert_eq!(create_new(&path, b"x").unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(names(dir.path()), ["key"]);
    }

    #[test]
    fn racing_creators_have_one_winner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let wins: usize = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8u8)
                .map(|n| {
                    let path = &path;
                    scope.spawn(move || usize::from(create_new(path, &[n; 64]).is_ok()))
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).sum()
        });
        assert_eq!(wins, 1);
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.len() == 64 && bytes.iter().all(|b| *b == bytes[0]));
    }

    #[test]
    fn atomic_write_replaces_with_the_mode_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        atomic_write(&path, b"one").unwrap();
        atomic_write_with_mode(&path, b"two", 0o640).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(names(dir.path()), ["state"]);
    }

    #[test]
    fn a_missing_directory_is_an_error_and_is_not_created() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        assert_eq!(
            create_new(&gone.join("x"), b"").unwrap_err().kind(),
            ErrorKind::NotFound
        );
        assert_eq!(
            atomic_write(&gone.join("x"), b"").unwrap_err().kind(),
            ErrorKind::NotFound
        );
        assert!(fsync_dir(&gone).is_err() && !gone.exists());
    }
}
