//! What a server says of itself, and which of its databases are wanted.

use serde::Deserialize;

use super::session::Session;
use super::{Dump, Selection};
use crate::ComponentError;

/// `:'HOST'` and `:'PORT'` are psql's: where it is connected.
const QUESTION: &str = "SELECT jsonb_build_object('version', current_setting('server_version'), \
    'number', current_setting('server_version_num')::int, \
    'may_read_passwords', has_table_privilege('pg_catalog.pg_authid', 'SELECT'), \
    'databases', (SELECT jsonb_agg(datname ORDER BY datname) FROM pg_database WHERE datallowconn AND NOT datistemplate), \
    'host', :'HOST', 'port', :'PORT')";
/// Before it a version has two numbers.
const ONE_NUMBER: u32 = 100_000;

/// A server.
#[derive(Debug, Deserialize)]
pub(super) struct Survey {
    /// As it says it.
    pub version: String,
    number: u32,
    /// Of the roles.
    pub may_read_passwords: bool,
    /// All that let somebody connect, but templates.
    pub databases: Vec<String>,
    /// A name, an address, or the directory of its socket.
    pub host: String,
    pub port: String,
}

impl Survey {
    /// Asks.
    ///
    /// # Errors
    /// It is away, or said no.
    pub async fn of(dump: &Dump) -> Result<Self, ComponentError> {
        let programs = dump.places.any().await?;
        let mut session = Session::open(&programs, &dump.server, dump.database.as_deref()).await?;
        session.ask(QUESTION).await
    }

    /// First number of the version.
    pub fn major(&self) -> u32 {
        match self.number >= ONE_NUMBER {
            true => self.number / 10_000,
            false => 9,
        }
    }

    /// The databases that are wanted.
    ///
    /// # Errors
    /// None is, or a pattern fits none.
    pub fn select(&self, selection: &Selection) -> Result<Vec<String>, ComponentError> {
        let unfit = selection
            .databases
            .iter()
            .find(|pattern| !self.databases.iter().any(|name| pattern.is_match(name)));
        if let Some(pattern) = unfit {
            return Err(self.nothing(&format!("no database fits \"{}\"", pattern.glob())));
        }
        let is_wanted = |name: &&String| {
            let all = &selection.databases;
            (all.is_empty() || all.iter().any(|pattern| pattern.is_match(name)))
                && !selection.exclude_databases.iter().any(|pattern| pattern.is_match(name))
        };
        let wanted: Vec<String> = self.databases.iter().filter(is_wanted).cloned().collect();
        match wanted.is_empty() {
            true => Err(self.nothing("every database is left out")),
            false => Ok(wanted),
        }
    }

    fn nothing(&self, what: &str) -> ComponentError {
        let hint = format!("The server has: {}.", self.databases.join(", "));
        ComponentError::refused(format!("there is nothing to dump: {what}"), hint)
    }
}
