//! From a host name to an authenticated walsender connection.
//!
//! Socket, TLS negotiation (docs, "SSL Session Encryption": SSLRequest, one byte `S` or `N`), then
//! the startup message with `replication=true` (docs, "Streaming Replication Protocol") and
//! authentication (`auth`). The outcome is a `wire::Wire` that waits for a command.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustix::net::sockopt;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::auth;
use super::error::{ReplicationError, ServerFailure};
use super::wire::{Socket, Wire};
use crate::conninfo::{ConnectOptions, Host, Server, SslMode};
use crate::identity::ServerVersion;
use crate::tls;

const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// Milliseconds that sent bytes may stay unacknowledged.
const USER_TIMEOUT_MS: u32 = 60_000;

/// Tries the servers in order. One that cannot be used, for whatever reason, leads to the next.
pub(super) async fn connect(opts: &ConnectOptions) -> Result<(Wire, ServerVersion), ReplicationError> {
    let mut failures = Vec::new();
    for server in &opts.servers {
        let after = opts.connect_timeout;
        let attempt = tokio::time::timeout(after, Box::pin(connect_server(opts, server))).await;
        let what = "connecting";
        match attempt.unwrap_or(Err(ReplicationError::Timeout { what, after })) {
            Ok(connected) => return Ok(connected),
            Err(error) => failures.push(ServerFailure {
                server: server.to_string(),
                error,
            }),
        }
    }
    Err(ReplicationError::of_all(failures))
}

async fn connect_server(opts: &ConnectOptions, server: &Server) -> Result<(Wire, ServerVersion), ReplicationError> {
    let socket = match &server.host {
        Host::Unix(directory) => connect_unix(directory, server.port).await?,
        Host::Tcp(name) => match connect_tcp(opts, server, name, opts.sslmode).await {
            // libpq's "prefer": a failed handshake is tried again in the clear.
            Err(ReplicationError::TlsHandshake { .. }) if opts.sslmode == SslMode::Prefer => {
                connect_tcp(opts, server, name, SslMode::Disable).await?
            }
            other => other?,
        },
    };
    let mut wire = Wire::new(socket);
    start(&mut wire, opts, server)
        .await
        .map(|version| (wire, version))
        .map_err(|error| match error {
            // With TLS 1.3 the server looks at our certificate when the handshake is over for us.
            ReplicationError::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
                let host = server.to_string();
                ReplicationError::TlsHandshake { host, source }
            }
            error => error,
        })
}

/// Introduces us on a connected socket.
async fn start(wire: &mut Wire, opts: &ConnectOptions, server: &Server) -> Result<ServerVersion, ReplicationError> {
    let parameters = [
        ("user", opts.user.as_str()),
        ("replication", "true"),
        ("application_name", opts.application_name.as_str()),
        ("client_encoding", "UTF8"),
    ];
    frontend::startup_message(parameters, wire.out())
        .map_err(|_| ReplicationError::protocol("startup parameter contains a zero byte"))?;
    wire.flush().await?;
    auth::authenticate(wire, opts, server).await?;
    let version = wire.until_ready().await?;
    if version.is_supported() {
        return Ok(version);
    }
    Err(ReplicationError::Unsupported {
        feature: "this server version",
        version: version.to_string(),
    })
}

async fn connect_unix(directory: &Path, port: u16) -> Result<Socket, ReplicationError> {
    let path = directory.join(format!(".s.PGSQL.{port}"));
    let stream = UnixStream::connect(&path).await;
    let host = || path.display().to_string();
    stream
        .map(Socket::Unix)
        .map_err(|source| ReplicationError::Connect { host: host(), source })
}

async fn connect_tcp(
    opts: &ConnectOptions,
    server: &Server,
    name: &str,
    sslmode: SslMode,
) -> Result<Socket, ReplicationError> {
    let host = server.to_string();
    let failed = |source| ReplicationError::Connect {
        host: host.clone(),
        source,
    };
    let stream = match server.ip {
        Some(ip) => TcpStream::connect((ip, server.port)).await,
        None => TcpStream::connect((name, server.port)).await,
    };
    let stream = stream.map_err(failed)?;
    keep_alive(&stream).map_err(failed)?;
    if sslmode == SslMode::Disable {
        return Ok(Socket::Tcp(stream));
    }
    let config = tls::client_config(opts).map_err(|source| ReplicationError::Tls {
        host: host.clone(),
        source,
    })?;
    let (stream, offered) = ask_for_tls(stream).await?;
    if !offered {
        return if sslmode == SslMode::Prefer {
            Ok(Socket::Tcp(stream))
        } else {
            Err(ReplicationError::TlsNotOffered { host })
        };
    }
    let handshake = |source| ReplicationError::TlsHandshake {
        host: host.clone(),
        source,
    };
    let name = ServerName::try_from(name.to_owned())
        .map_err(|error| handshake(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.map_err(handshake)?;
    Ok(Socket::Tls(Box::new(stream)))
}

/// Sends SSLRequest. Exactly one byte is read, so that nothing sent before the handshake can be
/// taken for a part of the encrypted stream (CVE-2021-23222).
async fn ask_for_tls(mut stream: TcpStream) -> Result<(TcpStream, bool), ReplicationError> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    match stream.read_u8().await? {
        b'S' => Ok((stream, true)),
        b'N' => Ok((stream, false)),
        _ => Err(ReplicationError::protocol("answer to the request for TLS")),
    }
}

/// A dead peer is noticed after about a minute, and small messages are not held back. The kernel probes a silent connection only while
/// nothing that was sent waits to be acknowledged; for that there is the other limit (tcp(7), `TCP_USER_TIMEOUT`).
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT_MS)?;
    Ok(())
}
