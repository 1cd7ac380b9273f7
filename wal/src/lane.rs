//! The WAL lane from connect to disconnect: the list of steps that keeps the archive true.
//!
//! [`open`]: connect → identify → same lineage? → what was stored and never confirmed, read → newest archived WAL compared.
//! [`Opened::stream`]: history archived → stream from the first byte of the segment that holds the archived LSN → at the end of a
//! timeline: its rest archived, next history archived, next timeline. Nothing is written before the server has proven itself.

mod fill;
mod history;
mod start;

use std::sync::Arc;

use pg::conninfo::ConnectOptions;
use pg::identity::wal_page_magic;
use pg::lsn::Lsn;
use pg::replication::{ReplicationError, ReplicationSession, SlotName, SystemIdentity};
use pg::segment::SegmentSize;
use pg::timeline::TimelineId;
use store::StoreError;
use store::catalog::Coverage;
use store::crash::{self, CrashPoint};
use store::records::Lineage;
use store::repository::{Fence, Repository, Writer};
use tokio::sync::watch;

use crate::assemble::Assembler;
use crate::lag::Lag;
use crate::lineage::{OverlapError, check_identity};
use crate::progress::Progress;
use crate::reader::{WalError, WalReaderConfig};
use crate::receive::{Orders, ReceiveError, ReceiveOptions, Receiver, StreamEnd, StreamStatus};
use crate::ship::{Clock, Shipper};
use crate::unconfirmed;
pub use fill::fill;
use history::History;
use start::Start;

/// What the lane needs.
#[derive(Clone)]
pub struct LaneInputs {
    /// Where the server is.
    pub connect: ConnectOptions,
    /// The slot that holds WAL back for us.
    pub slot: SlotName,
    /// Where it goes.
    pub repository: Arc<Repository>,
    /// The lineage we archive.
    pub lineage: Lineage,
    /// Limits.
    pub options: ReceiveOptions,
    /// Pieces being uploaded at once.
    pub uploads_in_flight: usize,
    /// The time.
    pub clock: Clock,
    /// Where the slot holds WAL back, as the server says; where to begin when nothing is archived.
    pub slot_restart: Option<Lsn>,
    /// The slot was confirmed by this process and is the one that it was: what lies before its position has been proven.
    pub slot_is_proof: bool,
    /// This server has been asked for the WAL of this timeline up to there, and had removed it.
    pub removed_until: Option<(TimelineId, Lsn)>,
    /// The server is a standby.
    pub is_standby: bool,
}

/// How a connection's life ended.
#[derive(Debug)]
pub enum LaneEnd {
    /// Asked to stop; false when not everything could be archived in time.
    Stopped {
        /// All that came in is archived.
        settled: bool,
    },
    /// The server closed the connection in order.
    ServerClosed,
    /// The server's history is not the archived one: a new lineage must begin.
    Diverged {
        /// Why.
        reason: String,
        /// End of the archived WAL.
        archived: Lsn,
    },
    /// WAL behind the archived is gone from the server, and nothing ties what is left to the archive.
    Untied {
        /// Why.
        reason: String,
        /// The newest archived timeline.
        timeline: TimelineId,
        /// End of its archived WAL: there the hole begins.
        archived: Lsn,
    },
    /// WAL behind the archived is gone from a server whose history is proven to be the archived one.
    WalRemoved {
        /// On this timeline.
        timeline: TimelineId,
        /// First missing byte.
        from: Lsn,
    },
}

/// Why the lane failed.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// The connection failed.
    #[error("the replication connection failed")]
    Replication(#[from] ReplicationError),
    /// The repository failed.
    #[error("the repository failed")]
    Store(#[from] StoreError),
    /// Streaming failed.
    #[error("streaming failed")]
    Receive(#[from] ReceiveError),
    /// The overlap could not be compared.
    #[error("the lineage could not be checked")]
    Overlap(#[from] OverlapError),
    /// The WAL could not be read.
    #[error("the WAL could not be read")]
    Wal(#[from] WalError),
    /// A server version without a known WAL format.
    #[error("PostgreSQL {0} is not supported")]
    Version(u32),
    /// The server's timeline history makes no sense.
    #[error("the server sent a timeline history that makes no sense: {0}")]
    History(String),
    /// A standby that has not got as far as the archive.
    #[error("waiting: {0}")]
    Behind(String),
}

/// A server whose WAL is the archived one, ready to be streamed from.
#[allow(missing_debug_implementations)] // holds a connection
pub struct Opened {
    session: ReplicationSession,
    server: SystemIdentity,
    size: SegmentSize,
    magic: u16,
    coverage: Coverage,
    history: History,
    start: Start,
}

impl Opened {
    /// True when nothing of the lineage is archived yet: any server of the cluster would do.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.coverage.newest_timeline().is_none()
    }
}

/// What came of opening.
#[allow(missing_debug_implementations)]
pub enum Opening {
    /// It can be streamed from.
    Ready(Box<Opened>),
    /// It cannot be continued.
    Ended(LaneEnd),
}

/// Connects and asks whether the server is the one whose WAL is archived. Nothing is written.
///
/// # Errors
/// What failed; nothing is known then.
pub async fn open(inputs: &LaneInputs) -> Result<Opening, LaneError> {
    let mut session = ReplicationSession::connect(&inputs.connect).await?;
    let major = session.server_version().major();
    let magic = wal_page_magic(major).ok_or(LaneError::Version(major))?;
    let server = session.identify_system().await?;
    let size = session.segment_size().await?;
    check_identity(&inputs.lineage, &server, major, size)?;
    let coverage = proven_coverage(inputs, size).await?;
    let history = history::fetch(&mut session, server.timeline).await?;
    if let Some(end) = history.is_another(&coverage) {
        return Ok(Opening::Ended(end));
    }
    let start = match start::find(inputs, &server, &history.parsed, &coverage, size).await? {
        Ok(start) => start,
        Err(end) => return Ok(Opening::Ended(end)),
    };
    Ok(Opening::Ready(Box::new(Opened {
        session,
        server,
        size,
        magic,
        coverage,
        history,
        start,
    })))
}

/// What is archived, without what the last session may have left half.
///
/// # Errors
/// The repository failed.
pub async fn proven_coverage(inputs: &LaneInputs, size: SegmentSize) -> Result<Coverage, StoreError> {
    let mut coverage = inputs.repository.coverage(inputs.lineage.id).await?;
    let confirmed = inputs.slot_restart.filter(|_| inputs.slot_is_proof);
    let window = inputs.options.memory_bytes_max;
    unconfirmed::drop_damaged(&inputs.repository, &mut coverage, confirmed, window, size).await?;
    Ok(coverage)
}

impl Opened {
    /// Streams until stopped, disconnected or failed, as the holder of an epoch.
    ///
    /// # Errors
    /// What failed. What was archived stays archived.
    pub async fn stream(
        self,
        inputs: &LaneInputs,
        (writer, fence): (&Arc<Writer>, &Arc<Fence>),
        status: &watch::Sender<StreamStatus>,
        lag: &mut Lag,
        orders: &watch::Receiver<Orders>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<LaneEnd, LaneError> {
        let mut is_fresh = self.is_fresh();
        let Opened {
            mut session,
            server,
            size,
            magic,
            coverage,
            history,
            mut start,
        } = self;
        if let Some(end) = history::archive(inputs, writer, &coverage, &history).await? {
            return Ok(end);
        }
        if start.timeline != server.timeline {
            let history = history::fetch(&mut session, start.timeline).await?;
            if let Some(end) = history::archive(inputs, writer, &coverage, &history).await? {
                return Ok(end);
            }
        }
        loop {
            let (timeline, from) = (start.timeline, start.from);
            let stream = session.start_physical(Some(&inputs.slot), from, timeline).await?;
            tracing::info!(lsn = %from, timeline = timeline.as_u32(), archived = %start.floor, "streaming");
            crash::point(CrashPoint::AfterStreamStart);
            status.send_modify(|status| {
                status.timeline = timeline.as_u32();
                status.archived = start.floor.max(from);
                status.server = server.flush_lsn.max(status.server);
            });
            let config = WalReaderConfig {
                magic,
                system_identifier: server.system_identifier,
                segment_size: size,
                timeline,
                start: from,
            };
            let receiver = Receiver::new(
                stream,
                Assembler::new(inputs.lineage.id, config, start.previous)?,
                Shipper::new(
                    (Arc::clone(writer), Arc::clone(fence)),
                    inputs.lineage.id,
                    size,
                    inputs.uploads_in_flight,
                )?,
                Progress::new(from, start.floor, inputs.slot_restart.unwrap_or(Lsn::ZERO)),
                &inputs.options,
                &inputs.clock,
                status,
                lag,
                orders.clone(),
            );
            let end = match receiver.run(stop).await {
                // The server looks for a segment only when it comes to it (walsender.c, WalSndSegmentOpen); what came in before is
                // archived or will be sent again.
                Err(ReceiveError::Replication(error)) if error.is_wal_removed() => {
                    let flushed = size.start_containing(server.flush_lsn);
                    if is_fresh && from < flushed && status.borrow().archived <= from {
                        // Nothing is archived yet, so nothing is lost: a new lineage whose slot still points into the WAL of the old.
                        tracing::warn!(lsn = %from, "the slot points to WAL that is gone; the lineage begins later");
                        is_fresh = false;
                        session = ReplicationSession::connect(&inputs.connect).await?;
                        start = Start::new(server.timeline, flushed, Lsn::ZERO);
                        continue;
                    }
                    let from = status.borrow().archived.max(start.floor);
                    return Ok(LaneEnd::WalRemoved { timeline, from });
                }
                end => end?,
            };
            match end {
                StreamEnd::Stopped { settled } => return Ok(LaneEnd::Stopped { settled }),
                StreamEnd::ServerClosed => return Ok(LaneEnd::ServerClosed),
                StreamEnd::TimelineEnded {
                    next,
                    switch_point,
                    stream,
                } => {
                    tracing::info!(timeline = next.as_u32(), lsn = %switch_point, "timeline switch");
                    session = stream.finish().await?;
                    let history = history::fetch(&mut session, next).await?;
                    if let Some(end) = history::archive(inputs, writer, &coverage, &history).await? {
                        return Ok(end);
                    }
                    start = Start::new(next, size.start_containing(switch_point), switch_point);
                }
            }
        }
    }
}
