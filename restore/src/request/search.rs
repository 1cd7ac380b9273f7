//! Which backup leads to the stop point, and at which record recovery must stop.

use pg::lsn::Lsn;
use store::catalog::{Coverage, Hole};
use store::manifest::Manifest;
use store::repository::Repository;
use store::verify::is_wrong;

use super::Asked;
use crate::error::{RestoreError, Result};
use crate::plan::{Point, StopKind, StopPoint, unreachable};
use crate::route::Route;
use crate::scan::{Found, Scanner};
use crate::time;

/// More WAL than this is never on its way at once.
const ON_THEIR_WAY_MAX: u64 = 256 << 20;

/// One question to one way through the archive.
pub(super) struct Search<'a> {
    pub(super) repository: &'a Repository,
    pub(super) coverage: &'a Coverage,
    pub(super) route: &'a Route,
    /// Newest first.
    pub(super) candidates: Vec<&'a Manifest>,
    pub(super) or_latest: bool,
}

/// The end of a backup as a point that can be reached.
fn end_of(manifest: &Manifest) -> Point {
    Point {
        lsn: Lsn::new(manifest.end_lsn),
        time_us: Some(manifest.finished_us),
    }
}

/// Could the files of a backup hold a transaction later than the time? They hold all that ended before it began.
fn holds_later(manifest: &Manifest, time_us: i64, exclusive: bool, commit_before_us: Option<i64>) -> bool {
    let is_late = |commit: i64| if exclusive { commit >= time_us } else { commit > time_us };
    time_us < manifest.started_us || commit_before_us.is_some_and(is_late)
}

/// Damage behind a backup, while older ones are asked for something that may lie before it.
#[derive(Debug, Default)]
struct Damage {
    first: Option<RestoreError>,
    /// What lies behind the start of that backup was not looked through.
    from: Option<Lsn>,
}

impl Damage {
    /// What was found behind a backup, unless a newer backup whose WAL is damaged might lead to a later one of that name.
    fn found(&mut self, found: Result<Option<Found>>, manifest: &Manifest) -> Result<Option<Found>> {
        match found {
            Ok(found) => Ok(found.filter(|found| self.from.is_none_or(|from| found.end <= from))),
            Err(RestoreError::Store(error)) if is_wrong(&error) && !error.is_not_found() => {
                tracing::warn!(%error, backup = %manifest.backup, "WAL behind this backup cannot be read; looking behind older ones");
                self.from = Some(Lsn::new(manifest.start_lsn));
                self.first.get_or_insert(error.into());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The damage, or else this.
    fn or(self, error: RestoreError) -> RestoreError {
        self.first.unwrap_or(error)
    }
}

impl Search<'_> {
    /// The backup and the stop point, or a refusal.
    pub(super) async fn find(&self, asked: &Asked, exclusive: bool) -> Result<(Manifest, StopPoint)> {
        match asked {
            Asked::Time(time_us) => self.time(*time_us, exclusive).await,
            Asked::Lsn(lsn) => self.lsn(*lsn, exclusive).await,
            Asked::Xid(xid) => self.xid(*xid, exclusive).await,
            Asked::Name(name) => self.name(name).await,
            Asked::Latest => self.latest().await,
            Asked::Immediate => self.immediate().await,
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

    /// Uploads finish in any order: where a host was lost, the last ones can lie behind one that did not come. Nothing behind it was
    /// ever confirmed, so the latest is what comes before. A hole that was declared, or has much WAL behind it, is another matter.
    fn was_on_its_way(&self, start: Lsn, end: Lsn) -> bool {
        let timeline = self.route.timeline();
        let reach = Lsn::new(start.as_u64().saturating_add(ON_THEIR_WAY_MAX));
        let is_last = self.coverage.newest_timeline() == Some(timeline);
        let is_near = self.coverage.newest_end().is_some_and(|archived| archived <= reach);
        is_last && is_near && !self.coverage.undeclared(timeline, start, end).is_empty()
    }

    /// What became of a stretch of WAL that is not there.
    fn fate(&self, start: Lsn, end: Lsn) -> &'static str {
        let timeline = self.route.timeline();
        let overlaps = |hole: &&Hole| hole.timeline == timeline && hole.start < end && hole.end > start;
        if self.coverage.given_up.iter().any(|hole| overlaps(&hole)) {
            "was given up by `wal-agent prune`"
        } else if self.coverage.declared.iter().any(|hole| overlaps(&hole)) {
            "was lost"
        } else {
            "is missing"
        }
    }

    async fn time(&self, time_us: i64, exclusive: bool) -> Result<(Manifest, StopPoint)> {
        let mut scanner = self.scanner();
        let what = format!("time {}", time::show(time_us));
        let mut after: Option<&Manifest> = None;
        for manifest in &self.candidates {
            if holds_later(manifest, time_us, exclusive, None) {
                after = Some(manifest);
                continue;
            }
            let before = scanner.before(manifest).await?;
            if holds_later(manifest, time_us, exclusive, before.commit_us) {
                after = Some(manifest);
                continue;
            }
            match scanner.after_time(manifest, time_us, exclusive).await? {
                // By the server's own clock: what came before a transaction that is not late is not late either.
                Some(found) if before.is_in_doubt && found.commit_before_us.is_none_or(|us| us >= time_us) => {
                    after = Some(manifest);
                }
                Some(found) if found.start.as_u64() >= manifest.end_lsn => {
                    let stop = StopPoint {
                        asked_time_us: Some(time_us),
                        ..StopPoint::record(StopKind::Time, &found, false)
                    };
                    return Ok(((*manifest).clone(), stop));
                }
                Some(_) => after = Some(manifest),
                None => {
                    let last = scanner.last(manifest).await?;
                    let stop = self.end_instead(manifest, &what, last, after.map(end_of))?;
                    return Ok((
                        (*manifest).clone(),
                        StopPoint {
                            asked_time_us: Some(time_us),
                            ..stop
                        },
                    ));
                }
            }
        }
        Err(unreachable(
            format!("{what} lies before the first backup that could lead to it"),
            None,
            after.map(end_of).as_ref(),
        ))
    }

    async fn lsn(&self, lsn: Lsn, exclusive: bool) -> Result<(Manifest, StopPoint)> {
        let usable = |manifest: &&&Manifest| manifest.end_lsn <= lsn.as_u64();
        let Some(manifest) = self.candidates.iter().find(usable) else {
            let after = self.candidates.last().map(|manifest| end_of(manifest));
            return Err(unreachable(
                format!("LSN {lsn} lies before the first backup that could lead to it"),
                None,
                after.as_ref(),
            ));
        };
        let mut scanner = self.scanner();
        let stop = match scanner.at_lsn(manifest, lsn).await? {
            Some(found) => StopPoint::record(StopKind::Lsn, &found, !exclusive),
            None => {
                let last = scanner.last(manifest).await?;
                // No record begins there, but all WAL before it is there: the last record leads to it.
                let archived = self.route.contiguous_end(self.coverage, Lsn::new(manifest.start_lsn));
                if let Some(last) = last.filter(|last| lsn <= archived.max(last.end) && self.is_complete(manifest)) {
                    return Ok(((*manifest).clone(), StopPoint::record(StopKind::Lsn, &last, true)));
                }
                let later = self
                    .candidates
                    .iter()
                    .rev()
                    .find(|manifest| manifest.end_lsn > lsn.as_u64());
                self.end_instead(
                    manifest,
                    &format!("LSN {lsn}"),
                    last,
                    later.map(|manifest| end_of(manifest)),
                )?
            }
        };
        Ok(((*manifest).clone(), stop))
    }

    /// The newest backup before the end of the transaction, and that end.
    async fn xid(&self, xid: u32, exclusive: bool) -> Result<(Manifest, StopPoint)> {
        let mut scanner = self.scanner();
        let mut damage = Damage::default();
        for manifest in &self.candidates {
            let found = scanner.end_of_transaction(manifest, xid).await;
            if let Some(found) = damage.found(found, manifest)? {
                return Ok((
                    (*manifest).clone(),
                    StopPoint::record(StopKind::Xid, &found, !exclusive),
                ));
            }
        }
        Err(damage.or(self.not_found(&format!("the end of transaction {xid}"))))
    }

    /// The newest backup before the restore point, and that point.
    async fn name(&self, name: &str) -> Result<(Manifest, StopPoint)> {
        let mut scanner = self.scanner();
        let mut damage = Damage::default();
        for manifest in &self.candidates {
            let found = scanner.restore_point(manifest, name).await;
            if let Some(found) = damage.found(found, manifest)? {
                return Ok(((*manifest).clone(), StopPoint::record(StopKind::Name, &found, true)));
            }
        }
        Err(damage.or(self.not_found(&format!("restore point \"{}\"", name.escape_debug()))))
    }

    /// Nothing tells where it would be: the points at both ends are named.
    fn not_found(&self, what: &str) -> RestoreError {
        let first = self.candidates.last().map(|manifest| end_of(manifest));
        let last = self.coverage.newest_end().map(|lsn| Point { lsn, time_us: None });
        let ends = match (first, last) {
            (Some(first), Some(last)) => format!("What can be reached lies between {first} and {last}."),
            _ => "See what can be recovered with `wal-restore list`.".to_owned(),
        };
        RestoreError::refused(
            format!("{what} is not in the archived WAL behind any backup of this timeline"),
            ends,
        )
    }

    async fn latest(&self) -> Result<(Manifest, StopPoint)> {
        let mut scanner = self.scanner();
        for manifest in &self.candidates {
            let Some(last) = scanner.last(manifest).await?.filter(|_| self.is_complete(manifest)) else {
                continue;
            };
            let stop = StopPoint::record(StopKind::Latest, &last, true);
            if let Some((start, end)) = self.hole_after(manifest)
                && !self.or_latest
            {
                let is_undeclared = !self.coverage.undeclared(self.route.timeline(), start, end).is_empty();
                let was_archived = is_undeclared && scanner.was_archived(start).await?;
                if !was_archived && self.was_on_its_way(start, end) {
                    tracing::warn!(from = %start, to = %end, "this WAL was still on its way when the archive ended; restoring up to it");
                    return Ok(((*manifest).clone(), stop));
                }
                let message = format!(
                    "WAL from {start} to {end} {}, and later WAL cannot be reached without it",
                    self.fate(start, end)
                );
                let hint = format!(
                    "{}Restore up to the hole with --target-lsn {}, or accept it with --or-latest.",
                    match was_archived {
                        true =>
                            "It was archived: a copy of the repository may have it (--copy NAME, or `wal-agent repair`). ",
                        false => "",
                    },
                    last.start
                );
                return Err(RestoreError::refused(message, hint));
            }
            return Ok(((*manifest).clone(), stop));
        }
        Err(self.not_covered())
    }

    /// The server stops at the end of a backup when it meets the next record, or behind the end of a transaction. A standby writes
    /// nothing at the end of its backup: where nothing follows in the archive, its last record is named instead.
    async fn immediate(&self) -> Result<(Manifest, StopPoint)> {
        let (manifest, stop) = self.consistent(StopKind::Immediate)?;
        let mut scanner = self.scanner();
        if scanner.at_lsn(&manifest, stop.lsn).await?.is_some() {
            return Ok((manifest, stop));
        }
        match scanner.last(&manifest).await? {
            Some(last) => Ok((manifest, StopPoint::record(StopKind::Lsn, &last, true))),
            None => Ok((manifest, stop)),
        }
    }

    fn consistent(&self, kind: StopKind) -> Result<(Manifest, StopPoint)> {
        for manifest in &self.candidates {
            let end = Lsn::new(manifest.end_lsn);
            if self.is_complete(manifest) {
                let found = Found {
                    start: end,
                    end,
                    time_us: None,
                    commit_before_us: None,
                };
                return Ok(((*manifest).clone(), StopPoint::record(kind, &found, true)));
            }
        }
        Err(self.not_covered())
    }

    /// All WAL of the backup is archived. Its last record may end before it: what a segment switch leaves empty belongs to no record.
    fn is_complete(&self, manifest: &Manifest) -> bool {
        self.route.contiguous_end(self.coverage, Lsn::new(manifest.start_lsn)) >= Lsn::new(manifest.end_lsn)
    }

    fn not_covered(&self) -> RestoreError {
        let detail = self.candidates.first().map_or_else(String::new, |manifest| {
            let start = Lsn::new(manifest.start_lsn);
            let missing = self.route.contiguous_end(self.coverage, start);
            format!(
                ": backup {} needs WAL from {start} to {}, and it is missing from {missing}",
                manifest.backup,
                Lsn::new(manifest.end_lsn)
            )
        });
        RestoreError::refused(
            format!("no backup has all of its WAL{detail}"),
            "See `wal-restore list`; other lineages have backups of their own.",
        )
    }

    /// Nothing at the stop point or behind it is archived: the last record, if that was allowed.
    fn end_instead(
        &self,
        manifest: &Manifest,
        what: &str,
        last: Option<Found>,
        after: Option<Point>,
    ) -> Result<StopPoint> {
        let last = last
            .filter(|_| self.is_complete(manifest))
            .ok_or_else(|| self.not_covered())?;
        if self.or_latest {
            return Ok(StopPoint {
                is_proven: false,
                ..StopPoint::record(StopKind::Latest, &last, true)
            });
        }
        let before = Point {
            lsn: last.start,
            time_us: last.commit_before_us,
        };
        let message = match self.hole_after(manifest) {
            Some((start, end)) => format!(
                "{what} cannot be reached: WAL from {start} to {end} {}",
                self.fate(start, end)
            ),
            None => match last.commit_before_us {
                Some(us) => format!(
                    "nothing later than {what} is archived; the last transaction ended at {}",
                    time::show(us)
                ),
                None => format!("nothing later than {what} is archived"),
            },
        };
        Err(unreachable(message, Some(&before), after.as_ref())
            .with_more_hint("Use --or-latest to take the last archived record instead."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_that_began_after_the_time_is_never_used_for_it() {
        let manifest = Manifest {
            started_us: 100,
            ..crate::testing::manifest()
        };
        assert!(holds_later(&manifest, 99, false, None));
        assert!(!holds_later(&manifest, 100, false, Some(100)));
        // The clock of the writer was behind: archived WAL tells.
        assert!(holds_later(&manifest, 105, false, Some(106)));
        assert!(holds_later(&manifest, 105, true, Some(105)));
    }
}
