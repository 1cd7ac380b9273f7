//! Bringing a component's files back below a directory.
//!
//! A piece of the table after the other: directories, links and empty files are made, content is fetched pack by pack, then owner, mode and time
//! are given; those of directories at the very end, since what is made in them changes them. Where a file of the same content stands already, it
//! stays. Nothing is replaced unless that was said.
//!
//! A crash leaves [`MARKER`] in the directory: as long as it is there, any file may be half of what it will be. Going on is running it again, over
//! what is there. What replaces a file is written aside, under a name that begins with [`crate::target::ASIDE`].

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::FileType;
use store::file_table::{EntryType, FileEntry};
use store::keys::ClusterKeys;

use crate::files::Owners;
use crate::target::{Target, aside, refuse_path, write_sparse};
use crate::{ComponentError, Stored};

/// In the directory while it is not complete.
pub const MARKER: &str = ".seawall-incomplete";
/// In it, behind the backup's id and what of it is restored: other files were there already.
const BESIDE: &str = "+";
/// All of the backup is restored.
const WHOLE: &str = "all";
/// Files that are open at once.
const OPEN_FILES_MAX: usize = 256;
/// Files whose content is fetched together.
const TOGETHER_MAX: usize = 4096;

/// What is to be restored, and how.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// Where to.
    pub to: PathBuf,
    /// Only these paths of the backup, with what lies below them; none: all of it.
    pub only: Vec<Vec<u8>>,
    /// Files that differ may be replaced.
    pub over: bool,
    /// Owners are given back, by name where the name is known here.
    pub owners: bool,
    /// Nothing is written.
    pub dry_run: bool,
    /// What was restored is worked on: [`MARKER`] stays until [`complete`].
    pub more_follows: bool,
    /// Nothing is built of it.
    pub as_stored: bool,
}

impl RestoreOptions {
    /// What is restored, as a word: going on with another part of the backup would leave half of the one before, and nothing would say so.
    fn scope(&self) -> String {
        if self.only.is_empty() && !self.as_stored {
            return WHOLE.to_owned();
        }
        let mut only = self.only.clone();
        only.sort();
        let mut hasher = DefaultHasher::new();
        (only, self.as_stored).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }

    /// True for a path that is asked for.
    pub(crate) fn wants(&self, path: &[u8]) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| is_at_or_below(path, wanted))
    }
}

/// What was done, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Files, links and others that were made.
    pub made: u64,
    /// Files that stood there with the same content.
    pub same: u64,
    /// Files that were replaced.
    pub replaced: u64,
    /// Directories.
    pub directories: u64,
    /// Bytes of the files that were made or replaced.
    pub bytes: u64,
}

/// Restores.
///
/// # Errors
/// The repository failed, something is damaged or in the way; or nothing of the backup has a path that was asked for.
pub async fn restore(
    stored: &Stored,
    keys: &ClusterKeys,
    options: &RestoreOptions,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Restored, ComponentError> {
    refuse_unknown(stored, &options.only).await?;
    let began_free = begin(options, stored)?;
    let options = &RestoreOptions {
        // What was said then, or needed no saying: half of a file is replaced.
        over: options.over || interrupted(&options.to).is_some(),
        ..options.clone()
    };
    let work = Work {
        stored,
        keys,
        options,
        target: match options.dry_run && !options.to.is_dir() {
            true => None,
            false => Some(Arc::new(Target::open(&options.to, options.owners)?)),
        },
        owners: Owners::of_system(),
        progress,
    };
    if let (Some(target), false) = (&work.target, options.dry_run)
        && target.stat(MARKER.as_bytes())?.is_none()
    {
        let beside = if began_free { "" } else { BESIDE };
        let id = format!("{} {}{beside}", stored.manifest().backup, options.scope());
        target.create(MARKER.as_bytes(), id.len() as u64)?;
        let marker = target.write(MARKER.as_bytes())?;
        marker
            .write_all_at(id.as_bytes(), 0)
            .map_err(ComponentError::io("write", &target.show(MARKER.as_bytes())))?;
    }
    let mut restored = Restored::default();
    let mut pieces = stored.clone();
    while let Some(piece) = pieces.next_piece().await? {
        work.piece(piece, &mut restored).await?;
    }
    if let (Some(target), false) = (&work.target, options.dry_run) {
        let mut pieces = stored.clone();
        while let Some(piece) = pieces.next_piece().await? {
            work.dress_directories(target, &piece)?;
        }
        target.sync()?;
        if !options.more_follows {
            target.remove(MARKER.as_bytes())?;
        }
    }
    Ok(restored)
}

/// Says that a directory is complete, after a restore whose `more_follows`.
///
/// # Errors
/// It cannot be written to.
pub fn complete(to: &Path) -> Result<(), ComponentError> {
    let target = Target::open(to, false)?;
    target.sync()?;
    target.remove(MARKER.as_bytes())
}

/// Every path that is asked for is there, before a directory is made for it.
async fn refuse_unknown(stored: &Stored, only: &[Vec<u8>]) -> Result<(), ComponentError> {
    let (mut pieces, mut left) = (stored.clone(), only.to_vec());
    while !left.is_empty()
        && let Some(piece) = pieces.next_piece().await?
    {
        left.retain(|wanted| !piece.iter().any(|entry| is_at_or_below(&entry.path, wanted)));
    }
    match left.first() {
        None => Ok(()),
        Some(path) => Err(ComponentError::refused(
            format!("nothing in the backup has the path \"{}\"", path.escape_ascii()),
            "Paths are as in the backup, without a slash before them: `wal-restore component NAME --list` prints them.",
        )),
    }
}

/// True for a path, and for what lies below it.
#[must_use]
pub fn is_at_or_below(path: &[u8], wanted: &[u8]) -> bool {
    let below = path.strip_prefix(wanted);
    below.is_some_and(|below| below.is_empty() || below.starts_with(b"/"))
}

/// The directory is there, and ours, before anything is fetched.
fn begin(options: &RestoreOptions, stored: &Stored) -> Result<bool, ComponentError> {
    let to = &options.to;
    if let Some(other) = interrupted(to).filter(|found| found.backup != stored.manifest().backup.to_string()) {
        return Err(ComponentError::refused(
            format!(
                "a restore of backup {} was not finished in \"{}\"",
                other.backup,
                to.display()
            ),
            format!(
                "Finish that one with --backup, or name another directory; or remove {MARKER} from this one, and add --over."
            ),
        ));
    }
    if interrupted(to).is_some_and(|found| found.scope != options.scope()) {
        return Err(ComponentError::refused(
            format!(
                "a restore of another part of this backup was not finished in \"{}\"",
                to.display()
            ),
            format!(
                "Finish that one, with the same --path (or none) and --as-stored (or not), or name another directory; or remove {MARKER} from this one, and add --over."
            ),
        ));
    }
    let is_free = match std::fs::read_dir(to) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if !options.dry_run {
                std::fs::create_dir(to).map_err(ComponentError::io("create directory", to))?;
            }
            true
        }
        Err(error) => return Err(ComponentError::io("list", to)(error)),
    };
    let is_ours = std::fs::symlink_metadata(to.join(MARKER)).is_ok_and(|found| found.is_file());
    if !is_free && !is_ours && !options.over {
        return Err(ComponentError::refused(
            format!("\"{}\" is not empty", to.display()),
            "Restore to another directory; or with --over: files of the backup that differ are replaced, the others stay.",
        ));
    }
    Ok(is_free)
}

/// A restore that was cut short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupted {
    /// Its backup; no id where that cannot be told.
    pub backup: String,
    /// The directory was empty when it began.
    pub began_free: bool,
    /// What of the backup it was of.
    scope: String,
}

/// What was cut short in a directory.
#[must_use]
pub fn interrupted(to: &Path) -> Option<Interrupted> {
    let path = to.join(MARKER);
    std::fs::symlink_metadata(&path)
        .ok()
        .filter(std::fs::Metadata::is_file)?;
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let (backup, scope) = text.split_once(' ').unwrap_or((&text, WHOLE));
    Some(Interrupted {
        began_free: !scope.ends_with(BESIDE),
        backup: backup.escape_debug().take(64).collect(),
        scope: scope.trim_end_matches(BESIDE).to_owned(),
    })
}

struct Work<'a> {
    stored: &'a Stored,
    keys: &'a ClusterKeys,
    options: &'a RestoreOptions,
    target: Option<Arc<Target>>,
    owners: Owners,
    progress: &'a (dyn Fn(u64) + Sync),
}

/// What becomes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    New,
    Replaces,
    Same,
}

impl Work<'_> {
    fn is_wanted(&self, path: &[u8]) -> bool {
        self.options.wants(path)
    }

    async fn piece(&self, piece: Vec<FileEntry>, restored: &mut Restored) -> Result<(), ComponentError> {
        let (mut files, mut links) = (Vec::new(), Vec::new());
        for entry in piece {
            refuse_path(&entry.path)?;
            if !self.is_wanted(&entry.path) {
                continue;
            }
            match entry.entry_type {
                EntryType::Directory => {
                    restored.directories += 1;
                    if let (Some(target), false) = (&self.target, self.options.dry_run) {
                        target.make_above(&entry.path)?;
                        target.make_directory(&entry.path)?;
                    }
                }
                EntryType::File => match self.first_name(&entry) {
                    Some(_) => links.push(entry),
                    None => files.push(entry),
                },
                EntryType::Link | EntryType::Other => self.other(&entry, restored)?,
            }
            if files.len() >= TOGETHER_MAX {
                self.files(std::mem::take(&mut files), restored).await?;
            }
        }
        self.files(files, restored).await?;
        for entry in links {
            self.another_name(entry, restored).await?;
        }
        Ok(())
    }

    /// The name under which the same file is restored as well.
    fn first_name<'e>(&self, entry: &'e FileEntry) -> Option<&'e [u8]> {
        let first = entry.attributes.as_ref()?.same_as.as_ref()?;
        self.is_wanted(first).then_some(first.as_slice())
    }

    fn owner(&self, entry: &FileEntry) -> Option<(u32, u32)> {
        entry
            .attributes
            .as_ref()
            .map(|attributes| self.owners.owner(attributes))
    }

    /// What is in the way of an entry, and may be.
    fn in_the_way(&self, entry: &FileEntry, kind: FileType) -> Result<Option<rustix::fs::Stat>, ComponentError> {
        let Some(target) = &self.target else { return Ok(None) };
        let Some(there) = target.stat(&entry.path)? else {
            return Ok(None);
        };
        let found = FileType::from_raw_mode(there.st_mode);
        if found == FileType::Directory || (found != kind && !self.options.over) {
            return Err(ComponentError::refused(
                format!(
                    "\"{}\" is something else than in the backup",
                    target.show(&entry.path).display()
                ),
                "Move it out of the way, or restore to another directory.",
            ));
        }
        Ok(Some(there))
    }

    fn other(&self, entry: &FileEntry, restored: &mut Restored) -> Result<(), ComponentError> {
        let kind = match &entry.attributes {
            Some(attributes) if entry.entry_type == EntryType::Other => {
                FileType::from_raw_mode(attributes.device.unwrap_or_default().0)
            }
            _ => FileType::Symlink,
        };
        let there = self.in_the_way(entry, kind)?;
        restored.made += 1;
        let (Some(target), false) = (&self.target, self.options.dry_run) else {
            return Ok(());
        };
        target.make_above(&entry.path)?;
        if there.is_some() {
            target.remove(&entry.path)?;
        }
        target.make_other(&entry.path, entry)?;
        target.dress(&entry.path, entry, self.owner(entry))
    }

    /// A further name of a file that is there by now.
    async fn another_name(&self, entry: FileEntry, restored: &mut Restored) -> Result<(), ComponentError> {
        let there = self.in_the_way(&entry, FileType::RegularFile)?;
        let (Some(first), Some(target), false) = (self.first_name(&entry), &self.target, self.options.dry_run) else {
            restored.made += 1;
            return Ok(());
        };
        if there.is_some() {
            let first = target.stat(first)?.map(|first| (first.st_dev, first.st_ino));
            if first == there.map(|there| (there.st_dev, there.st_ino)) {
                restored.same += 1;
                return Ok(());
            }
            self.refuse_replacing(&entry)?;
            target.remove(&entry.path)?;
        }
        // It may have gone away before it was read, or have been replaced between its names: then this one is a file of its own.
        let is_same = match target.stat(first)? {
            Some(found) => self.compare(&entry, first, &found).await? == Fate::Same,
            None => false,
        };
        if !is_same {
            return self.files(vec![entry], restored).await;
        }
        target.make_above(&entry.path)?;
        target.link(first, &entry.path)?;
        restored.made += 1;
        Ok(())
    }

    fn refuse_replacing(&self, entry: &FileEntry) -> Result<(), ComponentError> {
        if self.options.over {
            return Ok(());
        }
        let path = self.options.to.join(entry.path.escape_ascii().to_string());
        Err(ComponentError::refused(
            format!("\"{}\" is there, and is not what the backup has", path.display()),
            "Restore to another directory, or replace what differs with --over.",
        ))
    }

    /// Files with content, some thousand at a time.
    async fn files(&self, files: Vec<FileEntry>, restored: &mut Restored) -> Result<(), ComponentError> {
        let mut fetched = Vec::new();
        for entry in files {
            let fate = match self.in_the_way(&entry, FileType::RegularFile)? {
                None => Fate::New,
                Some(there) => self.compare(&entry, &entry.path, &there).await?,
            };
            match fate {
                Fate::Same => restored.same += 1,
                Fate::New => restored.made += 1,
                Fate::Replaces => {
                    self.refuse_replacing(&entry)?;
                    restored.replaced += 1;
                }
            }
            if fate != Fate::Same {
                restored.bytes += entry.size;
            }
            fetched.push((entry, fate));
        }
        let (Some(target), false) = (&self.target, self.options.dry_run) else {
            return Ok(());
        };
        let mut to_fill = Vec::new();
        for (entry, fate) in &fetched {
            let name = match fate {
                Fate::Same => continue,
                Fate::New => entry.path.to_vec(),
                Fate::Replaces => aside(&entry.path),
            };
            target.make_above(&entry.path)?;
            if *fate == Fate::Replaces {
                target.remove(&name)?;
            }
            target.create(&name, entry.size)?;
            to_fill.push((entry.clone(), name));
        }
        self.fill(target, &to_fill).await?;
        for (entry, fate) in &fetched {
            if *fate == Fate::Replaces {
                target.dress(&aside(&entry.path), entry, self.owner(entry))?;
                target.place(&entry.path)?;
            } else {
                target.dress(&entry.path, entry, self.owner(entry))?;
            }
        }
        Ok(())
    }

    async fn fill(&self, target: &Arc<Target>, files: &[(FileEntry, Vec<u8>)]) -> Result<(), ComponentError> {
        let entries: Vec<FileEntry> = files.iter().map(|(entry, _)| entry.clone()).collect();
        let names: Arc<Vec<Vec<u8>>> = Arc::new(files.iter().map(|(_, name)| name.clone()).collect());
        let open: Arc<Mutex<HashMap<usize, Arc<std::fs::File>>>> = Arc::default();
        let target = Arc::clone(target);
        self.stored
            .content(&entries, move |(number, at, bytes)| {
                let name = names.get(number).map(Vec::as_slice).unwrap_or_default();
                let file = {
                    let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
                    if open.len() >= OPEN_FILES_MAX {
                        open.clear();
                    }
                    match open.get(&number) {
                        Some(file) => Arc::clone(file),
                        None => {
                            let file = Arc::new(target.write(name)?);
                            open.insert(number, Arc::clone(&file));
                            file
                        }
                    }
                };
                write_sparse(&file, &bytes, at).map_err(ComponentError::io("write", &target.show(name)))
            })
            .await?;
        (self.progress)(entries.iter().map(|entry| entry.size).sum());
        Ok(())
    }

    /// Is what stands at a path what the backup has of this file? By the ids of its chunks.
    async fn compare(&self, entry: &FileEntry, at: &[u8], there: &rustix::fs::Stat) -> Result<Fate, ComponentError> {
        let is_file = FileType::from_raw_mode(there.st_mode) == FileType::RegularFile;
        let Some(target) = self.target.as_ref().filter(|_| is_file) else {
            return Ok(Fate::Replaces);
        };
        if there.st_size.cast_unsigned() != entry.size {
            return Ok(Fate::Replaces);
        }
        let ids = self.stored.ids(entry).await?;
        let file = target.read(at)?;
        let (keys, path) = (self.keys.clone(), target.show(at));
        let compared = tokio::task::spawn_blocking(move || {
            let (mut offset, mut buffer) = (0, Vec::new());
            for (id, bytes) in ids {
                buffer.resize(bytes as usize, 0);
                file.read_exact_at(&mut buffer, offset)
                    .map_err(ComponentError::io("read", &path))?;
                if keys.content_chunk_id(&buffer) != id {
                    return Ok(Fate::Replaces);
                }
                offset += u64::from(bytes);
            }
            Ok(Fate::Same)
        });
        compared.await.map_err(|_| ComponentError::Stopped)?
    }

    fn dress_directories(&self, target: &Target, piece: &[FileEntry]) -> Result<(), ComponentError> {
        for entry in piece.iter().filter(|entry| self.is_wanted(&entry.path)) {
            if entry.entry_type == EntryType::Directory {
                target.dress(&entry.path, entry, self.owner(entry))?;
            }
        }
        Ok(())
    }
}
