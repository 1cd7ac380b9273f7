//! Directories: modes, owners, times, links, pipes, devices, sparse files, extended attributes; unchanged files are not read again within a rule
//! that is safe (see `before.rs`), and a file that changes while it is read is named.
//!
//! A backup of `/srv/uploads` and `/etc/app` has the paths `srv/uploads/...` and `etc/app/...`.

mod before;
mod counts;
mod exclude;
mod owners;
mod walk;
mod xattr;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use store::pipeline::Clock;
use tokio::runtime::Handle;

use crate::{Captured, Component, ComponentError, Look, Sink};
use before::Before;
pub(crate) use before::same_as;
pub use counts::Counts;
pub use exclude::Excludes;
pub use owners::Owners;
pub(crate) use walk::{Root, Walk, WalkOptions};

/// Directories, or single files.
#[derive(Clone)]
pub struct Files {
    /// What is captured: absolute paths.
    pub paths: Vec<PathBuf>,
    /// What of it is not.
    pub excludes: Excludes,
    /// Other file systems below are left out.
    pub one_file_system: bool,
    /// Every file is read, changed or not.
    pub reads_all: bool,
    /// The time.
    pub now_us: Clock,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files")
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Component for Files {
    fn kind(&self) -> &'static str {
        "files"
    }

    async fn look(&self) -> Result<Look, ComponentError> {
        for root in self.roots()? {
            std::fs::symlink_metadata(&root.on_disk).map_err(ComponentError::io("look at", &root.on_disk))?;
            if root.on_disk.is_dir() {
                std::fs::read_dir(&root.on_disk).map_err(ComponentError::io("list", &root.on_disk))?;
            }
        }
        Ok(Look::default())
    }

    async fn capture(&self, sink: &mut Sink) -> Result<Captured, ComponentError> {
        let now_us = (self.now_us)();
        let options = WalkOptions {
            excludes: self.excludes.clone(),
            one_file_system: self.one_file_system,
            now_ns: now_us.saturating_mul(1000),
        };
        let before = sink.take_before().filter(|_| !self.reads_all);
        // Seconds are as good as any other number that changes.
        let turn = now_us.unsigned_abs() / 1_000_000;
        let before = before.map(|stored| Before::new(stored, Handle::current(), turn));
        let walk = sink.copy(Walk::new(self.roots()?, options, before)).await?;
        let (counts, standing) = (walk.counts(), walk.standing().to_vec());
        tracing::info!(
            files = counts.files,
            bytes = counts.bytes,
            unchanged = counts.unchanged,
            excluded = counts.excluded,
            "captured the files"
        );
        Ok(Captured {
            version: String::new(),
            facts: counts.facts(),
            as_of_us: None,
            standing,
        })
    }

    async fn compare(
        &self,
        captured: &BTreeMap<String, String>,
        restored: &Path,
    ) -> Result<Vec<String>, ComponentError> {
        compare(captured, 0, restored).await
    }
}

impl Files {
    /// Sorted, and none below another: then its files would be there twice.
    pub(crate) fn roots(&self) -> Result<Vec<Root>, ComponentError> {
        let mut roots = Vec::new();
        for path in &self.paths {
            let on_disk = path.canonicalize().map_err(ComponentError::io("find", path))?;
            let name = path.as_os_str().as_bytes();
            let name = name.strip_prefix(b"/").unwrap_or(name);
            let name = name.strip_suffix(b"/").unwrap_or(name).to_vec();
            roots.push(Root { name, on_disk });
        }
        roots.sort_by(|a, b| a.name.cmp(&b.name));
        let below = |a: &Root, b: &Root| a.name == b.name || b.on_disk.starts_with(&a.on_disk);
        let twice = roots.iter().enumerate().find_map(|(at, root)| {
            let mut others = roots.iter().enumerate().filter(|(other, _)| *other != at);
            others
                .find(|(_, other)| below(root, other))
                .map(|(_, other)| (root, other))
        });
        match twice {
            None => Ok(roots),
            Some((root, other)) => Err(ComponentError::refused(
                format!("\"{}\" lies in \"{}\"", other.on_disk.display(), root.on_disk.display()),
                "Name one of them: what lies below a path is captured with it.",
            )),
        }
    }
}

/// What differs from the counts of a capture, by more than what was not settled then.
pub(crate) async fn compare(
    captured: &BTreeMap<String, String>,
    unsettled: u64,
    restored: &Path,
) -> Result<Vec<String>, ComponentError> {
    let restored = restored.to_owned();
    let counted = tokio::task::spawn_blocking(move || count(&restored));
    let now = counted.await.map_err(|_| ComponentError::Stopped)??.facts();
    let number = |text: Option<&String>| text.and_then(|text| text.parse::<u64>().ok());
    let differs = captured.iter().filter(|(name, count)| {
        let (then, now) = (number(Some(count)), number(now.get(*name)));
        !matches!((then, now), (Some(then), Some(now)) if then.abs_diff(now) <= unsettled)
    });
    let differs = differs.map(|(name, count)| {
        let found = now.get(name).map_or("none", String::as_str);
        format!("{name}: {count} were captured, {found} are there")
    });
    Ok(differs.collect())
}

/// What is below a directory.
pub(crate) fn count(directory: &Path) -> Result<Counts, ComponentError> {
    let options = WalkOptions {
        excludes: Excludes::new(&[])?,
        one_file_system: false,
        now_ns: 0,
    };
    let root = Root {
        name: Vec::new(),
        on_disk: directory
            .canonicalize()
            .map_err(ComponentError::io("find", directory))?,
    };
    let mut walk = Walk::new(vec![root], options, None);
    for listed in &mut walk {
        listed?;
    }
    Ok(walk.counts().clone())
}
