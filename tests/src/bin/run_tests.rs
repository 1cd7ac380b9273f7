//! Runs test programs, some at a time: most of them wait for servers, not for a processor.
//!
//! Reads what `cargo test --no-run --message-format=json` prints, runs every test program that is named there in the directory of its
//! package, and prints what a program said when it has ended, whole. All of them run; one that fails fails the run. `make test` uses
//! it. Arguments: how many run at a time, and a file for what failed and why, empty when nothing did.

use std::collections::VecDeque;
use std::io::{BufRead, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The longest, first: so that none of them is left over for the end.
const FIRST: [&str; 10] = [
    "backup_sources",
    "pitr",
    "store_faults",
    "targets",
    "wal_get",
    "promotions",
    "kill_loop",
    "lineage",
    "store_quirks",
    "matrix",
];

/// How much of what was said at a panic is said again.
const PANIC_LINES: usize = 4;
const PANIC_COLUMNS: usize = 400;

/// A test program.
#[derive(Debug)]
struct Program {
    name: String,
    executable: PathBuf,
    directory: PathBuf,
}

/// How one ended.
#[derive(Debug)]
struct Ended {
    name: String,
    is_good: bool,
    /// Where it panicked, and why.
    panics: Vec<String>,
    took: Duration,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("run_tests: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool> {
    let at_a_time: usize = match std::env::args().nth(1) {
        Some(text) => text.parse().with_context(|| format!("\"{text}\" is no number"))?,
        None => 1,
    };
    let programs = read_programs()?;
    ensure!(!programs.is_empty(), "no test program was named");
    let count = programs.len();
    let left = Mutex::new(VecDeque::from(programs));
    let ended = Mutex::new(Vec::with_capacity(count));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..at_a_time.clamp(1, count) {
            scope.spawn(|| {
                // Not in the condition of a loop: the lock would be held while the program runs.
                let next = || lock(&left).pop_front();
                while let Some(program) = next() {
                    let one = run_one(&program);
                    lock(&ended).push(one);
                }
            });
        }
    });
    let mut ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    ended.sort_by_key(|one| std::cmp::Reverse(one.took));
    println!("\nThe longest:");
    for one in ended.iter().take(10) {
        println!("{:>6.1} s  {}", one.took.as_secs_f64(), one.name);
    }
    let bad: Vec<&Ended> = ended.iter().filter(|one| !one.is_good).collect();
    println!(
        "{count} test programs in {:.0} s, {} failed",
        begun.elapsed().as_secs_f64(),
        bad.len()
    );
    // Again at the end, where it is looked for.
    let summary = summary(&bad);
    print!("{summary}");
    if let Some(path) = std::env::args_os().nth(2) {
        std::fs::write(&path, summary).with_context(|| format!("cannot write {}", Path::new(&path).display()))?;
    }
    ensure!(ended.len() == count, "{} of {count} programs ran", ended.len());
    Ok(bad.is_empty())
}

/// From cargo's messages: one JSON object a line.
fn read_programs() -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for line in stdin().lock().lines() {
        let line = line.context("cannot read cargo's messages")?;
        let message: Value = serde_json::from_str(&line).with_context(|| format!("no message: {line}"))?;
        let is_test = message["profile"]["test"] == Value::Bool(true);
        let (true, Some(executable)) = (is_test, message["executable"].as_str()) else {
            continue;
        };
        let manifest = message["manifest_path"]
            .as_str()
            .context("a program without a package")?;
        let directory = Path::new(manifest).parent().context("a package without a directory")?;
        let package = directory.file_name().unwrap_or_default().to_string_lossy();
        let target = message["target"]["name"].as_str().unwrap_or_default();
        programs.push(Program {
            name: format!("{package}/{target}"),
            executable: executable.into(),
            directory: directory.into(),
        });
    }
    programs.sort_by_key(|program| {
        let name = program.name.rsplit('/').next().unwrap_or_default();
        let rank = FIRST.iter().position(|first| *first == name);
        (rank.unwrap_or(FIRST.len()), program.name.clone())
    });
    Ok(programs)
}

fn run_one(program: &Program) -> Ended {
    let begun = Instant::now();
    // One file for both, so that the order of lines is kept.
    let shell = Command::new("/bin/sh")
        .args(["-c", "exec \"$0\" 2>&1"])
        .arg(&program.executable)
        .current_dir(&program.directory)
        .output();
    let took = begun.elapsed();
    let (is_good, said) = match shell {
        Ok(output) => (output.status.success(), output.stdout),
        Err(error) => (false, error.to_string().into_bytes()),
    };
    let verdict = if is_good { "ok" } else { "FAILED" };
    let mut out = stdout().lock();
    // Whoever does not listen any more learns of the verdict by the exit code.
    let _ = writeln!(out, "\n==> {} in {:.1} s: {verdict}", program.name, took.as_secs_f64());
    let _ = out.write_all(&said).and_then(|()| out.flush());
    Ended {
        name: program.name.clone(),
        is_good,
        panics: panics(&String::from_utf8_lossy(&said)),
        took,
    }
}

fn summary(bad: &[&Ended]) -> String {
    let mut text = String::new();
    for one in bad {
        text.push_str(&format!("FAILED {}\n", one.name));
        for line in one.panics.iter().flat_map(|panic| panic.lines()) {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text
}

/// Each place with the beginning of what was said there.
fn panics(said: &str) -> Vec<String> {
    let lines: Vec<&str> = said.lines().collect();
    let places = (0..lines.len()).filter(|&at| lines[at].contains("panicked at"));
    places
        .map(|at| {
            let end = lines.len().min(at + 1 + PANIC_LINES);
            let cut = lines[at..end]
                .iter()
                .map(|line| line.get(..PANIC_COLUMNS).unwrap_or(line));
            cut.collect::<Vec<_>>().join("\n")
        })
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
