//! Starting, stopping and killing a server.

use std::fs;
use std::process::Command;
use std::sync::Once;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};

use super::Cluster;
use crate::scratch::write_private;
use crate::user;
use crate::wait::{DEADLINE, wait_until};

/// PostgreSQL's three ways to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    Smart,
    Fast,
    Immediate,
}

impl StopMode {
    fn name(self) -> &'static str {
        match self {
            Self::Smart => "smart",
            Self::Fast => "fast",
            Self::Immediate => "immediate",
        }
    }
}

impl Cluster {
    /// Starts the server and waits until it accepts connections. The error holds its log.
    pub async fn start(&self) -> Result<()> {
        self.start_within(DEADLINE).await
    }

    /// As [`Cluster::start`], for a recovery that takes longer.
    pub async fn start_within(&self, deadline: Duration) -> Result<()> {
        collect_orphans();
        if let Some(pid) = self.last_postmaster() {
            collect(pid);
        }
        let before = self.server_log().len();
        let mut command = self.start_command();
        command.arg("--wait").arg(format!("--timeout={}", deadline.as_secs()));
        let started = user::run(command, deadline + Duration::from_secs(10)).await;
        if let Err(error) = started {
            let log = self.server_log();
            let new = log.get(before..).unwrap_or(&log);
            return Err(error.context(format!("cluster {} did not start:\n{new}", self.name)));
        }
        Ok(())
    }

    /// Starts the server and waits for nothing: a recovery that is expected to fail.
    pub async fn launch(&self) -> Result<()> {
        collect_orphans();
        let mut command = self.start_command();
        command.arg("--no-wait");
        user::run(command, DEADLINE).await?;
        Ok(())
    }

    fn start_command(&self) -> Command {
        let mut options = String::new();
        if self.etc != self.data {
            let file = self.etc.join("postgresql.conf");
            options.push_str(&format!(" -c config_file={}", file.display()));
        }
        for (name, value) in &self.overrides {
            options.push_str(&format!(" -c {name}='{value}'"));
        }
        let mut command = self.tool("pg_ctl");
        command
            .args(["start", "--silent", "-D"])
            .arg(&self.data)
            .arg("-l")
            .arg(&self.log)
            .arg("-o")
            .arg(options);
        command
    }

    /// Stops the server and waits until it is down.
    pub async fn stop(&self, mode: StopMode) -> Result<()> {
        let mut command = self.tool("pg_ctl");
        command
            .args(["stop", "--wait", "--silent", "-m", mode.name()])
            .arg(format!("--timeout={}", DEADLINE.as_secs()))
            .arg("-D")
            .arg(&self.data);
        user::run(command, DEADLINE + Duration::from_secs(10)).await?;
        Ok(())
    }

    pub async fn restart(&self) -> Result<()> {
        self.stop(StopMode::Fast).await?;
        self.start().await
    }

    /// Reads the configuration files again, without waiting for all processes to have seen them.
    pub async fn reload(&self) -> Result<()> {
        self.exec("select pg_reload_conf()").await
    }

    /// The power cut: SIGKILL to the postmaster and all of its children. All are gone afterwards.
    pub fn kill9(&self) -> Result<()> {
        ensure!(self.postmaster().is_some(), "{} does not run", self.name);
        self.kill_all()
    }

    /// Stops all of its processes as a hung machine would: sockets stay open, nothing is answered.
    pub fn freeze(&self) -> Result<()> {
        let postmaster = self
            .postmaster()
            .with_context(|| format!("{} does not run", self.name))?;
        // First, so that it makes no children between the listing and the stopping.
        kill_process(postmaster, Signal::STOP)?;
        for pid in children(postmaster)? {
            kill_process(pid, Signal::STOP)?;
        }
        Ok(())
    }

    pub fn thaw(&self) -> Result<()> {
        let postmaster = self
            .postmaster()
            .with_context(|| format!("{} does not run", self.name))?;
        for pid in children(postmaster)? {
            kill_process(pid, Signal::CONT)?;
        }
        kill_process(postmaster, Signal::CONT)?;
        Ok(())
    }

    /// The cheapest way to a new timeline: stopped in order, then [`Cluster::start_promoted`].
    pub async fn switch_timeline(&self) -> Result<()> {
        self.stop(StopMode::Fast).await?;
        self.start_promoted().await
    }

    /// Starts as a standby of nobody, which replays what it has and is then promoted.
    pub async fn start_promoted(&self) -> Result<()> {
        write_private(&self.data.join("standby.signal"), b"")?;
        self.start().await?;
        self.promote().await
    }

    /// Promotes a standby and waits until it takes writes.
    pub async fn promote(&self) -> Result<()> {
        self.exec("select pg_promote()").await?;
        self.wait_promoted(DEADLINE).await
    }

    pub fn is_running(&self) -> bool {
        self.postmaster().is_some()
    }

    /// Waits until the server is down by itself (`recovery_target_action = shutdown`, a crash).
    pub async fn wait_down(&self, deadline: Duration) -> Result<()> {
        let what = format!("cluster {} to be down", self.name);
        wait_until(&what, deadline, async || !self.is_running()).await
    }

    /// Waits until recovery has ended and the server accepts writes.
    pub async fn wait_promoted(&self, deadline: Duration) -> Result<()> {
        let what = format!("cluster {} to leave recovery", self.name);
        let probe = async || {
            let answer = self.query_one("select pg_is_in_recovery()").await;
            answer.is_ok_and(|answer| answer == "f")
        };
        wait_until(&what, deadline, probe).await
    }

    /// The postmaster, if it lives. Its working directory proves that the id was not given to another
    /// process since: servers of other tests must never be hit.
    pub(super) fn postmaster(&self) -> Option<Pid> {
        let pid = self.last_postmaster()?;
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let ours = fs::canonicalize(&self.data).ok()?;
        (cwd == ours && is_alive(pid)).then_some(pid)
    }

    fn last_postmaster(&self) -> Option<Pid> {
        let file = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        Pid::from_raw(file.lines().next()?.trim().parse().ok()?)
    }

    pub(super) fn kill_all(&self) -> Result<()> {
        let Some(postmaster) = self.postmaster() else {
            return Ok(());
        };
        let segment = self.shared_memory();
        // Stopped first, so that it makes no children between the listing and the killing.
        let _ = kill_process(postmaster, Signal::STOP);
        let mut all = children(postmaster)?;
        all.push(postmaster);
        for pid in &all {
            let _ = kill_process(*pid, Signal::KILL);
        }
        // Not async, because it also runs when a value is dropped. The kernel ends them at once.
        let start = Instant::now();
        while !all.iter().all(|pid| collect(*pid)) {
            if start.elapsed() > DEADLINE {
                bail!("processes of cluster {} survive SIGKILL", self.name);
            }
            std::thread::yield_now();
        }
        // A reboot would take it away; a machine has no more than 4096 of them.
        if let Some(segment) = segment {
            let _ = std::process::Command::new("ipcrm").args(["-m", &segment]).output();
        }
        Ok(())
    }

    /// Id of its System V shared memory: the second number of the seventh line of postmaster.pid (src/include/utils/pidfile.h).
    fn shared_memory(&self) -> Option<String> {
        let file = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        Some(file.lines().nth(6)?.split_whitespace().nth(1)?.to_owned())
    }
}

/// Makes this process the parent of orphans below it. To PostgreSQL a killed postmaster runs as long as
/// nobody has collected it, and in a container the process that should may never do.
fn collect_orphans() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = set_child_subreaper(Some(getpid()));
    });
}

/// True when the process is dead, and collected if that was ours to do.
fn collect(pid: Pid) -> bool {
    if is_alive(pid) {
        return false;
    }
    let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    true
}

fn children(parent: Pid) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("read /proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if stat(pid).is_some_and(|(_, ppid)| ppid == parent.as_raw_pid())
            && let Some(pid) = Pid::from_raw(pid)
        {
            found.push(pid);
        }
    }
    Ok(found)
}

/// A zombie is dead: where nobody collects orphans it stays in /proc.
fn is_alive(pid: Pid) -> bool {
    stat(pid.as_raw_pid()).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}

/// State and parent of a process. The name before them may contain anything, a `)` too.
fn stat(pid: i32) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}
