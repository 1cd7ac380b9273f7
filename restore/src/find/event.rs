//! What was found, and how it is told.

use clap::ValueEnum;
use pg::lsn::Lsn;
use serde::Serialize;

use crate::plan::{lsn_text, time_text};

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EventKind {
    /// Rows were deleted: one line a transaction.
    Delete,
    /// The table was emptied.
    Truncate,
    /// The table got new files: VACUUM FULL, CLUSTER, ALTER TABLE.
    Rewrite,
    /// The table got another name or schema.
    Rename,
    /// The table was dropped, alone, with its schema or with its database.
    Drop,
    /// A transaction committed, whatever it did.
    Commit,
}

impl EventKind {
    /// In a sentence.
    pub(crate) fn word(self) -> &'static str {
        match self {
            EventKind::Delete => "delete",
            EventKind::Truncate => "truncate",
            EventKind::Rewrite => "rewrite",
            EventKind::Rename => "rename",
            EventKind::Drop => "drop",
            EventKind::Commit => "commit",
        }
    }
}

/// One event, at the commit of its transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Event {
    /// What happened.
    pub(crate) event: EventKind,
    /// To which table; to which file, where its name is not known; nothing of a commit.
    pub(crate) table: Option<String>,
    /// Rows that the transaction deleted there.
    pub(crate) rows: Option<u64>,
    /// Time of the commit.
    #[serde(rename = "time", serialize_with = "time_text")]
    pub(crate) time_us: Option<i64>,
    /// Start of the commit record.
    #[serde(serialize_with = "lsn_text")]
    pub(crate) commit_lsn: Lsn,
    /// The transaction.
    pub(crate) xid: u32,
    /// More to it, in words.
    pub(crate) note: Option<String>,
    /// The record that a restore must not replay: that commit, or what cannot be undone before it.
    #[serde(skip)]
    pub(crate) stop_before: Lsn,
    /// Options of a restore to just before it; none where no backup is early enough.
    pub(crate) restore: Option<Vec<String>>,
}

/// A stretch of WAL that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Searched {
    /// The backup whose catalog it began with.
    pub(crate) backup: String,
    /// First byte.
    #[serde(serialize_with = "lsn_text")]
    pub(crate) from_lsn: Lsn,
    /// Byte after the last.
    #[serde(serialize_with = "lsn_text")]
    pub(crate) to_lsn: Lsn,
    /// Time of the first commit in it.
    #[serde(rename = "from_time", serialize_with = "time_text")]
    pub(crate) from_us: Option<i64>,
    /// Time of the last.
    #[serde(rename = "to_time", serialize_with = "time_text")]
    pub(crate) to_us: Option<i64>,
}
