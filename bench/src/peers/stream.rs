//! A backlog of WAL over the replication protocol: until all of it is durable, by `pg_receivewal` and by our agent.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::measure::{cpu_of, status_bytes};
use crate::peers::backup::{Taken, take};
use crate::peers::files::Files;
use crate::peers::ours::Ours;
use crate::peers::process::{Ran, wait_until};
use crate::peers::program::Program;
use crate::peers::slots::RECEIVER;
use crate::server::Server;

const WITHIN: Duration = Duration::from_secs(600);

/// `pg_receivewal` up to `end`, into `to`, which stays.
///
/// # Errors
/// It failed.
pub fn receive(server: &Server, to: &Path, end: &str, args: &[&str]) -> io::Result<Taken> {
    std::fs::create_dir(to)?;
    server.give(to)?;
    let mut command = server.command(&server.bin().join("pg_receivewal"));
    command
        .arg("-D")
        .arg(to)
        .args(["-S", RECEIVER, "--no-loop", "--endpos", end])
        .args(args);
    take(server, &mut command, &to.with_extension("out"), to, |_| true)
}

/// Our agent, from its start until it has confirmed `end`.
///
/// # Errors
/// It failed, or takes too long.
pub fn stream(server: &Server, ours: &mut Ours<'_>, end: &str) -> io::Result<Taken> {
    rustix::fs::sync();
    let home = ours.home().to_owned();
    let before = Files::below(&home, |path| path.starts_with("repo"))?;
    let begun = Instant::now();
    let agent = ours.run()?.id().to_string();
    let sql = format!(
        "select pid from pg_stat_replication where application_name = 'seawall' and flush_lsn >= '{end}' limit 1"
    );
    let mut sender = String::new();
    wait_until("the backlog to be archived", WITHIN, || {
        sender = server.query(&sql)?;
        Ok(!sender.is_empty())
    })?;
    let wall_s = begun.elapsed().as_secs_f64();
    let memory = status_bytes(&agent, "VmHWM:").unwrap_or(0);
    let ran = Ran {
        wall_s,
        cpu_s: cpu_of(&agent),
        peak_bytes: memory,
        largest_bytes: memory,
        ..Ran::default()
    };
    let server_cpu_s = cpu_of(&sender);
    let written = Files::below(&home, |path| path.starts_with("repo"))?.since(&before);
    ours.pause()?;
    Ok(Taken {
        ran,
        server_cpu_s,
        written,
        phases: Vec::new(),
    })
}
