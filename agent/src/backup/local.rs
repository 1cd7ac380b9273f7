//! The copy of a data directory beside us: the server is told to start, its files are read, `pg_control` last, the server is told to stop.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use store::pipeline::earlier;

use super::begin::{self, Server};
use super::checksum::Checker;
use super::error::BackupError;
use super::{BackupInputs, Copied, configuration, copy, end, owner, tablespaces};

/// Copies everything; the backup is ended on the server when this returns.
pub(super) async fn copy(
    inputs: &BackupInputs,
    copying: copy::Copying,
    data_directory: &Path,
    server: Server,
) -> Result<Copied, BackupError> {
    let (sql, label) = (&inputs.sql, format!("seawall {}", copying.backup));
    let (control, _) = begin::read_control(data_directory).await?;
    begin::is_same_cluster(sql, data_directory, &control, &inputs.lineage, server.is_standby).await?;
    let owner = owner::of(data_directory)?;

    // From here on the server keeps full-page images of what changes. While it checkpoints, what there is to compare with is read.
    let started = begin::start(sql, server.version, &label, inputs.fast_checkpoint);
    let (start_lsn, earlier) = tokio::try_join!(started, async { Ok(earlier::load(&inputs.repository, None).await?) })?;
    inputs.brake.until_ready().await;
    let parent = earlier.backup();
    tracing::info!(backup = %copying.backup, parent = parent.map(tracing::field::display), %start_lsn, "the copy begins");
    let checker = Arc::new(Checker::new(start_lsn, control.data_checksums()));
    let major = server.version.major();
    let walk = copy::list(data_directory.to_owned(), &control, major, &inputs.progress).await?;
    let begun = Instant::now();
    let mut pipeline = copy::start(copying, earlier, Arc::clone(&checker))?;
    let walk = pipeline.copy(walk).await?;
    let took = begun.elapsed();
    tablespaces::are_there(data_directory, &walk.tablespaces, walk.tablespace_version()).await?;
    let configuration = configuration::capture(sql, data_directory).await?;
    for (job, bytes) in configuration.files {
        pipeline.add_content(job, bytes).await?;
    }
    let copied_control = copy::control_file(&mut pipeline, walk.control, data_directory).await?;
    end::judge_role(sql, server.is_standby).await?;
    let stopped = end::stop(sql, server.version).await?;
    end::judge_label(&stopped, start_lsn, server.is_standby)?;
    let (now, _) = begin::read_control(data_directory).await?;
    for control in [&copied_control, &now] {
        end::judge_timeline(&stopped, server.is_standby, control)?;
    }
    Ok(Copied {
        pipeline,
        checker,
        parent,
        stopped,
        control,
        owner,
        tablespaces: walk.tablespaces,
        configuration: configuration.paths,
        took,
    })
}
