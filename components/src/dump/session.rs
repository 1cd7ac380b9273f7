//! SQL through `psql`, a question and an answer after the other.
//!
//! `psql` comes with `pg_dump`, and both read the same connection settings with the same library: what one of them reaches, the other does. An
//! answer is one line: each question asks for one value of type `jsonb`, whose text has no line breaks.

use std::path::Path;
use std::process::Stdio;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout};

use super::child::Running;
use super::programs::Programs;
use super::refusal::failed;
use super::server::Server;
use crate::ComponentError;

/// No name of a database stands in for one of the system's, and nobody's limits end what takes its time.
const SETTINGS: &str = "SET search_path = ''; SET statement_timeout = 0; SET lock_timeout = 0; \
                        SET idle_in_transaction_session_timeout = 0; SET row_security = off;";

/// A session with a server.
#[derive(Debug)]
pub(super) struct Session {
    what: String,
    running: Running,
    input: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Session {
    /// Connects to `database`; none: to the one that the connection string names.
    ///
    /// # Errors
    /// The program cannot be started. That the server said no comes with the first answer.
    pub async fn open(programs: &Programs, server: &Server, database: Option<&str>) -> Result<Self, ComponentError> {
        let program = programs.path("psql");
        let mut command = server.command(&program, database);
        command
            .args(["--no-psqlrc", "--no-align", "--tuples-only", "--quiet", "--no-password"])
            .args(["--set", "ON_ERROR_STOP=1"])
            .env("PGCLIENTENCODING", "UTF8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let what = match database {
            Some(database) => format!("asking database \"{}\"", database.escape_debug()),
            None => "asking the server".into(),
        };
        let mut running = Running::start(command, what.clone())?;
        let (input, output) = (running.child.stdin.take(), running.child.stdout.take());
        let output = output.ok_or(ComponentError::Stopped)?;
        let mut session = Session {
            what,
            running,
            input,
            answers: BufReader::new(output).lines(),
        };
        session.tell(SETTINGS).await;
        Ok(session)
    }

    /// Statements without an answer. Where one fails, the next question says so.
    pub async fn tell(&mut self, sql: &str) {
        if let Some(input) = &mut self.input {
            // It has ended: why is read at the next question.
            let _ = input.write_all(format!("{sql}\n").as_bytes()).await;
        }
    }

    /// A question whose answer is one value of type `jsonb`.
    ///
    /// # Errors
    /// The server cannot be reached, said no, or answered something else.
    pub async fn ask<T: DeserializeOwned>(&mut self, sql: &str) -> Result<T, ComponentError> {
        self.tell(&format!("{sql};")).await;
        let answer = self.answers.next_line().await;
        match answer.map_err(ComponentError::io("read from", Path::new("psql")))? {
            Some(line) => serde_json::from_str(&line)
                .map_err(|error| failed(self.what.as_str(), &format!("strange answer: {error}"))),
            None => Err(self.why().await),
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// Something that was told failed.
    pub async fn end(mut self) -> Result<(), ComponentError> {
        drop(self.input.take());
        self.running.end().await.map(|_| ())
    }

    /// Why there was no answer.
    async fn why(&mut self) -> ComponentError {
        drop(self.input.take());
        match self.running.last_words().await {
            Err(error) => error,
            Ok(said) => failed(self.what.as_str(), &said),
        }
    }
}
