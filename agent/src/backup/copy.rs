//! The copy itself: what was listed goes through the pipeline, pg_control after everything else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pg::control::ControlFile;
use store::StoreError;
use store::id::{BackupId, LineageId};
use store::pipeline::{Clock, FileJob, Pace, Pipeline, PipelineInputs, Progress};
use store::repository::Writer;
use store::session::Purpose;

use super::begin::read_control;
use super::checksum::Checker;
use super::error::BackupError;
use super::list::{Cluster, Walk, measure};
use store::pipeline::earlier::Earlier;

/// How the copy is done.
pub(super) struct Copying {
    pub(super) backup: BackupId,
    pub(super) writer: Arc<Writer>,
    pub(super) lineage: LineageId,
    pub(super) jobs: usize,
    pub(super) uploads_in_flight: usize,
    pub(super) milestones_every: Duration,
    pub(super) pace: Arc<Pace>,
    pub(super) progress: Arc<Progress>,
    pub(super) now_us: Clock,
}

/// The walk over the cluster's files; first a quick one, on a thread that may block, to know how much there is.
pub(super) async fn list(
    data_directory: PathBuf,
    control: &ControlFile,
    major: u32,
    progress: &Progress,
) -> Result<Walk, BackupError> {
    let cluster = Cluster {
        data_directory,
        tablespace_version: format!("PG_{major}_{}", control.catalog_version),
        relation_segment_blocks: control.relation_segment_blocks,
    };
    let listing = tokio::task::spawn_blocking(move || Ok::<_, StoreError>((measure(&cluster)?, Walk::begin(cluster)?)));
    let ((files, bytes), walk) = listing.await.map_err(|_| BackupError::Stopped("list the files"))??;
    tracing::info!(files, bytes, "listed the cluster's files");
    progress.expect(files, bytes);
    Ok(walk)
}

/// Draws the session key and starts the pipeline.
pub(super) fn start(copying: Copying, earlier: Earlier, check: Arc<Checker>) -> Result<Pipeline, BackupError> {
    let Copying {
        backup,
        writer,
        lineage,
        jobs,
        uploads_in_flight,
        milestones_every,
        pace,
        progress,
        now_us,
    } = copying;
    let session = writer.repository().begin_session(lineage, Purpose::Backup)?;
    let Earlier { parent, index, filter } = earlier;
    let inputs = PipelineInputs {
        backup,
        writer,
        session,
        lineage,
        parent,
        index,
        filter,
        check,
        jobs,
        uploads_in_flight,
        milestones_every,
        pace,
        progress,
        now_us,
    };
    Ok(Pipeline::start(inputs)?)
}

/// Reads pg_control, last: on a standby its minimum recovery point says up to where the copied pages may reach.
pub(super) async fn control_file(
    pipeline: &mut Pipeline,
    job: Option<FileJob>,
    data_directory: &Path,
) -> Result<ControlFile, BackupError> {
    let job = job.ok_or_else(|| {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        BackupError::io("find", &data_directory.join("global/pg_control"), source)
    })?;
    let (control, bytes) = read_control(data_directory).await?;
    pipeline.add_content(job, bytes).await?;
    Ok(control)
}
