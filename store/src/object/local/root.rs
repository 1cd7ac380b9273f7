//! The root directory: its identity, the way down to an object without following links, reading.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::super::{ByteRange, ErrorClass, OBJECT_BYTES_MAX, ObjectError, ObjectMeta, ObjectName, Operation, Outcome};
use super::LocalOptions;
use super::io_error::{LINK_HINT, io_error, root_missing};
use crate::buffer::Pool;

/// Proves that a directory which is not the one that was opened is the repository all the same.
const MARKER: &str = "seawall.json";

pub(super) struct Root {
    path: PathBuf,
    pub(super) options: LocalOptions,
    /// Device and inode of the directory.
    identity: Mutex<(u64, u64)>,
    /// Directories whose own entry is known to be durable, see `place`.
    pub(super) durable: Mutex<HashSet<Incarnation>>,
    buffers: Pool,
}

/// One life of a directory: an inode number can come again, with another birth time it is another directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Incarnation {
    pub(super) device: (u32, u32),
    pub(super) inode: u64,
    pub(super) born: (i64, u32),
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Root")
            .field("path", &self.path)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// What is found at a name.
pub(super) enum Found {
    File(File),
    Nothing,
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Root {
    pub(super) fn open(path: PathBuf, options: LocalOptions) -> Result<Self, ObjectError> {
        let missing = |detail: &str| root_missing(Operation::Open, path.display(), detail);
        let metadata = path.metadata().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => missing("the repository directory does not exist"),
            _ => io_error(
                Operation::Open,
                path.display(),
                Outcome::DidNotHappen,
                "open directory",
                error,
            ),
        })?;
        if !metadata.is_dir() {
            return Err(missing("the repository path is not a directory"));
        }
        let identity = Mutex::new((metadata.dev(), metadata.ino()));
        Ok(Root {
            path,
            options,
            identity,
            durable: Mutex::default(),
            buffers: Pool::default(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The root, open, after the check that it is the directory it was.
    pub(super) fn directory(&self, operation: Operation, name: &str) -> Result<File, ObjectError> {
        let open = rustix::fs::open(&self.path, DIRECTORY, Mode::empty()).map(File::from);
        let directory = open.map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR => root_missing(
                operation,
                name,
                format_args!("the repository directory {:?} is gone", self.path),
            ),
            other => io_error(
                operation,
                name,
                Outcome::DidNotHappen,
                "open the repository directory",
                other.into(),
            ),
        })?;
        let metadata = directory.metadata().map_err(|error| {
            io_error(
                operation,
                name,
                Outcome::DidNotHappen,
                "examine the repository directory",
                error,
            )
        })?;
        let now = (metadata.dev(), metadata.ino());
        let mut identity = lock(&self.identity);
        if *identity != now {
            if rustix::fs::statat(&directory, MARKER, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_err() {
                let detail = format_args!("the directory {:?} is not the repository that was opened", self.path);
                return Err(root_missing(operation, name, detail));
            }
            *identity = now;
            lock(&self.durable).clear();
        }
        Ok(directory)
    }

    /// Opens the object for reading, never through a symbolic link below the root.
    pub(super) fn find(&self, operation: Operation, name: &ObjectName) -> Result<Found, ObjectError> {
        let mut directory = self.directory(operation, name.as_str())?;
        let failed = |errno: Errno, action: &str| match errno {
            Errno::NOENT | Errno::NOTDIR => Ok(Found::Nothing),
            other => Err(io_error(operation, name, Outcome::DidNotHappen, action, other.into())),
        };
        let mut segments = name.segments().peekable();
        while let Some(segment) = segments.next() {
            if segments.peek().is_some() {
                match rustix::fs::openat(&directory, segment, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
                    Ok(child) => directory = child.into(),
                    Err(Errno::NOTDIR) if is_link(&directory, segment) => return Err(not_a_file(operation, name)),
                    Err(errno) => return failed(errno, "open directory"),
                }
            } else {
                // NONBLOCK: a pipe that someone put there must not hold us up.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                return match rustix::fs::openat(&directory, segment, flags, Mode::empty()) {
                    Ok(file) => Ok(Found::File(file.into())),
                    Err(errno) => failed(errno, "open file"),
                };
            }
        }
        Ok(Found::Nothing)
    }

    pub(super) fn read(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, ObjectError> {
        let not_found = || ObjectError::not_found(Operation::Get, name);
        let Found::File(file) = self.find(Operation::Get, name)? else {
            return Err(not_found());
        };
        let failed = |error| io_error(Operation::Get, name, Outcome::DidNotHappen, "read file", error);
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(not_found());
        }
        if !metadata.is_file() {
            return Err(not_a_file(Operation::Get, name));
        }
        let size = metadata.len();
        let wanted = range
            .resolve(size)
            .ok_or_else(|| ObjectError::past_end(name, range, size))?;
        let length = wanted.end - wanted.start;
        if length > OBJECT_BYTES_MAX {
            let detail = format_args!("{length} bytes are more than the limit of {OBJECT_BYTES_MAX}");
            return Err(ObjectError::new(
                Operation::Get,
                name,
                Outcome::DidNotHappen,
                ErrorClass::Corrupt,
                detail,
            ));
        }
        let mut bytes = self.buffers.take(length as usize);
        file.read_exact_at(&mut bytes, wanted.start).map_err(failed)?;
        Ok(bytes.freeze())
    }

    pub(super) fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>, ObjectError> {
        let Found::File(file) = self.find(Operation::Head, name)? else {
            return Ok(None);
        };
        let metadata = file
            .metadata()
            .map_err(|error| io_error(Operation::Head, name, Outcome::DidNotHappen, "examine file", error))?;
        match metadata {
            _ if metadata.is_dir() => Ok(None),
            _ if metadata.is_file() => Ok(Some(meta_of(name.clone(), &metadata))),
            _ => Err(not_a_file(Operation::Head, name)),
        }
    }
}

pub(super) fn meta_of(name: ObjectName, metadata: &std::fs::Metadata) -> ObjectMeta {
    let modified_unix_ms = metadata
        .mtime()
        .saturating_mul(1000)
        .saturating_add(metadata.mtime_nsec() / 1_000_000);
    ObjectMeta {
        name,
        size: metadata.len(),
        modified_unix_ms,
    }
}

pub(super) fn not_a_file(operation: Operation, name: &ObjectName) -> ObjectError {
    let detail = "there is something that is not a regular file";
    ObjectError::new(
        operation,
        name,
        Outcome::DidNotHappen,
        ErrorClass::Misconfigured,
        detail,
    )
    .with_hint(LINK_HINT)
}

/// A directory that was moved away and replaced by a link is no reason to say that its objects do not exist.
fn is_link(directory: &File, segment: &str) -> bool {
    rustix::fs::statat(directory, segment, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_symlink())
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Values are replaced whole: a thread that stopped cannot leave half a value.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn directory_mode(options: LocalOptions) -> Mode {
    if options.group_read {
        Mode::from_raw_mode(0o750)
    } else {
        Mode::from_raw_mode(0o700)
    }
}

pub(super) fn file_mode(options: LocalOptions) -> Mode {
    if options.group_read {
        Mode::from_raw_mode(0o640)
    } else {
        Mode::from_raw_mode(0o600)
    }
}

/// Creates `path` and its missing ancestors; each new entry is fsynced in its parent.
pub(super) fn create_directories(path: &Path, options: LocalOptions) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut at = path;
    while at
        .symlink_metadata()
        .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    {
        missing.push(at);
        match at.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => at = parent,
            _ => break,
        }
    }
    for directory in missing.into_iter().rev() {
        match rustix::fs::mkdir(directory, directory_mode(options)) {
            // The mode asked for, whatever the umask.
            Ok(()) => rustix::fs::chmod(directory, directory_mode(options))?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let parent = directory
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        crate::durable::fsync_dir(parent)?;
    }
    Ok(())
}
