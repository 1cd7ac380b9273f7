//! WAL that one server has lost, taken from another one of the cluster that still has it.

use std::sync::Arc;

use pg::conninfo::ConnectOptions;
use pg::identity::wal_page_magic;
use pg::lsn::Lsn;
use pg::replication::ReplicationSession;
use pg::timeline::TimelineId;
use store::repository::{Fence, Writer};
use tokio::sync::watch;

use super::{LaneError, LaneInputs};
use crate::assemble::Assembler;
use crate::lag::Lag;
use crate::lineage::{Overlap, check_identity, compare_overlap};
use crate::progress::Progress;
use crate::reader::WalReaderConfig;
use crate::receive::{Orders, ReceiveError, Receiver, StreamStatus};
use crate::ship::Shipper;

/// What the other server's sessions are called, so that no server takes them for its synchronous standby.
const APPLICATION_NAME: &str = "seawall_fill";
/// Nothing is confirmed to that server: it holds nothing back for us.
const ORDERS: Orders = Orders {
    synchronous: true,
    loss_is_open: true,
    server_stops: false,
};

/// Archives `[from, until)` of a timeline from `server`, which must have the archived WAL before `from`, byte for byte. Returns how far
/// it came: `from` when the server has nothing, or cannot prove itself.
///
/// # Errors
/// The server or the repository failed.
pub async fn fill(
    inputs: &LaneInputs,
    (writer, fence): (&Arc<Writer>, &Arc<Fence>),
    server: &ConnectOptions,
    timeline: TimelineId,
    (from, until): (Lsn, Lsn),
) -> Result<Lsn, LaneError> {
    let mut connect = server.clone();
    APPLICATION_NAME.clone_into(&mut connect.application_name);
    let mut session = ReplicationSession::connect(&connect).await?;
    let major = session.server_version().major();
    let magic = wal_page_magic(major).ok_or(LaneError::Version(major))?;
    let identity = session.identify_system().await?;
    let size = session.segment_size().await?;
    check_identity(&inputs.lineage, &identity, major, size)?;
    let coverage = inputs.repository.coverage(inputs.lineage.id).await?;
    let second = ReplicationSession::connect(&connect).await?;
    match compare_overlap(second, &inputs.repository, &coverage, timeline, from, size).await? {
        Overlap::Same { .. } => {}
        Overlap::Different(reason) | Overlap::Gone(reason) => {
            tracing::info!(%reason, "another server cannot make up for lost WAL");
            return Ok(from);
        }
    }
    if identity.flush_lsn <= from {
        return Ok(from);
    }
    let start = size.start_containing(from);
    let stream = session.start_physical(None, start, timeline).await?;
    let config = WalReaderConfig {
        magic,
        system_identifier: identity.system_identifier,
        segment_size: size,
        timeline,
        start,
    };
    let shipper = Shipper::new(
        (Arc::clone(writer), Arc::clone(fence)),
        inputs.lineage.id,
        size,
        inputs.uploads_in_flight,
    )?;
    let (status, mut seen) = watch::channel(StreamStatus::default());
    let (_orders_kept, orders) = watch::channel(ORDERS);
    let (enough, mut stop) = watch::channel(false);
    let mut lag = Lag::default();
    let receiver = Receiver::new(
        stream,
        Assembler::new(inputs.lineage.id, config, None)?,
        shipper,
        Progress::new(start, from, Lsn::ZERO),
        &inputs.options,
        &inputs.clock,
        &status,
        &mut lag,
        orders,
    );
    // A little more than is missing, so that the first server can be compared behind the gap; never more than there is.
    let goal = identity.flush_lsn.min(Lsn::new(until.as_u64() + 1));
    let watching = async {
        let _ = seen.wait_for(|status| status.received >= goal).await;
        enough.send_replace(true);
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = receiver.run(&mut stop) => ended,
        () = watching => return Ok(from),
    };
    match ended {
        Ok(_) => {}
        Err(ReceiveError::Replication(error)) => tracing::info!(%error, "another server has no more of the lost WAL"),
        Err(error) => return Err(error.into()),
    }
    let reached = status.borrow().archived;
    Ok(reached.max(from))
}
