//! CPU and memory of our programs, from /proc, twice a second.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::tests::wait::Pace;
use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const EVERY: Duration = Duration::from_millis(500);

/// Whose figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Agent,
    Backup,
}

/// One look at one process. The time is since the begin of the run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) at: Duration,
    pub(crate) role: Role,
    pub(crate) pid: u32,
    /// User and system, since the process was started.
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_kib: u64,
    pub(crate) rss_peak_kib: u64,
}

/// The processes that are looked at; events change them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watched(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    processes: Vec<(Role, u32)>,
    samples: Vec<Sample>,
    begin: Option<Instant>,
}

impl Watched {
    pub(crate) fn add(&self, role: Role, pid: u32) {
        self.with(|inner| inner.processes.push((role, pid)));
        self.look();
    }

    /// The last figures of a process that is about to end.
    pub(crate) fn remove(&self, pid: u32) {
        self.look();
        self.with(|inner| inner.processes.retain(|(_, other)| *other != pid));
    }

    fn look(&self) {
        self.with(|inner| {
            let at = inner.begin.map_or(Duration::ZERO, |begin| begin.elapsed());
            for (role, pid) in inner.processes.clone() {
                // One that has ended by itself has no figures any more.
                inner.samples.extend(Sample::take(at, role, pid));
            }
        });
    }

    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A task that looks.
#[derive(Debug)]
pub(crate) struct Sampler {
    watched: Watched,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Sampler {
    pub(crate) fn start(watched: &Watched, begin: Instant) -> Self {
        watched.with(|inner| {
            inner.begin = Some(begin);
            inner.samples.clear();
        });
        watched.look();
        let stop = watch::Sender::new(false);
        let (looked_at, stopped) = (watched.clone(), stop.subscribe());
        let task = tokio::spawn(async move {
            let mut pace = Pace::every(EVERY);
            while !*stopped.borrow() {
                pace.tick().await;
                looked_at.look();
            }
        });
        Self {
            watched: watched.clone(),
            stop,
            task,
        }
    }

    pub(crate) async fn finish(self) -> Result<Vec<Sample>> {
        self.stop.send_replace(true);
        self.task.await.context("the sampler panicked")?;
        Ok(self.watched.with(|inner| std::mem::take(&mut inner.samples)))
    }
}

impl Sample {
    fn take(at: Duration, role: Role, pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(Self {
            at,
            role,
            pid,
            cpu_seconds: cpu_ticks(&stat)? as f64 / rustix::param::clock_ticks_per_second() as f64,
            rss_kib: kib(&status, "VmRSS:")?,
            rss_peak_kib: kib(&status, "VmHWM:")?,
        })
    }
}

/// utime and stime: the 14th and 15th field. The name before them may contain anything, a `)` too.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

fn kib(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_proc() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 700 0 0 0 31 11 0 0 20 0 5 0 100 0 0";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(kib("VmHWM:\t  5120 kB\nVmRSS:\t  4096 kB\n", "VmRSS:"), Some(4096));
        let own = Sample::take(Duration::ZERO, Role::Agent, std::process::id()).unwrap();
        assert!(own.rss_kib > 0 && own.rss_peak_kib >= own.rss_kib);
    }
}
