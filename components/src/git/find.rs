//! Which repositories there are: those that are named, and those below directories.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::ComponentError;
use crate::files::Excludes;

/// The directory of what is stored of a repository, in the place of its git directory.
pub(super) const STORED: &str = ".seawall-git";

/// Longest file that is read of a work tree: `.git` and `.gitmodules` are short.
const TEXT_BYTES_MAX: u64 = 64 << 10;

/// A repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Path of its git directory in the backup, without a slash before it.
    pub(super) path: Vec<u8>,
    /// Its git directory.
    pub(super) on_disk: PathBuf,
}

impl Found {
    /// Path in the backup of something that is stored of it.
    pub(super) fn stored(&self, name: &str) -> Vec<u8> {
        [&self.path, b"/".as_slice(), STORED.as_bytes(), b"/", name.as_bytes()].concat()
    }
}

/// All of them, by path. A link is not followed, but for what is named itself.
///
/// # Errors
/// A directory cannot be read; or something that is named is none, and has none below it.
pub(super) fn find(roots: &[PathBuf], excludes: &Excludes) -> Result<Vec<Found>, ComponentError> {
    let mut all: Vec<Found> = Vec::new();
    let mut elsewhere = Vec::new();
    for root in roots {
        let on_disk = root.canonicalize().map_err(ComponentError::io("find", root))?;
        refuse_linked(&on_disk)?;
        let found = below(root, &on_disk, excludes, &mut elsewhere)?;
        if found.is_empty() {
            return Err(ComponentError::refused(
                format!("\"{}\" is no git repository, and has none below it", root.display()),
                "Name repositories, bare or not, or directories with repositories below them.",
            ));
        }
        all.extend(found);
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all.dedup();
    for (path, leads) in elsewhere {
        // Of a submodule, or a further work tree: what it leads to lies in a repository that was found.
        let leads = leads.and_then(|leads| leads.canonicalize().ok());
        let is_found = |leads: &PathBuf| all.iter().any(|one| leads.starts_with(&one.on_disk));
        if !leads.as_ref().is_some_and(is_found) {
            tracing::warn!(path = %path.display(), "a work tree whose repository lies elsewhere is passed over: name that repository");
        }
    }
    Ok(all)
}

/// Text of a regular file that is not long. Anybody may have put it there: no link is followed, and a pipe is not waited for.
fn short_text(path: &Path) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(TEXT_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Where a work tree's `.git`, which is a file or a link, says that its repository lies; none: it does not say.
fn leads_to(pointer: &Path) -> Option<PathBuf> {
    if let Ok(target) = fs::read_link(pointer) {
        return Some(pointer.parent()?.join(target));
    }
    let text = short_text(pointer)?;
    Some(pointer.parent()?.join(text.trim().strip_prefix("gitdir: ")?))
}

/// Submodules whose repositories lie in their own work trees, as old ones do: a work tree that is named itself is not looked through.
fn warn_of_submodules(work: &Path) {
    let text = short_text(&work.join(".gitmodules")).unwrap_or_default();
    let paths = text.lines().filter_map(|line| line.trim().strip_prefix("path = "));
    for path in paths.map(|path| work.join(path)) {
        if is_git_dir(&path.join(".git")) && fs::symlink_metadata(path.join(".git")).is_ok_and(|found| found.is_dir()) {
            tracing::warn!(path = %path.display(), "a submodule whose repository lies in its own work tree is passed over: name it as well");
        }
    }
}

/// True for a directory that git would take for a repository.
pub(super) fn is_git_dir(path: &Path) -> bool {
    let is_directory = |name| fs::metadata(path.join(name)).is_ok_and(|found| found.is_dir());
    fs::symlink_metadata(path.join("HEAD")).is_ok_and(|found| !found.is_dir())
        && is_directory("objects")
        && is_directory("refs")
}

/// A further work tree of a repository has its refs elsewhere.
fn refuse_linked(root: &Path) -> Result<(), ComponentError> {
    let pointer = root.join(".git");
    let is_pointer = fs::symlink_metadata(&pointer).is_ok_and(|found| found.is_file());
    if !is_pointer && !root.join("commondir").is_file() {
        return Ok(());
    }
    let leads = short_text(&pointer).unwrap_or_default();
    let leads = leads.trim().strip_prefix("gitdir: ").unwrap_or("another directory");
    Err(ComponentError::refused(
        format!(
            "\"{}\" is the work tree of a repository that lies elsewhere ({})",
            root.display(),
            leads.escape_debug()
        ),
        "Name that repository: its refs and objects are there. The work tree of a submodule comes with the repository around it.",
    ))
}

/// Work trees whose repository lies elsewhere come into `elsewhere`, with what they say where.
fn below(
    root: &Path,
    on_disk: &Path,
    excludes: &Excludes,
    elsewhere: &mut Vec<(PathBuf, Option<PathBuf>)>,
) -> Result<Vec<Found>, ComponentError> {
    let name = root.as_os_str().as_bytes();
    let name = name.strip_prefix(b"/").unwrap_or(name);
    let name = Path::new(OsStr::from_bytes(name.strip_suffix(b"/").unwrap_or(name)));
    let mut found = Vec::new();
    // The work tree of what is named itself is not looked through.
    let is_named = !is_git_dir(on_disk) && is_git_dir(&on_disk.join(".git"));
    let first = if is_named {
        warn_of_submodules(on_disk);
        PathBuf::from(".git")
    } else {
        PathBuf::new()
    };
    let mut left = vec![first];
    while let Some(path) = left.pop() {
        let here = on_disk.join(&path);
        if is_git_dir(&here) {
            let in_backup = if path.as_os_str().is_empty() {
                name.to_owned()
            } else {
                name.join(&path)
            };
            refuse_ours(&in_backup)?;
            found.push(Found {
                path: in_backup.into_os_string().into_encoded_bytes(),
                on_disk: here.clone(),
            });
            // Repositories of submodules.
            let modules = path.join("modules");
            if fs::symlink_metadata(on_disk.join(&modules)).is_ok_and(|found| found.is_dir()) {
                left.push(modules);
            }
            continue;
        }
        for entry in fs::read_dir(&here).map_err(ComponentError::io("list", &here))? {
            let entry = entry.map_err(ComponentError::io("list", &here))?;
            let kind = entry.file_type().map_err(ComponentError::io("look at", &here))?;
            let below = path.join(entry.file_name());
            if kind.is_dir() && !excludes.has(&below, true) {
                left.push(below);
            } else if !kind.is_dir() && entry.file_name() == ".git" {
                elsewhere.push((here.clone(), leads_to(&here.join(".git"))));
            }
        }
    }
    Ok(found)
}

fn refuse_ours(path: &Path) -> Result<(), ComponentError> {
    match path.iter().any(|name| name == STORED) {
        false => Ok(()),
        true => Err(ComponentError::refused(
            format!("\"/{}\" lies in a directory \"{STORED}\"", path.display()),
            "That name is ours: a restore was not finished there. Finish it, or leave it out with \"exclude\".",
        )),
    }
}

/// Git directories below one that was restored, and directories with what is stored of those that are not built yet. Nothing there is excluded.
///
/// # Errors
/// A directory cannot be read.
pub(super) fn restored_below(root: &Path) -> Result<(Vec<Found>, Vec<Found>), ComponentError> {
    let (mut built, mut stored) = (Vec::new(), Vec::new());
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let here = root.join(&path);
        let found = |path: &Path, on_disk: &Path| Found {
            path: path.as_os_str().as_bytes().to_vec(),
            on_disk: on_disk.to_owned(),
        };
        let is_built = is_git_dir(&here);
        if is_built {
            built.push(found(&path, &here));
        }
        for entry in fs::read_dir(&here).map_err(ComponentError::io("list", &here))? {
            let entry = entry.map_err(ComponentError::io("list", &here))?;
            let kind = entry.file_type().map_err(ComponentError::io("look at", &here))?;
            let name = entry.file_name();
            if !kind.is_dir() || (is_built && (name == "objects" || name == "refs")) {
                continue;
            }
            if name == STORED {
                stored.push(found(&path, &here.join(STORED)));
            } else {
                left.push(path.join(name));
            }
        }
    }
    stored.sort_by(|a, b| a.path.cmp(&b.path));
    built.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((built, stored))
}
