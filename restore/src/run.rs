//! The restore: plan, fetch, finish, and, when asked for, start. Each step is a function; the order is the safety.

mod prepare;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pg::lsn::Lsn;
use store::file_table::FileEntry;
use store::manifest::Manifest;

use self::prepare::{Prepared, check_access, prepare};
use crate::cli::{Cli, RestoreArgs, TargetAction};
use crate::delta;
use crate::error::{RestoreError, Result};
use crate::fetch_files;
use crate::finish::{self, Finish};
use crate::open::Opened;
use crate::paths::{OURS, Place};
use crate::place::{self, Found, INCOMPLETE, Marker};
use crate::plan::{Plan, StopKind};
use crate::progress::Progress;
use crate::report::{Phases, Report};
use crate::settings::{Listen, RestoreCommand, block};
use crate::start::{self, Server};
use crate::state::State;
use crate::sweep::{KEPT_WAL, Swept, sweep};
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
        return Ok(Restored {
            report: Report::dry(prepared.plan, phases),
            server: None,
        });
    }
    check_access(cli, &prepared)?;
    let fetching = Instant::now();
    let planned = Box::pin(compare(args, &prepared)).await?;
    let Filled {
        tree,
        work,
        fetched,
        swept,
    } = Box::pin(fetch(args, &prepared, planned)).await?;
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
    report.held_bytes = work.held_bytes;
    report.removed = swept.removed;
    let server = args.start.then(|| Server {
        programs: prepared.programs.unwrap_or_default(),
        pgdata: report.plan.pgdata.clone(),
        owner: prepared.owner,
        configured_user: prepared.opened.cluster.postgres.options.get("user").cloned(),
        configured_database: prepared.opened.cluster.postgres.options.get("dbname").cloned(),
        limit: Duration::from_secs(args.start_timeout),
        is_private: args.is_private,
    });
    if let Some(server) = &server {
        let (stop, action) = (&report.plan.stop, args.target_action);
        let known_good = args.prove.then_some(prepared.choice.manifest.known_good.as_slice());
        let outcome = Box::pin(start::run(
            server,
            &tree,
            stop,
            action,
            known_good,
            &mut report.phases_ms,
        ))
        .await?;
        report.server = Some(outcome.started);
        report.proofs = outcome.proofs;
    }
    // The proofs come when the server takes work already.
    report.rto_ms = millis(begun).saturating_sub(report.phases_ms.prove_ms.unwrap_or(0));
    Ok(Restored { report, server })
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

/// 0750 where the backed-up directory let its group read, else 0700.
fn directory_mode(manifest: &Manifest, table: &[FileEntry]) -> u32 {
    let is_root = |entry: &&FileEntry| matches!(&**entry.path, b"" | b"." | b"global");
    let group = match manifest.settings.get("data_directory_mode") {
        Some(mode) => mode.ends_with("750"),
        None => table.iter().filter(is_root).any(|entry| entry.mode & 0o040 != 0),
    };
    if group { 0o750 } else { 0o700 }
}

/// What is to be done in the target, and the target.
struct Planned {
    tree: Arc<Tree>,
    work: Work,
    jobs: usize,
}

/// Which bytes go where, without those that are in the target already. Nothing is changed there.
async fn compare(args: &RestoreArgs, prepared: &Prepared) -> Result<Planned> {
    let Prepared {
        opened,
        choice,
        plan,
        table,
        found,
        owner,
        ..
    } = prepared;
    let linked: Vec<u32> = plan.tablespaces.iter().map(|tablespace| tablespace.oid).collect();
    let (mut work, maps) = Work::of(table, &linked)?;
    let mode = directory_mode(&choice.manifest, table);
    add_standard_directories(&mut work, mode);
    for path in std::iter::once(&plan.pgdata).chain(plan.tablespaces.iter().map(|tablespace| &tablespace.to)) {
        place::make_root(path, mode, owner.as_ref())?;
    }
    let roots: Vec<(u32, &Path)> = plan
        .tablespaces
        .iter()
        .map(|tablespace| (tablespace.oid, tablespace.to.as_path()))
        .collect();
    if let Some(sockets) = args.socket_dir.as_ref().filter(|_| args.is_private) {
        place::make_root(sockets, 0o700, owner.as_ref())?;
    }
    let tree = Arc::new(Tree::open(&plan.pgdata, &roots, owner.clone())?);
    tree.lock()?;
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let jobs = args.jobs.or(opened.cluster.restore.jobs).unwrap_or(cores.clamp(4, 8));
    let there = match found {
        Found::Free => None,
        Found::Interrupted(_) | Found::Cluster(_) => Some(&*tree),
    };
    delta::plan_pages(&opened.repository, there, &mut work, maps, jobs).await?;
    Ok(Planned { tree, work, jobs })
}

/// Makes the target ours and fills it. Where a cluster is, it cannot be started from the first change on.
async fn fetch(args: &RestoreArgs, prepared: &Prepared, planned: Planned) -> Result<Filled> {
    let Planned { tree, work, jobs } = planned;
    prepared.found.refuse_changed(&prepared.plan.pgdata)?;
    mark(&tree, &work, &prepared.plan, &prepared.found)?;
    if matches!(prepared.found, Found::Cluster(_)) {
        tree.remove_file(&Place::ours("global/pg_control"))?;
        keep_wal(&tree)?;
    }
    let swept = match prepared.found.owned() {
        Some(owned) => sweep(&tree, &work, &owned)?,
        None => Swept::default(),
    };
    let work = Arc::new(work);
    let progress = Progress::new(work.bytes, args.json);
    let fetched = fetch_files::fetch(&prepared.opened.repository, &tree, &work, jobs, progress).await?;
    Ok(Filled {
        tree,
        work,
        fetched,
        swept,
    })
}

/// WAL that was never archived may be the only copy of the last commits: it is kept aside.
fn keep_wal(tree: &Tree) -> Result<()> {
    let aside = Place::ours(&format!("{OURS}/{}{}", KEPT_WAL, ulid::Ulid::new()));
    tree.move_directory(&Place::ours("pg_wal"), &aside)
}

/// A target whose files are complete.
struct Filled {
    tree: Arc<Tree>,
    work: Arc<Work>,
    fetched: fetch_files::Fetched,
    swept: Swept,
}

fn add_standard_directories(work: &mut Work, mode: u32) {
    for name in STANDARD_DIRECTORIES {
        let place = Place::ours(name);
        if !work.directories.iter().any(|(found, _)| *found == place) {
            work.directories.push((place, mode));
        }
    }
    work.directories.sort();
}

/// The marker comes first: from here on this directory is ours, and incomplete.
fn mark(tree: &Tree, work: &Work, plan: &Plan, found: &Found) -> Result<()> {
    let mut names = work.top_names();
    let own = [
        "backup_label",
        "backup_manifest",
        "postgresql.auto.conf",
        "recovery.signal",
        "standby.signal",
        "postgresql.conf",
        "pg_hba.conf",
        "pg_ident.conf",
    ];
    names.extend(own.iter().map(|name| (*name).to_owned()));
    names.extend(names.clone().iter().map(|name| format!("{name}.seawall")));
    let of_plan = plan.tablespaces.iter().map(|tablespace| tablespace.to.clone());
    let mut tablespaces: Vec<PathBuf> = of_plan.collect();
    // What the one before wrote is there until it is swept.
    if let Found::Interrupted(before) = found {
        names.extend(before.names.iter().cloned());
        tablespaces.extend(before.tablespaces.iter().cloned());
    }
    names.sort();
    names.dedup();
    tablespaces.sort();
    tablespaces.dedup();
    let marker = Marker {
        restore: ulid::Ulid::new().to_string(),
        names,
        tablespaces,
        delta: found.is_delta(),
    };
    let json = serde_json::to_vec_pretty(&marker).map_err(|error| RestoreError::Failed(error.to_string()))?;
    tree.make_directory(&Place::ours(OURS), 0o700)?;
    tree.write_file(&Place::ours(&format!("{OURS}/{INCOMPLETE}")), &json, 0o600)
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
        pgdata: &plan.pgdata,
        standby: args.standby,
    };
    // With --start the server waits at the stop point until it was looked at.
    let action = if args.start {
        TargetAction::Pause
    } else {
        args.target_action
    };
    let listen = Listen {
        port: args.port,
        socket_dir: args.socket_dir.as_deref(),
        is_private: args.is_private,
    };
    let state = State {
        restore: ulid::Ulid::new().to_string(),
        cluster: opened.cluster.name.clone(),
        lineage: manifest.lineage,
        route: choice.route.clone(),
        start: Lsn::new(manifest.start_lsn),
        needed_until: (choice.stop.kind != StopKind::Follow).then_some(choice.stop.record_end_lsn),
    };
    let finish = Finish {
        tree,
        work,
        manifest,
        table,
        pgdata: &plan.pgdata,
        block: block(manifest, &choice.stop, plan.timeline, &command, action.as_str(), listen),
        state: &state,
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
