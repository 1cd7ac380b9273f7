//! `wal-agent backup --group NAME`: a point in the WAL of the cluster first, then every component of the group, side by side. What a row that was
//! committed before the point speaks of was there when its component was captured; how far behind the point each capture lies is its *skew*.
//!
//! PostgreSQL needs no backup for it: any place of its archived WAL can be restored to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::join_all;
use pg::lsn::Lsn;
use serde_json::json;
use store::component::GroupPoint;
use store::id::BackupId;
use store::manifest::Manifest;
use store::pipeline::Progress;
use store::records::Lineage;
use tokio_postgres::Client;

use super::{of_name, one, report};
use crate::backup::show_progress;
use crate::check::wal::{end_segment, wait_until_archived};
use crate::exit::{self, Failure};
use crate::open::{Context, command_policy, current_lineage, refuse_other_cluster};
use crate::{archiver, output, sql, status};

/// How long the WAL before the point may take to be archived.
const ARCHIVE_LIMIT: Duration = Duration::from_secs(120);

/// Captures a group at one point.
pub async fn run(context: &Context, name: &str, label: Option<&str>, as_json: bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    let group = find(context, name)?;
    let members: Vec<&config::Component> = group
        .components
        .iter()
        .map(|member| of_name(context, member))
        .collect::<anyhow::Result<_>>()?;
    let repository = context.repository(command_policy(), &context.host_keys()?).await?;
    let lineage = current_lineage(context, &repository).await?;
    let (client, _) = sql::choose(&context.connect_options()?).await?;
    let pushes = !status::is_running(context) && archiver::pushing(&client).await?.is_some();
    let point = set(&client, group, &lineage).await?;

    let progress = Arc::new(Progress::default());
    let bar = show_progress(&progress, as_json);
    let captures = members
        .iter()
        .map(|member| Box::pin(one(context, member, label, Some(point.clone()), Arc::clone(&progress))));
    let captured = join_all(captures).await;
    bar.finish();
    let mut failed = None;
    let mut taken: Vec<Manifest> = Vec::new();
    for (member, captured) in members.iter().zip(captured) {
        match captured {
            Ok(manifest) => {
                failed = failed.or(refused(&manifest, &point));
                taken.push(manifest);
            }
            Err(error) => {
                let error = error.context(format!("component \"{}\" was not captured", member.name));
                tracing::error!(component = %member.name, error = %exit::describe(&error), "not captured");
                failed.get_or_insert(error);
            }
        }
    }
    if let Some(error) = failed {
        return Err(error.context(format!(
            "the point of group \"{name}\" is not whole, and nothing is restored to it"
        )));
    }
    if pushes {
        end_segment(&client).await?;
    }
    let end = sql::flush_lsn(&client).await?;
    wait_until_archived(&repository, &lineage, end, ARCHIVE_LIMIT, pushes).await?;
    print(context, &point, &taken, begun.elapsed(), as_json)
}

/// A capture that the point cannot be restored with.
fn refused(manifest: &Manifest, point: &GroupPoint) -> Option<anyhow::Error> {
    let component = manifest.component.as_deref()?;
    if point.holds(component) {
        return None;
    }
    let message = format!(
        "component \"{}\" holds a moment {:.1} s before the point",
        component.name,
        (point.at_us - component.as_of_us) as f64 / 1e6
    );
    let hint = "Run it again. If it stays, the clocks of its host and of the database are apart.";
    Some(Failure::refused(message, hint).into())
}

fn find<'c>(context: &'c Context, name: &str) -> anyhow::Result<&'c config::Group> {
    let ours = of_cluster(context);
    let names: Vec<&str> = ours.iter().map(|group| group.name.as_str()).collect();
    let found = ours.iter().find(|group| group.name == name).copied();
    found.ok_or_else(|| {
        Failure {
            code: exit::USAGE,
            message: format!("group \"{}\" is not in the configuration", name.escape_debug()),
            hint: Some(match names.as_slice() {
                [] => format!("Add a table [group.{name}] with its components to the file."),
                names => format!("Cluster {} has: {}.", context.cluster.name, names.join(", ")),
            }),
        }
        .into()
    })
}

/// The groups in this cluster's part of the repository.
pub fn of_cluster(context: &Context) -> Vec<&config::Group> {
    let all = context.config.groups.values();
    all.filter(|group| group.cluster == context.cluster.name).collect()
}

/// Writes a record, behind which recovery can stop: a transaction's end follows it, however quiet the server is.
///
/// The function returns where the record ends, and the commit that is written next begins there or later (docs, "System Administration
/// Functions", `pg_logical_emit_message`; `recovery_target_lsn` stops behind the first record that begins at it or later).
async fn set(client: &Client, group: &config::Group, lineage: &Lineage) -> anyhow::Result<GroupPoint> {
    if sql::is_standby(client).await? {
        return Err(Failure::refused(
            "a group's point is written into the WAL, and this server is a standby",
            "Let the connection find the primary: several hosts, with target_session_attrs = \"read-write\".",
        )
        .into());
    }
    let system: i64 = client
        .query_one("SELECT system_identifier FROM pg_catalog.pg_control_system()", &[])
        .await
        .context("cannot ask which cluster this is")?
        .get(0);
    refuse_other_cluster(system.cast_unsigned(), lineage)?;
    // Whoever commits wait for must not hold this one up.
    client
        .batch_execute("SET synchronous_commit = local")
        .await
        .context("cannot change a setting of the session")?;
    let row = client
        .query_one(
            "SELECT p.lsn::pg_catalog.text, pg_catalog.left(pg_catalog.pg_walfile_name(p.lsn), 8), \
                    (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::pg_catalog.int8 \
             FROM (SELECT pg_catalog.pg_logical_emit_message(true, 'seawall', $1) AS lsn OFFSET 0) AS p",
            &[&format!("group {}", group.name)],
        )
        .await
        .context("cannot write the point into the WAL")?;
    let (lsn, timeline): (&str, &str) = (row.get(0), row.get(1));
    Ok(GroupPoint {
        id: BackupId::from_parts(
            u64::try_from(output::now_us() / 1000).unwrap_or(0),
            store::entropy::bytes()?,
        ),
        group: group.name.clone(),
        components: group.components.clone(),
        lineage: lineage.id,
        timeline: u32::from_str_radix(timeline, 16).context("the server's timeline makes no sense")?,
        lsn: lsn.parse::<Lsn>().context("the server's LSN makes no sense")?.as_u64(),
        at_us: row.get(2),
    })
}

/// A point, for programs.
pub fn report_of(point: &GroupPoint) -> serde_json::Value {
    json!({
        "group": point.group,
        "id": point.id.to_string(),
        "components": point.components,
        "lineage": point.lineage.to_string(),
        "timeline": point.timeline,
        "lsn": Lsn::new(point.lsn).to_string(),
        "at": output::time_us(point.at_us),
    })
}

fn print(
    context: &Context,
    point: &GroupPoint,
    taken: &[Manifest],
    took: Duration,
    as_json: bool,
) -> anyhow::Result<()> {
    let skew = |manifest: &Manifest| {
        let as_of = manifest.component.as_ref().map_or(0, |component| component.as_of_us);
        (as_of - point.at_us) as f64 / 1e6
    };
    if as_json {
        let members = taken.iter().map(|manifest| {
            let mut one = report(manifest, took);
            if let Some(one) = one.as_object_mut() {
                one.insert("skew_s".into(), skew(manifest).into());
            }
            one
        });
        let members: Vec<_> = members.collect();
        return output::print_json(
            &json!({ "point": report_of(point), "backups": members, "seconds": took.as_secs_f64() }),
        );
    }
    println!(
        "Point {} of group {}: {} at {}, timeline {}.",
        point.id,
        point.group,
        output::time_us(point.at_us),
        Lsn::new(point.lsn),
        point.timeline
    );
    let mut table = output::table(&["member", "backup", "as of", "skew", "stored new"]);
    table.add_row([
        context.cluster.name.clone(),
        "WAL".to_owned(),
        output::time_us(point.at_us),
        "0 s".to_owned(),
        "".to_owned(),
    ]);
    for manifest in taken {
        let component = manifest.component.as_deref().cloned().unwrap_or_default();
        table.add_row([
            component.name,
            manifest.backup.to_string(),
            output::time_us(component.as_of_us),
            format!("{:+.3} s", skew(manifest)),
            output::bytes(manifest.totals.new_stored_bytes),
        ]);
    }
    println!("{table}");
    println!("Back to it: wal-restore group {} --to DIRECTORY", point.group);
    Ok(())
}
