//! The target: is it ours to write, is there room, where do tablespaces go. Nothing is changed before all of that is settled.

mod tablespaces;

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use pg::control::ControlFile;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{RestoreError, Result};
use crate::owner::Owner;
use crate::paths::OURS;
use crate::plan::bytes_text;
use crate::state::STATE;
use crate::sweep::Owned;

pub(crate) use self::tablespaces::{inspect_tablespaces, plan_tablespaces};

/// Name of the marker that says that a restore has begun here and has not ended.
pub(crate) const INCOMPLETE: &str = "INCOMPLETE";

/// The marker.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Marker {
    /// The restore that wrote it.
    pub(crate) restore: String,
    /// What that restore writes into the data directory: names at its top.
    pub(crate) names: Vec<String>,
    /// Directories of tablespaces that it writes into.
    pub(crate) tablespaces: Vec<PathBuf>,
    /// It restored over a cluster: not everything at the top is ours.
    #[serde(default)]
    pub(crate) delta: bool,
}

/// What `pg_control` says of a cluster that is to be restored over.
#[derive(Debug)]
pub(crate) struct Existing {
    control: ControlFile,
    /// As it is on disk: a server that starts changes it.
    bytes: Vec<u8>,
}

/// What is at the target.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing, or an empty directory.
    Free,
    /// What an interrupted restore left: it goes on from there.
    Interrupted(Marker),
    /// A cluster that is to be restored over.
    Cluster(Box<Existing>),
}

impl Found {
    /// What at the top of the directory may be removed; `None` where there is nothing.
    pub(crate) fn owned(&self) -> Option<Owned> {
        match self {
            Found::Free => None,
            Found::Interrupted(marker) if !marker.delta => Some(Owned::by_marker(&marker.names)),
            Found::Interrupted(_) | Found::Cluster(_) => Some(Owned::by_server()),
        }
    }

    /// A cluster is restored over, now or by the restore that was interrupted.
    pub(crate) fn is_delta(&self) -> bool {
        matches!(self, Found::Cluster(_)) || matches!(self, Found::Interrupted(marker) if marker.delta)
    }

    /// Only a cluster of the same origin is restored over.
    pub(crate) fn refuse_other(&self, system_identifier: u64) -> Result<()> {
        match self {
            Found::Cluster(existing) if existing.control.system_identifier.0 != system_identifier => {
                let message = format!(
                    "the cluster in the directory is another one: its system identifier is {}, the backup's {system_identifier}",
                    existing.control.system_identifier
                );
                Err(RestoreError::refused(message, "Name another directory with --pgdata."))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a directory that a server runs in, or ran in since it was looked at: what was compared then is not what is there now.
    pub(crate) fn refuse_changed(&self, pgdata: &Path) -> Result<()> {
        refuse_running(pgdata)?;
        let Found::Cluster(existing) = self else { return Ok(()) };
        let path = pgdata.join("global/pg_control");
        let now = fs::read(&path).map_err(RestoreError::io("read", &path))?;
        if now == existing.bytes && !pgdata.join("postmaster.pid").exists() {
            return Ok(());
        }
        Err(RestoreError::refused(
            format!("the cluster in \"{}\" was started meanwhile", pgdata.display()),
            "Nothing was changed. See who starts it, stop it, and run the restore again.",
        ))
    }
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

/// Looks at the data directory's place; with `delta` a cluster may be there.
pub(crate) fn inspect(pgdata: &Path, repository: Option<&Path>, delta: bool) -> Result<Found> {
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
    refuse_running(pgdata)?;
    if is_empty(pgdata)? {
        return Ok(Found::Free);
    }
    let has_control = pgdata.join("global/pg_control").exists();
    if !has_control && let Some(marker) = interrupted(pgdata)? {
        return Ok(Found::Interrupted(marker));
    }
    if !has_control && delta {
        return Err(RestoreError::refused(
            format!("directory \"{show}\" is not empty, and no cluster is in it"),
            other,
        ));
    }
    if !has_control {
        return Err(RestoreError::refused(
            format!("directory \"{show}\" is not empty"),
            "Empty it yourself, or name another one with --pgdata.",
        ));
    }
    if !delta {
        return Err(RestoreError::refused(
            format!("directory \"{show}\" is not empty: a cluster is in it"),
            "Name another one with --pgdata, or restore over that cluster with --delta: then only what differs is fetched.",
        ));
    }
    // Its process may be known in another container only, or its children may live on.
    if pgdata.join("postmaster.pid").exists() {
        return Err(RestoreError::refused(
            format!("the server in \"{show}\" was not shut down: there is a postmaster.pid"),
            "Make sure that no process of it is left, here or on another host or container that has this directory; then remove postmaster.pid.",
        ));
    }
    let path = pgdata.join("global/pg_control");
    let bytes = fs::read(&path).map_err(RestoreError::io("read", &path))?;
    match ControlFile::parse(&bytes) {
        Ok(control) => Ok(Found::Cluster(Box::new(Existing { control, bytes }))),
        Err(error) => Err(RestoreError::refused(
            format!("nobody knows whose cluster is in \"{show}\": pg_control: {error}"),
            other,
        )),
    }
}

/// The marker of a restore that did not end. Everything else at the top must be of that restore.
fn interrupted(pgdata: &Path) -> Result<Option<Marker>> {
    let entries = fs::read_dir(pgdata).map_err(RestoreError::io("read directory", pgdata))?;
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    let bytes = fs::read(pgdata.join(OURS).join(INCOMPLETE)).ok();
    let Some(marker) = bytes.and_then(|bytes| serde_json::from_slice::<Marker>(&bytes).ok()) else {
        // A restore that could not even write its marker has written nothing else.
        let is_alone = names.iter().all(|name| *name == *OURS) && !pgdata.join(OURS).join(STATE).exists();
        return Ok(is_alone.then(Marker::default));
    };
    let is_known =
        |name: &std::ffi::OsString| *name == *OURS || marker.names.iter().any(|ours| *ours == name.to_string_lossy());
    if let Some(foreign) = names.iter().find(|name| !marker.delta && !is_known(name)) {
        let message = format!(
            "directory \"{}\" holds \"{}\", which the interrupted restore did not write",
            pgdata.display(),
            foreign.to_string_lossy().escape_debug()
        );
        return Err(RestoreError::refused(
            message,
            "Remove it yourself, or name another directory with --pgdata.",
        ));
    }
    Ok(Some(marker))
}

fn is_empty(path: &Path) -> Result<bool> {
    let mut entries = fs::read_dir(path).map_err(RestoreError::io("read directory", path))?;
    Ok(entries.next().is_none())
}

/// Refuses a directory that a server runs in.
pub(crate) fn refuse_running(pgdata: &Path) -> Result<()> {
    let Some(pid) = running_postmaster(pgdata) else {
        return Ok(());
    };
    Err(RestoreError::refused(
        format!(
            "a PostgreSQL server (process {pid}) is running in \"{}\"",
            pgdata.display()
        ),
        match pgdata.join(OURS).exists() {
            true => {
                "A restore has made it. Is it production by now, name another directory. Else look at it; or stop it (pg_ctl stop), and run this again with --delta."
            }
            false => {
                "Restore into another directory; or stop that server: then it can be moved away, or restored over with --delta."
            }
        },
    ))
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

/// Bytes that a file of a data directory takes of its disk.
pub(crate) fn allocated_bytes(pgdata: &Path, path: &[u8]) -> u64 {
    let path = pgdata.join(std::ffi::OsStr::from_bytes(path));
    path.symlink_metadata().map_or(0, |metadata| metadata.blocks() * 512)
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
