//! The plan of a restore: what comes from where and ends where. Pure, printable, serialisable; nothing was changed when it exists.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use pg::lsn::Lsn;
use serde::{Serialize, Serializer};

use crate::error::RestoreError;
use crate::scan::Found;
use crate::time;

/// A point that can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Point {
    /// Its LSN.
    pub(crate) lsn: Lsn,
    /// A time that belongs to it, microseconds since 1970.
    pub(crate) time_us: Option<i64>,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.time_us {
            Some(us) => write!(f, "LSN {} ({})", self.lsn, time::show(us)),
            None => write!(f, "LSN {}", self.lsn),
        }
    }
}

/// A refusal that names the nearest points that can be reached.
pub(crate) fn unreachable(message: String, before: Option<&Point>, after: Option<&Point>) -> RestoreError {
    let hint = match (before, after) {
        (None, None) => "See what can be recovered with `wal-restore list`.".to_owned(),
        (Some(before), None) => format!("The last point that can be reached is {before}."),
        (None, Some(after)) => format!("The first point that can be reached is {after}."),
        (Some(before), Some(after)) => format!("The nearest points that can be reached are {before} and {after}."),
    };
    RestoreError::refused(message, hint)
}

/// How the stop point was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StopKind {
    /// By time.
    Time,
    /// By LSN.
    Lsn,
    /// The end of a transaction.
    Xid,
    /// A restore point.
    Name,
    /// The last archived record.
    Latest,
    /// The end of the backup.
    Immediate,
    /// No end: a standby.
    Follow,
}

/// Where recovery stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct StopPoint {
    /// How it was asked for.
    pub(crate) kind: StopKind,
    /// Start of the record at which recovery stops.
    #[serde(serialize_with = "lsn_text")]
    pub(crate) lsn: Lsn,
    /// End of that record: WAL is needed up to here.
    #[serde(serialize_with = "lsn_text")]
    pub(crate) record_end_lsn: Lsn,
    /// The record itself is replayed.
    pub(crate) inclusive: bool,
    /// The time that was asked for.
    #[serde(rename = "asked_time", serialize_with = "time_text")]
    pub(crate) asked_time_us: Option<i64>,
    /// Time of that record.
    #[serde(rename = "record_time", serialize_with = "time_text")]
    pub(crate) record_time_us: Option<i64>,
    /// Time of the last transaction before it.
    #[serde(rename = "last_commit_time", serialize_with = "time_text")]
    pub(crate) last_commit_us: Option<i64>,
    /// A later record proves that nothing lies between this and what was asked for.
    #[serde(rename = "proven")]
    pub(crate) is_proven: bool,
}

impl StopPoint {
    /// False for a standby, which never stops.
    pub(crate) fn is_an_end(&self) -> bool {
        self.kind != StopKind::Follow
    }

    /// At a record.
    pub(crate) fn record(kind: StopKind, found: &Found, inclusive: bool) -> Self {
        StopPoint {
            kind,
            lsn: found.start,
            record_end_lsn: found.end,
            inclusive,
            asked_time_us: None,
            record_time_us: found.time_us,
            last_commit_us: found.commit_before_us,
            is_proven: true,
        }
    }
}

impl fmt::Display for StopPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.inclusive { "after" } else { "before" };
        match self.kind {
            StopKind::Immediate => write!(f, "stop       at the end of the backup, {}", self.lsn)?,
            StopKind::Follow => write!(f, "stop       never: a standby that follows the archive")?,
            _ => write!(f, "stop       {side} the record at {}", self.lsn)?,
        }
        if let Some(us) = self.asked_time_us {
            write!(f, "\n           asked for: {}", time::show(us))?;
        }
        if let Some(us) = self.record_time_us {
            write!(f, "\n           time of that record: {}", time::show(us))?;
        }
        if let Some(us) = self.last_commit_us {
            write!(
                f,
                "\n           last transaction or restore point before it: {}",
                time::show(us)
            )?;
        }
        if !self.is_proven {
            write!(
                f,
                "\n           nothing later is archived: nothing proves what happened between this and what was asked for"
            )?;
        }
        Ok(())
    }
}

/// An LSN as text.
pub(crate) fn lsn_text<S: Serializer>(lsn: &Lsn, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(lsn)
}

/// A time as text.
pub(crate) fn time_text<S: Serializer>(us: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    us.map(time::rfc3339).serialize(serializer)
}

/// Where a tablespace goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TablespacePlan {
    /// Its OID.
    pub(crate) oid: u32,
    /// Where it was.
    pub(crate) from: String,
    /// Where it goes.
    pub(crate) to: PathBuf,
    /// Somebody said so.
    #[serde(skip)]
    pub(crate) is_mapped: bool,
}

/// The plan.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Plan {
    /// The cluster's name.
    pub(crate) cluster: String,
    /// Identity of the database system.
    pub(crate) system_identifier: String,
    /// PostgreSQL version of the backup, such as 17.4.
    pub(crate) server_version: String,
    /// The backup.
    pub(crate) backup: String,
    /// When it was finished.
    pub(crate) backup_finished: String,
    /// Its lineage.
    pub(crate) lineage: String,
    /// The timeline that recovery follows.
    pub(crate) timeline: u32,
    /// Recovery begins here.
    #[serde(serialize_with = "lsn_text")]
    pub(crate) start_lsn: Lsn,
    /// The backup is consistent from here on.
    #[serde(serialize_with = "lsn_text")]
    pub(crate) consistent_lsn: Lsn,
    /// Where recovery stops.
    pub(crate) stop: StopPoint,
    /// WAL to replay.
    pub(crate) wal_bytes: u64,
    /// Bytes of all files.
    pub(crate) logical_bytes: u64,
    /// Stored bytes that are needed of them.
    pub(crate) stored_bytes: u64,
    /// Files.
    pub(crate) files: u64,
    /// How long it takes to read and decode them, by a sample; `None` where it would not be worth one.
    pub(crate) expected_fetch_s: Option<f64>,
    /// The data directory.
    pub(crate) pgdata: PathBuf,
    /// A cluster is in it that is restored over.
    pub(crate) over_cluster: bool,
    /// Tablespaces.
    pub(crate) tablespaces: Vec<TablespacePlan>,
    /// Owner of the files.
    pub(crate) owner: Option<String>,
    /// The standby was told whom to stream from.
    pub(crate) has_primary: bool,
    /// What happens at the stop point.
    pub(crate) target_action: &'static str,
    /// What the operator should know.
    pub(crate) warnings: Vec<String>,
}

/// A length of time for people, whole seconds.
fn duration_text(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds.max(1.0).round()).unwrap_or(Duration::MAX);
    indicatif::HumanDuration(whole).to_string()
}

/// A size for people.
pub(crate) fn bytes_text(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "backup     {} of {}, PostgreSQL {}, finished {}",
            self.backup, self.cluster, self.server_version, self.backup_finished
        )?;
        writeln!(f, "timeline   {} in lineage {}", self.timeline, self.lineage)?;
        writeln!(
            f,
            "files      {} in {} files, {} to read{}",
            bytes_text(self.logical_bytes),
            self.files,
            bytes_text(self.stored_bytes),
            self.expected_fetch_s
                .map(|seconds| format!(" in about {}, as a sample took", duration_text(seconds)))
                .unwrap_or_default()
        )?;
        writeln!(
            f,
            "WAL        {} from {}, consistent at {}",
            bytes_text(self.wal_bytes),
            self.start_lsn,
            self.consistent_lsn
        )?;
        writeln!(f, "{}", self.stop)?;
        write!(f, "directory  {}", self.pgdata.display())?;
        if self.over_cluster {
            write!(
                f,
                ", over the cluster that is there: what it has more than the backup is removed"
            )?;
        }
        for tablespace in &self.tablespaces {
            write!(
                f,
                "\n           tablespace {}: {} -> {}",
                tablespace.oid,
                tablespace.from.escape_debug(),
                tablespace.to.display()
            )?;
        }
        if let Some(owner) = &self.owner {
            write!(f, "\nowner      {owner}")?;
        }
        for warning in &self.warnings {
            write!(f, "\nWARNING: {warning}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_nearest_points() {
        let point = |lsn, time_us| Point {
            lsn: Lsn::new(lsn),
            time_us,
        };
        let before = point(0x10, Some(0));
        let after = point(0x20, None);
        let hint = |before, after| unreachable("no".into(), before, after).hint().unwrap();
        assert_eq!(
            hint(Some(&before), Some(&after)),
            "The nearest points that can be reached are LSN 0/10 (1970-01-01 00:00:00 UTC) and LSN 0/20."
        );
        assert_eq!(
            hint(None, Some(&after)),
            "The first point that can be reached is LSN 0/20."
        );
        assert_eq!(
            hint(Some(&before), None),
            "The last point that can be reached is LSN 0/10 (1970-01-01 00:00:00 UTC)."
        );
        assert_eq!(unreachable("no".into(), None, None).exit_code(), crate::exit::REFUSED);
    }

    #[test]
    fn a_stop_point_is_told_with_lsns_and_times_as_text() {
        let found = Found {
            start: Lsn::new(16),
            end: Lsn::new(32),
            time_us: Some(0),
            commit_before_us: None,
        };
        let json = serde_json::to_value(StopPoint::record(StopKind::Time, &found, false)).unwrap();
        assert_eq!(json["lsn"], "0/10");
        assert_eq!(json["kind"], "time");
        assert_eq!(json["record_time"], "1970-01-01T00:00:00Z");
        assert_eq!(json["inclusive"], false);
    }
}
