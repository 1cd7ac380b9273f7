//! `kind = "postgres-dump"`: logical dumps of a PostgreSQL server.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::Secrets;
use crate::reader::Reader;
use crate::secret::SecretText;

pub(super) const KEYS: [&str; 24] = [
    "host",
    "port",
    "user",
    "password_file",
    "passfile",
    "dbname",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "channel_binding",
    "target_session_attrs",
    "connect_timeout",
    "bin_directory",
    "databases",
    "exclude_databases",
    "schemas",
    "exclude_schemas",
    "tables",
    "exclude_tables",
    "globals",
    "role_passwords",
    "row_counts",
    "jobs",
];

/// Databases of a PostgreSQL server. Its connection has libpq's names.
#[derive(Debug, Clone)]
pub struct DumpSource {
    /// Those of libpq that are set. Without `host` the cluster's own server is meant, and what is not set here is as it is for the cluster.
    pub options: BTreeMap<String, String>,
    /// What `password_file` holds.
    pub password: Option<SecretText>,
    /// `passfile`: a file like ~/.pgpass.
    pub passfile: Option<PathBuf>,
    /// `bin_directory`: `pg_dump`, `pg_dumpall`, `pg_restore` and `psql`; looked for when not set.
    pub bin_directory: Option<PathBuf>,
    /// `databases`: patterns; none: all.
    pub databases: Vec<String>,
    /// `exclude_databases`: patterns.
    pub exclude_databases: Vec<String>,
    /// `schemas`, as `pg_dump --schema` has it.
    pub schemas: Vec<String>,
    /// `exclude_schemas`.
    pub exclude_schemas: Vec<String>,
    /// `tables`, as `pg_dump --table` has it.
    pub tables: Vec<String>,
    /// `exclude_tables`.
    pub exclude_tables: Vec<String>,
    /// `globals`; yes: roles, tablespaces and their settings come back with the databases.
    pub globals: bool,
    /// `role_passwords`; yes, where the role may read them: whoever restores wants to log in.
    pub role_passwords: bool,
    /// `row_counts`; yes: reading each table once more is the price of knowing that all came back.
    pub row_counts: bool,
    /// `jobs`: databases side by side; 2, as `pg_dump` waits for the server half of the time.
    pub jobs: usize,
}

pub(super) fn read(reader: &mut Reader<'_>, secrets: Secrets) -> DumpSource {
    let mut options = BTreeMap::new();
    let texts = [
        "host",
        "port",
        "user",
        "dbname",
        "sslmode",
        "sslrootcert",
        "channel_binding",
        "target_session_attrs",
    ];
    for name in texts {
        options.extend(reader.text(name).map(|text| (name.to_owned(), text)));
    }
    for name in ["sslcert", "sslkey"] {
        let path = reader.path(name);
        options.extend(path.map(|path| (name.to_owned(), path.display().to_string())));
    }
    let seconds = reader.count("connect_timeout");
    options.extend(seconds.map(|seconds| ("connect_timeout".to_owned(), seconds.to_string())));
    let password = match secrets {
        Secrets::Read => reader.secret("password_file"),
        Secrets::Leave => {
            reader.path("password_file");
            None
        }
    };
    DumpSource {
        options,
        password,
        passfile: reader.path("passfile"),
        bin_directory: reader.path("bin_directory"),
        databases: reader.list("databases"),
        exclude_databases: reader.list("exclude_databases"),
        schemas: reader.list("schemas"),
        exclude_schemas: reader.list("exclude_schemas"),
        tables: reader.list("tables"),
        exclude_tables: reader.list("exclude_tables"),
        globals: reader.flag("globals").unwrap_or_default(),
        role_passwords: reader.flag("role_passwords").unwrap_or_default(),
        row_counts: reader.flag("row_counts").unwrap_or_default(),
        jobs: reader.count("jobs").unwrap_or_default(),
    }
}
