//! `wal-agent`: the daemon on the database host and its administration.
//!
//! parse → config → run → exit code. `run` is the daemon (WAL lane), `backup` the base backup lane, the rest looks or prepares.

mod adopt;
mod alert_rules;
mod archive_push;
mod archiver;
mod backup;
mod check;
mod cli;
mod component;
mod copies;
mod disk;
mod drill;
mod drop_slots;
mod exit;
mod health;
mod init;
mod key;
mod list;
mod notify;
mod open;
mod output;
mod pin;
mod preflight;
mod prune;
mod repair;
mod run;
mod runbook;
mod sql;
mod status;
mod take_backup;
mod timeline;
mod verify;

use std::process::ExitCode;

use clap::Parser;
use cli::{BackupOptions, Cli, Command};

fn main() -> ExitCode {
    leave_quietly_when_nobody_reads();
    let cli = Cli::parse();
    if let Command::Completions { shell } = cli.command {
        cli::completions(shell);
        return ExitCode::from(exit::OK);
    }
    if let Command::ConfigReference = cli.command {
        print!("{}", config::reference());
        return ExitCode::from(exit::OK);
    }
    if let Command::AlertRules = cli.command {
        print!("{}", alert_rules::rules());
        return ExitCode::from(exit::OK);
    }
    if let Command::ManPages { directory } = &cli.command {
        return match cli::man_pages(directory) {
            Ok(()) => ExitCode::from(exit::OK),
            Err(error) => {
                eprintln!(
                    "wal-agent: cannot write man pages to \"{}\"\nDETAIL: {error}",
                    directory.display()
                );
                ExitCode::from(exit::FAILURE)
            }
        };
    }
    #[cfg(feature = "crash-points")]
    if let Ok(text) = std::env::var(store::crash::VARIABLE)
        && !store::crash::arm(&text)
    {
        eprintln!("wal-agent: {} names no crash point: {text}", store::crash::VARIABLE);
        return ExitCode::from(exit::USAGE);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("wal-agent: cannot start the runtime\nDETAIL: {error}");
            return ExitCode::from(exit::FAILURE);
        }
    };
    match runtime.block_on(dispatch(cli)) {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => {
            if error.downcast_ref::<exit::Said>().is_none() {
                eprintln!("{}", exit::describe(&error));
            }
            ExitCode::from(exit::code(&error))
        }
    }
}

/// `wal-agent … | head`: print macros panic when the reader has gone (Rust ignores SIGPIPE). That is no defect to be shown.
fn leave_quietly_when_nobody_reads() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let said = info.payload_as_str().unwrap_or_default();
        if said.starts_with("failed printing to stdout") && said.contains("Broken pipe") {
            std::process::exit(0);
        }
        usual(info);
    }));
}

async fn dispatch(cli: Cli) -> anyhow::Result<()> {
    if let Command::Check {
        show_config: true,
        json,
    } = cli.command
    {
        return check::print_config(&cli.global, json);
    }
    if cli.global.copy.is_some() && !cli.command.reads_copies() {
        return Err(exit::Failure {
            code: exit::USAGE,
            message: "--copy is for commands that read: list, verify, key show and check; and for repair and prune"
                .into(),
            hint: Some("Whatever is written goes to the repository, and to its copies from there.".into()),
        }
        .into());
    }
    if let Command::Runbook(options) = &cli.command {
        return runbook::run(&cli.global, options).await;
    }
    let context = match cli.command {
        Command::ArchivePush { .. } => open::Context::load_to_archive(&cli.global)?,
        _ => open::Context::load(&cli.global)?,
    };
    if cli.command.writes() {
        context.refuse_root()?;
    }
    match cli.command {
        Command::Init(options) => init::run(&context, &options).await,
        Command::Run => run::run(context).await,
        Command::Backup(options) if !options.components.is_empty() => {
            let BackupOptions {
                components,
                label,
                json,
                ..
            } = options;
            component::run(&context, &components, label.as_deref(), json).await
        }
        Command::Backup(BackupOptions {
            group: Some(group),
            label,
            json,
            ..
        }) => Box::pin(component::group::run(&context, &group, label.as_deref(), json)).await,
        Command::Backup(options) => take_backup::run(&context, &options).await,
        Command::Adopt(options) => Box::pin(adopt::run(context, &options)).await,
        Command::ArchivePush { path } => archive_push::run(&context, &path).await,
        Command::List { json } => list::run(&context, json).await,
        Command::Timeline(options) => timeline::run(&context, &options).await,
        Command::Status(options) => status::run(&context, &options).await,
        Command::Verify(options) => verify::run(&context, &options).await,
        Command::Repair(options) => Box::pin(repair::run(&context, &options)).await,
        Command::Prune(options) => prune::run(&context, &options).await,
        Command::Pin { backup, reason } => pin::pin(&context, &backup, reason).await,
        Command::Unpin { backup } => pin::unpin(&context, &backup).await,
        Command::Copy(options) => copies::run(&context, &options).await,
        Command::Key(command) => key::run(&context, command).await,
        Command::Check { json, .. } => check::run(&context, json).await,
        Command::Drill(options) => Box::pin(drill::run(&context, &options)).await,
        Command::NotifyTest { json } => notify::test(&context, json).await,
        Command::DropSlots(options) => drop_slots::run(&context, &options).await,
        Command::Completions { .. }
        | Command::ManPages { .. }
        | Command::AlertRules
        | Command::ConfigReference
        | Command::Runbook(_) => Ok(()),
    }
}
