//! From what was asked for to a backup and a stop point that the repository can reach, or a refusal that names the nearest ones.

mod search;

use pg::lsn::Lsn;
use pg::segment::SegmentSize;
use pg::timeline::TimelineId;
use store::StoreError;
use store::catalog::Coverage;
use store::id::LineageId;
use store::manifest::Manifest;
use store::object::list_all;
use store::records::Lineage;
use store::repository::Repository;

use self::search::Search;
use crate::cli::{NamedTarget, TargetArgs};
use crate::detour::Detours;
use crate::error::{RestoreError, Result};
use crate::plan::StopPoint;
use crate::route::Route;
use crate::time;

/// What the user wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The state at a time, microseconds since 1970.
    Time(i64),
    /// The state at an LSN.
    Lsn(Lsn),
    /// The end of a transaction.
    Xid(u32),
    /// A restore point.
    Name(String),
    /// Everything that is archived.
    Latest,
    /// The end of the backup.
    Immediate,
    /// A standby, which never stops.
    Follow,
}

impl Asked {
    /// From the command line.
    pub(crate) fn of(args: &TargetArgs, standby: bool) -> Result<Asked> {
        let none = || {
            RestoreError::usage(
                "no stop point was given",
                "Use --target latest, --target immediate, --target-time, --target-lsn, --target-xid or --target-name.",
            )
        };
        // The command line takes one of these only.
        let asked = if let Some(text) = &args.target_time {
            Asked::Time(time::parse(text)?)
        } else if let Some(lsn) = args.target_lsn {
            Asked::Lsn(lsn)
        } else if let Some(xid) = args.target_xid {
            Asked::Xid(xid)
        } else if let Some(name) = &args.target_name {
            Asked::Name(name.clone())
        } else {
            match args.target {
                Some(NamedTarget::Latest) | None if standby => Asked::Follow,
                Some(NamedTarget::Latest) => Asked::Latest,
                Some(NamedTarget::Immediate) if !standby => Asked::Immediate,
                _ => return Err(none()),
            }
        };
        if args.exclusive && !matches!(asked, Asked::Time(_) | Asked::Lsn(_) | Asked::Xid(_)) {
            return Err(RestoreError::usage(
                "--exclusive needs a time, an LSN or a transaction",
                "Leave it out, or use --target-time, --target-lsn or --target-xid.",
            ));
        }
        Ok(asked)
    }
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Choice {
    /// The backup to restore.
    pub(crate) manifest: Manifest,
    /// The way that recovery takes.
    pub(crate) route: Route,
    /// Where it stops.
    pub(crate) stop: StopPoint,
}

/// How often WAL is listed again because tails were replaced meanwhile.
pub(crate) const LISTINGS_MAX: u32 = 5;

/// Finds backup, timeline and stop point.
pub(crate) async fn resolve(repository: &Repository, args: &TargetArgs, asked: Asked) -> Result<Choice> {
    let (manifests, lineages) = futures::join!(manifests(repository, args), repository.readable_lineages());
    let (manifests, lineages) = (manifests?, lineages?);
    let lineage = manifests
        .iter()
        .map(|manifest| manifest.lineage)
        .max()
        .ok_or_else(no_backup)?;
    refuse_unread(repository, &lineages, args, &asked).await?;
    refuse_abandoned(&lineages, args, &asked, lineage)?;
    refuse_two_alive(repository, &lineages, args, &asked, lineage).await?;
    let mut manifests: Vec<Manifest> = manifests
        .into_iter()
        .filter(|manifest| manifest.lineage == lineage)
        .collect();
    manifests.sort_by_key(|manifest| std::cmp::Reverse((manifest.end_lsn, manifest.backup)));
    let mut listing = 1;
    let mut detours = Detours::default();
    loop {
        let mut coverage = repository.coverage(lineage).await?;
        detours.apply(&mut coverage);
        let route = choose_route(&coverage, &manifests, args.target_timeline)?;
        let candidates: Vec<&Manifest> = manifests.iter().filter(|manifest| holds(&route, manifest)).collect();
        let search = Search {
            repository,
            coverage: &coverage,
            route: &route,
            candidates,
            or_latest: args.or_latest,
        };
        match search.find(&asked, args.exclusive).await {
            Ok((manifest, stop)) => {
                refuse_sealed(repository, &coverage, &route, &manifest, &stop).await?;
                return Ok(Choice { manifest, route, stop });
            }
            Err(RestoreError::Vanished { .. }) if listing < LISTINGS_MAX => listing += 1,
            Err(error) if detours.around(repository, &coverage, &error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The key that is here must open what the restore will read: one that is a recipient no more opens old sessions only. The newest pack and the
/// newest WAL say it before a file is made.
async fn refuse_sealed(
    repository: &Repository,
    coverage: &Coverage,
    route: &Route,
    manifest: &Manifest,
    stop: &StopPoint,
) -> Result<()> {
    let packs = manifest.packs.iter().filter(|need| need.holds_data());
    if let Some(newest) = packs.map(|need| need.id).max() {
        repository.opens(&repository.layout().pack(newest)?).await?;
    }
    let until = if stop.is_an_end() {
        stop.record_end_lsn
    } else {
        Lsn::new(u64::MAX)
    };
    let pieces = route.pieces(coverage, Lsn::new(manifest.start_lsn), until);
    if let Some(last) = pieces.last() {
        let name = repository.layout().wal(&last.range, route.size)?;
        repository.opens(&name).await?;
    }
    Ok(())
}

/// The newest way through the archive, and the backups on it.
#[derive(Debug)]
pub(crate) struct Way {
    /// What is archived.
    pub(crate) coverage: Coverage,
    /// The way to the timeline.
    pub(crate) route: Route,
    /// The backups on it, newest first.
    pub(crate) manifests: Vec<Manifest>,
    /// Lineages that are not looked at, in words.
    pub(crate) other_lineages: Vec<String>,
}

/// Finds the way to a timeline of the newest lineage that has a backup, for who only reads WAL.
pub(crate) async fn way(repository: &Repository, timeline: Option<u32>, detours: &Detours) -> Result<Way> {
    let all = repository.manifests().await?;
    let lineage = all
        .iter()
        .map(|manifest| manifest.lineage)
        .max()
        .ok_or_else(no_backup)?;
    let mut manifests: Vec<Manifest> = all.into_iter().filter(|manifest| manifest.lineage == lineage).collect();
    manifests.sort_by_key(|manifest| std::cmp::Reverse((manifest.end_lsn, manifest.backup)));
    let mut coverage = repository.coverage(lineage).await?;
    detours.apply(&mut coverage);
    let route = choose_route(&coverage, &manifests, timeline)?;
    manifests.retain(|manifest| holds(&route, manifest));
    let lineages = repository.readable_lineages().await?;
    let other = |one: &&Lineage| one.id != lineage;
    let other_lineages = lineages.iter().filter(other).map(|one| {
        format!(
            "lineage {} ({}) was not searched: its WAL is another history, and LSNs of one mean nothing in the other",
            one.id, one.reason
        )
    });
    Ok(Way {
        coverage,
        route,
        manifests,
        other_lineages: other_lineages.collect(),
    })
}

fn no_backup() -> RestoreError {
    RestoreError::refused(
        "the repository has no backup of this cluster",
        "Take one with `wal-agent backup`.",
    )
}

/// A lineage whose record cannot be read may be where production went on: who wants the newest must say which backup is meant.
async fn refuse_unread(repository: &Repository, lineages: &[Lineage], args: &TargetArgs, asked: &Asked) -> Result<()> {
    let listed = list_all(repository.store().as_ref(), &repository.layout().prefix("lineages")).await;
    let listed = listed.map_err(store::StoreError::from)?.len();
    // An LSN, or the end of a backup, is of the lineage that is known.
    let may_be_elsewhere = !matches!(asked, Asked::Lsn(_) | Asked::Immediate);
    if listed <= lineages.len() || !may_be_elsewhere || args.backup.is_some() {
        return Ok(());
    }
    Err(RestoreError::refused(
        "the record of a lineage cannot be read: the cluster may have gone on in a history that is not known here",
        "`wal-agent verify` names it. To restore all the same, name a backup with --backup.",
    ))
}

/// A newer lineage without a backup means that production went on elsewhere: what can be restored is an abandoned branch, and it must
/// be asked for by name.
fn refuse_abandoned(lineages: &[Lineage], args: &TargetArgs, asked: &Asked, lineage: LineageId) -> Result<()> {
    let newest = lineages.iter().max_by_key(|newest| newest.id);
    let Some(newest) = newest.filter(|newest| newest.id > lineage && args.backup.is_none()) else {
        return Ok(());
    };
    let is_meant = match asked {
        // A number or a name may have been given out again since.
        Asked::Latest | Asked::Follow | Asked::Xid(_) | Asked::Name(_) => false,
        Asked::Time(time_us) => *time_us < newest.created_us,
        Asked::Lsn(_) | Asked::Immediate => true,
    };
    if is_meant {
        return Ok(());
    }
    let message = format!(
        "the cluster went on in lineage {} at {}, and that has no backup yet ({})",
        newest.id,
        time::show(newest.created_us),
        newest.reason
    );
    let hint = "Take a backup with `wal-agent backup`. To restore the branch that was left, name one of its backups with --backup.";
    Err(RestoreError::refused(message, hint))
}

/// A later object of an older lineage than this after the birth of the newest one is no matter of clocks.
const CLOCKS_MAX_US: i64 = 1_000_000;

/// An older lineage that is archived on after the newest one began: a clone of the host runs with its keys. Which of the two is
/// production, only the operator knows.
async fn refuse_two_alive(
    repository: &Repository,
    lineages: &[Lineage],
    args: &TargetArgs,
    asked: &Asked,
    lineage: LineageId,
) -> Result<()> {
    let Some(newest) = lineages
        .iter()
        .find(|known| known.id == lineage && known.parent.is_some())
    else {
        return Ok(());
    };
    let is_before = matches!(asked, Asked::Time(time_us) if *time_us < newest.created_us);
    if args.backup.is_some() || is_before {
        return Ok(());
    }
    for older in lineages.iter().filter(|known| known.id < lineage) {
        let coverage = repository.coverage(older.id).await?;
        let last = coverage.timelines.values().next_back();
        let Some(last) = last.and_then(|timeline| timeline.ranges.iter().max_by_key(|range| range.end)) else {
            continue;
        };
        let size = SegmentSize::new(older.segment_bytes).map_err(|error| RestoreError::damaged(older.id, error))?;
        let header = match repository.read_wal_header(last, size).await {
            Err(StoreError::Untrusted { .. }) => continue,
            read => read?,
        };
        let Some(header) = header else {
            continue;
        };
        if header.written_us > newest.created_us + CLOCKS_MAX_US {
            let message = format!(
                "two servers are archived under this cluster's name: lineage {} until {}, and since {} lineage {} ({})",
                older.id,
                time::show(header.written_us),
                time::show(newest.created_us),
                newest.id,
                newest.reason
            );
            let hint =
                "Find out which of them is production (`wal-restore list`), and name a backup of it with --backup.";
            return Err(RestoreError::refused(message, hint));
        }
    }
    Ok(())
}

async fn manifests(repository: &Repository, args: &TargetArgs) -> Result<Vec<Manifest>> {
    let Some(text) = &args.backup else {
        return Ok(repository.manifests().await?);
    };
    let bad = |message: String| RestoreError::refused(message, "See the backups with `wal-restore list`.");
    let backup = text
        .parse()
        .map_err(|_| bad(format!("\"{}\" is not the id of a backup", text.escape_debug())))?;
    if !repository.backup_ids().await?.contains(&backup) {
        return Err(bad(format!("backup {backup} does not exist")));
    }
    let manifest = repository.manifest(backup).await?;
    match manifest.component_name() {
        None => Ok(vec![manifest]),
        Some(name) => Err(RestoreError::refused(
            format!("backup {backup} is one of the component \"{name}\", not of the cluster"),
            format!("Restore it with `wal-restore component {name} --backup {backup} --to DIRECTORY`."),
        )),
    }
}

/// Is the backup on this way?
fn holds(route: &Route, manifest: &Manifest) -> bool {
    TimelineId::new(manifest.timeline).is_some_and(|timeline| route.passes(timeline, Lsn::new(manifest.end_lsn)))
}

/// The timeline asked for, or the newest one with WAL that passes through a backup.
fn choose_route(coverage: &Coverage, manifests: &[Manifest], asked: Option<u32>) -> Result<Route> {
    let first = manifests
        .first()
        .ok_or_else(|| RestoreError::Failed("no backup".into()))?;
    let size = SegmentSize::new(first.segment_bytes).map_err(|error| RestoreError::damaged(first.backup, error))?;
    let known: Vec<TimelineId> = coverage.timelines.keys().rev().copied().collect();
    let list = known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let has = |route: &Route| manifests.iter().any(|manifest| holds(route, manifest));
    let route = match asked {
        Some(number) => {
            let hint = format!("Timelines with archived WAL: {list}.");
            let timeline = TimelineId::new(number)
                .filter(|timeline| known.contains(timeline))
                .ok_or_else(|| {
                    RestoreError::refused(format!("timeline {number} is not in the repository"), hint.clone())
                })?;
            let route = Route::to(coverage, timeline, size);
            if !has(&route) {
                return Err(RestoreError::refused(
                    format!("no backup lies on the way to timeline {number}"),
                    hint,
                ));
            }
            route
        }
        None => known
            .iter()
            .map(|timeline| Route::to(coverage, *timeline, size))
            .find(has)
            .ok_or_else(|| {
                RestoreError::refused(
                    "no backup lies on a timeline with archived WAL",
                    format!("Timelines with archived WAL: {list}."),
                )
            })?,
    };
    let timeline = route.timeline();
    if timeline != TimelineId::FIRST && !coverage.histories.contains_key(&timeline) {
        let message = format!("the history of timeline {timeline} is not in the repository");
        return Err(RestoreError::refused(
            message,
            "Recovery cannot follow this timeline. Choose another with --target-timeline.",
        ));
    }
    Ok(route)
}
