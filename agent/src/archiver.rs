//! What the server says of its archiver: whether its WAL arrives by `archive_command` instead of a slot, and how that goes.

use std::fmt;

use anyhow::Context as _;
use tokio_postgres::Client;

/// An archiver whose command is `wal-agent archive-push`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archiver {
    /// The last file that it archived, and when.
    pub last: Option<(String, String)>,
    /// Since when it fails, if its last attempt did.
    pub failing_since: Option<String>,
}

impl Archiver {
    /// For `status --json`.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "last_archived": self.last.as_ref().map(|(file, _)| file),
            "last_archived_time": self.last.as_ref().map(|(_, time)| time),
            "failing_since": self.failing_since,
        })
    }
}

impl fmt::Display for Archiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.last {
            None => f.write_str("nothing archived yet")?,
            Some((file, time)) => write!(f, "{file} at {time}")?,
        }
        match &self.failing_since {
            None => Ok(()),
            Some(since) => write!(f, ", FAILING since {since}"),
        }
    }
}

/// The server's archiver; `None` when there is none that pushes to us, or when the role may not see the settings.
pub async fn pushing(client: &Client) -> anyhow::Result<Option<Archiver>> {
    let row = client
        .query_one(
            "SELECT (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'archive_mode'), \
                    (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'archive_command'), \
                    (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'archive_library'), \
                    last_archived_wal, last_archived_time::pg_catalog.text, \
                    CASE WHEN last_failed_time > COALESCE(last_archived_time, '-infinity') \
                         THEN last_failed_time::pg_catalog.text END \
             FROM pg_catalog.pg_stat_archiver",
            &[],
        )
        .await
        .context("cannot ask for the server's archiver")?;
    let text = |column: usize| row.get::<_, Option<String>>(column);
    let (mode, command, library) = (text(0), text(1), text(2));
    let pushes = pushes(
        mode.as_deref().unwrap_or_default(),
        command.as_deref().unwrap_or_default(),
        library.as_deref().unwrap_or_default(),
    );
    Ok(pushes.then(|| Archiver {
        last: text(3).zip(text(4)),
        failing_since: text(5),
    }))
}

/// A library takes the place of the command (15 and later).
fn pushes(mode: &str, command: &str, library: &str) -> bool {
    matches!(mode, "on" | "always") && command.contains("archive-push") && library.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_archiver_that_runs_our_command_counts() {
        let command = "/usr/bin/wal-agent --config /etc/seawall.toml archive-push %p";
        assert!(pushes("on", command, ""));
        assert!(pushes("always", command, ""));
        for (mode, command, library) in [
            ("off", "(disabled)", ""),
            ("off", command, ""),
            ("on", "", ""),
            ("on", "cp %p /archive/%f", ""),
            ("on", command, "basic_archive"),
        ] {
            assert!(!pushes(mode, command, library), "{mode} {command} {library}");
        }
    }
}
