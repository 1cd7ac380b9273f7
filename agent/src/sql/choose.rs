//! Which of the servers: the one place where an attempt decides where it goes.
//!
//! SQL and replication must reach the same server, or the agent would ask one and stream from another. So a host name is resolved
//! here, its addresses are tried one by one, and what comes back names exactly the address that answered. As in libpq the hosts are
//! tried in order and `target_session_attrs` is asked of each; unlike libpq a server that refuses us leads to the next one too, and
//! the error says of each why not. Every address has `connect_timeout`, from the first packet to the prepared session.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use pg::conninfo::{ChannelBinding, ConnectOptions, Host, Server, SslMode, TargetSessionAttrs};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, NoTls, Socket, config};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::exit::{self, Failure};

/// A session that is prepared, and options with the one server that it goes to.
pub async fn choose(options: &ConnectOptions) -> anyhow::Result<(Client, ConnectOptions)> {
    let tls = tls(options)?;
    let wanted = options.target_session_attrs;
    let (mut refusals, mut second_best) = (Vec::new(), None);
    for server in &options.servers {
        let addresses = match addresses(server, options.connect_timeout).await {
            Ok(addresses) => addresses,
            Err(refusal) => {
                refusals.push(refusal);
                continue;
            }
        };
        for server in addresses {
            match attempt(options, &server, tls.as_ref()).await {
                Ok((client, state)) if state.is_wanted(wanted) => return Ok((client, options.only(server))),
                Ok((client, _)) if wanted == TargetSessionAttrs::PreferStandby => {
                    second_best.get_or_insert((client, server));
                }
                Ok((_, state)) => refusals.push(Refusal::other_state(&server, state, wanted)),
                Err(refusal) => refusals.push(refusal),
            }
        }
    }
    match second_best {
        Some((client, server)) => Ok((client, options.only(server))),
        None => Err(failure(refusals).into()),
    }
}

/// The configuration for TLS, where any server could need it. A file that cannot be used is no server's fault.
fn tls(options: &ConnectOptions) -> anyhow::Result<Option<MakeRustlsConnect>> {
    let by_tcp = |server: &Server| matches!(server.host, Host::Tcp(_));
    if options.sslmode == SslMode::Disable || !options.servers.iter().any(by_tcp) {
        return Ok(None);
    }
    let config = pg::tls::client_config(options).context("cannot set up TLS")?;
    Ok(Some(MakeRustlsConnect::new(config)))
}

/// The server once for each address of its name.
async fn addresses(server: &Server, limit: Duration) -> Result<Vec<Server>, Refusal> {
    let name = match (&server.host, server.ip) {
        (Host::Tcp(name), None) => name.as_str(),
        _ => return Ok(vec![server.clone()]),
    };
    let unreachable = |reason: String| Refusal::unreachable(server, reason, WHERE);
    let found = tokio::time::timeout(limit, tokio::net::lookup_host((name, server.port)))
        .await
        .map_err(|_| unreachable(format!("its name was not resolved within {} s", limit.as_secs())))?
        .map_err(|error| unreachable(error.to_string()))?;
    let mut ips: Vec<IpAddr> = Vec::new();
    for address in found {
        if !ips.contains(&address.ip()) {
            ips.push(address.ip());
        }
    }
    if ips.is_empty() {
        return Err(unreachable("its name has no address".to_owned()));
    }
    let at = |ip| Server {
        ip: Some(ip),
        ..server.clone()
    };
    Ok(ips.into_iter().map(at).collect())
}

/// What `target_session_attrs` is about.
#[derive(Clone, Copy)]
struct State {
    is_standby: bool,
    is_read_only: bool,
}

impl State {
    fn is_wanted(self, wanted: TargetSessionAttrs) -> bool {
        wanted.accepts(self.is_standby, self.is_read_only)
    }

    fn name(self) -> &'static str {
        match self {
            State { is_standby: true, .. } => "a standby",
            State { is_read_only: true, .. } => "a primary whose sessions are read-only",
            State { .. } => "a primary",
        }
    }
}

/// One address, within its time.
async fn attempt(
    options: &ConnectOptions,
    server: &Server,
    tls: Option<&MakeRustlsConnect>,
) -> Result<(Client, State), Refusal> {
    let limit = options.connect_timeout;
    let config = config(options, server, tls.is_some());
    let session = async {
        let client = match tls {
            Some(tls) => open(&config, tls.clone()).await,
            None => open(&config, NoTls).await,
        }?;
        let state = prepare(&client).await?;
        Ok((client, state))
    };
    match tokio::time::timeout(limit, Box::pin(session)).await {
        Ok(session) => session.map_err(|error| Refusal::of(&error, options, server)),
        Err(_) => {
            let reason = format!("no answer within {} s", limit.as_secs());
            Err(Refusal::unreachable(server, reason, WHERE))
        }
    }
}

fn config(options: &ConnectOptions, server: &Server, has_tls: bool) -> Config {
    let mut config = Config::new();
    match &server.host {
        Host::Unix(directory) => config.host_path(directory),
        Host::Tcp(name) => config.host(name),
    };
    if let Some(ip) = server.ip {
        config.hostaddr(ip);
    }
    config
        .port(server.port)
        .user(&options.user)
        .dbname(options.dbname.as_deref().unwrap_or("postgres"))
        .application_name(&options.application_name)
        .connect_timeout(options.connect_timeout);
    if let Some(password) = &server.password {
        config.password(password.expose());
    }
    config.ssl_mode(match (&server.host, options.sslmode) {
        // A socket has no TLS and needs none.
        (Host::Unix(_), _) | (_, SslMode::Disable) => config::SslMode::Disable,
        _ if !has_tls => config::SslMode::Disable,
        (_, SslMode::Prefer) => config::SslMode::Prefer,
        (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => config::SslMode::Require,
    });
    config.channel_binding(match options.channel_binding {
        ChannelBinding::Disable => config::ChannelBinding::Disable,
        ChannelBinding::Prefer => config::ChannelBinding::Prefer,
        ChannelBinding::Require => config::ChannelBinding::Require,
    });
    config
}

/// Connects; the connection's own task ends with the client.
async fn open<T>(config: &Config, tls: T) -> Result<Client, tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect(tls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "SQL connection ended");
        }
    });
    Ok(client)
}

/// Makes the session independent of what is set for server, role and database, and asks what the server is. What waits for a slow
/// store says nothing to the server for a long time. Not every version has all of the timeouts.
async fn prepare(client: &Client) -> Result<State, tokio_postgres::Error> {
    client
        .batch_execute(
            "SET search_path = ''; SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
             WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', \
             'idle_session_timeout', 'transaction_timeout')",
        )
        .await?;
    let query = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only') = 'on'";
    let row = client.query_one(query, &[]).await?;
    Ok(State {
        is_standby: row.try_get(0)?,
        is_read_only: row.try_get(1)?,
    })
}

const WHERE: &str = "Is PostgreSQL running, and do host and port in [cluster.<name>.postgres] name it?";

/// Why a server was not chosen.
struct Refusal {
    server: String,
    /// It let us know; otherwise it may be better later.
    is_refused: bool,
    reason: String,
    hint: &'static str,
}

impl Refusal {
    fn unreachable(server: &Server, reason: String, hint: &'static str) -> Self {
        Refusal {
            server: server.to_string(),
            is_refused: false,
            reason,
            hint,
        }
    }

    /// Its state may change: a failover is going on, or not done yet.
    fn other_state(server: &Server, state: State, wanted: TargetSessionAttrs) -> Self {
        let reason = format!("it is {}, and target_session_attrs is {wanted}", state.name());
        let hint =
            "Name all servers of the cluster in host, or change target_session_attrs in [cluster.<name>.postgres].";
        Refusal::unreachable(server, reason, hint)
    }

    fn of(error: &tokio_postgres::Error, options: &ConnectOptions, server: &Server) -> Self {
        // 57P: starting up, shutting down; 53: out of connections. All of them pass.
        let passes = |code: &str| code.starts_with("57P") || code.starts_with("53");
        let refused = |reason: String, hint| Refusal {
            is_refused: true,
            ..Refusal::unreachable(server, reason, hint)
        };
        if let Some(answer) = error.as_db_error()
            && !passes(answer.code().code())
        {
            let detail = answer.detail().map_or_else(String::new, |detail| format!(": {detail}"));
            // The server's word that it does not see the connection that we see.
            let hint = match answer.message().contains("channel binding") {
                true => exit::BETWEEN_HINT,
                false => hint_for(answer.code().code()),
            };
            return refused(format!("{}{detail}", answer.message()), hint);
        }
        let cause = error.as_db_error().map(|answer| answer.message().to_owned());
        let cause = cause
            .or_else(|| std::error::Error::source(error).map(ToString::to_string))
            .unwrap_or_else(|| error.to_string());
        if options.channel_binding == ChannelBinding::Require && cause.contains("channel binding") {
            return refused(
                format!("channel binding is required, but: {cause}"),
                exit::CHANNEL_BINDING_HINT,
            );
        }
        let hint = if is_tls(error) { exit::TLS_HINT } else { WHERE };
        Refusal::unreachable(server, cause, hint)
    }
}

fn hint_for(sqlstate: &str) -> &'static str {
    match sqlstate {
        "28P01" | "28000" => {
            "Check the role and its password (password_file or .pgpass) or certificate (sslcert), and its line in pg_hba.conf."
        }
        "3D000" => "Set dbname in [cluster.<name>.postgres] to a database that exists.",
        _ => "See the server's log.",
    }
}

/// The handshake failed, or the server did not like our certificate.
fn is_tls(error: &tokio_postgres::Error) -> bool {
    let source = std::error::Error::source(error);
    let broken = |error: &std::io::Error| error.kind() == std::io::ErrorKind::InvalidData;
    error.to_string().contains("TLS") || source.and_then(|cause| cause.downcast_ref()).is_some_and(broken)
}

/// One server's reason as it is; those of several in a line.
fn failure(refusals: Vec<Refusal>) -> Failure {
    if let [only] = refusals.as_slice() {
        return match only.is_refused {
            true => Failure::refused(format!("PostgreSQL refused the connection: {}", only.reason), only.hint),
            false => Failure::unreachable(
                format!("cannot connect to PostgreSQL at {}: {}", only.server, only.reason),
                only.hint,
            ),
        };
    }
    let reasons = refusals
        .iter()
        .map(|refusal| format!("{}: {}", refusal.server, refusal.reason));
    let message = format!(
        "cannot connect to PostgreSQL at any of {} addresses: {}",
        refusals.len(),
        reasons.collect::<Vec<_>>().join("; ")
    );
    let mut hints: Vec<&str> = Vec::new();
    for refusal in &refusals {
        if !hints.contains(&refusal.hint) {
            hints.push(refusal.hint);
        }
    }
    let hint = hints.join("\nHINT: ");
    match refusals.iter().all(|refusal| refusal.is_refused) {
        true => Failure::refused(message, hint),
        false => Failure::unreachable(message, hint),
    }
}
