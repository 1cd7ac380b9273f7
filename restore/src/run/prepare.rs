//! Before a byte is written: what to restore, where to, and whether it can work.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pg::identity::ServerVersion;
use pg::lsn::Lsn;
use store::file_table::FileEntry;

use super::command_path;
use crate::cli::{Cli, RestoreArgs, TargetAction};
use crate::error::{RestoreError, Result};
use crate::open::{self, Opened};
use crate::owner::{self, Owner};
use crate::place::{self, Found};
use crate::plan::{Plan, TablespacePlan};
use crate::request::{self, Asked, Choice};
use crate::{estimate, listen, places, programs, time};

/// How long a request to the store is tried again while someone waits for the restore.
const PATIENCE: Duration = Duration::from_secs(120);

/// Everything that is settled before a byte is written.
pub(super) struct Prepared {
    pub(super) opened: Opened,
    pub(super) choice: Choice,
    pub(super) plan: Plan,
    pub(super) table: Vec<FileEntry>,
    pub(super) found: Found,
    pub(super) owner: Option<Owner>,
    pub(super) programs: Option<PathBuf>,
}

/// Chooses and checks everything.
pub(super) async fn prepare(cli: &Cli) -> Result<Prepared> {
    let args = &cli.restore;
    let asked = Asked::of(&args.target, args.standby)?;
    let pgdata = args
        .pgdata
        .as_ref()
        .ok_or_else(|| RestoreError::usage("no directory was given", "Name it with --pgdata DIR."))?;
    let pgdata = place::absolute(pgdata)?;
    if args.prove && args.action() == TargetAction::Shutdown {
        return Err(RestoreError::usage(
            "a server that is shut down at the stop point cannot be proven",
            "Leave out --prove, or use another --target-action.",
        ));
    }
    if let Some(text) = &args.primary_conninfo {
        check_primary(text)?;
    }
    if args.jobs == Some(0) {
        return Err(RestoreError::usage(
            "--jobs 0 would restore nothing",
            "Leave it out, or use 1 or more.",
        ));
    }
    let opened = open::open(cli.which(), PATIENCE).await?;
    let found = place::inspect(&pgdata, opened.repository_directory(), args.delta)?;
    let choice = Box::pin(request::resolve(&opened.repository, &args.target, asked)).await?;
    let manifest = &choice.manifest;
    found.refuse_other(manifest.system_identifier)?;
    let unseen = places::refuse_older(&opened, manifest.lineage).await?;
    let owner = owner::choose(args.owner.as_deref(), manifest)?;
    let tablespaces = place::plan_tablespaces(
        manifest,
        &args.tablespace_map,
        args.tablespaces_below.as_deref(),
        &pgdata,
    )?;
    place::inspect_tablespaces(&tablespaces, opened.repository_directory(), &found)?;
    let major = ServerVersion(manifest.server_version).major();
    let programs = match args.starts() {
        true => Some(programs::find(opened.cluster.postgres.bin_directory.as_deref(), major)?),
        false => None,
    };
    if args.starts() && !args.is_private {
        if let Some(missing) = args.socket_dir.as_ref().filter(|directory| !directory.is_dir()) {
            return Err(RestoreError::refused(
                format!(
                    "the directory for the socket, \"{}\", does not exist",
                    missing.display()
                ),
                "Make it, for the user of the server, or name another one with --socket-dir.",
            ));
        }
        listen::refuse_taken(args.port, args.socket_dir.as_deref(), &manifest.settings)?;
    }
    let jobs = super::fill::jobs(args, &opened);
    let (table, expected) = futures::join!(
        opened.repository.file_table(manifest),
        estimate::fetch_time(&opened.repository, manifest, jobs)
    );
    let table = table?;
    check_space(&table, &pgdata, &tablespaces, &found)?;
    let mut plan = plan(args, &opened, &choice, pgdata, tablespaces, owner.as_ref());
    plan.over_cluster = found.is_delta();
    plan.warnings.extend(unseen);
    plan.expected_fetch_s = expected.map(|time| time.as_secs_f64());
    Ok(Prepared {
        opened,
        choice,
        plan,
        table,
        found,
        owner,
        programs,
    })
}

/// A password on a command line is read by whoever lists processes.
fn check_primary(text: &str) -> Result<()> {
    let config: tokio_postgres::Config = text.parse().map_err(|error| {
        RestoreError::usage(
            format!("--primary-conninfo cannot be read: {error}"),
            "Write it as for psql: 'host=... user=...'.",
        )
    })?;
    if config.get_password().is_some() {
        return Err(RestoreError::usage(
            "--primary-conninfo holds a password",
            "Put it into ~/.pgpass of the server's user.",
        ));
    }
    Ok(())
}

fn plan(
    args: &RestoreArgs,
    opened: &Opened,
    choice: &Choice,
    pgdata: PathBuf,
    tablespaces: Vec<TablespacePlan>,
    owner: Option<&Owner>,
) -> Plan {
    let manifest = &choice.manifest;
    let mut warnings: Vec<String> = Vec::new();
    if !manifest.corrupt_pages.is_empty() {
        warnings.push(format!(
            "{} pages were corrupt in the database itself when the backup was taken",
            manifest.corrupt_pages.len()
        ));
    }
    Plan {
        cluster: opened.cluster.name.clone(),
        system_identifier: manifest.system_identifier.to_string(),
        server_version: ServerVersion(manifest.server_version).to_string(),
        backup: manifest.backup.to_string(),
        backup_finished: time::show(manifest.finished_us),
        lineage: manifest.lineage.to_string(),
        timeline: choice.route.timeline().as_u32(),
        start_lsn: Lsn::new(manifest.start_lsn),
        consistent_lsn: Lsn::new(manifest.end_lsn),
        stop: choice.stop.clone(),
        wal_bytes: choice.stop.record_end_lsn.as_u64().saturating_sub(manifest.start_lsn),
        logical_bytes: manifest.totals.logical_bytes,
        stored_bytes: manifest.totals.needed_bytes,
        files: manifest.totals.files,
        expected_fetch_s: None,
        pgdata,
        over_cluster: false,
        tablespaces,
        owner: owner.map(|owner| owner.name.clone()),
        has_primary: args.primary_conninfo.is_some(),
        target_action: args.action().as_str(),
        warnings,
    }
}

fn check_space(table: &[FileEntry], pgdata: &Path, tablespaces: &[TablespacePlan], found: &Found) -> Result<()> {
    let below = |oid: u32| format!("pg_tblspc/{oid}/").into_bytes();
    let prefixes: Vec<Vec<u8>> = tablespaces.iter().map(|tablespace| below(tablespace.oid)).collect();
    let mut sums = vec![0u64; tablespaces.len() + 1];
    for entry in table {
        let at = prefixes
            .iter()
            .position(|prefix| entry.path.starts_with(prefix))
            .map_or(0, |at| at + 1);
        if let Some(sum) = sums.get_mut(at) {
            // What lies under the same name is written over, or goes first.
            let there = match found {
                Found::Free => 0,
                Found::Interrupted(_) | Found::Cluster(_) => place::allocated_bytes(pgdata, &entry.path),
            };
            *sum = sum.saturating_add(entry.size.saturating_sub(there));
        }
    }
    let paths = std::iter::once(pgdata).chain(tablespaces.iter().map(|tablespace| tablespace.to.as_path()));
    place::check_space(&paths.zip(sums).collect::<Vec<_>>())
}

/// As root: restore_command will run as the owner, who must be able to read what it needs.
pub(super) fn check_access(cli: &Cli, prepared: &Prepared) -> Result<()> {
    let Some(owner) = &prepared.owner else { return Ok(()) };
    let program = command_path(&prepared.opened)?;
    let mut command = owner.command(&program);
    command.arg("--config").arg(&prepared.opened.config_path).args([
        "--cluster",
        &prepared.opened.cluster.name,
        "can-read",
    ]);
    if let Some(copy) = &cli.copy {
        command.arg("--copy").arg(copy);
    }
    command.current_dir("/").env_remove("SEAWALL_CONFIG");
    let output = command.output().map_err(RestoreError::io("run", &program))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said
        .lines()
        .next()
        .unwrap_or("it cannot be run")
        .trim_start_matches("wal-restore: ");
    let config = cli.config.display();
    Err(RestoreError::refused(
        format!(
            "user \"{}\", who will fetch WAL, cannot read the repository: {said}",
            owner.name
        ),
        format!(
            "Let that user read \"{config}\", the restore key and the files that it names, or name another user with --owner."
        ),
    ))
}
