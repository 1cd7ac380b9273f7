//! Where tablespaces go, and whether that is free.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use store::manifest::Manifest;

use super::{Found, absolute, is_empty};
use crate::error::{RestoreError, Result};
use crate::plan::TablespacePlan;

/// Where the tablespaces go. `map` are the arguments of `--tablespace-map`; what it does not name goes where it was, or `below`.
pub(crate) fn plan_tablespaces(
    manifest: &Manifest,
    map: &[String],
    below: Option<&Path>,
    pgdata: &Path,
) -> Result<Vec<TablespacePlan>> {
    let mut by_oid = HashMap::new();
    let mut by_path = HashMap::new();
    for text in map {
        let bad = || {
            RestoreError::usage(
                format!("invalid --tablespace-map \"{}\"", text.escape_debug()),
                "Write OID=DIR or OLDDIR=DIR with absolute paths.",
            )
        };
        let (from, to) = match text.split_once('=') {
            Some((oid, to)) if !oid.is_empty() && oid.bytes().all(|byte| byte.is_ascii_digit()) => (oid, to),
            _ => text
                .find("=/")
                .and_then(|at| Some((text.get(..at)?, text.get(at + 1..)?)))
                .ok_or_else(bad)?,
        };
        if !to.starts_with('/') {
            return Err(bad());
        }
        match from.parse::<u32>() {
            Ok(oid) => by_oid.insert(oid, to),
            Err(_) => by_path.insert(from.trim_end_matches('/').to_owned(), to),
        };
    }
    let mut out: Vec<TablespacePlan> = Vec::new();
    for tablespace in manifest.tablespaces.iter().filter(|tablespace| !tablespace.in_place) {
        let from = String::from_utf8_lossy(&tablespace.location).into_owned();
        let to = by_oid
            .remove(&tablespace.oid)
            .or_else(|| by_path.remove(from.trim_end_matches('/')));
        let is_mapped = to.is_some();
        let otherwise = || below.map_or_else(|| from.clone().into(), |below| below.join(tablespace.oid.to_string()));
        let to = absolute(&to.map_or_else(otherwise, PathBuf::from))?;
        let clash = to.starts_with(pgdata)
            || pgdata.starts_with(&to)
            || out
                .iter()
                .any(|other| other.to.starts_with(&to) || to.starts_with(&other.to));
        if clash {
            let message = format!(
                "tablespace {} cannot go to \"{}\": another directory of this restore is there",
                tablespace.oid,
                to.display()
            );
            return Err(RestoreError::refused(
                message,
                "Choose another directory with --tablespace-map.",
            ));
        }
        out.push(TablespacePlan {
            oid: tablespace.oid,
            from,
            to,
            is_mapped,
        });
    }
    if let Some(unknown) = by_oid.keys().map(ToString::to_string).chain(by_path.into_keys()).next() {
        return Err(RestoreError::refused(
            format!("the backup has no tablespace \"{}\"", unknown.escape_debug()),
            "See its tablespaces with --dry-run.",
        ));
    }
    Ok(out)
}

/// Tablespace directories must be free, too.
pub(crate) fn inspect_tablespaces(
    tablespaces: &[TablespacePlan],
    repository: Option<&Path>,
    found: &Found,
) -> Result<()> {
    for tablespace in tablespaces {
        let show = tablespace.to.display();
        let over = match found {
            Found::Cluster(_) => "; name its own directory there to restore over it",
            Found::Free | Found::Interrupted(_) => "",
        };
        let hint = format!("Put it elsewhere with --tablespace-map {}=DIR{over}.", tablespace.oid);
        let refuse = |message: String| Err(RestoreError::refused(message, hint.clone()));
        if let Some(repository) = repository.and_then(|repository| repository.canonicalize().ok())
            && (tablespace.to.starts_with(&repository) || repository.starts_with(&tablespace.to))
        {
            return refuse(format!(
                "directory \"{show}\" of tablespace {} overlaps with the repository",
                tablespace.oid
            ));
        }
        match fs::symlink_metadata(&tablespace.to) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(RestoreError::io("look at", &tablespace.to)(error)),
            Ok(metadata) if !metadata.is_dir() => {
                return refuse(format!(
                    "\"{show}\" of tablespace {} is not a directory",
                    tablespace.oid
                ));
            }
            Ok(_) => {}
        }
        let is_left = match found {
            Found::Free => false,
            Found::Interrupted(marker) => marker.tablespaces.contains(&tablespace.to),
            // A link of a copied data directory leads to the tablespace of the original: only what was named is written over.
            Found::Cluster(_) => tablespace.is_mapped,
        };
        if !is_left && !is_empty(&tablespace.to)? {
            return refuse(format!(
                "directory \"{show}\" of tablespace {} is not empty",
                tablespace.oid
            ));
        }
    }
    Ok(())
}
