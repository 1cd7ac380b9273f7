//! Versions of what decides about the order of text, and of extensions: a restore compares them with what its host has.

use std::collections::BTreeMap;

use pg::collations::VERSIONS;
use tokio_postgres::Client;

use super::error::BackupError;
use super::sql::{RawText, column};

/// Those of the database that we are connected to.
const EXTENSIONS: &str = "SELECT 'extension.' || extname, extversion FROM pg_catalog.pg_extension";

/// Adds them to the settings that a manifest records. A server that does not tell them is backed up without.
///
/// # Errors
/// The session is gone.
pub(super) async fn add(sql: &Client, settings: &mut BTreeMap<String, String>) -> Result<(), BackupError> {
    const STEP: &str = "say which versions it has";
    let answers = match sql.query(&format!("{VERSIONS} UNION ALL {EXTENSIONS}"), &[]).await {
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
