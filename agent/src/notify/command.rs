//! A message to a program of the operator's: JSON on its standard input, done when it ends with 0.

use std::process::Stdio;

use anyhow::{Context as _, bail};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::Message;

/// So much of what it says is repeated in an error.
const SAID_MAX: usize = 200;

/// Runs it. Whoever stops waiting ends it.
pub async fn run(argv: &[String], message: &Message) -> anyhow::Result<()> {
    let (program, arguments) = argv.split_first().context("no program is named")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start \"{program}\""))?;
    if let Some(mut input) = child.stdin.take() {
        // Who does not read it may have no need to.
        let _ = input.write_all(message.json().as_bytes()).await;
    }
    let output = child.wait_with_output().await?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.trim().chars().take(SAID_MAX).collect();
    bail!("\"{program}\" ended with {}: {said}", output.status);
}
