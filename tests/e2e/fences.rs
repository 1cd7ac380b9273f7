//! The fences between the crates: who may depend on whom, which crate may name which job, and what no library asks for itself.
//! docs/ARCHITECTURE.md says why; change it together with the tables here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{Metadata, MetadataCommand};

/// What each crate may use of ours. `bench`, `loadtest` and `tests` may use all, and only `loadtest` uses one of them.
const LAYERS: [(&str, &[&str]); 11] = [
    ("pg", &[]),
    ("store", &["pg"]),
    ("wal", &["pg", "store"]),
    ("components", &["store"]),
    ("config", &["pg", "store"]),
    ("agent", &["pg", "store", "wal", "components", "config"]),
    ("restore", &["pg", "store", "wal", "components", "config"]),
    ("picture", &[]),
    ("bench", &["pg", "store", "wal", "components", "config", "picture"]),
    (
        "loadtest",
        &["pg", "store", "wal", "components", "config", "picture", "tests"],
    ),
    ("tests", &["pg", "store", "wal", "components", "config"]),
];

/// One job, one crate. `bench` has compressor and hash to compare with, and nothing of what it makes is ever stored.
const FENCED: [(&str, &[&str]); 15] = [
    ("aws-sdk-s3", &["store", "tests"]),
    ("zstd", &["store", "bench", "pg"]),
    ("blake3", &["store", "bench"]),
    ("hpke", &["store"]),
    ("aws-lc-rs", &["store", "pg"]),
    ("postgres-protocol", &["pg"]),
    ("rustls-native-certs", &["pg"]),
    ("tokio-postgres", &["agent", "restore", "bench", "loadtest", "tests"]),
    ("cronexpr", &["config"]),
    ("similar", &["components"]),
    ("prometheus", &["agent"]),
    ("lettre", &["agent"]),
    ("hyper-rustls", &["agent"]),
    ("clap", &["agent", "restore", "bench", "loadtest", "tests"]),
    ("anyhow", &["agent", "restore", "bench", "loadtest", "tests"]),
];

/// The libraries, and what comes to them as an argument instead.
const LIBRARIES: [&str; 6] = ["pg", "store", "wal", "components", "config", "picture"];
const NOT_IN_LIBRARIES: [&str; 4] = ["std::env::", "SystemTime::now", "std::process::exit", "println!"];

fn metadata() -> Metadata {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    MetadataCommand::new().manifest_path(manifest).no_deps().exec().unwrap()
}

/// Every direct dependency by crate, of whatever kind, also the optional ones.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let direct = |package: cargo_metadata::Package| {
        let names = package
            .dependencies
            .into_iter()
            .map(|dependency| dependency.name)
            .collect();
        (package.name.to_string(), names)
    };
    metadata().packages.into_iter().map(direct).collect()
}

#[test]
fn every_line_points_down() {
    let crates = dependencies();
    let known: BTreeSet<&str> = LAYERS.iter().map(|(name, _)| *name).collect();
    let members: BTreeSet<&str> = crates.keys().map(String::as_str).collect();
    assert_eq!(members, known, "give a new crate its place in LAYERS");
    for (name, allowed) in LAYERS {
        let ours = crates[name].iter().filter(|used| known.contains(used.as_str()));
        let wrong: Vec<&String> = ours.filter(|used| !allowed.contains(&used.as_str())).collect();
        assert!(wrong.is_empty(), "{name} depends on {wrong:?}");
    }
}

#[test]
fn one_job_is_fenced_to_one_place() {
    for (user, names) in dependencies() {
        for (name, places) in FENCED {
            let allowed = places.contains(&user.as_str()) || !names.contains(name);
            assert!(allowed, "{user} depends on {name}, which belongs to {places:?}");
        }
    }
}

#[test]
fn no_library_asks_for_environment_clock_exit_or_output() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for library in LIBRARIES {
        for path in sources(&root.join(library).join("src")) {
            let code = without_tests(&without_text(&fs::read_to_string(&path).unwrap()));
            for (number, line) in code.lines().enumerate() {
                let hit = NOT_IN_LIBRARIES.iter().find(|word| line.contains(**word));
                found.extend(hit.map(|word| format!("{}:{}: {word}", path.display(), number + 1)));
            }
        }
    }
    assert!(found.is_empty(), "pass it in as an argument:\n{}", found.join("\n"));
}

#[test]
fn every_end_to_end_file_runs() {
    let metadata = metadata();
    let tests = metadata
        .packages
        .iter()
        .find(|package| package.name.as_str() == "tests")
        .unwrap();
    let targets: BTreeSet<PathBuf> = tests
        .targets
        .iter()
        .map(|target| target.src_path.clone().into_std_path_buf())
        .collect();
    let named: BTreeSet<&str> = targets.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    let files = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e"));
    let all: String = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    for path in &files {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let runs = named.contains(format!("{stem}.rs").as_str()) || all.contains(&format!("mod {stem};"));
        assert!(
            runs,
            "{stem}.rs is neither a [[test]] of tests/Cargo.toml nor a module of one"
        );
    }
}

/// The `.rs` files below a directory, without those that are only for tests.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        if matches!(stem.as_str(), "tests" | "testing") {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Comments, texts and character literals as spaces, so that words and braces in them do not count. Lines keep their numbers.
fn without_text(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = skipped(rest, out.chars().last()).unwrap_or(0);
        if length == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (gone, left) = rest.split_at(length);
        out.extend(gone.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = left;
    }
    out
}

/// How long the comment or literal is that begins here.
fn skipped(rest: &str, before: Option<char>) -> Option<usize> {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(rest.find("*/").map_or(rest.len(), |at| at + 2));
    }
    if !in_word && (rest.starts_with('r') || rest.starts_with("br")) {
        let marks = rest.trim_start_matches('b').strip_prefix('r')?;
        let hashes = marks.chars().take_while(|c| *c == '#').count();
        let content = marks[hashes..].strip_prefix('"')?;
        let close = format!("\"{}", "#".repeat(hashes));
        let end = content.find(&close)? + close.len();
        return Some(rest.len() - content.len() + end);
    }
    if rest.starts_with('"') {
        return Some(quoted(rest, '"'));
    }
    // 'x', '\n' and '\u{1}', but no lifetime.
    let after = rest.strip_prefix('\'')?;
    let is_literal = after.starts_with('\\') || after.chars().nth(1) == Some('\'');
    is_literal.then(|| quoted(rest, '\''))
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    text.len()
}

/// Items behind `#[cfg(test)]` as empty lines; braces must be code, see [`without_text`].
fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        let (before, item) = rest.split_at(at);
        out.push_str(before);
        let mut depth = 0_i32;
        let end = item.char_indices().find_map(|(at, c)| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            (depth == 0 && (c == '}' || c == ';')).then_some(at + 1)
        });
        let (gone, left) = item.split_at(end.unwrap_or(item.len()));
        out.extend(gone.chars().filter(|c| *c == '\n'));
        rest = left;
    }
    out + rest
}

#[test]
fn the_scan_sees_code_and_nothing_else() {
    let source = "fn a<'x>() { b('}', '\\'', \"println!\"); } // std::env::var\nr#\"println!\"#; /* println! */ c();\n\
                  #[cfg(test)]\nmod tests {\n fn d() { println!(); }\n}\n#[cfg(test)]\nuse e::println;\nfn f() { SystemTime::now(); }\n";
    let code = without_tests(&without_text(source));
    assert!(!code.contains("println!") && !code.contains("env"), "{code}");
    assert!(
        code.contains("c();") && code.contains("fn f() { SystemTime::now(); }"),
        "{code}"
    );
    assert_eq!(code.lines().count(), source.lines().count());
}
