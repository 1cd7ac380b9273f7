//! A computed view: which backups there are, which WAL, which holes. Names and headers are the only source.

mod coverage;

pub use coverage::{Coverage, Hole, TimelineCoverage};

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use pg::lsn::Lsn;
use pg::timeline::{TimelineHistory, TimelineId};

use crate::component::is_name;
use crate::envelope::Kind;
use crate::error::StoreError;
use crate::id::{BackupId, LineageId};
use crate::index::ChunkIndex;
use crate::layout::{Lane, WalName};
use crate::limits::READS_IN_FLIGHT;
use crate::manifest::Manifest;
use crate::object::{ObjectName, list_all};
use crate::records::{BackupProgress, GIVEN_UP, LedgerEntry, Lineage, LostWal, Proof};
use crate::repository::{ReadObject, Repository};

/// How often WAL that seems to be missing is looked for again, and how long after.
const LOOKS_FOR_MISSING: u32 = 3;
const MISSING_PAUSE: Duration = Duration::from_secs(1);

/// Half of a record, left by a broken connection, must not stop the archive: its writer has said it again elsewhere. One that nobody of
/// ours has signed must not either: who may only put could stop it for good.
fn left_out_if_untrusted<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Ok(record) => Ok(Some(record)),
        Err(error) if error.is_untrusted() => {
            alarm(&error);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn alarm(error: &StoreError) {
    tracing::error!(%error, "a record is damaged or planted, and left out");
}

/// Those that can be read; where there are some and none can be, the first error.
fn readable<T>(read: Vec<Result<Option<T>, StoreError>>) -> Result<Vec<T>, StoreError> {
    let mut out = Vec::new();
    let mut wrong = None;
    for record in read {
        match record {
            Ok(record) => out.extend(record),
            Err(error) if error.is_untrusted() => {
                alarm(&error);
                wrong.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    match wrong {
        Some(error) if out.is_empty() => Err(error),
        _ => Ok(out),
    }
}

impl Repository {
    /// Ids of all backups, oldest first.
    ///
    /// # Errors
    /// The store failed.
    pub async fn backup_ids(&self) -> Result<Vec<BackupId>, StoreError> {
        let prefix = self.layout().prefix("backups");
        let listed = list_all(self.store().as_ref(), &prefix).await?;
        Ok(listed
            .iter()
            .filter_map(|meta| meta.name.as_str().strip_prefix(&prefix)?.parse().ok())
            .collect())
    }

    /// One manifest, where backups may refer to what it refers to. `None`: it was written before a signer was revoked, or came too late.
    ///
    /// # Errors
    /// As [`Repository::manifest`].
    pub async fn manifest_to_build_on(&self, backup: BackupId) -> Result<Option<Manifest>, StoreError> {
        let name = self.layout().manifest(backup)?;
        let read = self.read(&name).await?;
        if !self.may_be_built_on(&read) {
            return Ok(None);
        }
        let manifest = self.manifest_of(backup, read)?;
        Ok(self.is_in_time(&manifest).await?.then_some(manifest))
    }

    /// True when a backup came within the time that it may take, by the store's clock: its packs are kept for it. One that came later may lose
    /// what it refers to.
    ///
    /// # Errors
    /// The store failed.
    pub async fn is_in_time(&self, manifest: &Manifest) -> Result<bool, StoreError> {
        let stored = self.store().head(&self.layout().manifest(manifest.backup)?).await?;
        let begun = self.store().head(&self.layout().intent(manifest.backup)?).await?;
        let limit_ms = manifest.duration_max_ms();
        let took_ms = stored
            .zip(begun)
            .map(|(stored, begun)| stored.modified_unix_ms.saturating_sub(begun.modified_unix_ms));
        Ok(took_ms.is_some_and(|took_ms| took_ms <= limit_ms))
    }

    /// One manifest.
    ///
    /// # Errors
    /// Missing or damaged.
    pub async fn manifest(&self, backup: BackupId) -> Result<Manifest, StoreError> {
        let name = self.layout().manifest(backup)?;
        let read = self.read(&name).await?;
        self.manifest_of(backup, read)
    }

    fn manifest_of(&self, backup: BackupId, read: ReadObject) -> Result<Manifest, StoreError> {
        let name = read.head.name().to_owned();
        let manifest: Manifest = self.record_of(read, Kind::Manifest)?;
        if manifest.backup == backup {
            Ok(manifest)
        } else {
            Err(StoreError::damaged(&name, "speaks of another backup"))
        }
    }

    /// The furthest that a backup came which was begun after `after` and has no manifest; of several such backups the newest that can
    /// be read.
    ///
    /// # Errors
    /// The store failed.
    pub async fn unfinished(&self, after: Option<BackupId>) -> Result<Option<BackupProgress>, StoreError> {
        let prefix = self.layout().prefix("intents");
        let listed = list_all(self.store().as_ref(), &prefix).await?;
        let newest_first = listed.iter().rev().filter_map(|meta| {
            let (backup, number) = meta.name.as_str().strip_prefix(&prefix)?.split_once('/')?;
            u32::from_str_radix(number, 16).ok()?;
            let backup: BackupId = backup.parse().ok()?;
            (Some(backup) > after).then_some((backup, &meta.name))
        });
        for (backup, name) in newest_first {
            let read = match self.read(name).await {
                Ok(read) if !self.may_be_built_on(&read) => continue,
                read => read,
            };
            let record = read.and_then(|read| self.record_of::<BackupProgress>(read, Kind::Progress));
            if record.as_ref().is_err_and(StoreError::is_not_found) {
                continue;
            }
            match record {
                Ok(progress) if progress.backup == backup => return Ok(Some(progress)),
                Ok(_) => tracing::warn!(%name, "the progress of a backup speaks of another one; it is passed over"),
                Err(error) if error.damaged_object().is_some() => {
                    tracing::warn!(%name, %error, "cannot read how far a backup came; it is passed over");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The cluster's base backups that can be read, oldest first; those of components are not among them. One that is damaged or planted is left
    /// out, with an alarm: who may only put must not keep others from their backups.
    ///
    /// # Errors
    /// The store failed, or none can be read.
    pub async fn manifests(&self) -> Result<Vec<Manifest>, StoreError> {
        let mut manifests = self.all_manifests().await?;
        manifests.retain(|manifest| manifest.component.is_none());
        Ok(manifests)
    }

    /// The backups of components that can be read, oldest first.
    ///
    /// # Errors
    /// As [`Self::manifests`].
    pub async fn component_manifests(&self) -> Result<Vec<Manifest>, StoreError> {
        let mut manifests = self.all_manifests().await?;
        // A name becomes the name of a directory: what is none was not written by us.
        manifests.retain(|manifest| match manifest.component_name() {
            Some(name) if !is_name(name) => {
                tracing::warn!(backup = %manifest.backup, "passed over: its component has a name that is none");
                false
            }
            name => name.is_some(),
        });
        Ok(manifests)
    }

    /// As [`Self::manifests`], with those of components.
    ///
    /// # Errors
    /// As there.
    pub async fn all_manifests(&self) -> Result<Vec<Manifest>, StoreError> {
        let read = stream::iter(self.backup_ids().await?).map(async |backup| match self.manifest(backup).await {
            // Given up since it was listed.
            Err(error) if error.is_not_found() => Ok(None),
            manifest => manifest.map(Some),
        });
        readable(read.buffered(READS_IN_FLIGHT).collect().await)
    }

    /// All lineages, oldest first, for who writes: not to know one would be to begin it anew.
    ///
    /// # Errors
    /// Any is damaged, or the store failed.
    pub async fn lineages(&self) -> Result<Vec<Lineage>, StoreError> {
        self.lineage_records().await?.into_iter().collect()
    }

    /// All lineages that can be read, oldest first, for who only reads. One that is damaged or planted is left out, with an alarm.
    ///
    /// # Errors
    /// The store failed, or none can be read.
    pub async fn readable_lineages(&self) -> Result<Vec<Lineage>, StoreError> {
        let records = self.lineage_records().await?;
        readable(records.into_iter().map(|record| record.map(Some)).collect())
    }

    async fn lineage_records(&self) -> Result<Vec<Result<Lineage, StoreError>>, StoreError> {
        let prefix = self.layout().prefix("lineages");
        let listed = list_all(self.store().as_ref(), &prefix).await?;
        let read = stream::iter(listed).map(async |meta| {
            let lineage = self.read_record::<Lineage>(&meta.name, Kind::Lineage).await;
            lineage.and_then(|lineage| {
                match meta.name.as_str().strip_prefix(&prefix) == Some(&lineage.id.to_string()) {
                    true => Ok(lineage),
                    false => Err(StoreError::damaged(&meta.name, "speaks of another lineage")),
                }
            })
        });
        Ok(read.buffered(READS_IN_FLIGHT).collect().await)
    }

    /// The content chunks of all backups. A damaged index is left out, loudly: what it knew is stored anew.
    ///
    /// # Errors
    /// The store failed.
    pub async fn chunk_index(&self) -> Result<ChunkIndex, StoreError> {
        let mut all = ChunkIndex::default();
        for meta in list_all(self.store().as_ref(), &self.layout().prefix("index")).await? {
            let read = match self.read(&meta.name).await {
                Ok(read) if !self.may_be_built_on(&read) => continue,
                read => read.and_then(|read| self.read_plain_of(read)),
            };
            match read.and_then(|(_, plain)| ChunkIndex::decode(meta.name.as_str(), &plain)) {
                Ok(index) => all.extend(index),
                Err(error) if error.is_not_found() => {}
                Err(error) if error.is_untrusted() => {
                    tracing::error!(%error, "an index of an earlier backup cannot be used; the files that it knew are stored anew");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Which WAL of a lineage is in the repository, and which timeline histories. Three listings; no object is read but histories
    /// and declared holes.
    ///
    /// # Errors
    /// The store failed.
    pub async fn coverage(&self, lineage: LineageId) -> Result<Coverage, StoreError> {
        let mut coverage = Coverage::new(lineage);
        let mut histories = BTreeMap::new();
        let listed = async |lane| list_all(self.store().as_ref(), &self.layout().wal_prefix(lane, lineage)).await;
        // A tail goes once what covers it is durable: who lists it later finds that.
        let tails = listed(Lane::Tail).await?;
        let whole = listed(Lane::Wal).await?;
        // A hole is written down before what was in it is deleted.
        let lost = self.declared_holes().await?;
        for meta in whole.into_iter().chain(tails) {
            match self.layout().parse_wal(meta.name.as_str()) {
                Some(WalName::Range(range)) => coverage.add(range),
                Some(WalName::History { timeline, .. }) => {
                    let names: &mut Vec<_> = histories.entry(timeline).or_default();
                    names.push(meta.name);
                }
                None => {}
            }
        }
        for (timeline, names) in histories {
            if let Some((history, _)) = self.newest_history(timeline, names).await? {
                coverage.add_history(history);
            }
        }
        for lost in lost {
            if lost.lineage == lineage
                && let Some(timeline) = TimelineId::new(lost.timeline)
            {
                let hole = Hole {
                    timeline,
                    start: Lsn::new(lost.start),
                    end: Lsn::new(lost.end),
                };
                match lost.reason == GIVEN_UP {
                    true => coverage.given_up.push(hole),
                    false => coverage.add_hole(hole),
                }
            }
        }
        coverage.finish();
        Ok(coverage)
    }

    /// The archived history file of a timeline, byte for byte; none when there is none that can be read.
    ///
    /// # Errors
    /// The store failed.
    pub async fn history_file(&self, lineage: LineageId, timeline: TimelineId) -> Result<Option<Vec<u8>>, StoreError> {
        let prefix = format!(
            "{}{}/history.",
            self.layout().wal_prefix(Lane::Wal, lineage),
            timeline.hex8()
        );
        let listed = list_all(self.store().as_ref(), &prefix).await?;
        let is_history = |name: &ObjectName| {
            let parsed = self.layout().parse_wal(name.as_str());
            matches!(parsed, Some(WalName::History { .. }))
        };
        let names = listed.into_iter().map(|meta| meta.name).filter(is_history).collect();
        let newest = self.newest_history(timeline, names).await?;
        Ok(newest.map(|(_, bytes)| bytes))
    }

    /// The history of a timeline by the highest epoch that can be read: a broken connection can leave half of one under its name, and
    /// then it is archived again under another. None: as if it were not there.
    async fn newest_history(
        &self,
        timeline: TimelineId,
        mut names: Vec<ObjectName>,
    ) -> Result<Option<(TimelineHistory, Vec<u8>)>, StoreError> {
        names.sort();
        for name in names.iter().rev() {
            match self.read_history(name, timeline).await {
                Ok(found) => return Ok(Some(found)),
                Err(error) if error.is_untrusted() => {
                    tracing::error!(%error, "an archived history is damaged or planted")
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// As [`Repository::coverage`], for people: uploads finish in any order, so what seems to be missing is looked for again before it
    /// is called a hole.
    ///
    /// # Errors
    /// As [`Repository::coverage`].
    pub async fn settled_coverage(&self, lineage: LineageId) -> Result<Coverage, StoreError> {
        let mut coverage = self.coverage(lineage).await?;
        for _ in 0..LOOKS_FOR_MISSING {
            let timeline = coverage.newest_timeline();
            if timeline.is_none_or(|timeline| coverage.first_undeclared_hole(timeline).is_none()) {
                break;
            }
            tokio::time::sleep(MISSING_PAUSE).await;
            coverage = self.coverage(lineage).await?;
        }
        Ok(coverage)
    }

    /// All declared holes, oldest first. A damaged one is left out, with an alarm.
    ///
    /// # Errors
    /// The store failed.
    pub async fn declared_holes(&self) -> Result<Vec<LostWal>, StoreError> {
        let listed = list_all(self.store().as_ref(), &self.layout().prefix("holes")).await?;
        let read = stream::iter(listed).map(async |meta| {
            let read = self.read(&meta.name).await;
            let by_keeper = read.as_ref().is_ok_and(|read| self.is_by_keeper(read));
            match read.and_then(|read| self.record_of::<LostWal>(read, Kind::Hole)) {
                // Who archives may lose WAL; who gives it up is the keeper.
                Ok(lost) if lost.reason == GIVEN_UP && !by_keeper => {
                    tracing::error!(name = %meta.name, "WAL is said to have been given up by somebody who may not do so: it counts as lost");
                    let reason = "said to be given up by a host".into();
                    Ok(Some(LostWal { reason, ..lost }))
                }
                Err(error) if error.is_not_found() => Ok(None),
                lost => left_out_if_untrusted(lost),
            }
        });
        let read: Vec<_> = read.buffered(READS_IN_FLIGHT).try_collect().await?;
        Ok(read.into_iter().flatten().collect())
    }

    /// The ledger, oldest first. A damaged entry is left out, with an alarm.
    ///
    /// # Errors
    /// The store failed.
    pub async fn ledger(&self) -> Result<Vec<LedgerEntry>, StoreError> {
        self.records("ledger", Kind::Ledger).await
    }

    /// What was verified, oldest first. A damaged entry is left out, with an alarm.
    ///
    /// # Errors
    /// The store failed.
    pub async fn proofs(&self) -> Result<Vec<Proof>, StoreError> {
        self.records("proofs", Kind::Proof).await
    }

    /// Backups that were restored and proven, as somebody says who can restore: a host could say so of what it has spoilt.
    ///
    /// # Errors
    /// The store failed.
    pub async fn proven_backups(&self) -> Result<BTreeSet<BackupId>, StoreError> {
        let listed = list_all(self.store().as_ref(), &self.layout().prefix("proofs")).await?;
        let read = stream::iter(listed).map(async |meta| {
            let read = match self.read(&meta.name).await {
                Ok(read) if self.is_by_restorer(&read) => self.record_of::<Proof>(read, Kind::Proof),
                Ok(_) => return Ok(None),
                Err(error) => Err(error),
            };
            left_out_if_untrusted(read)
        });
        let read: Vec<_> = read.buffered(READS_IN_FLIGHT).try_collect().await?;
        let proven = read.into_iter().flatten().filter(|proof| proof.damaged == 0);
        Ok(proven.filter_map(|proof| proof.backup).collect())
    }

    async fn records<T>(&self, directory: &str, kind: Kind) -> Result<Vec<T>, StoreError>
    where
        T: for<'b> minicbor::Decode<'b, ()>,
    {
        let listed = list_all(self.store().as_ref(), &self.layout().prefix(directory)).await?;
        let read =
            stream::iter(listed).map(async |meta| left_out_if_untrusted(self.read_record(&meta.name, kind).await));
        let read: Vec<_> = read.buffered(READS_IN_FLIGHT).try_collect().await?;
        Ok(read.into_iter().flatten().collect())
    }

    /// A timeline history object: parsed, and its bytes.
    ///
    /// # Errors
    /// Missing or damaged.
    pub async fn read_history(
        &self,
        name: &ObjectName,
        timeline: TimelineId,
    ) -> Result<(TimelineHistory, Vec<u8>), StoreError> {
        let (header, plain) = self.read_plain(name).await?;
        if header.timeline != Some(timeline.as_u32()) {
            return Err(StoreError::damaged(
                name,
                "its header speaks of another timeline than its name",
            ));
        }
        let history = TimelineHistory::parse(timeline, &plain).map_err(|error| StoreError::damaged(name, error))?;
        Ok((history, plain))
    }

    /// A CBOR record of a kind.
    ///
    /// # Errors
    /// Missing, damaged, or of another kind.
    pub async fn read_record<T>(&self, name: &ObjectName, kind: Kind) -> Result<T, StoreError>
    where
        T: for<'b> minicbor::Decode<'b, ()>,
    {
        self.record_of(self.read(name).await?, kind)
    }

    fn record_of<T>(&self, read: ReadObject, kind: Kind) -> Result<T, StoreError>
    where
        T: for<'b> minicbor::Decode<'b, ()>,
    {
        let name = read.head.name().to_owned();
        if read.head.kind != kind {
            return Err(StoreError::damaged(
                name,
                format!("is a {:?} where a {kind:?} belongs", read.head.kind),
            ));
        }
        let (_, plain) = self.read_plain_of(read)?;
        minicbor::decode(&plain).map_err(|error| StoreError::damaged(name, error))
    }
}
