//! Packs from the files of the live cluster, indexes from the footers of packs. Needs this host's key: what is made anew is signed by it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use store::id::{LineageId, PackId};
use store::inventory::Named;
use store::manifest::Manifest;
use store::repair::{Places, places_of, rebuild_index, rebuild_pack};
use store::repository::{MadeUp, Repository, Writer};

use super::report::Mended;
use super::{Broken, data_directory, manifest_of, store_spare};
use crate::cli::RepairOptions;
use crate::open::{Context, backup_policy};
use crate::output;

/// What can be made anew on this host.
pub(super) struct Ways {
    /// Signs; none where there is no host key, or it does not count.
    writer: Option<Writer>,
    repository: Arc<Repository>,
    manifests: Vec<Manifest>,
    directory: Option<PathBuf>,
}

impl Ways {
    pub(super) async fn of(
        context: &Context,
        options: &RepairOptions,
        repository: &Arc<Repository>,
        manifests: &[Manifest],
        is_needed: bool,
    ) -> anyhow::Result<Self> {
        let writer = match is_needed {
            true => Some(writer(context).await),
            false => None,
        };
        let writer = match writer {
            None => None,
            Some(Ok(writer)) => Some(writer),
            Some(Err(error)) => {
                tracing::warn!("nothing is made anew from the live cluster: {error:#}");
                None
            }
        };
        let directory = match &writer {
            None => None,
            Some(_) => data_directory(context, options)
                .await
                .map_err(|error| {
                    tracing::warn!(
                        "the live cluster's files are not known, and nothing is made anew from them: {error:#}"
                    );
                })
                .ok(),
        };
        Ok(Ways {
            writer,
            repository: Arc::clone(repository),
            manifests: manifests.to_vec(),
            directory,
        })
    }

    /// Makes it anew where that can be done.
    pub(super) async fn mend(&self, broken: &Broken, dry_run: bool) -> anyhow::Result<Option<Mended>> {
        let Some(writer) = &self.writer else { return Ok(None) };
        match self.repository.layout().parse(broken.name.as_str()) {
            Some(Named::Pack(id)) => self.pack(writer, id, broken, dry_run).await,
            Some(Named::Index(_)) => self.index(writer, broken, dry_run).await,
            _ => Ok(None),
        }
    }

    async fn pack(
        &self,
        writer: &Writer,
        id: PackId,
        broken: &Broken,
        dry_run: bool,
    ) -> anyhow::Result<Option<Mended>> {
        let Some(directory) = &self.directory else {
            return Ok(None);
        };
        let places: Places = places_of(&self.repository, &self.manifests, &BTreeSet::from([id])).await?;
        let Some(lineage) = self.lineage_of(id) else {
            return Ok(None);
        };
        let mut files = Files::new(directory);
        let read = |path: &[u8], at: u64, len: usize| files.read(path, at, len);
        let Some(rebuilt) = rebuild_pack(writer, (id, lineage), &places, read, output::now_us()).await? else {
            return Ok(None);
        };
        let lies_at = store_spare(&self.repository, &broken.name, rebuilt.bytes, dry_run).await?;
        // What is left of the pack itself may hold the rest.
        let is_whole = rebuilt.held == rebuilt.chunks
            || (lies_at.is_some() && self.repository.made_up(&broken.name).await? == MadeUp::Wholly);
        Ok(Some(Mended {
            from: "the live cluster".into(),
            lies_at,
            chunks: Some((rebuilt.held, rebuilt.chunks)),
            is_whole,
        }))
    }

    async fn index(&self, writer: &Writer, broken: &Broken, dry_run: bool) -> anyhow::Result<Option<Mended>> {
        let Some(manifest) = manifest_of(&self.manifests, &broken.name, &self.repository) else {
            return Ok(None);
        };
        let Some(bytes) = rebuild_index(writer, &manifest, output::now_us()).await? else {
            return Ok(None);
        };
        Ok(Some(Mended {
            from: "the footers of packs".into(),
            lies_at: store_spare(&self.repository, &broken.name, bytes, dry_run).await?,
            chunks: None,
            is_whole: true,
        }))
    }

    /// The lineage of the oldest backup that needs a pack: it was written in that one.
    fn lineage_of(&self, pack: PackId) -> Option<LineageId> {
        let needs = |manifest: &&Manifest| manifest.packs.iter().any(|need| need.id == pack);
        self.manifests.iter().find(needs).map(|manifest| manifest.lineage)
    }
}

/// Reads and signs as this host, in the same place.
async fn writer(context: &Context) -> anyhow::Result<Writer> {
    let keys = context.host_keys()?;
    let repository = context.repository(backup_policy(), &keys).await?;
    Ok(Writer::new(repository, Arc::new(keys.signing), 0))
}

/// Files of the live cluster; the last one stays open, as its pages are asked for one after the other.
struct Files {
    directory: PathBuf,
    open: Option<(Vec<u8>, Option<File>)>,
}

impl Files {
    fn new(directory: &Path) -> Self {
        Files {
            directory: directory.to_owned(),
            open: None,
        }
    }

    fn read(&mut self, path: &[u8], at: u64, len: usize) -> Option<Vec<u8>> {
        if self.open.as_ref().is_none_or(|(open, _)| open != path) {
            // Paths of captured configuration files are absolute.
            let file = File::open(self.directory.join(OsStr::from_bytes(path))).ok();
            self.open = Some((path.to_vec(), file));
        }
        let file = self.open.as_ref()?.1.as_ref()?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, at).ok()?;
        Some(bytes)
    }
}
