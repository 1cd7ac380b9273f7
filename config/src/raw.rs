//! What was typed: every known key with its value and origin, nothing interpreted yet.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

use crate::error::Problem;
use crate::keys::{CLUSTER, COMPONENT, COPY, GROUP, Key, Kind, NOTIFY, ROOT, Section, join};
use crate::origin::Origin;
use crate::suggest::nearest;

/// One value as it was typed.
pub(crate) struct Entry {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// The known keys that somebody set.
#[derive(Default)]
pub(crate) struct Raw {
    /// By full key.
    pub(crate) entries: BTreeMap<String, Entry>,
    /// Names of the clusters, in order.
    pub(crate) clusters: Vec<String>,
    /// Names of the copies of the repository, in order.
    pub(crate) copies: Vec<String>,
    /// Names of the places that alarms go to, in order.
    pub(crate) notify: Vec<String>,
    /// Names of the systems beside PostgreSQL, in order.
    pub(crate) components: Vec<String>,
    /// Names of the groups, in order.
    pub(crate) groups: Vec<String>,
}

/// Reads TOML. The message has the line, not its text: that may be a secret.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Table, Problem> {
    text.parse::<Table>().map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let place = before.map_or_else(String::new, |before| {
            format!(", line {}", before.matches('\n').count() + 1)
        });
        Problem::new(format!(
            "syntax error in configuration file \"{}\"{place}: {}",
            path.display(),
            error.message().replace('\n', ", ")
        ))
        .hint("The file is TOML (https://toml.io): texts stand in double quotes.")
    })
}

/// Sorts the file into known keys and problems.
pub(crate) fn walk(table: &Table, problems: &mut Vec<Problem>) -> Raw {
    let mut raw = Raw::default();
    for (name, value) in table {
        match name.as_str() {
            "cluster" => raw.clusters = walk_named(name, &CLUSTER, value, &mut raw, problems),
            "notify" => raw.notify = walk_named(name, &NOTIFY, value, &mut raw, problems),
            "component" => raw.components = walk_named(name, &COMPONENT, value, &mut raw, problems),
            "group" => raw.groups = walk_named(name, &GROUP, value, &mut raw, problems),
            "copy" => raw.copies = walk_named(name, &COPY, value, &mut raw, problems),
            _ => walk_item("", &ROOT, name, value, &mut raw, problems),
        }
    }
    raw
}

/// The tables below one name that the user has chosen; returns these names.
fn walk_named(
    kind: &str,
    section: &'static Section,
    value: &Value,
    raw: &mut Raw,
    problems: &mut Vec<Problem>,
) -> Vec<String> {
    let mut names = Vec::new();
    let Some(all) = value.as_table() else {
        problems.push(not_a_table(kind));
        return names;
    };
    for (name, value) in all {
        if !is_cluster_name(name) {
            problems.push(bad_name(kind, name));
            continue;
        }
        if kind == "copy" && name == "repository" {
            let problem = Problem::new("a copy cannot be called \"repository\"");
            problems.push(problem.hint("That is the name of the first place. Choose another one."));
            continue;
        }
        let path = join(kind, name);
        match value.as_table() {
            Some(table) => {
                names.push(name.clone());
                for (name, value) in table {
                    walk_item(&path, section, name, value, raw, problems);
                }
            }
            None => problems.push(not_a_table(&path)),
        }
    }
    names
}

fn walk_item(
    path: &str,
    section: &'static Section,
    name: &str,
    value: &Value,
    raw: &mut Raw,
    problems: &mut Vec<Problem>,
) {
    let full = join(path, name);
    if let Some(child) = section.child(name) {
        match value.as_table() {
            Some(table) => {
                for (name, value) in table {
                    walk_item(&full, child, name, value, raw, problems);
                }
            }
            None => problems.push(not_a_table(&full).at(&full)),
        }
    } else if let Some(key) = section.key(name) {
        match refused(key, &full) {
            Some(problem) => problems.push(problem),
            None => {
                let entry = Entry {
                    value: value.clone(),
                    origin: Origin::File,
                };
                raw.entries.insert(full, entry);
            }
        }
    } else {
        problems.push(unknown(path, section, name, value).at(&full));
    }
}

/// The problem with a key that we know and do not take.
pub(crate) fn refused(key: &Key, full: &str) -> Option<Problem> {
    match key.kind {
        Kind::Refused(hint) => {
            Some(Problem::new(format!("\"{full}\" is not accepted: a secret has no place here")).hint(hint))
        }
        Kind::Unsupported(hint) => Some(Problem::new(format!("\"{full}\" is not supported")).hint(hint)),
        _ => None,
    }
}

/// Whether this is a good name for a cluster: it becomes part of object names and file names.
pub(crate) fn is_cluster_name(name: &str) -> bool {
    store::component::is_name(name)
}

fn bad_name(kind: &str, name: &str) -> Problem {
    Problem::new(format!("invalid {kind} name \"{}\"", name.escape_debug()))
        .hint("Use up to 63 lowercase letters, digits, \"_\" and \"-\", with a letter or digit first.")
}

fn not_a_table(path: &str) -> Problem {
    Problem::new(format!("\"{path}\" is not a table")).hint(format!("Write its keys below a line [{path}]."))
}

fn unknown(path: &str, section: &'static Section, name: &str, value: &Value) -> Problem {
    let name = name.escape_debug().to_string();
    let full = join(path, &name);
    let problem = if value.is_table() {
        Problem::new(format!("unknown table [{full}]"))
    } else if path.is_empty() {
        Problem::new(format!("unknown key \"{name}\" at the top of the file"))
    } else {
        Problem::new(format!("unknown key \"{name}\" in [{path}]"))
    };
    if let Some(place) = elsewhere(path, &name) {
        return problem.hint(format!("\"{name}\" belongs in [{place}]."));
    }
    let tables = section.children.iter().map(|child| child.name);
    let named: &[&str] = if path.is_empty() {
        &["cluster", "component", "copy", "group", "notify"]
    } else {
        &[]
    };
    let tables = tables.chain(named.iter().copied());
    if value.is_table() {
        return match nearest(&name, tables) {
            Some(near) => problem.hint(format!("did you mean [{}]?", join(path, near))),
            None => problem,
        };
    }
    match nearest(&name, section.key_names()) {
        Some(near) => problem.hint(format!("did you mean \"{near}\"?")),
        None => problem.hint(known(section, path)),
    }
}

/// The table near this one that has a key of exactly this name.
fn elsewhere(path: &str, name: &str) -> Option<String> {
    let cluster = path.strip_prefix("cluster.").and_then(|rest| rest.split('.').next());
    let candidates = match cluster {
        Some(cluster) => CLUSTER.flatten(&join("cluster", cluster)),
        None => ROOT.flatten(""),
    };
    candidates
        .into_iter()
        .find(|(_, key)| key.name == name)
        .map(|(place, _)| place)
}

fn known(section: &'static Section, path: &str) -> String {
    let keys: Vec<&str> = section.key_names().collect();
    if keys.is_empty() {
        let tables: Vec<String> = section
            .children
            .iter()
            .map(|child| format!("[{}]", join(path, child.name)))
            .collect();
        return format!("Keys stand in one of the tables {}.", tables.join(", "));
    }
    format!("Known keys are {}.", keys.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syntax_error_names_its_line_and_repeats_nothing() {
        for line in ["url = \"hunter2", "url = hunter2", "url = \"a\" hunter2", "hunter2"] {
            let text = format!("[repository]\n{line}\n");
            let problem = parse(Path::new("/a.toml"), &text).unwrap_err().to_string();
            assert!(
                problem.contains("syntax error") && problem.contains("line 2"),
                "{problem}"
            );
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }
}
