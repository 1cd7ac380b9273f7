//! The reference of every key, out of the table of keys and the comments of the example: what is printed cannot differ from what is read.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::keys::{CLUSTER, COMPONENT, COPY, GROUP, Key, Kind, NOTIFY, ROOT, Section, join};
use crate::template;

const HEAD: &str = "# Configuration\n\n\
    Every key of `seawall.toml`, with what it may be and what it is when nobody sets it. This page is printed by `wal-agent config-reference`.\n\n\
    Each key can come from a variable of the environment, which wins: `slot` of `[cluster.main.wal]` is `SEAWALL_CLUSTER_MAIN_WAL_SLOT` \
    (not those of `[copy.NAME]`, `[component.NAME]`, `[group.NAME]` and `[notify.NAME]`). What is in force, and where it comes from: `wal-agent check --show-config`.\n";

/// Tables whose names have a part that the user chooses, as the example names them.
const NAMED: [(&str, &str, &Section); 5] = [
    ("copy.NAME", "copy.offsite", &COPY),
    ("cluster.NAME", "cluster.main", &CLUSTER),
    ("component.NAME", "component.uploads", &COMPONENT),
    ("group.NAME", "group.app", &GROUP),
    ("notify.NAME", "notify.oncall", &NOTIFY),
];

/// The reference, as Markdown.
#[must_use]
pub fn reference() -> String {
    let comments = comments(template::template());
    let mut out = HEAD.to_owned();
    let named = NAMED
        .iter()
        .map(|(shown, example, section)| (*shown, *example, *section));
    for (shown, example, section) in std::iter::once(("", "", &ROOT)).chain(named) {
        let mut last = None;
        for (path, key) in section
            .flatten(shown)
            .into_iter()
            .filter(|(_, key)| key.kind.is_usable())
        {
            if last.as_ref() != Some(&path) {
                let _ = write!(
                    out,
                    "\n## `[{path}]`\n\n| key | may be | default | |\n|---|---|---|---|\n"
                );
            }
            let in_example = format!("{example}{}.{}", &path[shown.len()..], key.name);
            let comment = comments.get(in_example.trim_start_matches('.'));
            row(&mut out, key, comment.map_or("", String::as_str));
            last = Some(path);
        }
    }
    out
}

fn row(out: &mut String, key: &Key, comment: &str) {
    let default = key.default.map_or_else(String::new, |default| format!("`{default}`"));
    let (name, kind) = (key.name, may_be(&key.kind));
    let comment = comment.replace('|', "\\|");
    let _ = writeln!(out, "| `{name}` | {kind} | {default} | {comment} |");
}

/// What a value may be, in words.
fn may_be(kind: &Kind) -> String {
    match kind {
        Kind::Text => "text".into(),
        Kind::Path => "absolute path".into(),
        Kind::SecretFile => "absolute path of a file with the secret".into(),
        Kind::Flag => "`true`, `false`".into(),
        Kind::Count { min, max } => format!("{min} to {max}"),
        Kind::Duration { min, max } => format!("{} to {}", duration(*min), duration(*max)),
        Kind::Size { min, max } => format!("{min} to {max}"),
        Kind::Choice(all) => all.iter().map(|one| format!("`{one}`")).collect::<Vec<_>>().join(", "),
        Kind::List => "list of texts".into(),
        Kind::Schedule => "cron expression or interval".into(),
        Kind::Listen => "address and port, or `off`".into(),
        Kind::Ports => "port, or ports".into(),
        Kind::Refused(_) | Kind::Unsupported(_) => String::new(),
    }
}

fn duration(value: Duration) -> String {
    let milliseconds = value.as_millis();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if milliseconds >= size && milliseconds.is_multiple_of(size) {
            return format!("{}{unit}", milliseconds / size);
        }
    }
    match milliseconds {
        0 => "0s".into(),
        milliseconds => format!("{milliseconds}ms"),
    }
}

/// The comment above each key of the example, by its full name there.
fn comments(example: &str) -> BTreeMap<String, String> {
    let (mut table, mut comment) = (String::new(), String::new());
    let mut found = BTreeMap::new();
    for line in example.lines() {
        if let Some(text) = line.strip_prefix("# ") {
            comment = format!("{comment} {text}").trim().to_owned();
            continue;
        }
        let line = line.trim_start_matches('#');
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut table);
        } else if let Some((name, _)) = line.split_once(" = ") {
            // The first of several examples has what there is to say.
            found.entry(join(&table, name)).or_insert_with(|| comment.clone());
        }
        comment.clear();
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_page_is_what_is_printed() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/CONFIGURATION.md");
        let page = std::fs::read_to_string(page).unwrap_or_default();
        assert!(
            page == reference(),
            "docs/CONFIGURATION.md is old: wal-agent config-reference > docs/CONFIGURATION.md"
        );
    }

    #[test]
    fn every_key_is_there() {
        let text = reference();
        for (table, key) in [
            ("[cluster.NAME.wal]", "ship_interval"),
            ("[copy.NAME.s3]", "region"),
            ("[notify.NAME]", "smtp"),
        ] {
            let of = text.split(&format!("## `{table}`")).nth(1).unwrap();
            assert!(
                of.split("\n## ").next().unwrap().contains(&format!("| `{key}` |")),
                "{key}"
            );
        }
        assert!(text.contains("How much a dead host may cost."));
    }
}
