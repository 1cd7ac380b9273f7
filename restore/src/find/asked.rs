//! What `find` is asked for.

use std::collections::HashSet;

use super::event::EventKind;
use super::name::TableName;
use crate::cli::FindArgs;
use crate::error::{RestoreError, Result};
use crate::time;

/// What is looked for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) events: HashSet<EventKind>,
    pub(crate) table: Option<TableName>,
    pub(crate) from_us: Option<i64>,
    pub(crate) to_us: Option<i64>,
    /// Deletes of fewer rows are left out.
    pub(crate) rows_min: u64,
}

impl Asked {
    /// From the command line.
    pub(crate) fn of(args: &FindArgs) -> Result<Asked> {
        let bound = |option: &str, text: &Option<String>| {
            let text = text.as_deref();
            text.map(|text| time::parse_option(option, text)).transpose()
        };
        let table = args.table.as_deref().map(TableName::parse).transpose()?;
        let default: &[EventKind] = match table {
            Some(_) => &[
                EventKind::Drop,
                EventKind::Truncate,
                EventKind::Delete,
                EventKind::Rename,
            ],
            None => &[EventKind::Drop],
        };
        let events: HashSet<EventKind> = match args.event.is_empty() {
            true => default.iter().copied().collect(),
            false => args.event.iter().copied().collect(),
        };
        let asked = Asked {
            events,
            table,
            from_us: bound("--from", &args.from)?,
            to_us: bound("--to", &args.to)?,
            rows_min: args.rows_min,
        };
        let needs_table = [
            EventKind::Delete,
            EventKind::Truncate,
            EventKind::Rewrite,
            EventKind::Rename,
        ];
        if asked.table.is_none()
            && let Some(kind) = needs_table.iter().find(|kind| asked.events.contains(kind))
        {
            return Err(RestoreError::usage(
                format!("--event {} needs a table", kind.word()),
                "Name it with --table SCHEMA.TABLE.",
            ));
        }
        if asked.table.is_some() && asked.events.contains(&EventKind::Commit) {
            return Err(RestoreError::usage(
                "--event commit lists the commits of all tables",
                "Leave --table out; or ask for delete, truncate, rewrite or drop of that table.",
            ));
        }
        if let (Some(from), Some(to)) = (asked.from_us, asked.to_us)
            && from > to
        {
            return Err(RestoreError::usage("--from is later than --to", "Exchange them."));
        }
        Ok(asked)
    }
}
