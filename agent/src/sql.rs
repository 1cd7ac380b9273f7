//! SQL connections to the server. Names are qualified and the search path is empty, so that no object of a database can stand in.

use anyhow::Context as _;
use pg::conninfo::{ConnectOptions, Host, SslMode};
use pg::lsn::Lsn;
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::exit::Failure;

/// Connects; the connection's own task ends with the client.
pub async fn connect(options: &ConnectOptions) -> anyhow::Result<Client> {
    let mut config = Config::new();
    for host in &options.host {
        match host {
            Host::Unix(directory) => config.host_path(directory),
            Host::Tcp(name) => config.host(name),
        };
    }
    config
        .port(options.port)
        .user(&options.user)
        .connect_timeout(options.connect_timeout);
    config
        .dbname(options.dbname.as_deref().unwrap_or("postgres"))
        .application_name(&options.application_name);
    if let Some(password) = &options.password {
        config.password(password.expose());
    }
    config.ssl_mode(match options.sslmode {
        SslMode::Disable => tokio_postgres::config::SslMode::Disable,
        SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => tokio_postgres::config::SslMode::Require,
    });
    let tls = pg::tls::client_config(options.sslmode, options.sslrootcert.as_deref()).context("cannot set up TLS")?;
    let (client, connection) = config
        .connect(MakeRustlsConnect::new(tls))
        .await
        .map_err(|error| unreachable_or_refused(&error, options))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "SQL connection ended");
        }
    });
    client
        .batch_execute("SET search_path = ''; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
        .await
        .context("cannot prepare the SQL session")?;
    Ok(client)
}

fn unreachable_or_refused(error: &tokio_postgres::Error, options: &ConnectOptions) -> Failure {
    // 57P: starting up, shutting down; 53: out of connections. All of them pass.
    let passes = |code: &str| code.starts_with("57P") || code.starts_with("53");
    if let Some(refusal) = error.as_db_error()
        && !passes(refusal.code().code())
    {
        let hint = match refusal.code().code() {
            "28P01" | "28000" => {
                "Check the role and its password (password_file or .pgpass), and its line in pg_hba.conf.".to_owned()
            }
            "3D000" => "Set dbname in [cluster.<name>.postgres] to a database that exists.".to_owned(),
            _ => "See the server's log.".to_owned(),
        };
        return Failure::refused(
            format!("PostgreSQL refused the connection: {}", refusal.message()),
            hint,
        );
    }
    let cause = error.as_db_error().map(|refusal| refusal.message().to_owned());
    let cause = cause
        .or_else(|| std::error::Error::source(error).map(ToString::to_string))
        .unwrap_or_else(|| error.to_string());
    Failure::unreachable(
        format!("cannot connect to PostgreSQL at {}: {cause}", place(options)),
        "Is PostgreSQL running, and do host and port in [cluster.<name>.postgres] name it?",
    )
}

/// Where the server was looked for.
fn place(options: &ConnectOptions) -> String {
    let hosts = options.host.iter().map(|host| match host {
        Host::Unix(directory) => directory.display().to_string(),
        Host::Tcp(name) => name.clone(),
    });
    format!("{}, port {}", hosts.collect::<Vec<_>>().join(", "), options.port)
}

/// What the server says about a physical slot.
#[derive(Debug, Clone, Default)]
pub struct Slot {
    /// Where WAL is held back.
    pub restart: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: Option<String>,
    /// Bytes until the slot is in danger.
    pub safe_wal_bytes: Option<i64>,
    /// Somebody streams from it.
    pub active: bool,
}

impl Slot {
    /// The server has given it up: no WAL is kept for it, and nobody can stream from it.
    pub fn is_invalidated(&self) -> bool {
        self.wal_status.as_deref() == Some("lost") || self.restart.is_none()
    }
}

/// Looks a slot up.
pub async fn slot(client: &Client, name: &str) -> anyhow::Result<Option<Slot>> {
    let row = client
        .query_opt(
            "SELECT restart_lsn::text, wal_status, safe_wal_size, active FROM pg_catalog.pg_replication_slots \
             WHERE slot_name::text = $1 AND slot_type = 'physical'",
            &[&name],
        )
        .await
        .context("cannot look the replication slot up")?;
    Ok(row.map(|row| Slot {
        restart: row.get::<_, Option<String>>(0).and_then(|text| text.parse().ok()),
        wal_status: row.get(1),
        safe_wal_bytes: row.get(2),
        active: row.get(3),
    }))
}

/// Moves a physical slot forward.
pub async fn advance_slot(client: &Client, name: &str, to: Lsn) -> anyhow::Result<()> {
    client
        .execute(
            "SELECT pg_catalog.pg_replication_slot_advance($1::text::name, $2::text::pg_catalog.pg_lsn)",
            &[&name, &to.to_string()],
        )
        .await
        .with_context(|| format!("cannot advance slot \"{name}\" to {to}"))?;
    Ok(())
}

/// End of the WAL that is flushed: on a primary its own, on a standby what it replayed.
pub async fn flush_lsn(client: &Client) -> anyhow::Result<Lsn> {
    let row = client
        .query_one(
            "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
             ELSE pg_catalog.pg_current_wal_flush_lsn() END::text",
            &[],
        )
        .await
        .context("cannot ask for the WAL position")?;
    row.get::<_, String>(0)
        .parse()
        .map_err(|_| anyhow::anyhow!("the server's WAL position makes no sense"))
}

/// True on a standby.
pub async fn is_standby(client: &Client) -> anyhow::Result<bool> {
    let row = client.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[]).await;
    Ok(row.context("cannot ask whether the server is a standby")?.get(0))
}
