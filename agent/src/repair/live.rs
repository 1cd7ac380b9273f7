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
use store::repair::{Places, add_spare, is_missing, places_of, rebuild_index, rebuild_pack};
use store::repository::{MadeUp, Repository, Writer};

use super::report::Mended;
use super::{Broken, data_directory, manifest_of};
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
    /// Where the chunks of all damaged packs were.
    places: Places,
}

impl Ways {
    pub(super) async fn of(
        context: &Context,
        options: &RepairOptions,
        repository: &Arc<Repository>,
        manifests: &[Manifest],
        left: &[&Broken],
    ) -> anyhow::Result<Self> {
        let writer = match left.is_empty() {
            true => None,
            false => Some(writer(context).await),
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
        let packs = left
            .iter()
            .filter_map(|broken| match repository.layout().parse(broken.name.as_str()) {
                Some(Named::Pack(id)) => Some(id),
                _ => None,
            });
        let packs: BTreeSet<PackId> = packs.collect();
        let places = match directory.is_some() && !packs.is_empty() {
            true => places_of(repository, manifests, &packs).await?,
            false => Places::default(),
        };
        Ok(Ways {
            places,
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
        let Some(lineage) = self.lineage_of(id) else {
            return Ok(None);
        };
        let mut files = Files::new(directory);
        let read = |path: &[u8], at: u64, len: usize| files.read(path, at, len);
        let Some(rebuilt) = rebuild_pack(writer, (id, lineage), &self.places, read, output::now_us()).await? else {
            return Ok(None);
        };
        let is_all = rebuilt.held == rebuilt.chunks;
        let is_gone = is_missing(&self.repository, &broken.name).await?;
        let lies_at = match dry_run {
            true if self.repository.would_count(&broken.name, &rebuilt.bytes).await? => None,
            true => return Ok(None),
            false => match add_spare(&self.repository, &broken.name, rebuilt.bytes, output::now_us()).await? {
                None => return Ok(None),
                lies_at => lies_at,
            },
        };
        // What is left of the pack itself may hold the rest. Of one that is missing nobody knows what else it had.
        let is_whole = match &lies_at {
            _ if is_gone => false,
            Some(_) => is_all || self.repository.made_up(&broken.name).await? == MadeUp::Wholly,
            None => is_all,
        };
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
        let rebuilt = rebuild_index(writer, &manifest, dry_run, output::now_us()).await?;
        Ok(Some(Mended {
            from: match &rebuilt {
                Some(_) => "the footers of packs".into(),
                None => "other indexes, which name all that it named".into(),
            },
            lies_at: rebuilt.filter(|_| !dry_run),
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
            let path_on_disk = self.directory.join(OsStr::from_bytes(path));
            let is_file = std::fs::metadata(&path_on_disk).is_ok_and(|meta| meta.is_file());
            let file = is_file.then(|| File::open(path_on_disk).ok()).flatten();
            self.open = Some((path.to_vec(), file));
        }
        let file = self.open.as_ref()?.1.as_ref()?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, at).ok()?;
        Some(bytes)
    }
}
