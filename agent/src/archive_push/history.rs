//! Timeline histories: each is archived before the first byte of its timeline, and there is one of each.

use std::path::Path;

use pg::timeline::{TimelineHistory, TimelineId, history_file_name};
use store::envelope::Kind;
use store::id::LineageId;
use store::layout::Lane;
use store::object::{ObjectName, list_all};
use store::repository::{NewObject, Repository, Writer};
use store::{StoreError, crash};

use super::error::PushError;
use crate::output;

/// The history of a timeline.
#[derive(Debug)]
pub(super) struct History {
    /// Its ancestors.
    pub(super) parsed: TimelineHistory,
    /// The file, when it is still to be archived.
    new: Option<Vec<u8>>,
}

impl History {
    /// Of a timeline without ancestors, which has no file.
    pub(super) fn root(timeline: TimelineId) -> Self {
        History {
            parsed: TimelineHistory::root(timeline),
            new: None,
        }
    }

    /// From a file, held against what is archived.
    pub(super) async fn of_file(
        repository: &Repository,
        lineage: LineageId,
        timeline: TimelineId,
        file: Vec<u8>,
    ) -> Result<Self, PushError> {
        let parsed =
            TimelineHistory::parse(timeline, &file).map_err(|source| PushError::History { timeline, source })?;
        let archived = archived(repository, lineage, timeline).await?;
        let digest = repository.keys().digest(Kind::History.digest_kind(), &file);
        for object in &archived {
            let header = repository.read_header(object).await?;
            if header.is_some_and(|(_, header)| header.digest != digest) {
                let object = object.to_string();
                return Err(PushError::OtherHistory { timeline, object });
            }
        }
        let new = archived.is_empty().then_some(file);
        Ok(History { parsed, new })
    }

    /// For a segment: from the file beside it, or as it is archived.
    pub(super) async fn of_segment(
        repository: &Repository,
        lineage: LineageId,
        timeline: TimelineId,
        segment: &Path,
    ) -> Result<Self, PushError> {
        if timeline == TimelineId::FIRST {
            return Ok(History::root(timeline));
        }
        let path = segment.with_file_name(history_file_name(timeline));
        match std::fs::read(&path) {
            Ok(file) => Self::of_file(repository, lineage, timeline, file).await,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let archived = archived(repository, lineage, timeline).await?;
                let object = archived.last().ok_or(PushError::NoHistory { timeline })?;
                let (parsed, _) = repository.read_history(object, timeline).await?;
                Ok(History { parsed, new: None })
            }
            Err(source) => Err(PushError::Read { path, source }),
        }
    }

    /// Archives it, if that is still to be done.
    pub(super) async fn archive(&self, writer: &Writer, lineage: LineageId) -> Result<(), PushError> {
        let Some(file) = &self.new else { return Ok(()) };
        let timeline = self.parsed.timeline;
        let repository = writer.repository();
        let object = repository.layout().history(lineage, timeline, writer.epoch())?;
        let new = NewObject {
            lineage: Some(lineage),
            range: Some((timeline.as_u32(), 0, 0)),
            ..NewObject::metadata(Kind::History, file, output::now_us())
        };
        writer.put(&object, new).await?;
        crash::point(crash::CrashPoint::AfterHistory);
        repository.read_history(&object, timeline).await?;
        tracing::info!(timeline = timeline.as_u32(), object = %object, "timeline history archived");
        Ok(())
    }
}

/// Histories of a timeline, of all epochs.
async fn archived(
    repository: &Repository,
    lineage: LineageId,
    timeline: TimelineId,
) -> Result<Vec<ObjectName>, PushError> {
    let lane = repository.layout().wal_prefix(Lane::Wal, lineage);
    let prefix = format!("{lane}{}/history.", timeline.hex8());
    let listed = list_all(repository.store().as_ref(), &prefix)
        .await
        .map_err(StoreError::from)?;
    Ok(listed.into_iter().map(|meta| meta.name).collect())
}
