//! Bare repositories of what was restored: bundle after bundle, then the refs, then a check; it takes its place last.
//!
//! It is built in a directory of ours beside the bundles, and moved into its place with `HEAD` last, without which git takes a directory for
//! nothing. A crash before leaves the bundles, and the same restore begins again.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::find::{Found, is_git_dir, restored_below};
use super::program::{self, Git};
use super::refs::{Leads, Refs, Totals, is_object_id, shown};
use crate::ComponentError;

/// Where it is built, beside the bundles.
const BUILT: &str = "built.git";
/// Beside them from when it begins to take its place: what is there already is of a move that was cut short.
const MOVING: &str = "moving";
/// Refs that hold what a bundle has brought until the real ones are set.
const HELD: &str = "refs/seawall-restore";

/// A repository that was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// Where it is.
    pub path: PathBuf,
    /// Its refs.
    pub refs: u64,
}

/// Builds the repositories whose bundles were restored below a directory, each as a bare one in the place of its git directory, and removes
/// the bundles.
///
/// # Errors
/// A repository stands there that is none of this restore; git failed, or has found something missing or other than it was captured.
pub async fn build(restored: &Path, was_free: bool) -> Result<Vec<Built>, ComponentError> {
    let restored = restored.canonicalize().map_err(ComponentError::io("find", restored))?;
    let (_, stored) = below(&restored).await?;
    program::version().await?;
    let mut all = Vec::new();
    for one in stored {
        let place = restored.join(shown(&one.path));
        if is_git_dir(&place) {
            let refs = refuse_other(&one, &place, was_free).await?;
            fs::remove_dir_all(&one.on_disk).map_err(ComponentError::io("remove", &one.on_disk))?;
            all.push(Built { path: place, refs });
            continue;
        }
        let (_, refs) = build_one(&one).await?;
        let (from, to) = (one.on_disk.clone(), place.clone());
        let moved = tokio::task::spawn_blocking(move || take_place(&from, &to));
        moved.await.map_err(|_| ComponentError::Stopped)??;
        all.push(Built {
            path: place,
            refs: refs.all().count() as u64 - 1,
        });
    }
    Ok(all)
}

/// A repository that stands in a place already is the one that belongs there: a restore that was cut short has built it. Returns its refs.
async fn refuse_other(stored: &Found, place: &Path, was_free: bool) -> Result<u64, ComponentError> {
    let git = Git::of(place);
    let wanted = Refs::of_links(&stored.on_disk)?;
    // Where it cannot even be read, it is none of ours.
    let is_it = was_free && Refs::read(&git).await.is_ok_and(|refs| refs == wanted);
    if is_it && whole(&git).await?.is_none() {
        return Ok(wanted.all().count() as u64 - 1);
    }
    Err(ComponentError::refused(
        format!("\"{}\" is a repository already", place.display()),
        "Restore to another directory; a repository is never written over.",
    ))
}

/// What is below a directory amounts to, and what is wrong with it. Bundles that were not built are, in a directory that is removed again.
pub(super) async fn totals_below(restored: &Path) -> Result<(Totals, Vec<String>), ComponentError> {
    let restored = restored.canonicalize().map_err(ComponentError::io("find", restored))?;
    program::version().await?;
    let (built, stored) = below(&restored).await?;
    let mut all: Vec<(Found, bool)> = built.into_iter().map(|one| (one, true)).collect();
    all.extend(stored.into_iter().map(|one| (one, false)));
    all.sort_by(|a, b| a.0.path.cmp(&b.0.path));
    let (mut totals, mut wrong) = (Totals::default(), Vec::new());
    for (one, is_built) in all {
        if is_built {
            let git = Git::of(&one.on_disk);
            wrong.extend(whole(&git).await?);
            let refs = Refs::read(&git).await?;
            // What is missing was named, and counting would stop at it.
            if wrong.is_empty() {
                totals.add(&git, &one.path, &refs).await?;
            }
        } else {
            let (git, refs) = build_one(&one).await?;
            totals.add(&git, &one.path, &refs).await?;
            fs::remove_dir_all(git.git_dir()).map_err(ComponentError::io("remove", git.git_dir()))?;
        }
    }
    Ok((totals, wrong))
}

async fn below(restored: &Path) -> Result<(Vec<Found>, Vec<Found>), ComponentError> {
    let restored = restored.to_owned();
    let finding = tokio::task::spawn_blocking(move || restored_below(&restored));
    finding.await.map_err(|_| ComponentError::Stopped)?
}

/// Beside its bundles.
async fn build_one(one: &Found) -> Result<(Git, Refs), ComponentError> {
    let (stored, built) = (&one.on_disk, one.on_disk.join(BUILT));
    let refs = Refs::of_links(stored)?;
    if built.exists() {
        // Of a build that was cut short.
        fs::remove_dir_all(&built).map_err(ComponentError::io("remove", &built))?;
    }
    let format_file = stored.join("object-format");
    let format = fs::read_to_string(&format_file).map_err(ComponentError::io("read", &format_file))?;
    let mut init: Vec<OsString> = ["init", "--quiet", "--bare", "--template="].map(Into::into).into();
    init.push(format!("--object-format={}", format.trim()).into());
    init.push(built.clone().into());
    program::ask(&init, b"").await?;
    let git = Git::of(&built);
    let mut held = BTreeSet::new();
    for bundle in bundles(stored)? {
        unbundle(&git, &bundle, &mut held).await?;
    }
    set(&git, &refs, &held).await?;
    if Refs::read(&git).await? != refs {
        return Err(git.refused(
            "has other refs than were captured",
            "Restore it again, into an empty directory; what was stored may be damaged: `wal-agent verify --all` says so.",
        ));
    }
    match whole(&git).await? {
        None => Ok((git, refs)),
        Some(wrong) => Err(git.refused(
            &format!("is not whole: {wrong}"),
            "`wal-agent verify --all` says whether the backup is.",
        )),
    }
}

fn bundles(stored: &Path) -> Result<Vec<PathBuf>, ComponentError> {
    let mut all = Vec::new();
    for entry in fs::read_dir(stored).map_err(ComponentError::io("list", stored))? {
        let path = entry.map_err(ComponentError::io("list", stored))?.path();
        if path.as_os_str().as_bytes().ends_with(b".bundle") {
            all.push(path);
        }
    }
    all.sort();
    Ok(all)
}

/// What it brings is held by refs, so that the next one finds what it builds on.
async fn unbundle(git: &Git, bundle: &Path, held: &mut BTreeSet<String>) -> Result<(), ComponentError> {
    let mut command = git.command(&["bundle", "unbundle"]);
    command.arg(bundle);
    let said = program::answer(command, b"").await?;
    if !said.status.success() {
        return Err(git.failed(&["bundle unbundle"], said.status, &said.complaint));
    }
    let text = String::from_utf8_lossy(&said.out);
    let ids = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|id| is_object_id(id));
    let new: BTreeSet<String> = ids.map(str::to_owned).filter(|id| !held.contains(id)).collect();
    let orders: Vec<u8> = new
        .iter()
        .flat_map(|id| format!("create {HELD}/{id}\0{id}\0").into_bytes())
        .collect();
    git.ask(&["update-ref", "-z", "--stdin"], &orders).await?;
    held.extend(new);
    Ok(())
}

/// The refs as they were, and no others.
async fn set(git: &Git, refs: &Refs, held: &BTreeSet<String>) -> Result<(), ComponentError> {
    let orders: Vec<u8> = held
        .iter()
        .flat_map(|id| format!("delete {HELD}/{id}\0\0").into_bytes())
        .collect();
    git.ask(&["update-ref", "-z", "--stdin"], &orders).await?;
    let (mut orders, mut symbolic) = (Vec::new(), Vec::new());
    for (name, leads) in refs.all() {
        match leads {
            Leads::Object(id) if name == b"HEAD" => {
                git.ask(&["update-ref", "--no-deref", "HEAD", id], b"").await?;
            }
            Leads::Object(id) => orders.extend_from_slice(&[b"create ", name, b"\0", id.as_bytes(), b"\0"].concat()),
            Leads::Ref(to) => symbolic.push((name, to)),
        }
    }
    git.ask(&["update-ref", "-z", "--stdin"], &orders).await?;
    for (name, to) in symbolic {
        let mut command = git.command(&["symbolic-ref"]);
        command.arg(shown(name)).arg(shown(to));
        let said = program::answer(command, b"").await?;
        if !said.status.success() {
            return Err(git.failed(&["symbolic-ref"], said.status, &said.complaint));
        }
    }
    git.ask(&["pack-refs", "--all"], b"").await.map(drop)
}

/// What is missing behind the refs; none: nothing.
async fn whole(git: &Git) -> Result<Option<String>, ComponentError> {
    let said = git
        .answer(&["fsck", "--connectivity-only", "--no-dangling", "--no-progress"], b"")
        .await?;
    if said.status.success() {
        return Ok(None);
    }
    let text = [said.out, said.complaint].concat();
    let text = String::from_utf8_lossy(&text);
    let first = text.lines().next().unwrap_or("git fsck failed");
    Ok(Some(format!("{}: {}", git.git_dir().display(), first.escape_debug())))
}

/// Moves what was built to where it belongs, `HEAD` last, and removes the bundles.
fn take_place(stored: &Path, place: &Path) -> Result<(), ComponentError> {
    let built = stored.join(BUILT);
    let mut names = Vec::new();
    for entry in fs::read_dir(&built).map_err(ComponentError::io("list", &built))? {
        names.push(entry.map_err(ComponentError::io("list", &built))?.file_name());
    }
    names.sort_by_key(|name| name == "HEAD");
    let moving = stored.join(MOVING);
    let in_the_way = names.iter().map(|name| place.join(name));
    let in_the_way: Vec<PathBuf> = in_the_way.filter(|path| path.symlink_metadata().is_ok()).collect();
    if moving.exists() {
        for path in &in_the_way {
            let removed = if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            };
            removed.map_err(ComponentError::io("remove", path))?;
        }
    } else if let Some(there) = in_the_way.first() {
        return Err(ComponentError::refused(
            format!("\"{}\" is in the way", there.display()),
            "Restore to an empty directory.",
        ));
    }
    let sync = |path: &Path| {
        let directory = fs::File::open(path).map_err(ComponentError::io("open", path))?;
        rustix::fs::syncfs(&directory).map_err(|errno| ComponentError::io("sync", path)(errno.into()))
    };
    fs::write(&moving, b"").map_err(ComponentError::io("write", &moving))?;
    sync(&built)?;
    for name in &names {
        let to = place.join(name);
        fs::rename(built.join(name), &to).map_err(ComponentError::io("move", &to))?;
    }
    fs::remove_dir_all(stored).map_err(ComponentError::io("remove", stored))?;
    sync(place)
}
