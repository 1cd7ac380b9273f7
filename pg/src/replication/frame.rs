//! Bytes in, messages or "need more" out.
//!
//! The decoder is fed from a socket by `connect::Wire`; it does no I/O, never blocks and never
//! panics, whatever the bytes are. Only the messages a walsender sends are understood; the rest
//! come out as [`Message::Other`]. Formats: PostgreSQL docs, "Message Formats" and "Streaming
//! Replication Protocol". All integers on the wire are big-endian.

mod body;

use body::Body;
use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::lsn::Lsn;

/// Largest message accepted, header included, in bytes. The server sends WAL in pieces of 128 KiB;
/// a history file and an error text are far smaller than this.
pub const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;

const HEADER_BYTES: usize = 5;

/// What is wrong with the bytes of the server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length field of a message is impossible or above the limit.
    #[error("message '{}' has a length of {length} bytes", char::from(*.tag))]
    Length {
        /// Type byte of the message.
        tag: u8,
        /// Length field, which does not count the type byte.
        length: u32,
    },
    /// A message ends before its fields do.
    #[error("message '{}' is malformed", char::from(*.tag))]
    Malformed {
        /// Type byte of the message.
        tag: u8,
    },
}

/// A server's error or notice (docs, "Error and Notice Message Fields").
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerMessage {
    /// Field `C`, five characters.
    pub sqlstate: String,
    /// Field `V`, or `S` where that is missing.
    pub severity: String,
    /// Field `M`.
    pub message: String,
    /// Field `D`.
    pub detail: Option<String>,
    /// Field `H`.
    pub hint: Option<String>,
}

/// What the server asks for while authenticating.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// Done.
    Ok,
    /// The password as it is.
    Cleartext,
    /// The password hashed with this salt.
    Md5([u8; 4]),
    /// Names of the SASL mechanisms on offer.
    Sasl(Vec<String>),
    /// A step of the SASL exchange.
    SaslContinue(Bytes),
    /// The end of the SASL exchange.
    SaslFinal(Bytes),
    /// A method that is not supported, by its number.
    Other(u32),
}

/// A message of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// `R`
    Authentication(Authentication),
    /// `S`: a setting and its value.
    ParameterStatus(String, String),
    /// `Z`
    ReadyForQuery,
    /// `D`: the columns of a row, as they came.
    DataRow(Vec<Option<Bytes>>),
    /// `C`: the command's tag.
    CommandComplete(String),
    /// `E`
    Error(ServerMessage),
    /// `N`
    Notice(ServerMessage),
    /// `W`
    CopyBoth,
    /// `H`
    CopyOut,
    /// `d`
    CopyData(Bytes),
    /// `c`
    CopyDone,
    /// Any other message, by its type byte; the body is dropped.
    Other(u8),
}

/// What a walsender sends inside CopyData.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalMessage {
    /// `w`
    XLogData {
        /// LSN of the first byte of `data`.
        start: Lsn,
        /// The server's current end of WAL.
        server_end: Lsn,
        /// The server's clock, microseconds since 2000-01-01 UTC.
        clock_us: i64,
        /// WAL.
        data: Bytes,
    },
    /// `k`
    Keepalive {
        /// The server's current end of WAL.
        server_end: Lsn,
        /// The server's clock, microseconds since 2000-01-01 UTC.
        clock_us: i64,
        /// The server wants a status soon, or it will give up.
        reply_requested: bool,
    },
}

/// What we confirm to the server (message `r`, "Standby status update").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StandbyStatus {
    /// First LSN that is not yet written.
    pub write: Lsn,
    /// First LSN that is not yet durable; the slot's restart LSN follows it.
    pub flush: Lsn,
    /// First LSN that is not yet applied.
    pub apply: Lsn,
    /// Ask for a keepalive at once.
    pub reply_requested: bool,
}

impl StandbyStatus {
    /// Appends the CopyData message. `clock_us` is microseconds since 2000-01-01 UTC; the server
    /// only shows it as `pg_stat_replication.reply_time`.
    pub fn encode(&self, clock_us: i64, out: &mut BytesMut) {
        out.put_u8(b'd');
        out.put_u32(4 + 34);
        out.put_u8(b'r');
        out.put_u64(self.write.as_u64());
        out.put_u64(self.flush.as_u64());
        out.put_u64(self.apply.as_u64());
        out.put_i64(clock_us);
        out.put_u8(u8::from(self.reply_requested));
    }
}

impl WalMessage {
    /// Reads the payload of a CopyData; `Ok(None)` for a kind that is not known.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] when it is too short.
    pub fn parse(payload: Bytes) -> Result<Option<WalMessage>, FrameError> {
        let mut body = Body {
            tag: b'd',
            rest: payload,
        };
        let kind = body.u8()?;
        let mut inner = Body {
            tag: kind,
            rest: body.rest,
        };
        match kind {
            b'w' => Ok(Some(WalMessage::XLogData {
                start: Lsn::new(inner.u64()?),
                server_end: Lsn::new(inner.u64()?),
                clock_us: inner.i64()?,
                data: inner.rest,
            })),
            b'k' => Ok(Some(WalMessage::Keepalive {
                server_end: Lsn::new(inner.u64()?),
                clock_us: inner.i64()?,
                reply_requested: inner.u8()? != 0,
            })),
            _ => Ok(None),
        }
    }
}

/// Collects bytes and gives out whole messages.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Where the next bytes of the socket go.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Whether bytes of an unfinished message are held.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Bytes that are still missing from the message that is under way; at least one.
    pub fn missing(&self) -> usize {
        match self.header() {
            Some((_, length)) => (length as usize + 1).saturating_sub(self.buffer.len()).max(1),
            None => HEADER_BYTES,
        }
    }

    /// The next message, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`]; the connection cannot be used after it.
    pub fn decode(&mut self) -> Result<Option<Message>, FrameError> {
        let Some((tag, length)) = self.header() else {
            return Ok(None);
        };
        if length < 4 || length as usize >= MESSAGE_BYTES_MAX {
            return Err(FrameError::Length { tag, length });
        }
        let total = length as usize + 1;
        if self.buffer.len() < total {
            return Ok(None);
        }
        let mut rest = self.buffer.split_to(total).freeze();
        rest.advance(HEADER_BYTES);
        Body { tag, rest }.message().map(Some)
    }

    fn header(&self) -> Option<(u8, u32)> {
        let header: [u8; HEADER_BYTES] = self.buffer.get(..HEADER_BYTES)?.try_into().ok()?;
        let [tag, length @ ..] = header;
        Some((tag, u32::from_be_bytes(length)))
    }
}

#[cfg(test)]
mod tests;
