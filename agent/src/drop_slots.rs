//! `drop-slots`: the last step of an uninstall. A slot that nobody streams from holds WAL back until the disk is full.

use pg::conninfo::{ConnectOptions, TargetSessionAttrs};
use serde_json::{Value, json};

use crate::cli::DropSlotsOptions;
use crate::exit::Failure;
use crate::open::Context;
use crate::{exit, init, output, sql};

/// Runs the command: on every server that the configuration names, because a failover leaves slots behind.
pub async fn run(context: &Context, options: &DropSlotsOptions) -> anyhow::Result<()> {
    let all = context.connect_options()?;
    let (mut rows, mut failed) = (Vec::new(), None);
    for server in &all.servers {
        let one = ConnectOptions {
            target_session_attrs: TargetSessionAttrs::Any,
            ..all.only(server.clone())
        };
        match on_server(context, &one, options.yes).await {
            Ok(found) => rows.extend(found),
            // The last one is told by the exit.
            Err(failure) => {
                if let Some(before) = failed.replace(failure) {
                    eprintln!("{}", exit::describe(&before));
                }
            }
        }
    }
    if !rows.is_empty() || failed.is_none() {
        report(&rows, options)?;
    }
    failed.map_or(Ok(()), Err)
}

async fn on_server(context: &Context, server: &ConnectOptions, drop: bool) -> anyhow::Result<Vec<Value>> {
    let (client, chosen) = sql::choose(server).await?;
    let place = chosen.servers.first().map(ToString::to_string).unwrap_or_default();
    let mut found = Vec::new();
    for slot in init::both_slots(context) {
        if let Some(here) = sql::slot(&client, &slot).await? {
            found.push((slot, here));
        }
    }
    // All or none: half of them would be a slot without anything to compare with.
    if let Some((slot, _)) = found.iter().find(|(_, here)| here.active) {
        return Err(Failure::refused(
            format!("somebody streams from slot \"{slot}\" on {place}"),
            "Stop the agent first: `systemctl disable --now seawall`.",
        )
        .into());
    }
    let mut rows = Vec::new();
    for (slot, here) in found {
        if drop {
            sql::drop_slot(&client, &slot).await?;
        }
        rows.push(json!({
            "server": place,
            "slot": slot,
            "restart_lsn": here.restart.map(|lsn| lsn.to_string()),
            "dropped": drop,
        }));
    }
    Ok(rows)
}

fn report(rows: &[Value], options: &DropSlotsOptions) -> anyhow::Result<()> {
    if options.json {
        return output::print_json(&json!({ "slots": rows }));
    }
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or("nothing").to_owned();
    for row in rows {
        let (slot, server, restart) = (text(row, "slot"), text(row, "server"), text(row, "restart_lsn"));
        let done = if options.yes { "dropped" } else { "would be dropped" };
        println!("{slot} on {server}, which holds WAL back from {restart} on: {done}");
    }
    if rows.is_empty() {
        println!("No slot of this cluster is left.");
    } else if !options.yes {
        println!(
            "Nothing was changed. With --yes they are dropped, and the WAL that only they hold back is lost to the archive."
        );
    }
    Ok(())
}
