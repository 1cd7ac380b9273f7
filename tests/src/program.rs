//! Our own binaries, run as the server user with their output kept.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::child::{Child, unexpected_warnings};
use crate::install;
use crate::scratch::Scratch;
use crate::user;

/// For one command that backs up or restores a small cluster.
const COMMAND_DEADLINE: Duration = Duration::from_secs(300);

/// One of the two binaries with a configuration file.
#[derive(Debug, Clone)]
pub struct Program {
    name: &'static str,
    path: PathBuf,
    config: PathBuf,
    environment: Vec<(String, String)>,
    scratch: Scratch,
}

/// What one run of a program left behind.
#[derive(Debug, Clone)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    what: String,
}

impl Program {
    pub fn agent(scratch: &Scratch, config: &Path) -> Result<Self> {
        Ok(Self::new(scratch, "wal-agent", install::agent_bin()?, config))
    }

    pub fn restore(scratch: &Scratch, config: &Path) -> Result<Self> {
        Ok(Self::new(scratch, "wal-restore", install::restore_bin()?, config))
    }

    fn new(scratch: &Scratch, name: &'static str, path: PathBuf, config: &Path) -> Self {
        Self {
            name,
            path,
            config: config.to_owned(),
            environment: Vec::new(),
            scratch: scratch.clone(),
        }
    }

    /// Sets an environment variable for all further runs.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The command, not started: with the configuration, without colours.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = user::command(&self.path);
        command
            .args(args)
            .env("SEAWALL_CONFIG", &self.config)
            .env("NO_COLOR", "1")
            .env("RUST_BACKTRACE", "1")
            // As the units have it.
            .env("MALLOC_MMAP_THRESHOLD_", "262144")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs to the end, whatever the end is.
    pub async fn run(&self, args: &[&str]) -> Result<Output> {
        self.run_in(Path::new("/"), args).await
    }

    /// The same in a directory.
    pub async fn run_in(&self, directory: &Path, args: &[&str]) -> Result<Output> {
        let mut command = self.command(args);
        command.current_dir(directory);
        let output = user::output(command, COMMAND_DEADLINE).await?;
        Ok(Output {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            what: format!("{} {}", self.name, args.join(" ")),
        })
    }

    /// Runs and insists on exit code 0; the error holds what it printed.
    pub async fn run_ok(&self, args: &[&str]) -> Result<Output> {
        let output = self.run(args).await?;
        output.assert_code(0)?;
        Ok(output)
    }

    /// Starts `run`, or another command that goes on, with its output in files.
    pub fn start(&self, args: &[&str]) -> Result<Child> {
        Child::spawn(&self.scratch, self.name, self.command(args))
    }

    /// `wal-agent run`. What "up" means is the caller's to wait for: a log line or `status`.
    pub fn start_daemon(&self) -> Result<Child> {
        self.start(&["run"])
    }
}

impl Output {
    /// The exit code; 128 and the signal's number when a signal ended it, as a shell says it.
    pub fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let of_signal = || 128 + self.status.signal().unwrap_or_default();
        self.status.code().unwrap_or_else(of_signal)
    }

    pub fn assert_code(&self, code: i32) -> Result<()> {
        ensure!(
            self.code() == code,
            "{} ended with code {}, not {code}\n{}{}",
            self.what,
            self.code(),
            self.stdout,
            self.stderr
        );
        Ok(())
    }

    /// Insists on a refusal with this code that says these words, and what to do.
    pub fn assert_refused(&self, code: i32, words: &[&str]) -> Result<()> {
        self.assert_code(code)?;
        ensure!(
            self.stderr.contains("HINT:"),
            "{} gave no HINT:\n{}",
            self.what,
            self.stderr
        );
        for word in words {
            let said = self.stderr.to_lowercase().contains(&word.to_lowercase());
            ensure!(said, "{} did not say {word:?}:\n{}", self.what, self.stderr);
        }
        ensure!(!self.stderr.contains("panicked at"), "{}", self.stderr);
        Ok(())
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("{} printed no JSON:\n{}", self.what, self.stdout))
    }

    pub fn assert_no_unexpected_warnings(&self, allow: &[&str]) -> Result<()> {
        let unexpected = unexpected_warnings(&self.stderr, allow);
        ensure!(unexpected.is_empty(), "{}:\n{}", self.what, unexpected.join("\n"));
        Ok(())
    }
}
