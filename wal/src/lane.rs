//! The WAL lane from connect to disconnect: the list of steps that keeps the archive true.
//!
//! connect → identify → same lineage? → newest archived WAL compared → history archived → stream from the first byte of the
//! segment that holds the archived LSN → at the end of a timeline: its rest archived, next history archived, next timeline.

use std::sync::Arc;

use pg::conninfo::ConnectOptions;
use pg::identity::wal_page_magic;
use pg::lsn::Lsn;
use pg::replication::{ReplicationError, ReplicationSession, SlotName, SystemIdentity};
use pg::segment::SegmentSize;
use pg::timeline::{TimelineHistory, TimelineId, history_file_name};
use store::StoreError;
use store::catalog::Coverage;
use store::crash::{self, CrashPoint};
use store::envelope::Kind;
use store::keys::Recipient;
use store::records::Lineage;
use store::repository::{Fence, NewObject, Writer};
use tokio::sync::watch;

use crate::assemble::Assembler;
use crate::lag::Lag;
use crate::lineage::{Overlap, OverlapError, Resume, check_identity, compare_overlap, plan_resume};
use crate::progress::Progress;
use crate::reader::{WalError, WalReaderConfig};
use crate::receive::{Orders, ReceiveError, ReceiveOptions, Receiver, StreamEnd, StreamStatus};
use crate::ship::{Clock, Shipper};

/// What the lane needs.
#[derive(Clone)]
pub struct LaneInputs {
    /// Where the server is.
    pub connect: ConnectOptions,
    /// The slot that holds WAL back for us.
    pub slot: SlotName,
    /// Signs and creates objects in this agent's epoch.
    pub writer: Arc<Writer>,
    /// Whether that epoch is still the newest.
    pub fence: Arc<Fence>,
    /// Whom WAL sessions are sealed to.
    pub recipients: Arc<[Recipient]>,
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

struct Start {
    timeline: TimelineId,
    from: Lsn,
    floor: Lsn,
    previous: Option<Lsn>,
}

/// Runs until stopped, disconnected, diverged or failed; call again to reconnect.
///
/// # Errors
/// What failed. What was archived stays archived.
pub async fn run(
    inputs: &LaneInputs,
    status: &watch::Sender<StreamStatus>,
    lag: &mut Lag,
    orders: &watch::Receiver<Orders>,
    stop: &mut watch::Receiver<bool>,
) -> Result<LaneEnd, LaneError> {
    let mut session = ReplicationSession::connect(&inputs.connect).await?;
    let major = session.server_version().major();
    let magic = wal_page_magic(major).ok_or(LaneError::Version(major))?;
    let server = session.identify_system().await?;
    let size = session.segment_size().await?;
    check_identity(&inputs.lineage, &server, major, size)?;
    let coverage = inputs.writer.repository().coverage(inputs.lineage.id).await?;
    let history = fetch_history(&mut session, server.timeline).await?;
    if let Some(archived) = coverage.histories.get(&server.timeline)
        && *archived != history.parsed
    {
        let reason = format!("the archived history of timeline {} is another one", server.timeline);
        return Ok(LaneEnd::Diverged {
            reason,
            archived: coverage
                .newest_timeline()
                .and_then(|timeline| coverage.timelines.get(&timeline)?.end())
                .unwrap_or(Lsn::ZERO),
        });
    }
    let mut start = match find_start(inputs, &server, &history.parsed, &coverage, size).await? {
        Ok(start) => start,
        Err(end) => return Ok(end),
    };
    archive_history(inputs, &coverage, &history).await?;
    if start.timeline != server.timeline {
        let history = fetch_history(&mut session, start.timeline).await?;
        archive_history(inputs, &coverage, &history).await?;
    }
    let mut is_fresh = coverage.newest_timeline().is_none();
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
        let assembler = Assembler::new(inputs.lineage.id, config, start.previous)?;
        let shipper = Shipper::new(
            (Arc::clone(&inputs.writer), Arc::clone(&inputs.fence)),
            Arc::clone(&inputs.recipients),
            inputs.lineage.id,
            size,
            inputs.uploads_in_flight,
        )?;
        let progress = Progress::new(from, start.floor);
        let receiver = Receiver::new(
            stream,
            assembler,
            shipper,
            progress,
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
                    // Nothing is archived yet, so nothing is lost: a new lineage whose slot still points into the WAL of the old one.
                    tracing::warn!(lsn = %from, "the slot points to WAL that is gone; the lineage begins later");
                    is_fresh = false;
                    session = ReplicationSession::connect(&inputs.connect).await?;
                    start = Start {
                        timeline: server.timeline,
                        from: flushed,
                        floor: Lsn::ZERO,
                        previous: None,
                    };
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
                let history = fetch_history(&mut session, next).await?;
                archive_history(inputs, &coverage, &history).await?;
                start = Start {
                    timeline: next,
                    from: size.start_containing(switch_point),
                    floor: switch_point,
                    previous: None,
                };
            }
        }
    }
}

/// Where to begin; or why the server's history is not ours, and where ours ends.
async fn find_start(
    inputs: &LaneInputs,
    server: &SystemIdentity,
    history: &TimelineHistory,
    coverage: &Coverage,
    size: SegmentSize,
) -> Result<Result<Start, LaneEnd>, LaneError> {
    let (timeline, archived, start) =
        match plan_resume(server, inputs.is_standby, history, coverage, inputs.slot_restart) {
            Resume::Fresh => {
                let from = size.start_containing(
                    inputs
                        .slot_restart
                        .filter(|lsn| lsn.is_valid())
                        .unwrap_or(server.flush_lsn),
                );
                return Ok(Ok(Start {
                    timeline: server.timeline,
                    from,
                    floor: Lsn::ZERO,
                    previous: None,
                }));
            }
            Resume::Wait(reason) => return Err(LaneError::Behind(reason)),
            Resume::Diverged(reason) => {
                let archived = coverage
                    .newest_timeline()
                    .and_then(|timeline| coverage.timelines.get(&timeline)?.end());
                let archived = archived.unwrap_or(Lsn::ZERO);
                return Ok(Err(LaneEnd::Diverged { reason, archived }));
            }
            Resume::GoOn { timeline, archived } => (
                timeline,
                archived,
                Start {
                    timeline,
                    from: size.start_containing(archived),
                    floor: archived,
                    previous: None,
                },
            ),
            Resume::Switch { from, switch_point } => {
                let begin = size.start_containing(switch_point);
                (
                    from,
                    switch_point,
                    Start {
                        // Not the server's at once: others may lie in between.
                        timeline: history.timeline_at(switch_point),
                        from: begin,
                        floor: switch_point,
                        previous: None,
                    },
                )
            }
        };
    let overlap_session = ReplicationSession::connect(&inputs.connect).await?;
    let repository = inputs.writer.repository();
    // All that is archived of the way that the server went, also what lies behind a missing object.
    let until = history.switch_point_after(timeline).unwrap_or(Lsn::new(u64::MAX));
    Ok(
        match compare_overlap(overlap_session, repository, coverage, timeline, until, size).await? {
            Overlap::Same { last_record } => {
                let previous = last_record.and_then(|(record, end)| (end == start.from).then_some(record));
                Ok(Start { previous, ..start })
            }
            Overlap::Different(reason) => Err(LaneEnd::Diverged { reason, archived }),
            Overlap::Gone(reason) => Err(LaneEnd::Untied {
                reason: format!("nothing is left on the server to compare with: {reason}"),
                timeline: start.timeline,
                archived,
            }),
        },
    )
}

struct History {
    parsed: TimelineHistory,
    /// The file as the server has it; `None` for timeline 1, which has none.
    bytes: Option<bytes::Bytes>,
}

/// The server's history of a timeline.
async fn fetch_history(session: &mut ReplicationSession, timeline: TimelineId) -> Result<History, LaneError> {
    if timeline == TimelineId::FIRST {
        return Ok(History {
            parsed: TimelineHistory::root(timeline),
            bytes: None,
        });
    }
    let (_, bytes) = session.timeline_history(timeline).await?;
    let parsed = TimelineHistory::parse(timeline, &bytes).map_err(|error| LaneError::History(error.to_string()))?;
    Ok(History {
        parsed,
        bytes: Some(bytes),
    })
}

/// Archives a history, before the first byte of its timeline.
async fn archive_history(inputs: &LaneInputs, coverage: &Coverage, history: &History) -> Result<(), LaneError> {
    let timeline = history.parsed.timeline;
    let Some(bytes) = &history.bytes else { return Ok(()) };
    if coverage.histories.contains_key(&timeline) {
        return Ok(());
    }
    let writer = &inputs.writer;
    let object = writer
        .repository()
        .layout()
        .history(inputs.lineage.id, timeline, writer.epoch())?;
    let new = NewObject {
        lineage: Some(inputs.lineage.id),
        range: Some((timeline.as_u32(), 0, 0)),
        ..NewObject::metadata(Kind::History, bytes, (inputs.clock)())
    };
    writer.put(&object, new).await?;
    tracing::info!(timeline = timeline.as_u32(), object = %history_file_name(timeline), "timeline history archived");
    crash::point(CrashPoint::AfterHistory);
    Ok(())
}
