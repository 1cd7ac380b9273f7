//! Wall time, CPU time and memory of a piece of work.

use std::time::Instant;

/// What a run took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Took {
    /// Seconds by the clock.
    pub wall_s: f64,
    /// Seconds of CPU of the whole process (10 ms steps).
    pub cpu_s: f64,
}

impl Took {
    /// Megabytes (10^6) a second.
    #[must_use]
    pub fn mb_s(self, bytes: usize) -> f64 {
        bytes as f64 / 1e6 / self.wall_s
    }

    /// CPU seconds for 10^9 bytes.
    #[must_use]
    pub fn cpu_s_per_gb(self, bytes: usize) -> f64 {
        self.cpu_s / (bytes as f64 / 1e9)
    }
}

/// Runs `work` once.
pub fn once(work: impl FnOnce()) -> Took {
    let (cpu, begun) = (cpu_seconds(), Instant::now());
    work();
    Took {
        wall_s: begun.elapsed().as_secs_f64(),
        cpu_s: cpu_seconds() - cpu,
    }
}

/// The middle wall time, and the mean of the CPU times (whose steps are coarse).
#[must_use]
pub fn median(mut all: Vec<Took>) -> Took {
    all.sort_by(|a, b| a.wall_s.total_cmp(&b.wall_s));
    let wall_s = all.get(all.len() / 2).map_or(f64::NAN, |took| took.wall_s);
    Took {
        wall_s,
        cpu_s: all.iter().map(|took| took.cpu_s).sum::<f64>() / all.len() as f64,
    }
}

/// Runs `work` and says by how many bytes the process was at most larger than before; `None` where the kernel does not tell.
pub fn memory_growth(work: impl FnOnce()) -> Option<u64> {
    // Makes the peak begin anew (proc(5)).
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    let before = status_bytes("self", "VmRSS:")?;
    work();
    Some(status_bytes("self", "VmHWM:")?.saturating_sub(before))
}

/// A line of `/proc/<process>/status` that is a number of kB; `None` once the process has ended.
#[must_use]
pub fn status_bytes(process: &str, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    cpu_of("self")
}

/// User and system time of a process, fields 14 and 15 of its `stat` (in ticks of 10 ms); 0 once it has ended.
#[must_use]
pub fn cpu_of(process: &str) -> f64 {
    stat_seconds(process, 11)
}

/// The same of its children that ended and were waited for, with all that these had waited for: fields 16 and 17.
#[must_use]
pub fn cpu_of_waited_children(process: &str) -> f64 {
    stat_seconds(process, 13)
}

/// User, nice, system and interrupt time of the whole machine.
#[must_use]
pub fn cpu_of_machine() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = stat.lines().next().unwrap_or_default().split_whitespace();
    let ticks: Vec<f64> = fields.skip(1).filter_map(|ticks| ticks.parse().ok()).collect();
    [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum::<f64>() / 100.0
}

/// Two numbers behind the name, which may have spaces and brackets itself.
fn stat_seconds(process: &str, skip: usize) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks = fields.skip(skip).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}
