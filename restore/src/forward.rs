//! `forward` and `promote`: a restored server that waits at its stop point is moved on to a later one, or its recovery ends there.
//!
//! Recovery never goes back, and PostgreSQL reads its stop point only when it starts: the server is stopped, told the next one, and
//! started again, and it goes on from its last restartpoint. A crash in between leaves a stopped server with one stop point or the other.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pg::identity::ServerVersion;
use serde::Serialize;
use store::manifest::Manifest;

use crate::cli::{Cli, ForwardArgs, TargetAction, TargetArgs, WaitingArgs};
use crate::error::{RestoreError, Result};
use crate::open::{self, Opened};
use crate::paths::{OURS, Place};
use crate::place::{self, running_postmaster};
use crate::plan::StopPoint;
use crate::report::{Phases, Started};
use crate::request::{self, Asked, Choice};
use crate::start::{self, Looks, Server};
use crate::state::{STATE, State};
use crate::tree::Tree;
use crate::{owner, programs, settings};

/// How long a request to the store is tried again.
const PATIENCE: Duration = Duration::from_secs(120);
const AUTO_CONF: &str = "postgresql.auto.conf";

/// Where the server is now.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    ok: bool,
    dry_run: bool,
    stop: Option<StopPoint>,
    phases_ms: Phases,
    server: Option<Started>,
    warnings: Vec<String>,
    #[serde(skip)]
    pgdata: PathBuf,
}

/// A restored server that is in recovery.
struct Waiting {
    opened: Opened,
    state: State,
    manifest: Manifest,
    server: Server,
    tree: Arc<Tree>,
}

/// What a server is told of its next stop point.
struct Next {
    targets: Vec<(String, String)>,
    /// The whole file.
    auto_conf: Vec<u8>,
}

/// Moves it on.
pub(crate) async fn forward(cli: &Cli, args: &ForwardArgs) -> Result<Report> {
    let asked = Asked::of(&args.target, false)?;
    let mut waiting = find(cli, &args.server).await?;
    let choice = next_stop(&waiting, &args.target, asked).await?;
    let pgdata = waiting.server.pgdata.clone();
    if !args.server.json {
        println!("{}", choice.stop);
    }
    let mut report = Report {
        ok: true,
        dry_run: args.dry_run,
        stop: Some(choice.stop.clone()),
        phases_ms: Phases::default(),
        server: None,
        warnings: Vec::new(),
        pgdata,
    };
    if args.dry_run {
        return Ok(report);
    }
    // What can be refused is refused before the server is stopped.
    let next = waiting.next_settings(&choice)?;
    if running_postmaster(&waiting.server.pgdata).is_some() {
        waiting.server.stop().await?;
    }
    waiting.write_stop(&choice, next)?;
    let looks = Looks {
        prove: false,
        manifest: &waiting.manifest,
    };
    let (server, tree) = (&waiting.server, &waiting.tree);
    let action = args.target_action;
    let started = start::run(server, tree, &choice.stop, action, looks, &mut report.phases_ms);
    let outcome = Box::pin(started).await?;
    report.server = Some(outcome.started);
    report.warnings = outcome.warnings;
    Ok(report)
}

/// Ends recovery where it waits.
pub(crate) async fn promote(cli: &Cli, args: &WaitingArgs) -> Result<Report> {
    let waiting = find(cli, args).await?;
    if running_postmaster(&waiting.server.pgdata).is_none() {
        return Err(RestoreError::refused(
            "the restored server does not run",
            "Start it with pg_ctl: it recovers, and waits at its stop point; then run this again.",
        ));
    }
    let (Some(stop), Some(until)) = (waiting.state.stop, waiting.state.needed_until) else {
        return Err(RestoreError::refused(
            "it is a standby, which has no stop point",
            "Promote it with pg_ctl promote.",
        ));
    };
    waiting.refuse_other_stop()?;
    let mut phases_ms = Phases::default();
    let started = start::promote(&waiting.server, &waiting.tree, stop, until, &mut phases_ms).await?;
    Ok(Report {
        ok: true,
        dry_run: false,
        stop: None,
        phases_ms,
        server: Some(started),
        warnings: Vec::new(),
        pgdata: waiting.server.pgdata,
    })
}

/// Looks at the directory: a restore of ours must have ended there, and recovery must not.
async fn find(cli: &Cli, args: &WaitingArgs) -> Result<Waiting> {
    let pgdata = place::absolute(&args.pgdata)?;
    let show = pgdata.display();
    if !pgdata.join(OURS).join(STATE).exists() || !pgdata.join("global/pg_control").exists() {
        return Err(RestoreError::refused(
            format!("\"{show}\" does not hold a cluster that wal-restore has restored"),
            "Name its data directory with --pgdata.",
        ));
    }
    if pgdata.join("standby.signal").exists() {
        return Err(RestoreError::refused(
            format!("the server in \"{show}\" is a standby: it has no stop point"),
            "To make it the primary: SELECT pg_promote(), or pg_ctl promote. Then protect it with `wal-agent adopt`.",
        ));
    }
    if !pgdata.join("recovery.signal").exists() {
        return Err(RestoreError::refused(
            format!("the server in \"{show}\" is not in recovery: it was promoted already"),
            "To see another point in time, restore once more, with --explore.",
        ));
    }
    let state = State::read(&pgdata)?;
    let asked = cli.which();
    let which = open::Which {
        cluster: asked.cluster.or(Some(&state.cluster)),
        ..asked
    };
    let opened = open::open(which, PATIENCE).await?;
    let manifest = backup_of(&opened, &state, &pgdata).await?;
    let owner = owner::choose(args.owner.as_deref(), &manifest)?;
    let major = ServerVersion(manifest.server_version).major();
    let programs = programs::find(opened.cluster.postgres.bin_directory.as_deref(), major)?;
    let tree = Arc::new(Tree::open(&pgdata, &[], owner.clone())?);
    tree.lock()?;
    let server = Server::new(
        &opened,
        programs,
        pgdata,
        owner,
        Duration::from_secs(args.start_timeout),
    );
    Ok(Waiting {
        opened,
        state,
        manifest,
        server,
        tree,
    })
}

async fn backup_of(opened: &Opened, state: &State, pgdata: &Path) -> Result<Manifest> {
    let id = state.backup.as_ref().and_then(|text| text.parse().ok());
    let id = id.ok_or_else(|| {
        RestoreError::refused(
            format!(
                "\"{}\" was restored by an older wal-restore, which did not note its backup",
                pgdata.display()
            ),
            "Restore once more.",
        )
    })?;
    Ok(opened.repository.manifest(id).await?)
}

/// The stop point that was asked for, on the same way as the one before, and not before it.
async fn next_stop(waiting: &Waiting, target: &TargetArgs, asked: Asked) -> Result<Choice> {
    let target = TargetArgs {
        backup: waiting.state.backup.clone(),
        target_timeline: target.target_timeline.or(Some(waiting.state.route.timeline().as_u32())),
        ..target.clone()
    };
    let choice = Box::pin(request::resolve(&waiting.opened.repository, &target, asked)).await?;
    let now = waiting.state.stop;
    // It may not have come to the timeline yet that it goes to.
    let reached = |lsn| {
        waiting
            .state
            .route
            .parts
            .iter()
            .find(|part| waiting.state.route.passes(part.timeline, lsn))
    };
    let reached = now.and_then(|(lsn, _)| reached(lsn));
    let timeline = reached.map_or(waiting.state.route.timeline(), |part| part.timeline);
    if let Some((lsn, _)) = now.filter(|(lsn, _)| !choice.route.passes(timeline, *lsn)) {
        return Err(RestoreError::refused(
            format!(
                "recovery is at {lsn} on timeline {timeline}, which is not on the way to timeline {}",
                choice.route.timeline()
            ),
            "Restore once more, with --explore and that timeline.",
        ));
    }
    if now.is_some_and(|now| is_behind(now, &choice.stop)) {
        let at = now.map(|(lsn, _)| lsn.to_string()).unwrap_or_default();
        return Err(RestoreError::refused(
            format!("recovery is at {at} already, and cannot go back to {}", choice.stop.lsn),
            "Restore once more, with --explore and the earlier stop point.",
        ));
    }
    Ok(choice)
}

/// Does the next stop point lie before the one now?
fn is_behind((lsn, inclusive): (pg::lsn::Lsn, bool), next: &StopPoint) -> bool {
    next.lsn < lsn || next.lsn == lsn && inclusive && !next.inclusive
}

impl Waiting {
    fn auto_conf(&self) -> Result<Vec<u8>> {
        Ok(self.tree.read_file(&Place::ours(AUTO_CONF))?.unwrap_or_default())
    }

    /// The server must have been told the stop point that the restore's state names: a `forward` may have died between the two.
    fn refuse_other_stop(&self) -> Result<()> {
        let is_target = |(name, _): &(&String, &String)| name.starts_with("recovery_target");
        let targets: Vec<(&String, &String)> = self.state.settings.iter().filter(is_target).collect();
        if settings::has(&self.auto_conf()?, &targets) {
            return Ok(());
        }
        Err(RestoreError::refused(
            format!("{AUTO_CONF} does not have the stop point that the restore was asked for last"),
            "Bring the server there with `wal-restore forward`, then promote it.",
        ))
    }

    /// The targets, and postgresql.auto.conf with them. It waits in any case, to be looked at.
    fn next_settings(&self, choice: &Choice) -> Result<Next> {
        let targets = settings::targets(
            &choice.stop,
            choice.route.timeline().as_u32(),
            TargetAction::Pause.as_str(),
        );
        let new = settings::move_stop(&self.auto_conf()?, &targets).ok_or_else(|| {
            RestoreError::refused(
                format!("{AUTO_CONF} does not have the settings of a restore any more"),
                "Restore once more.",
            )
        })?;
        Ok(Next {
            targets,
            auto_conf: new,
        })
    }

    /// The state first: until the settings follow, more WAL can be had than is asked for.
    fn write_stop(&mut self, choice: &Choice, next: Next) -> Result<()> {
        // What was fetched for the stop point before may end there.
        self.state.restore = ulid::Ulid::new().to_string();
        self.state.route = choice.route.clone();
        self.state.needed_until = Some(choice.stop.record_end_lsn);
        self.state.stop = Some((choice.stop.lsn, choice.stop.inclusive));
        self.state.settings.extend(next.targets);
        let state = Place::ours(&format!("{OURS}/{STATE}"));
        self.tree.write_file(&state, &self.state.to_json()?, 0o600)?;
        self.tree.write_file(&Place::ours(AUTO_CONF), &next.auto_conf, 0o600)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for warning in &self.warnings {
            writeln!(f, "WARNING: {warning}")?;
        }
        match &self.server {
            None => write!(f, "nothing was changed (--dry-run)"),
            Some(server) => server.show(f, &self.pgdata),
        }
    }
}

#[cfg(test)]
mod tests {
    use pg::lsn::Lsn;

    use super::*;
    use crate::plan::StopKind;
    use crate::scan::Found;

    #[test]
    fn recovery_goes_on_and_never_back() {
        let found = Found {
            start: Lsn::new(100),
            end: Lsn::new(140),
            time_us: None,
            commit_before_us: None,
        };
        let next = |inclusive| StopPoint::record(StopKind::Lsn, &found, inclusive);
        assert!(is_behind((Lsn::new(101), false), &next(true)));
        assert!(is_behind((Lsn::new(100), true), &next(false)));
        assert!(!is_behind((Lsn::new(100), true), &next(true)));
        assert!(!is_behind((Lsn::new(100), false), &next(true)));
        assert!(!is_behind((Lsn::new(99), true), &next(false)));
    }
}
