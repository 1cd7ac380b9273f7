//! Who runs the servers. PostgreSQL refuses root, so as root everything is started as `postgres`.

use std::ffi::OsStr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait::within;

/// User and group of the servers; `None` when we are not root and everything runs as ourselves.
pub fn server_user() -> Option<(u32, u32)> {
    static USER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *USER.get_or_init(|| {
        rustix::process::geteuid().is_root().then(|| {
            let uid = id("-u").expect("user postgres exists; HINT: make setup");
            let gid = id("-g").expect("group of user postgres");
            (uid, gid)
        })
    })
}

fn id(flag: &str) -> Result<u32> {
    let output = Command::new("id").args([flag, "postgres"]).output()?;
    let text = String::from_utf8(output.stdout)?;
    text.trim()
        .parse()
        .with_context(|| format!("id {flag} postgres printed {text:?}"))
}

/// A command of the server user, with a plain environment and nothing on standard input.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    // Supplementary groups are dropped by the standard library when root changes its uid.
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid).env("HOME", "/");
    }
    for name in std::env::vars_os().map(|(name, _)| name) {
        if let Some(text) = name.to_str()
            && (text.starts_with("PG") || text.starts_with("LC_") || text.starts_with("AWS_"))
        {
            command.env_remove(name);
        }
    }
    command
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

/// Gives a file or a directory to the server user.
pub fn give(path: &Path) -> Result<()> {
    match server_user() {
        Some((uid, gid)) => {
            chown(path, Some(uid), Some(gid)).with_context(|| format!("could not give {} away", path.display()))
        }
        None => Ok(()),
    }
}

/// Runs to the end, whatever the end is. Killed when the deadline has passed.
pub async fn output(command: Command, deadline: Duration) -> Result<Output> {
    let what = format!("{command:?}");
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    within(&what, deadline, command.output())
        .await?
        .with_context(|| format!("could not run {what}"))
}

/// Runs to the end and insists on success; returns what it printed.
pub async fn run(command: Command, deadline: Duration) -> Result<String> {
    let what = format!("{command:?}");
    let output = output(command, deadline).await?;
    if !output.status.success() {
        bail!(
            "{what} ended with {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
