//! `wal-agent check`: does it really work now? Server, keys, clocks, disks, repository and its copies are looked at; then a WAL record is written,
//! waited for until it is in the repository, and read back. Each finding comes with what mends it.

mod look;
mod report;
pub mod wal;

use anyhow::Context as _;
use pg::preflight::Severity;
use serde_json::json;
use store::records::Lineage;

use self::report::{Area, Report};
use crate::cli::Global;
use crate::exit::Failure;
use crate::open::{Context, command_policy, current_lineage, load_config, refuse_other_cluster};
use crate::{archiver, output, preflight, sql, status};

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
    let mut report = Report::new(as_json);
    let (client, options) = sql::choose(&context.connect_options()?).await?;
    // Where the daemon runs it is the daemon that is tested; else the archiver, if it pushes.
    let pushes = !status::is_running(context) && archiver::pushing(&client).await?.is_some();
    let findings = preflight::findings(&client, &options, !pushes).await?;
    let is_refused = findings.iter().any(|finding| finding.severity == Severity::Error);
    report.add(look::server(context, &client, pushes, findings.clone()).await?);
    report.add(look::keys(context).await?);
    let keys = context.host_keys()?;
    let repository = context.repository(command_policy(), &keys).await?;
    let lineage = current_lineage(context, &repository).await?;
    same_cluster(&client, &lineage).await?;
    let (area, probed) = look::repository(context, &repository).await?;
    report.add(area);
    for copy in look::copies(context, &repository).await? {
        report.add(copy);
    }
    report.add(look::clocks(&client, &probed).await?);
    report.add(look::disks(context, &client).await);
    for component in look::components(context).await {
        report.add(component);
    }
    if is_refused {
        report.fail(preflight::refuse(findings).map(drop))?;
        return Ok(());
    }
    let archived = match wal::round_trip(&client, &repository, &lineage, pushes).await {
        Ok(archived) => archived,
        Err(error) => return report.fail(Err(error)),
    };
    let what = match sql::is_standby(&client).await? {
        true => "what the standby has, up to",
        false => "a record written at",
    };
    let (target, archived_ms, read_ms) = (archived.target, archived.archived_ms, archived.read_ms);
    report.add(Area::good(
        "WAL",
        format!("{what} {target} was archived after {archived_ms} ms, and read back in {read_ms} ms"),
    ));
    report.end(json!({
        "create_only": probed.create_only,
        "archived_lsn": target.to_string(),
        "archived_ms": archived_ms,
        "read_back_ms": read_ms,
    }))
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

/// What was found to be wrong ends the command with a code of its own.
fn refused(findings: usize) -> anyhow::Error {
    Failure::refused(
        format!("{findings} findings must be mended: until then something is not protected"),
        "Each is named above, with what mends it.",
    )
    .into()
}
