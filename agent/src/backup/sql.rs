//! Text from the server, byte for byte.
//!
//! `backup_label` and `tablespace_map` must be kept exactly as they are, and paths need not be UTF-8. So the session's client encoding
//! is set to the database's own, nothing is converted, and text is taken as bytes.

use std::error::Error;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, Row};

use super::error::BackupError;

/// A text value as the server keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawText(pub(super) Vec<u8>);

impl<'a> FromSql<'a> for RawText {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(RawText(raw.to_vec()))
    }

    fn accepts(kind: &Type) -> bool {
        matches!(*kind, Type::TEXT | Type::VARCHAR | Type::NAME | Type::UNKNOWN)
    }
}

impl RawText {
    pub(super) fn lossy(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    pub(super) fn path(self) -> PathBuf {
        OsString::from_vec(self.0).into()
    }
}

/// The one row of a query.
pub(super) async fn row(
    sql: &Client,
    step: &'static str,
    query: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Row, BackupError> {
    sql.query_one(query, parameters).await.map_err(BackupError::sql(step))
}

/// A column of a row.
pub(super) fn column<'a, T: FromSql<'a>>(row: &'a Row, at: usize, step: &'static str) -> Result<T, BackupError> {
    row.try_get(at).map_err(BackupError::sql(step))
}

/// A text column that must parse.
pub(super) fn parsed<T: std::str::FromStr>(row: &Row, at: usize, step: &'static str) -> Result<T, BackupError> {
    let text: RawText = column(row, at, step)?;
    text.lossy().parse().map_err(|_| BackupError::Answer {
        what: format!("\"{}\" as an answer to: {step}", text.lossy()),
    })
}

/// A server setting; `None` when it is empty, unknown, or not for this role to see.
pub(super) async fn setting(sql: &Client, name: &str) -> Result<Option<RawText>, BackupError> {
    const STEP: &str = "show a setting";
    let query = "SELECT pg_catalog.current_setting($1, true)";
    match sql.query_one(query, &[&name]).await {
        Ok(row) => Ok(column::<Option<RawText>>(&row, 0, STEP)?.filter(|text| !text.0.is_empty())),
        Err(error) if error.code() == Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE) => {
            tracing::info!(setting = name, "the role may not see a setting");
            Ok(None)
        }
        Err(source) => Err(BackupError::Sql { step: STEP, source }),
    }
}
