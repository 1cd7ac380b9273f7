//! The documentation: every page of the book is there, every link leads somewhere, and every command that stands in it is one that the programs
//! understand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use tests::case::case;
use tests::{install, tree};

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// All pages, by their path.
fn pages() -> Result<BTreeMap<PathBuf, String>> {
    let mut all = vec![sources().join("README.md")];
    all.extend(tree::files(&sources().join("docs"))?);
    all.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    all.into_iter()
        .map(|path| Ok((path.clone(), fs::read_to_string(path)?)))
        .collect()
}

/// A page of the book that only includes a document is that document.
fn whole(path: &Path, text: &str) -> Result<String> {
    let Some(rest) = text.trim().strip_prefix("{{#include ") else {
        return Ok(text.to_owned());
    };
    Ok(fs::read_to_string(
        path.parent().unwrap().join(rest.trim_end_matches("}}")),
    )?)
}

/// The anchors of a page: its headings, as GitHub and mdBook name them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| -> String {
        let kept = heading.chars().filter_map(|char| match char {
            ' ' => Some('-'),
            '-' | '_' => Some(char),
            char if char.is_alphanumeric() => char.to_lowercase().next(),
            _ => None,
        });
        kept.collect()
    };
    headings.map(anchor).collect()
}

/// Where the links of a page lead, outside of code.
fn links(text: &str) -> Vec<String> {
    let mut is_code = false;
    let mut found = Vec::new();
    for line in text.lines() {
        is_code ^= line.trim_start().starts_with("```");
        if is_code {
            continue;
        }
        for rest in line.split("](").skip(1) {
            found.extend(rest.split(')').next().map(str::to_owned));
        }
    }
    found
}

#[test]
fn every_link_leads_somewhere() {
    let mut bad = Vec::new();
    let mut seen = 0;
    for (path, text) in pages().unwrap() {
        let is_of_book = path.starts_with(sources().join("docs/book"));
        // Links of an included document are looked at where it lies; in the book they lead to the page of the same name.
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            seen += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            let text =
                fs::read_to_string(&target).and_then(|text| whole(&target, &text).map_err(std::io::Error::other));
            let is_there = match (&text, anchor) {
                (_, "") => target.exists(),
                (Ok(text), anchor) => anchors(text).iter().any(|known| known == anchor),
                (Err(_), _) => false,
            };
            if !is_there {
                bad.push(format!("{}: {link} (book: {is_of_book})", path.display()));
            }
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(seen > 100, "{seen}");
}

#[test]
fn the_book_names_every_page() {
    let source = sources().join("docs/book/src");
    let summary = fs::read_to_string(source.join("SUMMARY.md")).unwrap();
    let named = links(&summary);
    let files = tree::files(&source).unwrap();
    for file in files.iter().filter(|file| !file.ends_with("SUMMARY.md")) {
        let relative = file.strip_prefix(&source).unwrap().display().to_string();
        assert!(named.contains(&relative), "SUMMARY.md does not name {relative}");
    }
    // A document that is beside the book is in it.
    for entry in fs::read_dir(sources().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(
            !name.ends_with(".md") || named.contains(&name),
            "SUMMARY.md does not name {name}"
        );
    }
}

/// Our commands in blocks of a shell, each from its program to its end.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block = None;
    let joined = text.replace("\\\n", " ");
    for line in joined.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            block = block.is_none().then_some(language);
            continue;
        }
        if !matches!(block, Some("sh" | "console")) || line.trim_start().starts_with('#') && block == Some("sh") {
            continue;
        }
        for program in ["wal-agent ", "wal-restore "] {
            for (at, _) in line.match_indices(program) {
                let is_a_word = line[..at]
                    .chars()
                    .next_back()
                    .is_none_or(|before| " ;&|($/".contains(before));
                if is_a_word {
                    found.push(command(&line[at..]));
                }
            }
        }
    }
    found
}

/// Up to what ends a command outside of quotes.
fn command(line: &str) -> String {
    let mut quote = None;
    let mut out = String::new();
    let mut before = ' ';
    for char in line.chars() {
        match (quote, char) {
            (None, '\'' | '"') => quote = Some(char),
            (Some(open), char) if open == char => quote = None,
            (None, ';' | '|' | '&' | '>' | '<' | ')') => break,
            (None, '#') if before == ' ' => break,
            _ => {}
        }
        out.push(char);
        before = char;
    }
    out
}

#[test]
fn every_command_in_the_pages_is_understood() {
    case("book_commands", async |_| {
        let directory = install::agent_bin()?.parent().unwrap().to_owned();
        ensure!(
            install::restore_bin()?.parent() == Some(&directory),
            "beside each other"
        );
        let path = format!("{}:{}", directory.display(), std::env::var("PATH")?);
        let mut count = 0;
        for (page, text) in pages()? {
            for line in commands(&text) {
                count += 1;
                let asked = format!("{line} --help");
                let output = Command::new("sh").arg("-c").arg(&asked).env("PATH", &path).output()?;
                let stderr = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "{}: {line}\n{stderr}", page.display());
            }
        }
        ensure!(count > 100, "{count}");
        println!("{count} commands");
        Ok(())
    });
}

#[test]
fn a_command_ends_where_the_shell_ends_it() {
    let text = "```sh\nrunuser -u postgres -- wal-agent key show --json | jq . # say\nX=1 wal-restore list && wal-agent prune \\\n  --dry-run\n```\nwal-agent no\n";
    assert_eq!(
        commands(text),
        [
            "wal-agent key show --json ",
            "wal-agent prune    --dry-run",
            "wal-restore list "
        ]
    );
}
