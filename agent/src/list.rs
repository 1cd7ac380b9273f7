//! `wal-agent list`: backups, what can be reached, what is missing.

use std::collections::{BTreeMap, BTreeSet};

use pg::lsn::Lsn;
use pg::timeline::TimelineId;
use serde_json::json;
use store::catalog::Coverage;
use store::id::{BackupId, LineageId};
use store::manifest::{KnownGood, Manifest};
use store::prune::pinned;
use store::records::LedgerEntry;
use store::repository::Repository;

use crate::open::{Context, command_policy};
use crate::{component, output};

/// The newest events in the table; JSON has all.
const EVENTS_SHOWN: usize = 10;

/// Runs the command.
pub async fn run(context: &Context, as_json: bool) -> anyhow::Result<()> {
    let repository = context.repository_to_look_at(command_policy()).await?;
    let (backups, events) = backups_and_events(&repository).await?;
    let mut coverages = Vec::new();
    for lineage in repository.readable_lineages().await? {
        coverages.push(repository.settled_coverage(lineage.id).await?);
    }
    let pins = pinned(&repository).await?;
    let components = repository.component_manifests().await?;
    if as_json {
        print_json(&backups, &coverages, &events, &pins, &components)
    } else {
        print_tables(&backups, &coverages, &events, &pins)?;
        print_components(&components);
        Ok(())
    }
}

/// Complete backups, and what was noted beside them; oldest first.
pub async fn backups_and_events(repository: &Repository) -> anyhow::Result<(Vec<Manifest>, Vec<LedgerEntry>)> {
    Ok((repository.manifests().await?, repository.ledger().await?))
}

/// What can be reached on a timeline.
pub struct Window {
    /// Lineage.
    pub lineage: LineageId,
    /// Timeline.
    pub timeline: TimelineId,
    /// End of the first usable backup.
    pub from: pg::lsn::Lsn,
    /// End of contiguous WAL.
    pub to: pg::lsn::Lsn,
}

/// For each timeline the stretches from the end of a usable backup to the end of contiguous WAL behind it.
pub fn windows(backups: &[Manifest], coverages: &[Coverage]) -> Vec<Window> {
    let mut out = Vec::new();
    for coverage in coverages {
        for timeline in coverage.timelines.keys() {
            let reachable = backups
                .iter()
                .filter(|backup| backup.lineage == coverage.lineage)
                .filter_map(|backup| {
                    let end = pg::lsn::Lsn::new(backup.end_lsn);
                    let to = coverage.contiguous_end(*timeline, pg::lsn::Lsn::new(backup.start_lsn))?;
                    (to >= end).then_some((end, to))
                });
            // Each stretch of contiguous WAL has one end.
            let mut stretches: BTreeMap<Lsn, Lsn> = BTreeMap::new();
            for (from, to) in reachable {
                stretches
                    .entry(to)
                    .and_modify(|known| *known = from.min(*known))
                    .or_insert(from);
            }
            out.extend(stretches.into_iter().map(|(to, from)| Window {
                lineage: coverage.lineage,
                timeline: *timeline,
                from,
                to,
            }));
        }
    }
    out
}

fn lsn(value: u64) -> String {
    pg::lsn::Lsn::new(value).to_string()
}

fn print_json(
    backups: &[Manifest],
    coverages: &[Coverage],
    events: &[LedgerEntry],
    pins: &BTreeSet<BackupId>,
    components: &[Manifest],
) -> anyhow::Result<()> {
    let backups_json: Vec<_> = backups
        .iter()
        .map(|backup| {
            json!({
                "backup": backup.backup.to_string(),
                "lineage": backup.lineage.to_string(),
                "timeline": backup.timeline,
                "start_lsn": lsn(backup.start_lsn),
                "end_lsn": lsn(backup.end_lsn),
                "started": output::time_us(backup.started_us),
                "finished": output::time_us(backup.finished_us),
                "logical_bytes": backup.totals.logical_bytes,
                "new_stored_bytes": backup.totals.new_stored_bytes,
                "needed_bytes": backup.totals.needed_bytes,
                "pages": backup.totals.pages,
                "new_pages": backup.totals.new_pages,
                "corrupt_pages": backup.corrupt_pages.len(),
                "server_version": backup.server_version,
                "parent": backup.parent.map(|parent| parent.to_string()),
                "label": backup.label,
                "pinned": pins.contains(&backup.backup),
                "last_known_good": backup.known_good.iter().map(known_good).collect::<Vec<_>>(),
            })
        })
        .collect();
    let windows: Vec<_> = windows(backups, coverages)
        .into_iter()
        .map(|window| json!({ "lineage": window.lineage.to_string(), "timeline": window.timeline.as_u32(), "from_lsn": window.from.to_string(), "to_lsn": window.to.to_string() }))
        .collect();
    let holes: Vec<_> = coverages
        .iter()
        .flat_map(|coverage| {
            let lineage = coverage.lineage.to_string();
            coverage.holes().into_iter().map(move |hole| {
                json!({ "lineage": lineage, "timeline": hole.timeline.as_u32(), "start": hole.start.to_string(), "end": hole.end.to_string() })
            })
        })
        .collect();
    let events: Vec<_> = events
        .iter()
        .map(|entry| json!({ "time": output::time_us(entry.time_us), "host": entry.host, "event": entry.event, "detail": entry.detail }))
        .collect();
    let components: Vec<_> = components
        .iter()
        .map(|backup| {
            let mut report = component::report_of(backup);
            report["pinned"] = pins.contains(&backup.backup).into();
            report
        })
        .collect();
    output::print_json(
        &json!({ "backups": backups_json, "windows": windows, "holes": holes, "events": events, "components": components }),
    )
}

fn known_good(known: &KnownGood) -> serde_json::Value {
    json!({ "query": known.query, "rows": known.rows, "error": known.error, "asked": output::time_us(known.asked_us) })
}

/// Nothing where there are none.
fn print_components(backups: &[Manifest]) {
    if backups.is_empty() {
        return;
    }
    let mut table = output::table(&["component", "kind", "backup", "as of", "files", "logical", "stored new"]);
    for backup in backups {
        let component = backup.component.as_deref().cloned().unwrap_or_default();
        table.add_row([
            component.name,
            component.kind,
            backup.backup.to_string(),
            output::time_us(component.as_of_us),
            backup.totals.files.to_string(),
            output::bytes(backup.totals.logical_bytes),
            output::bytes(backup.totals.new_stored_bytes),
        ]);
    }
    println!("{table}");
}

fn print_tables(
    backups: &[Manifest],
    coverages: &[Coverage],
    events: &[LedgerEntry],
    pins: &BTreeSet<BackupId>,
) -> anyhow::Result<()> {
    let mut table = output::table(&[
        "backup",
        "finished",
        "TL",
        "start",
        "end",
        "logical",
        "stored new",
        "pages new",
    ]);
    for backup in backups {
        table.add_row([
            backup.backup.to_string(),
            output::time_us(backup.finished_us),
            backup.timeline.to_string(),
            lsn(backup.start_lsn),
            lsn(backup.end_lsn),
            output::bytes(backup.totals.logical_bytes),
            output::bytes(backup.totals.new_stored_bytes),
            format!("{} of {}", backup.totals.new_pages, backup.totals.pages),
        ]);
    }
    println!("{table}");
    for backup in pins {
        println!("Pinned: {backup}");
    }
    for window in windows(backups, coverages) {
        println!(
            "Recoverable on timeline {}: {} to {} (lineage {})",
            window.timeline.as_u32(),
            window.from,
            window.to,
            window.lineage
        );
    }
    for coverage in coverages {
        for hole in coverage.holes() {
            println!(
                "HOLE on timeline {}: {} to {} is lost (lineage {})",
                hole.timeline, hole.start, hole.end, coverage.lineage
            );
        }
    }
    for entry in events.iter().rev().take(EVENTS_SHOWN).rev() {
        println!("{}: {}: {}", output::time_us(entry.time_us), entry.event, entry.detail);
    }
    Ok(())
}
