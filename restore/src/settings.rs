//! Recovery settings as text: quoting for the shell and for PostgreSQL, and the rewriting of its configuration files. Pure.

use std::path::Path;

use store::manifest::Manifest;

use crate::plan::{StopKind, StopPoint};

/// First line of our block in postgresql.auto.conf.
const BEGIN: &str = "# seawall: recovery settings of this restore";

/// Settings of earlier restores that must not survive: two stop points stop the server from starting.
const STALE: [&str; 5] = [
    "restore_command",
    "recovery_end_command",
    "archive_cleanup_command",
    "recovery_min_apply_delay",
    "standby_mode",
];

/// Stop points by other means, cleared wherever the server's own files set them.
const OTHER_TARGETS: [&str; 5] = [
    "recovery_target",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_lsn",
];

/// Settings that recovery of a hot standby wants at least as large as on the primary.
const HOT_STANDBY: [&str; 5] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
];

/// A value in a configuration file, quoted (`GUC_scanstr` in guc-file.l undoes it).
pub(crate) fn quote_value(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// One word for a POSIX shell.
fn quote_shell(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What restore_command is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RestoreCommand<'a> {
    /// `wal-restore`, absolute.
    pub(crate) program: &'a Path,
    /// Configuration file, absolute.
    pub(crate) config: &'a Path,
    /// Cluster.
    pub(crate) cluster: &'a str,
    /// The copy that is read from, if it is not the repository itself.
    pub(crate) copy: Option<&'a str>,
    /// Data directory, absolute.
    pub(crate) pgdata: &'a Path,
    /// The server is a standby.
    pub(crate) standby: bool,
}

impl RestoreCommand<'_> {
    /// The command: every word quoted for the shell, `%` doubled but where PostgreSQL puts names in.
    pub(crate) fn text(&self) -> String {
        let word = |text: &str| quote_shell(text).replace('%', "%%");
        let path = |path: &Path| word(&path.to_string_lossy());
        format!(
            "{} --config {} --cluster {}{} wal-get \"%f\" \"%p\" --pgdata {}{}",
            path(self.program),
            path(self.config),
            word(self.cluster),
            self.copy
                .map(|copy| format!(" --copy {}", word(copy)))
                .unwrap_or_default(),
            path(self.pgdata),
            if self.standby { " --standby" } else { "" }
        )
    }
}

/// The primary of a standby, when one was named.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Primary<'a> {
    /// `primary_conninfo`.
    pub(crate) conninfo: Option<&'a str>,
    /// `primary_slot_name`.
    pub(crate) slot: Option<&'a str>,
}

/// Where the restored server listens, when that was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Listen<'a> {
    /// `port`.
    pub(crate) port: Option<u16>,
    /// `unix_socket_directories`.
    pub(crate) socket_dir: Option<&'a Path>,
    /// On its socket only, with little memory, and nothing of it must last.
    pub(crate) is_private: bool,
}

/// Of a server that is thrown away.
const PRIVATE: [(&str, &str); 10] = [
    ("listen_addresses", ""),
    ("ssl", "off"),
    ("shared_buffers", "128MB"),
    ("huge_pages", "off"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("fsync", "off"),
    // Nobody is told that it exists: no publisher, no job, no file of the original.
    ("max_logical_replication_workers", "0"),
    ("external_pid_file", ""),
    ("cron.launch_active_jobs", "off"),
];

/// The settings of a restore, in the order in which they are written.
pub(crate) fn block(
    manifest: &Manifest,
    stop: &StopPoint,
    timeline: u32,
    command: &RestoreCommand<'_>,
    action: &str,
    listen: Listen<'_>,
    primary: Primary<'_>,
) -> Vec<(String, String)> {
    let mut out = targets(stop, timeline, action);
    let mut set = |name: &str, value: &str| out.push((name.to_owned(), value.to_owned()));
    set("restore_command", &command.text());
    for name in [
        "recovery_end_command",
        "archive_cleanup_command",
        "synchronous_standby_names",
    ] {
        set(name, "");
    }
    set("primary_conninfo", primary.conninfo.unwrap_or_default());
    set("primary_slot_name", primary.slot.unwrap_or_default());
    set("recovery_min_apply_delay", "0");
    set("archive_mode", "off");
    set("hot_standby", "on");
    for name in HOT_STANDBY {
        if let Some(value) = manifest.settings.get(name).filter(|value| value.parse::<u32>().is_ok()) {
            set(name, value);
        }
    }
    if let Some(port) = listen.port {
        set("port", &port.to_string());
    }
    if let Some(directory) = listen.socket_dir {
        set("unix_socket_directories", &directory.to_string_lossy());
    }
    if listen.is_private {
        PRIVATE.iter().for_each(|(name, value)| set(name, value));
        // 13 and 14 write statistics to files, which Debian has in a directory that the original uses (removed in 15).
        if manifest.server_version < 150_000 {
            set("stats_temp_directory", "pg_stat_tmp");
        }
    }
    out
}

/// Where recovery stops, and what happens there.
pub(crate) fn targets(stop: &StopPoint, timeline: u32, action: &str) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| out.push((name.to_owned(), value.to_owned()));
    // Empty ones first: the server takes them in order and refuses a second stop point.
    let own = match stop.kind {
        StopKind::Follow => "",
        StopKind::Immediate => "recovery_target",
        StopKind::Time | StopKind::Lsn | StopKind::Xid | StopKind::Name | StopKind::Latest => "recovery_target_lsn",
    };
    for name in OTHER_TARGETS.iter().filter(|name| **name != own) {
        set(name, "");
    }
    match stop.kind {
        StopKind::Follow => {}
        StopKind::Immediate => set(own, "immediate"),
        StopKind::Time | StopKind::Lsn | StopKind::Xid | StopKind::Name | StopKind::Latest => {
            set(own, &stop.lsn.to_string());
            set("recovery_target_inclusive", if stop.inclusive { "on" } else { "off" });
        }
    }
    set("recovery_target_timeline", &timeline.to_string());
    if stop.kind != StopKind::Follow {
        set("recovery_target_action", action);
    }
    out
}

/// Name of the setting on a line of a configuration file, in lower case.
fn setting_of(line: &[u8]) -> Option<String> {
    let line = line.trim_ascii_start();
    let end = line
        .iter()
        .position(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_' || *byte == b'.'))
        .unwrap_or(line.len());
    let name = line.get(..end).filter(|name| !name.is_empty())?;
    Some(String::from_utf8_lossy(name).to_ascii_lowercase())
}

/// postgresql.auto.conf with our block at its end; what an earlier restore left and what the block sets is taken out.
pub(crate) fn rewrite_auto_conf(old: &[u8], block: &[(String, String)]) -> Vec<u8> {
    let is_stale = |line: &[u8]| {
        setting_of(line).is_some_and(|name| {
            name.starts_with("recovery_target")
                || STALE.contains(&name.as_str())
                || block.iter().any(|(ours, _)| *ours == name)
        }) || line == BEGIN.as_bytes()
    };
    let mut out = Vec::new();
    for line in old.split(|byte| *byte == b'\n').filter(|line| !is_stale(line)) {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    while out.ends_with(b"\n\n") || out == b"\n" {
        out.pop();
    }
    out.extend_from_slice(&lines(BEGIN, block));
    out
}

/// postgresql.auto.conf with another stop point in our block; `None` where there is no such block.
pub(crate) fn move_stop(old: &[u8], targets: &[(String, String)]) -> Option<Vec<u8>> {
    let is_target = |line: &[u8]| setting_of(line).is_some_and(|name| name.starts_with("recovery_target"));
    let mut out = Vec::with_capacity(old.len());
    let mut has_block = false;
    for line in old
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| !is_target(line))
    {
        if line.trim_ascii_end() == BEGIN.as_bytes() {
            has_block = true;
            out.extend_from_slice(&lines(BEGIN, targets));
        } else {
            out.extend_from_slice(line);
        }
    }
    has_block.then_some(out)
}

/// True when the last line of each of these settings has this value, as we or ALTER SYSTEM write it.
pub(crate) fn has(old: &[u8], settings: &[(&String, &String)]) -> bool {
    let all: Vec<&[u8]> = old.split(|byte| *byte == b'\n').collect();
    settings.iter().all(|(name, value)| {
        let last = all.iter().rev().find(|line| setting_of(line).as_ref() == Some(name));
        last.is_some_and(|line| line.trim_ascii() == format!("{name} = {}", quote_value(value)).as_bytes())
    })
}

fn lines(first: &str, block: &[(String, String)]) -> Vec<u8> {
    let mut out = format!("{first}\n");
    for (name, value) in block {
        out.push_str(&format!("{name} = {}\n", quote_value(value)));
    }
    out.into_bytes()
}

/// Settings that tie a postgresql.conf from elsewhere to where it was.
const TIED: [&str; 4] = ["data_directory", "hba_file", "ident_file", "external_pid_file"];

/// A postgresql.conf from outside the data directory, to be placed inside: ties to its old place are commented out, and includes
/// with absolute paths lead to the captured copies where there are some.
pub(crate) fn rewrite_conf(old: &[u8], captured: impl Fn(&str, &str) -> Option<String>) -> Vec<u8> {
    let mut out = Vec::with_capacity(old.len() + 128);
    for line in old.split_inclusive(|byte| *byte == b'\n') {
        let name = setting_of(line).unwrap_or_default();
        if TIED.contains(&name.as_str()) {
            out.extend_from_slice(b"# seawall: ");
        } else if let Some((kind, path)) = include_of(line)
            && let Some(copy) = captured(kind, &path)
        {
            out.extend_from_slice(
                format!("{kind} {} # seawall: was {}\n", quote_value(&copy), quote_value(&path)).as_bytes(),
            );
            continue;
        }
        out.extend_from_slice(line);
    }
    out
}

/// An include that names something beside the file, or below that: it is found wherever the file goes.
pub(crate) fn stays_beside(include: &str) -> bool {
    let mut parts = include.trim_end_matches('/').split('/');
    parts.all(|part| !matches!(part, "" | "." | ".."))
}

/// The include directive on a line: which, and its path.
pub(crate) fn include_of(line: &[u8]) -> Option<(&'static str, String)> {
    let name = setting_of(line)?;
    let kind = ["include", "include_if_exists", "include_dir"]
        .into_iter()
        .find(|kind| *kind == name)?;
    let text = String::from_utf8_lossy(line.trim_ascii_start()).into_owned();
    let rest = text
        .get(kind.len()..)?
        .trim_start()
        .trim_start_matches('=')
        .trim_start();
    let path = match rest.strip_prefix('\'') {
        Some(quoted) => quoted.split('\'').next()?.to_owned(),
        None => rest.split(|c: char| c.is_whitespace() || c == '#').next()?.to_owned(),
    };
    (!path.is_empty()).then_some((kind, path))
}

#[cfg(test)]
mod tests;
