//! Receiving WAL of one timeline.
//!
//! The receiver calls [`WalStream::next`] in a `select!` and sends statuses from time to time. The
//! server ends a historic timeline with CopyDone; we answer CopyDone, and the next timeline and
//! the switch point come as a row (docs, "START_REPLICATION"; walsender.c, `StartReplication`).
//!
//! Invariant: `next` may be dropped at any await without losing or repeating a byte; all state is
//! in the buffers of the wire and in `state`. What was received is not durable: only the caller
//! knows what may be confirmed.

use bytes::Bytes;
use postgres_protocol::message::frontend;
use tokio::time::Instant;

use super::error::ReplicationError;
use super::frame::{Message, StandbyStatus, WalMessage};
use super::session::{ReplicationSession, text_column, unexpected};
use crate::lsn::Lsn;
use crate::timeline::TimelineId;

/// WAL pieces below this size are copied out of the read buffer, so that a small piece that is
/// kept does not keep a large buffer with it.
const COPY_BELOW_BYTES: usize = 16 * 1024;

/// What happened on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEvent {
    /// WAL, right behind the piece before.
    Wal {
        /// LSN of the first byte.
        start: Lsn,
        /// The server's end of WAL.
        server_end: Lsn,
        /// The bytes.
        data: Bytes,
    },
    /// A sign of life.
    Keepalive {
        /// The server's end of WAL.
        server_end: Lsn,
        /// A status is wanted soon.
        reply_requested: bool,
    },
    /// All WAL of this timeline was received. [`WalStream::finish`] gives the session back, which
    /// can start the next one. Comes again on every further call.
    TimelineEnded {
        /// The timeline that follows in the server's history.
        next_timeline: TimelineId,
        /// Where this timeline ended.
        switch_point: Lsn,
    },
    /// The server has ended the connection. Comes again on every further call.
    ServerClosed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Streaming,
    /// CopyDone was exchanged, or there was no copy; result rows follow.
    Ending {
        end: Option<(TimelineId, Lsn)>,
    },
    /// The server is ready for a command.
    Ended {
        end: Option<(TimelineId, Lsn)>,
    },
    Closed,
}

/// A replication connection that receives WAL.
#[derive(Debug)]
pub struct WalStream {
    session: ReplicationSession,
    state: State,
    /// CopyDone was queued; it must not be sent twice.
    copy_done_sent: bool,
    /// The server's clock and when we saw it, for the clock of our statuses.
    clock: Option<(i64, Instant)>,
}

impl WalStream {
    pub(super) async fn start(session: ReplicationSession, command: &str) -> Result<Self, ReplicationError> {
        let after = session.command_timeout;
        let mut stream = WalStream {
            session,
            state: State::Streaming,
            copy_done_sent: false,
            clock: None,
        };
        tokio::time::timeout(after, stream.begin(command))
            .await
            .map_err(|_| ReplicationError::Timeout {
                what: "start of replication",
                after,
            })??;
        Ok(stream)
    }

    async fn begin(&mut self, command: &str) -> Result<(), ReplicationError> {
        self.session.send(command).await?;
        loop {
            match self.session.wire.expect().await? {
                Message::CopyBoth => return Ok(()),
                Message::DataRow(row) => {
                    self.state = State::Ending {
                        end: Some(timeline_end(&row)?),
                    };
                    self.copy_done_sent = true;
                    return Ok(());
                }
                Message::Error(message) => return Err(message.into()),
                Message::Other(_) => {}
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// The server's version.
    pub fn server_version(&self) -> crate::identity::ServerVersion {
        self.session.server_version()
    }

    /// Waits for the next event, without a limit of its own. Cancel-safe.
    ///
    /// # Errors
    /// What failed; the stream is of no use after it.
    pub async fn next(&mut self) -> Result<StreamEvent, ReplicationError> {
        loop {
            match self.state {
                State::Closed => return Ok(StreamEvent::ServerClosed),
                State::Ended {
                    end: Some((next_timeline, switch_point)),
                } => {
                    return Ok(StreamEvent::TimelineEnded {
                        next_timeline,
                        switch_point,
                    });
                }
                State::Ended { end: None } => {
                    return Err(ReplicationError::protocol("end of the stream without a reason"));
                }
                State::Streaming | State::Ending { .. } => {}
            }
            self.session.wire.flush().await?;
            let Some(message) = self.session.wire.read().await? else {
                self.state = State::Closed;
                continue;
            };
            if let Some(event) = self.take(message)? {
                return Ok(event);
            }
        }
    }

    /// One message, one step. No await: a step is done whole or not at all.
    fn take(&mut self, message: Message) -> Result<Option<StreamEvent>, ReplicationError> {
        match (self.state, message) {
            (State::Streaming, Message::CopyData(payload)) => self.take_wal(payload),
            (State::Streaming, Message::CopyDone) => {
                self.queue_copy_done();
                self.state = State::Ending { end: None };
                Ok(None)
            }
            // A server that shuts down says COPY 0 without CopyDone and leaves
            // (walsender.c, WalSndDone).
            (State::Streaming, Message::CommandComplete(_)) => {
                self.state = State::Closed;
                Ok(None)
            }
            (State::Ending { .. }, Message::DataRow(row)) => {
                self.state = State::Ending {
                    end: Some(timeline_end(&row)?),
                };
                Ok(None)
            }
            (State::Ending { end }, Message::ReadyForQuery) => {
                self.state = State::Ended { end };
                Ok(None)
            }
            (State::Ending { .. }, Message::CommandComplete(_) | Message::CopyData(_)) => Ok(None),
            (_, Message::Error(message)) => {
                self.state = State::Closed;
                Err(message.into())
            }
            (_, Message::Other(_)) => Ok(None),
            (_, other) => Err(unexpected(&other)),
        }
    }

    fn take_wal(&mut self, payload: Bytes) -> Result<Option<StreamEvent>, ReplicationError> {
        Ok(match WalMessage::parse(payload)? {
            Some(WalMessage::XLogData {
                start,
                server_end,
                clock_us,
                data,
            }) => {
                self.clock = Some((clock_us, Instant::now()));
                let small = data.len() < COPY_BELOW_BYTES;
                let data = if small { Bytes::copy_from_slice(&data) } else { data };
                Some(StreamEvent::Wal {
                    start,
                    server_end,
                    data,
                })
            }
            Some(WalMessage::Keepalive {
                server_end,
                clock_us,
                reply_requested,
            }) => {
                self.clock = Some((clock_us, Instant::now()));
                Some(StreamEvent::Keepalive {
                    server_end,
                    reply_requested,
                })
            }
            None => None,
        })
    }

    fn queue_copy_done(&mut self) {
        if !self.copy_done_sent {
            frontend::copy_done(self.session.wire.out());
            self.copy_done_sent = true;
        }
    }

    /// Confirms to the server. Does nothing once the stream has ended. The clock in the message is
    /// the server's own, as last seen, plus the time since. When the future is dropped, the rest
    /// of the message goes out with the next call.
    ///
    /// # Errors
    /// What failed; the wait is limited by the command timeout.
    pub async fn send_status(&mut self, status: StandbyStatus) -> Result<(), ReplicationError> {
        if self.copy_done_sent || self.state != State::Streaming {
            return Ok(());
        }
        let clock_us = self.clock.map_or(0, |(clock_us, seen)| {
            let since = i64::try_from(seen.elapsed().as_micros()).unwrap_or(i64::MAX);
            clock_us.saturating_add(since)
        });
        status.encode(clock_us, self.session.wire.out());
        let after = self.session.command_timeout;
        tokio::time::timeout(after, self.session.wire.flush())
            .await
            .map_err(|_| ReplicationError::Timeout {
                what: "sending of a status",
                after,
            })?
    }

    /// Ends the stream and gives the session back. WAL that is still under way is dropped.
    ///
    /// # Errors
    /// What failed; [`ReplicationError::Closed`] when the server has gone.
    pub async fn finish(mut self) -> Result<ReplicationSession, ReplicationError> {
        let after = self.session.command_timeout;
        tokio::time::timeout(after, self.drain())
            .await
            .map_err(|_| ReplicationError::Timeout {
                what: "end of replication",
                after,
            })??;
        Ok(self.session)
    }

    async fn drain(&mut self) -> Result<(), ReplicationError> {
        self.queue_copy_done();
        self.session.wire.flush().await?;
        loop {
            match self.state {
                State::Ended { .. } => return Ok(()),
                State::Closed => return Err(ReplicationError::Closed),
                State::Streaming | State::Ending { .. } => {}
            }
            let message = self.session.wire.expect().await?;
            self.take(message)?;
        }
    }
}

/// Next timeline and switch point from the row at the end of a timeline.
fn timeline_end(row: &[Option<Bytes>]) -> Result<(TimelineId, Lsn), ReplicationError> {
    let next = text_column(row, 0)?
        .and_then(|text| text.parse().ok())
        .and_then(TimelineId::new);
    let switch_point = text_column(row, 1)?.and_then(|text| text.parse().ok());
    next.zip(switch_point)
        .ok_or_else(|| ReplicationError::protocol("end of a timeline"))
}
