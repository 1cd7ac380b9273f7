//! The page "From the package to the first restore" is typed, line by line, in a root of its own: package, configuration, unit, check, backup,
//! restore. What it says must come back comes back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::case::case_for;
use tests::{Scratch, install};

/// Stands in the page for what is different each time; alone on a line, for any lines.
const ANY: &str = "…";
/// Begins a line of the output that says which command comes.
const MARK: &str = "@@@ ";

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A command of the page, and what the page says that it answers.
#[derive(Debug)]
struct Step {
    command: String,
    answer: Vec<String>,
}

/// What is typed behind the prompt `# `; a here-document goes on to its `END`.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = page.lines();
    let mut is_console = false;
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            is_console = line == "```console";
        } else if let Some(command) = line.strip_prefix("# ").filter(|_| is_console) {
            let mut command = command.to_owned();
            if command.contains("<<'END'") {
                for line in lines.by_ref() {
                    command = format!("{command}\n{line}");
                    if line == "END" {
                        break;
                    }
                }
            }
            steps.push(Step {
                command,
                answer: Vec::new(),
            });
        } else if is_console && let Some(step) = steps.last_mut() {
            step.answer.push(line.to_owned());
        }
    }
    steps
}

/// Is this the line, with anything where the page has an ellipsis?
fn is_like(line: &str, pattern: &str) -> bool {
    match pattern.split_once(ANY) {
        None => line == pattern,
        Some((before, after)) => line.strip_prefix(before).is_some_and(|rest| {
            let mut ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            ends.any(|at| is_like(&rest[at..], after))
        }),
    }
}

/// Are these the lines?
fn are_like(lines: &[&str], patterns: &[String]) -> bool {
    match patterns.split_first() {
        None => lines.is_empty(),
        Some((any, rest)) if any == ANY => (0..=lines.len()).any(|at| are_like(&lines[at..], rest)),
        Some((first, rest)) => lines
            .split_first()
            .is_some_and(|(line, lines)| is_like(line.trim_end(), first) && are_like(lines, rest)),
    }
}

/// The programs without what is for debugging: they are installed for real.
fn package(scratch: &Scratch, into: &Path) -> Result<()> {
    let programs = scratch.dir("programs")?;
    for program in [install::agent_bin()?, install::restore_bin()?] {
        let mut strip = Command::new("strip");
        strip
            .arg("-o")
            .arg(programs.join(program.file_name().unwrap()))
            .arg(&program);
        ensure!(strip.status()?.success(), "{strip:?}");
    }
    let mut build = Command::new(sources().join("systemd/package.sh"));
    let built = build.arg(&programs).arg(into).env("DEB_COMPRESSION", "none").output()?;
    ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Ok(())
}

/// What a host has before the page begins: a running server, and something that stands for systemd.
const BEFORE: &str = "set -e\nexec 2>&1 </dev/null\ncd /seawall\ninstall -m 755 systemctl /usr/local/bin/systemctl\n\
    { pg_dropcluster --stop 15 main || true; pg_createcluster 15 main -p 5432 -o listen_addresses= --start; } >/tmp/before 2>&1 \\\n\
    || { cat /tmp/before /var/log/postgresql/*-15-main.log; exit 1; }\n\
    export DEBIAN_FRONTEND=noninteractive\n";

#[test]
fn the_page_from_the_package_to_the_first_restore_is_true() {
    case_for("first_restore", Duration::from_secs(900), async |scratch| {
        let page = fs::read_to_string(sources().join("docs/FIRST_RESTORE.md"))?;
        let steps = steps(&page);
        ensure!(steps.len() > 15, "{} steps", steps.len());
        let helpers = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/first_restore");
        let seen = scratch.dir("seen")?;
        package(&scratch, &seen)?;
        fs::copy(helpers.join("systemctl"), seen.join("systemctl"))?;
        let typed = (0..).zip(&steps).map(|(number, step)| {
            let command = &step.command;
            format!("echo '{MARK}{number}'\n{command}\n")
        });
        let script = seen.join("typed.sh");
        fs::write(
            &script,
            format!("{BEFORE}{}echo '{MARK}end'\n", typed.collect::<String>()),
        )?;

        let layer = scratch.dir("layer")?;
        let mut enter = tokio::process::Command::new(helpers.join("enter.sh"));
        let output = enter.arg(&layer).arg(&script).kill_on_drop(true).output().await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        println!("{said}");
        for (number, step) in (0..).zip(&steps) {
            let begin = format!("{MARK}{number}\n");
            let at = said
                .find(&begin)
                .with_context(|| format!("not come to: {}\n{said}{stderr}", step.command))?;
            let rest = &said[at + begin.len()..];
            let answer = rest.split(MARK).next().unwrap_or_default();
            let lines: Vec<&str> = answer.lines().collect();
            ensure!(
                are_like(&lines, &step.answer),
                "{}:\n{answer}\nthe page has:\n{:#?}",
                step.command,
                step.answer
            );
        }
        ensure!(
            output.status.success() && said.contains(&format!("{MARK}end")),
            "{said}{stderr}"
        );
        Ok(())
    });
}

#[test]
fn an_ellipsis_stands_for_anything() {
    let patterns = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(are_like(&["a 1 ms b", "x"], &patterns("a … ms b\nx")));
    assert!(are_like(&["1", "2", "end"], &patterns("…\nend")));
    assert!(!are_like(&["1", "2"], &patterns("…\nend")));
    assert!(!are_like(&["a 1 s"], &patterns("a … ms")));
    assert!(!are_like(&["something"], &[]));
}
