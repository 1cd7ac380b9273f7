//! A WAL record on its way: written, archived, read back.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use pg::lsn::Lsn;
use store::catalog::TimelineCoverage;
use store::inventory::Named;
use store::layout::WalRange;
use store::records::Lineage;
use store::repository::Repository;
use store::verify::object;
use tokio_postgres::error::SqlState;

use crate::exit::{self, Failure};
use crate::open::segment_size;
use crate::sql;

/// How long the record may take to be archived.
const ARCHIVE_LIMIT: Duration = Duration::from_secs(30);
/// Pause between two looks at the repository.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How it went.
pub(super) struct Archived {
    /// Up to where WAL had to be archived.
    pub(super) target: Lsn,
    /// From writing it to seeing it in the repository, in milliseconds.
    pub(super) archived_ms: u64,
    /// Reading it back and hashing it, in milliseconds.
    pub(super) read_ms: u64,
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Writes a record, waits for it, and reads the object that has it.
pub(super) async fn round_trip(
    client: &tokio_postgres::Client,
    repository: &Repository,
    lineage: &Lineage,
    pushes: bool,
) -> anyhow::Result<Archived> {
    let begun = Instant::now();
    let target = write_record(client).await?;
    if pushes {
        end_segment(client).await?;
    }
    let range = wait_until_archived(repository, lineage, target, ARCHIVE_LIMIT, pushes).await?;
    let archived_ms = elapsed_ms(begun);
    let begun = Instant::now();
    read_back(repository, lineage, &range).await?;
    Ok(Archived {
        target,
        archived_ms,
        read_ms: elapsed_ms(begun),
    })
}

/// As the store gives it, not as we have sent it.
async fn read_back(repository: &Repository, lineage: &Lineage, range: &WalRange) -> anyhow::Result<()> {
    let name = repository.layout().wal(range, segment_size(lineage)?)?;
    let head = repository.store().head(&name).await?;
    let meta = head.with_context(|| format!("{name} has the newest WAL, and is not there"))?;
    match object(repository, Named::Wal(*range), &meta).await? {
        Ok(_) => Ok(()),
        Err(finding) => Err(Failure {
            code: exit::DAMAGED,
            message: format!(
                "{name} has the newest WAL, and is not what was written: {}",
                finding.reason
            ),
            hint: Some("The store, or the way to it, damages data: do not rely on it.".into()),
        }
        .into()),
    }
}

/// Writes a record on a primary; on a standby takes what is there.
async fn write_record(client: &tokio_postgres::Client) -> anyhow::Result<Lsn> {
    if !sql::is_standby(client).await? {
        // Else it would wait for whoever commits wait for: that he does not answer is what is asked here.
        client
            .batch_execute("SET synchronous_commit = local")
            .await
            .context("cannot change a setting of the session")?;
        client
            .query_one(
                "SELECT pg_catalog.pg_logical_emit_message(true, 'seawall', 'check')::text",
                &[],
            )
            .await
            .context("cannot write a WAL record")?;
    }
    sql::flush_lsn(client).await
}

/// Ends the segment that is written. Only whole segments are pushed: without a switch the record would wait for `archive_timeout`.
pub async fn end_segment(client: &tokio_postgres::Client) -> anyhow::Result<()> {
    if sql::is_standby(client).await? {
        return Ok(());
    }
    match client.query_one("SELECT pg_catalog.pg_switch_wal()::text", &[]).await {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Err(Failure::refused(
            "the role may not end a WAL segment, so there is nothing that archive_command could push now",
            "GRANT EXECUTE ON FUNCTION pg_switch_wal() to the role, or look at pg_stat_archiver instead.",
        )
        .into()),
        Err(error) => Err(error).context("cannot end the WAL segment"),
    }
}

/// Waits until the repository has the WAL before `target`, for `limit` at most; `pushes`: archive_command brings it, not the stream.
///
/// # Errors
/// It does not come in time, or the repository cannot be asked.
pub async fn wait_until_archived(
    repository: &Repository,
    lineage: &Lineage,
    target: Lsn,
    limit: Duration,
    pushes: bool,
) -> anyhow::Result<WalRange> {
    let begun = Instant::now();
    // Uploads end in any order: what counts is that nothing is missing from the start of the record's segment on.
    let size = segment_size(lineage)?;
    let segment = size.start_containing(Lsn::new(target.as_u64().saturating_sub(1)));
    loop {
        let coverage = repository.coverage(lineage.id).await?;
        let newest = coverage
            .newest_timeline()
            .and_then(|timeline| coverage.timelines.get(&timeline));
        let contiguous = newest.and_then(|timeline| timeline.contiguous_end(segment));
        let holds = |range: &&WalRange| range.start < target && range.end >= target;
        // Of several that hold the same the newest, which came now.
        let newest_of = |ranges: &[WalRange]| ranges.iter().filter(holds).max_by_key(|range| range.epoch).copied();
        if contiguous.is_some_and(|end| end >= target)
            && let Some(range) = newest.and_then(|timeline| newest_of(&timeline.ranges))
        {
            return Ok(range);
        }
        let end = newest.and_then(TimelineCoverage::end);
        if begun.elapsed() > limit {
            let reached = end.map_or("nothing".to_owned(), |end| end.to_string());
            return Err(Failure::unreachable(
                format!(
                    "a WAL record at {target} was not archived within {} s; archived so far: {reached}",
                    limit.as_secs()
                ),
                if pushes {
                    "The server's log has the answers of archive_command; `wal-agent status` shows since when it fails."
                } else {
                    "Is `wal-agent run` running? Its log and `wal-agent status` say what holds it up."
                },
            )
            .into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
