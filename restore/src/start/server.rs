//! The restored server as a process: its programs, its log, and what it died of.

use std::path::PathBuf;
use std::time::Duration;

use super::{failed, log};
use crate::error::{RestoreError, Result};
use crate::open::Opened;
use crate::owner::Owner;
use crate::paths::OURS;
use crate::place::running_postmaster;

/// The restored server.
#[derive(Debug)]
pub(crate) struct Server {
    /// Directory of its programs.
    pub(crate) programs: PathBuf,
    /// Its data directory.
    pub(crate) pgdata: PathBuf,
    /// Its user, when we are root.
    pub(crate) owner: Option<Owner>,
    /// A role that the configuration names.
    pub(crate) configured_user: Option<String>,
    /// The database that the configuration names.
    pub(crate) configured_database: Option<String>,
    /// How long recovery may take.
    pub(crate) limit: Duration,
    /// Nobody else is let in: our own access rules stay.
    pub(crate) is_private: bool,
    /// SQL that must be true of what was restored.
    pub(crate) assertions: Vec<String>,
}

impl Server {
    /// One whose files are there.
    pub(crate) fn new(
        opened: &Opened,
        programs: PathBuf,
        pgdata: PathBuf,
        owner: Option<Owner>,
        limit: Duration,
    ) -> Self {
        let option = |name: &str| opened.cluster.postgres.options.get(name).cloned();
        Server {
            programs,
            pgdata,
            owner,
            configured_user: option("user"),
            configured_database: option("dbname"),
            limit,
            is_private: false,
            assertions: opened.cluster.drill.assertions.clone(),
        }
    }

    /// Stops it in order.
    pub(crate) async fn stop(&self) -> Result<()> {
        self.run_pg_ctl("the server did not stop", &["stop", "-w", "-m", "fast"])
            .await
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.pgdata.join(OURS).join("server.log")
    }

    /// `pg_ctl`, as the owner of the files.
    fn pg_ctl(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = self.program("pg_ctl");
        command
            .args(arguments)
            .arg("-D")
            .arg(&self.pgdata)
            .current_dir(&self.pgdata);
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped());
        command.into()
    }

    /// One of the server's programs, as the owner of the files.
    pub(crate) fn program(&self, name: &str) -> std::process::Command {
        let program = self.programs.join(name);
        let mut command = match &self.owner {
            Some(owner) => owner.command(&program),
            None => std::process::Command::new(program),
        };
        // What libpq reads there is for other servers.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        command
    }

    pub(super) async fn run_pg_ctl(&self, what: &str, arguments: &[&str]) -> Result<()> {
        let program = self.programs.join("pg_ctl");
        // The server keeps our end of a pipe open, so its errors go to the log only.
        let status = self
            .pg_ctl(arguments)
            .stderr(std::process::Stdio::null())
            .status()
            .await
            .map_err(RestoreError::io("run", &program))?;
        if status.success() { Ok(()) } else { Err(self.died(what)) }
    }

    /// Why the server is not there, in its own words.
    pub(super) fn died(&self, what: &str) -> RestoreError {
        let log = self.log_path();
        match log::last_fatal(&self.pgdata, &log) {
            Some(line) if line.contains("recovery ended before configured recovery target was reached") => failed(
                format!("{what}: recovery ended before the stop point: {line}"),
                "Archived WAL ends or is damaged before the stop point. Nothing was promoted; see the log in seawall.restore, and choose an earlier one.",
            ),
            Some(line) if line.contains("lock file") || line.contains("could not bind") => failed(
                format!("{what}: {line}"),
                "The files are restored. Run it again with --delta and --port N or --socket-dir DIR.",
            ),
            Some(line) => failed(
                format!("{what}: {line}"),
                format!("The whole log is in \"{}\".", log.display()),
            ),
            None => failed(what.to_owned(), format!("See the log in \"{}\".", log.display())),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        running_postmaster(&self.pgdata).is_some()
    }
}
