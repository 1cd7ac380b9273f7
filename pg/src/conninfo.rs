//! Where and as whom to connect, in libpq's words.
//!
//! Keys, defaults and `PG*` variables: docs, "libpq: Parameter Key Words" and "Environment
//! Variables". Pure: the environment comes in as a function, the password file as text. Used by
//! the configuration of the binaries and by [`crate::replication`]. Deviations from libpq: nothing
//! is read from `~/.postgresql`, and what cannot be meant (a key without its certificate) is refused
//! instead of ignored.

mod modes;
mod passfile;
mod servers;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use passfile::password_from_file;

pub use modes::{ChannelBinding, SslMode, TargetSessionAttrs};
pub use passfile::passfile_lookup;
pub use servers::{Host, Server, parse_ports, parse_servers};

/// Port of a server when nothing is said.
pub const DEFAULT_PORT: u16 = 5432;
/// Where sockets are when no host is named: Debian's and Red Hat's packages, then the source's.
pub const DEFAULT_SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];
/// How long connecting to one host may take. libpq would wait for ever; nothing here does.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Name shown in `pg_stat_replication` when nothing is said.
pub const DEFAULT_APPLICATION_NAME: &str = "seawall";

/// The keys that [`ConnectOptions::from_keys`] takes.
pub const KEYS: [&str; 13] = [
    "host",
    "port",
    "user",
    "password",
    "dbname",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "channel_binding",
    "target_session_attrs",
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

/// Which certificates are trusted to sign a server's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RootCert {
    /// Those of the operating system (`sslrootcert=system`).
    System,
    /// Those in a file (PEM).
    File(PathBuf),
}

/// What we show a server that asks for a certificate of ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientCert {
    /// `sslcert`: the certificate, then those that lead to its root (PEM).
    pub certificate: PathBuf,
    /// `sslkey`: its private key (PEM, not encrypted).
    pub key: PathBuf,
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
    /// Neither one port nor one for each host.
    #[error("{ports} ports for {hosts} hosts")]
    PortCount {
        /// How many ports.
        ports: usize,
        /// How many hosts.
        hosts: usize,
    },
    /// A key that has no meaning without another one.
    #[error("{key} needs {other}")]
    Needs {
        /// What is set.
        key: &'static str,
        /// What is not.
        other: &'static str,
    },
    /// A key of libpq that would have us connect to another place than the other keys say.
    #[error("{key} is not supported")]
    Unsupported {
        /// The key or the variable.
        key: &'static str,
    },
}

impl ConninfoError {
    fn invalid(key: &'static str, value: &str) -> Self {
        ConninfoError::InvalidValue {
            key,
            value: value.to_owned(),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            ConninfoError::UnknownKey { .. } | ConninfoError::InvalidValue { .. } | ConninfoError::NoUser => {
                "Set host, port and user in [cluster.<name>.postgres]."
            }
            ConninfoError::PortCount { .. } => "Name one port, or one for each host: \"5432,5433\".",
            ConninfoError::Needs { .. } => "Set both, in [cluster.<name>.postgres] or as PG* variables.",
            ConninfoError::Unsupported { .. } => {
                "Leave it out: an IP address may stand in host, and a certificate can name it."
            }
        }
    }
}

/// Everything needed to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// To be tried in this order.
    pub servers: Vec<Server>,
    /// Which of them will do.
    pub target_session_attrs: TargetSessionAttrs,
    /// Role.
    pub user: String,
    /// Database for SQL connections; a replication connection has none.
    pub dbname: Option<String>,
    /// How much TLS; sockets never use it.
    pub sslmode: SslMode,
    /// Whom to believe who the server is.
    pub sslrootcert: Option<RootCert>,
    /// Who we say we are.
    pub client_cert: Option<ClientCert>,
    /// Whether SCRAM is tied to the TLS connection.
    pub channel_binding: ChannelBinding,
    /// Name that the server shows.
    pub application_name: String,
    /// Limit for each address.
    pub connect_timeout: Duration,
}

impl ConnectOptions {
    /// Settings from libpq keys, then `PG*` variables, then defaults. Empty values count as not
    /// set. The role defaults to `PGUSER`, then `USER`, then `LOGNAME`. Without a password the
    /// text of the password file is searched for each server, with the database (default: named
    /// like the role), then with `replication`, which is the database that libpq looks up for
    /// replication connections.
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
        let set = |text: &String| !text.is_empty();
        let get = |key: &str, variable: &str| {
            let own = keys.get(key).filter(|text| set(text));
            own.cloned().or_else(|| env(variable).filter(set))
        };
        if env("PGHOSTADDR").is_some_and(|text| set(&text)) {
            return Err(ConninfoError::Unsupported { key: "PGHOSTADDR" });
        }
        let mut servers = parse_servers(get("host", "PGHOST").as_deref(), get("port", "PGPORT").as_deref())?;
        let os_user = || env("USER").or_else(|| env("LOGNAME")).filter(|user| !user.is_empty());
        let user = get("user", "PGUSER").or_else(os_user).ok_or(ConninfoError::NoUser)?;
        let dbname = get("dbname", "PGDATABASE");
        let password = get("password", "PGPASSWORD").map(Password::new);
        for server in &mut servers {
            let database = dbname.as_deref().unwrap_or(&user);
            server.password = password
                .clone()
                .or_else(|| password_from_file(passfile_text?, server, database, &user));
        }
        let sslmode = get("sslmode", "PGSSLMODE").map(|text| text.parse()).transpose()?;
        let (sslmode, sslrootcert) = trust(sslmode, get("sslrootcert", "PGSSLROOTCERT"))?;
        let binding = get("channel_binding", "PGCHANNELBINDING").map(|text| text.parse());
        let target = get("target_session_attrs", "PGTARGETSESSIONATTRS").map(|text| text.parse());
        Ok(ConnectOptions {
            servers,
            target_session_attrs: target.transpose()?.unwrap_or_default(),
            dbname,
            user,
            sslmode,
            sslrootcert,
            client_cert: client_cert(get("sslcert", "PGSSLCERT"), get("sslkey", "PGSSLKEY"))?,
            channel_binding: binding.transpose()?.unwrap_or_default(),
            application_name: get("application_name", "PGAPPNAME")
                .unwrap_or_else(|| DEFAULT_APPLICATION_NAME.to_owned()),
            connect_timeout: parse_timeout(get("connect_timeout", "PGCONNECT_TIMEOUT").as_deref())?,
        })
    }

    /// The same with one server only, so that a second connection goes where the first went.
    #[must_use]
    pub fn only(&self, server: Server) -> Self {
        ConnectOptions {
            servers: vec![server],
            ..self.clone()
        }
    }
}

/// `system` goes with `verify-full` and with nothing less, as in libpq: anybody can get a certificate
/// that the system trusts.
fn trust(sslmode: Option<SslMode>, sslrootcert: Option<String>) -> Result<(SslMode, Option<RootCert>), ConninfoError> {
    match (sslrootcert, sslmode) {
        (Some(word), None | Some(SslMode::VerifyFull)) if word == "system" => {
            Ok((SslMode::VerifyFull, Some(RootCert::System)))
        }
        (Some(word), Some(_)) if word == "system" => Err(ConninfoError::Needs {
            key: "sslrootcert = \"system\"",
            other: "sslmode = \"verify-full\"",
        }),
        (file, sslmode) => Ok((
            sslmode.unwrap_or_default(),
            file.map(|path| RootCert::File(path.into())),
        )),
    }
}

fn client_cert(certificate: Option<String>, key: Option<String>) -> Result<Option<ClientCert>, ConninfoError> {
    let needs = |key, other| Err(ConninfoError::Needs { key, other });
    match (certificate, key) {
        (None, None) => Ok(None),
        (Some(_), None) => needs("sslcert", "sslkey"),
        (None, Some(_)) => needs("sslkey", "sslcert"),
        (Some(certificate), Some(key)) => Ok(Some(ClientCert {
            certificate: certificate.into(),
            key: key.into(),
        })),
    }
}

/// Whole seconds. Zero and less mean "no limit" to libpq; here they mean the default.
fn parse_timeout(text: Option<&str>) -> Result<Duration, ConninfoError> {
    let Some(text) = text else {
        return Ok(DEFAULT_CONNECT_TIMEOUT);
    };
    let seconds: i32 = text
        .trim()
        .parse()
        .map_err(|_| ConninfoError::invalid("connect_timeout", text))?;
    Ok(match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
        _ => DEFAULT_CONNECT_TIMEOUT,
    })
}

#[cfg(test)]
mod tests;
