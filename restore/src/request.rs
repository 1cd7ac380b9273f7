//! From what was asked for to a backup and a stop point that the repository can reach, or a refusal that names the nearest ones.

use pg::lsn::Lsn;
use pg::segment::SegmentSize;
use pg::timeline::TimelineId;
use store::catalog::Coverage;
use store::manifest::Manifest;
use store::repository::Repository;

use crate::cli::{NamedTarget, RestoreArgs};
use crate::error::{RestoreError, Result};
use crate::plan::{Point, StopKind, StopPoint, unreachable};
use crate::route::Route;
use crate::scan::{Found, Scanner};
use crate::time;

/// What the user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The state at a time, microseconds since 1970.
    Time(i64),
    /// The state at an LSN.
    Lsn(Lsn),
    /// Everything that is archived.
    Latest,
    /// The end of the backup.
    Immediate,
    /// A standby, which never stops.
    Follow,
}

impl Asked {
    /// From the command line.
    pub(crate) fn of(args: &RestoreArgs) -> Result<Asked> {
        let none = || {
            RestoreError::usage("no stop point was given", "Use --target latest, --target immediate, --target-time or --target-lsn.")
        };
        let asked = match (&args.target_time, args.target_lsn, args.target) {
            (Some(text), _, _) => Asked::Time(time::parse(text)?),
            (None, Some(lsn), _) => Asked::Lsn(lsn),
            (None, None, Some(NamedTarget::Latest)) if args.standby => Asked::Follow,
            (None, None, Some(NamedTarget::Latest)) => Asked::Latest,
            (None, None, Some(NamedTarget::Immediate)) if !args.standby => Asked::Immediate,
            (None, None, None) if args.standby => Asked::Follow,
            _ => return Err(none()),
        };
        if args.exclusive && !matches!(asked, Asked::Time(_) | Asked::Lsn(_)) {
            return Err(RestoreError::usage("--exclusive needs a time or an LSN", "Leave it out, or use --target-time or --target-lsn."));
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
const LISTINGS_MAX: u32 = 5;

/// Finds backup, timeline and stop point.
pub(crate) async fn resolve(repository: &Repository, args: &RestoreArgs, asked: Asked) -> Result<Choice> {
    let manifests = manifests(repository, args).await?;
    let lineage = manifests.iter().map(|manifest| manifest.lineage).max();
    let Some(lineage) = lineage else {
        return Err(RestoreError::refused("the repository has no backup of this cluster", "Take one with `wal-agent backup`."));
    };
    let mut manifests: Vec<Manifest> = manifests.into_iter().filter(|manifest| manifest.lineage == lineage).collect();
    manifests.sort_by_key(|manifest| std::cmp::Reverse((manifest.end_lsn, manifest.backup)));
    let mut listing = 1;
    loop {
        let coverage = repository.coverage(lineage).await?;
        let route = choose_route(&coverage, &manifests, args.target_timeline)?;
        let candidates: Vec<&Manifest> = manifests.iter().filter(|manifest| holds(&route, manifest)).collect();
        let search = Search { repository, coverage: &coverage, route: &route, candidates, or_latest: args.or_latest };
        match search.find(asked, args.exclusive).await {
            Ok((manifest, stop)) => return Ok(Choice { manifest, route, stop }),
            Err(RestoreError::Vanished { .. }) if listing < LISTINGS_MAX => listing += 1,
            Err(error) => return Err(error),
        }
    }
}

async fn manifests(repository: &Repository, args: &RestoreArgs) -> Result<Vec<Manifest>> {
    let Some(text) = &args.backup else { return Ok(repository.manifests().await?) };
    let bad = |message: String| RestoreError::refused(message, "See the backups with `wal-restore list`.");
    let backup = text.parse().map_err(|_| bad(format!("\"{}\" is not the id of a backup", text.escape_debug())))?;
    if !repository.backup_ids().await?.contains(&backup) {
        return Err(bad(format!("backup {backup} does not exist")));
    }
    Ok(vec![repository.manifest(backup).await?])
}

/// Is the backup on this way?
fn holds(route: &Route, manifest: &Manifest) -> bool {
    TimelineId::new(manifest.timeline).is_some_and(|timeline| route.passes(timeline, Lsn::new(manifest.end_lsn)))
}

/// The timeline asked for, or the newest one with WAL that passes through a backup.
fn choose_route(coverage: &Coverage, manifests: &[Manifest], asked: Option<u32>) -> Result<Route> {
    let first = manifests.first().ok_or_else(|| RestoreError::Failed("no backup".into()))?;
    let size = SegmentSize::new(first.segment_bytes).map_err(|error| RestoreError::damaged(first.backup, error))?;
    let known: Vec<TimelineId> = coverage.timelines.keys().rev().copied().collect();
    let list = known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let has = |route: &Route| manifests.iter().any(|manifest| holds(route, manifest));
    let route = match asked {
        Some(number) => {
            let hint = format!("Timelines with archived WAL: {list}.");
            let timeline = TimelineId::new(number)
                .filter(|timeline| known.contains(timeline))
                .ok_or_else(|| RestoreError::refused(format!("timeline {number} is not in the repository"), hint.clone()))?;
            let route = Route::to(coverage, timeline, size);
            if !has(&route) {
                return Err(RestoreError::refused(format!("no backup lies on the way to timeline {number}"), hint));
            }
            route
        }
        None => known.iter().map(|timeline| Route::to(coverage, *timeline, size)).find(has).ok_or_else(|| {
            RestoreError::refused("no backup lies on a timeline with archived WAL", format!("Timelines with archived WAL: {list}."))
        })?,
    };
    let timeline = route.timeline();
    if timeline != TimelineId::FIRST && !coverage.histories.contains_key(&timeline) {
        let message = format!("the history of timeline {timeline} is not in the repository");
        return Err(RestoreError::refused(message, "Recovery cannot follow this timeline. Choose another with --target-timeline."));
    }
    Ok(route)
}

struct Search<'a> {
    repository: &'a Repository,
    coverage: &'a Coverage,
    route: &'a Route,
    /// Newest first.
    candidates: Vec<&'a Manifest>,
    or_latest: bool,
}

/// The end of a backup as a point that can be reached.
fn end_of(manifest: &Manifest) -> Point {
    Point { lsn: Lsn::new(manifest.end_lsn), time_us: Some(manifest.finished_us) }
}

impl Search<'_> {
    async fn find(&self, asked: Asked, exclusive: bool) -> Result<(Manifest, StopPoint)> {
        match asked {
            Asked::Time(time_us) => self.time(time_us, exclusive).await,
            Asked::Lsn(lsn) => self.lsn(lsn, exclusive).await,
            Asked::Latest => self.latest().await,
            Asked::Immediate => self.consistent(StopKind::Immediate),
            Asked::Follow => self.consistent(StopKind::Follow),
        }
    }

    fn scanner(&self) -> Scanner<'_> {
        Scanner::new(self.repository, self.coverage, self.route)
    }

    /// The hole that ends the contiguous WAL of a backup, if one does.
    fn hole_after(&self, manifest: &Manifest) -> Option<(Lsn, Lsn)> {
        let start = self.route.contiguous_end(self.coverage, Lsn::new(manifest.start_lsn));
        self.route.resumes_after(self.coverage, start).map(|end| (start, end))
    }

    async fn time(&self, time_us: i64, exclusive: bool) -> Result<(Manifest, StopPoint)> {
        let mut scanner = self.scanner();
        let what = format!("time {}", time::show(time_us));
        let mut after: Option<&Manifest> = None;
        for manifest in &self.candidates {
            match scanner.after_time(manifest, time_us, exclusive).await? {
                Some(found) if found.start.as_u64() >= manifest.end_lsn => {
                    let stop = StopPoint { asked_time_us: Some(time_us), ..StopPoint::record(StopKind::Time, &found, false) };
                    return Ok(((*manifest).clone(), stop));
                }
                Some(_) => after = Some(manifest),
                None => {
                    let last = scanner.last(manifest).await?;
                    let stop = self.end_instead(manifest, &what, last, after.map(end_of))?;
                    return Ok(((*manifest).clone(), StopPoint { asked_time_us: Some(time_us), ..stop }));
                }
            }
        }
        Err(unreachable(format!("{what} lies before the first backup that could lead to it"), None, after.map(end_of).as_ref()))
    }

    async fn lsn(&self, lsn: Lsn, exclusive: bool) -> Result<(Manifest, StopPoint)> {
        let usable = |manifest: &&&Manifest| manifest.end_lsn <= lsn.as_u64();
        let Some(manifest) = self.candidates.iter().find(usable) else {
            let after = self.candidates.last().map(|manifest| end_of(manifest));
            return Err(unreachable(format!("LSN {lsn} lies before the first backup that could lead to it"), None, after.as_ref()));
        };
        let mut scanner = self.scanner();
        let stop = match scanner.at_lsn(manifest, lsn).await? {
            Some(found) => StopPoint::record(StopKind::Lsn, &found, !exclusive),
            None => {
                let last = scanner.last(manifest).await?;
                // No record begins there, but all WAL before it is there: the last record leads to it.
                let archived = self.route.contiguous_end(self.coverage, Lsn::new(manifest.start_lsn));
                if let Some(last) = last.filter(|last| lsn <= archived.max(last.end) && last.end.as_u64() >= manifest.end_lsn) {
                    return Ok(((*manifest).clone(), StopPoint::record(StopKind::Lsn, &last, true)));
                }
                let later = self.candidates.iter().rev().find(|manifest| manifest.end_lsn > lsn.as_u64());
                self.end_instead(manifest, &format!("LSN {lsn}"), last, later.map(|manifest| end_of(manifest)))?
            }
        };
        Ok(((*manifest).clone(), stop))
    }

    async fn latest(&self) -> Result<(Manifest, StopPoint)> {
        let mut scanner = self.scanner();
        for manifest in &self.candidates {
            let Some(last) = scanner.last(manifest).await?.filter(|last| last.end.as_u64() >= manifest.end_lsn) else { continue };
            let stop = StopPoint::record(StopKind::Latest, &last, true);
            if let Some((start, end)) = self.hole_after(manifest)
                && !self.or_latest
            {
                let message = format!("WAL from {start} to {end} was lost, and later WAL cannot be reached without it");
                let hint = format!("Restore up to the hole with --target-lsn {}, or accept it with --or-latest.", last.start);
                return Err(RestoreError::refused(message, hint));
            }
            return Ok(((*manifest).clone(), stop));
        }
        Err(self.not_covered())
    }

    fn consistent(&self, kind: StopKind) -> Result<(Manifest, StopPoint)> {
        for manifest in &self.candidates {
            let end = Lsn::new(manifest.end_lsn);
            if self.route.contiguous_end(self.coverage, Lsn::new(manifest.start_lsn)) >= end {
                let found = Found { start: end, end, time_us: None, commit_before_us: None };
                return Ok(((*manifest).clone(), StopPoint::record(kind, &found, true)));
            }
        }
        Err(self.not_covered())
    }

    fn not_covered(&self) -> RestoreError {
        let detail = self.candidates.first().map_or_else(String::new, |manifest| {
            let start = Lsn::new(manifest.start_lsn);
            let missing = self.route.contiguous_end(self.coverage, start);
            format!(": backup {} needs WAL from {start} to {}, and it is missing from {missing}", manifest.backup, Lsn::new(manifest.end_lsn))
        });
        RestoreError::refused(format!("no backup has all of its WAL{detail}"), "See `wal-restore list`; other lineages have backups of their own.")
    }

    /// Nothing at the stop point or behind it is archived: the last record, if that was allowed.
    fn end_instead(&self, manifest: &Manifest, what: &str, last: Option<Found>, after: Option<Point>) -> Result<StopPoint> {
        let last = last.filter(|last| last.end.as_u64() >= manifest.end_lsn).ok_or_else(|| self.not_covered())?;
        if self.or_latest {
            return Ok(StopPoint { is_proven: false, ..StopPoint::record(StopKind::Latest, &last, true) });
        }
        let before = Point { lsn: last.start, time_us: last.commit_before_us };
        let message = match self.hole_after(manifest) {
            Some((start, end)) => format!("{what} cannot be reached: WAL from {start} to {end} was lost"),
            None => match last.commit_before_us {
                Some(us) => format!("nothing later than {what} is archived; the last transaction ended at {}", time::show(us)),
                None => format!("nothing later than {what} is archived"),
            },
        };
        Err(unreachable(message, Some(&before), after.as_ref()).with_more_hint("Use --or-latest to take the last archived record instead."))
    }
}
