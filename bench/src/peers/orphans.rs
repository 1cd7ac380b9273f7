//! Programs that go on in the background: what they start and leave becomes our child, and is added to what they took.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};

use crate::measure::cpu_of_waited_children;
use crate::peers::process::{Ran, children, measure};

/// How long what was left may go on by itself: it has nothing to do any more.
const ENDS_BY_ITSELF: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(10);

/// Runs `command` and measures it with everything that it leaves behind. The wall time is the command's own: what goes on behind it
/// goes on behind the work that was asked for.
///
/// # Errors
/// It failed, or something it left does not end.
pub fn measure_with_orphans(command: &mut Command, output: &Path) -> io::Result<Ran> {
    let ours = std::process::id();
    let (before, cpu_s) = (children(ours), cpu_of_waited_children("self"));
    set_child_subreaper(Some(getpid()))?;
    let ran = measure(command, output);
    let collected = collect(&before);
    set_child_subreaper(None)?;
    let mut ran = ran?;
    collected?;
    ran.cpu_s = cpu_of_waited_children("self") - cpu_s;
    Ok(ran)
}

/// Ends and waits for every child that was not there before.
fn collect(before: &[u32]) -> io::Result<()> {
    let begun = Instant::now();
    let mut is_asked = false;
    loop {
        let left: Vec<Pid> = children(std::process::id())
            .into_iter()
            .filter(|child| !before.contains(child))
            .filter_map(|child| Pid::from_raw(i32::try_from(child).ok()?))
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        let must_end = !is_asked && begun.elapsed() > ENDS_BY_ITSELF;
        for child in left {
            if must_end {
                // An error means that it has just ended.
                let _ = kill_process(child, Signal::TERM);
            }
            if begun.elapsed() > 10 * ENDS_BY_ITSELF {
                kill_process(child, Signal::KILL)?;
            }
            waitpid(Some(child), WaitOptions::NOHANG)?;
        }
        is_asked |= must_end;
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_leaves_is_counted_and_ended() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "(while :; do :; done) & (sleep 100) & exit 0"]);
        let ran = measure_with_orphans(&mut command, &directory.path().join("out")).unwrap();
        assert!(ran.wall_s < 0.9, "{ran:?}");
        // On a busy machine it gets little in its second; the shell alone takes less than one step of the clock.
        assert!(ran.cpu_s > 0.05, "{ran:?}");
    }
}
