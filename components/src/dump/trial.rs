//! A server of our own, that loads what was restored: in a private directory, on a socket in it, and gone when we are done.
//!
//! A crash here leaves the directory, and the server, which ends with [`Trial`] otherwise. It holds nothing that is not in the dumps.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::load::{self, Database, LoadOptions, Source, Target};
use super::programs::Programs;
use super::refusal::failed;
use super::server::Server;
use super::session::Session;
use super::{Counts, GLOBALS, dump_of};
use crate::ComponentError;
use crate::private::Private;

/// How often it is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How long it may take to start, and to end.
const START_MAX: Duration = Duration::from_secs(60);
/// Who we are to it.
const SUPERUSER: &str = "seawall_trial";
/// Longest path of the directory: a socket's may have 107 bytes in all (unix(7)).
pub(super) const PATH_BYTES_MAX: usize = 80;

/// Where, and as whom, a server may be started.
#[derive(Clone, Debug)]
pub struct Trials {
    /// The directory with `initdb` and `postgres`; none: that of the client programs, where it has them.
    pub programs: Option<PathBuf>,
    /// Where it may have a directory for itself.
    pub scratch: PathBuf,
    /// Number of the user and the group that it runs as; none: as we do. PostgreSQL does not run as root.
    pub user: Option<(u32, u32)>,
}

impl Trials {
    fn place(&self, programs: &Programs) -> PathBuf {
        self.programs.clone().unwrap_or_else(|| programs.directory.clone())
    }

    /// Whether there is a server to start.
    pub(super) fn has_server(&self, programs: &Programs) -> bool {
        let place = self.place(programs);
        ["initdb", "postgres"].iter().all(|name| place.join(name).is_file())
    }
}

/// A server that is empty, until it is loaded.
#[derive(Debug)]
pub(super) struct Trial {
    server: Server,
    process: Child,
    directory: Private,
}

impl Trial {
    /// Makes and starts one.
    ///
    /// # Errors
    /// It cannot be made, or does not start.
    pub async fn start(trials: &Trials, programs: &Programs) -> Result<Self, ComponentError> {
        let place = trials.place(programs);
        let directory = Private::create(&trials.scratch, "dump", PATH_BYTES_MAX)?;
        if let Some((uid, gid)) = trials.user {
            let given = std::os::unix::fs::chown(directory.path(), Some(uid), Some(gid));
            given.map_err(ComponentError::io("give away", directory.path()))?;
        }
        let data = directory.path().join("data");
        let mut initdb = command(trials, &place.join("initdb"));
        initdb
            .args([
                "--auth=trust",
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C",
                "--username",
                SUPERUSER,
                "--pgdata",
            ])
            .arg(&data)
            .stdout(Stdio::null());
        super::child::Running::start(initdb, "making a server to load into")?
            .end()
            .await?;
        let log = directory.log();
        let output = std::fs::File::create(&log).map_err(ComponentError::io("create", &log))?;
        let mut postgres = command(trials, &place.join("postgres"));
        postgres
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(directory.path())
            .args([
                "-c",
                "listen_addresses=",
                "-c",
                "fsync=off",
                "-c",
                "max_locks_per_transaction=1024",
            ])
            .stdout(Stdio::null())
            .stderr(output);
        let process = postgres
            .spawn()
            .map_err(ComponentError::io("start", &place.join("postgres")))?;
        let environment = [
            ("PGHOST", directory.path().display().to_string()),
            ("PGUSER", SUPERUSER.into()),
            ("PGDATABASE", "postgres".into()),
            ("PATH", "/usr/bin:/bin".into()),
        ];
        let mut trial = Trial {
            server: Server {
                environment: environment.map(|(name, value)| (name.to_owned(), value)).into(),
                ..Server::default()
            },
            process,
            directory,
        };
        trial.ready(programs).await?;
        Ok(trial)
    }

    async fn ready(&mut self, programs: &Programs) -> Result<(), ComponentError> {
        let until = Instant::now() + START_MAX;
        loop {
            let answer = async {
                let mut session = Session::open(programs, &self.server, None).await?;
                session.ask::<bool>("SELECT to_jsonb(true)").await
            };
            let Err(error) = answer.await else {
                return Ok(());
            };
            let has_ended = !matches!(self.process.try_wait(), Ok(None));
            if has_ended || Instant::now() > until {
                let said = format!("{error}; {}", self.directory.log_tail());
                return Err(failed("the server that was made to load into does not start", &said));
            }
            sleep(ASK_EVERY).await;
        }
    }

    /// Loads all that was restored; returns what differs from what was captured.
    ///
    /// # Errors
    /// It cannot be loaded.
    pub async fn load(
        &self,
        programs: &Programs,
        all: &[Counts],
        restored: &Path,
    ) -> Result<Vec<String>, ComponentError> {
        let target = Target {
            server: self.server.clone(),
            programs: programs.clone(),
        };
        let databases: Vec<Database> = all
            .iter()
            .map(|counts| Database {
                source: Source::File(restored.join(dump_of(&counts.database))),
                counts: counts.clone(),
            })
            .collect();
        let globals = Some(restored.join(GLOBALS))
            .filter(|path| path.exists())
            .map(Source::File);
        let options = LoadOptions {
            // Whose roles are not in the backup can still be counted.
            no_owners: globals.is_none(),
            ..LoadOptions::default()
        };
        load::all(&target, globals.as_ref(), &databases, &options).await
    }

    /// Ends it, and takes its directory away.
    pub async fn end(mut self) {
        self.signal(Signal::INT);
        if tokio::time::timeout(START_MAX, self.process.wait()).await.is_err() {
            self.signal(Signal::QUIT);
            let _ = self.process.wait().await;
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = self.process.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(pid) = pid {
            // It is our child and was not waited for: the number is still its own.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.signal(Signal::QUIT);
    }
}

fn command(trials: &Trials, program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C")
        .current_dir(&trials.scratch)
        .stdin(Stdio::null());
    if let Some((uid, gid)) = trials.user {
        command.uid(uid).gid(gid);
    }
    command
}

/// A stored dump as a file.
///
/// # Errors
/// It cannot be fetched, or there is no room.
pub(super) async fn fetched(source: &Source, scratch: &Path) -> Result<Fetched, ComponentError> {
    let Source::Stored(stored, entry) = source else {
        let Source::File(path) = source else {
            return Err(ComponentError::Stopped);
        };
        return Ok(Fetched {
            path: path.clone(),
            _directory: None,
        });
    };
    let directory = Private::create(scratch, "dump", PATH_BYTES_MAX)?;
    let path = directory.path().join("dump");
    let file = tokio::fs::File::create(&path).await;
    let mut file = file.map_err(ComponentError::io("create", &path))?;
    let mut reader = stored.reader(entry);
    while let Some(chunks) = reader.next().await? {
        for bytes in chunks {
            file.write_all(&bytes)
                .await
                .map_err(ComponentError::io("write", &path))?;
        }
    }
    file.flush().await.map_err(ComponentError::io("write", &path))?;
    Ok(Fetched {
        path,
        _directory: Some(directory),
    })
}

/// A dump on a disk.
#[derive(Debug)]
pub(super) struct Fetched {
    path: PathBuf,
    _directory: Option<Private>,
}

impl Fetched {
    pub fn path(&self) -> &Path {
        &self.path
    }
}
