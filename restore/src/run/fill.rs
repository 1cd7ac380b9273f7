//! Fills the target: what of it is there already, what is in the way, what has to be fetched.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use store::file_table::FileEntry;
use store::manifest::Manifest;

use super::STANDARD_DIRECTORIES;
use super::prepare::Prepared;
use crate::cli::RestoreArgs;
use crate::comparison::Comparison;
use crate::delta;
use crate::error::{RestoreError, Result};
use crate::fetch_files;
use crate::open::Opened;
use crate::packs::refuse_missing;
use crate::paths::{OURS, Place};
use crate::place::{self, Found, INCOMPLETE, Marker};
use crate::plan::Plan;
use crate::progress::Progress;
use crate::sweep::{self, KEPT_WAL, Swept};
use crate::tree::Tree;
use crate::work::Work;
use crate::writeback::Writeback;

/// 0750 where the backed-up directory let its group read, else 0700.
pub(super) fn directory_mode(manifest: &Manifest, table: &[FileEntry]) -> u32 {
    let is_root = |entry: &&FileEntry| matches!(&**entry.path, b"" | b"." | b"global");
    let group = match manifest.settings.get("data_directory_mode") {
        Some(mode) => mode.ends_with("750"),
        None => table.iter().filter(is_root).any(|entry| entry.mode & 0o040 != 0),
    };
    if group { 0o750 } else { 0o700 }
}

/// Goes first and comes last.
const CONTROL: &str = "global/pg_control";

/// What is to be done in the target, and the target.
pub(super) struct Planned {
    tree: Arc<Tree>,
    work: Work,
    jobs: usize,
}

/// A target whose files are complete.
pub(super) struct Filled {
    pub(super) tree: Arc<Tree>,
    pub(super) work: Arc<Work>,
    pub(super) fetched: fetch_files::Fetched,
    pub(super) swept: Swept,
}

/// Packs in flight.
pub(super) fn jobs(args: &RestoreArgs, opened: &Opened) -> usize {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    args.jobs.or(opened.cluster.restore.jobs).unwrap_or(cores.clamp(4, 8))
}

/// Which bytes go where, without those that are in the target already. Directories are made where there are none; nothing else is changed.
pub(super) async fn compare(args: &RestoreArgs, prepared: &Prepared) -> Result<Planned> {
    let Prepared { plan, owner, .. } = prepared;
    let mode = directory_mode(&prepared.choice.manifest, &prepared.table);
    for path in roots(plan) {
        place::make_root(path, mode, owner.as_ref())?;
    }
    if let Some(sockets) = args.socket_dir.as_ref().filter(|_| args.is_private) {
        place::make_root(sockets, 0o700, owner.as_ref())?;
    }
    let tree = open_tree(prepared)?;
    tree.lock()?;
    plan_work(args, prepared, tree).await
}

/// What a restore would find in the target: `None` where that is empty. Nothing is changed.
pub(super) async fn look(args: &RestoreArgs, prepared: &Prepared) -> Result<Option<Comparison>> {
    let is_there = roots(&prepared.plan).all(Path::is_dir);
    if matches!(prepared.found, Found::Free) || !is_there {
        let needed = prepared.choice.manifest.packs.iter().map(|need| need.id);
        refuse_missing(&prepared.opened.repository, needed).await?;
        return Ok(None);
    }
    let planned = plan_work(args, prepared, open_tree(prepared)?).await?;
    planned.comparison(&prepared.found)
}

fn roots(plan: &Plan) -> impl Iterator<Item = &Path> {
    let tablespaces = plan.tablespaces.iter().map(|tablespace| tablespace.to.as_path());
    std::iter::once(plan.pgdata.as_path()).chain(tablespaces)
}

fn open_tree(prepared: &Prepared) -> Result<Arc<Tree>> {
    let Prepared { plan, owner, .. } = prepared;
    let tablespaces = plan.tablespaces.iter();
    let roots: Vec<(u32, &Path)> = tablespaces
        .map(|tablespace| (tablespace.oid, tablespace.to.as_path()))
        .collect();
    Ok(Arc::new(Tree::open(&plan.pgdata, &roots, owner.clone())?))
}

async fn plan_work(args: &RestoreArgs, prepared: &Prepared, tree: Arc<Tree>) -> Result<Planned> {
    let Prepared {
        opened,
        choice,
        plan,
        table,
        found,
        ..
    } = prepared;
    let linked: Vec<u32> = plan.tablespaces.iter().map(|tablespace| tablespace.oid).collect();
    let (mut work, maps) = Work::of(table, &linked)?;
    add_standard_directories(&mut work, directory_mode(&choice.manifest, table));
    let jobs = jobs(args, opened);
    let there = match found {
        Found::Free => None,
        Found::Interrupted(_) | Found::Cluster(_) => Some(&*tree),
    };
    delta::plan_pages(&opened.repository, there, &mut work, maps, jobs).await?;
    refuse_missing(&opened.repository, work.packs.keys().copied()).await?;
    if !work.later.is_empty() {
        refuse_missing(&opened.repository, choice.manifest.packs.iter().map(|need| need.id)).await?;
    }
    Ok(Planned { tree, work, jobs })
}

impl Planned {
    /// What was found, where there was something.
    pub(super) fn comparison(&self, found: &Found) -> Result<Option<Comparison>> {
        let Some(owned) = found.owned() else { return Ok(None) };
        let mut swept = sweep::look(&self.tree, &self.work, &owned)?;
        // Written at the very end; and WAL is kept aside.
        if let Some(at) = swept.removed.iter().position(|name| name == CONTROL) {
            swept.overwritten.push(swept.removed.swap_remove(at));
        }
        if matches!(found, Found::Cluster(_)) {
            swept.removed.retain(|name| !name.starts_with("pg_wal/"));
        }
        swept.removed.sort();
        Ok(Some(Comparison::new(&self.work, swept)))
    }
}

/// Makes the target ours and fills it. Where a cluster is, it cannot be started from the first change on.
pub(super) async fn fetch(args: &RestoreArgs, prepared: &Prepared, planned: Planned) -> Result<Filled> {
    let Planned { tree, work, jobs } = planned;
    prepared.found.refuse_changed(&prepared.plan.pgdata)?;
    mark(&tree, &work, &prepared.plan, &prepared.found)?;
    if matches!(prepared.found, Found::Cluster(_)) {
        tree.remove_file(&Place::ours(CONTROL))?;
        keep_wal(&tree)?;
    }
    let swept = match prepared.found.owned() {
        Some(owned) => sweep::sweep(&tree, &work, &owned)?,
        None => Swept::default(),
    };
    let progress = Progress::new(work.bytes, args.json);
    let writeback = Writeback::start(&tree);
    let (fetched, work) = fetch_files::fetch(&prepared.opened.repository, &tree, work, jobs, progress).await?;
    writeback.finish()?;
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
