//! Reads a file as a whole, without following a link to it.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use store::pipeline::FileJob;

use crate::ComponentError;

/// Longest file.
pub(super) const BYTES_MAX: u64 = 32 << 20;

/// The file with what its file system knows of it now, and its content; none: it is no file any more.
///
/// # Errors
/// It cannot be read, or is too long.
pub(super) async fn whole(job: FileJob) -> Result<Option<(FileJob, Vec<u8>)>, ComponentError> {
    let reading = tokio::task::spawn_blocking(move || read(job));
    reading.await.map_err(|_| ComponentError::Stopped)?
}

fn read(mut job: FileJob) -> Result<Option<(FileJob, Vec<u8>)>, ComponentError> {
    let path = job.on_disk.clone();
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match openat2(CWD, &path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(gone(&job)),
        Err(errno) => return Err(ComponentError::io("open", &path)(errno.into())),
    };
    let found = file.metadata().map_err(ComponentError::io("look at", &path))?;
    if !found.is_file() {
        return Ok(gone(&job));
    }
    let mut content = Vec::new();
    let mut limited = (&file).take(BYTES_MAX + 1);
    limited
        .read_to_end(&mut content)
        .map_err(ComponentError::io("read", &path))?;
    if content.len() as u64 > BYTES_MAX {
        return Err(ComponentError::refused(
            format!("\"{}\" is too long for a configuration file", path.display()),
            format!(
                "Up to {} MiB are. Leave it out with \"exclude\", or take it with a component of kind \"files\".",
                BYTES_MAX >> 20
            ),
        ));
    }
    let after = file.metadata().map_err(ComponentError::io("look at", &path))?;
    job.mode = found.mode() & 0o7777;
    if let Some(attributes) = &mut job.attributes {
        (attributes.uid, attributes.gid) = (found.uid(), found.gid());
        attributes.modified_ns = nanoseconds(found.mtime(), found.mtime_nsec());
        let changed_ns = nanoseconds(found.ctime(), found.ctime_nsec());
        let is_quiet = changed_ns == nanoseconds(after.ctime(), after.ctime_nsec());
        if let Some(stamp) = &mut attributes.stamp {
            (stamp.device, stamp.inode, stamp.changed_ns) = (found.dev(), found.ino(), changed_ns);
        }
        if !is_quiet {
            tracing::warn!(path = %path.to_string_lossy().escape_debug(), "changed while it was read");
            attributes.stamp = None;
        }
    }
    Ok(Some((job, content)))
}

fn gone(job: &FileJob) -> Option<(FileJob, Vec<u8>)> {
    tracing::info!(path = %job.path.escape_ascii(), "went away before it was read, or is no file any more");
    None
}

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}
