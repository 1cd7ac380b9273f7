//! What the daemon does by itself, on schedule: backups, verification, pruning. Each is the command of that name in a process of its own, so
//! that what it needs or breaks is not the stream's.
//!
//! When something began last is kept in a file, so that a restart does not do it again. A crash while one runs leaves what killing the
//! command leaves; it is done again when it is due.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use config::Schedule;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use crate::health::facts::Job;
use crate::open::Context;
use crate::status::state_file;
use crate::{component, exit, output};

/// Between two looks at the clock: it may be set, and machines sleep.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What failed is tried again before its next time.
const AGAIN_US: i64 = 15 * 60 * 1_000_000;
/// How long a command that is to end may take.
const END_MAX: Duration = Duration::from_secs(6);
/// So many of the last lines that a command said are kept.
const LINES_KEPT: usize = 20;

/// The tasks, one for each schedule.
pub struct Jobs {
    tasks: Vec<JoinHandle<()>>,
    seen: watch::Receiver<Vec<Job>>,
    running: watch::Receiver<BTreeMap<usize, Pid>>,
}

impl Jobs {
    pub fn start(context: &Arc<Context>) -> Self {
        let file = state_file(context).with_extension("jobs.json");
        let kept = std::fs::read(&file).ok();
        let kept: Vec<Job> = kept
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let schedules = &context.cluster.schedule;
        let share = schedules.verify_share.to_string();
        let all = [
            ("backup".to_owned(), &schedules.backup, vec!["backup"]),
            (
                "verify".to_owned(),
                &schedules.verify,
                vec!["verify", "--share", share.as_str()],
            ),
            ("prune".to_owned(), &schedules.prune, vec!["prune"]),
            ("drill".to_owned(), &schedules.drill, vec!["drill"]),
        ];
        let components = component::of_cluster(context).into_iter().map(|component| {
            let arguments = vec!["backup", component.name.as_str()];
            (format!("backup {}", component.name), &component.schedule, arguments)
        });
        let groups = component::group::of_cluster(context).into_iter().map(|group| {
            let arguments = vec!["backup", "--group", group.name.as_str()];
            (format!("backup --group {}", group.name), &group.schedule, arguments)
        });
        let planned: Vec<_> = all
            .into_iter()
            .chain(components)
            .chain(groups)
            .filter_map(|(name, schedule, arguments)| Some((name, schedule.clone()?, arguments)))
            .collect();
        let jobs = planned.iter().map(|(name, _, _)| {
            let known = kept.iter().find(|job| job.name == *name).cloned();
            known.unwrap_or_else(|| Job {
                name: name.clone(),
                ..Job::default()
            })
        });
        let state = watch::Sender::new(jobs.collect::<Vec<_>>());
        let seen = state.subscribe();
        let running = watch::Sender::new(BTreeMap::new());
        let processes = running.subscribe();
        // One at a time, but for backups: they share the disk and the repository.
        let turn = Arc::new(Mutex::new(()));
        let tasks = planned.into_iter().enumerate().map(|(at, (_, schedule, arguments))| {
            let task = Task {
                at,
                schedule,
                arguments: context.arguments(&arguments),
                file: file.clone(),
                state: state.clone(),
                turn: Arc::clone(&turn),
                running: running.clone(),
                since_us: output::now_us(),
            };
            tokio::spawn(task.run())
        });
        Jobs {
            tasks: tasks.collect(),
            seen,
            running: processes,
        }
    }

    pub fn seen(&self) -> watch::Receiver<Vec<Job>> {
        self.seen.clone()
    }

    /// Ends what runs, in order if it does so soon: a backup that is cut short is gone on from, a drill takes away what it has made.
    pub async fn finish(self) {
        let running: Vec<Pid> = self.running.borrow().values().copied().collect();
        for pid in &running {
            let _ = kill_process(*pid, Signal::TERM);
        }
        let mut left = self.running.clone();
        if !running.is_empty() {
            let _ = tokio::time::timeout(END_MAX, left.wait_for(BTreeMap::is_empty)).await;
        }
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
    }
}

struct Task {
    at: usize,
    schedule: Schedule,
    arguments: Vec<std::ffi::OsString>,
    file: PathBuf,
    state: watch::Sender<Vec<Job>>,
    turn: Arc<Mutex<()>>,
    running: watch::Sender<BTreeMap<usize, Pid>>,
    since_us: i64,
}

impl Task {
    async fn run(self) {
        loop {
            let due_us = due_us(&self.schedule, &self.job(), self.since_us);
            self.change(|job| job.due_us = (due_us < i64::MAX).then_some(due_us));
            while output::now_us() < due_us {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            // A backup of the cluster waits for nobody.
            let turn = match self.job().name.as_str() {
                "backup" => None,
                _ => Some(self.turn.lock().await),
            };
            self.change(|job| job.started_us = Some(output::now_us()));
            let name = self.job().name;
            tracing::info!(job = %name, "on schedule");
            let outcome = self.execute().await;
            drop(turn);
            self.change(|job| {
                let ended_us = output::now_us();
                job.ended_us = Some(ended_us);
                match &outcome {
                    Ok((status, said)) => {
                        job.exit_code = status.code();
                        job.error = (!status.success()).then(|| said.clone());
                        if status.success() {
                            job.succeeded_us = Some(ended_us);
                        }
                    }
                    Err(error) => {
                        job.exit_code = None;
                        job.error = Some(error.to_string());
                    }
                }
            });
            match self.job() {
                Job { error: None, .. } => tracing::info!(job = %name, "done on schedule"),
                Job {
                    error: Some(error),
                    exit_code,
                    ..
                } => {
                    tracing::error!(job = %name, ?exit_code, %error, "failed on schedule");
                }
            }
        }
    }

    fn job(&self) -> Job {
        self.state.borrow().get(self.at).cloned().unwrap_or_default()
    }

    fn change(&self, change: impl FnOnce(&mut Job)) {
        self.state.send_modify(|jobs| {
            if let Some(job) = jobs.get_mut(self.at) {
                change(job);
            }
        });
        let kept = serde_json::to_vec_pretty(&*self.state.borrow()).map_err(std::io::Error::from);
        if let Err(error) = kept.and_then(|json| store::durable::atomic_write(&self.file, &json)) {
            tracing::debug!(%error, "cannot write down what ran on schedule");
        }
    }

    /// Runs the command to its end; what it says goes to the log, and the end of it is kept.
    async fn execute(&self) -> std::io::Result<(ExitStatus, String)> {
        // This very program, also when a newer one lies in its place.
        let child = Command::new("/proc/self/exe")
            .args(&self.arguments)
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        self.running
            .send_modify(|running| running.extend(pid.map(|pid| (self.at, pid))));
        let ended = self.follow(child).await;
        self.running.send_modify(|running| {
            running.remove(&self.at);
        });
        ended
    }

    async fn follow(&self, mut child: Child) -> std::io::Result<(ExitStatus, String)> {
        let mut said = Vec::new();
        if let Some(stderr) = child.stderr.take() {
            let mut lines = BufReader::new(stderr).lines();
            while let Some(line) = lines.next_line().await? {
                eprintln!("{line}");
                if line.starts_with("wal-agent: ") {
                    said.clear();
                }
                if said.len() < LINES_KEPT {
                    said.push(line);
                }
            }
        }
        let status = child.wait().await?;
        Ok((status, said.join("\n").trim_start_matches("wal-agent: ").to_owned()))
    }
}

/// When a job is due: by its schedule, or sooner when it failed.
fn due_us(schedule: &Schedule, job: &Job, since_us: i64) -> i64 {
    // A time that is still to come was written by a clock that was wrong.
    let known = |us: Option<i64>| us.filter(|us| *us <= since_us.max(output::now_us()));
    let job = &Job {
        started_us: known(job.started_us),
        ended_us: known(job.ended_us),
        ..job.clone()
    };
    let next_us = schedule.due_us(job.started_us, since_us);
    // Started and never ended: the agent ended with it.
    let was_cut = job.started_us.is_some() && job.ended_us < job.started_us;
    let failed = job.error.is_some() && !found_damage(job);
    match (was_cut, failed) {
        // Not at once: what ended the agent may have been the job.
        (true, _) => next_us.min(since_us.saturating_add(AGAIN_US)),
        (false, true) => next_us.min(job.ended_us.unwrap_or(since_us).saturating_add(AGAIN_US)),
        (false, false) => next_us,
    }
}

/// A look that found damage has done its work.
fn found_damage(job: &Job) -> bool {
    job.name == "verify" && job.exit_code == Some(i32::from(exit::DAMAGED))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;

    #[test]
    fn what_failed_or_was_cut_short_is_done_again_before_its_next_time() {
        let daily = Schedule::Every(Duration::from_secs(86_400));
        let done = Job {
            started_us: Some(HOUR_US),
            ended_us: Some(2 * HOUR_US),
            succeeded_us: Some(2 * HOUR_US),
            exit_code: Some(0),
            ..Job::default()
        };
        assert_eq!(due_us(&daily, &done, 0), 25 * HOUR_US);
        let failed = Job {
            exit_code: Some(6),
            error: Some("away".into()),
            ..done.clone()
        };
        assert_eq!(due_us(&daily, &failed, 0), 2 * HOUR_US + AGAIN_US);
        let found_damage = Job {
            name: "verify".into(),
            exit_code: Some(4),
            ..failed
        };
        assert_eq!(due_us(&daily, &found_damage, 0), 25 * HOUR_US);
        let cut = Job {
            started_us: Some(3 * HOUR_US),
            ..done
        };
        assert_eq!(due_us(&daily, &cut, 4 * HOUR_US), 4 * HOUR_US + AGAIN_US);
        assert_eq!(due_us(&daily, &Job::default(), 7), 7);
    }
}
