//! `wal-restore find`: when was it dropped, and which restore leads to just before that?
//!
//! Catalog out of a backup ([`backup`]) → all archived WAL behind it ([`scan`]) → rows of the catalog followed record by record
//! ([`heap`], [`catalog`]) → events at commits ([`watch`]) → [`report`]. Nothing is written and no server is needed. What cannot be
//! read is told with the result: a list that may be incomplete says so.

mod asked;
mod backup;
mod catalog;
mod event;
mod heap;
mod name;
mod report;
mod scan;
#[cfg(test)]
mod testing;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use pg::catalog::ClassRow;
use pg::identity::{ServerVersion, wal_page_magic};
use pg::lsn::Lsn;
use store::manifest::Manifest;
use store::repository::Repository;

use self::asked::Asked;
pub(crate) use self::event::EventKind;
use self::event::Searched;
use self::name::{Nearest, show};
use self::report::Findings;
use self::watch::Watch;
use crate::cli::{Cli, FindArgs};
use crate::detour::Detours;
use crate::error::{RestoreError, Result};
use crate::open;
use crate::progress::Progress;
use crate::request::{LISTINGS_MAX, Way, way};

/// How long a request to the store is tried again.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the command.
pub(crate) async fn run(cli: &Cli, args: &FindArgs) -> Result<Findings> {
    let asked = Asked::of(args)?;
    let opened = open::open(cli.which(), PATIENCE).await?;
    let mut detours = Detours::default();
    let mut listing = 1;
    loop {
        let way = way(&opened.repository, args.target_timeline, &detours).await?;
        let search = Search {
            repository: &opened.repository,
            way: &way,
            args,
            asked: &asked,
        };
        match Box::pin(search.run()).await {
            Err(RestoreError::Vanished { .. }) if listing < LISTINGS_MAX => listing += 1,
            Err(error) if detours.around(&opened.repository, &way.coverage, &error) => {}
            done => return done,
        }
    }
}

/// One question to one way through the archive.
struct Search<'a> {
    repository: &'a Arc<Repository>,
    way: &'a Way,
    args: &'a FindArgs,
    asked: &'a Asked,
}

/// WAL without a hole, and the backup that it begins with.
struct Stretch<'a> {
    manifest: &'a Manifest,
    end: Lsn,
}

/// Where a database was looked for in vain.
#[derive(Default)]
struct Missed {
    databases: Vec<String>,
    nearest: Nearest,
    is_database_known: bool,
}

impl Search<'_> {
    async fn run(&self) -> Result<Findings> {
        let stretches = self.stretches()?;
        let total: u64 = stretches
            .iter()
            .map(|one| one.end.distance_from(scan::begin(one.manifest)))
            .sum();
        let progress = Progress::of("searching", "searched", total, self.args.json);
        let mut findings = Findings::new(self.args, self.way);
        let mut missed = Missed::default();
        let mut is_table_known = self.asked.table.is_none();
        let mut last_end: Option<Lsn> = None;
        for stretch in &stretches {
            let start = Lsn::new(stretch.manifest.start_lsn);
            if let Some(end) = last_end {
                findings.warnings.push(format!(
                    "WAL from {end} to {start} is not read: it was lost, or no backup leads to it"
                ));
            }
            if let Some(watch) = self.stretch(stretch, &mut missed, &mut findings, &progress).await? {
                is_table_known |= watch.was_tracked;
            }
            last_end = Some(stretch.end);
        }
        progress.finish();
        self.refuse_unknown(&missed, is_table_known, &findings)?;
        findings.refuse_nothing(self.asked)?;
        Ok(findings)
    }

    /// The backups to begin with: the oldest one, or the newest that began before the time, and one behind every hole.
    fn stretches(&self) -> Result<Vec<Stretch<'_>>> {
        let mut oldest_first: Vec<&Manifest> = self.way.manifests.iter().collect();
        oldest_first.sort_by_key(|manifest| (manifest.start_lsn, manifest.backup));
        if let Some(from) = self.asked.from_us {
            let before = oldest_first.iter().rposition(|manifest| manifest.started_us <= from);
            oldest_first.drain(..before.unwrap_or_default());
        }
        let mut stretches: Vec<Stretch<'_>> = Vec::new();
        for manifest in oldest_first {
            let start = Lsn::new(manifest.start_lsn);
            if stretches.last().is_some_and(|last| start < last.end) {
                continue;
            }
            let end = self.way.route.contiguous_end(&self.way.coverage, start);
            if end >= Lsn::new(manifest.end_lsn) {
                stretches.push(Stretch { manifest, end });
            }
        }
        if stretches.is_empty() {
            return Err(RestoreError::refused(
                "no backup has all of its WAL",
                "See `wal-restore list`; other timelines are reached with --target-timeline.",
            ));
        }
        Ok(stretches)
    }

    async fn stretch(
        &self,
        stretch: &Stretch<'_>,
        missed: &mut Missed,
        findings: &mut Findings,
        progress: &Progress,
    ) -> Result<Option<Watch>> {
        let Some((manifest, mut watch)) = self.begin(stretch, missed).await? else {
            return Ok(None);
        };
        let begin = scan::begin(manifest);
        let route = &self.way.route;
        let pieces = route.pieces(&self.way.coverage, begin, stretch.end);
        let reached = scan::read(self.repository, route, manifest, pieces, &mut watch, progress).await?;
        findings.searched.push(Searched {
            backup: manifest.backup.to_string(),
            from_lsn: Lsn::new(manifest.start_lsn),
            to_lsn: reached,
            from_us: watch.times.map(|(first, _)| first),
            to_us: watch.times.map(|(_, last)| last),
        });
        findings.warnings.extend(watch.take_notes());
        findings.add(std::mem::take(&mut watch.events));
        Ok(Some(watch))
    }

    /// The first backup of a stretch that knows the database: it may be younger than the first backup.
    async fn begin<'b>(&'b self, stretch: &Stretch<'b>, missed: &mut Missed) -> Result<Option<(&'b Manifest, Watch)>> {
        let magic_of = |manifest: &Manifest| {
            let major = ServerVersion(manifest.server_version).major();
            wal_page_magic(major).ok_or_else(|| {
                RestoreError::refused(
                    format!("PostgreSQL {major} is not supported"),
                    "Upgrade seawall on this host.",
                )
            })
        };
        if self.asked.events.iter().all(|kind| *kind == EventKind::Commit) {
            let manifest = stretch.manifest;
            let start = Lsn::new(manifest.start_lsn);
            let watch = Watch::new(self.asked.clone(), magic_of(manifest)?, start, None);
            missed.is_database_known = true;
            return Ok(Some((manifest, watch)));
        }
        let from = stretch.manifest.start_lsn;
        let within = |manifest: &&Manifest| manifest.start_lsn >= from && Lsn::new(manifest.end_lsn) <= stretch.end;
        for manifest in self.way.manifests.iter().rev().filter(within) {
            let files = backup::Files::of(self.repository, manifest).await?;
            match files.catalog(&self.args.database).await? {
                Ok(found) => {
                    missed.is_database_known = true;
                    let start = Lsn::new(manifest.start_lsn);
                    let mut watch = Watch::new(self.asked.clone(), magic_of(manifest)?, start, Some(found.catalog));
                    for row in &found.tables {
                        watch.track_row(row);
                    }
                    self.offer(&watch, &found.tables, missed);
                    return Ok(Some((manifest, watch)));
                }
                Err(names) => missed.databases.extend(names),
            }
        }
        Ok(None)
    }

    fn offer(&self, watch: &Watch, tables: &[ClassRow], missed: &mut Missed) {
        let (Some(asked), Some(catalog)) = (&self.asked.table, &watch.catalog) else {
            return;
        };
        let asked = asked.to_string();
        for row in tables.iter().filter(|row| row.is_named()) {
            let name = show(catalog.schema(row.namespace), &row.name);
            missed.nearest.offer(&asked, &name);
        }
    }

    fn refuse_unknown(&self, missed: &Missed, is_table_known: bool, findings: &Findings) -> Result<()> {
        if !missed.is_database_known {
            let mut names = missed.databases.clone();
            names.sort();
            names.dedup();
            return Err(RestoreError::refused(
                format!(
                    "no backup that was looked at has a database \"{}\"",
                    self.args.database.escape_debug()
                ),
                format!(
                    "Known databases: {}. One that is younger than its first backup is found once a backup of it exists.",
                    names.join(", ")
                ),
            ));
        }
        let Some(table) = self.asked.table.as_ref().filter(|_| !is_table_known) else {
            return Ok(());
        };
        let message = format!(
            "no table {table} was in database \"{}\" {}",
            self.args.database.escape_debug(),
            findings.range()
        );
        let near = match missed.nearest.list() {
            list if list.is_empty() => "Its name is folded to lower case unless it is in double quotes.".to_owned(),
            list => format!("Similar names: {list}."),
        };
        let mut hint = near;
        for warning in &findings.warnings {
            hint.push_str(&format!("\nWARNING: {warning}"));
        }
        Err(RestoreError::refused(message, hint))
    }
}
