//! What lies in the repository, in the order in which it must be looked at: time, manifests, lists, and then the rest.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use roaring::RoaringBitmap;

use super::ListSeen;
use crate::envelope::Kind;
use crate::error::StoreError;
use crate::id::{BackupId, LineageId, PackId};
use crate::inventory::Named;
use crate::layout::WalRange;
use crate::limits::READS_IN_FLIGHT;
use crate::manifest::Manifest;
use crate::object::{ErrorClass, ObjectMeta, ObjectName, list_all};
use crate::records::{Condemned, Lineage};
use crate::repository::{NewObject, Repository, Writer};
use crate::retention::TimelineOf;
use crate::session::to_cbor;
use crate::sweep::{self, ManifestSeen, PackNumbers};

/// A backup, as far as retention and people need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupSeen {
    /// Its id.
    pub id: BackupId,
    /// Lineage it was taken in.
    pub lineage: LineageId,
    /// Timeline.
    pub timeline: u32,
    /// WAL is needed from here.
    pub start_lsn: u64,
    /// Consistent from here.
    pub end_lsn: u64,
    /// When it ended, microseconds since 1970 by its host's clock.
    pub finished_us: i64,
    /// When its manifest was stored.
    pub stored_ms: i64,
    /// Bytes of its files.
    pub logical_bytes: u64,
    /// What the operator calls it.
    pub label: Option<String>,
    /// The component that it is of; none for a base backup of the cluster.
    pub component: Option<String>,
}

/// Everything that a plan is made from.
#[derive(Debug, Default)]
pub struct Looked {
    /// The backups, oldest first.
    pub backups: Vec<BackupSeen>,
    /// Backups that stay because somebody said so.
    pub pinned: BTreeSet<BackupId>,
    /// Backups that were restored and proven.
    pub(super) proven: BTreeSet<BackupId>,
    /// Packs, lists and manifests, for the sweep.
    pub(super) sweep: sweep::Seen,
    pub(super) numbers: PackNumbers,
    /// Where packs lie, by number.
    pub(super) packs: BTreeMap<sweep::PackNumber, ObjectMeta>,
    /// The lists, as in `sweep.lists`.
    pub(super) lists: Vec<ListSeen>,
    /// WAL objects and tails.
    pub(super) wal: Vec<(WalRange, ObjectMeta)>,
    /// What came from which.
    pub(super) timelines: Vec<TimelineOf>,
    /// Intents and progress objects.
    pub(super) intents: Vec<(BackupId, Named, ObjectMeta)>,
    /// Spares, whether they count or not, and what they stand in for.
    pub(super) spares: Vec<(Named, ObjectMeta)>,
    /// Of each lineage.
    pub(super) segment_bytes: BTreeMap<LineageId, u64>,
    /// Backups that have left an index.
    pub(super) indexes: Vec<BackupId>,
    /// Bytes of all objects.
    pub bytes: u64,
}

/// Stores an empty list, whose time is when the run began. It names no pack, and is removed at the end.
///
/// # Errors
/// The store failed, or may not be written to.
pub async fn mark_time(writer: &Writer, host: &str, now_us: i64) -> Result<(ObjectName, i64), StoreError> {
    let repository = writer.repository();
    let list = Condemned {
        time_us: now_us,
        host: host.to_owned(),
        ..Condemned::default()
    };
    let name = put_list(writer, &list).await?;
    let meta = repository.store().head(&name).await?;
    let meta = meta.ok_or_else(|| StoreError::Limit {
        what: "the time that this run takes",
        detail: "another one has found its mark older than the grace, and removed it; begin again".into(),
    })?;
    Ok((name, meta.modified_unix_ms))
}

/// Stores a list under a new name.
pub(super) async fn put_list(writer: &Writer, list: &Condemned) -> Result<ObjectName, StoreError> {
    let unix_ms = u64::try_from(list.time_us / 1000).unwrap_or(0);
    let id = BackupId::from_parts(unix_ms, crate::entropy::bytes()?);
    let name = writer.repository().layout().condemned(id)?;
    let plain = to_cbor(list)?;
    writer
        .put(&name, NewObject::metadata(Kind::Condemned, &plain, list.time_us))
        .await?;
    Ok(name)
}

/// Backups that stay because somebody said so. The name alone counts: a pin that was damaged is one all the same.
///
/// # Errors
/// The store failed.
pub async fn pinned(repository: &Repository) -> Result<BTreeSet<BackupId>, StoreError> {
    let listed = list_all(repository.store().as_ref(), &repository.layout().prefix("pins")).await?;
    let pins = listed
        .iter()
        .filter_map(|meta| match repository.layout().parse(meta.name.as_str()) {
            Some(Named::Pin(backup)) => Some(backup),
            _ => None,
        });
    Ok(pins.collect())
}

impl Looked {
    /// Looks. `now_ms` is the store's time of before; `grace_ms` decides whether a timeline that was left behind may still be written.
    ///
    /// # Errors
    /// The store failed; or a manifest or a list cannot be read, and nobody knows what it needs.
    pub async fn look(repository: &Repository, now_ms: i64, grace_ms: i64) -> Result<Self, StoreError> {
        let mut looked = Looked::default();
        looked.sweep.now_ms = now_ms;
        looked.manifests(repository).await?;
        looked.lists = read_lists(repository).await?;
        looked.list(repository, "pins").await?;
        looked.pinned = pinned(repository).await?;
        looked.proven = repository.proven_backups().await?;
        for meta in repository.refresh_spares().await? {
            looked.bytes += meta.size;
            let original = repository.layout().original_of(meta.name.as_str());
            if let Some(named) = original.and_then(|original| repository.layout().parse(original.as_str())) {
                looked.spares.push((named, meta));
            }
        }
        // Before the packs: an index names none that is not there yet.
        for meta in looked.list(repository, "index").await? {
            if let Some(Named::Index(id)) = repository.layout().parse(meta.name.as_str()) {
                looked.indexes.push(id);
            }
        }
        for meta in looked.list(repository, "packs").await? {
            if let Some(Named::Pack(id)) = repository.layout().parse(meta.name.as_str()) {
                let number = looked.numbers.number(id);
                looked.sweep.packs.insert(number, meta.modified_unix_ms);
                looked.packs.insert(number, meta);
            }
        }
        let lists = looked.lists.iter().map(|seen| sweep::ListSeen {
            stored_ms: seen.meta.modified_unix_ms,
            looked_ms: seen.list.looked_ms,
            packs: seen
                .list
                .packs
                .iter()
                .map(|pack| looked.numbers.number(*pack))
                .collect(),
        });
        looked.sweep.lists = lists.collect();
        for directory in ["wal", "tail"] {
            for meta in looked.list(repository, directory).await? {
                if let Some(Named::Wal(range)) = repository.layout().parse(meta.name.as_str()) {
                    looked.wal.push((range, meta));
                }
            }
        }
        let lineages = repository.lineages().await?;
        looked.segment_bytes = lineages
            .iter()
            .map(|lineage| (lineage.id, lineage.segment_bytes))
            .collect();
        looked.timelines = timelines(repository, &lineages, &looked.wal, now_ms, grace_ms).await?;
        Ok(looked)
    }

    /// True when a pack was there.
    pub(super) fn has_pack(&self, pack: PackId) -> bool {
        let number = self.numbers.known(pack);
        number.is_some_and(|number| self.packs.contains_key(&number))
    }

    async fn list(&mut self, repository: &Repository, directory: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let listed = list_all(repository.store().as_ref(), &repository.layout().prefix(directory)).await?;
        self.bytes += listed.iter().map(|meta| meta.size).sum::<u64>();
        Ok(listed)
    }

    async fn manifests(&mut self, repository: &Repository) -> Result<(), StoreError> {
        let listed = self.list(repository, "backups").await?;
        // Listed after the manifests: of each manifest that is seen the intent was there before.
        for meta in self.list(repository, "intents").await? {
            let parsed = repository.layout().parse(meta.name.as_str());
            if let Some(named @ (Named::Intent(id) | Named::Progress(id, _))) = parsed {
                self.intents.push((id, named, meta));
            }
        }
        let is_start = |named: &Named| matches!(named, Named::Intent(_));
        let starts = self.intents.iter().filter(|(_, named, _)| is_start(named));
        let starts: BTreeMap<BackupId, i64> = starts.map(|(id, _, meta)| (*id, meta.modified_unix_ms)).collect();
        let named = listed.into_iter().filter_map(|meta| {
            let parsed = repository.layout().parse(meta.name.as_str());
            let Some(Named::Manifest(id)) = parsed else { return None };
            Some((id, meta))
        });
        let mut read = stream::iter(named)
            .map(async |(id, meta)| Ok::<_, StoreError>((manifest(repository, id).await?, meta)))
            .buffered(READS_IN_FLIGHT);
        while let Some((manifest, meta)) = read.try_next().await? {
            let Some(manifest) = manifest else { continue };
            let packs = manifest.packs.iter().map(|need| self.numbers.number(need.id));
            let packs: RoaringBitmap = packs.collect();
            self.sweep.manifests.push(ManifestSeen {
                backup: manifest.backup,
                stored_ms: meta.modified_unix_ms,
                intent_stored_ms: starts.get(&manifest.backup).copied(),
                duration_max_ms: manifest.duration_max_ms(),
                packs,
            });
            self.backups.push(BackupSeen {
                id: manifest.backup,
                lineage: manifest.lineage,
                timeline: manifest.timeline,
                start_lsn: manifest.start_lsn,
                end_lsn: manifest.end_lsn,
                finished_us: manifest.finished_us,
                stored_ms: meta.modified_unix_ms,
                logical_bytes: manifest.totals.logical_bytes,
                component: manifest.component.map(|component| component.name),
                label: manifest.label,
            });
        }
        Ok(())
    }
}

/// A manifest; none when somebody else has deleted it meanwhile. One whose signature does not count stops the run: it may be that of a host of which
/// we do not know, or of a copy whose objects all look younger than a revocation.
async fn manifest(repository: &Repository, id: BackupId) -> Result<Option<Manifest>, StoreError> {
    match repository.manifest(id).await {
        Ok(manifest) => Ok(Some(manifest)),
        Err(StoreError::Object(error)) if error.class() == ErrorClass::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// All lists that count. One that is damaged stops the run: what it names might be deleted too early, or be referred to.
async fn read_lists(repository: &Repository) -> Result<Vec<ListSeen>, StoreError> {
    let prefix = repository.layout().prefix("condemned");
    let listed = list_all(repository.store().as_ref(), &prefix).await?;
    let read = stream::iter(listed)
        .map(async |meta| Ok::<_, StoreError>((repository.condemned_list(&meta.name).await?, meta)))
        .buffered(READS_IN_FLIGHT);
    let read: Vec<_> = read.try_collect().await?;
    let lists = read.into_iter();
    Ok(lists
        .filter_map(|(list, meta)| Some(ListSeen { meta, list: list? }))
        .collect())
}

impl Repository {
    /// A list of what is to be deleted; none when it is gone, or not the keeper's.
    ///
    /// # Errors
    /// The store failed, or it is damaged.
    pub async fn condemned_list(&self, name: &ObjectName) -> Result<Option<Condemned>, StoreError> {
        match self.read_record::<Condemned>(name, Kind::Condemned).await {
            Ok(list) => Ok(Some(list)),
            Err(StoreError::Object(error)) if error.class() == ErrorClass::NotFound => Ok(None),
            Err(error @ StoreError::Untrusted { .. }) => {
                tracing::error!(%error, "a list of what is to be deleted does not count");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// All packs that nobody is to refer to any more. Read it after the intent is stored.
    ///
    /// # Errors
    /// The store failed, or a list is damaged.
    pub async fn condemned_packs(&self) -> Result<BTreeSet<PackId>, StoreError> {
        let lists = read_lists(self).await?;
        Ok(lists.into_iter().flat_map(|seen| seen.list.packs).collect())
    }
}

/// What is known of each timeline that has WAL, and of those that they came from.
async fn timelines(
    repository: &Repository,
    lineages: &[Lineage],
    wal: &[(WalRange, ObjectMeta)],
    now_ms: i64,
    grace_ms: i64,
) -> Result<Vec<TimelineOf>, StoreError> {
    let newest_lineage = lineages.iter().map(|lineage| lineage.id).max();
    let mut known = Vec::new();
    for lineage in lineages {
        let mut newest: BTreeMap<u32, i64> = BTreeMap::new();
        for (range, meta) in wal.iter().filter(|(range, _)| range.lineage == lineage.id) {
            let stored_ms = newest.entry(range.timeline.as_u32()).or_insert(i64::MIN);
            *stored_ms = (*stored_ms).max(meta.modified_unix_ms);
        }
        let histories = repository.coverage(lineage.id).await?.histories;
        let mut parents: BTreeMap<u32, BTreeSet<(u32, u64)>> = BTreeMap::new();
        for history in histories.values() {
            let line = history
                .entries
                .iter()
                .map(|entry| (entry.timeline.as_u32(), entry.switch_point.as_u64()));
            let line: Vec<(u32, u64)> = line.collect();
            let children = line
                .iter()
                .skip(1)
                .map(|(child, _)| *child)
                .chain([history.timeline.as_u32()]);
            for (child, parent) in children.zip(&line) {
                parents.entry(child).or_default().insert(*parent);
                parents.entry(parent.0).or_default();
            }
        }
        let last = newest.keys().next_back().copied();
        let all: BTreeSet<u32> = newest.keys().chain(parents.keys()).copied().collect();
        for timeline in all {
            let is_left = Some(timeline) != last || Some(lineage.id) != newest_lineage;
            let ended_ms = match newest.get(&timeline) {
                Some(stored_ms) => (is_left && now_ms.saturating_sub(*stored_ms) > grace_ms).then_some(*stored_ms),
                // Nothing of it was ever archived, or nothing is left.
                None => Some(0),
            };
            let ended_at = ended_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
            let of = |parent| TimelineOf {
                lineage: lineage.id,
                timeline,
                parent,
                ended_at,
            };
            match parents.get(&timeline) {
                // Two of them contradict each other: retention then keeps everything.
                Some(parents) if !parents.is_empty() => known.extend(parents.iter().map(|parent| of(Some(*parent)))),
                _ => known.push(of(None)),
            }
        }
    }
    Ok(known)
}
