//! Versions of what decides about the order of text, and of extensions: a restore compares them with what its host has.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::error::BackupError;
use super::sql::{RawText, column};

/// One collation of each library tells the library's version: for libc the C library's (`pg_collation_actual_version`, PostgreSQL docs,
/// 9.27.7). `C` and `POSIX` have none. Extensions are those of the database that we are connected to.
const QUERY: &str = "SELECT 'collation.' || CASE c.collprovider WHEN 'c' THEN 'libc' ELSE 'icu' END, \
     pg_catalog.max(pg_catalog.pg_collation_actual_version(c.oid)) FROM (SELECT oid, collprovider, pg_catalog.row_number() OVER \
     (PARTITION BY collprovider ORDER BY collname <> 'und-x-icu', collname) AS number FROM pg_catalog.pg_collation \
     WHERE collprovider IN ('c', 'i') AND collname NOT IN ('C', 'POSIX', 'ucs_basic') AND collname NOT LIKE 'C.%') AS c \
     WHERE c.number = 1 GROUP BY 1 \
     UNION ALL SELECT 'extension.' || extname, extversion FROM pg_catalog.pg_extension";

/// Adds them to the settings that a manifest records. A server that does not tell them is backed up without.
///
/// # Errors
/// The session is gone.
pub(super) async fn add(sql: &Client, settings: &mut BTreeMap<String, String>) -> Result<(), BackupError> {
    const STEP: &str = "say which versions it has";
    let answers = match sql.query(QUERY, &[]).await {
        Ok(answers) => answers,
        Err(error) if sql.is_closed() => return Err(BackupError::sql(STEP)(error)),
        Err(error) => {
            tracing::warn!(%error, "the server does not say which versions of libraries and extensions it has; the backup goes on");
            return Ok(());
        }
    };
    for answer in answers {
        let version: Option<RawText> = column(&answer, 1, STEP)?;
        if let Some(version) = version {
            let name: RawText = column(&answer, 0, STEP)?;
            settings.insert(name.lossy(), version.lossy());
        }
    }
    Ok(())
}
