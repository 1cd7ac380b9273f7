//! What PostgreSQL's programs say when they fail, and what to do about it.

use crate::ComponentError;

/// Words of a message, and what helps.
const HINTS: [(&[&str], &str); 9] = [
    (
        &["server version mismatch", "unsupported version ("],
        "Install the programs of the server's major version or a later one, and name their directory in \"bin_directory\".",
    ),
    (
        &["password authentication failed", "no password supplied"],
        "Check \"user\", and what \"password_file\" or \"passfile\" holds.",
    ),
    (
        &["no pg_hba.conf entry", "pg_hba.conf rejects"],
        "Let the role in from this host in pg_hba.conf of the server, or choose another \"sslmode\".",
    ),
    (
        &["certificate", "SSL error", "does not support SSL"],
        "Check \"sslmode\", \"sslrootcert\", \"sslcert\" and \"sslkey\".",
    ),
    (
        &["permission denied"],
        "Grant the role pg_read_all_data (14 and later), or SELECT on what is named above; or leave it out by \"exclude_tables\".",
    ),
    (
        &["row-level security"],
        "Give the role BYPASSRLS: a dump of the rows that it happens to see would not be whole.",
    ),
    (
        &["no matching"],
        "A pattern of \"schemas\" or \"tables\" fits nothing in this database: correct it, or name the databases that have it in \"databases\".",
    ),
    (
        &["out of shared memory"],
        "Raise max_locks_per_transaction of the server: each table takes a lock.",
    ),
    (
        &[
            "could not connect",
            "Connection refused",
            "No such file or directory",
            "could not translate host name",
            "timeout expired",
            "closed the connection",
            "terminating connection",
            "shutting down",
            "starting up",
            "could not receive data",
        ],
        "See that the server runs and can be reached from here.",
    ),
];

/// A program failed.
pub(super) fn failed(what: impl Into<String>, said: &str) -> ComponentError {
    let hint = HINTS
        .iter()
        .find(|(words, _)| words.iter().any(|word| said.contains(word)));
    ComponentError::System {
        what: what.into(),
        detail: match said.trim() {
            "" => "it said nothing".into(),
            said => said.into(),
        },
        hint: hint.map_or("What it said stands above.", |(_, hint)| hint).into(),
    }
}
