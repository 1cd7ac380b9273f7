//! What `status` looks at. What cannot be seen becomes a warning; the rest is shown all the same.

use pg::lsn::Lsn;
use store::manifest::Manifest;
use store::repository::Repository;

use super::state::{DaemonState, archived_lineage, last_said};
use crate::archiver::{self, Archiver};
use crate::backup::RunningBackup;
use crate::copies::{self, CopySeen};
use crate::drill::{self, Drilled};
use crate::open::{Context, command_policy};
use crate::{component, exit, sql};

/// How things are.
#[derive(Default)]
pub struct View {
    /// What the daemon said last.
    pub state: Option<DaemonState>,
    /// It said so just now.
    pub is_running: bool,
    /// A backup that is being taken.
    pub backup: Option<RunningBackup>,
    /// The newest backup.
    pub newest: Option<Manifest>,
    /// Complete backups.
    pub backups: usize,
    /// From here on everything of the present history can be restored: the end of its oldest backup that WAL follows without a hole.
    pub window_from_us: Option<i64>,
    /// When a restore was proven last, and when stored bytes were compared last.
    pub proven_us: Option<i64>,
    pub verified_us: Option<i64>,
    /// The last drill, and what it lets expect of a restore to now, in seconds.
    pub drill: Option<Drilled>,
    pub rto_s: Option<f64>,
    /// The components of the configuration, scheduled or not, and when the newest backup of each was finished.
    pub components: Vec<(String, Option<i64>)>,
    /// Why the repository could not be looked at.
    pub repository_error: Option<String>,
    pub slot: Option<sql::Slot>,
    pub archiver: Option<Archiver>,
    pub copies: Vec<CopySeen>,
    /// What is not as it should be, beside the daemon's alarms.
    pub warnings: Vec<String>,
}

impl View {
    /// What lies on this host. Asks neither server nor repository.
    pub fn of_this_host(context: &Context) -> Self {
        let state = last_said(context);
        View {
            is_running: state.as_ref().is_some_and(DaemonState::is_fresh),
            state,
            backup: RunningBackup::read(context),
            copies: copies::last_seen(context),
            drill: drill::last(context),
            ..View::default()
        }
    }

    /// Looks at everything.
    ///
    /// # Errors
    /// The host key does not fit: then this is not the cluster that is asked for.
    pub async fn look(context: &Context) -> anyhow::Result<Self> {
        let mut view = Self::of_this_host(context);
        let keys = context.host_keys()?;
        (view.slot, view.archiver) = ask_server(context).await;
        view.warn_of_agent();
        let looked = async {
            let repository = context.repository(command_policy(), &keys).await?;
            view.look_at_repository(context, &repository).await
        };
        if let Err(error) = looked.await {
            // Who has the wrong keys, or names another's repository, shall not take the rest for theirs.
            if matches!(exit::code(&error), exit::KEY | exit::REFUSED | exit::USAGE) {
                return Err(error);
            }
            let text = exit::describe(&error);
            let text = text.trim_start_matches("wal-agent: ").to_owned();
            view.warnings
                .push(format!("the repository cannot be looked at: {text}"));
            view.repository_error = Some(text);
        }
        view.warn_of_host(context);
        Ok(view)
    }

    fn warn_of_agent(&mut self) {
        let has_run = self.state.is_some();
        if let Some(since) = self
            .archiver
            .as_ref()
            .and_then(|archiver| archiver.failing_since.as_ref())
        {
            self.warnings
                .push(format!("archive_command fails since {since}: see the server's log"));
        }
        if !self.is_running && self.archiver.is_none() {
            self.warnings
                .push("no agent is running: WAL is not being archived".to_owned());
        } else if !self.is_running && has_run {
            self.warnings
                .push("no agent is running: archive_command archives whole segments only".to_owned());
        }
    }

    async fn look_at_repository(&mut self, context: &Context, repository: &Repository) -> anyhow::Result<()> {
        let manifests = repository.manifests().await?;
        self.backups = manifests.len();
        self.components = newest_of_components(context, repository).await?;
        let lineages = repository.lineages().await?;
        let current = archived_lineage(context).or(lineages.iter().map(|lineage| lineage.id).max());
        self.newest = manifests.iter().max_by_key(|manifest| manifest.backup).cloned();
        match &self.newest {
            None => self.warnings.push("there is no backup yet: run `wal-agent backup`".to_owned()),
            Some(manifest) if Some(manifest.lineage) != current => self.warnings.push(
                "the newest backup is of an abandoned history: what the server does now cannot be restored. Run `wal-agent backup` now"
                    .to_owned(),
            ),
            Some(_) => {}
        }
        if let Some(current) = current {
            let coverage = repository.settled_coverage(current).await?;
            for hole in coverage.holes() {
                self.warnings.push(format!(
                    "WAL from {} to {} on timeline {} is missing",
                    hole.start, hole.end, hole.timeline
                ));
            }
            let holes = coverage.holes();
            let is_followed = |manifest: &&Manifest| {
                let is_later = |hole: &store::catalog::Hole| {
                    hole.timeline.as_u32() >= manifest.timeline && hole.end > Lsn::new(manifest.start_lsn)
                };
                manifest.lineage == current && !holes.iter().any(is_later)
            };
            let usable = manifests.iter().filter(is_followed);
            self.window_from_us = usable.map(|manifest| manifest.finished_us).min();
        }
        if let (Some(newest), Some(drilled), Some(state)) = (&self.newest, &self.drill, &self.state) {
            let archived = state.archived_lsn.parse().unwrap_or(Lsn::new(0));
            let wal = (Lsn::new(newest.start_lsn), archived);
            self.rto_s = drill::rto_s(drilled, newest.totals.logical_bytes, wal);
        }
        let proofs = repository.proofs().await?;
        let looks = proofs.iter().filter(|proof| proof.backup.is_none());
        self.verified_us = looks.map(|proof| proof.time_us).max();
        let proven = proofs
            .iter()
            .filter(|proof| proof.backup.is_some() && proof.damaged == 0);
        self.proven_us = proven.map(|proof| proof.time_us).max();
        Ok(())
    }

    fn warn_of_host(&mut self, context: &Context) {
        if let Some(state) = self.state.as_ref().filter(|_| self.is_running) {
            self.warnings.extend(of_commits(state));
        }
        let keys = &context.config.keys;
        if !keys.restore_key_command.is_empty() {
            self.warnings.push(
                "this host has a restore_key_command: a thief of the host may be able to read all backups".to_owned(),
            );
        }
        if keys.restore_key.exists() {
            self.warnings
                .push("the restore key lies on this host: a thief of the host can read all backups".to_owned());
        }
        let behind = |copy: &&CopySeen| self.is_running && copy.standing != "whole";
        for copy in self.copies.iter().filter(behind) {
            let why = copy.error.as_ref().map_or(String::new(), |error| format!(": {error}"));
            self.warnings
                .push(format!("the copy \"{}\" is {}{why}", copy.name, copy.standing));
        }
    }
}

/// What is not as it should be with commits that wait for us.
fn of_commits(state: &DaemonState) -> Vec<String> {
    let mut warnings = Vec::new();
    if state.degraded {
        warnings.push(
            "degraded: the repository was away, and commits no longer wait for it until it has caught up".to_owned(),
        );
    }
    if state.remote_apply {
        warnings.push("synchronous_commit is remote_apply: commits that wait for us wait for ever".to_owned());
    }
    warnings
}

/// Slot and archiver as the server sees them, where the server can be asked.
async fn ask_server(context: &Context) -> (Option<sql::Slot>, Option<Archiver>) {
    let Ok(options) = context.connect_options() else {
        return (None, None);
    };
    let Ok(client) = sql::connect(&options).await else {
        return (None, None);
    };
    let slot = sql::slot(&client, &context.cluster.wal.slot).await;
    let archiver = archiver::pushing(&client).await;
    (slot.ok().flatten(), archiver.ok().flatten())
}

async fn newest_of_components(
    context: &Context,
    repository: &Repository,
) -> anyhow::Result<Vec<(String, Option<i64>)>> {
    let ours = component::of_cluster(context);
    if ours.is_empty() {
        return Ok(Vec::new());
    }
    let taken = repository.component_manifests().await?;
    let newest = |name: &str| {
        let of_it = taken.iter().filter(|manifest| manifest.component_name() == Some(name));
        of_it.map(|manifest| manifest.finished_us).max()
    };
    let seen = ours
        .into_iter()
        .map(|component| (component.name.clone(), newest(&component.name)));
    Ok(seen.collect())
}
