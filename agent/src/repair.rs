//! `wal-agent repair`: makes up for what is damaged or missing. It only adds: from other places that hold the repository, from the live
//! cluster, from the footers of packs. What was damaged stays where it is, for somebody to look at.

mod live;
mod report;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use store::StoreError;
use store::inventory::Named;
use store::layout::WalName;
use store::manifest::Manifest;
use store::object::{ObjectName, list_all};
use store::repair::{add_spare, bring_back, whole_in};
use store::repository::Repository;
use store::verify::{Finding, Severity, Structure, excuse, structure};

use crate::cli::RepairOptions;
use crate::exit::Failure;
use crate::open::{Context, backup_policy};
use crate::{output, status, verify};
use report::{Mended, Repaired};

/// Another place that holds the repository.
struct Elsewhere {
    name: String,
    repository: Repository,
}

/// What is to be repaired.
struct Broken {
    name: ObjectName,
    reason: String,
}

/// A backup whose manifest comes back names packs that are missing as well.
const PASSES_MAX: usize = 4;

/// Runs the command.
pub async fn run(context: &Context, options: &RepairOptions) -> anyhow::Result<()> {
    let verify::Opened { repository, .. } = verify::open(context).await?;
    let elsewhere = elsewhere(context, &repository).await;
    let mut repaired = Repaired::default();
    let mut seen = look(context, options, &repository, &repaired).await?;
    for _ in 0..PASSES_MAX {
        let before = repaired.brought_back();
        pass(context, options, (&repository, &elsewhere), &seen, &mut repaired).await?;
        if repaired.brought_back() == before {
            break;
        }
        seen = look(context, options, &repository, &repaired).await?;
    }
    repaired.print(&seen.follows, options)
}

/// What is wrong now, and was not dealt with.
struct Seen {
    structure: Structure,
    /// Objects that are damaged or missing themselves.
    broken: Vec<Broken>,
    /// What was found of others, which may follow from that: that a backup cannot be followed, that there is a gap.
    follows: Vec<Finding>,
}

async fn look(
    context: &Context,
    options: &RepairOptions,
    repository: &Arc<Repository>,
    repaired: &Repaired,
) -> anyhow::Result<Seen> {
    let structure = structure(repository, status::watermark(context)).await?;
    let mut findings = structure.findings.clone();
    if !options.structure && repaired.is_empty() {
        let read = verify::read(
            repository,
            &structure.inventory.objects,
            verify::EVERYTHING,
            options.json,
        )
        .await?;
        findings.extend(read.findings);
    }
    excuse(repository, &mut findings).await?;
    findings.retain(|finding| finding.severity == Severity::Damage && !repaired.has(&finding.object));
    let (broken, follows) = broken(repository, findings).await?;
    Ok(Seen {
        structure,
        broken,
        follows,
    })
}

/// Makes up for what was seen, as far as that can be done.
async fn pass(
    context: &Context,
    options: &RepairOptions,
    (repository, elsewhere): (&Arc<Repository>, &[Elsewhere]),
    seen: &Seen,
    repaired: &mut Repaired,
) -> anyhow::Result<()> {
    let mut left = Vec::new();
    let missing = missing_wal(repository, &seen.structure, elsewhere).await?;
    let missing = missing
        .into_iter()
        .filter(|missing| !repaired.has(missing.name.as_str()));
    let missing: Vec<Broken> = missing.collect();
    for broken in missing.iter().chain(&seen.broken) {
        match from_elsewhere(repository, broken, elsewhere, options.dry_run).await? {
            Some(mended) => repaired.add(broken, Some(mended)),
            None => left.push(broken),
        }
    }
    let ways = live::Ways::of(
        context,
        options,
        repository,
        &seen.structure.manifests,
        !left.is_empty(),
    )
    .await?;
    for broken in left {
        let done = ways.mend(broken, options.dry_run).await?;
        repaired.add(broken, done);
    }
    Ok(())
}

/// Sorts what was found: into objects that are damaged or missing themselves, and the rest.
async fn broken(
    repository: &Repository,
    mut findings: Vec<Finding>,
) -> Result<(Vec<Broken>, Vec<Finding>), StoreError> {
    findings.sort_by(|one, other| (&one.object, &one.reason).cmp(&(&other.object, &other.reason)));
    findings.dedup_by(|one, other| one.object == other.object);
    let (mut broken, mut follows) = (Vec::new(), Vec::new());
    for finding in findings
        .into_iter()
        .filter(|finding| finding.severity == Severity::Damage)
    {
        let name = ObjectName::new(finding.object.clone()).ok();
        let named = repository.layout().parse(&finding.object);
        match (name, named) {
            // A spare that is damaged stands in for nothing.
            (_, Some(Named::Spare)) => {}
            (Some(name), Some(named)) if is_broken(repository, named, &name).await? => broken.push(Broken {
                name,
                reason: finding.reason,
            }),
            _ => follows.push(finding),
        }
    }
    Ok((broken, follows))
}

async fn is_broken(repository: &Repository, named: Named, name: &ObjectName) -> Result<bool, StoreError> {
    match repository.store().head(name).await? {
        None => Ok(true),
        Some(meta) => Ok(verify::is_damaged(repository, named, &meta).await?),
    }
}

/// The places that can be opened; of the others it is said why not.
async fn elsewhere(context: &Context, repository: &Arc<Repository>) -> Vec<Elsewhere> {
    let mut places = Vec::new();
    for (name, place) in &context.elsewhere {
        let opened = async {
            let store = config::open::object_store(place, crate::open::requests(backup_policy()))?;
            let description = store::repository::describe(store.as_ref()).await?;
            anyhow::ensure!(description.repository == repository.id(), "it is another repository");
            Ok(store)
        };
        match opened.await {
            Ok(store) => places.push(Elsewhere {
                name: name.clone(),
                repository: repository.over(store),
            }),
            Err(error) => tracing::warn!(place = %name, "cannot be asked for what is damaged here: {error:#}"),
        }
    }
    places
}

/// The first place that has it whole, and the name under which it lies here then.
async fn from_elsewhere(
    repository: &Repository,
    broken: &Broken,
    elsewhere: &[Elsewhere],
    dry_run: bool,
) -> anyhow::Result<Option<Mended>> {
    for place in elsewhere {
        let bytes = match whole_in(&place.repository, &broken.name).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(place = %place.name, %error, "cannot be asked for what is damaged here");
                continue;
            }
        };
        let lies_at = match dry_run {
            true => None,
            false => match bring_back(repository, &broken.name, bytes, output::now_us()).await {
                Ok(name) => Some(name),
                // Keys that are damaged: what says who is trusted has no spares.
                Err(error @ StoreError::Limit { .. }) => {
                    tracing::warn!(object = %broken.name, %error, "cannot be brought back");
                    continue;
                }
                Err(error) => return Err(error.into()),
            },
        };
        return Ok(Some(Mended {
            from: format!("\"{}\"", place.name),
            lies_at,
            chunks: None,
            is_whole: true,
        }));
    }
    Ok(None)
}

/// WAL that other places have, and that is missing here in the middle or at the end.
async fn missing_wal(
    repository: &Repository,
    structure: &Structure,
    elsewhere: &[Elsewhere],
) -> Result<Vec<Broken>, StoreError> {
    let (layout, mut seen) = (repository.layout(), BTreeSet::new());
    let here: BTreeSet<&ObjectName> = structure.inventory.objects.iter().map(|(_, meta)| &meta.name).collect();
    let mut missing = Vec::new();
    for place in elsewhere {
        let listed = match list_all(place.repository.store().as_ref(), &layout.prefix("wal")).await {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(place = %place.name, %error, "cannot be asked for WAL that is missing here");
                continue;
            }
        };
        for meta in listed.into_iter().filter(|meta| !here.contains(&meta.name)) {
            let (lineage, timeline) = match layout.parse_wal(meta.name.as_str()) {
                Some(WalName::Range(range)) => (range.lineage, range.timeline),
                Some(WalName::History { lineage, timeline, .. }) => (lineage, timeline),
                None => continue,
            };
            let Some(coverage) = structure.coverages.iter().find(|coverage| coverage.lineage == lineage) else {
                continue;
            };
            let is_newer = coverage.newest_timeline().is_none_or(|newest| timeline > newest);
            let is_missing = match (layout.parse_wal(meta.name.as_str()), coverage.timelines.get(&timeline)) {
                _ if is_newer => true,
                (Some(WalName::Range(range)), Some(there)) => {
                    // What lies before was given up here already.
                    there.begin().is_some_and(|begin| range.start >= begin)
                        && !coverage.undeclared(timeline, range.start, range.end).is_empty()
                }
                (Some(WalName::History { .. }), Some(_)) => !coverage.histories.contains_key(&timeline),
                _ => false,
            };
            if is_missing && seen.insert(meta.name.clone()) {
                missing.push(Broken {
                    name: meta.name,
                    reason: "is missing".into(),
                });
            }
        }
    }
    Ok(missing)
}

/// The end of a command that could not repair everything.
fn not_all(left: usize) -> anyhow::Error {
    Failure {
        code: crate::exit::DAMAGED,
        message: format!("{left} of the damaged objects cannot be made up for"),
        hint: Some(
            "Backups and times that do not need them can be restored; `wal-agent verify` names these. Take a new backup: it stores anew what is \
             missing. Another copy of the repository, or versions of the bucket, may have the bytes: name it as [copy.NAME] and repair again."
                .into(),
        ),
    }
    .into()
}

fn manifest_of(manifests: &[Manifest], name: &ObjectName, repository: &Repository) -> Option<Manifest> {
    let mut manifests = manifests.iter();
    let of_index = |manifest: &&Manifest| {
        repository
            .layout()
            .index(manifest.backup)
            .is_ok_and(|index| index == *name)
    };
    manifests.find(of_index).cloned()
}

/// Where the files of the live cluster are: as the command line or the configuration says, or the server.
async fn data_directory(context: &Context, options: &RepairOptions) -> anyhow::Result<PathBuf> {
    let known = options.data_directory.as_ref();
    if let Some(known) = known.or(context.cluster.postgres.data_directory.as_ref()) {
        return Ok(known.clone());
    }
    let (client, _) = crate::sql::choose(&context.connect_options()?).await?;
    Ok(crate::preflight::show(&client, "data_directory").await?.into())
}

async fn store_spare(
    repository: &Repository,
    name: &ObjectName,
    bytes: bytes::Bytes,
    dry_run: bool,
) -> Result<Option<ObjectName>, StoreError> {
    match dry_run {
        true => Ok(None),
        false => add_spare(repository, name, bytes, output::now_us()).await.map(Some),
    }
}
