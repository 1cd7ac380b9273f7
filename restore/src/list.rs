//! `list`: backups, what can be recovered, and holes.

mod tree;

use pg::lsn::Lsn;
use pg::segment::SegmentSize;
use pg::timeline::TimelineId;
use serde::Serialize;
use store::catalog::Coverage;
use store::manifest::Manifest;
use store::records::Lineage;
use store::repository::Repository;
use store::verify::is_wrong;

use crate::error::{RestoreError, Result};
use crate::plan::{bytes_text, lsn_text, time_text};
use crate::route::Route;
use crate::scan::Scanner;
use crate::time;

/// A backup.
#[derive(Debug, Serialize)]
struct BackupRow {
    backup: String,
    lineage: String,
    timeline: u32,
    #[serde(rename = "finished", serialize_with = "time_text")]
    finished_us: Option<i64>,
    #[serde(serialize_with = "lsn_text")]
    start_lsn: Lsn,
    #[serde(serialize_with = "lsn_text")]
    end_lsn: Lsn,
    logical_bytes: u64,
    new_stored_bytes: u64,
    needed_bytes: u64,
    source: String,
    label: Option<String>,
}

/// What can be recovered on the way to one timeline.
#[derive(Debug, Serialize)]
struct WindowRow {
    lineage: String,
    timeline: u32,
    first_backup: String,
    #[serde(serialize_with = "lsn_text")]
    from_lsn: Lsn,
    #[serde(rename = "from_time", serialize_with = "time_text")]
    from_us: Option<i64>,
    #[serde(serialize_with = "lsn_text")]
    to_lsn: Lsn,
    #[serde(rename = "to_time", serialize_with = "time_text")]
    to_us: Option<i64>,
}

/// Lost WAL.
#[derive(Debug, Serialize)]
struct HoleRow {
    lineage: String,
    timeline: u32,
    #[serde(serialize_with = "lsn_text")]
    start_lsn: Lsn,
    #[serde(serialize_with = "lsn_text")]
    end_lsn: Lsn,
}

/// Everything.
#[derive(Debug, Serialize)]
pub(crate) struct Listing {
    cluster: String,
    lineages: Vec<LineageRow>,
    timelines: Vec<tree::TimelineRow>,
    backups: Vec<BackupRow>,
    windows: Vec<WindowRow>,
    holes: Vec<HoleRow>,
}

#[derive(Debug, Serialize)]
struct LineageRow {
    lineage: String,
    system_identifier: String,
    #[serde(rename = "created", serialize_with = "time_text")]
    created_us: Option<i64>,
    reason: String,
}

/// Collects it.
pub(crate) async fn collect(repository: &Repository) -> Result<Listing> {
    let manifests = repository.manifests().await?;
    let lineages = repository.readable_lineages().await?;
    let mut listing = Listing {
        cluster: repository.cluster().to_owned(),
        lineages: lineages.iter().map(lineage_row).collect(),
        timelines: Vec::new(),
        backups: manifests.iter().map(backup_row).collect(),
        windows: Vec::new(),
        holes: Vec::new(),
    };
    for lineage in &lineages {
        let coverage = repository.settled_coverage(lineage.id).await?;
        for hole in coverage.holes() {
            let timeline = hole.timeline.as_u32();
            listing.holes.push(HoleRow {
                lineage: lineage.id.to_string(),
                timeline,
                start_lsn: hole.start,
                end_lsn: hole.end,
            });
        }
        let own: Vec<&Manifest> = manifests
            .iter()
            .filter(|manifest| manifest.lineage == lineage.id)
            .collect();
        listing.timelines.extend(tree::rows(&coverage, &own));
        let size = SegmentSize::new(lineage.segment_bytes).map_err(|error| RestoreError::damaged(lineage.id, error))?;
        for timeline in coverage.timelines.keys() {
            windows(
                repository,
                &coverage,
                &Route::to(&coverage, *timeline, size),
                &own,
                &mut listing.windows,
            )
            .await?;
        }
    }
    Ok(listing)
}

fn lineage_row(lineage: &Lineage) -> LineageRow {
    LineageRow {
        lineage: lineage.id.to_string(),
        system_identifier: lineage.system_identifier.to_string(),
        created_us: Some(lineage.created_us),
        reason: lineage.reason.clone(),
    }
}

fn backup_row(manifest: &Manifest) -> BackupRow {
    BackupRow {
        backup: manifest.backup.to_string(),
        lineage: manifest.lineage.to_string(),
        timeline: manifest.timeline,
        finished_us: Some(manifest.finished_us),
        start_lsn: Lsn::new(manifest.start_lsn),
        end_lsn: Lsn::new(manifest.end_lsn),
        logical_bytes: manifest.totals.logical_bytes,
        new_stored_bytes: manifest.totals.new_stored_bytes,
        needed_bytes: manifest.totals.needed_bytes,
        source: manifest.source.clone(),
        label: manifest.label.clone(),
    }
}

/// Stretches without a hole on one way, each from the end of its first backup.
async fn windows(
    repository: &Repository,
    coverage: &Coverage,
    route: &Route,
    manifests: &[&Manifest],
    out: &mut Vec<WindowRow>,
) -> Result<()> {
    let on_route = |manifest: &&&Manifest| {
        TimelineId::new(manifest.timeline).is_some_and(|one| route.passes(one, Lsn::new(manifest.end_lsn)))
    };
    let mut backups: Vec<&Manifest> = manifests.iter().filter(on_route).copied().collect();
    backups.sort_by_key(|manifest| manifest.start_lsn);
    let mut covered_to = Lsn::ZERO;
    for manifest in backups {
        let (start, end) = (Lsn::new(manifest.start_lsn), Lsn::new(manifest.end_lsn));
        let contiguous = route.contiguous_end(coverage, start);
        if start < covered_to || contiguous < end {
            continue;
        }
        covered_to = contiguous;
        let last = match Scanner::new(repository, coverage, route).last(manifest).await {
            // Everything else can be shown all the same.
            Err(RestoreError::Store(error)) if is_wrong(&error) => {
                tracing::warn!(%error, "the end of this stretch cannot be read");
                None
            }
            Err(error @ RestoreError::Vanished { .. }) => {
                tracing::warn!(%error, "the end of this stretch was just replaced");
                None
            }
            last => last?,
        };
        out.push(WindowRow {
            lineage: manifest.lineage.to_string(),
            timeline: route.timeline().as_u32(),
            first_backup: manifest.backup.to_string(),
            from_lsn: end,
            from_us: Some(manifest.finished_us),
            to_lsn: last.map_or(contiguous, |last| last.start),
            to_us: last.and_then(|last| last.commit_before_us),
        });
    }
    Ok(())
}

fn table(header: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_header(header.to_vec());
    table
}

impl Listing {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let time = |us: Option<i64>| us.map_or_else(|| "-".to_owned(), |us| time::show(us / 1_000_000 * 1_000_000));
        if self.backups.is_empty() {
            return format!("cluster {} has no backup", self.cluster);
        }
        let mut header = vec![
            "BACKUP",
            "FINISHED",
            "TIMELINE",
            "START",
            "CONSISTENT",
            "SIZE",
            "NEW",
            "TO READ",
            "LINEAGE",
        ];
        let has_labels = self.backups.iter().any(|row| row.label.is_some());
        if has_labels {
            header.push("LABEL");
        }
        let mut backups = table(&header);
        for row in &self.backups {
            let mut cells = vec![
                row.backup.clone(),
                time(row.finished_us),
                row.timeline.to_string(),
                row.start_lsn.to_string(),
                row.end_lsn.to_string(),
                bytes_text(row.logical_bytes),
                bytes_text(row.new_stored_bytes),
                bytes_text(row.needed_bytes),
                row.lineage.clone(),
            ];
            if has_labels {
                cells.push(row.label.as_deref().unwrap_or_default().escape_debug().to_string());
            }
            backups.add_row(cells);
        }
        let mut windows = table(&["RECOVERABLE", "FROM", "TO", "FROM LSN", "TO LSN", "LINEAGE"]);
        for row in &self.windows {
            windows.add_row(vec![
                format!("timeline {}", row.timeline),
                time(row.from_us),
                time(row.to_us),
                row.from_lsn.to_string(),
                row.to_lsn.to_string(),
                row.lineage.clone(),
            ]);
        }
        let mut text = format!("{backups}\n\n{windows}\n");
        for lineage in &self.lineages {
            let of_it = |row: &&tree::TimelineRow| row.lineage == lineage.lineage;
            let rows: Vec<tree::TimelineRow> = self.timelines.iter().filter(of_it).cloned().collect();
            text.push_str(&format!(
                "\nlineage {}, system {}, begun {} ({})",
                lineage.lineage,
                lineage.system_identifier,
                time(lineage.created_us),
                lineage.reason
            ));
            text.push_str(&tree::text(&rows));
        }
        for hole in &self.holes {
            text.push_str(&format!(
                "\nHOLE: WAL of timeline {} from {} to {} was lost (lineage {})",
                hole.timeline, hole.start_lsn, hole.end_lsn, hole.lineage
            ));
        }
        text
    }
}
