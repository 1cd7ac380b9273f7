//! Asks the server what `pg::preflight` judges.

use std::time::Duration;

use anyhow::Context as _;
use pg::conninfo::ConnectOptions;
use pg::identity::ServerVersion;
use pg::preflight::{Finding, SETTING_NAMES, Settings, Severity, check_settings};
use tokio_postgres::Client;

use crate::exit::Failure;

/// All findings, errors first.
pub async fn findings(client: &Client, options: &ConnectOptions, needs_slots: bool) -> anyhow::Result<Vec<Finding>> {
    let settings = Settings {
        needs_slots,
        ..settings(client, options).await?
    };
    Ok(check_settings(&settings))
}

/// As [`refuse`], of what is found now.
pub async fn refuse_errors(client: &Client, options: &ConnectOptions) -> anyhow::Result<Vec<Finding>> {
    refuse(findings(client, options, true).await?)
}

/// The same where WAL arrives by `archive_command` and no slot is used.
pub async fn refuse_errors_without_slots(client: &Client, options: &ConnectOptions) -> anyhow::Result<Vec<Finding>> {
    refuse(findings(client, options, false).await?)
}

/// Warnings, or the errors as one failure.
pub fn refuse(findings: Vec<Finding>) -> anyhow::Result<Vec<Finding>> {
    let (errors, warnings): (Vec<_>, Vec<_>) = findings
        .into_iter()
        .partition(|finding| finding.severity == Severity::Error);
    if errors.is_empty() {
        return Ok(warnings);
    }
    let message = errors
        .iter()
        .map(|finding| finding.problem.clone())
        .collect::<Vec<_>>()
        .join("; ");
    let hint = errors
        .iter()
        .map(|finding| finding.hint.clone())
        .collect::<Vec<_>>()
        .join("\nHINT: ");
    Err(Failure::refused(message, hint).into())
}

async fn settings(client: &Client, options: &ConnectOptions) -> anyhow::Result<Settings> {
    let names: Vec<&str> = SETTING_NAMES.to_vec();
    let rows = client
        .query(
            "SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY($1::text[])",
            &[&names],
        )
        .await
        .context("cannot read the server's settings")?;
    let get = |name: &str| {
        rows.iter()
            .find(|row| row.get::<_, &str>(0) == name)
            .map(|row| row.get::<_, String>(1))
    };
    let number = |name: &str| get(name).and_then(|text| text.parse::<i64>().ok());
    let positive = |name: &str| number(name).and_then(|value| u64::try_from(value).ok());
    let is_on = |name: &str| get(name).as_deref() == Some("on");
    let version: ServerVersion = show(client, "server_version_num")
        .await?
        .parse()
        .context("the server's version makes no sense")?;
    let rights = rights(client, version.major()).await?;
    Ok(Settings {
        server_version: version,
        wal_level: get("wal_level").unwrap_or_default(),
        max_wal_senders: small(positive("max_wal_senders")),
        max_replication_slots: small(positive("max_replication_slots")),
        needs_slots: true,
        full_page_writes: is_on("full_page_writes"),
        data_checksums: is_on("data_checksums"),
        fsync: is_on("fsync"),
        block_size: small(positive("block_size")),
        wal_block_size: small(positive("wal_block_size")),
        idle_replication_slot_timeout: positive("idle_replication_slot_timeout")
            .filter(|value| *value > 0)
            .map(Duration::from_secs),
        max_slot_wal_keep_mib: positive("max_slot_wal_keep_size"),
        synchronous_commit: get("synchronous_commit").unwrap_or_default(),
        synchronous_standby_names: get("synchronous_standby_names").unwrap_or_default(),
        application_name: options.application_name.clone(),
        role: options.user.clone(),
        role_replication: rights.0,
        may_start_backup: rights.1,
        may_read_settings: rights.2,
    })
}

fn small(value: Option<u64>) -> u32 {
    value.and_then(|value| u32::try_from(value).ok()).unwrap_or(0)
}

async fn rights(client: &Client, major: u32) -> anyhow::Result<(bool, bool, bool)> {
    let functions = if major >= 15 {
        [
            "pg_catalog.pg_backup_start(text, boolean)",
            "pg_catalog.pg_backup_stop(boolean)",
        ]
    } else {
        [
            "pg_catalog.pg_start_backup(text, boolean, boolean)",
            "pg_catalog.pg_stop_backup(boolean, boolean)",
        ]
    };
    let row = client
        .query_one(
            "SELECT r.rolsuper OR r.rolreplication, \
                    pg_catalog.has_function_privilege($1::text, 'EXECUTE') AND pg_catalog.has_function_privilege($2::text, 'EXECUTE'), \
                    r.rolsuper OR pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE') \
             FROM pg_catalog.pg_roles r WHERE r.rolname = current_user",
            &[&functions[0], &functions[1]],
        )
        .await
        .context("cannot ask for the role's privileges")?;
    Ok((row.get(0), row.get(1), row.get(2)))
}

/// One setting as text.
pub async fn show(client: &Client, name: &str) -> anyhow::Result<String> {
    let row = client
        .query_one("SELECT pg_catalog.current_setting($1)", &[&name])
        .await;
    Ok(row.with_context(|| format!("cannot read the setting {name}"))?.get(0))
}
