//! Timeline histories: fetched from the server, archived before the first byte of their timeline.

use pg::lsn::Lsn;
use pg::replication::ReplicationSession;
use pg::timeline::{TimelineHistory, TimelineId, history_file_name};
use store::catalog::Coverage;
use store::crash::{self, CrashPoint};
use store::envelope::Kind;
use store::repository::{NewObject, Writer};

use super::{LaneEnd, LaneError, LaneInputs};

/// A timeline's history.
pub(super) struct History {
    /// What it says.
    pub(super) parsed: TimelineHistory,
    /// The file as the server has it; `None` for timeline 1, which has none.
    bytes: Option<bytes::Bytes>,
}

impl History {
    /// How the lane ends when another history of this timeline is archived: of a promotion that was given up, for example.
    pub(super) fn is_another(&self, coverage: &Coverage) -> Option<LaneEnd> {
        let archived = coverage.histories.get(&self.parsed.timeline)?;
        (*archived != self.parsed).then(|| LaneEnd::Diverged {
            reason: format!(
                "the archived history of timeline {} is another one",
                self.parsed.timeline
            ),
            archived: coverage.newest_end().unwrap_or(Lsn::ZERO),
        })
    }
}

/// The server's history of a timeline.
pub(super) async fn fetch(session: &mut ReplicationSession, timeline: TimelineId) -> Result<History, LaneError> {
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

/// Archives a history, before the first byte of its timeline; how the lane ends when another one is archived.
pub(super) async fn archive(
    inputs: &LaneInputs,
    writer: &Writer,
    coverage: &Coverage,
    history: &History,
) -> Result<Option<LaneEnd>, LaneError> {
    let timeline = history.parsed.timeline;
    let Some(bytes) = &history.bytes else { return Ok(None) };
    if coverage.histories.contains_key(&timeline) {
        return Ok(history.is_another(coverage));
    }
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
    Ok(None)
}
