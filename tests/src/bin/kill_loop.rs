//! `make kill-loop`: kills, and adds the figures up in `target/kill-loop/summary.json`. Exit code 1 on any loss.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use tests::kill_loop::{Options, run};
use tests::seed::seed;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "kill_loop [--cycles N] [--seed S] [--major M] [--fresh]";

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("kill_loop: {error:#}\nHINT: {USAGE}");
            return ExitCode::from(2);
        }
    };
    println!("seed {}, {} cycles", options.seed, options.cycles);
    match play(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kill_loop: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let summary = runtime.block_on(async {
        // What runs is ended by being dropped: an interrupt must not leave servers behind.
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            ran = Box::pin(run(options)) => ran,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
        }
    })?;
    println!("{}", summary.line());
    Ok(())
}

fn options() -> Result<Options> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the package has no parent directory")?;
    let mut options = Options {
        cycles: 60,
        seed: seed(),
        major: 15,
        summary: Some(root.join("target/kill-loop/summary.json")),
        fresh: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let mut number = || {
            args.next()
                .and_then(|text| text.parse().ok())
                .with_context(|| format!("{name} needs a number"))
        };
        match name.as_str() {
            "--cycles" => options.cycles = number()?,
            "--seed" => options.seed = number()?,
            "--major" => options.major = u32::try_from(number()?)?,
            "--fresh" => options.fresh = true,
            _ => bail!("unknown argument {name}"),
        }
    }
    Ok(options)
}
