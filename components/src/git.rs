//! Git repositories: what every ref leads to, as a chain of bundles, and the refs themselves.
//!
//! A backup holds for each repository, below its path and [`find::STORED`]: bundles `000001.bundle`, ...; `object-format`; and each ref as a link, as
//! git itself once kept `HEAD`: `refs/heads/main` leads to an object id, `HEAD` to a ref, or to an object id where it is detached. Bundles are
//! content, which whoever captures cannot read again; links are in the file table, which it can. So the refs of the backup before say what
//! its bundles hold, and only what is new behind them goes into a further bundle (`chain`). Earlier bundles are referred to, never read.
//!
//! The refs are read once, and a bundle is made of just these object ids: what is pushed meanwhile is in the next backup, and refs and bundles
//! always fit. All of it is done by the system's git (`program`); no hook, no configuration but the repository's own, no network.
//!
//! A restore builds bare repositories of it (`build`). A crash there leaves what was restored, and no repository that looks whole.

mod build;
mod bundle;
mod chain;
mod find;
mod program;
mod refs;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use store::file_table::{EntryClass, EntryType, FileEntry};
use store::pipeline::{Clock, FileJob, Listed, Stored as StoredContent};

use crate::files::Excludes;
use crate::{Captured, Component, ComponentError, Lanes, Look, Sink};
pub use build::{Built, build};
use chain::{Chains, Plan};
use find::{Found, find};
use program::Git as Program;
use refs::{Refs, Totals};

/// Git repositories, named or found below directories.
#[derive(Clone)]
pub struct Git {
    /// Repositories, or directories below which they are found: absolute.
    pub repositories: Vec<PathBuf>,
    /// Directories that are not looked into.
    pub excludes: Excludes,
    /// The time.
    pub now_us: Clock,
}

impl std::fmt::Debug for Git {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Git")
            .field("repositories", &self.repositories)
            .finish_non_exhaustive()
    }
}

/// A repository, looked at.
struct Opened {
    found: Found,
    git: Program,
    format: String,
    refs: Refs,
    plan: Plan,
}

#[async_trait]
impl Component for Git {
    fn kind(&self) -> &'static str {
        "git"
    }

    async fn look(&self) -> Result<Look, ComponentError> {
        let version = program::version().await?;
        let found = self.find().await?;
        let mut notes = vec![format!("{} repositories", found.len())];
        for one in &found {
            Program::of(&one.on_disk).object_format().await?;
            if one.on_disk.join("lfs/objects").is_dir() {
                notes.push(format!(
                    "\"{}\" has files in Git LFS, which are not captured with it: name its lfs/objects in a component of kind \"files\"",
                    one.on_disk.display()
                ));
            }
        }
        Ok(Look { version, notes })
    }

    async fn capture(&self, sink: &mut Sink) -> Result<Captured, ComponentError> {
        let version = program::version().await?;
        let begun_us = (self.now_us)();
        let chains = Chains::load(sink.take_before()).await?;
        let (mut all, mut totals) = (Vec::new(), Totals::default());
        for found in self.find().await? {
            let opened = open(found, &chains, sink).await?;
            totals.add(&opened.git, &opened.found.path, &opened.refs).await?;
            all.push(opened);
        }
        let written = sink.hand(|lanes| write(&all, lanes)).await?;
        let kept = listed(&all)?;
        tracing::info!(
            repositories = all.len(),
            bytes = written,
            unchanged = all.iter().filter(|one| one.plan.write.is_none()).count(),
            "captured the repositories"
        );
        drop(sink.copy(kept.into_iter().map(Ok)).await?);
        Ok(Captured {
            version,
            facts: totals.facts().await?,
            as_of_us: Some(begun_us),
            standing: Vec::new(),
        })
    }

    async fn compare(
        &self,
        captured: &BTreeMap<String, String>,
        restored: &Path,
    ) -> Result<Vec<String>, ComponentError> {
        compare(captured, restored).await
    }
}

impl Git {
    async fn find(&self) -> Result<Vec<Found>, ComponentError> {
        let (roots, excludes) = (self.repositories.clone(), self.excludes.clone());
        let finding = tokio::task::spawn_blocking(move || find(&roots, &excludes));
        finding.await.map_err(|_| ComponentError::Stopped)?
    }
}

async fn open(found: Found, chains: &Chains, sink: &Sink) -> Result<Opened, ComponentError> {
    let git = Program::of(&found.on_disk);
    let format = git.object_format().await?;
    let refs = Refs::read(&git).await?;
    refs::warn_of_stashes(&git, &refs).await?;
    if found.on_disk.join("worktrees").is_dir() {
        let repository = found.on_disk.display();
        tracing::warn!(%repository, "it has further work trees: commits in them that no branch leads to are not captured");
    }
    let plan = chains.plan(&git, &found.path, &refs, sink).await?;
    Ok(Opened {
        found,
        git,
        format,
        refs,
        plan,
    })
}

/// Hands new bundles and the formats over; returns the bytes of the bundles.
async fn write(all: &[Opened], lanes: Lanes) -> Result<u64, ComponentError> {
    let mut written = 0;
    for one in all {
        let mut lane = lanes.open_at(&one.found.stored("object-format")).await?;
        lane.send(Bytes::from(format!("{}\n", one.format))).await?;
        lane.finish();
        if let Some(bundle) = &one.plan.write {
            let name = format!("{:06}.bundle", one.plan.keep.len() + 1);
            let lane = lanes.open_at(&one.found.stored(&name)).await?;
            written += bundle.write(&one.git, &one.format, lane).await?;
        }
    }
    Ok(written)
}

/// What needs no reading: bundles of before, and refs.
fn listed(all: &[Opened]) -> Result<Vec<Listed>, ComponentError> {
    let mut listed = Vec::new();
    for one in all {
        listed.extend(one.plan.keep.iter().map(kept));
        for (name, target) in one.refs.all() {
            let mut path = one.found.stored("");
            path.extend_from_slice(name);
            crate::target::refuse_path(&path)?;
            listed.push(Listed::Entry(FileEntry {
                target: Some(target.bytes().to_vec().into()),
                ..FileEntry::bare(path, EntryType::Link, 0o777)
            }));
        }
    }
    Ok(listed)
}

/// A bundle that the backup before has.
fn kept(entry: &FileEntry) -> Listed {
    let job = FileJob {
        path: entry.path.to_vec(),
        on_disk: PathBuf::from(std::ffi::OsStr::from_bytes(&entry.path)),
        mode: entry.mode,
        size: entry.size,
        class: EntryClass::Content,
        first_block: 0,
        is_judged: false,
        may_vanish: false,
        attributes: None,
    };
    let stored = StoredContent {
        content: entry.content.clone(),
        crc32c: entry.crc32c.unwrap_or_default(),
    };
    Listed::Kept(job, stored)
}

/// What differs from what was captured: of repositories that were built, and of others as they would be.
pub(crate) async fn compare(
    captured: &BTreeMap<String, String>,
    restored: &Path,
) -> Result<Vec<String>, ComponentError> {
    let (now, mut differs) = build::totals_below(restored).await?;
    let now = now.facts().await?;
    for (name, was) in captured {
        let found = now.get(name).map_or("none", String::as_str);
        if found != was {
            differs.push(format!("{name}: {was} captured, {found} there"));
        }
    }
    Ok(differs)
}
