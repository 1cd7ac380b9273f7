//! Sessions on the restored server, and its own programs against it.

use std::process::{Output, Stdio};

use tokio_postgres::{Client, Config, NoTls};

use super::Server;
use crate::error::{RestoreError, Result};
use crate::report::Started;

/// A session on one of its databases, as the role that it was looked at with. `options` are those of libpq.
pub(crate) async fn connect(
    started: &Started,
    database: &str,
    options: &str,
) -> std::result::Result<Client, tokio_postgres::Error> {
    let mut config = Config::new();
    config
        .host(&started.socket_dir)
        .port(started.port)
        .user(&started.role)
        .dbname(database)
        .application_name("wal-restore")
        .options(options);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to the restored server ended");
        }
    });
    Ok(client)
}

/// For looking: a database's owner may have set operators of his own, and a paused server may hold locks for good.
pub(crate) const CAREFUL: &str =
    "-c search_path= -c lock_timeout=10s -c statement_timeout=60s -c default_transaction_read_only=on";

/// The databases that take sessions.
pub(crate) async fn databases(started: &Started) -> Result<Vec<String>> {
    let query = "SELECT datname::text FROM pg_catalog.pg_database WHERE datallowconn ORDER BY datname";
    let failed = |error: tokio_postgres::Error| RestoreError::Server {
        message: format!("the restored server does not answer: {}", said(&error)),
        hint: "See its log in seawall.restore.".into(),
    };
    let client = connect(started, "postgres", CAREFUL).await.map_err(failed)?;
    let rows = client.query(query, &[]).await.map_err(failed)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The server's own words.
pub(crate) fn said(error: &tokio_postgres::Error) -> String {
    error
        .as_db_error()
        .map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// `pg_dump` of one of its databases.
pub(crate) fn pg_dump(server: &Server, started: &Started, database: &str) -> std::process::Command {
    let mut command = server.program("pg_dump");
    command
        .args(["--no-password", "--host", &started.socket_dir])
        .args(["--port", &started.port.to_string(), "--username", &started.role])
        .args(["--dbname", &conninfo_of(database)])
        .current_dir("/")
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Runs a program to its end; what it prints goes where the command says, as `output()` would not have it.
pub(crate) async fn run(command: std::process::Command) -> std::io::Result<Output> {
    let child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
    child.wait_with_output().await
}

/// The first lines of what a program said, in one.
pub(crate) fn first_lines(stderr: &[u8]) -> String {
    const LINES: usize = 4;
    let said = String::from_utf8_lossy(stderr);
    let lines = said.lines().filter(|line| !line.is_empty()).take(LINES);
    match lines.collect::<Vec<_>>().join("; ") {
        nothing if nothing.is_empty() => "it said nothing".into(),
        said => said,
    }
}

/// A database for programs that would take a name with `=` for more.
fn conninfo_of(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_connection_string_and_silence_is_said() {
        assert_eq!(conninfo_of("host=x"), "dbname='host=x'");
        assert_eq!(conninfo_of("a'b\\"), r"dbname='a\'b\\'");
        assert_eq!(first_lines(b"one\n\ntwo\n"), "one; two");
        assert_eq!(first_lines(b""), "it said nothing");
    }
}
