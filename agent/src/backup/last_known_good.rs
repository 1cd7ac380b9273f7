//! What the database answered when the backup was taken: an operator's queries, for the proofs of a restore to compare with.

use std::time::Duration;

use store::manifest::KnownGood;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::error::BackupError;

/// Time for one query.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Rows and bytes of an answer that are kept.
const ROWS_MAX: usize = 1000;
const BYTES_MAX: usize = 64 << 10;

/// Asks each query in a read-only transaction of its own. One that fails is recorded with the server's message; it fails no backup.
///
/// # Errors
/// The session is gone.
pub(super) async fn ask(
    sql: &Client,
    queries: &[String],
    now_us: impl Fn() -> i64,
) -> Result<Vec<KnownGood>, BackupError> {
    const STEP: &str = "answer the queries of last_known_good";
    let mut out = Vec::with_capacity(queries.len());
    for query in queries {
        let begin = format!(
            "BEGIN TRANSACTION READ ONLY; SET LOCAL statement_timeout = '{}ms'; SET LOCAL search_path = \"$user\", public",
            TIMEOUT.as_millis()
        );
        sql.batch_execute(&begin).await.map_err(BackupError::sql(STEP))?;
        let mut known = KnownGood {
            query: query.clone(),
            rows: Vec::new(),
            error: None,
            asked_us: now_us(),
        };
        match sql.simple_query(query).await {
            Ok(answer) => known.rows = rows_of(&answer),
            Err(error) if sql.is_closed() => return Err(BackupError::sql(STEP)(error)),
            Err(error) => {
                let message = error
                    .as_db_error()
                    .map_or_else(|| error.to_string(), |error| error.message().to_owned());
                tracing::warn!(%query, error = %message, "a query of last_known_good fails; the backup goes on");
                known.error = Some(message);
            }
        }
        sql.batch_execute("ROLLBACK").await.map_err(BackupError::sql(STEP))?;
        out.push(known);
    }
    Ok(out)
}

/// The rows, columns parted by `|`, as far as there is room.
fn rows_of(answer: &[SimpleQueryMessage]) -> Vec<String> {
    let mut bytes = 0;
    let rows = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.map(|row| {
        let columns: Vec<&str> = (0..row.len()).map(|at| row.get(at).unwrap_or("")).collect();
        columns.join("|")
    })
    .take(ROWS_MAX)
    .take_while(|row| {
        bytes += row.len();
        bytes <= BYTES_MAX
    })
    .collect()
}
