//! The first page: whom to call, what to try first, what is where. Pure.

use std::fmt::Write as _;

use config::{Channel, Notify, Repository, Schedule};
use store::keys::Role;

use super::known::Known;
use super::page::code;
use super::scenarios;
use crate::open::host_name;
use crate::{output, status};

/// Which page this is.
pub fn head(known: &Known<'_>) -> String {
    let mut text = format!(
        "# Runbooks of the PostgreSQL cluster \"{}\"\n\nPrinted {} by wal-agent {} on host {} from {}. Print it again after each change of it, and keep it where the loss of this host does not take it along.\n\n",
        known.context.cluster.name,
        output::time_us(output::now_us()),
        env!("CARGO_PKG_VERSION"),
        code(&host_name()),
        code(&known.context.path.display().to_string()),
    );
    if !known.missing.is_empty() {
        text.push_str("**Could not be looked up when this was printed:**\n\n");
        for missing in &known.missing {
            let _ = writeln!(text, "- {missing}");
        }
        text.push('\n');
    }
    text
}

/// What all scenarios have in common.
pub fn first(known: &Known<'_>) -> String {
    let mut text = format!(
        "## First\n\nOn the database host, as the user `postgres`:\n\n```sh\n{}\n```\n\nIt says what would be lost now, what can be restored, and what is wrong. Is the host gone? Then on any machine with the configuration and the restore key:\n\n```sh\n{}\n```\n\nAlways look before you act: `--dry-run` changes nothing. Any command may be run again. Exit codes: 2 command line or configuration, 3 refused and nothing changed, 4 the repository is damaged, 5 a key, 6 something cannot be reached, 7 another agent has taken over.\n\n",
        known.programs.agent("status"),
        known.programs.restore("list"),
    );
    text.push_str("### Contacts\n\n| who | name and telephone |\n|---|---|\n");
    for who in [
        "decides that production is given up and restored",
        "database, on call",
        "object store and its account",
        "network and DNS",
        "holds a restore key (1)",
        "holds a restore key (2)",
        "tells users and customers, every 30 minutes",
    ] {
        let _ = writeln!(text, "| {who} | ________________ |");
    }
    text.push_str("\n### What is where\n\n| what | where |\n|---|---|\n");
    for (what, place) in places(known) {
        let _ = writeln!(text, "| {what} | {} |", place.replace('|', "\\|").replace('\n', " "));
    }
    text.push_str("\n### Scenarios\n\n| name | |\n|---|---|\n");
    for scenario in scenarios::all(known) {
        let _ = writeln!(text, "| {} | {} |", code(scenario.name), scenario.title);
    }
    text.push('\n');
    text
}

fn places(known: &Known<'_>) -> Vec<(String, String)> {
    let config = &known.context.config;
    let cluster = &known.context.cluster;
    let (host, port) = known.address();
    let unknown = || "not looked up".to_owned();
    let path = |path: &std::path::Path| code(&path.display().to_string());
    let mut rows = vec![
        (
            "PostgreSQL".to_owned(),
            known.major.map_or_else(unknown, |major| format!("version {major}")),
        ),
        (
            "server".to_owned(),
            format!(
                "host {}, port {}{}",
                code(&host),
                code(&port),
                if known.has_other_servers() {
                    " (the first of several)"
                } else {
                    ""
                }
            ),
        ),
        (
            "data directory".to_owned(),
            known.data_directory.as_deref().map_or_else(unknown, path),
        ),
        (
            "tablespaces".to_owned(),
            match &known.tablespaces {
                None => unknown(),
                Some(all) if all.is_empty() => "none".to_owned(),
                Some(all) => all
                    .iter()
                    .map(|(oid, place)| format!("{oid} in {}", code(place)))
                    .collect::<Vec<_>>()
                    .join(", "),
            },
        ),
        ("agent's unit".to_owned(), code(&known.unit)),
        ("agent's slot".to_owned(), code(&cluster.wal.slot)),
        ("repository".to_owned(), repository(&config.repository)),
    ];
    for (name, copy) in &config.copies {
        rows.push((format!("copy {}", code(name)), repository(copy)));
    }
    if config.copies.is_empty() {
        rows.push((
            "copies".to_owned(),
            "**none**: what happens to the repository happens to all backups".to_owned(),
        ));
    }
    rows.extend([
        ("host key".to_owned(), path(&config.keys.host_key)),
        (
            "its signing key".to_owned(),
            known.signing_id.as_deref().map_or_else(unknown, code),
        ),
        ("maintenance key".to_owned(), key(known, Role::Maintenance)),
        ("restore key".to_owned(), key(known, Role::Restore)),
        (
            "where its copies lie".to_owned(),
            "________________ and ________________".to_owned(),
        ),
        ("alarms go to".to_owned(), told(known)),
        ("promised".to_owned(), objectives(known)),
        ("on schedule".to_owned(), schedule(known)),
        (
            "newest backup".to_owned(),
            known.view.newest.as_ref().map_or_else(unknown, |newest| {
                format!(
                    "{} of {}, {} of files",
                    code(&newest.backup.to_string()),
                    output::time_us(newest.finished_us),
                    output::bytes(newest.totals.logical_bytes)
                )
            }),
        ),
        (
            "a restore was proven last".to_owned(),
            known
                .view
                .proven_us
                .map_or_else(|| "never, or not looked up".to_owned(), output::time_us),
        ),
        ("time to restore now".to_owned(), status::expected(&known.view)),
    ]);
    rows
}

fn repository(place: &Repository) -> String {
    let mut text = code(&place.url.to_string());
    if let Some(endpoint) = &place.s3.endpoint {
        let _ = write!(text, " at {}", code(endpoint));
    }
    if matches!(place.url, config::RepositoryUrl::S3 { .. }) {
        let _ = write!(text, ", region {}", code(&place.s3.region));
        match &place.s3.object_lock {
            Some(lock) => {
                let _ = write!(text, ", locked for {}", config::print_duration(lock.keep));
            }
            None => text.push_str(", no object lock"),
        }
    }
    text
}

/// Of a command that prints a key only that there is one: its arguments may hold a secret.
fn key(known: &Known<'_>, role: Role) -> String {
    let keys = &known.context.config.keys;
    let origin = code(&keys.origin(role).display().to_string());
    match (keys.command(role).is_empty(), keys.has(role)) {
        (false, _) => format!("printed by {origin} of the configuration"),
        (true, true) => format!("{origin}, **and it is there now, on this host**"),
        (true, false) => format!("{origin}, and it is not there now"),
    }
}

/// Names and kinds: a URL may be the secret.
fn told(known: &Known<'_>) -> String {
    let all = &known.context.config.notify;
    if all.is_empty() {
        return "**nobody**: no `[notify.NAME]` is configured".to_owned();
    }
    let place = |(name, notify): (&String, &Notify)| {
        let kind = match &notify.channel {
            Channel::Webhook { .. } => "webhook".to_owned(),
            Channel::Slack { .. } => "Slack".to_owned(),
            Channel::PagerDuty { .. } => "PagerDuty".to_owned(),
            Channel::Email(email) => format!("e-mail to {}", email.to.join(", ")),
            Channel::Command { argv } => format!("program {}", code(argv.first().map_or("", String::as_str))),
            Channel::Ping { .. } => "ping".to_owned(),
        };
        let pages = if notify.pages_only { ", pages only" } else { "" };
        format!("{} ({kind}{pages})", code(name))
    };
    all.iter().map(place).collect::<Vec<_>>().join(", ")
}

fn objectives(known: &Known<'_>) -> String {
    let objectives = &known.context.cluster.objectives;
    let or_none = |time: Option<std::time::Duration>| time.map_or_else(|| "none".to_owned(), config::print_duration);
    format!(
        "RPO {}; RTO {}; age of the newest backup {}; age of the last drill {}",
        config::print_duration(objectives.rpo),
        or_none(objectives.rto),
        config::print_duration(objectives.backup_age),
        or_none(objectives.drill_age)
    )
}

fn schedule(known: &Known<'_>) -> String {
    let schedule = &known.context.cluster.schedule;
    let when = |name: &str, schedule: &Option<Schedule>| match schedule {
        Some(schedule) => format!("{name} {}", code(&schedule.to_string())),
        None => format!("{name} not by the agent"),
    };
    [
        when("backup", &schedule.backup),
        when("verify", &schedule.verify),
        when("prune", &schedule.prune),
        when("drill", &schedule.drill),
    ]
    .join(", ")
}
