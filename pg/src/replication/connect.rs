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
use super::error::ReplicationError;
use super::wire::{Socket, Wire};
use crate::conninfo::{ConnectOptions, Host, SslMode};
use crate::identity::ServerVersion;
use crate::tls;

const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Tries the hosts in order.
pub(super) async fn connect(opts: &ConnectOptions) -> Result<(Wire, ServerVersion), ReplicationError> {
    let mut last = ReplicationError::protocol("no host to connect to");
    for host in &opts.host {
        let after = opts.connect_timeout;
        let attempt = tokio::time::timeout(after, Box::pin(connect_host(opts, host))).await;
        match attempt.unwrap_or(Err(ReplicationError::Timeout {
            what: "connecting",
            after,
        })) {
            Ok(connected) => return Ok(connected),
            Err(error) if error.is_transient() => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

async fn connect_host(opts: &ConnectOptions, host: &Host) -> Result<(Wire, ServerVersion), ReplicationError> {
    let socket = match host {
        Host::Unix(directory) => connect_unix(directory, opts.port).await?,
        Host::Tcp(name) => match connect_tcp(opts, name, opts.sslmode).await {
            // libpq's "prefer": a failed handshake is tried again in the clear.
            Err(ReplicationError::TlsHandshake { .. }) if opts.sslmode == SslMode::Prefer => {
                connect_tcp(opts, name, SslMode::Disable).await?
            }
            other => other?,
        },
    };
    let mut wire = Wire::new(socket);
    let parameters = [
        ("user", opts.user.as_str()),
        ("replication", "true"),
        ("application_name", opts.application_name.as_str()),
        ("client_encoding", "UTF8"),
    ];
    frontend::startup_message(parameters, wire.out())
        .map_err(|_| ReplicationError::protocol("startup parameter contains a zero byte"))?;
    wire.flush().await?;
    auth::authenticate(&mut wire, opts).await?;
    let version = wire.until_ready().await?;
    if version.is_supported() {
        Ok((wire, version))
    } else {
        let version = version.to_string();
        Err(ReplicationError::Unsupported {
            feature: "this server version",
            version,
        })
    }
}

async fn connect_unix(directory: &Path, port: u16) -> Result<Socket, ReplicationError> {
    let path = directory.join(format!(".s.PGSQL.{port}"));
    let stream = UnixStream::connect(&path).await;
    let host = || path.display().to_string();
    stream
        .map(Socket::Unix)
        .map_err(|source| ReplicationError::Connect { host: host(), source })
}

async fn connect_tcp(opts: &ConnectOptions, name: &str, sslmode: SslMode) -> Result<Socket, ReplicationError> {
    let host = format!("{name}:{}", opts.port);
    let failed = |source| ReplicationError::Connect {
        host: host.clone(),
        source,
    };
    let stream = TcpStream::connect((name, opts.port)).await.map_err(failed)?;
    keep_alive(&stream).map_err(failed)?;
    if sslmode == SslMode::Disable {
        return Ok(Socket::Tcp(stream));
    }
    let config = tls::client_config(sslmode, opts.sslrootcert.as_deref()).map_err(|source| ReplicationError::Tls {
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
    let server = ServerName::try_from(name.to_owned())
        .map_err(|error| handshake(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(server, stream).await.map_err(handshake)?;
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

/// A dead peer is noticed after about a minute, and small messages are not held back.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}
