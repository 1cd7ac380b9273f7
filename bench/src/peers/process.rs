//! Programs: run to the end and measured, or in the background.
//!
//! CPU is what the kernel has added to us for children that ended and were waited for, the counters behind wait4(2): exact, with
//! every descendant that its parent waited for, and without a sampler that could miss the end. Sampling would lose what happens
//! between the last sample and the end, and a control group needs rights that a bench may not have. Memory is sampled, because
//! nothing adds it up over a tree of processes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::measure::{cpu_of_machine, cpu_of_waited_children, status_bytes};

/// How long the end of a program may be noticed late.
const POLL: Duration = Duration::from_millis(2);
const SAMPLE: Duration = Duration::from_millis(25);
/// Nothing here takes this long; what does has hung.
const DEADLINE: Duration = Duration::from_secs(1800);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes everything that waits here end with an error, so that values are dropped and directories removed.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// An error once [`interrupt`] was called.
///
/// # Errors
/// See above.
pub fn check_interrupted() -> io::Result<()> {
    match INTERRUPTED.load(Ordering::Relaxed) {
        true => Err(io::Error::other("interrupted")),
        false => Ok(()),
    }
}

/// What a program took that ran to its end.
#[derive(Clone, Debug, Default)]
pub struct Ran {
    /// From its start to its end.
    pub wall_s: f64,
    /// CPU of it and its descendants.
    pub cpu_s: f64,
    /// CPU of everything else on the machine meanwhile: the server's, and what disturbed us.
    pub other_cpu_s: f64,
    /// Most resident memory of all its processes together, of the samples. What they share counts in each.
    pub peak_bytes: u64,
    /// Most resident memory of one process, as the kernel has it.
    pub largest_bytes: u64,
    /// What it printed to standard output.
    pub printed: String,
}

/// Runs `command` and measures it. Nothing else may be waited for meanwhile. What others left to be written is written before.
///
/// # Errors
/// It failed, hung, or we were interrupted.
pub fn measure(command: &mut Command, output: &Path) -> io::Result<Ran> {
    let errors = output.with_extension("err");
    command.stdin(Stdio::null());
    command.stdout(File::create(output)?).stderr(File::create(&errors)?);
    rustix::fs::sync();
    let before = children(std::process::id());
    let (cpu, machine, begun) = (cpu_of_waited_children("self"), cpu_of_machine(), Instant::now());
    let mut child = Ended(command.spawn().map_err(|error| named(command, &error))?);
    let mut memory = Memory::default();
    let mut next_sample = begun;
    let status = loop {
        if let Some(status) = child.0.try_wait()? {
            break status;
        }
        if Instant::now() >= next_sample {
            memory.sample(&before);
            next_sample = Instant::now() + SAMPLE;
        }
        if begun.elapsed() > DEADLINE {
            return Err(io::Error::other(format!("{command:?} did not end")));
        }
        check_interrupted()?;
        std::thread::sleep(POLL);
    };
    let wall_s = begun.elapsed().as_secs_f64();
    if !status.success() {
        return Err(failed(command, status, &[output, &errors]));
    }
    let cpu_s = cpu_of_waited_children("self") - cpu;
    let largest_bytes = memory.high_water.values().copied().max().unwrap_or(0);
    Ok(Ran {
        wall_s,
        cpu_s,
        other_cpu_s: (cpu_of_machine() - machine - cpu_s).max(0.0),
        // Between two samples there may have been more.
        peak_bytes: memory.peak_bytes.max(largest_bytes),
        largest_bytes,
        printed: std::fs::read_to_string(output)?,
    })
}

/// A process that does not outlive its value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // An error means that it has ended already, and then `wait` only collects it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Default)]
struct Memory {
    peak_bytes: u64,
    high_water: BTreeMap<u32, u64>,
}

impl Memory {
    /// Of all children that were not there before: the program, and what it left to us.
    fn sample(&mut self, before: &[u32]) {
        let mut resident = 0;
        let mut todo = children(std::process::id());
        todo.retain(|child| !before.contains(child));
        while let Some(process) = todo.pop() {
            let of = |name| status_bytes(&process.to_string(), name).unwrap_or(0);
            resident += of("VmRSS:");
            let high = self.high_water.entry(process).or_default();
            *high = of("VmHWM:").max(*high);
            todo.extend(children(process));
        }
        self.peak_bytes = self.peak_bytes.max(resident);
    }
}

/// The children of all threads of a process.
#[must_use]
pub fn children(process: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task"));
    let lists = threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let all: Vec<String> = lists.collect();
    all.iter()
        .flat_map(|list| list.split_whitespace())
        .filter_map(|id| id.parse().ok())
        .collect()
}

/// A program that runs beside what is measured.
#[derive(Debug)]
pub struct Background {
    what: String,
    child: Child,
    log: PathBuf,
}

impl Background {
    /// Starts it; both outputs go to `log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(command: &mut Command, log: &Path) -> io::Result<Self> {
        let file = File::create(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().map_err(|error| named(command, &error))?;
        Ok(Background {
            what: format!("{command:?}"),
            child,
            log: log.to_owned(),
        })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until its log holds `text`.
    ///
    /// # Errors
    /// It ended before, or it takes too long.
    pub fn wait_for_log(&mut self, text: &str, limit: Duration) -> io::Result<()> {
        let what = format!("{text:?} of {}", self.what);
        wait_until(&what, limit, || {
            let ended = self.child.try_wait()?;
            let log = std::fs::read_to_string(&self.log)?;
            match ended {
                _ if log.contains(text) => Ok(true),
                Some(status) => Err(io::Error::other(format!("{} ended with {status}: {log}", self.what))),
                None => Ok(false),
            }
        })
    }

    /// Sends `signal` and insists on an end with code 0.
    ///
    /// # Errors
    /// It ended before, otherwise, or not within `limit`.
    pub fn end(mut self, signal: Signal, limit: Duration) -> io::Result<()> {
        kill_process(Pid::from_child(&self.child), signal)?;
        let mut status = None;
        wait_until(&format!("the end of {}", self.what), limit, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        match status {
            Some(status) if !status.success() => Err(io::Error::other(format!(
                "{} ended with {status}: {}",
                self.what,
                tail(&self.log)
            ))),
            _ => Ok(()),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks until it is true.
///
/// # Errors
/// The question failed, it is never true within `limit`, or we were interrupted.
pub fn wait_until(what: &str, limit: Duration, mut is_true: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let begun = Instant::now();
    while !is_true()? {
        check_interrupted()?;
        if begun.elapsed() > limit {
            return Err(io::Error::other(format!("gave up waiting for {what}")));
        }
        std::thread::sleep(10 * POLL);
    }
    Ok(())
}

fn named(command: &Command, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{command:?}: {error}"))
}

fn failed(command: &Command, status: ExitStatus, outputs: &[&Path]) -> io::Error {
    let said: String = outputs.iter().map(|output| tail(output)).collect();
    io::Error::other(format!("{command:?} ended with {status}: {said}"))
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.len().saturating_sub(20);
    lines.get(last..).unwrap_or_default().join("\n")
}
