//! What differs between two backups of a component, file by file, and when a file has changed.
//!
//! Whether content is the same is told by the ids of its chunks; it is read only to show a difference, and only where it is short.

use std::collections::{BTreeMap, BTreeSet};

use similar::TextDiff;
use store::file_table::{EntryType, FileEntry};
use store::id::BackupId;

use crate::config::{SEALED, opened};
use crate::{ComponentError, Stored};

/// Longest file whose difference is shown.
const SHOWN_BYTES_MAX: u64 = 4 << 20;
/// Most entries of a backup that are held side by side.
const ENTRIES_MAX: usize = 2_000_000;

/// Of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Path in the backup.
    pub path: Vec<u8>,
    /// In words: `added`, `removed`, `mode 0644, was 0600`, ...
    pub words: Vec<String>,
    /// As a unified diff, where it can be shown.
    pub text: Option<String>,
}

/// What differs, by path.
///
/// # Errors
/// The repository failed, something is damaged, or there is too much of it.
pub async fn differences(before: &Stored, after: &Stored) -> Result<Vec<Difference>, ComponentError> {
    let (old, new) = (table(before).await?, table(after).await?);
    let paths: BTreeSet<&Vec<u8>> = old.keys().chain(new.keys()).collect();
    let mut all = Vec::new();
    for path in paths {
        let (old, new) = (old.get(path), new.get(path));
        let words = words(before, old, after, new).await?;
        if words.is_empty() {
            continue;
        }
        let is_of_content = |word: &String| matches!(word.as_str(), "added" | "removed" | "changed");
        let is_sealed = path.ends_with(SEALED);
        let text = match words.iter().any(is_of_content) && !is_sealed {
            true => text(path, (before, old), (after, new)).await?,
            false => None,
        };
        all.push(Difference {
            path: path.clone(),
            words,
            text,
        });
    }
    Ok(all)
}

/// A backup in which a file is not what it was in the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The backup.
    pub backup: BackupId,
    /// What it holds, microseconds since 1970.
    pub as_of_us: i64,
    /// In words, as of [`Difference`].
    pub words: Vec<String>,
}

/// When a file has changed, in backups from the oldest on. A secret is found by its own path.
///
/// # Errors
/// The repository failed, or something is damaged.
pub async fn history(backups: &[Stored], path: &[u8]) -> Result<Vec<Event>, ComponentError> {
    let mut events = Vec::new();
    let mut last: Option<(&Stored, FileEntry)> = None;
    for backup in backups {
        let now = find(backup, path).await?;
        let before = last.as_ref().map_or(backup, |(stored, _)| *stored);
        let words = words(before, last.as_ref().map(|(_, entry)| entry), backup, now.as_ref()).await?;
        if !words.is_empty() {
            let manifest = backup.manifest();
            events.push(Event {
                backup: manifest.backup,
                as_of_us: manifest.component.as_ref().map_or(0, |component| component.as_of_us),
                words,
            });
        }
        last = now.map(|entry| (backup, entry));
    }
    Ok(events)
}

async fn table(stored: &Stored) -> Result<BTreeMap<Vec<u8>, FileEntry>, ComponentError> {
    let (mut pieces, mut all) = (stored.clone(), BTreeMap::new());
    while let Some(piece) = pieces.next_piece().await? {
        all.extend(piece.into_iter().map(|entry| (entry.path.to_vec(), entry)));
        if all.len() > ENTRIES_MAX {
            return Err(ComponentError::refused(
                format!("a backup has more than {ENTRIES_MAX} entries"),
                "Restore both, and compare the directories.",
            ));
        }
    }
    Ok(all)
}

async fn find(stored: &Stored, path: &[u8]) -> Result<Option<FileEntry>, ComponentError> {
    let mut pieces = stored.clone();
    let is_it = |entry: &FileEntry| entry.path.as_slice() == path || opened(&entry.path) == Some(path);
    while let Some(piece) = pieces.next_piece().await? {
        if let Some(found) = piece.into_iter().find(is_it) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

async fn words(
    before: &Stored,
    old: Option<&FileEntry>,
    after: &Stored,
    new: Option<&FileEntry>,
) -> Result<Vec<String>, ComponentError> {
    let (old, new) = match (old, new) {
        (None, None) => return Ok(Vec::new()),
        (None, Some(_)) => return Ok(vec!["added".into()]),
        (Some(_), None) => return Ok(vec!["removed".into()]),
        (Some(old), Some(new)) => (old, new),
    };
    let mut words = Vec::new();
    if old.entry_type != new.entry_type {
        words.push(format!("{}, was {}", kind(new), kind(old)));
    } else if !is_same(before, old, after, new).await? {
        words.push("changed".into());
    }
    if old.mode != new.mode {
        words.push(format!("mode {:04o}, was {:04o}", new.mode, old.mode));
    }
    let (is, was) = (owner(new), owner(old));
    if is != was {
        words.push(format!("owner {is}, was {was}"));
    }
    let target = |entry: &FileEntry| {
        entry
            .target
            .as_ref()
            .map(|target| target.escape_ascii().to_string())
            .unwrap_or_default()
    };
    if new.target != old.target {
        words.push(format!("leads to \"{}\", led to \"{}\"", target(new), target(old)));
    }
    Ok(words)
}

/// By the ids of the chunks.
async fn is_same(before: &Stored, old: &FileEntry, after: &Stored, new: &FileEntry) -> Result<bool, ComponentError> {
    if old.content == new.content || old.size != new.size {
        return Ok(old.size == new.size);
    }
    Ok(before.ids(old).await? == after.ids(new).await?)
}

fn kind(entry: &FileEntry) -> &'static str {
    match entry.entry_type {
        EntryType::File => "a file",
        EntryType::Directory => "a directory",
        EntryType::Link => "a link",
        EntryType::Other => "a pipe, socket or device",
    }
}

fn owner(entry: &FileEntry) -> String {
    let name = |name: &Option<String>, number: u32| name.clone().unwrap_or_else(|| number.to_string());
    entry.attributes.as_ref().map_or_else(String::new, |of| {
        format!("{}:{}", name(&of.user, of.uid), name(&of.group, of.gid))
    })
}

/// None: it cannot be shown.
async fn text(
    path: &[u8],
    (before, old): (&Stored, Option<&FileEntry>),
    (after, new): (&Stored, Option<&FileEntry>),
) -> Result<Option<String>, ComponentError> {
    let (Some(was), Some(is)) = (content(before, old).await?, content(after, new).await?) else {
        return Ok(None);
    };
    let shown = path.escape_ascii().to_string();
    let name = |side: &str, entry: Option<&FileEntry>| match entry {
        Some(_) => format!("{side}/{shown}"),
        None => "/dev/null".to_owned(),
    };
    let diff = TextDiff::from_lines(was.as_str(), is.as_str());
    let unified = diff.unified_diff().header(&name("a", old), &name("b", new)).to_string();
    Ok(Some(unified).filter(|unified| !unified.is_empty()))
}

/// Text of a file, empty where there is none; none: it is long, or no text.
async fn content(stored: &Stored, entry: Option<&FileEntry>) -> Result<Option<String>, ComponentError> {
    let Some(entry) = entry.filter(|entry| entry.entry_type == EntryType::File) else {
        return Ok(entry.is_none().then(String::new));
    };
    if entry.size > SHOWN_BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    stored
        .in_order(entry, async |part| {
            bytes.extend_from_slice(&part);
            Ok(())
        })
        .await?;
    Ok(String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')))
}
