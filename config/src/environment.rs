//! Every key from the environment: its path in upper case, joined with underscores.
//!
//! `cluster.main.wal.ship_interval` is `SEAWALL_CLUSTER_MAIN_WAL_SHIP_INTERVAL`. A "-" in the name
//! of a cluster becomes "_". A cluster that the file does not have comes into being, with its name
//! in lower case. An empty value counts as not set.

use std::collections::BTreeMap;
use std::ffi::OsString;

use toml::{Table, Value};

use crate::error::Problem;
use crate::keys::{CLUSTER, Key, Kind, ROOT, join};
use crate::origin::Origin;
use crate::raw::{Entry, Raw, is_cluster_name, refused};
use crate::secret::SecretText;
use crate::suggest::nearest;

/// Beginnings of variables that can only be meant as keys. Other `SEAWALL_` names are not ours.
const OURS: [&str; 4] = [
    "SEAWALL_REPOSITORY_",
    "SEAWALL_KEYS_",
    "SEAWALL_CLUSTER_",
    "SEAWALL_LOG_",
];

/// The variables that concern us, in order of their names.
#[derive(Default)]
pub(crate) struct Environment {
    keys: BTreeMap<String, String>,
    aws: BTreeMap<String, SecretText>,
}

impl Environment {
    pub(crate) fn collect<K, V>(env: impl IntoIterator<Item = (K, V)>, problems: &mut Vec<Problem>) -> Self
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let mut own = Self::default();
        for (name, value) in env {
            let Ok(name) = name.into().into_string() else {
                continue;
            };
            let aws = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"].contains(&name.as_str());
            if !aws && !OURS.iter().any(|prefix| name.starts_with(prefix)) {
                continue;
            }
            match value.into().into_string() {
                Ok(value) if value.is_empty() => {}
                Ok(value) if aws => {
                    own.aws.insert(name, SecretText::new(value));
                }
                Ok(value) => {
                    own.keys.insert(name, value);
                }
                Err(_) => problems.push(Problem::new(format!("environment variable {name} is not valid UTF-8"))),
            }
        }
        own
    }

    /// One of the variables with credentials of S3.
    pub(crate) fn aws(&self, name: &str) -> Option<SecretText> {
        self.aws.get(name).cloned()
    }
}

/// Puts the variables over what the file says.
pub(crate) fn apply(env: &Environment, raw: &mut Raw, problems: &mut Vec<Problem>) {
    for (name, text) in &env.keys {
        let found = match find(name, raw) {
            Ok(found) => found,
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        if let Some(problem) = refused(found.key, name) {
            problems.push(problem);
            continue;
        }
        if let Some(cluster) = found.cluster
            && !raw.clusters.contains(&cluster)
        {
            raw.clusters.push(cluster);
            raw.clusters.sort();
        }
        let entry = Entry {
            value: value(&found.key.kind, text),
            origin: Origin::Environment(name.clone()),
        };
        raw.entries.insert(found.full, entry);
    }
}

struct Found {
    full: String,
    key: &'static Key,
    cluster: Option<String>,
}

fn find(name: &str, raw: &Raw) -> Result<Found, Problem> {
    let once = ROOT.flatten("");
    if let Some((path, key)) = once.iter().find(|(path, key)| variable(path, key) == name) {
        return Ok(Found {
            full: join(path, key.name),
            key,
            cluster: None,
        });
    }
    let in_cluster = CLUSTER.flatten("");
    let own = name.strip_prefix("SEAWALL_CLUSTER_").and_then(|rest| {
        in_cluster.iter().find_map(|(path, key)| {
            let cluster = rest.strip_suffix(&upper(&format!(".{path}.{}", key.name)))?;
            Some((cluster, path, *key)).filter(|_| !cluster.is_empty())
        })
    });
    if let Some((cluster, path, key)) = own {
        let cluster = cluster_name(name, cluster, raw)?;
        return Ok(Found {
            full: format!("cluster.{cluster}.{path}.{}", key.name),
            key,
            cluster: Some(cluster),
        });
    }
    let mut candidates: Vec<String> = once.iter().map(|(path, key)| variable(path, key)).collect();
    for cluster in &raw.clusters {
        let path = join("cluster", cluster);
        candidates.extend(in_cluster.iter().map(|(table, key)| variable(&join(&path, table), key)));
    }
    let problem = Problem::new(format!("environment variable {name} names no key"));
    Err(match nearest(name, candidates.iter().map(String::as_str)) {
        Some(near) => problem.hint(format!("did you mean {near}?")),
        None => problem.hint("A key is named like SEAWALL_CLUSTER_MAIN_WAL_SLOT for \"slot\" in [cluster.main.wal]."),
    })
}

/// The cluster that the upper-case `part` of a variable means.
fn cluster_name(variable: &str, part: &str, raw: &Raw) -> Result<String, Problem> {
    let same: Vec<&String> = raw.clusters.iter().filter(|name| upper(name) == part).collect();
    match same.as_slice() {
        [] => {
            let name = part.to_lowercase();
            if upper(&name) == part && is_cluster_name(&name) {
                return Ok(name);
            }
            Err(Problem::new(format!(
                "environment variable {variable} names no possible cluster"
            )))
        }
        [one] => Ok((*one).clone()),
        [one, other, ..] => Err(Problem::new(format!(
            "environment variable {variable} could mean cluster \"{one}\" or \"{other}\""
        ))
        .hint("Set this key in the file, or rename one of the clusters.")),
    }
}

fn variable(path: &str, key: &Key) -> String {
    upper(&format!("seawall.{path}.{}", key.name))
}

fn upper(path: &str) -> String {
    path.replace(['.', '-'], "_").to_uppercase()
}

/// The text as the TOML value that the key wants. A text that does not fit stays a text, which
/// the check refuses in its own words.
fn value(kind: &Kind, text: &str) -> Value {
    let typed = match kind {
        Kind::Flag => text.parse().ok().map(Value::Boolean),
        Kind::Count { .. } => text.parse().ok().map(Value::Integer),
        Kind::List => format!("list = {text}")
            .parse::<Table>()
            .ok()
            .and_then(|mut table| table.remove("list")),
        _ => None,
    };
    typed.unwrap_or_else(|| Value::String(text.to_owned()))
}
