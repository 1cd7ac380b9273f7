//! After the last byte: end the backup on the server, judge it, wait for its WAL, and make it exist.

use std::time::{Duration, Instant};

use pg::control::ControlFile;
use pg::identity::ServerVersion;
use pg::label::{BackupFrom, BackupLabel, TablespaceMap};
use pg::lsn::Lsn;
use pg::timeline::TimelineId;
use store::id::LineageId;
use store::repository::Repository;
use tokio_postgres::Client;

use super::begin::is_standby;
use super::error::BackupError;
use super::sql::{RawText, column, parsed, row};

/// Waits between two looks at the WAL in the repository: from, to, and in between a quarter of what was waited already.
const POLL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(3));
const POLL_PART: u32 = 4;

/// What the server said when the backup ended.
#[derive(Debug, Clone)]
pub(super) struct Stopped {
    pub(super) end_lsn: Lsn,
    pub(super) label: BackupLabel,
    pub(super) label_bytes: Vec<u8>,
    pub(super) map_bytes: Vec<u8>,
}

/// Ends the backup. The server does not wait for its archiver: whether the WAL is archived is ours to prove.
pub(super) async fn stop(sql: &Client, version: ServerVersion) -> Result<Stopped, BackupError> {
    const STEP: &str = "stop the backup";
    let query = match version.major() {
        15.. => {
            "SELECT lsn::pg_catalog.text, labelfile, spcmapfile FROM pg_catalog.pg_backup_stop(wait_for_archive => false)"
        }
        _ => "SELECT lsn::pg_catalog.text, labelfile, spcmapfile FROM pg_catalog.pg_stop_backup(false, false)",
    };
    let answer = row(sql, STEP, query, &[]).await?;
    let text =
        |at| column::<Option<RawText>>(&answer, at, STEP).map(|text| text.map(|text| text.0).unwrap_or_default());
    let (label_bytes, map_bytes) = (text(1)?, text(2)?);
    let label = BackupLabel::parse(&label_bytes)?;
    TablespaceMap::parse(&map_bytes)?;
    Ok(Stopped {
        end_lsn: parsed(&answer, 0, STEP)?,
        label,
        label_bytes,
        map_bytes,
    })
}

/// Refuses a backup during which the server was promoted (B19).
pub(super) async fn judge_role(sql: &Client, was_standby: bool) -> Result<(), BackupError> {
    if is_standby(sql).await? == was_standby {
        Ok(())
    } else {
        Err(BackupError::Promoted)
    }
}

/// Refuses a label that does not fit what was begun.
pub(super) fn judge_label(stopped: &Stopped, start_lsn: Lsn, was_standby: bool) -> Result<(), BackupError> {
    let label = &stopped.label;
    if label.start_lsn != start_lsn || stopped.end_lsn < start_lsn {
        let what = format!(
            "a backup from {} to {} that started at {start_lsn}",
            label.start_lsn, stopped.end_lsn
        );
        return Err(BackupError::Answer { what });
    }
    if (label.backup_from == BackupFrom::Standby) != was_standby {
        return Err(BackupError::Promoted);
    }
    Ok(())
}

/// Refuses a backup during which the server went on to another timeline.
pub(super) fn judge_timeline(stopped: &Stopped, was_standby: bool, control: &ControlFile) -> Result<(), BackupError> {
    let timeline = if was_standby {
        control.min_recovery_timeline.unwrap_or(control.timeline)
    } else {
        control.timeline
    };
    let started = stopped.label.start_timeline;
    if timeline == started {
        return Ok(());
    }
    Err(BackupError::TimelineChanged {
        from: started.as_u32(),
        to: timeline.as_u32(),
    })
}

/// Waits until every byte of WAL from start to end is in the repository (B17), for as long as more of it arrives within `patience`.
pub(super) async fn wait_for_wal(
    repository: &Repository,
    lineage: LineageId,
    timeline: TimelineId,
    range: (Lsn, Lsn),
    patience: Duration,
) -> Result<(), BackupError> {
    let mut begun = Instant::now();
    let mut reached = None;
    let (start, end) = range;
    loop {
        let coverage = repository.coverage(lineage).await?;
        if coverage.cover(timeline, start, end).is_some() {
            return Ok(());
        }
        let contiguous = coverage.contiguous_end(timeline, start);
        if contiguous > reached {
            reached = contiguous;
            begun = Instant::now();
        }
        if begun.elapsed() >= patience {
            return Err(BackupError::WalMissing {
                timeline: timeline.as_u32(),
                start,
                end,
                waited: begun.elapsed(),
            });
        }
        let waited = begun.elapsed();
        let pause = (waited / POLL_PART).clamp(POLL.0, POLL.1);
        tokio::time::sleep(pause.min(patience.saturating_sub(waited))).await;
    }
}
