//! `wal-restore`: plans a restore, refuses what cannot be reached, brings a cluster back and proves where it stopped.
//!
//! From the command line to the exit code: [`cli`] → [`open`] → [`request`] (backup and stop point, by [`scan`] of archived WAL) →
//! [`plan`] → [`place`] → [`delta`] → [`sweep`] → [`fetch_files`] → [`finish`] → [`start`]. PostgreSQL comes back to [`wal_get`] for each segment.
//! [`mod@find`] tells which stop point to ask for.

mod cli;
mod comparison;
mod component;
mod decide;
mod delta;
mod detour;
mod dump;
mod error;
mod estimate;
mod exit;
mod fetch_files;
mod find;
mod finish;
mod forward;
mod group;
mod list;
mod listen;
mod new_tablespaces;
mod open;
mod owner;
mod packs;
mod paths;
mod place;
mod places;
mod plan;
mod prefetch;
mod programs;
mod progress;
mod prove;
mod report;
mod request;
mod route;
mod run;
mod scan;
mod settings;
mod start;
mod state;
mod sweep;
mod table;
#[cfg(test)]
mod testing;
mod time;
mod tree;
mod wal_get;
mod work;
mod writeback;

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use serde::Serialize;

use crate::cli::{Cli, Command, FindArgs};
use crate::error::{RestoreError, Result};

/// `list` is waited for by a person.
const LIST_PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let is_wal_get = std::env::args_os().any(|argument| argument == "wal-get");
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { exit::USAGE } else { exit::OK };
            // Nothing can be done about a closed terminal.
            let _ = error.print();
            return ExitCode::from(if is_wal_get { exit::WAL_STOP } else { code });
        }
    };
    let code = catch_unwind(AssertUnwindSafe(|| with_runtime(&cli)));
    // A panic has printed itself. For PostgreSQL it must not look like the end of WAL.
    ExitCode::from(code.unwrap_or(if is_wal_get { exit::WAL_STOP } else { exit::FAILURE }))
}

fn with_runtime(cli: &Cli) -> u8 {
    start_log(cli);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("wal-restore: cannot start: {error}");
            return if matches!(cli.command, Some(Command::WalGet(_))) {
                exit::WAL_STOP
            } else {
                exit::FAILURE
            };
        }
    };
    let code = runtime.block_on(Box::pin(dispatch(cli)));
    // A worker that still reads must not keep a finished command.
    runtime.shutdown_background();
    code
}

/// Logs go to standard error: the result has standard output for itself. The configuration's level counts where it can be read.
fn start_log(cli: &Cli) {
    use tracing_subscriber::filter::LevelFilter;
    let config = open::load(cli.which()).map(|(_, config, _)| config).ok();
    let (log, passed_over) = config.map(|config| (config.log, config.passed_over)).unzip();
    let level: LevelFilter = match log.map(|log| log.level.as_str()) {
        // Changes of state are told by the command itself.
        None | Some("info" | "warn") => LevelFilter::WARN,
        Some(level) => level.parse().unwrap_or(LevelFilter::WARN),
    };
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .with_target(false);
    if log.is_some_and(|log| log.format == config::LogFormat::Json) {
        builder.json().init();
    } else {
        builder.init();
    }
    // For people: a program that PostgreSQL calls for each segment does not repeat it.
    if !matches!(cli.command, Some(Command::WalGet(_) | Command::WalPrefetch(_))) {
        for problem in passed_over.into_iter().flatten() {
            tracing::warn!(
                problem = problem.message,
                "the configuration is wrong where a restore does not need it"
            );
        }
    }
}

async fn dispatch(cli: &Cli) -> u8 {
    let json = match &cli.command {
        Some(Command::List { json }) => *json,
        Some(Command::Forward(args)) => args.server.json,
        Some(Command::Promote(args)) => args.json,
        Some(Command::Find(args)) => args.json,
        Some(Command::Component(args)) => args.json,
        Some(Command::Group(args)) => args.json,
        Some(_) => false,
        None => cli.restore.json,
    };
    let done = match &cli.command {
        Some(Command::WalGet(args)) => return wal_get::run(cli, args).await,
        Some(Command::WalPrefetch(args)) => prefetch::run(cli, args).await,
        Some(Command::CanRead) => open::open(cli.which(), Duration::from_secs(10)).await.map(|_| ()),
        Some(Command::Completions { shell }) => {
            clap_complete::generate(*shell, &mut Cli::command(), "wal-restore", &mut std::io::stdout());
            Ok(())
        }
        Some(Command::ManPages { directory }) => clap_mangen::generate_to(Cli::command(), directory)
            .map_err(RestoreError::io("write man pages to", directory)),
        Some(Command::List { json }) => list(cli, *json).await,
        Some(Command::Find(args)) => Box::pin(find(cli, args)).await,
        Some(Command::Component(args)) => Box::pin(component::run(cli, args)).await,
        Some(Command::Group(args)) => Box::pin(group::run(cli, args)).await,
        Some(Command::Identity { file }) => component::identity(file),
        Some(Command::Table(args)) => Box::pin(table::run(cli, args)).await,
        Some(Command::Forward(args)) => {
            let report = Box::pin(forward::forward(cli, args)).await;
            report.and_then(|report| print_report(&report, json))
        }
        Some(Command::Promote(args)) => {
            let report = Box::pin(forward::promote(cli, args)).await;
            report.and_then(|report| print_report(&report, json))
        }
        None => restore(cli).await,
    };
    match done {
        Ok(()) => exit::OK,
        Err(error) => fail(&error, json),
    }
}

async fn list(cli: &Cli, json: bool) -> Result<()> {
    let opened = open::open(cli.which(), LIST_PATIENCE).await?;
    let listing = list::collect(&opened.repository).await?;
    match json {
        true => print_json(&listing),
        false => print_line(&listing.text()),
    }
}

async fn find(cli: &Cli, args: &FindArgs) -> Result<()> {
    let findings = find::run(cli, args).await?;
    print_report(&findings, args.json)
}

async fn restore(cli: &Cli) -> Result<()> {
    let report = Box::pin(run::run(cli)).await?.report;
    print_report(&report, cli.restore.json)?;
    match report.proofs.iter().filter(|proof| !proof.ok).count() {
        0 => Ok(()),
        bad => Err(RestoreError::Server {
            message: format!("{bad} of {} proofs do not hold", report.proofs.len()),
            hint: "They are named above. The server is as it was restored; it is not fit for use before somebody has looked.".into(),
        }),
    }
}

fn print_report(report: &(impl Serialize + std::fmt::Display), json: bool) -> Result<()> {
    match json {
        true => print_json(report),
        false => print_line(&report.to_string()),
    }
}

fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| RestoreError::Failed(error.to_string()))?;
    print_line(&text)
}

fn print_line(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").map_err(RestoreError::io("write", std::path::Path::new("standard output")))
}

#[derive(Serialize)]
struct Failure {
    ok: bool,
    error: String,
    hint: Option<String>,
    exit_code: u8,
}

/// Prints an error once, with its causes and what to do.
fn fail(error: &RestoreError, json: bool) -> u8 {
    let (text, hint, exit_code) = (error.chain(), error.hint(), error.exit_code());
    eprintln!("wal-restore: {text}");
    if let Some(hint) = &hint {
        eprintln!("HINT: {hint}");
    }
    if json {
        // The exit code tells the rest when standard output is gone.
        let _ = print_json(&Failure {
            ok: false,
            error: text,
            hint,
            exit_code,
        });
    }
    exit_code
}
