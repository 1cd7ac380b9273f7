//! Makes room in a target that is not empty: what is not in the backup goes, as far as we know whose it is.
//!
//! Where a restore had begun in an empty directory everything that its marker names is ours. In a cluster that is restored over
//! (`--delta`) it is what PostgreSQL itself keeps there; a file that somebody else put beside it stays, and is named.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};

use rustix::fs::FileType;

use crate::error::Result;
use crate::paths::{OURS, Place};
use crate::place::INCOMPLETE;
use crate::run::STANDARD_DIRECTORIES;
use crate::tree::Tree;
use crate::work::Work;

/// Files of a server at the top of its data directory that a backup does not have.
const SERVER_FILES: [&str; 13] = [
    "backup_label",
    "backup_label.old",
    "backup_manifest",
    "current_logfiles",
    "pg_internal.init",
    "postgresql.auto.conf.tmp",
    "postmaster.opts",
    "postmaster.pid",
    "recovery.done",
    "recovery.signal",
    "standby.signal",
    "tablespace_map",
    "tablespace_map.old",
];

/// What the names of directories begin with that hold the WAL of clusters that were restored over.
pub(crate) const KEPT_WAL: &str = "pg_wal.";

/// Whose names at the top of the data directory are.
#[derive(Debug)]
pub(crate) struct Owned(HashSet<OsString>);

impl Owned {
    /// What the marker of an interrupted restore names.
    pub(crate) fn by_marker(names: &[String]) -> Self {
        Owned(names.iter().map(OsString::from).collect())
    }

    /// What a server keeps.
    pub(crate) fn by_server() -> Self {
        let directories = STANDARD_DIRECTORIES.iter().filter(|name| !name.contains('/'));
        Owned(directories.chain(&SERVER_FILES).map(OsString::from).collect())
    }

    fn has(&self, name: &OsStr) -> bool {
        // Names in a marker are text.
        self.0.contains(name) || self.0.contains(OsStr::new(&*name.to_string_lossy()))
    }
}

/// What was done, or would be.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    /// Files, links and directories that are not in the backup and were removed.
    pub(crate) removed: Vec<String>,
    /// Those that were removed because others take their places.
    pub(crate) overwritten: Vec<String>,
    /// What stays although it is not in the backup.
    pub(crate) left: Vec<String>,
    /// Where the WAL of clusters is that were restored over, now or before.
    pub(crate) kept_wal: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Directory,
    /// It stays: its pages were compared.
    Held,
    /// It is created anew.
    New,
}

/// Removes what is in the way and what is not in the backup.
pub(crate) fn sweep(tree: &Tree, work: &Work, owned: &Owned) -> Result<Swept> {
    let swept = visit_all(tree, work, owned, false)?;
    // The marker stays until the end, and WAL until somebody removes it.
    let ours = Place::ours(OURS);
    for (name, _) in tree.list(&ours)? {
        if name != *INCOMPLETE && !is_kept_wal(&name) {
            tree.remove_any(&below(&ours, &name))?;
        }
    }
    Ok(swept)
}

/// What [`sweep`] would do. Nothing is changed.
pub(crate) fn look(tree: &Tree, work: &Work, owned: &Owned) -> Result<Swept> {
    visit_all(tree, work, owned, true)
}

fn is_kept_wal(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with(KEPT_WAL)
}

fn visit_all(tree: &Tree, work: &Work, owned: &Owned, only_looks: bool) -> Result<Swept> {
    let mut sweep = Sweep {
        tree,
        only_looks,
        wanted: wanted(work),
        swept: Swept::default(),
    };
    for (name, kind) in tree.list(&root(None))? {
        let place = below(&root(None), &name);
        if name == *OURS {
            continue;
        }
        let is_owned = owned.has(&name);
        sweep.visit(place, kind, is_owned)?;
    }
    for oid in tree.tablespaces() {
        let tops: HashSet<&OsStr> = work.tops_of(oid).collect();
        for (name, kind) in tree.list(&root(Some(oid)))? {
            let is_owned = tops.contains(&*name);
            sweep.visit(below(&root(Some(oid)), &name), kind, is_owned)?;
        }
    }
    let ours = Place::ours(OURS);
    for (name, _) in tree.list(&ours)? {
        if is_kept_wal(&name) {
            sweep.swept.kept_wal.push(below(&ours, &name).show());
        }
    }
    Ok(sweep.swept)
}

struct Sweep<'a> {
    tree: &'a Tree,
    only_looks: bool,
    wanted: HashMap<&'a Place, Wanted>,
    swept: Swept,
}

impl Sweep<'_> {
    fn visit(&mut self, place: Place, kind: FileType, is_owned: bool) -> Result<()> {
        match (self.wanted.get(&place), kind) {
            (Some(Wanted::Directory), FileType::Directory) => {
                for (name, kind) in self.tree.list(&place)? {
                    self.visit(below(&place, &name), kind, is_owned)?;
                }
                Ok(())
            }
            (Some(Wanted::Held), FileType::RegularFile) => Ok(()),
            (None, _) if !is_owned => {
                self.swept.left.push(place.show());
                Ok(())
            }
            (wanted, _) => {
                let names = match wanted {
                    Some(_) => &mut self.swept.overwritten,
                    None => &mut self.swept.removed,
                };
                names.push(place.show());
                if self.only_looks {
                    return Ok(());
                }
                self.tree.remove_any(&place)
            }
        }
    }
}

fn wanted(work: &Work) -> HashMap<&Place, Wanted> {
    let directories = work.directories.iter().map(|(place, _)| (place, Wanted::Directory));
    let files = (0..).zip(&work.files).map(|(index, (place, _, _))| {
        let wanted = if work.is_held(index) { Wanted::Held } else { Wanted::New };
        (place, wanted)
    });
    directories.chain(files).collect()
}

fn root(tablespace: Option<u32>) -> Place {
    Place {
        tablespace,
        names: Vec::new(),
    }
}

fn below(place: &Place, name: &OsStr) -> Place {
    let mut place = place.clone();
    place.names.push(name.into());
    place
}
