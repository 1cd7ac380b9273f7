//! `wal-agent backup NAME`: a component of the configuration, captured now; between the programs that its configuration names.

pub mod group;
mod kinds;

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use components::ComponentError;
use components::take::{TakeInputs, take};
use serde_json::json;
use store::component::GroupPoint;
use store::manifest::Manifest;
use store::pipeline::{Pace, PaceLimits, Progress};
use tokio::process::Command;

use crate::backup::show_progress;
use crate::exit::Failure;
use crate::open::{Context, backup_policy, host_name};
use crate::{copies, output};
pub use kinds::of_kind;

/// What the programs before and after a capture see of our environment.
const HOOK_VARIABLES: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "USER"];
/// How long the end of a backup waits for copies.
const COPIES_WAIT: Duration = Duration::from_secs(60);

/// Captures each of them, one after the other. One that fails does not keep the others back.
pub async fn run(context: &Context, names: &[String], label: Option<&str>, as_json: bool) -> anyhow::Result<()> {
    let wanted: Vec<&config::Component> = names
        .iter()
        .map(|name| of_name(context, name))
        .collect::<anyhow::Result<_>>()?;
    let (mut taken, mut failed) = (Vec::new(), None);
    for component in wanted {
        let begun = Instant::now();
        let progress = Arc::new(Progress::default());
        let bar = show_progress(&progress, as_json);
        let captured = Box::pin(one(context, component, label, None, progress)).await;
        bar.finish();
        match captured {
            Ok(manifest) => {
                if !as_json {
                    print(&manifest, begun.elapsed());
                }
                taken.push(report(&manifest, begun.elapsed()));
            }
            Err(error) => {
                let error = error.context(format!("component \"{}\" was not captured", component.name));
                tracing::error!(component = %component.name, error = %crate::exit::describe(&error), "not captured");
                failed.get_or_insert(error);
            }
        }
    }
    if as_json {
        output::print_json(&json!({ "backups": taken }))?;
    }
    failed.map_or(Ok(()), Err)
}

fn of_name<'c>(context: &'c Context, name: &str) -> anyhow::Result<&'c config::Component> {
    let ours = of_cluster(context);
    if let Some(component) = ours.iter().find(|component| component.name == name) {
        return Ok(component);
    }
    let names: Vec<&str> = ours.iter().map(|component| component.name.as_str()).collect();
    Err(Failure {
        code: crate::exit::USAGE,
        message: format!("component \"{}\" is not in the configuration", name.escape_debug()),
        hint: Some(match names.as_slice() {
            [] => format!("Add a table [component.{name}] with its kind to the file."),
            names => format!("Cluster {} has: {}.", context.cluster.name, names.join(", ")),
        }),
    }
    .into())
}

/// The components in this cluster's part of the repository.
pub fn of_cluster(context: &Context) -> Vec<&config::Component> {
    let all = context.config.components.values();
    all.filter(|component| component.cluster == context.cluster.name)
        .collect()
}

/// Captures one, between its programs.
async fn one(
    context: &Context,
    component: &config::Component,
    label: Option<&str>,
    point: Option<GroupPoint>,
    progress: Arc<Progress>,
) -> anyhow::Result<Manifest> {
    let system = of_kind(&component.kind, &context.cluster.postgres, point.is_some())?;
    let keys = context.host_keys()?;
    let (repository, places) = context.writing(backup_policy(), &keys).await?;
    let policy = &context.cluster.backup;
    let inputs = TakeInputs {
        repository: Arc::clone(&repository),
        signing: Arc::new(keys.signing),
        name: component.name.clone(),
        jobs: policy.jobs.unwrap_or_else(cores),
        uploads_in_flight: policy.uploads_in_flight,
        pace: Arc::new(Pace::new(PaceLimits {
            bytes_per_second: policy.rate_max.map(config::ByteSize::bytes),
            nice: policy.nice,
        })),
        duration_max: component.duration_max,
        progress,
        label: label.map(str::to_owned),
        point,
        host_name: host_name(),
        now_us: Arc::new(output::now_us),
    };
    let taken = match execute(component, "before", &component.before).await {
        Ok(()) => take(&*system, inputs).await.map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    // However it ended: what "before" has made, perhaps in part, must not stay.
    let after = execute(component, "after", &component.after).await;
    let manifest = taken?;
    if let Err(error) = after {
        tracing::error!(component = %component.name, error = %crate::exit::describe(&error), "the backup is complete, and what was to run after it failed");
    }
    copies::settle(places.as_ref(), COPIES_WAIT).await;
    copies::fill_all(places.as_ref(), &repository).await;
    for path in &manifest.vanished {
        tracing::info!(component = %component.name, path = %path.escape_ascii(), "went away before it was read");
    }
    for path in manifest.component.iter().flat_map(|captured| &captured.changed) {
        tracing::warn!(component = %component.name, path = %path.escape_ascii(), "changed while it was read");
    }
    Ok(manifest)
}

/// Runs a program of the configuration to its end.
async fn execute(component: &config::Component, which: &str, argv: &[String]) -> anyhow::Result<()> {
    let Some((program, arguments)) = argv.split_first() else {
        return Ok(());
    };
    let child = Command::new(program)
        .args(arguments)
        // Secrets of ours may stand in variables.
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| HOOK_VARIABLES.iter().any(|known| name == known)))
        .env("SEAWALL_COMPONENT", &component.name)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run \"{program}\""))?;
    let limit = component.duration_max;
    let ended = tokio::time::timeout(limit, child.wait_with_output()).await;
    let status = match ended {
        Ok(ended) => ended.with_context(|| format!("cannot run \"{program}\""))?.status,
        Err(_) => return Err(ComponentError::TooLong(limit.as_secs()).into()),
    };
    match status.success() {
        true => Ok(()),
        false => Err(Failure {
            code: crate::exit::FAILURE,
            message: format!("\"{program}\" failed: {status}"),
            hint: Some(format!(
                "It is \"{which}\" of [component.{}]; what it said stands above.",
                component.name
            )),
        }
        .into()),
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

/// One backup of a component, for programs.
pub fn report_of(manifest: &Manifest) -> serde_json::Value {
    let component = manifest.component.as_deref().cloned().unwrap_or_default();
    let paths = |all: &[minicbor::bytes::ByteVec]| {
        all.iter()
            .map(|path| path.escape_ascii().to_string())
            .collect::<Vec<_>>()
    };
    json!({
        "component": component.name,
        "kind": component.kind,
        "backup": manifest.backup.to_string(),
        "version": component.version,
        "as_of": output::time_us(component.as_of_us),
        "started": output::time_us(manifest.started_us),
        "finished": output::time_us(manifest.finished_us),
        "facts": component.facts,
        "files": manifest.totals.files,
        "logical_bytes": manifest.totals.logical_bytes,
        "new_stored_bytes": manifest.totals.new_stored_bytes,
        "needed_bytes": manifest.totals.needed_bytes,
        "parent": manifest.parent.map(|parent| parent.to_string()),
        "label": manifest.label,
        "point": component.point.as_ref().map(group::report_of),
        "vanished": paths(&manifest.vanished),
        "changed": paths(&component.changed),
    })
}

fn report(manifest: &Manifest, took: Duration) -> serde_json::Value {
    let mut report = report_of(manifest);
    if let Some(report) = report.as_object_mut() {
        report.insert("seconds".into(), took.as_secs_f64().into());
    }
    report
}

fn print(manifest: &Manifest, took: Duration) {
    let component = manifest.component.as_deref().cloned().unwrap_or_default();
    let totals = manifest.totals;
    println!("Backup {} of {} is complete.", manifest.backup, component.name);
    println!(
        "{} in {} files, {} added to the repository, {:.1} s.",
        output::bytes(totals.logical_bytes),
        totals.files,
        output::bytes(totals.new_stored_bytes),
        took.as_secs_f64()
    );
    if !component.changed.is_empty() || !manifest.vanished.is_empty() {
        println!(
            "{} files changed while they were read, {} went away before; the log names them.",
            component.changed.len(),
            manifest.vanished.len()
        );
    }
}
