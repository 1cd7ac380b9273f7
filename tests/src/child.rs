//! A long-running program under test: output to files, ended by its id, never outliving its value.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::scratch::Scratch;
use crate::wait::{wait_for, wait_until};

/// One running program. Dropping it kills it.
#[derive(Debug)]
pub struct Child {
    name: String,
    process: std::process::Child,
    stdout: PathBuf,
    stderr: PathBuf,
    // Logs live there: not to be removed before the program is gone.
    _scratch: Scratch,
}

impl Child {
    /// Starts `command`; output goes to `log/<name>.N.out.log` and `.err.log` in the scratch directory.
    pub fn spawn(scratch: &Scratch, name: &str, mut command: Command) -> Result<Self> {
        let dir = scratch.dir("log")?;
        let log = |kind: &str, n: u32| dir.join(format!("{name}.{n}.{kind}.log"));
        let n = (1..).find(|n| !log("out", *n).exists()).unwrap_or(1);
        let (stdout, stderr) = (log("out", n), log("err", n));
        let process = command
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?)
            .spawn()
            .with_context(|| format!("could not start {command:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            process,
            stdout,
            stderr,
            _scratch: scratch.clone(),
        })
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The most memory that it has had so far.
    pub fn peak_memory_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.context("no VmHWM")?.parse()?)
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, signal).with_context(|| format!("could not signal {}", self.name))
    }

    /// Stops it as a hung machine would: it keeps its sockets and answers nothing.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGKILL, and it is gone when this returns.
    pub fn kill9(mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// SIGTERM, then waits for the end.
    pub async fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended() {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        self.wait(deadline).await
    }

    /// SIGTERM, and insists on a clean end: code 0, or the signal itself.
    pub async fn stop(mut self, deadline: Duration) -> Result<()> {
        let status = self.terminate(deadline).await?;
        ensure!(
            status.success() || status.signal() == Some(Signal::TERM.as_raw()),
            "{} ended with {status}\n{}",
            self.name,
            self.log()
        );
        Ok(())
    }

    /// Waits for it to end by itself.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let process = &mut self.process;
        wait_for(&what, deadline, async || process.try_wait().ok().flatten()).await
    }

    /// What it has printed so far, both streams.
    pub fn log(&self) -> String {
        let read = |path: &Path| {
            let bytes = fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        read(&self.stdout) + &read(&self.stderr)
    }

    /// Waits for a line with `text`; an early end of the program is an error at once.
    pub async fn wait_for_log(&mut self, text: &str, deadline: Duration) -> Result<()> {
        let what = format!("{text:?} in the log of {}", self.name);
        let mut early_end = None;
        wait_until(&what, deadline, async || {
            // In this order: what it printed last must count.
            early_end = self.ended();
            self.log().contains(text) || early_end.is_some()
        })
        .await?;
        match early_end {
            Some(status) if !self.log().contains(text) => {
                bail!("{} ended with {status} before {what}\n{}", self.name, self.log())
            }
            _ => Ok(()),
        }
    }

    /// Fails on any line of level WARN or ERROR, and any panic, that holds none of the allowed texts.
    pub fn assert_no_unexpected_warnings(&self, allow: &[&str]) -> Result<()> {
        let log = self.log();
        let unexpected = unexpected_warnings(&log, allow);
        ensure!(
            unexpected.is_empty(),
            "unexpected lines in the log of {}:\n{}",
            self.name,
            unexpected.join("\n")
        );
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // An error means that it has ended already, and then `wait` only collects it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Lines of level WARN or ERROR, as text or as JSON, and panics, without those that are allowed.
pub fn unexpected_warnings<'a>(log: &'a str, allow: &[&str]) -> Vec<&'a str> {
    log.lines()
        .filter(|line| is_warning(line))
        .filter(|line| !allow.iter().any(|text| line.contains(text)))
        .collect()
}

fn is_warning(line: &str) -> bool {
    if line.contains("panicked at") {
        return true;
    }
    if line.starts_with('{') {
        return ["WARN", "ERROR"]
            .iter()
            .any(|level| line.contains(&format!("\"level\":\"{level}\"")));
    }
    // The level is the first or the second word (after the time), perhaps in colour.
    line.split_whitespace().take(2).any(|word| {
        let word = word.trim_matches(|c: char| !c.is_ascii_uppercase());
        word == "WARN" || word == "ERROR"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_found_in_text_and_json_and_allowed_by_content() {
        let log = "2026-11-21T05:24:00Z  INFO wal::ship: segment archived error=WARN\n\
                   2026-11-21T05:24:01Z  WARN store::retry: request failed attempt=1\n\
                   {\"timestamp\":\"t\",\"level\":\"ERROR\",\"fields\":{}}\n\
                   \u{1b}[33m WARN\u{1b}[0m slot is far behind\n\
                   thread 'main' panicked at src/main.rs:1:1";
        assert_eq!(unexpected_warnings(log, &[]).len(), 4);
        assert_eq!(unexpected_warnings(log, &["request failed", "far behind"]).len(), 2);
    }
}
