//! How busy the processors of this machine are, and how much of that is ours.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What the processors did in a while, as parts of all of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Load {
    /// Nothing.
    pub(super) idle: f64,
    /// Work for other processes.
    pub(super) others: f64,
    /// How many there are.
    pub(super) processors: usize,
}

/// Counters since the machine started.
#[derive(Debug, Clone, Copy)]
struct Counters {
    /// Ticks of all processors, and those of them without work.
    all: u64,
    idle: u64,
    processors: usize,
    /// Processor time of this process.
    own: Duration,
}

/// Looks at the counters now and then.
#[derive(Debug)]
pub(super) struct Watch(Option<Counters>);

impl Watch {
    pub(super) fn begin() -> Self {
        Watch(Counters::now())
    }

    /// What happened since the last look; `None` where nobody counts, or nothing was counted.
    pub(super) fn look(&mut self) -> Option<Load> {
        let before = std::mem::replace(&mut self.0, Counters::now())?;
        load(&before, &self.0?, rustix::param::clock_ticks_per_second())
    }
}

impl Counters {
    fn now() -> Option<Self> {
        let text = std::fs::read_to_string("/proc/stat").ok()?;
        let mut lines = text.lines();
        let (all, idle) = ticks(lines.next()?)?;
        let processors = lines.take_while(|line| line.starts_with("cpu")).count();
        let own = clock_gettime(ClockId::ProcessCPUTime);
        let nanoseconds = u32::try_from(own.tv_nsec).ok()?;
        Some(Counters {
            all,
            idle,
            processors,
            own: Duration::new(u64::try_from(own.tv_sec).ok()?, nanoseconds),
        })
    }
}

/// All ticks and the idle ones of the line `cpu` (proc_stat(5)): user, nice, system, idle, iowait, irq, softirq. What a hypervisor
/// took (steal) was nobody's here.
fn ticks(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_ascii_whitespace();
    (fields.next()? == "cpu").then_some(())?;
    let numbers: Vec<u64> = fields.take(7).map(|field| field.parse().ok()).collect::<Option<_>>()?;
    Some((numbers.iter().sum(), numbers.get(3)? + numbers.get(4)?))
}

fn load(before: &Counters, after: &Counters, ticks_per_second: u64) -> Option<Load> {
    let all = after.all.checked_sub(before.all).filter(|all| *all > 0)? as f64;
    let idle = after.idle.saturating_sub(before.idle) as f64 / all;
    let own = after.own.saturating_sub(before.own).as_secs_f64() * ticks_per_second as f64 / all;
    Some(Load {
        idle: idle.min(1.0),
        others: (1.0 - idle - own).clamp(0.0, 1.0),
        processors: after.processors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_proc_stat_is_read() {
        assert_eq!(ticks("cpu  10 20 30 400 5 6 7 800 9 10"), Some((478, 405)));
        assert_eq!(ticks("cpu0 10 20 30 400 5 6 7 800 9 10"), None);
        assert_eq!(ticks("cpu  1 2"), None);
        assert!(Counters::now().is_some());
    }

    #[test]
    fn what_is_neither_idle_nor_ours_is_others() {
        let counters = |all, idle, own_ms| Counters {
            all,
            idle,
            processors: 2,
            own: Duration::from_millis(own_ms),
        };
        let found = load(&counters(1000, 500, 0), &counters(1200, 550, 500), 100).unwrap();
        assert!(
            (found.idle - 0.25).abs() < 1e-9 && (found.others - 0.5).abs() < 1e-9,
            "{found:?}"
        );
        assert_eq!(load(&counters(1000, 500, 0), &counters(1000, 500, 0), 100), None);
    }
}
