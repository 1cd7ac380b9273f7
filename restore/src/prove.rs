//! Proofs of a restored server: every table of every database is read through, foreign keys have no orphans, B-trees are as `amcheck`
//! wants them where it is installed, and the queries of the last known good are asked again beside what they said then.
//!
//! Nothing is written to the databases. A proof that fails fails the command; the server stays as it is, for somebody to look.

mod keys;

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Serialize;
use store::manifest::KnownGood;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::error::{RestoreError, Result};
use crate::report::Started;
use crate::start::{self, Server};

/// A lock that is waited for longer belongs to a transaction that will never end: the server is paused.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Time for one query of the last known good, as for the agent.
const QUERY_MAX: Duration = Duration::from_secs(60);
/// Lines of what a program said that are kept.
const SAID_LINES: usize = 4;

/// One proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Proof {
    /// What was proven.
    pub(crate) name: String,
    /// In which database.
    pub(crate) database: String,
    /// It holds.
    pub(crate) ok: bool,
    /// It is a question of the last known good, whose answer is for somebody to judge.
    pub(crate) is_question: bool,
    /// What was found.
    pub(crate) detail: String,
    /// How long it took.
    pub(crate) took_ms: u64,
}

/// A database of the restored server, and how it is reached.
struct Database<'a> {
    server: &'a Server,
    started: &'a Started,
    name: String,
}

/// Runs all proofs.
pub(crate) async fn run(server: &Server, started: &Started, known_good: &[KnownGood]) -> Result<Vec<Proof>> {
    let mut proofs = Vec::new();
    let of = |name: &str| Database {
        server,
        started,
        name: name.to_owned(),
    };
    let first = of(server.configured_database.as_deref().unwrap_or("postgres"));
    let client = first.connect().await?;
    for known in known_good {
        let begun = Instant::now();
        let asked = ask_again(&client, known).await;
        proofs.push(Proof {
            is_question: true,
            ..first.proof(known.query.clone(), begun, asked)
        });
    }
    let query = "SELECT datname::text FROM pg_catalog.pg_database WHERE datallowconn ORDER BY datname";
    let names = client.query(query, &[]).await.map_err(|error| failed(&error))?;
    for row in names {
        let database = of(row.get(0));
        let begun = Instant::now();
        let read = database.read_everything().await;
        proofs.push(database.proof("every table is read".into(), begun, read));
        let client = database.connect().await?;
        let begun = Instant::now();
        let found = keys::orphans(&client).await.transpose();
        proofs.extend(found.map(|found| database.proof("foreign keys".into(), begun, found)));
        let begun = Instant::now();
        let found = keys::trees(&client).await.transpose();
        proofs.extend(found.map(|found| database.proof("B-trees".into(), begun, found)));
    }
    Ok(proofs)
}

fn failed(error: &tokio_postgres::Error) -> RestoreError {
    RestoreError::Server {
        message: format!("the restored server does not answer: {}", said(error)),
        hint: "See its log in seawall.restore.".into(),
    }
}

/// The server's own words.
fn said(error: &tokio_postgres::Error) -> String {
    error
        .as_db_error()
        .map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

impl Database<'_> {
    fn proof(&self, name: String, begun: Instant, found: std::result::Result<String, String>) -> Proof {
        let ok = found.is_ok();
        Proof {
            name,
            database: self.name.clone(),
            ok,
            is_question: false,
            detail: found.unwrap_or_else(|error| error),
            took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    async fn connect(&self) -> Result<Client> {
        let mut config = tokio_postgres::Config::new();
        config
            .host(&self.started.socket_dir)
            .port(self.started.port)
            .user(&self.started.role)
            .dbname(&self.name)
            .application_name("wal-restore")
            .options(format!("-c lock_timeout={}", LOCK_WAIT.as_millis()));
        let (client, connection) = config.connect(NoTls).await.map_err(|error| failed(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the restored server ended");
            }
        });
        Ok(client)
    }

    /// By a dump that goes nowhere: every row is read and every value put together, as whoever uses the data would.
    async fn read_everything(&self) -> std::result::Result<String, String> {
        let mut command = self.server.program("pg_dump");
        command
            .args(["--no-password", "--format", "custom", "--compress", "0"])
            .args([
                "--host",
                &self.started.socket_dir,
                "--port",
                &self.started.port.to_string(),
            ])
            .args([
                "--username",
                &self.started.role,
                "--dbname",
                &start::conninfo_of(&self.name),
            ])
            .arg(format!("--lock-wait-timeout={}ms", LOCK_WAIT.as_millis()))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let cannot = |error: std::io::Error| format!("pg_dump cannot be run: {error}");
        // Not `output()`: that would keep what goes nowhere.
        let child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .map_err(cannot)?;
        let output = child.wait_with_output().await.map_err(cannot)?;
        if output.status.success() {
            return Ok("all of it".into());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said
            .lines()
            .take(SAID_LINES)
            .map(|line| line.trim_start_matches("pg_dump: "))
            .collect();
        Err(lines.join("; "))
    }
}

/// In a read-only transaction of its own, as the agent asked. What it says now beside what it said then; that it says something else is no fault: the backup was earlier.
async fn ask_again(client: &Client, known: &KnownGood) -> std::result::Result<String, String> {
    let then = match &known.error {
        Some(error) => format!("failed: {error}"),
        None => known.rows.join(", "),
    };
    let begin = format!(
        "BEGIN TRANSACTION READ ONLY; SET LOCAL statement_timeout = '{}ms'; SET LOCAL search_path = \"$user\", public",
        QUERY_MAX.as_millis()
    );
    client.batch_execute(&begin).await.map_err(|error| said(&error))?;
    let answer = client.simple_query(&known.query).await;
    client.batch_execute("ROLLBACK").await.map_err(|error| said(&error))?;
    match answer {
        Ok(answer) => Ok(format!(
            "{} (when the backup was taken: {then})",
            rows_of(&answer).join(", ")
        )),
        Err(error) if known.error.is_some() => Ok(format!("{} (when the backup was taken: {then})", said(&error))),
        Err(error) => Err(format!("{} (when the backup was taken: {then})", said(&error))),
    }
}

fn rows_of(answer: &[SimpleQueryMessage]) -> Vec<String> {
    let rows = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.map(|row| {
        let columns: Vec<&str> = (0..row.len()).map(|at| row.get(at).unwrap_or("")).collect();
        columns.join("|")
    })
    .collect()
}
