//! What the server must allow before anything is protected, as data.
//!
//! The binaries ask the server (setting names in [`SETTING_NAMES`], privileges by SQL) and hand
//! the answers in; [`check_settings`] is pure. Settings: docs, "Write Ahead Log" and
//! "Replication" of "Server Configuration".

use std::time::Duration;

use crate::identity::{SUPPORTED_MAJORS, ServerVersion};
use crate::page::PAGE_BYTES;
use crate::standby_names::StandbyNames;

/// The settings that [`Settings`] is made of, by their names in `pg_settings`. Some are not there
/// in every version.
pub const SETTING_NAMES: [&str; 12] = [
    "wal_level",
    "max_wal_senders",
    "max_replication_slots",
    "full_page_writes",
    "data_checksums",
    "fsync",
    "block_size",
    "wal_block_size",
    "idle_replication_slot_timeout",
    "max_slot_wal_keep_size",
    "synchronous_commit",
    "synchronous_standby_names",
];

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// A choice that has its price, and that cannot be changed in passing.
    Notice,
    /// It works, with a risk that the operator should know.
    Warning,
    /// It cannot work, or would not protect anything.
    Error,
}

/// One thing that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one lowercase line.
    pub problem: String,
    /// What follows from it.
    pub detail: String,
    /// What to run or do about it.
    pub hint: String,
}

/// What the server said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Its version.
    pub server_version: ServerVersion,
    /// `wal_level`
    pub wal_level: String,
    /// `max_wal_senders`
    pub max_wal_senders: u32,
    /// `max_replication_slots`
    pub max_replication_slots: u32,
    /// WAL is streamed from a slot; false where it arrives by `archive_command`.
    pub needs_slots: bool,
    /// `full_page_writes`
    pub full_page_writes: bool,
    /// `data_checksums`
    pub data_checksums: bool,
    /// `fsync`
    pub fsync: bool,
    /// `block_size` in bytes
    pub block_size: u32,
    /// `wal_block_size` in bytes
    pub wal_block_size: u32,
    /// `idle_replication_slot_timeout` (18 and later); `None` when off or not there.
    pub idle_replication_slot_timeout: Option<Duration>,
    /// `max_slot_wal_keep_size` in MiB; `None` when not limited.
    pub max_slot_wal_keep_mib: Option<u64>,
    /// `synchronous_commit`
    pub synchronous_commit: String,
    /// `synchronous_standby_names`
    pub synchronous_standby_names: String,
    /// The name under which we connect.
    pub application_name: String,
    /// The role under which we connect.
    pub role: String,
    /// The role has REPLICATION (or is a superuser).
    pub role_replication: bool,
    /// The role may execute `pg_backup_start` and `pg_backup_stop` (13, 14: `pg_start_backup`,
    /// `pg_stop_backup`).
    pub may_start_backup: bool,
    /// The role is a member of `pg_read_all_settings` (or is a superuser).
    pub may_read_settings: bool,
}

/// Everything that is wrong, errors first, in a fixed order.
pub fn check_settings(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    check_server(settings, &mut findings);
    check_wal(settings, &mut findings);
    check_role(settings, &mut findings);
    check_slots(settings, &mut findings);
    check_durability(settings, &mut findings);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

fn error(problem: impl Into<String>, detail: &str, hint: impl Into<String>) -> Finding {
    let (problem, hint) = (problem.into(), hint.into());
    Finding {
        severity: Severity::Error,
        problem,
        detail: detail.to_owned(),
        hint,
    }
}

fn warning(problem: impl Into<String>, detail: &str, hint: impl Into<String>) -> Finding {
    Finding {
        severity: Severity::Warning,
        ..error(problem, detail, hint)
    }
}

fn check_server(settings: &Settings, findings: &mut Vec<Finding>) {
    let (first, last) = (SUPPORTED_MAJORS.start(), SUPPORTED_MAJORS.end());
    if !settings.server_version.is_supported() {
        findings.push(error(
            format!("PostgreSQL {} is not supported", settings.server_version),
            "File formats and commands differ between major versions.",
            format!("Use a server of major version {first} to {last}."),
        ));
    }
    for (name, bytes) in [
        ("block_size", settings.block_size),
        ("wal_block_size", settings.wal_block_size),
    ] {
        if usize::try_from(bytes) != Ok(PAGE_BYTES) {
            findings.push(error(
                format!("{name} is {bytes} bytes"),
                "Only servers built with blocks of 8192 bytes are supported.",
                "Move to a server with the usual block size (dump and restore).",
            ));
        }
    }
}

fn check_wal(settings: &Settings, findings: &mut Vec<Finding>) {
    if !matches!(settings.wal_level.as_str(), "replica" | "logical") {
        findings.push(error(
            format!("wal_level is {}", settings.wal_level),
            "Its WAL is not enough to recover from a base backup.",
            "ALTER SYSTEM SET wal_level = 'replica'; then restart the server.",
        ));
    }
    if settings.max_wal_senders == 0 {
        findings.push(error(
            "max_wal_senders is 0",
            "The server accepts no replication connection.",
            "ALTER SYSTEM SET max_wal_senders = 10; then restart the server.",
        ));
    }
    if settings.needs_slots && settings.max_replication_slots == 0 {
        findings.push(error(
            "max_replication_slots is 0",
            "Without a slot the server may remove WAL before it is archived.",
            "ALTER SYSTEM SET max_replication_slots = 10; then restart the server.",
        ));
    }
}

fn check_role(settings: &Settings, findings: &mut Vec<Finding>) {
    let role = quote_identifier(&settings.role);
    if !settings.role_replication {
        findings.push(error(
            format!("role {role} lacks REPLICATION"),
            "It may not receive WAL.",
            format!("ALTER ROLE {role} REPLICATION;"),
        ));
    }
    if !settings.may_start_backup {
        let grants = if settings.server_version.major() >= 15 {
            format!(
                "GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), \
                 pg_backup_stop(boolean) TO {role};"
            )
        } else {
            format!(
                "GRANT EXECUTE ON FUNCTION pg_start_backup(text, boolean, boolean), \
                 pg_stop_backup(boolean, boolean) TO {role};"
            )
        };
        findings.push(error(
            format!("role {role} may not start a base backup"),
            "The grant is needed in the database that the agent connects to.",
            grants,
        ));
    }
    if !settings.may_read_settings {
        findings.push(error(
            format!("role {role} may not read all settings"),
            "Where the data directory and the configuration files are stays hidden.",
            format!("GRANT pg_read_all_settings TO {role};"),
        ));
    }
}

fn check_slots(settings: &Settings, findings: &mut Vec<Finding>) {
    if let Some(timeout) = settings.idle_replication_slot_timeout {
        findings.push(warning(
            format!("idle_replication_slot_timeout is {} s", timeout.as_secs()),
            "The server invalidates the slot when the agent is away that long; WAL is then lost.",
            "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();",
        ));
    }
    if let Some(mib) = settings.max_slot_wal_keep_mib {
        findings.push(warning(
            format!("max_slot_wal_keep_size is {mib} MB"),
            "The server drops WAL that is not archived yet once there is more than that.",
            "ALTER SYSTEM SET max_slot_wal_keep_size = -1; SELECT pg_reload_conf(); or make sure \
             that the limit covers the longest outage of the object store.",
        ));
    }
}

fn check_durability(settings: &Settings, findings: &mut Vec<Finding>) {
    if !settings.fsync {
        findings.push(warning(
            "fsync is off",
            "A crash of the host can damage the cluster, and WAL that was archived may be ahead \
             of what is on its disk.",
            "ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();",
        ));
    }
    if !settings.full_page_writes {
        findings.push(warning(
            "full_page_writes is off",
            "The server turns it on during a base backup, but a crash can leave torn pages.",
            "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();",
        ));
    }
    if !settings.data_checksums {
        findings.push(Finding {
            severity: Severity::Notice,
            ..warning(
                "data checksums are off",
                "Damage on the server's disk can only be found where a page header is broken.",
                "Run pg_checksums --enable while the server is stopped.",
            )
        });
    }
    // A value that we cannot read may name us.
    let ours = settings
        .synchronous_standby_names
        .parse::<StandbyNames>()
        .map_or(true, |names| names.contains(&settings.application_name));
    if ours && settings.synchronous_commit == "remote_apply" {
        findings.push(error(
            "synchronous_commit is remote_apply and we are a synchronous standby",
            "Commits would wait for ever: an archive never applies WAL.",
            "ALTER SYSTEM SET synchronous_commit = 'on'; SELECT pg_reload_conf();",
        ));
    }
}

/// An identifier in double quotes, as SQL takes it.
fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests;
