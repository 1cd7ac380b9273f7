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
    let before = status_bytes("VmRSS:")?;
    work();
    Some(status_bytes("VmHWM:")?.saturating_sub(before))
}

fn status_bytes(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// User and system time of this process, from `/proc/self/stat` (fields 14 and 15, in ticks of 10 ms).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    fields
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}
