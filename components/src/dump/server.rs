//! Which PostgreSQL server, and as whom: the way into every program that talks to it.
//!
//! Programs get libpq's connection string as `--dbname`, and everything else as libpq's environment variables (docs, "libpq: Environment
//! Variables"). A password goes into the environment of the child alone: an argument could be read by whoever lists processes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use store::object::Secret;
use tokio::process::Command;

/// What the server shows of us, where nothing else is said.
const APPLICATION: &str = "seawall";
/// Seconds that connecting to one host may take, where nothing else is said; libpq waits for ever.
const CONNECT_SECONDS: &str = "10";

/// How to reach a server.
#[derive(Clone, Default)]
pub struct Server {
    /// libpq's connection string, as a URL or as keys and values, or the name of a database; without a password. Empty: the environment says all.
    pub conninfo: String,
    /// The whole environment of the programs: libpq's variables, and what the programs need to run (`PATH`, `HOME`).
    pub environment: BTreeMap<String, String>,
    /// Sent to the server.
    pub password: Option<Secret>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// A program that is connected to `database`; none: to the one of the connection string. Killed when it is let go of.
    pub(super) fn command(&self, program: &Path, database: Option<&str>) -> Command {
        let mut command = self.program(program);
        command.arg(format!("--dbname={}", self.conninfo_of(database)));
        command
    }

    /// A program that need not be connected.
    pub(super) fn program(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PGAPPNAME", APPLICATION)
            .env("PGCONNECT_TIMEOUT", CONNECT_SECONDS)
            .envs(&self.environment)
            // What they say is read here; and each speaks the encoding of its database.
            .env("LC_ALL", "C")
            .env_remove("PGCLIENTENCODING")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Some(password) = &self.password {
            command.env("PGPASSWORD", password.expose());
        }
        command
    }

    /// The same server and no other, where several were named: a snapshot lives in one.
    pub(super) fn only(&self, host: &str, port: &str) -> Self {
        let mut one = self.clone();
        one.environment.insert("PGHOST".into(), host.into());
        one.environment.insert("PGPORT".into(), port.into());
        one
    }

    /// The connection string with another database: of two values for a key libpq takes the later.
    fn conninfo_of(&self, database: Option<&str>) -> String {
        let conninfo = &self.conninfo;
        let Some(database) = database else {
            return conninfo.clone();
        };
        if conninfo.starts_with("postgresql://") || conninfo.starts_with("postgres://") {
            let joint = if conninfo.contains('?') { '&' } else { '?' };
            return format!("{conninfo}{joint}dbname={}", super::name::percent(database));
        }
        let quoted = database.replace('\\', "\\\\").replace('\'', "\\'");
        match conninfo.contains('=') {
            true => format!("{conninfo} dbname='{quoted}'"),
            false => format!("dbname='{quoted}'"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_connection_string_takes_another_database() {
        let of = |conninfo: &str| {
            let server = Server {
                conninfo: conninfo.into(),
                ..Server::default()
            };
            server.conninfo_of(Some("a'b c"))
        };
        assert_eq!(of(""), "dbname='a\\'b c'");
        assert_eq!(of("app"), "dbname='a\\'b c'");
        assert_eq!(of("host=h dbname=app"), "host=h dbname=app dbname='a\\'b c'");
        assert_eq!(of("postgresql://h/app"), "postgresql://h/app?dbname=a%27b%20c");
        assert_eq!(
            of("postgres://h?sslmode=require"),
            "postgres://h?sslmode=require&dbname=a%27b%20c"
        );
    }
}
