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
use store::repair::{bring_back, whole_in, would_come_back};
use store::repository::{MadeUp, Repository};
use store::verify::{Finding, Severity, Structure, excuse, excuse_covered, is_damaged, structure};

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
    excuse_covered(repository.layout(), &structure.coverages, &mut findings);
    excuse(repository, &mut findings).await?;
    let mut wanted = Vec::new();
    for finding in findings.into_iter().filter(|finding| !repaired.has(&finding.object)) {
        if finding.severity == Severity::Damage || is_index(repository, &finding).await? {
            wanted.push(finding);
        }
    }
    let (broken, follows) = broken(repository, &structure, wanted).await?;
    Ok(Seen {
        structure,
        broken,
        follows,
    })
}

/// True for an index that is damaged, and that no spare makes up for.
async fn is_index(repository: &Repository, finding: &Finding) -> Result<bool, StoreError> {
    let is_index = matches!(repository.layout().parse(&finding.object), Some(Named::Index(_)));
    match ObjectName::new(finding.object.clone()) {
        Ok(name) if is_index && finding.is_its_own => Ok(repository.made_up(&name).await? != MadeUp::Wholly),
        _ => Ok(false),
    }
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
    let missing = missing.into_iter();
    let missing: Vec<Broken> = missing.filter(|missing| !repaired.has(missing.name.as_str())).collect();
    for broken in missing.iter().chain(&seen.broken) {
        match from_elsewhere(repository, broken, elsewhere, options.dry_run).await {
            Ok(Some(mended)) => repaired.add(broken, Some(mended)),
            Ok(None) => left.push(broken),
            Err(error) => {
                tracing::error!(object = %broken.name, "cannot be brought back: {error:#}");
                repaired.add(broken, None);
            }
        }
    }
    let ways = live::Ways::of(context, options, repository, &seen.structure.manifests, &left).await?;
    for broken in left {
        let done = ways.mend(broken, options.dry_run).await?;
        repaired.add(broken, done);
    }
    Ok(())
}

/// Sorts what was found: into objects that are damaged or missing themselves, and the rest.
async fn broken(
    repository: &Repository,
    structure: &Structure,
    mut findings: Vec<Finding>,
) -> Result<(Vec<Broken>, Vec<Finding>), StoreError> {
    findings.sort_by(|one, other| {
        (&one.object, !one.is_its_own, &one.reason).cmp(&(&other.object, !other.is_its_own, &other.reason))
    });
    findings.dedup_by(|one, other| one.object == other.object);
    let (mut broken, mut follows) = (Vec::new(), Vec::new());
    for finding in findings {
        let name = ObjectName::new(finding.object.clone()).ok();
        let named = repository.layout().parse(&finding.object);
        let (Some(name), Some(named), true) = (name, named, finding.is_its_own) else {
            follows.push(finding);
            continue;
        };
        // A spare that is damaged stands in for nothing.
        if named == Named::Spare {
            continue;
        }
        let is_broken = match repository.store().head(&name).await? {
            Some(meta) => is_damaged(repository, named, &meta).await?,
            None => is_missed(repository, structure, named).await?,
        };
        if is_broken {
            broken.push(Broken {
                name,
                reason: finding.reason,
            });
        }
    }
    Ok((broken, follows))
}

/// True for what is not there, and not because somebody has given it up meanwhile: a pack that a backup needs now.
async fn is_missed(repository: &Repository, structure: &Structure, named: Named) -> Result<bool, StoreError> {
    let Named::Pack(pack) = named else {
        return Ok(matches!(named, Named::Lineage(_)));
    };
    if repository.condemned_packs().await?.contains(&pack) {
        return Ok(false);
    }
    let needs = |manifest: &&Manifest| manifest.packs.iter().any(|need| need.id == pack);
    for manifest in structure.manifests.iter().filter(needs) {
        let name = repository.layout().manifest(manifest.backup)?;
        if repository.store().head(&name).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
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
        let comes_back = match dry_run {
            true => would_come_back(repository, &broken.name, &bytes).await?.then_some(None),
            false => bring_back(repository, &broken.name, bytes, output::now_us())
                .await?
                .map(Some),
        };
        let lies_at = match comes_back {
            Some(lies_at) => lies_at,
            None => {
                tracing::error!(object = %broken.name, place = %place.name,
                        "it is whole there, but what is left of it here does not tell that this is the same: whoever may delete takes it away here, and puts what the other place has");
                continue;
            }
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
            // Of a lineage that has no WAL here any more all was given up.
            let Some(newest) = coverage.newest_timeline() else {
                continue;
            };
            let there = coverage.timelines.get(&timeline);
            let is_missing = match layout.parse_wal(meta.name.as_str()) {
                Some(WalName::Range(range)) => {
                    // What lies before was given up here already.
                    let is_later = there.map_or(timeline > newest, |there| {
                        there.begin().is_some_and(|begin| range.start >= begin)
                    });
                    is_later && !coverage.undeclared(timeline, range.start, range.end).is_empty()
                }
                _ => (there.is_some() || timeline > newest) && !coverage.histories.contains_key(&timeline),
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
