//! The bytes of a connection: a socket of any kind with its two buffers.
//!
//! [`Wire`] is what the other replication modules read and write. Invariant: both directions are
//! cancel-safe, because what is read is in the decoder and what is not sent stays queued.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::error::ReplicationError;
use super::frame::{Decoder, Message};
use super::session::unexpected;
use crate::identity::ServerVersion;
use crate::tls;

/// Bytes asked of the socket at a time, at least.
const READ_BYTES: usize = 128 * 1024;
/// Messages that may come between authentication and the first ReadyForQuery.
const STARTUP_MESSAGES_MAX: usize = 1000;

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
    pub(super) fn new(socket: Socket) -> Self {
        Wire {
            socket,
            decoder: Decoder::default(),
            out: BytesMut::new(),
            unflushed: false,
        }
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
            match self.read_with_notices().await? {
                Some(Message::Notice(notice)) => {
                    tracing::debug!(sqlstate = %notice.sqlstate, message = %notice.message, "server notice");
                }
                other => return Ok(other),
            }
        }
    }

    /// The next message but settings; `None` when the server has closed. Cancel-safe.
    pub(super) async fn read_with_notices(&mut self) -> Result<Option<Message>, ReplicationError> {
        loop {
            match self.decoder.decode()? {
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
    pub(super) async fn until_ready(&mut self) -> Result<ServerVersion, ReplicationError> {
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

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
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
