//! One streaming session on one timeline: socket → assembler → shipper → feedback.
//!
//! The loop never waits for the repository: uploads run beside it and report back, so keepalives are answered however slow the
//! store is. When no byte permit is left it stops reading WAL and goes on answering. What a crash leaves: objects for a prefix of
//! the stream and perhaps some beyond a missing one; the next session begins at the segment of the contiguous end again.

mod orders;
mod settle;

use std::sync::Arc;
use std::time::Duration;

use pg::lsn::Lsn;
use pg::replication::{ReplicationError, StandbyStatus, StreamEvent, WalStream};
use pg::timeline::TimelineId;
use store::StoreError;
use store::crash::{self, CrashPoint};
use store::limits::WAL_OBJECT_BYTES_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;

use crate::assemble::{Assembler, CommitSeen};
use crate::lag::Lag;
use crate::progress::{Archived, Progress};
use crate::reader::WalError;
use crate::ship::{Clock, Shipped, Shipper};

pub use orders::{Orders, ReceiveOptions, StreamStatus};
use settle::Settle;

/// Unit of the byte permits.
const PERMIT_BYTES: u64 = 4096;
/// Room for one message beside the ranges.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// A status goes out at least this often: half of a low `wal_sender_timeout` would still be kept.
const STATUS_EVERY: Duration = Duration::from_secs(2);
/// Tails on their way at most: when the store is late, more of them would carry less each and come no sooner.
const TAILS_MAX: usize = 4;
/// The same without an interval: what comes in while one is on its way goes together in the next.
const HURRIED_TAILS_MAX: usize = 1;

/// Why a session ended without an error.
#[derive(Debug)]
pub enum StreamEnd {
    /// The server went to another timeline; all of this one is archived.
    TimelineEnded {
        /// The next timeline.
        next: TimelineId,
        /// Where this one ended.
        switch_point: Lsn,
        /// The connection, ready for commands; `None` when the server dropped it meanwhile.
        stream: Box<WalStream>,
    },
    /// The server closed the connection in order; what came in is archived.
    ServerClosed,
    /// We were asked to stop; what came in is archived, unless the time was up.
    Stopped {
        /// False when the time was up.
        settled: bool,
    },
}

/// Why a session failed.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The connection failed.
    #[error("the replication connection failed")]
    Replication(#[from] ReplicationError),
    /// What the server sent is not WAL of this cluster.
    #[error("the server sent what is not WAL of this cluster; nothing of it was archived")]
    Wal(#[from] WalError),
    /// A piece could not be made durable.
    #[error("WAL could not be made durable in the repository")]
    Store(#[from] StoreError),
}

/// One session.
#[allow(missing_debug_implementations)] // holds a clock
pub struct Receiver<'a> {
    stream: WalStream,
    assembler: Assembler,
    shipper: Shipper,
    reports: mpsc::UnboundedReceiver<Shipped>,
    progress: Progress,
    options: &'a ReceiveOptions,
    clock: &'a Clock,
    status: &'a watch::Sender<StreamStatus>,
    lag: &'a mut Lag,
    orders: watch::Receiver<Orders>,
    leave_at: Option<Instant>,
    permits: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    pending: Option<(Lsn, bytes::Bytes)>,
    unshipped_since: Option<Instant>,
    /// A tail found no permit: it is cut when something on its way has given its own back.
    tail_waits: bool,
    status_due: Instant,
}

impl<'a> Receiver<'a> {
    /// A session on an open stream; `progress` begins where the assembler does.
    #[allow(clippy::too_many_arguments)] // one of each thing the loop owns
    #[must_use]
    pub fn new(
        stream: WalStream,
        assembler: Assembler,
        (shipper, reports): (Shipper, mpsc::UnboundedReceiver<Shipped>),
        progress: Progress,
        options: &'a ReceiveOptions,
        clock: &'a Clock,
        status: &'a watch::Sender<StreamStatus>,
        lag: &'a mut Lag,
        orders: watch::Receiver<Orders>,
    ) -> Self {
        // The open range must fit beside one that is on its way, or the stream would stand still.
        let least = 2 * assembler.segment_size().bytes().min(WAL_OBJECT_BYTES_MAX) + MESSAGE_BYTES_MAX;
        let permits = usize::try_from(options.memory_bytes_max.max(least) / PERMIT_BYTES).unwrap_or(usize::MAX >> 4);
        Receiver {
            stream,
            assembler,
            shipper,
            reports,
            progress,
            options,
            clock,
            status,
            lag,
            orders,
            leave_at: None,
            permits: Arc::new(Semaphore::new(permits)),
            held: None,
            pending: None,
            unshipped_since: None,
            tail_waits: false,
            status_due: Instant::now(),
        }
    }

    /// Streams until the timeline ends, the server goes, or `stop` turns true.
    ///
    /// # Errors
    /// The connection, the WAL or the repository failed. What was archived stays archived.
    pub async fn run(mut self, stop: &mut watch::Receiver<bool>) -> Result<StreamEnd, ReceiveError> {
        self.orders.mark_changed();
        loop {
            self.take_pending()?;
            let tail_due = self.tail_due();
            let leave_at = self.leave_at;
            let can_read = self.pending.is_none();
            tokio::select! {
                biased;
                Some(report) = self.reports.recv() => self.take_report(report).await?,
                () = sleep_until(tail_due) => self.ship_tail()?,
                () = tokio::time::sleep_until(self.status_due) => self.send_status().await?,
                () = stopped(stop) => return self.stop().await,
                Ok(()) = self.orders.changed() => self.take_orders().await?,
                () = sleep_until(leave_at) => {
                    tracing::warn!(archived = %self.progress.archived().lsn(), received = %self.progress.received().0,
                        "the server shuts down and the repository is late; letting it go, unconfirmed");
                    return Ok(StreamEnd::ServerClosed);
                }
                event = self.stream.next(), if can_read => match event {
                    Err(error) => {
                        // The server may be gone for good: what it has sent is kept, however long the repository takes.
                        self.settle(Settle::UntilStopped(stop)).await?;
                        return Err(error.into());
                    }
                    Ok(event) => match event {
                    StreamEvent::Wal { start, data, server_end } => {
                        self.note_server(server_end);
                        self.pending = Some((start, data));
                    }
                    StreamEvent::Keepalive { server_end, reply_requested } => {
                        self.note_server(server_end);
                        if reply_requested {
                            self.send_status().await?;
                        }
                    }
                    StreamEvent::TimelineEnded { next_timeline, switch_point } => {
                        if !self.settle(Settle::UntilStopped(stop)).await? {
                            return Ok(StreamEnd::Stopped { settled: false });
                        }
                        return Ok(StreamEnd::TimelineEnded { next: next_timeline, switch_point, stream: Box::new(self.stream) });
                    }
                    StreamEvent::ServerClosed => {
                        if !self.settle(Settle::UntilStopped(stop)).await? {
                            return Ok(StreamEnd::Stopped { settled: false });
                        }
                        return Ok(StreamEnd::ServerClosed);
                    }
                    },
                },
            }
        }
    }

    async fn take_orders(&mut self) -> Result<(), ReceiveError> {
        let orders = *self.orders.borrow_and_update();
        self.leave_at = match (orders.server_stops, self.leave_at) {
            (false, _) => None,
            (true, None) => Some(Instant::now() + self.options.shutdown_timeout),
            (true, at) => at,
        };
        // What was withheld until now may be confirmed.
        if orders.may_confirm() && self.progress.archived().lsn() > Lsn::ZERO {
            self.send_status().await?;
        }
        Ok(())
    }

    /// Moves pending bytes into the assembler when there is room for them.
    fn take_pending(&mut self) -> Result<(), ReceiveError> {
        let Some((start, data)) = &self.pending else {
            return Ok(());
        };
        let needed = (self.assembler.buffered_bytes() + data.len() as u64).div_ceil(PERMIT_BYTES);
        let held = self.held.as_ref().map_or(0, |held| held.num_permits() as u64);
        let Some(permit) = self.permit(needed.saturating_sub(held)) else {
            return Ok(());
        };
        match &mut self.held {
            Some(held) => held.merge(permit),
            None => self.held = Some(permit),
        }
        let mut pieces = Vec::new();
        let mut commits: Vec<CommitSeen> = Vec::new();
        self.assembler.push(*start, data, &mut pieces, &mut commits)?;
        self.pending = None;
        self.progress.receive(self.assembler.position());
        // A stream begins at a segment's start: what was archived before is not measured again.
        let archived = self.progress.archived().lsn();
        if let Some(newest_us) = commits.iter().map(|commit| commit.time_us).max() {
            self.status
                .send_modify(|status| status.last_commit_us = status.last_commit_us.max(newest_us));
        }
        commits
            .into_iter()
            .filter(|commit| commit.end > archived)
            .for_each(|commit| self.lag.see(commit));
        for piece in pieces {
            let permit = self.release();
            self.shipper
                .ship(piece, self.clock, permit, self.progress.archived().lsn())?;
        }
        if self.assembler.unshipped_bytes() == 0 {
            self.unshipped_since = None;
        } else if self.unshipped_since.is_none() {
            self.unshipped_since = Some(Instant::now());
        }
        self.publish();
        Ok(())
    }

    fn permit(&self, units: u64) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        Arc::clone(&self.permits).try_acquire_many_owned(units).ok()
    }

    /// The permits of a completed range: all that are held but those of the range that is open now.
    fn release(&mut self) -> Option<OwnedSemaphorePermit> {
        let keep = usize::try_from(self.assembler.buffered_bytes().div_ceil(PERMIT_BYTES)).unwrap_or(usize::MAX);
        let held = self.held.as_mut()?;
        held.split(held.num_permits().saturating_sub(keep))
    }

    fn tail_due(&self) -> Option<Instant> {
        let since = self.unshipped_since.filter(|_| !self.tail_waits)?;
        let interval = if self.orders.borrow().synchronous {
            Duration::ZERO
        } else {
            self.options.ship_interval
        };
        let in_flight_max = if interval.is_zero() {
            HURRIED_TAILS_MAX
        } else {
            TAILS_MAX
        };
        if self.shipper.tails_in_flight() >= in_flight_max {
            return None;
        }
        let is_much = self.assembler.unshipped_bytes() >= self.options.tail_bytes_max;
        Some(since + if is_much { interval / 4 } else { interval })
    }

    /// Ships what no piece has carried yet, when there is memory for it. Where there is none, something is on its way: two ranges fit, and the
    /// open one is one of them.
    fn ship_tail(&mut self) -> Result<(), ReceiveError> {
        let archived = self.progress.archived().lsn();
        let permit = self.permit(self.assembler.unshipped_bytes().div_ceil(PERMIT_BYTES));
        self.tail_waits = permit.is_none();
        if self.tail_waits {
            return Ok(());
        }
        self.unshipped_since = None;
        if let Some(tail) = self.assembler.cut_tail() {
            self.shipper.ship(tail, self.clock, permit, archived)?;
        }
        if !self.assembler.has_many_tails() {
            return Ok(());
        }
        // Nobody waits for it: where there is no memory, it comes with a later tail.
        let permit = self.permit(self.assembler.buffered_bytes().div_ceil(PERMIT_BYTES));
        if permit.is_some()
            && let Some(joined) = self.assembler.join_tails()
        {
            self.shipper.ship(joined, self.clock, permit, archived)?;
        }
        Ok(())
    }

    async fn take_report(&mut self, report: Shipped) -> Result<(), ReceiveError> {
        self.shipper.settle(&report);
        self.tail_waits = false;
        let stored = report.outcome?;
        let before = self.progress.archived();
        self.progress.make_durable(report.start, report.end);
        let (tail, bytes) = (report.tail, report.end.distance_from(report.start));
        self.status.send_modify(|status| {
            status.stored_bytes += stored;
            if tail {
                status.tails += 1;
            } else {
                status.objects += 1;
                status.wal_bytes += bytes;
            }
        });
        let archived = self.progress.archived();
        if archived > before {
            self.lag.settle(archived.lsn(), (self.clock)());
            crash::point(CrashPoint::BeforeStatus);
            self.send_status().await?;
            crash::point(CrashPoint::AfterStatus);
        }
        self.publish();
        Ok(())
    }

    async fn send_status(&mut self) -> Result<(), ReceiveError> {
        self.status_due = Instant::now() + STATUS_EVERY;
        let status = self.status_now();
        self.stream.send_status(status).await?;
        self.publish();
        Ok(())
    }

    fn status_now(&self) -> StandbyStatus {
        if self.orders.borrow().may_confirm() {
            self.progress.status()
        } else {
            Archived::withheld()
        }
    }

    fn note_server(&mut self, end: Lsn) {
        let now_us = (self.clock)();
        self.status.send_modify(|status| {
            status.server = status.server.max(end);
            status.contact_us = now_us;
        });
    }

    fn publish(&self) {
        let now_us = (self.clock)();
        self.status.send_modify(|status| {
            status.received = self.progress.received().0;
            status.archived = self.progress.archived().lsn();
            status.oldest_unarchived_us = self.lag.oldest_us(now_us);
            status.lag = self.lag.summary();
        });
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A dropped sender means that nobody can ask any more; then we are to stop as well.
    let _ = stop.wait_for(|stop| *stop).await;
}
