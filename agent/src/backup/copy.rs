//! The copy itself: what was listed goes through the pipeline, pg_control after everything else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pg::control::ControlFile;
use store::id::LineageId;
use store::keys::Recipient;
use store::pipeline::{Clock, Pipeline, PipelineInputs, Progress};
use store::repository::Writer;
use store::session::{Place, Purpose, Session};

use super::begin::read_control;
use super::checksum::Checker;
use super::error::BackupError;
use super::list::{Cluster, Listing, walk};
use super::parent::Earlier;

/// How the copy is done.
pub(super) struct Copying {
    pub(super) writer: Arc<Writer>,
    pub(super) recipients: Vec<Recipient>,
    pub(super) lineage: LineageId,
    pub(super) jobs: usize,
    pub(super) uploads_in_flight: usize,
    pub(super) progress: Arc<Progress>,
    pub(super) now_us: Clock,
}

/// Lists the cluster's files, on a thread that may block.
pub(super) async fn list(data_directory: PathBuf, control: &ControlFile, major: u32) -> Result<Listing, BackupError> {
    let cluster = Cluster {
        data_directory,
        tablespace_version: format!("PG_{major}_{}", control.catalog_version),
        relation_segment_blocks: control.relation_segment_blocks,
    };
    let listed = tokio::task::spawn_blocking(move || walk(&cluster)).await;
    let listing = listed.map_err(|_| BackupError::Stopped("list the files"))??;
    let bytes: u64 = listing.jobs.iter().map(|job| job.size).sum();
    tracing::info!(
        files = listing.jobs.len(),
        bytes,
        tablespaces = listing.tablespaces.len(),
        "listed the cluster's files"
    );
    Ok(listing)
}

/// Draws the session key and starts the pipeline.
pub(super) fn start(copying: Copying, earlier: Earlier, check: Arc<Checker>) -> Result<Pipeline, BackupError> {
    let Copying {
        writer,
        recipients,
        lineage,
        jobs,
        uploads_in_flight,
        progress,
        now_us,
    } = copying;
    let repository = writer.repository();
    let place = Place {
        repository: repository.id(),
        cluster: repository.cluster(),
        lineage: Some(lineage),
    };
    let session = Session::begin(repository.keys(), &recipients, place, Purpose::Backup)?;
    let Earlier { parent, index, filter } = earlier;
    let inputs = PipelineInputs {
        writer,
        session,
        lineage,
        parent,
        index,
        filter,
        check,
        jobs,
        uploads_in_flight,
        progress,
        now_us,
    };
    Ok(Pipeline::start(inputs)?)
}

/// Copies everything but pg_control.
pub(super) async fn files(pipeline: &mut Pipeline, listing: &mut Listing) -> Result<(), BackupError> {
    pipeline.add_entries(std::mem::take(&mut listing.entries))?;
    Ok(pipeline.copy(std::mem::take(&mut listing.jobs)).await?)
}

/// Reads pg_control, last: on a standby its minimum recovery point says up to where the copied pages may reach.
pub(super) async fn control_file(
    pipeline: &mut Pipeline,
    listing: &Listing,
    data_directory: &Path,
) -> Result<ControlFile, BackupError> {
    let job = listing.control.clone().ok_or_else(|| {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        BackupError::io("find", &data_directory.join("global/pg_control"), source)
    })?;
    let (control, bytes) = read_control(data_directory).await?;
    pipeline.add_content(job, bytes).await?;
    Ok(control)
}
