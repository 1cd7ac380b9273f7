//! `[component.<name>]`: a system beside PostgreSQL.

mod dump;
mod files;
mod git;
mod redis;
mod settings;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Secrets;
use crate::checked::Retention;
use crate::keys::{COMPONENT, join};
use crate::raw::Raw;
use crate::reader::{Outcome, Reader};
use crate::schedule::Schedule;
pub use dump::DumpSource;
pub use files::FilesSource;
pub use git::GitSource;
pub use redis::{RedisAddress, RedisServers, RedisSource, RedisTls};
pub use settings::ConfigSource;

/// A system beside PostgreSQL.
#[derive(Debug, Clone)]
pub struct Component {
    /// Up to 63 of `a-z 0-9 _ -`; it is in every backup, so it never changes.
    pub name: String,
    /// `cluster`: in whose part of the repository it is, and under whose keys. The only one there is, when not set.
    pub cluster: String,
    /// What it is.
    pub kind: ComponentKind,
    /// `schedule`; when it is captured. `None`: by hand.
    pub schedule: Option<Schedule>,
    /// `backup_age`: older, and there is an alarm. `None`: nobody asks.
    pub backup_age: Option<Duration>,
    /// `duration_max`; 24 h.
    pub duration_max: Duration,
    /// `keep_*`. Nothing set: all are kept. There is no WAL, so there is no window.
    pub retention: Retention,
    /// `before`: a program and its arguments, run first: it makes a snapshot, or makes something quiet. Where it fails, nothing is captured.
    pub before: Vec<String>,
    /// `after`: run when the capture has ended, however it ended.
    pub after: Vec<String>,
}

/// What a component is.
#[derive(Debug, Clone)]
pub enum ComponentKind {
    /// Directories.
    Files(FilesSource),
    /// A Redis or Valkey server, or several behind sentinels.
    Redis(Box<RedisSource>),
    /// Databases of a PostgreSQL server, dumped.
    Dump(Box<DumpSource>),
    /// Git repositories.
    Git(GitSource),
    /// Configuration files.
    Config(ConfigSource),
}

/// Keys that every kind has.
const COMMON: [&str; 13] = [
    "kind",
    "cluster",
    "schedule",
    "backup_age",
    "duration_max",
    "keep_within",
    "keep_last",
    "keep_daily",
    "keep_weekly",
    "keep_monthly",
    "keep_yearly",
    "before",
    "after",
];

/// Reads all of `[component.<name>]`.
pub(crate) fn check(raw: &Raw, secrets: Secrets, out: &mut Outcome) -> BTreeMap<String, Component> {
    let mut all = BTreeMap::new();
    for name in &raw.components {
        let mut reader = Reader::at(raw, &join("component", name), &COMPONENT, out);
        let component = component(&mut reader, raw, name, secrets);
        all.extend(component.map(|component| (name.clone(), component)));
    }
    all
}

fn component(reader: &mut Reader<'_>, raw: &Raw, name: &str, secrets: Secrets) -> Option<Component> {
    let kind = kind(reader, secrets);
    let cluster = cluster(reader, raw);
    let retention = retention(reader);
    let schedule = reader.text("schedule").and_then(|text| Schedule::parse(&text).ok());
    let backup_age = reader.is_set("backup_age").then(|| reader.duration("backup_age"));
    let duration_max = reader.duration("duration_max");
    let (before, after) = (program(reader, "before"), program(reader, "after"));
    Some(Component {
        name: name.to_owned(),
        cluster: cluster?,
        kind: kind?,
        schedule,
        backup_age,
        duration_max,
        retention,
        before,
        after,
    })
}

fn kind(reader: &mut Reader<'_>, secrets: Secrets) -> Option<ComponentKind> {
    let Some(kind) = reader.text("kind") else {
        if !reader.is_set("kind") {
            reader.complain(
                "kind",
                "is not set",
                "Write config, files, git, postgres-dump or redis.",
            );
        }
        return None;
    };
    match kind.as_str() {
        "files" => {
            only(reader, &kind, &files::KEYS);
            Some(ComponentKind::Files(files::read(reader)))
        }
        "git" => {
            only(reader, &kind, &git::KEYS);
            Some(ComponentKind::Git(git::read(reader)))
        }
        "config" => {
            only(reader, &kind, &settings::KEYS);
            Some(ComponentKind::Config(settings::read(reader)))
        }
        "redis" => {
            only(reader, &kind, &redis::KEYS);
            redis::read(reader, secrets).map(|source| ComponentKind::Redis(Box::new(source)))
        }
        "postgres-dump" => {
            only(reader, &kind, &dump::KEYS);
            Some(ComponentKind::Dump(Box::new(dump::read(reader, secrets))))
        }
        _ => None,
    }
}

/// A key of another kind would be believed to do something.
fn only(reader: &mut Reader<'_>, kind: &str, keys: &[&str]) {
    let others: Vec<&str> = COMPONENT
        .keys
        .iter()
        .map(|key| key.name)
        .filter(|name| !COMMON.contains(name) && !keys.contains(name) && reader.is_set(name))
        .collect();
    for name in others {
        let hint = format!("A component of kind \"{kind}\" has: {}.", keys.join(", "));
        reader.complain(name, "belongs to a component of another kind", hint);
    }
}

/// In whose part of the repository it is.
pub(crate) fn cluster(reader: &mut Reader<'_>, raw: &Raw) -> Option<String> {
    let all = raw.clusters.join(", ");
    match (reader.text("cluster"), raw.clusters.as_slice()) {
        (Some(name), clusters) if clusters.contains(&name) => Some(name),
        (Some(name), _) => {
            let what = format!(
                "names cluster \"{}\", which is not in the configuration",
                name.escape_debug()
            );
            reader.complain("cluster", &what, format!("The configuration has: {all}."));
            None
        }
        (None, [only]) => Some(only.clone()),
        (None, _) => {
            let hint = format!("Say in whose part of the repository it is: {all}.");
            reader.complain("cluster", "is not set, and there are several", hint);
            None
        }
    }
}

fn retention(reader: &mut Reader<'_>) -> Retention {
    let count = |reader: &mut Reader<'_>, name| reader.count(name).and_then(|count| u32::try_from(count).ok());
    Retention {
        window: None,
        keep_within: reader.is_set("keep_within").then(|| reader.duration("keep_within")),
        keep_last: count(reader, "keep_last"),
        keep_daily: count(reader, "keep_daily"),
        keep_weekly: count(reader, "keep_weekly"),
        keep_monthly: count(reader, "keep_monthly"),
        keep_yearly: count(reader, "keep_yearly"),
        // One for the whole repository: it is the cluster's.
        grace: Duration::ZERO,
    }
}

fn program(reader: &mut Reader<'_>, name: &str) -> Vec<String> {
    let argv = reader.list(name);
    if argv.first().is_some_and(|program| !program.starts_with('/')) {
        let hint = "Write the program from \"/\" on and its arguments: [\"/usr/local/bin/snapshot\", \"make\"].";
        reader.complain(name, "names no program", hint);
    }
    argv
}
