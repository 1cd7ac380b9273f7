//! What `find` prints.

use std::fmt;

use pg::lsn::Lsn;
use serde::Serialize;
use store::manifest::Manifest;

use super::asked::Asked;
use super::event::{Event, EventKind, Searched};
use crate::cli::FindArgs;
use crate::error::{RestoreError, Result};
use crate::plan::bytes_text;
use crate::request::Way;
use crate::time;

/// Everything that was found.
#[derive(Debug, Serialize)]
pub(crate) struct Findings {
    database: String,
    table: Option<String>,
    lineage: String,
    timeline: u32,
    /// Stretches of WAL that were read.
    pub(crate) searched: Vec<Searched>,
    /// Oldest first.
    events: Vec<Event>,
    /// What may be missing.
    pub(crate) warnings: Vec<String>,
    /// Each backup with all of its WAL: where it is consistent, and where contiguous WAL behind it ends.
    #[serde(skip)]
    reach: Vec<(Lsn, Lsn)>,
}

impl Findings {
    /// Nothing yet.
    pub(crate) fn new(args: &FindArgs, way: &Way) -> Self {
        let oldest = way.manifests.last();
        Findings {
            database: args.database.clone(),
            table: args.table.clone(),
            lineage: oldest.map(|manifest| manifest.lineage.to_string()).unwrap_or_default(),
            timeline: way.route.timeline().as_u32(),
            searched: Vec::new(),
            events: Vec::new(),
            warnings: way.other_lineages.clone(),
            reach: reach(way),
        }
    }

    /// Adds events, with the way back to just before each.
    pub(crate) fn add(&mut self, events: Vec<Event>) {
        for mut event in events {
            let lsn = event.stop_before;
            let is_reached = self.reach.iter().any(|(from, to)| *from <= lsn && lsn < *to);
            event.restore = is_reached.then(|| {
                // A later timeline may not have this record, and another lineage has others.
                let mut options = vec!["--target-lsn".to_owned(), lsn.to_string(), "--exclusive".to_owned()];
                options.extend(["--target-timeline".to_owned(), self.timeline.to_string()]);
                options
            });
            self.events.push(event);
        }
    }

    /// What was read, in words.
    pub(crate) fn range(&self) -> String {
        let (Some(first), Some(last)) = (self.searched.first(), self.searched.last()) else {
            return "in the archived WAL".into();
        };
        let point = |lsn: Lsn, us: Option<i64>| match us {
            Some(us) => format!("{lsn} ({})", time::show(us)),
            None => lsn.to_string(),
        };
        format!(
            "between {} and {}",
            point(first.from_lsn, first.from_us),
            point(last.to_lsn, last.to_us)
        )
    }

    /// Finding nothing is an answer to nobody: it says where was looked.
    pub(crate) fn refuse_nothing(&self, asked: &Asked) -> Result<()> {
        if !self.events.is_empty() {
            return Ok(());
        }
        let mut kinds: Vec<EventKind> = asked.events.iter().copied().collect();
        kinds.sort();
        let kinds: Vec<&str> = kinds.into_iter().map(EventKind::word).collect();
        let what = match &asked.table {
            Some(table) => format!("no {} of {table}", kinds.join(", ")),
            None => format!("no {}", kinds.join(", ")),
        };
        let mut hint = String::from("Look for other events with --event, or in another range with --from and --to.");
        for warning in &self.warnings {
            hint.push_str(&format!("\nWARNING: {warning}"));
        }
        Err(RestoreError::refused(
            format!("{what} was found {}", self.range()),
            hint,
        ))
    }
}

fn reach(way: &Way) -> Vec<(Lsn, Lsn)> {
    let mut out: Vec<(Lsn, Lsn)> = Vec::new();
    let mut contiguous = Lsn::ZERO;
    let mut oldest_first: Vec<&Manifest> = way.manifests.iter().collect();
    oldest_first.sort_by_key(|manifest| manifest.start_lsn);
    for manifest in oldest_first {
        let (start, end) = (Lsn::new(manifest.start_lsn), Lsn::new(manifest.end_lsn));
        if start >= contiguous {
            contiguous = way.route.contiguous_end(&way.coverage, start);
        }
        if end <= contiguous {
            out.push((end, contiguous));
        }
    }
    out
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header(vec![
            "EVENT",
            "TABLE",
            "COMMITTED",
            "COMMIT LSN",
            "XID",
            "RESTORE TO JUST BEFORE IT",
        ]);
        for event in &self.events {
            let what = match event.rows {
                Some(1) => format!("{}, 1 row", event.event.word()),
                Some(rows) => format!("{}, {rows} rows", event.event.word()),
                None => event.event.word().to_owned(),
            };
            let name = event.table.clone().unwrap_or_else(|| "-".into());
            table.add_row(vec![
                what,
                match &event.note {
                    Some(note) => format!("{name} ({note})"),
                    None => name,
                },
                event.time_us.map_or_else(|| "-".to_owned(), time::show),
                event.commit_lsn.to_string(),
                event.xid.to_string(),
                match &event.restore {
                    Some(options) => options.join(" "),
                    None => "no backup is early enough".into(),
                },
            ]);
        }
        writeln!(f, "{table}")?;
        for searched in &self.searched {
            let bytes = searched.to_lsn.as_u64().saturating_sub(searched.from_lsn.as_u64());
            write!(
                f,
                "\nsearched   {} of WAL from {} to {}, timeline {} in lineage {}, with the catalog of backup {}",
                bytes_text(bytes),
                searched.from_lsn,
                searched.to_lsn,
                self.timeline,
                self.lineage,
                searched.backup
            )?;
        }
        for warning in &self.warnings {
            write!(f, "\nWARNING: {warning}")?;
        }
        Ok(())
    }
}
