//! What differs between two backups of a component, and when a file has changed.

use std::path::Path;
use std::sync::Arc;

use components::Stored;
use components::difference::{Difference, Event, differences, history as events};
use serde::Serialize;
use store::manifest::Manifest;

use super::{choose, out, plain, resolve};
use crate::cli::ComponentArgs;
use crate::error::{RestoreError, Result};
use crate::open::Opened;
use crate::time;

/// A difference, for programs.
#[derive(Serialize)]
struct Differs {
    path: String,
    what: Vec<String>,
    diff: Option<String>,
}

/// A change, for programs.
#[derive(Serialize)]
struct Changed {
    backup: String,
    as_of: String,
    what: Vec<String>,
}

fn stored(opened: &Opened, manifest: &Manifest) -> Stored {
    Stored::new(Arc::clone(&opened.repository), manifest.clone())
}

/// Prints what differs in a backup from another, or from the one before it.
pub(super) async fn diff(opened: &Opened, all: &[Manifest], to: &Manifest, args: &ComponentArgs) -> Result<()> {
    let from = match args.from.as_deref() {
        Some(id) if all.iter().any(|manifest| manifest.backup.to_string() == id) => choose(all, Some(id), None)?,
        Some(text) => choose(all, None, Some(text))?,
        None => before(all, to)?,
    };
    let found = differences(&stored(opened, &from), &stored(opened, to)).await?;
    if !args.json {
        out(format!("from {} to {}\n", from.backup, to.backup).as_bytes())?;
    }
    for one in found {
        print_difference(one, args.json)?;
    }
    Ok(())
}

fn before(all: &[Manifest], to: &Manifest) -> Result<Manifest> {
    let at = all.iter().position(|manifest| manifest.backup == to.backup);
    let before = at.and_then(|at| all.get(at.checked_sub(1)?)).cloned();
    before.ok_or_else(|| {
        RestoreError::refused(
            "there is no backup before it to compare with",
            "Name another with --from; `wal-agent list` shows what there is.",
        )
    })
}

fn print_difference(one: Difference, as_json: bool) -> Result<()> {
    let differs = Differs {
        path: one.path.escape_ascii().to_string(),
        what: one.words,
        diff: one.text,
    };
    if as_json {
        return print_line(&differs);
    }
    let note = match (&differs.diff, differs.path.ends_with(".sealed")) {
        (None, true) => " (sealed)",
        (None, false) if differs.what.iter().any(|word| word == "changed") => " (binary, or long)",
        _ => "",
    };
    let diff = differs.diff.as_deref().unwrap_or_default();
    out(format!("{}: {}{note}\n{diff}", differs.path, differs.what.join(", ")).as_bytes())
}

/// Prints in which backups a file has changed.
pub(super) async fn history(opened: &Opened, all: Vec<Manifest>, path: &Path, as_json: bool) -> Result<()> {
    let backups: Vec<Stored> = all.iter().map(|manifest| stored(opened, manifest)).collect();
    let mut found = events(&backups, &plain(path)).await?;
    if let (true, Some(newest)) = (found.is_empty(), backups.last()) {
        found = events(&backups, &resolve(newest, path).await?).await?;
    }
    if found.is_empty() {
        return Err(RestoreError::refused(
            format!("no backup has \"{}\"", path.display()),
            "--list prints the paths of one.",
        ));
    }
    found.into_iter().try_for_each(|event| print_event(event, as_json))
}

fn print_event(event: Event, as_json: bool) -> Result<()> {
    let changed = Changed {
        backup: event.backup.to_string(),
        as_of: time::show(event.as_of_us),
        what: event.words,
    };
    match as_json {
        true => print_line(&changed),
        false => out(format!("{}  {}  {}\n", changed.backup, changed.as_of, changed.what.join(", ")).as_bytes()),
    }
}

fn print_line<T: Serialize>(value: &T) -> Result<()> {
    let text = serde_json::to_string(value).map_err(|error| RestoreError::Failed(error.to_string()))?;
    out(format!("{text}\n").as_bytes())
}
