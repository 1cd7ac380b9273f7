//! Is everything there, and does it fit together? Metadata only.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _};
use pg::lsn::Lsn;
use pg::timeline::TimelineId;

use super::heads::wal_heads;
use super::{Finding, judge, object};
use crate::catalog::{Coverage, TimelineCoverage};
use crate::chunk::ChunkReference;
use crate::component::lineage_of;
use crate::envelope::OBJECT_BYTES_MIN;
use crate::error::StoreError;
use crate::file_table::{EntryClass, EntryType, FileEntry};
use crate::id::{LineageId, PackId};
use crate::inventory::{Inventory, Named};
use crate::manifest::Manifest;
use crate::object::ObjectMeta;
use crate::page_map::Source;
use crate::repository::{Maps, Repository, WholeMap};

/// Small objects read at once.
const READS_IN_FLIGHT: usize = 16;

/// What the structure of a cluster's part is.
#[derive(Debug, Default)]
pub struct Structure {
    /// Everything that lies there.
    pub inventory: Inventory,
    /// Readable backups, oldest first.
    pub manifests: Vec<Manifest>,
    /// WAL by lineage.
    pub coverages: Vec<Coverage>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// How far a lineage was archived, as somebody outside of the repository remembers it: whoever takes away its newest objects leaves no
/// other trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// Lineage.
    pub lineage: LineageId,
    /// Timeline.
    pub timeline: TimelineId,
    /// End of the contiguous archived WAL.
    pub archived: Lsn,
    /// This is a place that is filled later than where it was archived first: to be behind is no damage.
    pub may_lag: bool,
}

/// Looks at all names, reads all small objects and follows all references of all backups.
///
/// # Errors
/// The store failed.
pub async fn structure(repository: &Repository, remembered: Option<Watermark>) -> Result<Structure, StoreError> {
    let inventory = Inventory::of(repository).await?;
    let mut findings = names(&inventory);
    findings.extend(small_objects(repository, &inventory).await?);
    findings.extend(epochs(repository, &inventory).await?);
    findings.extend(wal_heads(repository, &inventory).await?);
    let manifests = manifests(repository, &inventory).await?;
    let packs = inventory.packs();
    for manifest in &manifests {
        findings.extend(packs_of(repository, manifest, &packs)?);
        findings.extend(references(repository, manifest).await?);
    }
    findings.extend(intents(&inventory));
    let (coverages, wal) = wal(repository, &inventory, &manifests, remembered).await?;
    findings.extend(wal);
    findings.extend(remembered.and_then(|remembered| fallen_behind(&coverages, remembered)));
    findings.sort_by(|a, b| (b.severity, &a.object).cmp(&(a.severity, &b.object)));
    findings.dedup();
    Ok(Structure {
        inventory,
        manifests,
        coverages,
        findings,
    })
}

fn names(inventory: &Inventory) -> Vec<Finding> {
    let foreign = inventory.foreign.iter();
    let mut findings: Vec<_> = foreign
        .map(|name| Finding::notice(name, "a name that this format does not make"))
        .collect();
    let short = inventory
        .objects
        .iter()
        .filter(|(_, meta)| meta.size < OBJECT_BYTES_MIN);
    findings.extend(short.map(|(_, meta)| Finding {
        is_its_own: true,
        ..Finding::damage(&meta.name, "shorter than any object")
    }));
    findings
}

/// Everything but packs, WAL and spares of them is small: it is read whole.
async fn small_objects(repository: &Repository, inventory: &Inventory) -> Result<Vec<Finding>, StoreError> {
    let small = inventory
        .objects
        .iter()
        .filter(|(named, _)| !matches!(named, Named::Pack(_) | Named::Wal(_) | Named::Spare));
    let looks = small.map(|(named, meta)| object(repository, *named, meta));
    let results: Vec<_> = futures::stream::iter(looks)
        .buffered(READS_IN_FLIGHT)
        .try_collect()
        .await?;
    Ok(results.into_iter().filter_map(Result::err).collect())
}

/// Epochs are numbered without a gap, and nobody writes under one that was never leased.
async fn epochs(repository: &Repository, inventory: &Inventory) -> Result<Vec<Finding>, StoreError> {
    let mut leased = BTreeSet::new();
    let mut used = BTreeMap::new();
    for (named, meta) in &inventory.objects {
        match named {
            Named::Lease(epoch) => {
                leased.insert(*epoch);
            }
            Named::Wal(range) => {
                used.entry(range.epoch).or_insert(&meta.name);
            }
            _ => {}
        }
    }
    let newest = leased.last().copied().unwrap_or(0);
    // Who finds a name taken by bytes that are not his takes the next epoch: a gap can be that.
    let gaps = (1..newest).filter(|epoch| !leased.contains(epoch));
    let mut findings: Vec<_> = gaps
        .map(|epoch| Finding::notice(format!("leases/{epoch:08x}"), "the lease of this epoch is missing"))
        .collect();
    for (epoch, name) in used.into_iter().filter(|(epoch, _)| *epoch > newest) {
        // Leases were listed before WAL: this one may be newer than its part of the listing.
        if repository
            .store()
            .head(&repository.layout().lease(epoch)?)
            .await?
            .is_none()
        {
            findings.push(Finding::damage(name, "the lease of its epoch is missing"));
        }
    }
    Ok(findings)
}

/// Those that can be read; the others were found already.
async fn manifests(repository: &Repository, inventory: &Inventory) -> Result<Vec<Manifest>, StoreError> {
    let mut out = Vec::new();
    for (named, meta) in &inventory.objects {
        if let Named::Manifest(backup) = named
            && let Ok(manifest) = judge(&meta.name, repository.manifest(*backup).await)?
        {
            out.push(manifest);
        }
    }
    Ok(out)
}

/// Every pack of a backup is there, and as long as its manifest says.
fn packs_of(
    repository: &Repository,
    manifest: &Manifest,
    packs: &BTreeMap<PackId, &ObjectMeta>,
) -> Result<Vec<Finding>, StoreError> {
    let mut findings = Vec::new();
    for need in &manifest.packs {
        let name = repository.layout().pack(need.id)?;
        let backup = manifest.backup;
        match packs.get(&need.id) {
            None => findings.push(Finding {
                is_its_own: true,
                ..Finding::damage(name, format!("is missing, and backup {backup} needs it"))
            }),
            Some(meta) if meta.size < need.body_bytes + OBJECT_BYTES_MIN => findings.push(Finding {
                is_its_own: true,
                ..Finding::damage(name, format!("is shorter than backup {backup} says"))
            }),
            Some(_) => {}
        }
    }
    Ok(findings)
}

/// Everything that the file table of a backup leads to lies in packs that the manifest names.
async fn references(repository: &Repository, manifest: &Manifest) -> Result<Vec<Finding>, StoreError> {
    let name = repository.layout().manifest(manifest.backup)?;
    let needs: BTreeSet<PackId> = manifest.packs.iter().map(|need| need.id).collect();
    let table = match judge(&name, repository.file_table(manifest).await)? {
        Ok(table) => table,
        Err(finding) => {
            return Ok(vec![Finding {
                is_its_own: false,
                ..finding
            }]);
        }
    };
    let (mut findings, mut maps) = (Vec::new(), Maps::new(repository));
    for entry in &table {
        match judge(&name, packs_of_entry(&mut maps, entry).await)? {
            Err(finding) => findings.push(Finding {
                reason: format!("{}: {}", entry.path.escape_ascii(), finding.reason),
                is_its_own: false,
                ..finding
            }),
            Ok(used) => {
                if let Some(pack) = used.iter().find(|pack| !needs.contains(pack)) {
                    let path = entry.path.escape_ascii();
                    let reason = format!("\"{path}\" lies in pack {pack}, which the manifest does not name");
                    findings.push(Finding::damage(&name, reason));
                }
            }
        }
    }
    Ok(findings)
}

async fn packs_of_entry(maps: &mut Maps<'_>, entry: &FileEntry) -> Result<BTreeSet<PackId>, StoreError> {
    let mut used: BTreeSet<PackId> = entry.content.iter().map(|part| part.pack).collect();
    used.extend(entry.content_list.map(|list| list.pack));
    if entry.entry_type != EntryType::File || entry.class != EntryClass::Relation {
        return Ok(used);
    }
    let packs = |references: Vec<ChunkReference>| references.into_iter().map(|at| at.pack);
    if let Some(at) = entry.extents {
        let WholeMap { content, chunks } = maps.extents(at).await?;
        used.extend(packs(chunks));
        if u64::from(content.pages) * crate::limits::PAGE_BYTES as u64 != entry.size {
            return Err(StoreError::damaged(at.pack, "extents of another size than the file"));
        }
        for run in &content.runs {
            if let Source::Pack { pack, .. } = run.source {
                used.insert(pack);
            }
        }
    }
    if let Some(at) = entry.digests {
        let WholeMap { content, chunks } = maps.digests(at).await?;
        used.extend(packs(chunks));
        if content.pages.len() as u64 * crate::limits::PAGE_BYTES as u64 != entry.size {
            return Err(StoreError::damaged(
                at.pack,
                "page digests of another size than the file",
            ));
        }
    }
    Ok(used)
}

/// Every backup has an intent, and every intent led to a backup, or something happened to one of them.
fn intents(inventory: &Inventory) -> Vec<Finding> {
    let (mut begun, mut ended) = (BTreeSet::new(), BTreeSet::new());
    for (named, _) in &inventory.objects {
        match named {
            Named::Intent(backup) => begun.insert(*backup),
            Named::Manifest(backup) => ended.insert(*backup),
            _ => false,
        };
    }
    let lost = ended.difference(&begun).map(|backup| {
        let reason = "is missing, although the backup has a manifest";
        Finding::notice(format!("intents/{backup}/start"), reason)
    });
    // An index may outlive its backup: others use what it names.
    let unended = begun.difference(&ended).map(|backup| {
        let reason = "is not there: the backup goes on, or died, or its manifest was removed";
        Finding::notice(format!("backups/{backup}"), reason)
    });
    lost.chain(unended).collect()
}

/// WAL covers each backup from start to end, and every stretch of it that is not covered was declared lost.
async fn wal(
    repository: &Repository,
    inventory: &Inventory,
    manifests: &[Manifest],
    remembered: Option<Watermark>,
) -> Result<(Vec<Coverage>, Vec<Finding>), StoreError> {
    let mut findings = Vec::new();
    let lineages: BTreeSet<LineageId> = inventory
        .objects
        .iter()
        .filter_map(|(named, _)| match named {
            Named::Lineage(lineage) => Some(*lineage),
            _ => None,
        })
        .collect();
    let with_wal = inventory.objects.iter().filter_map(|(named, meta)| match named {
        Named::Wal(range) => Some((range.lineage, meta.name.to_string())),
        _ => None,
    });
    for manifest in manifests {
        // A component has a lineage by its name, and no object for it.
        if let Some(component) = manifest.component_name()
            && lineage_of(repository.keys(), component) != manifest.lineage
        {
            let name = repository.layout().manifest(manifest.backup)?;
            findings.push(Finding::damage(name, "is in another lineage than its component"));
        }
    }
    let of_cluster = manifests.iter().filter(|manifest| manifest.component.is_none());
    let used = of_cluster.map(|manifest| (manifest.lineage, format!("backup {}", manifest.backup)));
    let orphans: BTreeMap<LineageId, String> = with_wal.chain(used).collect();
    for (lineage, user) in orphans.into_iter().filter(|(lineage, _)| !lineages.contains(lineage)) {
        let name = repository.layout().lineage(lineage)?;
        // As with leases: it may be newer than its part of the listing.
        if repository.store().head(&name).await?.is_none() {
            let reason = format!("is missing, and {user} belongs to it");
            findings.push(Finding::damage(name, reason));
        }
    }
    let mut coverages = Vec::new();
    for lineage in lineages {
        let coverage = repository.settled_coverage(lineage).await?;
        for timeline in coverage.timelines.keys() {
            if timeline.as_u32() > 1 && !coverage.histories.contains_key(timeline) && is_forked(&coverage, *timeline) {
                let what = format!("wal/{lineage}/{}/history", timeline.hex8());
                findings.push(Finding::damage(what, "the history of a timeline is missing"));
            }
            if let Some(at) = coverage.first_undeclared_hole(*timeline) {
                findings.push(missing_wal(lineage, *timeline, at, remembered));
            }
        }
        coverages.push(coverage);
    }
    for manifest in manifests.iter().filter(|manifest| manifest.component.is_none()) {
        let coverage = coverages.iter().find(|coverage| coverage.lineage == manifest.lineage);
        let (start, end) = (Lsn::new(manifest.start_lsn), Lsn::new(manifest.end_lsn));
        let missing = match (coverage, TimelineId::new(manifest.timeline)) {
            (Some(coverage), Some(timeline)) => coverage.missing(timeline, start, end),
            _ => vec![(start, end)],
        };
        if let Some((from, to)) = missing.first() {
            let name = repository.layout().manifest(manifest.backup)?;
            let reason = format!("the WAL that makes it consistent is missing: {from} to {to}");
            findings.push(Finding::damage(name, reason));
        }
    }
    Ok((coverages, findings))
}

/// Uploads end in any order: behind what the agent has confirmed a range can still be under way.
fn missing_wal(lineage: LineageId, timeline: TimelineId, at: Lsn, remembered: Option<Watermark>) -> Finding {
    let what = format!("wal/{lineage}/{}", timeline.hex8());
    let is_ahead = remembered.is_some_and(|remembered| {
        remembered.lineage == lineage && remembered.timeline == timeline && at >= remembered.archived
    });
    if is_ahead {
        Finding::notice(
            what,
            format!("WAL from {at} on is not there yet; what comes behind it is"),
        )
    } else {
        Finding::damage(
            what,
            format!("WAL is missing from {at} on, and nobody declared it lost"),
        )
    }
}

fn fallen_behind(coverages: &[Coverage], remembered: Watermark) -> Option<Finding> {
    let Watermark {
        lineage,
        timeline,
        archived,
        may_lag,
    } = remembered;
    let coverage = coverages.iter().find(|coverage| coverage.lineage == lineage)?;
    // A stream begins at the end of what was archived: of a new timeline that is the end of another one, of a new lineage nothing.
    let end = coverage.timelines.values().filter_map(TimelineCoverage::end).max()?;
    if end >= archived || coverage.undeclared(timeline, end, archived).is_empty() {
        return None;
    }
    let what = format!("wal/{lineage}/{}", timeline.hex8());
    let reason = format!("ends at {end}; it was archived up to {archived}");
    Some(match may_lag {
        true => Finding::notice(what, format!("{reason}, and this copy is not filled so far")),
        false => Finding::damage(what, reason),
    })
}

/// True for a timeline that others lead to: only the first one of a lineage may be without history.
fn is_forked(coverage: &Coverage, timeline: TimelineId) -> bool {
    coverage.timelines.keys().any(|other| *other < timeline)
}
