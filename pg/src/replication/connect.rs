//! From a host name to an authenticated walsender connection.
//!
//! Socket, TLS negotiation (docs, "SSL Session Encryption": SSLRequest, one byte `S` or `N`), then
//! the startup message with `replication=true` (docs, "Streaming Replication Protocol") and
//! authentication. [`Wire`] is what the rest of the replication modules read and write.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustix::net::sockopt;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::auth;
use super::error::ReplicationError;
use super::frame::{Decoder, Message};
use super::session::unexpected;
use crate::conninfo::{ConnectOptions, Host, SslMode};
use crate::identity::ServerVersion;
use crate::tls;

/// Bytes asked of the socket at a time, at least.
const READ_BYTES: usize = 128 * 1024;
/// Messages that may come between authentication and the first ReadyForQuery.
const STARTUP_MESSAGES_MAX: usize = 1000;
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// A connected socket of any kind.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A socket with what is read but not looked at, and what is queued but not sent.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Socket,
    decoder: Decoder,
    out: BytesMut,
    unflushed: bool,
}

impl Wire {
    fn new(socket: Socket) -> Self {
        Wire { socket, decoder: Decoder::default(), out: BytesMut::new(), unflushed: false }
    }

    /// Where outgoing messages are queued.
    pub(super) fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Sends what is queued. Cancel-safe: what is not sent stays queued.
    pub(super) async fn flush(&mut self) -> Result<(), ReplicationError> {
        while !self.out.is_empty() {
            self.unflushed = true;
            if self.socket.write_buf(&mut self.out).await? == 0 {
                return Err(ReplicationError::Closed);
            }
        }
        if self.unflushed {
            self.socket.flush().await?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// The next message but notices and settings; `None` when the server has closed. Cancel-safe.
    pub(super) async fn read(&mut self) -> Result<Option<Message>, ReplicationError> {
        loop {
            match self.decoder.decode()? {
                Some(Message::Notice(notice)) => {
                    tracing::debug!(sqlstate = %notice.sqlstate, message = %notice.message, "server notice");
                }
                Some(Message::ParameterStatus(..)) => {}
                Some(message) => return Ok(Some(message)),
                None => {
                    if self.fill().await? == 0 {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Like [`Wire::read`], where the end of the connection is an error.
    pub(super) async fn expect(&mut self) -> Result<Message, ReplicationError> {
        self.read().await?.ok_or(ReplicationError::Closed)
    }

    async fn fill(&mut self) -> Result<usize, ReplicationError> {
        let missing = self.decoder.missing().max(READ_BYTES);
        let buffer = self.decoder.buffer();
        buffer.reserve(missing);
        let read = self.socket.read_buf(buffer).await?;
        if read == 0 && !self.decoder.is_empty() {
            return Err(ReplicationError::Closed);
        }
        Ok(read)
    }

    /// Messages up to the first ReadyForQuery; gives the server's version.
    async fn until_ready(&mut self) -> Result<ServerVersion, ReplicationError> {
        let mut version = None;
        let mut seen = 0;
        loop {
            let Some(message) = self.decoder.decode()? else {
                if self.fill().await? == 0 {
                    return Err(ReplicationError::Closed);
                }
                continue;
            };
            seen += 1;
            match message {
                Message::ParameterStatus(name, value) if name == "server_version" => {
                    version = value.parse::<ServerVersion>().ok();
                }
                Message::ReadyForQuery => break,
                Message::Error(message) => return Err(message.into()),
                Message::ParameterStatus(..) | Message::Notice(_) | Message::Other(_)
                    if seen < STARTUP_MESSAGES_MAX => {}
                other => return Err(unexpected(&other)),
            }
        }
        version.ok_or_else(|| ReplicationError::protocol("no usable server_version"))
    }

    /// Digest of the server's certificate for SCRAM channel binding.
    pub(super) fn channel_binding(&self) -> Option<Vec<u8>> {
        match &self.socket {
            Socket::Tls(stream) => {
                let certificate = stream.get_ref().1.peer_certificates()?.first()?;
                tls::server_end_point(certificate)
            }
            Socket::Tcp(_) | Socket::Unix(_) => None,
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self.socket, Socket::Tls(_))
    }
}

/// Tries the hosts in order.
pub(super) async fn connect(
    opts: &ConnectOptions,
) -> Result<(Wire, ServerVersion), ReplicationError> {
    let mut last = ReplicationError::protocol("no host to connect to");
    for host in &opts.host {
        let after = opts.connect_timeout;
        let attempt = tokio::time::timeout(after, Box::pin(connect_host(opts, host))).await;
        match attempt.unwrap_or(Err(ReplicationError::Timeout { what: "connecting", after })) {
            Ok(connected) => return Ok(connected),
            Err(error) if error.is_transient() => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

async fn connect_host(
    opts: &ConnectOptions,
    host: &Host,
) -> Result<(Wire, ServerVersion), ReplicationError> {
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
        Err(ReplicationError::Unsupported { feature: "this server version", version })
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

async fn connect_tcp(
    opts: &ConnectOptions,
    name: &str,
    sslmode: SslMode,
) -> Result<Socket, ReplicationError> {
    let host = format!("{name}:{}", opts.port);
    let failed = |source| ReplicationError::Connect { host: host.clone(), source };
    let stream = TcpStream::connect((name, opts.port)).await.map_err(failed)?;
    keep_alive(&stream).map_err(failed)?;
    if sslmode == SslMode::Disable {
        return Ok(Socket::Tcp(stream));
    }
    let config = tls::client_config(sslmode, opts.sslrootcert.as_deref())
        .map_err(|source| ReplicationError::Tls { host: host.clone(), source })?;
    let (stream, offered) = ask_for_tls(stream).await?;
    if !offered {
        return if sslmode == SslMode::Prefer {
            Ok(Socket::Tcp(stream))
        } else {
            Err(ReplicationError::TlsNotOffered { host })
        };
    }
    let handshake = |source| ReplicationError::TlsHandshake { host: host.clone(), source };
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

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
