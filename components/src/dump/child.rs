//! Programs that run beside us: what they say at their end, and how they ended.

use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::refusal::failed;
use crate::ComponentError;

/// Bytes of what a program says that are kept: the last. Several hundred complaints of which each counts.
const SAID_BYTES_MAX: usize = 256 << 10;
/// Lines of it that are told of a program that failed.
const SAID_LINES_MAX: usize = 12;

/// A program, and what it says on standard error.
#[derive(Debug)]
pub(super) struct Running {
    what: String,
    /// The process.
    pub child: Child,
    said: JoinHandle<String>,
}

impl Running {
    /// Starts it. `what` says in words what it does.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mut command: Command, what: impl Into<String>) -> Result<Self, ComponentError> {
        let program = command.as_std().get_program().to_owned();
        let started = command.stderr(std::process::Stdio::piped()).spawn();
        let mut child = started.map_err(ComponentError::io("start", Path::new(&program)))?;
        let said = tokio::spawn(last_of(child.stderr.take()));
        Ok(Running {
            what: what.into(),
            child,
            said,
        })
    }

    /// Waits for its end; returns what it said beside.
    ///
    /// # Errors
    /// It failed.
    pub async fn end(mut self) -> Result<String, ComponentError> {
        self.last_words().await
    }

    /// The same, for who must keep it; once.
    ///
    /// # Errors
    /// It failed.
    pub async fn last_words(&mut self) -> Result<String, ComponentError> {
        drop(self.child.stdin.take());
        let status = self.child.wait().await;
        let status = status.map_err(ComponentError::io("wait for", Path::new(&self.what)))?;
        let said = (&mut self.said).await.unwrap_or_default();
        match status.success() {
            true => Ok(said),
            false => {
                let lines: Vec<&str> = said.split("; ").collect();
                let from = lines.len().saturating_sub(SAID_LINES_MAX);
                let last = lines.get(from..).unwrap_or_default().join("; ");
                Err(failed(format!("{} failed ({status})", self.what), &last))
            }
        }
    }
}

/// The last lines of a stream.
async fn last_of(stream: Option<impl AsyncRead + Unpin>) -> String {
    let (mut last, mut buffer) = (Vec::new(), [0; 1024]);
    let Some(mut stream) = stream else {
        return String::new();
    };
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        last.extend_from_slice(buffer.get(..read).unwrap_or_default());
        last.drain(..last.len().saturating_sub(SAID_BYTES_MAX));
    }
    let text = String::from_utf8_lossy(&last);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.join("; ")
}
