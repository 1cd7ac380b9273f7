//! `wal-restore table`: single tables, or one database, as they were. The cluster is restored into a scratch directory and recovered on
//! a socket that nobody else can reach; `pg_dump` reads from it; then it is thrown away.

mod references;

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::process::Command;

use crate::cli::{Cli, RestoreArgs, TableArgs};
use crate::error::{RestoreError, Result};
use crate::paths::OURS;
use crate::place::{self, running_postmaster};
use crate::report::Started;
use crate::run;
use crate::start::{Server, client};

/// How long the scratch server may take to end.
const END_MAX: Duration = Duration::from_secs(60);
/// Longest path of a socket, with its own name (`sun_path`, unix(7)).
const SOCKET_PATH_MAX: usize = 107;
const SOCKET_NAME: &str = "/.s.PGSQL.65535";

/// Runs the command.
pub(crate) async fn run(cli: &Cli, args: &TableArgs) -> Result<()> {
    check(args)?;
    if let Some(into) = &args.into {
        try_target(into, &args.table).await?;
    }
    let scratch = Scratch::prepare(&args.scratch)?;
    let whole = whole_cluster(cli, args, &scratch);
    let outcome = tokio::select! {
        outcome = Box::pin(restore_and_dump(&whole, args, &scratch)) => outcome,
        _ = interrupted() => Err(RestoreError::Failed("interrupted".into())),
    };
    match (outcome, scratch.remove().await) {
        (Err(error), Err(left)) => Err(RestoreError::Failed(format!(
            "{}; and the scratch directory could not be removed, it holds the database: {}",
            error.chain(),
            left.chain()
        ))),
        (outcome, removed) => outcome.and(removed),
    }
}

/// Returns when somebody wants it to end.
pub(crate) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
        SignalKind::quit(),
    ];
    let mut signals: Vec<_> = kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect();
    let any = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    futures::future::select_all(any).await;
}

fn check(args: &TableArgs) -> Result<()> {
    if let Some(file) = args.to_sql.as_ref().filter(|file| file.exists()) {
        return Err(RestoreError::refused(
            format!("file \"{}\" exists", file.display()),
            "Remove it, or name another one with --to-sql.",
        ));
    }
    let missing = args.to_sql.as_ref().and_then(|file| std::path::absolute(file).ok());
    if let Some(parent) = missing
        .as_ref()
        .and_then(|file| file.parent())
        .filter(|parent| !parent.is_dir())
    {
        return Err(RestoreError::refused(
            format!("directory \"{}\" does not exist", parent.display()),
            "Make it first, or name another file with --to-sql.",
        ));
    }
    let config = args.into.as_ref().map(|into| into.parse::<tokio_postgres::Config>());
    match config {
        Some(Err(error)) => Err(RestoreError::usage(
            format!("--into cannot be read: {error}"),
            "Write it as for psql: postgresql://host/database, or 'host=... dbname=...'.",
        )),
        // Whoever lists processes could read it.
        Some(Ok(config)) if config.get_password().is_some() => Err(RestoreError::usage(
            "--into holds a password",
            "Put it into PGPASSWORD or ~/.pgpass.",
        )),
        _ => Ok(()),
    }
}

/// Asks the database that shall be loaded into, before hours of recovery: is it there, and are the tables not there?
async fn try_target(into: &str, tables: &[String]) -> Result<()> {
    // Any psql will do for that; where none is in the path, it is found out at the end.
    let probe = async |sql: &str| {
        let mut command = Command::new("psql");
        command
            .args([
                "--no-psqlrc",
                "--no-align",
                "--tuples-only",
                "--quiet",
                "--dbname",
                into,
                "--command",
                sql,
            ])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command.output().await
    };
    let Ok(answer) = probe("SELECT 1").await else {
        return Ok(());
    };
    if !answer.status.success() {
        let said = client::first_lines(&answer.stderr);
        return Err(failed(
            format!("--into cannot be reached: {said}"),
            "Nothing was begun. Try it with psql; passwords come from PGPASSWORD or ~/.pgpass.",
        ));
    }
    for table in tables {
        let literal = table.replace('\'', "''");
        let answer = probe(&format!("SELECT pg_catalog.to_regclass('{literal}') IS NOT NULL")).await;
        if answer.is_ok_and(|answer| answer.stdout.trim_ascii() == b"t") {
            return Err(RestoreError::refused(
                format!("table {table} already exists there"),
                "Nothing was begun. Rename it first, or write a script with --to-sql.",
            ));
        }
    }
    Ok(())
}

/// The directory that is thrown away.
struct Scratch {
    root: PathBuf,
    /// It was made here, and goes too.
    is_new: bool,
}

impl Scratch {
    fn prepare(root: &Path) -> Result<Self> {
        let root = place::absolute(root)?;
        if root.as_os_str().len() + "/s".len() + SOCKET_NAME.len() > SOCKET_PATH_MAX {
            return Err(RestoreError::refused(
                format!("the path \"{}\" is too long for a socket below it", root.display()),
                "Name a shorter one with --scratch.",
            ));
        }
        let is_new = !root.exists();
        if is_new {
            fs::create_dir_all(&root).map_err(RestoreError::io("create directory", &root))?;
        }
        let mut entries = fs::read_dir(&root).map_err(RestoreError::io("read directory", &root))?;
        if root.join("data").join(OURS).exists() {
            let server = running_postmaster(&root.join("data"))
                .map_or_else(String::new, |pid| format!(", and its server runs (process {pid})"));
            return Err(RestoreError::refused(
                format!(
                    "directory \"{}\" holds what a killed `table` left{server}",
                    root.display()
                ),
                "End that server, and remove the directory: it holds the whole database.",
            ));
        }
        if entries.next().is_some() {
            return Err(RestoreError::refused(
                format!("directory \"{}\" is not empty", root.display()),
                "Name a new or an empty one with --scratch: everything in it is removed at the end.",
            ));
        }
        Ok(Scratch { root, is_new })
    }

    fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    fn sockets(&self) -> PathBuf {
        self.root.join("s")
    }

    /// Ends the server that runs in it, and removes it. What was begun a moment ago may still put files there.
    async fn remove(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let ended = self.end_server();
            match if ended {
                self.remove_all()
            } else {
                Err(self.still_running())
            } {
                Err(_) if begun.elapsed() < END_MAX => tokio::time::sleep(Duration::from_millis(50)).await,
                done => return done,
            }
        }
    }

    /// True when none runs.
    fn end_server(&self) -> bool {
        let Some(pid) = running_postmaster(&self.data()).and_then(Pid::from_raw) else {
            return true;
        };
        // Nothing in it is wanted any more.
        let _ = rustix::process::kill_process(pid, Signal::QUIT);
        false
    }

    fn still_running(&self) -> RestoreError {
        RestoreError::Failed(format!(
            "the server in \"{}\" does not end: end it, and remove the directory",
            self.root.display()
        ))
    }

    fn remove_all(&self) -> Result<()> {
        let entries = fs::read_dir(&self.root).map_err(RestoreError::io("read directory", &self.root))?;
        for entry in entries.flatten() {
            let path = entry.path();
            let removed = match path.symlink_metadata() {
                Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
                _ => fs::remove_file(&path),
            };
            removed.map_err(RestoreError::io("remove", &path))?;
        }
        if self.is_new {
            fs::remove_dir(&self.root).map_err(RestoreError::io("remove", &self.root))?;
        }
        Ok(())
    }
}

/// The restore of everything into the scratch directory.
fn whole_cluster(cli: &Cli, args: &TableArgs, scratch: &Scratch) -> Cli {
    Cli {
        config: cli.config.clone(),
        cluster: cli.cluster.clone(),
        copy: cli.copy.clone(),
        command: None,
        // Promoted: a server that waits still holds the locks of transactions that had not ended, of a DROP above all.
        restore: RestoreArgs {
            start: true,
            socket_dir: Some(scratch.sockets()),
            start_timeout: args.start_timeout,
            jobs: args.jobs,
            is_private: true,
            tablespaces_below: Some(scratch.root.join("tablespaces")),
            owner: args.owner.clone(),
            ..RestoreArgs::plain(args.target.clone(), scratch.data())
        },
    }
}

async fn restore_and_dump(whole: &Cli, args: &TableArgs, scratch: &Scratch) -> Result<()> {
    let restored = Box::pin(run::run(whole)).await?;
    let nothing = || RestoreError::Failed("no server was started".into());
    let server = restored.server.ok_or_else(nothing)?;
    let started = restored.report.server.ok_or_else(nothing)?;
    println!(
        "recovered  to {}, last transaction {}",
        started.replay_lsn,
        started.last_commit_time.as_deref().unwrap_or("none")
    );
    let references = references::of_others(&started, args).await?;
    let dump = scratch.root.join("dump.sql");
    dump_to(&server, &started, args, &dump).await?;
    references::append(&dump, &references)?;
    match (&args.to_sql, &args.into) {
        (Some(file), _) => {
            copy(&dump, file)?;
            println!("written    {} to \"{}\"", what(args), file.display());
        }
        (None, Some(into)) => {
            load(&server, &dump, into).await?;
            println!("loaded     {}", what(args));
        }
        (None, None) => {}
    }
    Ok(())
}

fn what(args: &TableArgs) -> String {
    match args.table.as_slice() {
        [] => format!("database {}", args.database),
        tables => format!("{} of database {}", tables.join(", "), args.database),
    }
}

fn failed(message: String, hint: &str) -> RestoreError {
    RestoreError::Server {
        message,
        hint: hint.to_owned(),
    }
}

async fn dump_to(server: &Server, started: &Started, args: &TableArgs, dump: &Path) -> Result<()> {
    let file = new_file(dump)?;
    let mut command = client::pg_dump(server, started, &args.database);
    command
        .args(args.table.iter().flat_map(|table| ["--table", table]))
        .arg("--strict-names")
        .stdout(file);
    run_program(
        "pg_dump",
        command,
        "Name tables and the database as they were called at that time.",
    )
    .await
}

/// All of it or nothing.
async fn load(server: &Server, dump: &Path, into: &str) -> Result<()> {
    let mut command = std::process::Command::new(server.programs.join("psql"));
    command
        .args([
            "--no-psqlrc",
            "--quiet",
            "--single-transaction",
            "--set",
            "ON_ERROR_STOP=1",
        ])
        .arg("--file")
        .arg(dump)
        .args(["--dbname", into])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let hint = "Nothing was changed there. A table that exists still is in the way: rename it first, or write a script with --to-sql.";
    run_program("psql", command, hint).await
}

async fn run_program(name: &str, command: std::process::Command, hint: &str) -> Result<()> {
    let output = client::run(command).await;
    let output = output.map_err(RestoreError::io("run", Path::new(name)))?;
    if !output.status.success() {
        return Err(failed(format!("{name}: {}", client::first_lines(&output.stderr)), hint));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    for warning in said.lines().filter(|line| line.contains("WARNING")) {
        println!("{warning}");
    }
    Ok(())
}

/// For our own eyes: it holds what the database held.
fn new_file(path: &Path) -> Result<File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path).map_err(RestoreError::io("create", path))
}

/// Into place as a whole.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut source = File::open(from).map_err(RestoreError::io("open", from))?;
    let mut target = new_file(to)?;
    let copied = std::io::copy(&mut source, &mut target).and_then(|_| target.sync_all());
    copied.map_err(|error| {
        // A part must not stay; the error is the news.
        let _ = fs::remove_file(to);
        RestoreError::io("write", to)(error)
    })
}
