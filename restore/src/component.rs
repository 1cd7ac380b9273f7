//! `wal-restore component`: what was captured beside PostgreSQL, back below a directory; or listed, or one file of it on standard output.

mod history;
mod names;
mod report;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use components::config::{SEALED, open_content};
use components::restore::{RestoreOptions, Restored, complete, interrupted, restore};
use components::{Stored, compare};
use config::ComponentKind;
use serde::Serialize;
use store::file_table::{EntryType, FileEntry};
use store::keys::OpeningKey;
use store::manifest::Manifest;

use crate::cli::{Cli, ComponentArgs};
use crate::dump;
use crate::error::{RestoreError, Result};
use crate::open::{Opened, open};
use crate::packs::refuse_missing;
use crate::progress::Progress;
use crate::time;
pub(crate) use names::{plain, resolve};
pub(crate) use report::Report;

/// A restore goes on for as long as a store may be away.
const PATIENCE: Duration = Duration::from_secs(600);

/// How a component is brought back.
#[derive(Debug)]
pub(crate) struct Way {
    /// The directory.
    pub(crate) to: PathBuf,
    /// Only these, as in the backup; empty: all.
    pub(crate) only: Vec<Vec<u8>>,
    /// Files that differ are replaced.
    pub(crate) over: bool,
    /// Owners are set, where we may.
    pub(crate) owners: bool,
    /// Nothing is changed.
    pub(crate) dry_run: bool,
    /// A server of the system, that loads what was restored.
    pub(crate) server: Option<PathBuf>,
    /// Of kind git: bundles stay bundles.
    pub(crate) as_stored: bool,
    /// Of kind config: the file that opens its secrets.
    pub(crate) identity: Option<PathBuf>,
    /// Nothing but the result is printed.
    pub(crate) is_quiet: bool,
}

/// Runs the command.
///
/// # Errors
/// What was asked for is not there, is in the way, or cannot be read.
pub(crate) async fn run(cli: &Cli, args: &ComponentArgs) -> Result<()> {
    let opened = open(cli.which(), PATIENCE).await?;
    let all = backups(&opened, args).await?;
    if let Some(path) = &args.history {
        return history::history(&opened, all, path, args.json).await;
    }
    let manifest = choose(&all, args.backup.as_deref(), args.at.as_deref())?;
    if args.diff {
        return history::diff(&opened, &all, &manifest, args).await;
    }
    let stored = Stored::new(Arc::clone(&opened.repository), manifest);
    if args.list {
        return list(stored, args.json).await;
    }
    if let Some(path) = &args.cat {
        return cat(stored, path, args.identity.as_deref()).await;
    }
    if dump::run(&opened, &stored, args).await? {
        return Ok(());
    }
    let to = args.to.clone().ok_or_else(|| {
        RestoreError::usage(
            "it was not said where to",
            "Add --to DIRECTORY; or --list, or --cat PATH; for a dump --into CONNINFO or --to-sql FILE.",
        )
    })?;
    let mut only = Vec::new();
    for path in &args.path {
        only.push(resolve(&stored, path).await?);
    }
    let way = Way {
        to,
        only,
        over: args.over,
        owners: !args.no_owners,
        dry_run: args.dry_run,
        server: args.server.clone(),
        as_stored: args.as_stored,
        identity: args.identity.clone(),
        is_quiet: args.json,
    };
    let report = Box::pin(to_directory(&opened, &stored, way)).await?;
    crate::print_report(&report, args.json)?;
    report.judge()
}

/// Prints to whom secrets are sealed that the new file opens.
pub(crate) fn identity(file: &Path) -> Result<()> {
    let recipient = store::keys::identity::create(file).map_err(RestoreError::Identity)?;
    out(format!("{recipient}\n").as_bytes())
}

/// All backups of the component, from the oldest on.
async fn backups(opened: &Opened, args: &ComponentArgs) -> Result<Vec<Manifest>> {
    let mut all = opened.repository.component_manifests().await?;
    let mut names: Vec<String> = all
        .iter()
        .filter_map(|one| one.component_name().map(str::to_owned))
        .collect();
    names.sort();
    names.dedup();
    all.retain(|manifest| manifest.component_name() == Some(args.name.as_str()));
    if all.is_empty() {
        let hint = match names.as_slice() {
            [] => "No component was ever captured; `wal-agent backup NAME` does it.".to_owned(),
            names => format!("There are backups of: {}.", names.join(", ")),
        };
        return Err(RestoreError::refused(
            format!("there is no backup of component \"{}\"", args.name.escape_debug()),
            hint,
        ));
    }
    all.sort_by_key(|manifest| (as_of(manifest), manifest.backup));
    Ok(all)
}

/// The moment that a backup holds, microseconds since 1970.
fn as_of(manifest: &Manifest) -> i64 {
    manifest.component.as_ref().map_or(0, |component| component.as_of_us)
}

/// The backup that was asked for, or the newest at that time.
fn choose(all: &[Manifest], backup: Option<&str>, at: Option<&str>) -> Result<Manifest> {
    let all_of_them = || {
        let lines = all
            .iter()
            .map(|manifest| format!("{} ({})", manifest.backup, time::show(as_of(manifest))));
        format!("There are: {}.", lines.collect::<Vec<_>>().join(", "))
    };
    let found = if let Some(id) = backup {
        all.iter().find(|manifest| manifest.backup.to_string() == id)
    } else if let Some(text) = at {
        let at_us = time::parse_option("--at", text)?;
        // Lists print milliseconds: who types what was printed means that backup.
        let printed = |manifest: &&Manifest| as_of(manifest) - as_of(manifest).rem_euclid(1000) <= at_us;
        all.iter().rev().find(printed)
    } else {
        all.last()
    };
    found.cloned().ok_or_else(|| {
        let what = match backup {
            Some(id) => format!("it has no backup \"{}\"", id.escape_debug()),
            None => "no backup of it is of then".to_owned(),
        };
        RestoreError::refused(what, all_of_them())
    })
}

/// Restores it below a directory, and compares what is there then.
pub(crate) async fn to_directory(opened: &Opened, stored: &Stored, way: Way) -> Result<Report> {
    let begun = Instant::now();
    let manifest = stored.manifest();
    let component = manifest.component.as_deref().cloned().unwrap_or_default();
    let Way { to, only, dry_run, .. } = way;
    let identity = way.identity.as_deref().map(read_identity).transpose()?;
    if let Some(key) = &identity {
        components::config::refuse_other_identity(&component, key)?;
    }
    let was_free = match interrupted(&to) {
        Some(before) => before.began_free,
        None => std::fs::read_dir(&to).map_or(true, |mut entries| entries.next().is_none()),
    };
    let is_whole = was_free && only.is_empty() && !dry_run;
    let options = RestoreOptions {
        to: to.clone(),
        only,
        over: way.over,
        owners: way.owners && rustix::process::geteuid().is_root(),
        dry_run,
        more_follows: true,
        as_stored: way.as_stored,
    };
    if options.only.is_empty() && !way.over {
        // Of a part, and of what stands there already, not all is needed.
        refuse_missing(&opened.repository, manifest.packs.iter().map(|need| need.id)).await?;
    }
    let progress = Progress::new(manifest.totals.logical_bytes, way.is_quiet || dry_run);
    let restored = restore(stored, opened.repository.keys(), &options, &|bytes| progress.add(bytes)).await?;
    progress.finish();
    let server = way.server.or_else(|| server_of(opened, &component.name));
    let mut repositories = None;
    if component.kind == "git" && !way.as_stored && !dry_run {
        repositories = Some(components::git::build(&to, was_free).await?.len());
    }
    let sealed_to = components::config::recipient(&component).filter(|_| identity.is_none());
    let sealed_to = sealed_to.map(str::to_owned);
    let secrets = match identity.filter(|_| !dry_run) {
        Some(key) => Some(components::config::open_secrets(stored, &options, &key).await?),
        None => None,
    };
    if !dry_run {
        complete(&to)?;
    }
    let differs = match is_whole {
        true => {
            compare(
                &component,
                manifest.vanished.len(),
                &to,
                server.as_deref(),
                &std::env::temp_dir(),
            )
            .await?
        }
        false => None,
    };
    let Restored {
        made,
        same,
        replaced,
        directories,
        bytes,
    } = restored;
    Ok(Report {
        component: component.name,
        kind: component.kind,
        backup: manifest.backup.to_string(),
        as_of: time::show(component.as_of_us),
        as_of_us: component.as_of_us,
        to,
        dry_run,
        made,
        same,
        replaced,
        directories,
        bytes,
        repositories,
        secrets,
        sealed_to,
        was_whole: false,
        differs,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// What an earlier run of the same restore has made whole, compared again.
pub(crate) async fn whole_already(opened: &Opened, manifest: &Manifest, to: &Path) -> Result<Report> {
    let begun = Instant::now();
    let component = manifest.component.as_deref().cloned().unwrap_or_default();
    let server = server_of(opened, &component.name);
    let vanished = manifest.vanished.len();
    let differs = compare(&component, vanished, to, server.as_deref(), &std::env::temp_dir()).await?;
    Ok(Report {
        as_of: time::show(component.as_of_us),
        as_of_us: component.as_of_us,
        sealed_to: components::config::recipient(&component).map(str::to_owned),
        component: component.name,
        kind: component.kind,
        backup: manifest.backup.to_string(),
        to: to.to_owned(),
        dry_run: false,
        made: 0,
        same: manifest.totals.files,
        replaced: 0,
        directories: 0,
        bytes: 0,
        repositories: None,
        secrets: None,
        was_whole: true,
        differs,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

fn read_identity(file: &Path) -> Result<OpeningKey> {
    store::keys::identity::read(file).map_err(RestoreError::Identity)
}

/// What the configuration names for it, where it is on this host.
fn server_of(opened: &Opened, name: &str) -> Option<PathBuf> {
    match &opened.config.components.get(name)?.kind {
        ComponentKind::Redis(source) => source.server.clone().filter(|server| server.is_file()),
        ComponentKind::Files(_) | ComponentKind::Dump(_) | ComponentKind::Git(_) | ComponentKind::Config(_) => None,
    }
}

/// An entry, for programs.
#[derive(Serialize)]
struct Listed {
    path: String,
    entry: &'static str,
    mode: String,
    bytes: u64,
    modified: Option<String>,
}

impl Listed {
    fn of(entry: &FileEntry) -> Self {
        Listed {
            path: entry.path.escape_ascii().to_string(),
            entry: match entry.entry_type {
                EntryType::File => "file",
                EntryType::Directory => "directory",
                EntryType::Link => "link",
                EntryType::Other => "other",
            },
            mode: format!("{:04o}", entry.mode),
            bytes: entry.size,
            modified: entry.attributes.as_ref().map(|of| time::show(of.modified_ns / 1000)),
        }
    }
}

/// One line an entry; with `--json` one document a line.
async fn list(mut stored: Stored, as_json: bool) -> Result<()> {
    while let Some(piece) = stored.next_piece().await? {
        let mut text = String::new();
        for listed in piece.iter().map(Listed::of) {
            if as_json {
                text += &serde_json::to_string(&listed).map_err(|error| RestoreError::Failed(error.to_string()))?;
            } else {
                let modified = listed.modified.as_deref().unwrap_or("");
                text += &format!(
                    "{:<9} {} {:>14} {modified:>30} {}",
                    listed.entry, listed.mode, listed.bytes, listed.path
                );
            }
            text.push('\n');
        }
        out(text.as_bytes())?;
    }
    Ok(())
}

/// Prints a file; with an identity a secret, opened: by its own path, or by that of what was sealed of it.
async fn cat(stored: Stored, path: &Path, identity: Option<&Path>) -> Result<()> {
    let mut wanted = resolve(&stored, path).await?;
    if let Some(identity) = identity {
        let key = read_identity(identity)?;
        if !wanted.ends_with(SEALED) && names::is_there(&stored, &[&wanted, SEALED].concat()).await? {
            wanted.extend_from_slice(SEALED);
        }
        let entry = find(&stored, &wanted).await?;
        if let Some(plain) = open_content(&stored, &entry, &key).await? {
            return out(&plain);
        }
    }
    let entry = find(&stored, &wanted).await?;
    stored
        .in_order(&entry, async |bytes| {
            let written = std::io::stdout().write_all(&bytes);
            written.map_err(|source| components::ComponentError::Io {
                action: "write to",
                path: "standard output".into(),
                source,
            })
        })
        .await?;
    out(b"")
}

/// The file with this path.
///
/// # Errors
/// There is none.
pub(crate) async fn find(stored: &Stored, path: &[u8]) -> Result<FileEntry> {
    let mut stored = stored.clone();
    while let Some(piece) = stored.next_piece().await? {
        let entry = piece.into_iter().find(|entry| entry.path.as_slice() == path);
        if let Some(entry) = entry.filter(|entry| entry.entry_type == EntryType::File) {
            return Ok(entry);
        }
    }
    Err(RestoreError::refused(
        format!("the backup has no file \"{}\"", path.escape_ascii()),
        "--list prints its paths.",
    ))
}

/// Prints.
pub(crate) fn out(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(RestoreError::io("write to", Path::new("standard output")))
}
