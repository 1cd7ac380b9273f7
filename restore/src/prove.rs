//! Proofs of a restored server: every table of every database is read through, foreign keys have no orphans, B-trees are as `amcheck`
//! wants them where it is installed, and the queries of the last known good are asked again beside what they said then.
//!
//! Nothing is written to the databases. A proof that fails fails the command; the server stays as it is, for somebody to look.

mod keys;

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Serialize;
use store::manifest::KnownGood;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::error::Result;
use crate::report::Started;
use crate::start::Server;
use crate::start::client::{self, said};

/// A lock that is waited for longer belongs to a transaction that will never end: the server is paused.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Time for one query of the last known good, as for the agent.
const QUERY_MAX: Duration = Duration::from_secs(60);

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
pub(crate) async fn run(
    server: &Server,
    started: &Started,
    databases: &[String],
    known_good: &[KnownGood],
) -> Result<Vec<Proof>> {
    let mut proofs = Vec::new();
    let of = |name: &str| Database {
        server,
        started,
        name: name.to_owned(),
    };
    let first = of(server.configured_database.as_deref().unwrap_or("postgres"));
    let client = first.connect().await;
    for known in known_good {
        let begun = Instant::now();
        let asked = match &client {
            Ok(client) => ask_again(client, known).await,
            Err(error) => Err(error.clone()),
        };
        proofs.push(Proof {
            is_question: true,
            ..first.proof(known.query.clone(), begun, asked)
        });
    }
    for assertion in &server.assertions {
        let begun = Instant::now();
        let asked = match &client {
            Ok(client) => is_true(client, assertion).await,
            Err(error) => Err(error.clone()),
        };
        proofs.push(first.proof(format!("assertion: {assertion}"), begun, asked));
    }
    for name in databases {
        let database = of(name);
        let begun = Instant::now();
        let read = database.read_everything().await;
        proofs.push(database.proof("every table is read".into(), begun, read));
        let begun = Instant::now();
        let client = match database.connect().await {
            Ok(client) => client,
            Err(error) => {
                proofs.push(database.proof("foreign keys and B-trees".into(), begun, Err(error)));
                continue;
            }
        };
        let found = keys::orphans(&client).await.transpose();
        proofs.extend(found.map(|found| database.proof("foreign keys".into(), begun, found)));
        let begun = Instant::now();
        let found = keys::trees(&client).await.transpose();
        proofs.extend(found.map(|found| database.proof("B-trees".into(), begun, found)));
    }
    Ok(proofs)
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

    async fn connect(&self) -> std::result::Result<Client, String> {
        let options = format!("-c lock_timeout={}", LOCK_WAIT.as_millis());
        let connected = client::connect(self.started, &self.name, &options).await;
        connected.map_err(|error| said(&error))
    }

    /// By a dump that goes nowhere: every row is read and every value put together, as whoever uses the data would.
    async fn read_everything(&self) -> std::result::Result<String, String> {
        let mut command = client::pg_dump(self.server, self.started, &self.name);
        command
            .args(["--format", "custom", "--compress", "0"])
            .arg(format!("--lock-wait-timeout={}ms", LOCK_WAIT.as_millis()))
            .stdout(Stdio::null());
        let output = client::run(command).await;
        let output = output.map_err(|error| format!("pg_dump cannot be run: {error}"))?;
        match output.status.success() {
            true => Ok("all of it".into()),
            false => Err(client::first_lines(&output.stderr)),
        }
    }
}

/// One row with one column that is true, of a query in a read-only transaction.
async fn is_true(client: &Client, assertion: &str) -> std::result::Result<String, String> {
    match ask(client, assertion).await? {
        Ok(rows) if rows == ["t"] => Ok("true".to_owned()),
        Ok(rows) => Err(format!("it is not true: {}", rows.join(", "))),
        Err(error) => Err(error),
    }
}

/// Asks in a read-only transaction of its own. The inner error is the query's.
async fn ask(client: &Client, query: &str) -> std::result::Result<std::result::Result<Vec<String>, String>, String> {
    let begin = format!(
        "BEGIN TRANSACTION READ ONLY; SET LOCAL statement_timeout = '{}ms'; SET LOCAL search_path = \"$user\", public",
        QUERY_MAX.as_millis()
    );
    client.batch_execute(&begin).await.map_err(|error| said(&error))?;
    let answer = client.simple_query(query).await;
    client.batch_execute("ROLLBACK").await.map_err(|error| said(&error))?;
    Ok(answer.map(|answer| rows_of(&answer)).map_err(|error| said(&error)))
}

/// In a read-only transaction of its own, as the agent asked. What it says now beside what it said then; that it says something else
/// is no fault: the backup was earlier.
async fn ask_again(client: &Client, known: &KnownGood) -> std::result::Result<String, String> {
    let then = match &known.error {
        Some(error) => format!("failed: {error}"),
        None => known.rows.join(", "),
    };
    match ask(client, &known.query).await? {
        Ok(rows) => Ok(format!("{} (when the backup was taken: {then})", rows.join(", "))),
        Err(error) if known.error.is_some() => Ok(format!("{error} (when the backup was taken: {then})")),
        Err(error) => Err(format!("{error} (when the backup was taken: {then})")),
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
