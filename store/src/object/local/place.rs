//! Putting files in their place, and taking them away.
//!
//! # Why a put is durable and create-only
//! 1. The bytes go to a fresh file in `.tmp` (same file system), which is fsynced: a name it gets later has all its bytes.
//! 2. `link(2)` gives it the object's name. It fails if the name exists, and is atomic among processes and hosts. Where links
//!    are not supported, `renameat2(RENAME_NOREPLACE)` does the same; where neither is, the put is refused.
//! 3. The directory is fsynced, and every ancestor whose own entry is not known to be durable. Also when the name existed: the
//!    writer that made it may have died before its fsync, and "already exists" must mean that it will stay.
//!    Durable entries are remembered by device, inode *and birth time*, so a directory that was removed and made again
//!    is not taken for the old one; without birth times nothing is remembered.
//! 4. Only then the temporary is removed. A crash before that leaves it to `remove_stale_temporaries`.
//!
//! The way down is walked with open directories (`openat`, no symbolic links): a link planted in the repository cannot send a
//! write elsewhere. A directory that a deleter removes under a writer refuses the link, and the writer starts again.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, StatxFlags, Uid};
use rustix::io::Errno;

use super::super::name::TEMPORARY_SEGMENT;
use super::super::{ErrorClass, ObjectError, ObjectName, Operation, Outcome, PutNew};
use super::io_error::io_error;
use super::root::{Incarnation, Root, directory_mode, file_mode, lock, not_a_file};

/// How often a deleter may remove the directory under a writer.
const DIRECTORY_RACES_MAX: usize = 16;
/// Remembered durable directories; then it starts anew.
const DURABLE_DIRECTORIES_MAX: usize = 8192;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Turns an `Errno` into our error, for one call on one object.
struct Call<'a> {
    operation: Operation,
    name: &'a str,
}

impl Call<'_> {
    fn failed(&self, outcome: Outcome, action: &str, error: impl Into<std::io::Error>) -> ObjectError {
        io_error(self.operation, self.name, outcome, action, error.into())
    }
}

pub(super) fn put_new(root: &Root, name: &ObjectName, body: &[u8]) -> Result<PutNew, ObjectError> {
    let call = Call {
        operation: Operation::PutNew,
        name: name.as_str(),
    };
    let top = root.directory(call.operation, call.name)?;
    let temporaries = open_or_make(root, &top, TEMPORARY_SEGMENT)
        .map_err(|errno| call.failed(Outcome::DidNotHappen, "open the directory of temporaries", errno))?;
    let (temporary, file) = write_temporary(root, &temporaries, body, &call)?;
    crate::crash::point(crate::crash::CrashPoint::BeforeLink);
    let result = place(
        root,
        top,
        name,
        &Temporary {
            directory: &temporaries,
            name: &temporary,
            file: &file,
        },
        &call,
    );
    // Gone already if it was renamed; if it stays, it is found by its age.
    if let Err(errno) = rustix::fs::unlinkat(&temporaries, &temporary, AtFlags::empty())
        && errno != Errno::NOENT
    {
        tracing::debug!(object = call.name, error = %errno, "temporary file stays");
    }
    result
}

struct Temporary<'a> {
    directory: &'a File,
    name: &'a str,
    file: &'a File,
}

/// A file of a name of its own with all bytes, fsynced.
fn write_temporary(root: &Root, directory: &File, body: &[u8], call: &Call<'_>) -> Result<(String, File), ObjectError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed = |action, error| call.failed(Outcome::DidNotHappen, action, error);
    let (name, mut file) = loop {
        // Another host, or a process of the same number before a crash, may have taken the name: then the next one.
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        match rustix::fs::openat(directory, &name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => break (name, File::from(file)),
            Err(Errno::EXIST | Errno::INTR) => {}
            Err(errno) => return Err(failed("create a temporary file", errno.into())),
        }
    };
    let written = file
        .write_all(body)
        .and_then(|()| Ok(rustix::fs::fchmod(&file, file_mode(root.options))?))
        .and_then(|()| Ok(give_as(directory, &file)?))
        .and_then(|()| file.sync_all());
    match written {
        Ok(()) => Ok((name, file)),
        Err(error) => {
            // The space is what matters now; the error is what is told.
            let _ = rustix::fs::unlinkat(directory, &name, AtFlags::empty());
            Err(failed("write a temporary file", error))
        }
    }
}

/// Gives the temporary the object's name, and makes that durable.
fn place(
    root: &Root,
    top: File,
    name: &ObjectName,
    temporary: &Temporary<'_>,
    call: &Call<'_>,
) -> Result<PutNew, ObjectError> {
    let segments: Vec<&str> = name.segments().collect();
    let Some((last, directories)) = segments.split_last() else {
        return Err(ObjectError::not_found(call.operation, name));
    };
    for _ in 0..DIRECTORY_RACES_MAX {
        let chain = match open_chain(root, &top, directories) {
            Ok(chain) => chain,
            Err(Errno::NOENT) => continue,
            Err(errno) => {
                return Err(call.failed(Outcome::DidNotHappen, "open or create the object's directory", errno));
            }
        };
        let leaf = chain.last().unwrap_or(&top);
        let put = match link_new(temporary, leaf, last) {
            Ok(put) => put,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(refused_link(call, errno)),
        };
        if put == PutNew::AlreadyExists {
            let there = rustix::fs::statat(leaf, *last, AtFlags::SYMLINK_NOFOLLOW);
            if there.is_ok_and(|stat| !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file()) {
                return Err(not_a_file(call.operation, name));
            }
        }
        fsync_chain(root, &top, &chain)
            .map_err(|error| call.failed(Outcome::Unknown, "make the object's directory durable", error))?;
        return Ok(put);
    }
    let detail = "its directory is removed again and again by someone else";
    Err(ObjectError::new(
        call.operation,
        name,
        Outcome::DidNotHappen,
        ErrorClass::Transient,
        detail,
    ))
}

fn link_new(temporary: &Temporary<'_>, leaf: &File, last: &str) -> Result<PutNew, Errno> {
    match rustix::fs::linkat(temporary.directory, temporary.name, leaf, last, AtFlags::empty()) {
        Ok(()) => Ok(PutNew::Created),
        // NFS repeats a request whose answer was lost: two names of the file mean that the link is ours.
        Err(Errno::EXIST) if rustix::fs::fstat(temporary.file).is_ok_and(|stat| stat.st_nlink > 1) => {
            Ok(PutNew::Created)
        }
        Err(Errno::EXIST) => Ok(PutNew::AlreadyExists),
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => rename_new(temporary, leaf, last),
        Err(errno) => Err(errno),
    }
}

fn rename_new(temporary: &Temporary<'_>, leaf: &File, last: &str) -> Result<PutNew, Errno> {
    match rustix::fs::renameat_with(temporary.directory, temporary.name, leaf, last, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(PutNew::Created),
        Err(Errno::EXIST) => Ok(PutNew::AlreadyExists),
        Err(errno) => Err(errno),
    }
}

fn refused_link(call: &Call<'_>, errno: Errno) -> ObjectError {
    match errno {
        Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::XDEV => ObjectError::new(
            call.operation,
            call.name,
            Outcome::DidNotHappen,
            ErrorClass::Misconfigured,
            "the file system cannot create a name exclusively",
        )
        .with_source(std::io::Error::from(errno))
        .with_hint("Use a file system with hard links (ext4, XFS, NFS) in one piece under the repository directory."),
        other => call.failed(Outcome::Unknown, "give the file its name", other),
    }
}

fn open_or_make(root: &Root, parent: &File, segment: &str) -> Result<File, Errno> {
    match rustix::fs::openat(parent, segment, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => {}
        opened => return opened.map(File::from),
    }
    let mode = directory_mode(root.options);
    let made = match rustix::fs::mkdirat(parent, segment, mode) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(errno),
    };
    let directory = rustix::fs::openat(parent, segment, DIRECTORY, Mode::empty())?;
    if made {
        // The mode asked for, whatever the umask.
        rustix::fs::fchmod(&directory, mode)?;
        give_as(parent, &directory)?;
    }
    Ok(directory.into())
}

/// What root has made in somebody else's repository, as who restores, belongs to whom the directory above belongs: the agent must read it.
fn give_as(above: &File, made: impl AsFd) -> Result<(), Errno> {
    let (owner, ours) = (rustix::fs::fstat(above)?, rustix::fs::fstat(&made)?);
    if ours.st_uid != 0 || owner.st_uid == 0 {
        return Ok(());
    }
    let (user, group) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
    match rustix::fs::fchown(made, Some(user), Some(group)) {
        // A root that may not: what it makes stays its own, as without this.
        Err(Errno::PERM) => Ok(()),
        given => given,
    }
}

/// The directories of the object from the top down, made where they are missing. `NOENT`: one was removed in between.
fn open_chain(root: &Root, top: &File, directories: &[&str]) -> Result<Vec<File>, Errno> {
    let mut chain: Vec<File> = Vec::with_capacity(directories.len());
    for segment in directories {
        let child = open_or_make(root, chain.last().unwrap_or(top), segment)?;
        chain.push(child);
    }
    Ok(chain)
}

/// Fsyncs the leaf (it has a new name) and every directory whose child's entry is not known to be durable.
fn fsync_chain(root: &Root, top: &File, chain: &[File]) -> std::io::Result<()> {
    chain.last().unwrap_or(top).sync_all()?;
    for (depth, child) in chain.iter().enumerate().rev() {
        let life = incarnation(child);
        if life.is_some_and(|life| lock(&root.durable).contains(&life)) {
            continue;
        }
        depth
            .checked_sub(1)
            .and_then(|above| chain.get(above))
            .unwrap_or(top)
            .sync_all()?;
        if let Some(life) = life {
            let mut durable = lock(&root.durable);
            if durable.len() >= DURABLE_DIRECTORIES_MAX {
                durable.clear();
            }
            durable.insert(life);
        }
    }
    Ok(())
}

fn incarnation(directory: &File) -> Option<Incarnation> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let stat = rustix::fs::statx(directory, "", AtFlags::EMPTY_PATH, wanted).ok()?;
    let device = (stat.stx_dev_major, stat.stx_dev_minor);
    let born = (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec);
    let known = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    known.then_some(Incarnation {
        device,
        inode: stat.stx_ino,
        born,
    })
}

/// Removes the object, makes that durable, and then removes the directories that became empty.
pub(super) fn delete(root: &Root, name: &ObjectName) -> Result<(), ObjectError> {
    let call = Call {
        operation: Operation::Delete,
        name: name.as_str(),
    };
    let top = root.directory(call.operation, call.name)?;
    let segments: Vec<&str> = name.segments().collect();
    let Some((last, directories)) = segments.split_last() else {
        return Ok(());
    };
    let mut chain: Vec<File> = Vec::with_capacity(directories.len());
    for segment in directories {
        match rustix::fs::openat(chain.last().unwrap_or(&top), *segment, DIRECTORY, Mode::empty()) {
            Ok(child) => chain.push(child.into()),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(errno) => return Err(call.failed(Outcome::DidNotHappen, "open the object's directory", errno)),
        }
    }
    let leaf = chain.last().unwrap_or(&top);
    match rustix::fs::unlinkat(leaf, *last, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(Errno::ISDIR) => return Ok(()),
        Err(errno) => return Err(call.failed(Outcome::Unknown, "remove file", errno)),
    }
    // Also if it was gone: whoever removed it may not have come this far.
    leaf.sync_all()
        .map_err(|error| call.failed(Outcome::Unknown, "make the removal durable", error))?;
    for (depth, segment) in directories.iter().enumerate().rev() {
        let above = depth.checked_sub(1).and_then(|above| chain.get(above)).unwrap_or(&top);
        if rustix::fs::unlinkat(above, *segment, AtFlags::REMOVEDIR).is_err() {
            break;
        }
    }
    Ok(())
}

pub(super) fn remove_stale_temporaries(root: &Root, older_than: Duration) -> Result<usize, ObjectError> {
    let call = Call {
        operation: Operation::Delete,
        name: TEMPORARY_SEGMENT,
    };
    let failed = |action, error: std::io::Error| call.failed(Outcome::Unknown, action, error);
    let top = root.directory(call.operation, call.name)?;
    let directory = match rustix::fs::openat(&top, TEMPORARY_SEGMENT, DIRECTORY, Mode::empty()) {
        Ok(directory) => File::from(directory),
        Err(Errno::NOENT) => return Ok(0),
        Err(errno) => return Err(failed("open the directory of temporaries", errno.into())),
    };
    // The file system's clock, not ours: the time of a file that is written now.
    let (probe, file) = write_temporary(root, &directory, b"", &call)?;
    let now = rustix::fs::fstat(&file).map(|stat| stat.st_mtime);
    let listed: Result<Vec<_>, Errno> = rustix::fs::Dir::read_from(&directory).and_then(Iterator::collect);
    let removed_probe = rustix::fs::unlinkat(&directory, &probe, AtFlags::empty());
    let (now, entries) =
        (|| Ok::<_, Errno>((now?, listed?)))().map_err(|errno| failed("read temporaries", errno.into()))?;
    removed_probe.map_err(|errno| failed("remove a temporary file", errno.into()))?;
    let limit = i64::try_from(older_than.as_secs()).unwrap_or(i64::MAX);
    let mut removed = 0;
    for entry in entries {
        let Ok(stat) = rustix::fs::statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
        if is_file && now.saturating_sub(stat.st_mtime) > limit {
            match rustix::fs::unlinkat(&directory, entry.file_name(), AtFlags::empty()) {
                Ok(()) => removed += 1,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed("remove a temporary file", errno.into())),
            }
        }
    }
    Ok(removed)
}
