//! From what was typed to what it means.

use std::collections::BTreeMap;

use pg::conninfo::{ConninfoError, parse_servers};

use crate::Secrets;
use crate::checked::{
    Backup, BackupSource, Brake, Checkpoint, Cluster, Config, Drill, Keys, Log, LogFormat, LogLevel, Objectives,
    OnUnknownHistory, Postgres, Restore, Retained, Retention, Schedules, Status, Wal,
};
use crate::component;
use crate::environment::Environment;
use crate::error::{ConfigErrors, Problem};
use crate::group;
use crate::keys::{CLUSTER, ROOT, Section, join};
use crate::notify;
use crate::raw::Raw;
use crate::reader::{Outcome, Reader};
use crate::repository;
use crate::schedule::Schedule;

/// Tables of a cluster that a restore does not read: `--prove` reads the assertions of `drill`.
const OF_THE_AGENT: [&str; 6] = ["wal", "backup", "retention", "objectives", "schedule", "http"];
/// PostgreSQL's names have 63 bytes; a second slot is named like the first with `_overlap`.
const SLOT_BYTES_MAX: usize = 63 - "_overlap".len();

/// The configuration, or all problems with it: `problems` are those known so far.
pub(crate) fn check(
    raw: &Raw,
    env: &Environment,
    secrets: Secrets,
    problems: Vec<Problem>,
) -> Result<Config, ConfigErrors> {
    let mut out = Outcome {
        problems,
        effective: Vec::new(),
    };
    let repository = repository::check(raw, env, &mut out);
    let confirm = repository::check_confirm(raw, &mut out);
    let copies = repository::check_copies(raw, env, repository.as_ref(), &mut out);
    let keys = keys(&mut table(raw, "", &ROOT, "keys", &mut out));
    let mut clusters = BTreeMap::new();
    for name in &raw.clusters {
        clusters.insert(name.clone(), cluster(raw, name, secrets, &mut out));
    }
    let notify = notify::check(raw, secrets, &mut out);
    let components = component::check(raw, secrets, &mut out);
    let groups = group::check(raw, &components, &mut out);
    let log = log(&mut table(raw, "", &ROOT, "log", &mut out));
    let mut passed_over = Vec::new();
    if secrets == Secrets::Leave {
        (passed_over, out.problems) = out.problems.into_iter().partition(is_for_the_agent);
    }
    match repository {
        Some(repository) if out.problems.is_empty() => Ok(Config {
            repository,
            copies,
            confirm,
            keys,
            clusters,
            notify,
            components,
            groups,
            log,
            passed_over,
            origins: out.effective,
        }),
        _ => Err(ConfigErrors(out.problems)),
    }
}

/// True for what says something of the agent's work alone.
fn is_for_the_agent(problem: &Problem) -> bool {
    let mut path = problem.place.iter().flat_map(|place| place.split('.'));
    match path.next() {
        Some("notify" | "component" | "group") => true,
        Some("cluster") => path.nth(1).is_some_and(|table| OF_THE_AGENT.contains(&table)),
        _ => false,
    }
}

fn table<'a>(raw: &'a Raw, above: &str, parent: &'static Section, name: &str, out: &'a mut Outcome) -> Reader<'a> {
    Reader::new(raw, above, parent.child(name).unwrap_or(parent), out)
}

fn keys(reader: &mut Reader<'_>) -> Keys {
    let directory = reader.path("directory").unwrap_or_default();
    let mut key = |name: &str, file: &str| {
        reader.path(name).unwrap_or_else(|| {
            let path = directory.join(file);
            if !reader.is_set(name) {
                reader.derived(name, path.display().to_string());
            }
            path
        })
    };
    Keys {
        host_key: key("host_key", "host.key"),
        restore_key: key("restore_key", "restore.key"),
        maintenance_key: key("maintenance_key", "maintenance.key"),
        restore_key_command: reader.list("restore_key_command"),
        maintenance_key_command: reader.list("maintenance_key_command"),
        directory,
    }
}

fn cluster(raw: &Raw, name: &str, secrets: Secrets, out: &mut Outcome) -> Cluster {
    let above = join("cluster", name);
    Cluster {
        name: name.to_owned(),
        postgres: postgres(&mut table(raw, &above, &CLUSTER, "postgres", out), secrets),
        wal: wal(&mut table(raw, &above, &CLUSTER, "wal", out)),
        backup: backup(&mut table(raw, &above, &CLUSTER, "backup", out)),
        retention: retention(&mut table(raw, &above, &CLUSTER, "retention", out)),
        restore: restore(&mut table(raw, &above, &CLUSTER, "restore", out)),
        drill: drill(&mut table(raw, &above, &CLUSTER, "drill", out)),
        objectives: objectives(&mut table(raw, &above, &CLUSTER, "objectives", out)),
        schedule: schedule(&mut table(raw, &above, &CLUSTER, "schedule", out)),
        listen: table(raw, &above, &CLUSTER, "http", out)
            .text("listen")
            .and_then(|listen| listen.parse().ok()),
        status: Status {
            state_directory: table(raw, &above, &CLUSTER, "status", out)
                .path("state_directory")
                .unwrap_or_default(),
        },
    }
}

fn postgres(reader: &mut Reader<'_>, secrets: Secrets) -> Postgres {
    let mut options = BTreeMap::new();
    let texts = [
        "host",
        "port",
        "target_session_attrs",
        "user",
        "dbname",
        "sslmode",
        "sslrootcert",
        "channel_binding",
    ];
    for name in texts {
        if let Some(text) = reader.text(name) {
            options.insert(name.to_owned(), text);
        }
    }
    for name in ["sslcert", "sslkey"] {
        if let Some(path) = reader.path(name) {
            options.insert(name.to_owned(), path.display().to_string());
        }
    }
    if let Some(seconds) = reader.count("connect_timeout") {
        options.insert("connect_timeout".to_owned(), seconds.to_string());
    }
    if let (Some(host), Some(port)) = (options.get("host"), options.get("port"))
        && let Err(error) = parse_servers(Some(host), Some(port))
    {
        let name = if matches!(error, ConninfoError::PortCount { .. }) {
            "port"
        } else {
            "host"
        };
        reader.complain(name, &format!("does not fit: {error}"), error.hint());
    }
    let password = match secrets {
        Secrets::Read => reader.secret("password_file"),
        Secrets::Leave => {
            reader.path("password_file");
            None
        }
    };
    Postgres {
        options,
        password,
        passfile: reader.path("passfile"),
        bin_directory: reader.path("bin_directory"),
        data_directory: reader.path("data_directory"),
    }
}

fn wal(reader: &mut Reader<'_>) -> Wal {
    let slot = reader.text("slot").unwrap_or_default();
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if slot.len() > SLOT_BYTES_MAX || !slot.bytes().all(good) {
        let hint = format!("Use up to {SLOT_BYTES_MAX} lowercase letters, digits and \"_\".");
        reader.complain("slot", "is not the name of a replication slot", hint);
    }
    let tail_bytes_max = reader.size("tail_bytes_max");
    let memory_max = reader.size("memory_max");
    // One tail fills while another is on its way: with less, neither could ever end.
    if memory_max.bytes() < tail_bytes_max.bytes().saturating_mul(2) && memory_max.bytes() > 0 {
        let hint = "Use at least twice \"tail_bytes_max\".";
        reader.complain("memory_max", "has no room for two tails", hint);
    }
    let degrade_after = reader.duration("degrade_after");
    let retained = retained(reader);
    Wal {
        slot,
        ship_interval: reader.duration("ship_interval"),
        tail_bytes_max,
        uploads_in_flight: reader.count("uploads_in_flight").unwrap_or_default(),
        memory_max,
        shutdown_timeout: reader.duration("shutdown_timeout"),
        on_unknown_history: match reader.text("on_unknown_history").as_deref() {
            Some("stop") => OnUnknownHistory::Stop,
            _ => OnUnknownHistory::NewLineage,
        },
        degrade_after: (reader.text("on_store_outage").as_deref() == Some("degrade")).then_some(degrade_after),
        retained,
    }
}

/// Each threshold must be below the next: one that is never reached protects nothing.
fn retained(reader: &mut Reader<'_>) -> Retained {
    let retained = Retained {
        warn: reader.size("retained_warn"),
        page: reader.size("retained_page"),
        drop: reader.is_set("retained_drop").then(|| reader.size("retained_drop")),
    };
    if retained.warn.bytes() > retained.page.bytes() {
        reader.complain("retained_warn", "is above \"retained_page\"", "Warn before you page.");
    }
    if retained.drop.is_some_and(|drop| drop.bytes() < retained.page.bytes()) {
        let hint = "Page somebody before the slot is dropped.";
        reader.complain("retained_drop", "is below \"retained_page\"", hint);
    }
    retained
}

fn backup(reader: &mut Reader<'_>) -> Backup {
    Backup {
        jobs: reader.count("jobs"),
        uploads_in_flight: reader.count("uploads_in_flight").unwrap_or_default(),
        rate_max: reader.is_set("rate_max").then(|| reader.size("rate_max")),
        source: match reader.text("source").as_deref() {
            Some("replication") => BackupSource::Replication,
            _ => BackupSource::Local,
        },
        stream_compression: reader.text("stream_compression").as_deref() == Some("zstd"),
        nice: reader
            .count("nice")
            .and_then(|nice| i32::try_from(nice).ok())
            .unwrap_or_default(),
        brake: match reader.text("brake").as_deref() {
            Some("off") => Brake::Off,
            Some("gentle") => Brake::Gentle,
            _ => Brake::Auto,
        },
        progress_interval: reader.duration("progress_interval"),
        duration_max: reader.duration("duration_max"),
        checkpoint: match reader.text("checkpoint").as_deref() {
            Some("spread") => Checkpoint::Spread,
            _ => Checkpoint::Fast,
        },
        after_loss: reader.text("after_loss").as_deref() != Some("manual"),
        last_known_good: reader.list("last_known_good"),
    }
}

fn retention(reader: &mut Reader<'_>) -> Retention {
    let count = |reader: &mut Reader<'_>, name| reader.count(name).and_then(|count| u32::try_from(count).ok());
    let age = |reader: &mut Reader<'_>, name| reader.is_set(name).then(|| reader.duration(name));
    Retention {
        window: age(reader, "window"),
        keep_within: age(reader, "keep_within"),
        keep_last: count(reader, "keep_last"),
        keep_daily: count(reader, "keep_daily"),
        keep_weekly: count(reader, "keep_weekly"),
        keep_monthly: count(reader, "keep_monthly"),
        keep_yearly: count(reader, "keep_yearly"),
        grace: reader.duration("grace"),
    }
}

fn restore(reader: &mut Reader<'_>) -> Restore {
    Restore {
        jobs: reader.count("jobs"),
        prefetch_segments: reader.count("prefetch_segments").unwrap_or_default(),
        command_path: reader.path("command_path"),
    }
}

fn drill(reader: &mut Reader<'_>) -> Drill {
    Drill {
        directory: reader.path("directory"),
        is_random: reader.text("target").as_deref() == Some("random"),
        assertions: reader.list("assertions"),
        nice: reader
            .count("nice")
            .and_then(|nice| i32::try_from(nice).ok())
            .unwrap_or_default(),
        timeout: reader.duration("timeout"),
    }
}

fn objectives(reader: &mut Reader<'_>) -> Objectives {
    Objectives {
        rpo: reader.duration("rpo"),
        rto: reader.is_set("rto").then(|| reader.duration("rto")),
        backup_age: reader.duration("backup_age"),
        verify_age: reader.duration("verify_age"),
        drill_age: reader.is_set("drill_age").then(|| reader.duration("drill_age")),
        disk_warn: reader.count("disk_warn").unwrap_or_default() as f64,
        disk_page: reader.count("disk_page").unwrap_or_default() as f64,
        look_interval: reader.duration("look_interval"),
    }
}

fn schedule(reader: &mut Reader<'_>) -> Schedules {
    let mut of = |name| reader.text(name).and_then(|text| Schedule::parse(&text).ok());
    Schedules {
        backup: of("backup"),
        verify: of("verify"),
        prune: of("prune"),
        drill: of("drill"),
        verify_share: reader.count("verify_share").unwrap_or_default() as u64,
    }
}

fn log(reader: &mut Reader<'_>) -> Log {
    Log {
        level: match reader.text("level").as_deref() {
            Some("error") => LogLevel::Error,
            Some("warn") => LogLevel::Warn,
            Some("debug") => LogLevel::Debug,
            Some("trace") => LogLevel::Trace,
            _ => LogLevel::Info,
        },
        format: match reader.text("format").as_deref() {
            Some("json") => LogFormat::Json,
            _ => LogFormat::Text,
        },
    }
}
