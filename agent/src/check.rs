//! `wal-agent check`: preconditions, end to end. Writes a WAL record and waits until it is in the repository.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use pg::lsn::Lsn;
use pg::preflight::Severity;
use serde_json::json;
use store::catalog::TimelineCoverage;
use store::object::probe::probe_create_only;
use store::records::Lineage;
use tokio_postgres::error::SqlState;

use crate::cli::Global;
use crate::exit::Failure;
use crate::open::{Context, command_policy, current_lineage, load_config, refuse_other_cluster, segment_size};
use crate::{archiver, output, preflight, sql, status};

/// How long the record may take to be archived.
const ARCHIVE_LIMIT: Duration = Duration::from_secs(30);
/// Pause between two looks at the repository.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// `check --show-config`: effective values with their origin.
pub fn print_config(global: &Global, as_json: bool) -> anyhow::Result<()> {
    let effective = load_config(global)?.effective();
    if as_json {
        return output::print_json(&serde_json::to_value(&effective)?);
    }
    let mut table = output::table(&["key", "value", "origin"]);
    for entry in effective {
        table.add_row([entry.key, entry.value, entry.origin.to_string()]);
    }
    println!("{table}");
    Ok(())
}

/// Runs the command.
pub async fn run(context: &Context, as_json: bool) -> anyhow::Result<()> {
    let (client, options) = sql::choose(&context.connect_options()?).await?;
    // Where the daemon runs it is the daemon that is tested; else the archiver, if it pushes.
    let pushes = !status::is_running(context) && archiver::pushing(&client).await?.is_some();
    let findings = preflight::findings(&client, &options, !pushes).await?;
    let keys = context.host_keys()?;
    let repository = context.repository(command_policy(), &keys).await?;
    let lineage = current_lineage(context, &repository).await?;
    same_cluster(&client, &lineage).await?;
    let suffix = store::id::hex(&store::entropy::bytes::<8>()?);
    let create_only = probe_create_only(repository.store().as_ref(), &suffix)
        .await
        .context("cannot write to the repository")?;
    if !as_json {
        println!(
            "repository   {} is readable and writable, create-only {}",
            context.config.repository.url,
            if create_only {
                "holds"
            } else {
                "is IGNORED by the store"
            }
        );
        for finding in &findings {
            let word = match finding.severity {
                Severity::Error => "ERROR",
                Severity::Warning => "WARNING",
                Severity::Notice => "NOTICE",
            };
            println!(
                "server       {word}: {}\n             HINT: {}",
                finding.problem, finding.hint
            );
        }
    }
    if findings.iter().any(|finding| finding.severity == Severity::Error) {
        preflight::refuse(findings)?;
        return Ok(());
    }
    let begun = Instant::now();
    let target = write_record(&client).await?;
    if pushes {
        end_segment(&client).await?;
    }
    wait_until_archived(&repository, &lineage, target, begun, pushes).await?;
    let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    if as_json {
        let findings: Vec<_> = findings
            .iter()
            .map(|finding| json!({ "problem": finding.problem, "hint": finding.hint }))
            .collect();
        return output::print_json(
            &json!({ "create_only": create_only, "findings": findings, "archived_lsn": target.to_string(), "archived_ms": elapsed_ms }),
        );
    }
    let what = match sql::is_standby(&client).await? {
        true => "what the standby has, up to",
        false => "a record written at",
    };
    println!("WAL          {what} {target} was archived after {elapsed_ms} ms");
    Ok(())
}

/// What is archived must be this server's: positions alone say nothing.
async fn same_cluster(client: &tokio_postgres::Client, lineage: &Lineage) -> anyhow::Result<()> {
    let query = "SELECT system_identifier FROM pg_catalog.pg_control_system()";
    let row = client
        .query_one(query, &[])
        .await
        .context("cannot ask the server for its system identifier")?;
    refuse_other_cluster(row.try_get::<_, i64>(0)?.cast_unsigned(), lineage)
}

/// Writes a record on a primary; on a standby takes what is there.
async fn write_record(client: &tokio_postgres::Client) -> anyhow::Result<Lsn> {
    if !sql::is_standby(client).await? {
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

/// Only whole segments are pushed: without a switch the record would wait for `archive_timeout`.
async fn end_segment(client: &tokio_postgres::Client) -> anyhow::Result<()> {
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

async fn wait_until_archived(
    repository: &store::repository::Repository,
    lineage: &Lineage,
    target: Lsn,
    begun: Instant,
    pushes: bool,
) -> anyhow::Result<()> {
    // Uploads end in any order: what counts is that nothing is missing from the start of the record's segment on.
    let size = segment_size(lineage)?;
    let segment = size.start_containing(Lsn::new(target.as_u64().saturating_sub(1)));
    loop {
        let coverage = repository.coverage(lineage.id).await?;
        let newest = coverage
            .newest_timeline()
            .and_then(|timeline| coverage.timelines.get(&timeline));
        let contiguous = newest.and_then(|timeline| timeline.contiguous_end(segment));
        if contiguous.is_some_and(|end| end >= target) {
            return Ok(());
        }
        let end = newest.and_then(TimelineCoverage::end);
        if begun.elapsed() > ARCHIVE_LIMIT {
            let reached = end.map_or("nothing".to_owned(), |end| end.to_string());
            return Err(Failure::unreachable(
                format!(
                    "a WAL record at {target} was not archived within {} s; archived so far: {reached}",
                    ARCHIVE_LIMIT.as_secs()
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
