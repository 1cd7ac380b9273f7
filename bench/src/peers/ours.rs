//! Our agent, installed for one server with a repository in a directory of its own.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::measure::{cpu_of, status_bytes};
use crate::peers::backup::{Taken, take};
use crate::peers::process::{Background, Ran, measure, wait_until};
use crate::peers::program::{Able, Over, Program};
use crate::peers::settings::JOBS;
use crate::server::Server;

const STARTS_WITHIN: Duration = Duration::from_secs(60);
const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// What a change leaves to archive is less than the database.
const ARCHIVED_WITHIN: Duration = Duration::from_secs(600);

/// How much a backup yields to the database: `backup.brake`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brake {
    /// Not at all.
    Off,
    /// As the agent sees fit.
    Auto,
}

/// An agent that streams.
#[derive(Debug)]
pub struct Ours<'a> {
    server: &'a Server,
    agent: PathBuf,
    home: PathBuf,
    running: Option<Background>,
}

/// What a backup said of itself, and what the agent beside it took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Bytes of all files of the cluster.
    pub logical_bytes: u64,
    /// Pages that were new or changed.
    pub new_pages: u64,
    /// Seconds from the first file to the last. The rest of the wall time is the server's start and stop of a backup, the packs that
    /// are still on their way, and waiting until the agent has archived the WAL (up to `ship_interval`).
    pub copy_s: f64,
    /// CPU of the agent that streamed meanwhile.
    pub agent_cpu_s: f64,
    /// The most memory that this agent has had so far.
    pub agent_bytes: u64,
}

/// Whether an agent knows the key `backup.brake`. One that does not has no brake, and is measured as it is.
///
/// # Errors
/// It cannot be run at all.
pub fn knows_brake(server: &Server, agent: &Path, home: &Path) -> io::Result<bool> {
    install(server, home, Some(Brake::Auto))?;
    let status = command(server, agent, home, &["check", "--show-config"])
        .output()?
        .status;
    std::fs::remove_dir_all(home)?;
    Ok(status.success())
}

impl<'a> Ours<'a> {
    /// Its name.
    pub const NAME: &'static str = "Seawall";

    /// Makes an empty repository in `home` and starts the agent. `brake` is left out of the configuration for `None`.
    ///
    /// # Errors
    /// The agent failed.
    pub fn start(server: &'a Server, agent: &Path, home: &Path, brake: Option<Brake>) -> io::Result<Self> {
        install(server, home, brake)?;
        let log = home.join("init.out");
        measure(&mut command(server, agent, home, &["init", "--single-host"]), &log)?;
        let mut new = Ours {
            server,
            agent: agent.to_owned(),
            home: home.to_owned(),
            running: None,
        };
        new.run()?.wait_for_log("streaming", STARTS_WITHIN)?;
        Ok(new)
    }

    /// Starts the agent, which must not run, and does not wait for it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(&mut self) -> io::Result<&mut Background> {
        let mut run = command(self.server, &self.agent, &self.home, &["run"]);
        let running = Background::spawn(&mut run, &self.home.join("run.log"))?;
        Ok(self.running.insert(running))
    }

    /// Ends the agent when everything is archived; its slots stay.
    ///
    /// # Errors
    /// It did not end as it should.
    pub fn pause(&mut self) -> io::Result<()> {
        match self.running.take() {
            Some(running) => {
                self.wait_archived()?;
                running.end(Signal::TERM, ENDS_WITHIN)
            }
            None => Ok(()),
        }
    }

    /// Takes a backup, once everything before it is archived.
    ///
    /// # Errors
    /// It failed.
    pub fn backup_reported(&self) -> io::Result<(Taken, Report)> {
        self.wait_archived()?;
        self.backup_under_load()
    }

    /// Takes a backup at once: under load there is always more to archive.
    ///
    /// # Errors
    /// It failed.
    pub fn backup_under_load(&self) -> io::Result<(Taken, Report)> {
        let running = self.running.as_ref();
        let agent = running
            .ok_or_else(|| io::Error::other("the agent is paused"))?
            .id()
            .to_string();
        let cpu_s = cpu_of(&agent);
        let taken = take(
            self.server,
            &mut command(self.server, &self.agent, &self.home, &["backup", "--json"]),
            &self.home.join("backup.out"),
            &self.home.join("repo"),
            |path| !is_of_wal(path),
        )?;
        let said: Value = serde_json::from_str(&taken.ran.printed)?;
        let number = |name: &str| said.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN);
        if said.get("corrupt_pages").and_then(Value::as_array).map(Vec::len) != Some(0) {
            return Err(io::Error::other(format!("corrupt pages: {said}")));
        }
        let report = Report {
            logical_bytes: number("logical_bytes") as u64,
            new_pages: number("new_pages") as u64,
            copy_s: number("logical_bytes") / 1e6 / number("mb_s"),
            agent_cpu_s: cpu_of(&agent) - cpu_s,
            agent_bytes: status_bytes(&agent, "VmHWM:").unwrap_or(0),
        };
        Ok((taken, report))
    }

    /// Restores everything that is archived; recovery is not begun.
    ///
    /// # Errors
    /// It failed.
    pub fn restore_latest(&self, to: &Path) -> io::Result<Ran> {
        self.restored(to, &["--target", "latest"])
    }

    /// Ends the agent, drops its slots, removes everything.
    ///
    /// # Errors
    /// The agent did not end as it should.
    pub fn remove(self) -> io::Result<()> {
        if let Some(running) = self.running {
            running.end(Signal::TERM, ENDS_WITHIN)?;
        }
        let log = self.home.join("drop.out");
        measure(
            &mut command(self.server, &self.agent, &self.home, &["drop-slots", "--yes"]),
            &log,
        )?;
        std::fs::remove_dir_all(&self.home)
    }

    /// Waits until the agent has archived all that is written.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_archived(&self) -> io::Result<()> {
        let lsn = self.server.query("select pg_current_wal_flush_lsn()")?;
        let sql = format!(
            "select coalesce(bool_or(flush_lsn >= '{lsn}'), false) from pg_stat_replication where application_name = 'seawall'"
        );
        wait_until("WAL to be archived", ARCHIVED_WITHIN, || {
            Ok(self.server.query(&sql)? == "t")
        })
    }
}

impl Ours<'_> {
    fn restored(&self, to: &Path, args: &[&str]) -> io::Result<Ran> {
        let mut command = command(self.server, &self.agent.with_file_name("wal-restore"), &self.home, &[]);
        command.args(args).args(["--json", "--pgdata"]).arg(to);
        measure(&mut command, &self.home.join("restore.out"))
    }
}

impl Program for Ours<'_> {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn home(&self) -> &Path {
        &self.home
    }

    /// The agent knows what has changed: each backup is an increment on what is there.
    fn backup(&self, _is_increment: bool) -> io::Result<Able<Taken>> {
        self.backup_reported().map(|(taken, _)| Ok(taken))
    }

    fn restore(&self, to: &Path, over: Over) -> io::Result<Able<Ran>> {
        let mut args = vec!["--target", "immediate"];
        if over == Over::Cluster {
            args.push("--delta");
        }
        self.restored(to, &args).map(Ok)
    }

    fn push(&self, _data: &Path) -> Able<String> {
        let (agent, config) = (self.agent.display(), self.home.join("seawall.toml"));
        Ok(format!("{agent} --config {} archive-push %p", config.display()))
    }

    fn get(&self, data: &Path) -> Able<String> {
        let program = self.agent.with_file_name("wal-restore");
        let (program, config, data) = (program.display(), self.home.join("seawall.toml"), data.display());
        Ok(format!(
            "{program} --config {} wal-get %f %p --pgdata {data}",
            config.display()
        ))
    }

    fn is_wal(&self, path: &Path) -> bool {
        path.starts_with("repo") && is_of_wal(path)
    }

    fn recover(&self, to: &Path, time: &str) -> io::Result<Able<Ran>> {
        self.restored(to, &["--target-time", time]).map(Ok)
    }
}

/// The agent that streams writes these, not the backup.
fn is_of_wal(path: &Path) -> bool {
    path.iter()
        .any(|part| ["wal", "tail", "leases"].iter().any(|name| part == *name))
}

fn install(server: &Server, home: &Path, brake: Option<Brake>) -> io::Result<()> {
    std::fs::create_dir(home)?;
    server.give(home)?;
    let brake = match brake {
        Some(Brake::Off) => "brake = \"off\"\n",
        Some(Brake::Auto) => "brake = \"auto\"\n",
        None => "",
    };
    let (home_text, sockets) = (home.display(), server.directory().display());
    let config = format!(
        "[repository]\nurl = \"file://{home_text}/repo\"\n[keys]\ndirectory = \"{home_text}/keys\"\n\
         [cluster.main.postgres]\nhost = \"{sockets}\"\nuser = \"postgres\"\n\
         [cluster.main.backup]\njobs = {JOBS}\n{brake}\
         [cluster.main.status]\nstate_directory = \"{home_text}/state\"\n"
    );
    let path = home.join("seawall.toml");
    std::fs::write(&path, config)?;
    server.give(&path)
}

fn command(server: &Server, agent: &Path, home: &Path, args: &[&str]) -> Command {
    let mut command = server.command(agent);
    command
        .args(args)
        .env("SEAWALL_CONFIG", home.join("seawall.toml"))
        .env("NO_COLOR", "1");
    command
}
