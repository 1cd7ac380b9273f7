//! Everything that is looked at before anything is changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use pg::conninfo::ConnectOptions;
use store::records::Lineage;
use store::repository::Repository;
use tokio_postgres::Client;

use super::course::{self, Course, Server};
use super::disarmed::{self, Restored, Sorted, Todo};
use super::predecessor::{self, Predecessor};
use crate::exit::{self, Failure};
use crate::open::{Context, command_policy, current_lineage};
use crate::{archiver, init, preflight, sql};

/// How long an agent of this host may be reconnecting.
const AGENT_WAIT: Duration = Duration::from_secs(10);

/// What was found.
pub(super) struct Look {
    /// The one server that everything goes to.
    pub(super) connect: ConnectOptions,
    pub(super) server: Server,
    pub(super) repository: Arc<Repository>,
    pub(super) course: Course,
    /// Who archived the lineage before.
    pub(super) predecessor: Predecessor,
    /// What the restore has set.
    pub(super) settings: Sorted,
    /// Slots that are not there yet.
    pub(super) missing_slots: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl Look {
    /// Whether the old server lives, once more.
    pub(super) async fn look_again(&self, context: &Context) -> anyhow::Result<Predecessor> {
        match &self.course {
            Course::Streamed { .. } => Ok(Predecessor::default()),
            _ => predecessor::look(context, &self.repository).await,
        }
    }
}

/// Looks. `is_agent_here`: an agent for the cluster runs on this host.
pub(super) async fn look(context: &Context, is_agent_here: bool) -> anyhow::Result<Look> {
    let keys = context.host_keys()?;
    let (client, connect) = sql::choose(&context.connect_options()?).await?;
    refuse_recovery(&client).await?;
    let findings = preflight::refuse_errors(&client, &connect).await?;
    let mut warnings: Vec<String> = findings
        .into_iter()
        .map(|finding| format!("{}. {}", finding.problem, finding.hint))
        .collect();
    let repository = context.repository(command_policy(), &keys).await?;
    let server = Server::look(&connect).await?;
    let slot = sql::slot(&client, &context.cluster.wal.slot).await?;
    let course = if is_streamed(context, &client, is_agent_here).await? {
        let lineage = current_lineage(context, &repository).await?;
        Course::Streamed { lineage }
    } else {
        course::find(context, &connect, &repository, &server, slot).await?
    };
    let predecessor = match &course {
        Course::Streamed { .. } => Predecessor::default(),
        _ => predecessor::look(context, &repository).await?,
    };
    let settings = settings(&client, &repository, &server).await?;
    let mut missing_slots = Vec::new();
    for slot in init::both_slots(context) {
        if sql::slot(&client, &slot).await?.is_none() {
            missing_slots.push(slot);
        }
    }
    if archiver::pushing(&client).await?.is_some() {
        warnings.push(
            "archive_command pushes too. If no agent shall stream from this server, drop the slots afterwards: `wal-agent drop-slots`"
                .to_owned(),
        );
    }
    warnings.extend(newer_lineage(&repository, &course).await?);
    Ok(Look {
        connect,
        server,
        repository,
        course,
        predecessor,
        settings,
        missing_slots,
        warnings,
    })
}

/// A server in recovery has no WAL of its own.
async fn refuse_recovery(client: &Client) -> anyhow::Result<()> {
    if !sql::is_standby(client).await? {
        return Ok(());
    }
    let query =
        "SELECT pg_catalog.pg_is_wal_replay_paused(), COALESCE(pg_catalog.pg_last_wal_replay_lsn()::text, 'no LSN')";
    let row = client
        .query_one(query, &[])
        .await
        .context("cannot ask how far recovery is")?;
    let at: String = row.try_get(1)?;
    if row.try_get(0)? {
        return Err(Failure::refused(
            format!("the server is in recovery, paused at {at}"),
            "See that it is where it shall be. `SELECT pg_promote()` ends recovery on a new timeline; then adopt it.",
        )
        .into());
    }
    Err(Failure::refused(
        format!("the server is in recovery, at {at}: a standby, or a restore that is not over"),
        "Only a primary can be adopted. A restore goes on to its stop point by itself; a standby becomes the primary with `SELECT pg_promote()`.",
    )
    .into())
}

/// True when somebody streams from the slot. An agent of this host that does not is another server's.
async fn is_streamed(context: &Context, client: &Client, is_agent_here: bool) -> anyhow::Result<bool> {
    let begun = Instant::now();
    loop {
        let slot = sql::slot(client, &context.cluster.wal.slot).await?;
        if slot.is_some_and(|slot| slot.active) {
            return Ok(true);
        }
        if !is_agent_here {
            return Ok(false);
        }
        if begun.elapsed() > AGENT_WAIT {
            return Err(Failure::refused(
                format!(
                    "an agent for cluster \"{}\" runs on this host, and does not stream from this server",
                    context.cluster.name
                ),
                "`wal-agent status` and its log say what it does. If it serves the old server, that lives: stop both for good. Else stop \
                 the agent (`systemctl stop seawall`), then adopt.",
            )
            .into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What the restore has set and what becomes of it.
async fn settings(client: &Client, repository: &Repository, server: &Server) -> anyhow::Result<Sorted> {
    let restored = match disarmed::look(client, server.identity.system_identifier.as_u64()).await {
        Ok(restored) => restored,
        Err(failure) => {
            let why = exit::describe(&failure);
            let why = why.trim_start_matches("wal-agent: ").replace('\n', "; ");
            let what = format!(
                "what a restore has set cannot be seen here ({why}): look into postgresql.auto.conf on the server's host"
            );
            return Ok(Sorted {
                todo: vec![Todo { what, statement: None }],
                ..Sorted::default()
            });
        }
    };
    let recorded = recorded(repository, &restored).await;
    Ok(disarmed::sort(&restored, &recorded))
}

/// The server's settings when the restored backup was taken. Not knowing them is no reason to fail.
async fn recorded(repository: &Repository, restored: &Restored) -> BTreeMap<String, String> {
    let Some(backup) = restored.backup else {
        return BTreeMap::new();
    };
    match repository.manifest(backup).await {
        Ok(manifest) => manifest.settings,
        Err(error) => {
            tracing::debug!(%backup, %error, "the restored backup cannot be read");
            BTreeMap::new()
        }
    }
}

/// Beside a newer lineage with backups nobody can tell by himself which of the two is production.
async fn newer_lineage(repository: &Repository, course: &Course) -> anyhow::Result<Option<String>> {
    let Course::GoesOn { lineage, .. } = course else {
        return Ok(None);
    };
    let newest: Option<Lineage> = repository.lineages().await?.into_iter().max_by_key(|known| known.id);
    Ok(newest.filter(|newest| newest.id > lineage.id).map(|newest| {
        format!(
            "lineage {} is newer than the one of this server ({}). If it has a backup, `wal-restore` asks which of the two is meant: \
             name a backup with --backup",
            newest.id, newest.reason
        )
    }))
}
