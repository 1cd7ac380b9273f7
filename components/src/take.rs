//! Taking a backup of a component: the orchestrator is a list of steps.
//!
//! Law 1: intent, packs, index, manifest, in this order and each durable before the next. On any error nothing is listed; what was uploaded is
//! swept later. A crash anywhere here is the same case.

use std::sync::Arc;
use std::time::Duration;

use store::StoreError;
use store::component::{ComponentBackup, GroupPoint, lineage_of};
use store::id::BackupId;
use store::keys::SigningKey;
use store::manifest::Manifest;
use store::pipeline::earlier::{self, Earlier};
use store::pipeline::{BelieveAll, Clock, Outcome, Pace, Pipeline, PipelineInputs, Progress, commit};
use store::repository::{Repository, Writer};
use store::session::Purpose;

use crate::{Captured, Component, ComponentError, Sink, Standing, Stored};

/// What is captured by handing bytes over can be read only once: nothing is gone on from.
const NO_MILESTONES: Duration = Duration::from_secs(u64::MAX);

/// Everything a backup needs.
#[derive(Clone)]
pub struct TakeInputs {
    /// Where it goes.
    pub repository: Arc<Repository>,
    /// Signs what is written.
    pub signing: Arc<SigningKey>,
    /// Name of the component.
    pub name: String,
    /// Threads that read and encode.
    pub jobs: usize,
    /// Packs on their way at the same time.
    pub uploads_in_flight: usize,
    /// How fast it may be.
    pub pace: Arc<Pace>,
    /// Limit for the whole backup.
    pub duration_max: Duration,
    /// Counters for people.
    pub progress: Arc<Progress>,
    /// The operator's label.
    pub label: Option<String>,
    /// The point that it is captured for together with others.
    pub point: Option<GroupPoint>,
    /// Name of this host.
    pub host_name: String,
    /// Microseconds since 1970.
    pub now_us: Clock,
}

impl std::fmt::Debug for TakeInputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TakeInputs")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Takes a backup of a component; returns its manifest.
///
/// # Errors
/// Whatever failed: then no backup is listed.
pub async fn take(component: &dyn Component, inputs: TakeInputs) -> Result<Manifest, ComponentError> {
    let limit = inputs.duration_max;
    match tokio::time::timeout(limit, Box::pin(steps(component, &inputs))).await {
        Ok(taken) => taken,
        Err(_) => Err(ComponentError::TooLong(limit.as_secs())),
    }
}

async fn steps(component: &dyn Component, inputs: &TakeInputs) -> Result<Manifest, ComponentError> {
    let begun_us = (inputs.now_us)();
    let repository = &inputs.repository;
    let writer = Arc::new(Writer::new(Arc::clone(repository), Arc::clone(&inputs.signing), 0));

    // Announced before the first pack; then what is there is looked at.
    let backup = commit::announce(&writer, begun_us, &inputs.host_name).await?;
    let earlier = earlier::load(repository, Some(&inputs.name)).await?;
    let before = earlier.parent.as_ref().and_then(|parent| parent.manifest()).cloned();
    let parent = before.as_ref().map(|before| before.backup);
    let stored = before.map(|before| Stored::new(Arc::clone(repository), before));
    let mut sink = Sink::new(start(inputs, &writer, backup, earlier)?, stored);

    let captured = component.capture(&mut sink).await?;

    // Packs, index, manifest: in this order.
    let mut outcome = sink.finish().await?;
    captured.standing.iter().try_for_each(Standing::refuse_gone)?;
    let index_bytes = commit::put_index(&writer, backup, &outcome.index, (inputs.now_us)()).await?;
    outcome.totals.new_stored_bytes += index_bytes;
    let manifest = manifest(component.kind(), inputs, (backup, parent, begun_us), captured, outcome);
    // It may have taken long: does what this host signs count still?
    repository.refresh().await?;
    writer.refuse_revoked()?;
    commit::keep_locked(repository, &manifest).await?;
    commit::put_manifest(&writer, &manifest).await?;
    // By the store's clock: ours may have slept with the host.
    match repository.is_in_time(&manifest).await? {
        true => Ok(manifest),
        false => Err(ComponentError::TooLong(inputs.duration_max.as_secs())),
    }
}

fn start(
    inputs: &TakeInputs,
    writer: &Arc<Writer>,
    backup: BackupId,
    earlier: Earlier,
) -> Result<Pipeline, StoreError> {
    let lineage = lineage_of(inputs.repository.keys(), &inputs.name);
    let Earlier { parent, index, filter } = earlier;
    Pipeline::start(PipelineInputs {
        backup,
        writer: Arc::clone(writer),
        session: inputs.repository.begin_session(lineage, Purpose::Backup)?,
        lineage,
        parent,
        index,
        filter,
        check: Arc::new(BelieveAll),
        jobs: inputs.jobs,
        uploads_in_flight: inputs.uploads_in_flight,
        milestones_every: NO_MILESTONES,
        pace: Arc::clone(&inputs.pace),
        progress: Arc::clone(&inputs.progress),
        now_us: Arc::clone(&inputs.now_us),
    })
}

fn manifest(
    kind: &str,
    inputs: &TakeInputs,
    (backup, parent, begun_us): (BackupId, Option<BackupId>, i64),
    captured: Captured,
    outcome: Outcome,
) -> Manifest {
    let finished_us = (inputs.now_us)();
    let component = ComponentBackup {
        name: inputs.name.clone(),
        kind: kind.to_owned(),
        version: captured.version,
        facts: captured.facts,
        as_of_us: captured.as_of_us.unwrap_or(finished_us),
        changed: outcome.changed,
        point: inputs.point.clone(),
    };
    Manifest {
        parent,
        started_us: begun_us,
        finished_us,
        file_table: outcome.file_table,
        packs: outcome.packs,
        totals: outcome.totals,
        vanished: outcome.vanished,
        label: inputs.label.clone(),
        duration_max_us: u64::try_from(inputs.duration_max.as_micros()).unwrap_or(u64::MAX),
        ..Manifest::of_component(backup, lineage_of(inputs.repository.keys(), &inputs.name), component)
    }
}
