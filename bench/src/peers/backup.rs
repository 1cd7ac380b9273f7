//! One backup by whatever program: what it took, of whom, and what it left.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::measure::cpu_of_waited_children;
use crate::peers::files::{Files, Written};
use crate::peers::process::{Ran, children, measure, wait_until};
use crate::server::Server;

/// A server's process ends with its connection; this is only to be sure that we end.
const SERVER_PROCESS_ENDS_WITHIN: Duration = Duration::from_secs(30);

/// A backup that was measured.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// The program.
    pub ran: Ran,
    /// CPU of the server's processes that worked for it: of the walsender that reads and compresses for `pg_basebackup`, of a
    /// session that starts and stops the backup for the others. The checkpoint is in none: all need the same.
    pub server_cpu_s: f64,
    /// What is new in its repository. On an object store that would be as many requests, at least.
    pub written: Written,
    /// Seconds of its parts, where it has some.
    pub phases: Vec<(&'static str, f64)>,
}

impl Taken {
    /// CPU of the program and of the server for it.
    #[must_use]
    pub fn cpu_s(&self) -> f64 {
        self.ran.cpu_s + self.server_cpu_s
    }
}

impl From<Ran> for Taken {
    /// Of what only ran: nothing is stored, and no server worked for it.
    fn from(ran: Ran) -> Self {
        Taken {
            ran,
            ..Taken::default()
        }
    }
}

/// Runs `command` against `server`, and counts what it writes below `repository`.
///
/// # Errors
/// It failed.
pub fn take(
    server: &Server,
    command: &mut Command,
    output: &Path,
    repository: &Path,
    counts: impl Fn(&Path) -> bool,
) -> io::Result<Taken> {
    // Nobody pays for the writes of the one before.
    rustix::fs::sync();
    let files = Files::below(repository, &counts)?;
    let first = server.process()?;
    let (others, cpu_s) = (children(first), cpu_of_waited_children(&first.to_string()));
    let ran = measure(command, output)?;
    // The server collects a process when it has ended, and then we see all of its time.
    wait_until("the server's process to end", SERVER_PROCESS_ENDS_WITHIN, || {
        Ok(children(first).iter().all(|child| others.contains(child)))
    })?;
    Ok(Taken {
        ran,
        server_cpu_s: cpu_of_waited_children(&first.to_string()) - cpu_s,
        written: Files::below(repository, &counts)?.since(&files),
        phases: Vec::new(),
    })
}
