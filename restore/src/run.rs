//! The restore: plan, fetch, finish, and, when asked for, start. Each step is a function; the order is the safety.

mod fill;
mod prepare;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pg::lsn::Lsn;
use store::id::BackupId;
use store::manifest::Manifest;
use store::repository::Writer;

use self::fill::{Filled, directory_mode};
use self::prepare::{Prepared, check_access, prepare};
use crate::cli::{Cli, RestoreArgs, TargetAction};
use crate::comparison::Comparison;
use crate::error::{RestoreError, Result};
use crate::finish::{self, Finish};
use crate::open::Opened;
use crate::paths::Place;
use crate::place;
use crate::report::{Phases, Report};
use crate::settings::{Listen, Primary, RestoreCommand, block};
use crate::start::{self, Looks, Server};
use crate::state::State;
use crate::tree::Tree;
use crate::work::Work;

/// Directories that a server wants to find, whatever the backup lists.
pub(crate) const STANDARD_DIRECTORIES: [&str; 17] = [
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_multixact",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
    "pg_wal/archive_status",
];

/// What was restored, and the server where it was started.
pub(crate) struct Restored {
    pub(crate) report: Report,
    pub(crate) server: Option<Server>,
}

/// Runs the restore.
pub(crate) async fn run(cli: &Cli) -> Result<Restored> {
    let args = &cli.restore;
    let begun = Instant::now();
    let mut phases = Phases::default();
    let prepared = Box::pin(prepare(cli)).await?;
    if !args.json {
        println!("{}", prepared.plan);
    }
    phases.plan_ms = millis(begun);
    if args.dry_run {
        let comparison = Box::pin(fill::look(args, &prepared)).await?;
        say_comparison(args, comparison.as_ref());
        return Ok(Restored {
            report: Report::dry(prepared.plan, comparison, phases),
            server: None,
        });
    }
    check_access(cli, &prepared)?;
    let fetching = Instant::now();
    let planned = Box::pin(fill::compare(args, &prepared)).await?;
    let comparison = planned.comparison(&prepared.found)?;
    say_comparison(args, comparison.as_ref());
    let Filled {
        tree,
        work,
        fetched,
        swept,
    } = Box::pin(fill::fetch(args, &prepared, planned)).await?;
    phases.fetch_ms = millis(fetching);
    let finishing = Instant::now();
    let mut warnings = prepared.plan.warnings.clone();
    warnings.extend(
        swept
            .left
            .iter()
            .map(|left| format!("\"{left}\" is not in the backup and was left as it is")),
    );
    warnings.extend(
        swept
            .kept_wal
            .iter()
            .map(|kept| format!("the old pg_wal is kept as \"{kept}\": remove it when nobody misses a commit")),
    );
    warnings.extend(Box::pin(finish(args, &prepared, &tree, &work)).await?);
    phases.finish_ms = millis(finishing);
    let mut report = Report::new(prepared.plan, fetched, phases, warnings);
    report.comparison = comparison;
    let server = args.starts().then(|| {
        let programs = prepared.programs.unwrap_or_default();
        let limit = Duration::from_secs(args.start_timeout);
        let pgdata = report.plan.pgdata.clone();
        Server {
            is_private: args.is_private,
            ..Server::new(&prepared.opened, programs, pgdata, prepared.owner, limit)
        }
    });
    if let Some(server) = &server {
        let (stop, action) = (&report.plan.stop, args.action());
        let looks = Looks {
            prove: args.prove,
            manifest: &prepared.choice.manifest,
        };
        let outcome = Box::pin(start::run(server, &tree, stop, action, looks, &mut report.phases_ms)).await?;
        report.server = Some(outcome.started);
        report.proofs = outcome.proofs;
        report.warnings.extend(outcome.warnings);
    }
    // The proofs come when the server takes work already.
    report.rto_ms = millis(begun).saturating_sub(report.phases_ms.prove_ms.unwrap_or(0));
    let noted = note_proof(&prepared.opened, prepared.choice.manifest.backup, &report).await;
    report.warnings.extend(noted);
    Ok(Restored { report, server })
}

/// Notes in the repository that the backup was proven, so that retention keeps it until a newer one is. Not to be able to is no failure of
/// the restore.
async fn note_proof(opened: &Opened, backup: BackupId, report: &Report) -> Option<String> {
    if report.proofs.is_empty() || !report.proofs.iter().all(|proof| proof.ok) {
        return None;
    }
    let signing = Arc::clone(opened.signing.as_ref()?);
    let time_us = jiff::Timestamp::now().as_microsecond();
    let proof = store::records::Proof {
        time_us,
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        content: true,
        from: 0,
        len: 0,
        objects: 0,
        bytes: report.fetched_bytes,
        damaged: 0,
        backup: Some(backup),
    };
    let writer = Writer::new(Arc::clone(&opened.repository), signing, 0);
    let noted = writer.put_proof(&proof).await.err();
    noted.map(|error| format!("it cannot be noted in the repository that the backup was proven: {error}"))
}

fn say_comparison(args: &RestoreArgs, comparison: Option<&Comparison>) {
    if let Some(comparison) = comparison.filter(|_| !args.json) {
        println!("{comparison}");
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn command_path(opened: &Opened) -> Result<PathBuf> {
    match &opened.cluster.restore.command_path {
        Some(path) => Ok(path.clone()),
        None => std::env::current_exe().map_err(RestoreError::io("find", Path::new("wal-restore"))),
    }
}

async fn finish(args: &RestoreArgs, prepared: &Prepared, tree: &Arc<Tree>, work: &Arc<Work>) -> Result<Vec<String>> {
    let Prepared {
        opened,
        choice,
        plan,
        table,
        ..
    } = prepared;
    let manifest: &Manifest = &choice.manifest;
    for tablespace in &plan.tablespaces {
        tree.make_link(&Place::ours(&format!("pg_tblspc/{}", tablespace.oid)), &tablespace.to)?;
    }
    let control = finish::control(&opened.repository, work, manifest).await?;
    let program = command_path(opened)?;
    let command = RestoreCommand {
        program: &program,
        config: &opened.config_path,
        cluster: &opened.cluster.name,
        copy: opened.copy.as_deref(),
        pgdata: &plan.pgdata,
        standby: args.standby,
    };
    // With --start the server waits at the stop point until it was looked at.
    let action = if args.starts() {
        TargetAction::Pause
    } else {
        args.action()
    };
    let listen = Listen {
        port: args.port,
        socket_dir: args.socket_dir.as_deref(),
        is_private: args.is_private,
    };
    let primary = Primary {
        conninfo: args.primary_conninfo.as_deref(),
        slot: args.primary_slot_name.as_deref(),
    };
    let state = State {
        restore: ulid::Ulid::new().to_string(),
        cluster: opened.cluster.name.clone(),
        lineage: manifest.lineage,
        route: choice.route.clone(),
        start: Lsn::new(manifest.start_lsn),
        needed_until: choice.stop.is_an_end().then_some(choice.stop.record_end_lsn),
        backup: Some(manifest.backup.to_string()),
        stop: choice
            .stop
            .is_an_end()
            .then_some((choice.stop.lsn, choice.stop.inclusive)),
        settings: std::collections::BTreeMap::new(),
    };
    let finish = Finish {
        tree,
        work,
        manifest,
        table,
        pgdata: &plan.pgdata,
        block: block(
            manifest,
            &choice.stop,
            plan.timeline,
            &command,
            action.as_str(),
            listen,
            primary,
        ),
        state,
        standby: args.standby,
        file_mode: if directory_mode(manifest, table) == 0o750 {
            0o640
        } else {
            0o600
        },
        written: Vec::new(),
    };
    place::refuse_running(&plan.pgdata)?;
    let mut warnings = finish.run(&control)?;
    warnings.extend(work.left_out.iter().cloned());
    Ok(warnings)
}
