//! `wal-agent status`: what the daemon last said of itself, and what the repository holds.
//!
//! The daemon writes its state to a small file each second. The file is a convenience: nothing is decided by it.

use std::path::PathBuf;

use comfy_table::Table;
use pg::lsn::Lsn;
use pg::timeline::TimelineId;
use serde::{Deserialize, Serialize};
use store::id::LineageId;
use store::verify::Watermark;

use crate::archiver::{self, Archiver};
use crate::backup::RunningBackup;
use crate::open::{Context, command_policy};
use crate::{copies, output, sql};

/// A state older than this means that no agent runs.
const STALE_US: i64 = 10_000_000;

/// What the daemon says of itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DaemonState {
    /// Process id.
    pub pid: u32,
    /// When this was written, microseconds since 1970.
    pub written_us: i64,
    /// A stream is open.
    pub streaming: bool,
    /// Lineage that is archived.
    pub lineage: String,
    /// Timeline.
    pub timeline: u32,
    /// End of what came in.
    pub received_lsn: String,
    /// End of the contiguous archived prefix.
    pub archived_lsn: String,
    /// The server's end of WAL.
    pub server_lsn: String,
    /// Age of the oldest commit that is not archived, milliseconds.
    pub rpo_ms: u64,
    /// Commit to archived.
    pub lag: LagState,
    /// WAL bytes made durable in whole objects by this process.
    pub wal_bytes: u64,
    /// Bytes stored for them and for tails.
    pub stored_bytes: u64,
    /// Whole objects created.
    pub objects: u64,
    /// Tails created.
    pub tails: u64,
    /// The last error of the WAL lane, if it is not streaming.
    pub error: Option<String>,
    /// WAL that the server keeps for us.
    #[serde(default)]
    pub retained_bytes: u64,
    /// When the disk of `pg_wal` is full at the present rate, in seconds, if it can be seen.
    #[serde(default)]
    pub pg_wal_full_in_s: Option<u64>,
    /// Commits may wait for us.
    #[serde(default)]
    pub synchronous: bool,
    /// We took ourselves out of `synchronous_standby_names`.
    #[serde(default)]
    pub degraded: bool,
    /// `remote_apply` while commits may wait for us.
    #[serde(default)]
    pub remote_apply: bool,
}

/// Lag of commits.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct LagState {
    /// Commits counted.
    pub commits: u64,
    /// Median, microseconds.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// Longest.
    pub max_us: u64,
}

/// Where the daemon's state lies.
pub fn state_file(context: &Context) -> PathBuf {
    context
        .cluster
        .status
        .state_directory
        .join(format!("{}.json", context.cluster.name))
}

/// What the daemon of this host has said last.
fn last_said(context: &Context) -> Option<DaemonState> {
    let bytes = std::fs::read(state_file(context)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The lineage that the daemon of this host has archived last, as far as it has said.
pub fn archived_lineage(context: &Context) -> Option<LineageId> {
    last_said(context)?.lineage.parse().ok()
}

/// How far the daemon of this host has archived, as far as it has said: what is in the repository cannot be less.
pub fn watermark(context: &Context) -> Option<Watermark> {
    let state = last_said(context)?;
    Some(Watermark {
        lineage: state.lineage.parse().ok()?,
        timeline: TimelineId::new(state.timeline)?,
        archived: state.archived_lsn.parse().ok().filter(|lsn: &Lsn| lsn.is_valid())?,
    })
}

/// True when a daemon wrote its state lately, whether it streams or not.
pub fn is_running(context: &Context) -> bool {
    last_said(context).is_some_and(|state| output::now_us() - state.written_us < STALE_US)
}

/// Runs the command.
pub async fn run(context: &Context, json: bool) -> anyhow::Result<()> {
    let state = last_said(context);
    let running = state
        .as_ref()
        .is_some_and(|state| output::now_us() - state.written_us < STALE_US);
    let has_run = state.is_some();
    let backup = RunningBackup::read(context);
    let keys = context.host_keys()?;
    let repository = context.repository(command_policy(), &keys).await?;
    let newest = match repository.backup_ids().await?.last() {
        Some(id) => Some(repository.manifest(*id).await?),
        None => None,
    };
    let lineages = repository.lineages().await?;
    let current = archived_lineage(context).or(lineages.iter().map(|lineage| lineage.id).max());
    let (slot, archiver) = ask_server(context).await;
    let key_here = context.config.keys.restore_key.exists();
    let mut warnings = Vec::new();
    if let Some(since) = archiver.as_ref().and_then(|archiver| archiver.failing_since.as_ref()) {
        warnings.push(format!("archive_command fails since {since}: see the server's log"));
    }
    if !running && archiver.is_none() {
        warnings.push("no agent is running: WAL is not being archived".to_owned());
    } else if !running && has_run {
        warnings.push("no agent is running: archive_command archives whole segments only".to_owned());
    }
    match &newest {
        None => warnings.push("there is no backup yet: run `wal-agent backup`".to_owned()),
        Some(manifest) if Some(manifest.lineage) != current => warnings.push(
            "the newest backup is of an abandoned history: what the server does now cannot be restored. Run `wal-agent backup` now"
                .to_owned(),
        ),
        Some(_) => {}
    }
    if let Some(current) = current {
        for hole in repository.settled_coverage(current).await?.holes() {
            warnings.push(format!(
                "WAL from {} to {} on timeline {} is missing",
                hole.start, hole.end, hole.timeline
            ));
        }
    }
    if let Some(state) = state.as_ref().filter(|_| running) {
        warnings.extend(of_commits(state));
    }
    if !context.config.keys.restore_key_command.is_empty() {
        warnings.push(
            "this host has a restore_key_command: a thief of the host may be able to read all backups".to_owned(),
        );
    }
    if key_here {
        warnings.push("the restore key lies on this host: a thief of the host can read all backups".to_owned());
    }
    let copies = copies::last_seen(context);
    for copy in copies.iter().filter(|copy| running && copy.standing != "whole") {
        let why = copy.error.as_ref().map_or(String::new(), |error| format!(": {error}"));
        warnings.push(format!("the copy \"{}\" is {}{why}", copy.name, copy.standing));
    }
    let state = state.unwrap_or_default();
    if json {
        let mut value = serde_json::to_value(&state)?;
        value["cluster"] = context.cluster.name.clone().into();
        value["running"] = running.into();
        if !running {
            // Nobody measures it: a figure would be a lie.
            value["rpo_ms"] = serde_json::Value::Null;
            value["streaming"] = false.into();
        }
        value["last_backup"] = newest.as_ref().map(|manifest| manifest.backup.to_string()).into();
        value["last_backup_finished"] = newest
            .as_ref()
            .map(|manifest| output::time_us(manifest.finished_us))
            .into();
        value["slot"] = slot
            .as_ref()
            .map(|slot| {
                serde_json::json!({
                    "name": context.cluster.wal.slot,
                    "active": slot.active,
                    "restart_lsn": slot.restart.map(|lsn| lsn.to_string()),
                    "wal_status": slot.wal_status,
                    "safe_wal_bytes": slot.safe_wal_bytes,
                })
            })
            .into();
        value["archive_command"] = archiver.as_ref().map(Archiver::json).into();
        value["running_backup"] = match &backup {
            Some(running) => {
                let mut value = serde_json::to_value(running)?;
                value["left_s"] = running.left_s().into();
                value
            }
            None => serde_json::Value::Null,
        };
        value["copies"] = serde_json::to_value(&copies)?;
        value["warnings"] = warnings.into();
        return output::print_json(&value);
    }
    let mut table = output::table(&["", ""]);
    let agent = if running && state.streaming {
        "streaming"
    } else if running {
        "not connected"
    } else {
        "not running"
    };
    table.add_row(["cluster", &context.cluster.name]);
    table.add_row(["agent", agent]);
    let rpo = if running {
        format!("{} ms (age of the oldest commit not archived)", state.rpo_ms)
    } else if archiver.is_some() {
        "not measured: what archive_command has not pushed yet, at most archive_timeout if that is set".to_owned()
    } else {
        "unknown: no agent runs; every commit since it stopped is unprotected".to_owned()
    };
    table.add_row(["RPO now", &rpo]);
    if has_run {
        add_daemon_rows(&mut table, &state);
    }
    let no_slot = match &archiver {
        Some(_) => "none",
        None => "unknown: the server does not answer or has no such slot",
    };
    let slot_text = slot.map_or(no_slot.into(), |slot| {
        let (restart, status) = (slot.restart.unwrap_or_default(), slot.wal_status.unwrap_or_default());
        format!(
            "{} at {restart}, WAL {status}, {}",
            context.cluster.wal.slot,
            if slot.active { "in use" } else { "not in use" }
        )
    });
    table.add_row(["slot", &slot_text]);
    if let Some(archiver) = &archiver {
        table.add_row(["archive_command", &archiver.to_string()]);
    }
    let last = newest.map_or("none".into(), |manifest| {
        format!("{} ({})", manifest.backup, output::time_us(manifest.finished_us))
    });
    table.add_row(["newest backup", &last]);
    if let Some(running) = backup {
        table.add_row(["backup now", &running.to_string()]);
    }
    for copy in &copies {
        table.add_row([&format!("place \"{}\"", copy.name), &copy.standing]);
    }
    println!("{table}");
    for warning in warnings {
        println!("WARNING: {warning}");
    }
    if let Some(error) = state.error {
        println!("ERROR: {error}");
    }
    Ok(())
}

fn add_daemon_rows(table: &mut Table, state: &DaemonState) {
    table.add_row([
        "archived",
        &format!(
            "{} on timeline {} (server at {})",
            state.archived_lsn, state.timeline, state.server_lsn
        ),
    ]);
    table.add_row([
        "commit to archived",
        &format!(
            "p50 {} ms, p99 {} ms, max {} ms over {} commits",
            ms(state.lag.p50_us),
            ms(state.lag.p99_us),
            ms(state.lag.max_us),
            state.lag.commits
        ),
    ]);
    table.add_row(["lineage", &state.lineage]);
}

/// What is not as it should be with commits that wait for us.
fn of_commits(state: &DaemonState) -> Vec<String> {
    let mut warnings = Vec::new();
    if state.degraded {
        warnings.push(
            "degraded: the repository was away, and commits no longer wait for it until it has caught up".to_owned(),
        );
    }
    if state.remote_apply {
        warnings.push("synchronous_commit is remote_apply: commits that wait for us wait for ever".to_owned());
    }
    warnings
}

/// Slot and archiver as the server sees them, where the server can be asked.
async fn ask_server(context: &Context) -> (Option<sql::Slot>, Option<Archiver>) {
    let Ok(options) = context.connect_options() else {
        return (None, None);
    };
    let Ok(client) = sql::connect(&options).await else {
        return (None, None);
    };
    let slot = sql::slot(&client, &context.cluster.wal.slot).await;
    let archiver = archiver::pushing(&client).await;
    (slot.ok().flatten(), archiver.ok().flatten())
}

fn ms(us: u64) -> u64 {
    us / 1000
}
