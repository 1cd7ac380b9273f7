//! The target: is it ours to write, is there room, where do tablespaces go. Nothing is changed before all of that is settled.

mod tablespaces;

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{RestoreError, Result};
use crate::owner::Owner;
use crate::paths::OURS;
use crate::plan::bytes_text;
use crate::state::STATE;

pub(crate) use self::tablespaces::{inspect_tablespaces, plan_tablespaces};

/// Name of the marker that says that a restore has begun here and has not ended.
pub(crate) const INCOMPLETE: &str = "INCOMPLETE";

/// The marker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Marker {
    /// The restore that wrote it.
    pub(crate) restore: String,
    /// What that restore writes into the data directory: names at its top.
    pub(crate) names: Vec<String>,
    /// Directories of tablespaces that were empty when it began.
    pub(crate) tablespaces: Vec<PathBuf>,
}

/// What is at the target.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing, or an empty directory.
    Free,
    /// What an interrupted restore left, which may be removed.
    Interrupted(Marker),
}

/// The absolute path of a directory that may not exist yet, links above it resolved.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).map_err(RestoreError::io("resolve", path))?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(RestoreError::refused(
            format!("\"{}\" cannot be a data directory", path.display()),
            "Name another directory.",
        ));
    };
    let parent = if parent.exists() {
        parent.canonicalize().map_err(RestoreError::io("resolve", parent))?
    } else {
        parent.to_owned()
    };
    let full = parent.join(name);
    if full.as_os_str().as_bytes().iter().any(|byte| byte.is_ascii_control()) || full.to_str().is_none() {
        return Err(RestoreError::refused(
            "the path of the directory has control characters or is not UTF-8",
            "Name another directory.",
        ));
    }
    Ok(full)
}

/// Looks at the data directory's place.
pub(crate) fn inspect(pgdata: &Path, repository: Option<&Path>) -> Result<Found> {
    let show = pgdata.display();
    let other = "Name another directory with --pgdata.";
    if let Some(repository) = repository
        && let Ok(repository) = repository.canonicalize()
        && (pgdata.starts_with(&repository) || repository.starts_with(pgdata))
    {
        return Err(RestoreError::refused(
            format!("directory \"{show}\" overlaps with the repository"),
            other,
        ));
    }
    let metadata = match fs::symlink_metadata(pgdata) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Free),
        Err(error) => return Err(RestoreError::io("look at", pgdata)(error)),
    };
    if metadata.is_symlink() {
        return Err(RestoreError::refused(
            format!("\"{show}\" is a symbolic link"),
            "Name the directory itself with --pgdata.",
        ));
    }
    if !metadata.is_dir() {
        return Err(RestoreError::refused(format!("\"{show}\" is not a directory"), other));
    }
    if let Some(pid) = running_postmaster(pgdata) {
        let hint = "Restore into another directory; or stop that server and move its directory away.";
        return Err(RestoreError::refused(
            format!("a PostgreSQL server (process {pid}) is running in \"{show}\""),
            hint,
        ));
    }
    if is_empty(pgdata)? {
        return Ok(Found::Free);
    }
    let marker = pgdata.join(OURS).join(INCOMPLETE);
    let is_ours = !pgdata.join("global/pg_control").exists() && !pgdata.join("postmaster.pid").exists();
    if is_ours
        && let Ok(bytes) = fs::read(&marker)
        && let Ok(marker) = serde_json::from_slice::<Marker>(&bytes)
    {
        return Ok(Found::Interrupted(marker));
    }
    // A restore that could not even write its marker has written nothing else.
    let is_alone = fs::read_dir(pgdata).is_ok_and(|entries| entries.flatten().all(|entry| entry.file_name() == *OURS));
    if is_alone && !pgdata.join(OURS).join(STATE).exists() {
        let marker = Marker {
            restore: String::new(),
            names: Vec::new(),
            tablespaces: Vec::new(),
        };
        return Ok(Found::Interrupted(marker));
    }
    Err(RestoreError::refused(
        format!("directory \"{show}\" is not empty"),
        "Empty it yourself, or name another one with --pgdata.",
    ))
}

fn is_empty(path: &Path) -> Result<bool> {
    let mut entries = fs::read_dir(path).map_err(RestoreError::io("read directory", path))?;
    Ok(entries.next().is_none())
}

/// The live process that postmaster.pid names.
pub(crate) fn running_postmaster(pgdata: &Path) -> Option<i32> {
    let text = fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    match rustix::process::test_kill_process(Pid::from_raw(pid.abs())?) {
        Ok(()) | Err(rustix::io::Errno::PERM) => Some(pid),
        Err(_) => None,
    }
}

/// Room that is kept free beside the files: WAL of recovery and a little.
const SPARE_BYTES: u64 = 64 << 20;

/// Is there room? `needs` are directories and bytes.
pub(crate) fn check_space(needs: &[(&Path, u64)]) -> Result<()> {
    let mut by_device: HashMap<u64, (PathBuf, u64)> = HashMap::new();
    for (path, bytes) in needs {
        let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let device = existing
            .metadata()
            .map_err(RestoreError::io("look at", existing))?
            .dev();
        by_device
            .entry(device)
            .or_insert_with(|| (existing.to_owned(), SPARE_BYTES))
            .1 += bytes;
    }
    for (path, needed) in by_device.into_values() {
        let stat = rustix::fs::statvfs(&path).map_err(|errno| RestoreError::io("look at", &path)(errno.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < needed {
            let message = format!(
                "not enough space under \"{}\": {} are needed, {} are free",
                path.display(),
                bytes_text(needed),
                bytes_text(free)
            );
            return Err(RestoreError::refused(
                message,
                "Free some, or restore to another file system.",
            ));
        }
    }
    Ok(())
}

/// Removes what an interrupted restore left: only what its marker names.
pub(crate) fn clean(pgdata: &Path, marker: &Marker) -> Result<()> {
    for tablespace in &marker.tablespaces {
        for entry in fs::read_dir(tablespace).into_iter().flatten().flatten() {
            if entry.file_name().as_bytes().starts_with(b"PG_") {
                remove(&entry.path())?;
            }
        }
    }
    // What is there is compared with the names, and not the other way round: a name may be no text, or too long with an ending.
    for entry in fs::read_dir(pgdata).map_err(RestoreError::io("read directory", pgdata))? {
        let entry = entry.map_err(RestoreError::io("read directory", pgdata))?;
        let name = entry.file_name();
        if name != *OURS && marker.names.iter().any(|ours| *ours == name.to_string_lossy()) {
            remove(&entry.path())?;
        }
    }
    // Ours goes last: until then the marker can be found again.
    remove(&pgdata.join(OURS))?;
    if is_empty(pgdata)? {
        return Ok(());
    }
    let message = format!(
        "directory \"{}\" holds files that the interrupted restore did not write",
        pgdata.display()
    );
    Err(RestoreError::refused(
        message,
        "Remove them yourself, or name another directory with --pgdata.",
    ))
}

fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    removed.map_err(RestoreError::io("remove", path))
}

/// Makes the root directories that are missing, with owner and mode.
pub(crate) fn make_root(path: &Path, mode: u32, owner: Option<&Owner>) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(RestoreError::io("create directory", parent))?;
    }
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(RestoreError::io("create directory", path)(error)),
    }
    if let Some(owner) = owner {
        rustix::fs::chown(path, Some(owner.uid), Some(owner.gid))
            .map_err(|errno| RestoreError::io("change the owner of", path)(errno.into()))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(RestoreError::io("change the mode of", path))
}

#[cfg(test)]
mod tests;
