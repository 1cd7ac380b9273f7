//! `wal-agent status`: what the daemon last said of itself, and what the repository and the server say now. For a person, as JSON, or as a
//! line for Nagios.

mod look;
mod nagios;
mod screen;
mod state;

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

pub use look::View;
pub use screen::expected;
pub use state::{DaemonState, LagState, archived_lineage, is_running, last_said, state_file, watermark};

use crate::archiver::Archiver;
use crate::cli::StatusOptions;
use crate::open::Context;
use crate::output;

/// Clears the screen and begins at its top (ECMA-48: CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Runs the command.
pub async fn run(context: &Context, options: &StatusOptions) -> anyhow::Result<()> {
    if options.nagios {
        return nagios::run(context).await;
    }
    let Some(seconds) = options.watch else {
        let view = View::look(context).await?;
        if options.json {
            return output::print_json(&json(context, &view)?);
        }
        print!("{}", screen::draw(context, &view, is_coloured()));
        return Ok(());
    };
    loop {
        let view = View::look(context).await?;
        let screen = screen::draw(context, &view, is_coloured());
        let mut out = std::io::stdout();
        write!(out, "{CLEAR}{screen}")?;
        out.flush()?;
        tokio::time::sleep(Duration::from_secs(seconds.max(1))).await;
    }
}

/// On a terminal, unless somebody does not want it (no-color.org).
fn is_coloured() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn json(context: &Context, view: &View) -> anyhow::Result<serde_json::Value> {
    let state = view.state.clone().unwrap_or_default();
    let mut value = serde_json::to_value(&state)?;
    value["cluster"] = context.cluster.name.clone().into();
    value["running"] = view.is_running.into();
    if !view.is_running {
        // Nobody measures it: a figure would be a lie.
        value["rpo_ms"] = serde_json::Value::Null;
        value["streaming"] = false.into();
    }
    let time = |us: i64| (us > 0).then(|| output::time_us(us));
    value["last_commit"] = time(state.last_commit_us).into();
    value["last_contact"] = time(state.contact_us).into();
    let newest = view.newest.as_ref();
    value["last_backup"] = newest.map(|manifest| manifest.backup.to_string()).into();
    value["last_backup_finished"] = newest.map(|manifest| output::time_us(manifest.finished_us)).into();
    let components = view.components.iter().map(|(name, newest_us)| {
        serde_json::json!({ "component": name, "last_backup_finished": newest_us.map(output::time_us) })
    });
    value["components"] = components.collect::<Vec<_>>().into();
    value["last_proven"] = view.proven_us.map(output::time_us).into();
    value["last_verified"] = view.verified_us.map(output::time_us).into();
    value["recoverable_from"] = view.window_from_us.map(output::time_us).into();
    value["last_drill"] = serde_json::to_value(&view.drill)?;
    value["rto_estimate_s"] = view.rto_s.into();
    let slot = view.slot.as_ref().map(|slot| {
        serde_json::json!({
            "name": context.cluster.wal.slot,
            "active": slot.active,
            "restart_lsn": slot.restart.map(|lsn| lsn.to_string()),
            "wal_status": slot.wal_status,
            "safe_wal_bytes": slot.safe_wal_bytes,
        })
    });
    value["slot"] = slot.into();
    value["archive_command"] = view.archiver.as_ref().map(Archiver::json).into();
    value["running_backup"] = match &view.backup {
        Some(running) => {
            let mut value = serde_json::to_value(running)?;
            value["left_s"] = running.left_s().into();
            value
        }
        None => serde_json::Value::Null,
    };
    value["copies"] = serde_json::to_value(&view.copies)?;
    value["repository_error"] = view.repository_error.clone().into();
    value["warnings"] = view.warnings.clone().into();
    Ok(value)
}
