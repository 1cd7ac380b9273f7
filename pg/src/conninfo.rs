//! Where and as whom to connect, in libpq's words.
//!
//! Keys, defaults and `PG*` variables: docs, "libpq: Parameter Key Words" and "Environment
//! Variables". Pure: the environment comes in as a function, the password file as text. Used by
//! the configuration of the binaries and by [`crate::replication`].

mod passfile;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use zeroize::Zeroizing;

use passfile::password_from_file;

pub use passfile::passfile_lookup;

/// Port of a server when nothing is said.
pub const DEFAULT_PORT: u16 = 5432;
/// Where sockets are when no host is named: Debian's and Red Hat's packages, then the source's.
pub const DEFAULT_SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];
/// How long connecting to one host may take. libpq would wait for ever; nothing here does.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Name shown in `pg_stat_replication` when nothing is said.
pub const DEFAULT_APPLICATION_NAME: &str = "seawall";

/// The keys that [`ConnectOptions::from_keys`] takes.
pub const KEYS: [&str; 9] = [
    "host",
    "port",
    "user",
    "password",
    "dbname",
    "sslmode",
    "sslrootcert",
    "connect_timeout",
    "application_name",
];

/// A password. It is wiped from memory when dropped and never printed.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Takes a password over.
    pub fn new(text: String) -> Self {
        Password(Zeroizing::new(text))
    }

    /// The password itself, to be sent and not kept.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// A server's address without its port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Host {
    /// Directory of the server's socket.
    Unix(PathBuf),
    /// Host name or IP address.
    Tcp(String),
}

/// How much TLS (docs, "libpq: SSL Support"). libpq's `allow` is left out: it protects nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum SslMode {
    /// None.
    Disable,
    /// When the server has it.
    #[default]
    Prefer,
    /// Always; the certificate is checked only when `sslrootcert` is set.
    Require,
    /// Always, with a certificate of the CA.
    VerifyCa,
    /// Always, with a certificate of the CA for this host name.
    VerifyFull,
}

impl SslMode {
    /// libpq's word for the mode.
    pub const fn as_str(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SslMode {
    type Err = ConninfoError;

    fn from_str(text: &str) -> Result<Self, ConninfoError> {
        use SslMode::{Disable, Prefer, Require, VerifyCa, VerifyFull};
        [Disable, Prefer, Require, VerifyCa, VerifyFull]
            .into_iter()
            .find(|mode| mode.as_str() == text)
            .ok_or_else(|| invalid("sslmode", text))
    }
}

/// Why connection settings were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConninfoError {
    /// A key that is not one of [`KEYS`].
    #[error("unknown connection key \"{key}\"")]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// A value that its key cannot have.
    #[error("invalid value \"{value}\" for connection key \"{key}\"")]
    InvalidValue {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
    },
    /// No role is named.
    #[error("no user to connect as")]
    NoUser,
}

fn invalid(key: &'static str, value: &str) -> ConninfoError {
    ConninfoError::InvalidValue {
        key,
        value: value.to_owned(),
    }
}

/// Everything needed to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Servers, tried in order.
    pub host: Vec<Host>,
    /// Port of all of them.
    pub port: u16,
    /// Role.
    pub user: String,
    /// Its password.
    pub password: Option<Password>,
    /// Database for SQL connections; a replication connection has none.
    pub dbname: Option<String>,
    /// How much TLS; sockets never use it.
    pub sslmode: SslMode,
    /// File of trusted certificates (PEM).
    pub sslrootcert: Option<PathBuf>,
    /// Name that the server shows.
    pub application_name: String,
    /// Limit for each host.
    pub connect_timeout: Duration,
}

impl ConnectOptions {
    /// Settings from libpq keys, then `PG*` variables, then defaults. Empty values count as not
    /// set. The role defaults to `PGUSER`, then `USER`, then `LOGNAME`. Without a password the
    /// text of the password file is searched for the first host that has a line, with the
    /// database (default: named like the role), then with `replication`, which is the database
    /// that libpq looks up for replication connections.
    ///
    /// # Errors
    /// [`ConninfoError`] names the key; a password is never part of it.
    pub fn from_keys(
        keys: &BTreeMap<String, String>,
        env: &dyn Fn(&str) -> Option<String>,
        passfile_text: Option<&str>,
    ) -> Result<Self, ConninfoError> {
        if let Some(key) = keys.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(ConninfoError::UnknownKey { key: key.clone() });
        }
        let get = |key: &str, variable: &str| {
            let set = |text: &String| !text.is_empty();
            keys.get(key)
                .filter(|text| set(text))
                .cloned()
                .or_else(|| env(variable).filter(set))
        };
        let host = parse_hosts(get("host", "PGHOST").as_deref())?;
        let port = parse_port(get("port", "PGPORT").as_deref())?;
        let os_user = || env("USER").or_else(|| env("LOGNAME")).filter(|user| !user.is_empty());
        let user = get("user", "PGUSER").or_else(os_user).ok_or(ConninfoError::NoUser)?;
        let dbname = get("dbname", "PGDATABASE");
        let password = get("password", "PGPASSWORD").map(Password::new).or_else(|| {
            let database = dbname.as_deref().unwrap_or(&user);
            password_from_file(passfile_text?, &host, port, database, &user)
        });
        let sslmode = get("sslmode", "PGSSLMODE").map(|text| text.parse()).transpose()?;
        let timeout = parse_timeout(get("connect_timeout", "PGCONNECT_TIMEOUT").as_deref())?;
        Ok(ConnectOptions {
            host,
            port,
            password,
            dbname,
            user,
            sslmode: sslmode.unwrap_or_default(),
            sslrootcert: get("sslrootcert", "PGSSLROOTCERT").map(PathBuf::from),
            application_name: get("application_name", "PGAPPNAME")
                .unwrap_or_else(|| DEFAULT_APPLICATION_NAME.to_owned()),
            connect_timeout: timeout,
        })
    }
}

fn parse_hosts(text: Option<&str>) -> Result<Vec<Host>, ConninfoError> {
    let Some(text) = text else {
        return Ok(DEFAULT_SOCKET_DIRECTORIES
            .iter()
            .map(|dir| Host::Unix(dir.into()))
            .collect());
    };
    text.split(',')
        .map(|host| match host.trim() {
            "" => Err(invalid("host", text)),
            abstract_socket if abstract_socket.starts_with('@') => Err(invalid("host", text)),
            directory if directory.starts_with('/') => Ok(Host::Unix(directory.into())),
            name => Ok(Host::Tcp(name.to_owned())),
        })
        .collect()
}

/// One port, or a list of which all are the same.
fn parse_port(text: Option<&str>) -> Result<u16, ConninfoError> {
    let Some(text) = text else {
        return Ok(DEFAULT_PORT);
    };
    let mut ports = text
        .split(',')
        .map(|port| port.trim().parse::<u16>().ok().filter(|p| *p > 0));
    match ports.next().flatten() {
        Some(first) if ports.all(|port| port == Some(first)) => Ok(first),
        _ => Err(invalid("port", text)),
    }
}

/// Whole seconds. Zero and less mean "no limit" to libpq; here they mean the default.
fn parse_timeout(text: Option<&str>) -> Result<Duration, ConninfoError> {
    let Some(text) = text else {
        return Ok(DEFAULT_CONNECT_TIMEOUT);
    };
    let seconds: i32 = text.trim().parse().map_err(|_| invalid("connect_timeout", text))?;
    Ok(match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
        _ => DEFAULT_CONNECT_TIMEOUT,
    })
}

#[cfg(test)]
mod tests;
