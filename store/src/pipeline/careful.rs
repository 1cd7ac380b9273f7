//! Files that others may change, replace and remove while we read them: a component's.
//!
//! They are opened without following a link anywhere in their path and without waiting (a pipe in a file's place would block for good), and what is noted of one
//! is what the open file says. When it was read it is looked at again: a file that changed meanwhile holds no moment of the past, perhaps,
//! and is named; and its stamp is dropped, so that the next backup reads it.

use std::fs::{File, Metadata};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::content::ContentFile;
use super::source::Source;
use crate::error::StoreError;
use crate::file_table::{Attributes, Stamp};

/// Opens a regular file, and notes what it is.
///
/// # Errors
/// It cannot be opened; [`ErrorKind::NotFound`] also where something else is in its place by now.
pub(super) fn open(path: &Path, attributes: &mut Attributes) -> Result<File, Error> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(file) => File::from(file),
        // A link, or a socket.
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => return Err(ErrorKind::NotFound.into()),
        Err(errno) => return Err(errno.into()),
    };
    let now = file.metadata()?;
    if !now.is_file() {
        return Err(ErrorKind::NotFound.into());
    }
    attributes.modified_ns = nanoseconds(now.mtime(), now.mtime_nsec());
    (attributes.uid, attributes.gid) = (now.uid(), now.gid());
    if let Some(stamp) = &mut attributes.stamp {
        *stamp = Stamp {
            read_ns: stamp.read_ns,
            ..of(&now)
        };
    }
    Ok(file)
}

/// True when a file is not what it was when it was opened.
pub(super) fn changed_meanwhile(file: &mut ContentFile) -> Result<bool, StoreError> {
    let (Source::Disk(on_disk), Some(attributes)) = (&file.source, &mut file.job.attributes) else {
        return Ok(false);
    };
    let now = on_disk.metadata().map_err(|source| StoreError::Io {
        action: "look at",
        path: file.job.on_disk.display().to_string(),
        source,
    })?;
    let was = attributes.stamp.map(|stamp| stamp.changed_ns);
    // Empty files are counted when they are listed.
    let is_same = (file.job.size == 0) == (file.size == 0)
        && now.size() == file.size
        && nanoseconds(now.mtime(), now.mtime_nsec()) == attributes.modified_ns
        && was.is_none_or(|was| was == of(&now).changed_ns);
    if !is_same {
        attributes.stamp = None;
    }
    Ok(!is_same)
}

fn of(metadata: &Metadata) -> Stamp {
    Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        read_ns: 0,
    }
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}
