//! What a restore has set in postgresql.auto.conf, and what becomes of it.
//!
//! A setting is the restore's while it is there with the value that the restore gave it: `seawall.restore/restore.json` says which, or the
//! block below our line in the file itself, which the first ALTER SYSTEM takes away. What somebody has set since is his.

mod file;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use pg::relation::RESTORE_DIRECTORY;
use serde::Serialize;
use store::id::BackupId;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::backup::read_control;
use crate::preflight;

/// What only the operator may set again: it changes who waits for whom, or what is archived elsewhere.
const ARMED: [&str; 2] = ["synchronous_standby_names", "archive_mode"];
/// Where the restored server listens: whoever connects must be told first.
const LISTENS: [&str; 3] = ["port", "unix_socket_directories", "listen_addresses"];
/// What ends with recovery.
const OF_RECOVERY: [&str; 7] = [
    "restore_command",
    "recovery_end_command",
    "archive_cleanup_command",
    "recovery_min_apply_delay",
    "primary_conninfo",
    "primary_slot_name",
    "hot_standby",
];

/// What is left to the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Todo {
    /// What and why.
    pub(super) what: String,
    /// How, where a statement or a command does it.
    pub(super) statement: Option<String>,
}

impl Todo {
    pub(super) fn new(what: impl Into<String>, statement: impl Into<String>) -> Self {
        Todo {
            what: what.into(),
            statement: Some(statement.into()),
        }
    }
}

/// What a restore has set and nobody has changed since.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Restored {
    pub(super) settings: BTreeMap<String, String>,
    /// The backup that was restored, where it is known.
    pub(super) backup: Option<BackupId>,
}

/// What becomes of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sorted {
    /// Reset.
    pub(super) reset: Vec<String>,
    /// Left as it is.
    pub(super) stays: BTreeMap<String, String>,
    /// For the operator.
    pub(super) todo: Vec<Todo>,
}

/// Reads it from the data directory, which must be on this host.
///
/// # Errors
/// It cannot be read here, or is another server's.
pub(super) async fn look(client: &Client, system_identifier: u64) -> anyhow::Result<Restored> {
    let directory = preflight::show(client, "data_directory").await?;
    let directory = Path::new(&directory);
    let (control, _) = read_control(directory).await?;
    let found = control.system_identifier.as_u64();
    anyhow::ensure!(
        found == system_identifier,
        "\"{}\" on this host is another cluster's",
        directory.display()
    );
    let path = directory.join("postgresql.auto.conf");
    let text = std::fs::read(&path).with_context(|| format!("cannot read \"{}\"", path.display()))?;
    let state = std::fs::read(directory.join(RESTORE_DIRECTORY).join(file::STATE)).ok();
    Ok(file::of_restore(&String::from_utf8_lossy(&text), state.as_deref()))
}

/// Decides what becomes of each; `recorded` is what the settings were when the restored backup was taken. Pure.
pub(super) fn sort(restored: &Restored, recorded: &BTreeMap<String, String>) -> Sorted {
    let mut out = Sorted::default();
    for (name, value) in &restored.settings {
        if ARMED.contains(&name.as_str()) {
            let was = recorded.get(name).map(String::as_str);
            if was == Some(value) {
                out.stays.insert(name.clone(), value.clone());
            } else {
                out.todo.push(arm(name, was, recorded));
            }
        } else if LISTENS.contains(&name.as_str()) {
            let what = format!(
                "{name} is {} by the restore. Without it the server listens where postgresql.conf says, after a restart; \
                 change the configuration of the agent with it",
                quote(value)
            );
            out.todo.push(Todo::new(what, format!("ALTER SYSTEM RESET {name};")));
        } else if OF_RECOVERY.contains(&name.as_str()) || is_target(name) {
            out.reset.push(name.clone());
        } else {
            out.stays.insert(name.clone(), value.clone());
        }
    }
    if let Some(was) = recorded.get("primary_slot_name").filter(|was| !was.is_empty())
        && restored.settings.contains_key("primary_slot_name")
    {
        let what = format!(
            "primary_slot_name was {}: it counts only if this server becomes a standby",
            quote(was)
        );
        out.todo.push(Todo::new(
            what,
            format!("ALTER SYSTEM SET primary_slot_name = {};", quote(was)),
        ));
    }
    out
}

/// A stop point. It becomes part of a statement, and comes out of a file: nothing but a name.
fn is_target(name: &str) -> bool {
    name.starts_with("recovery_target") && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase())
}

/// The statement that arms a setting again as it was.
fn arm(name: &str, was: Option<&str>, recorded: &BTreeMap<String, String>) -> Todo {
    let (after, when) = match name {
        "archive_mode" => ("", "it needs a restart"),
        _ => (
            " SELECT pg_reload_conf();",
            "commits wait from then on, so start the agent and the standbys first",
        ),
    };
    let Some(was) = was else {
        let what = format!("{name} was switched off by the restore, and the backup does not say what it was; {when}");
        return Todo::new(what, format!("ALTER SYSTEM RESET {name};{after}"));
    };
    let command = match recorded.get("archive_command").map(String::as_str) {
        Some("set") if name == "archive_mode" => {
            " (look whether archive_command may still run: it goes where it went before)"
        }
        _ => "",
    };
    let what = format!(
        "{name} was {} and was switched off by the restore{command}; {when}",
        quote(was)
    );
    Todo::new(what, format!("ALTER SYSTEM SET {name} = {};{after}", quote(was)))
}

/// A literal.
fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// What was reset, and what the role may not reset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reset {
    pub(super) done: Vec<String>,
    pub(super) refused: Vec<String>,
}

/// Resets; a statement each, because ALTER SYSTEM takes no transaction. Again is no harm.
pub(super) async fn reset(client: &Client, names: &[String]) -> anyhow::Result<Reset> {
    let mut out = Reset::default();
    for name in names {
        match client.batch_execute(&format!("ALTER SYSTEM RESET {name}")).await {
            Ok(()) => out.done.push(name.clone()),
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => out.refused.push(name.clone()),
            Err(error) => return Err(error).with_context(|| format!("cannot reset {name}")),
        }
    }
    if out.done.is_empty() {
        return Ok(out);
    }
    match client.batch_execute("SELECT pg_catalog.pg_reload_conf()").await {
        // What was reset does nothing outside of recovery: the next reload is early enough.
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {}
        reloaded => reloaded.context("cannot have the server read its configuration")?,
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    fn restored() -> Restored {
        Restored {
            settings: map(&[
                ("archive_mode", "off"),
                ("max_connections", "60"),
                ("port", "5433"),
                ("primary_slot_name", ""),
                ("recovery_target_lsn", "0/5000060"),
                ("recovery_target; DROP TABLE t", "x"),
                ("restore_command", "wal-restore wal-get"),
                ("synchronous_standby_names", ""),
            ]),
            backup: None,
        }
    }

    #[test]
    fn what_ends_with_recovery_is_reset_and_limits_stay() {
        let sorted = sort(&restored(), &map(&[]));
        assert_eq!(
            sorted.reset,
            ["primary_slot_name", "recovery_target_lsn", "restore_command"]
        );
        assert_eq!(
            sorted.stays,
            map(&[("max_connections", "60"), ("recovery_target; DROP TABLE t", "x")])
        );
    }

    #[test]
    fn what_was_armed_comes_back_as_a_statement_only() {
        let recorded = map(&[
            ("synchronous_standby_names", "ANY 1 (seawall)"),
            ("archive_mode", "on"),
            ("archive_command", "set"),
            ("primary_slot_name", "it's"),
        ]);
        let todo = sort(&restored(), &recorded).todo;
        let statements: Vec<_> = todo.iter().filter_map(|todo| todo.statement.as_deref()).collect();
        assert_eq!(
            statements,
            [
                "ALTER SYSTEM SET archive_mode = 'on';",
                "ALTER SYSTEM RESET port;",
                "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (seawall)'; SELECT pg_reload_conf();",
                "ALTER SYSTEM SET primary_slot_name = 'it''s';",
            ]
        );
        assert!(
            todo.iter()
                .any(|todo| todo.what.contains("archive_command may still run"))
        );
    }

    #[test]
    fn what_was_off_stays_off_and_what_is_not_recorded_is_said() {
        let recorded = map(&[("synchronous_standby_names", "")]);
        let sorted = sort(&restored(), &recorded);
        assert!(sorted.stays.contains_key("synchronous_standby_names"));
        let of_archive_mode = sorted.todo.iter().find(|todo| todo.what.starts_with("archive_mode"));
        assert!(of_archive_mode.unwrap().what.contains("does not say"));
    }
}
