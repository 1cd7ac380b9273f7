//! `wal-agent timeline`: what has happened, in order of time, for a post-mortem. From what the repository keeps; of alarms those that are open, as
//! the agent of this host has said.

use serde::Serialize;
use serde_json::json;
use store::id::KeyId;
use store::manifest::Manifest;
use store::records::{LedgerEntry, Lineage, Proof};
use store::repository::{Period, Repository};

use crate::cli::TimelineOptions;
use crate::health::board::Open;
use crate::open::{Context, command_policy};
use crate::{list, output, status};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// When, microseconds since 1970.
    time_us: i64,
    /// What, in a few words that do not change.
    what: String,
    /// The facts, for people.
    details: String,
    /// Where, if that is known.
    host: Option<String>,
}

/// An entry as JSON has it.
#[derive(Debug, Serialize)]
struct Row<'a> {
    time: String,
    what: &'a str,
    details: &'a str,
    host: Option<&'a str>,
}

/// Runs the command.
pub async fn run(context: &Context, options: &TimelineOptions) -> anyhow::Result<()> {
    let repository = context.repository_to_look_at(command_policy()).await?;
    let mut entries = stored(&repository).await?;
    let said = status::last_said(context).unwrap_or_default();
    entries.extend(said.alarms.iter().map(of_alarm));
    let limit = |time: Option<jiff::Timestamp>| time.map(jiff::Timestamp::as_microsecond);
    let entries = between(entries, limit(options.since), limit(options.until));
    if options.json {
        let rows: Vec<Row<'_>> = entries.iter().map(Entry::row).collect();
        return output::print_json(&json!({ "cluster": context.cluster.name, "entries": rows }));
    }
    print!("{}", markdown(&context.cluster.name, &entries));
    Ok(())
}

/// Everything that the repository tells.
async fn stored(repository: &Repository) -> anyhow::Result<Vec<Entry>> {
    let (backups, events) = list::backups_and_events(repository).await?;
    let mut entries: Vec<Entry> = backups.iter().flat_map(of_backup).collect();
    entries.extend(events.into_iter().map(of_event));
    let lineages = repository.readable_lineages().await?;
    // Of those that began later there is an event.
    let first = lineages.iter().filter(|lineage| lineage.parent.is_none());
    entries.extend(first.map(of_lineage));
    entries.extend(repository.proofs().await?.iter().map(of_proof));
    entries.extend(of_revocations(&repository.period()));
    Ok(entries)
}

/// In order, from the first to the last time that was asked for.
fn between(mut entries: Vec<Entry>, since_us: Option<i64>, until_us: Option<i64>) -> Vec<Entry> {
    entries.retain(|entry| {
        since_us.is_none_or(|since| entry.time_us >= since) && until_us.is_none_or(|until| entry.time_us <= until)
    });
    entries.sort_by(|one, other| (one.time_us, &one.what).cmp(&(other.time_us, &other.what)));
    entries
}

fn of_backup(backup: &Manifest) -> [Entry; 2] {
    let id = backup.backup;
    let label = backup
        .label
        .as_ref()
        .map_or(String::new(), |label| format!(" \"{label}\""));
    let corrupt = match backup.corrupt_pages.len() {
        0 => String::new(),
        pages => format!("; {pages} CORRUPT pages in the database"),
    };
    let lsn = pg::lsn::Lsn::new(backup.end_lsn);
    [
        Entry::new(backup.started_us, "backup begun", format!("{id}{label}")),
        Entry::new(
            backup.finished_us,
            "backup ended",
            format!(
                "{id}{label}, to {lsn} on timeline {}, {} of files, {} stored{corrupt}",
                backup.timeline,
                output::bytes(backup.totals.logical_bytes),
                output::bytes(backup.totals.new_stored_bytes)
            ),
        ),
    ]
}

fn of_event(event: LedgerEntry) -> Entry {
    Entry {
        host: Some(event.host),
        ..Entry::new(event.time_us, &event.event, event.detail)
    }
}

fn of_lineage(lineage: &Lineage) -> Entry {
    let details = format!("lineage {}: {}", lineage.id, lineage.reason);
    Entry::new(lineage.created_us, "archive begun", details)
}

fn of_proof(proof: &Proof) -> Entry {
    let (what, details) = match (proof.backup, proof.damaged) {
        (Some(backup), _) => ("restore proven", format!("of backup {backup}")),
        (None, 0) => ("verified", format!("{} objects, nothing damaged", proof.objects)),
        (None, damaged) => ("damage found", format!("{damaged} of {} objects", proof.objects)),
    };
    Entry {
        host: Some(proof.host.clone()),
        ..Entry::new(proof.time_us, what, details)
    }
}

fn of_revocations(period: &Period) -> Vec<Entry> {
    let revoked = period.signers.iter().filter_map(|signer| {
        let details = |id: KeyId| format!("what {id} ({}) signs from here on does not count", signer.holder);
        Some(Entry::new(signer.revoked_us?, "key revoked", details(signer.id)))
    });
    revoked.collect()
}

fn of_alarm(open: &Open) -> Entry {
    let name = open.alarm.kind.name();
    let subject = open
        .alarm
        .subject
        .as_ref()
        .map_or(String::new(), |subject| format!(" ({subject})"));
    let details = format!("{name}{subject}: {}", open.alarm.text);
    Entry::new(open.since_us, "alarm, still open", details)
}

impl Entry {
    fn new(time_us: i64, what: &str, details: String) -> Self {
        Entry {
            time_us,
            what: what.to_owned(),
            details,
            host: None,
        }
    }

    fn row(&self) -> Row<'_> {
        Row {
            time: output::time_us(self.time_us),
            what: &self.what,
            details: &self.details,
            host: self.host.as_deref(),
        }
    }
}

fn markdown(cluster: &str, entries: &[Entry]) -> String {
    let mut text = format!(
        "# Timeline of the PostgreSQL cluster \"{cluster}\"\n\n| time (UTC) | what | details |\n|---|---|---|\n"
    );
    for entry in entries {
        let row = entry.row();
        let host = row.host.map_or(String::new(), |host| format!(" (host {host})"));
        let time = row.time.trim_end_matches("+00");
        text.push_str(&format!(
            "| {time} | {} | {}{host} |\n",
            cell(row.what),
            cell(row.details)
        ));
    }
    text
}

/// One line, in which nothing ends the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_comes_in_order() {
        let entry = |time_us: i64, what: &str| Entry::new(time_us, what, String::new());
        let all = vec![entry(3, "c"), entry(1, "a"), entry(2, "b"), entry(4, "d")];
        let whats = |entries: Vec<Entry>| entries.into_iter().map(|entry| entry.what).collect::<String>();
        assert_eq!(whats(between(all.clone(), None, None)), "abcd");
        assert_eq!(whats(between(all, Some(2), Some(3))), "bc");
    }

    #[test]
    fn a_detail_stays_in_its_cell() {
        let entry = Entry {
            host: Some("db1".into()),
            ..Entry::new(0, "hole", "from 0/1 |\n to 0/2".into())
        };
        let text = markdown("main", &[entry]);
        let row = "| 1970-01-01 00:00:00.000 | hole | from 0/1 \\| to 0/2 (host db1) |\n";
        assert!(text.ends_with(row), "{text}");
    }
}
