//! Opens the secrets of a restore with their identity.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use store::component::ComponentBackup;
use store::file_table::{EntryType, FileEntry};
use store::keys::OpeningKey;
use store::keys::identity::{self, OVERHEAD_BYTES, SecretsRecipient};
use zeroize::Zeroizing;

use super::read::BYTES_MAX;
use super::{SEALED, opened};
use crate::files::Owners;
use crate::restore::RestoreOptions;
use crate::target::{Target, aside, refuse_path};
use crate::{ComponentError, Stored};

/// Puts each sealed secret that was restored, opened, in its place: with the mode and the owner that it had; what was sealed is removed. Returns
/// how many there were. A crash leaves whole secrets, sealed or opened, and a file whose name begins with [`crate::target::ASIDE`].
///
/// # Errors
/// One was sealed to another recipient, or cannot be written: it stays sealed.
pub async fn open_secrets(stored: &Stored, options: &RestoreOptions, key: &OpeningKey) -> Result<u64, ComponentError> {
    let target = Target::open(&options.to, options.owners)?;
    let (mut pieces, mut count) = (stored.clone(), 0);
    while let Some(piece) = pieces.next_piece().await? {
        let sealed = piece
            .iter()
            .filter(|entry| entry.entry_type == EntryType::File && entry.path.ends_with(SEALED));
        for entry in sealed.filter(|entry| options.wants(&entry.path)) {
            refuse_path(&entry.path)?;
            count += u64::from(open_one(&target, entry, key)?);
        }
    }
    target.sync()?;
    Ok(count)
}

/// Refuses an identity that does not open what a backup has sealed.
///
/// # Errors
/// The backup says that its secrets were sealed to another recipient.
pub fn refuse_other_identity(backup: &ComponentBackup, key: &OpeningKey) -> Result<(), ComponentError> {
    let (ours, of_backup) = (SecretsRecipient::of(key).to_string(), recipient(backup));
    match of_backup {
        Some(other) if other != ours => Err(ComponentError::refused(
            format!("the secrets of this backup do not open with this identity, which is of {ours}"),
            format!("They were sealed to {other}: name the file that `wal-restore identity` made with it."),
        )),
        _ => Ok(()),
    }
}

/// To whom the secrets of a backup were sealed, where it has any.
#[must_use]
pub fn recipient(backup: &ComponentBackup) -> Option<&str> {
    let is_some = backup.facts.get("sealed").is_some_and(|count| count != "0");
    let recipient = backup.facts.get("recipient").filter(|_| is_some);
    recipient.map(String::as_str)
}

/// Opens the content of one file; none: it is no sealed secret.
///
/// # Errors
/// The repository failed; or it was sealed to another.
pub async fn open_content(
    stored: &Stored,
    entry: &FileEntry,
    key: &OpeningKey,
) -> Result<Option<Zeroizing<Vec<u8>>>, ComponentError> {
    if entry.size > BYTES_MAX + OVERHEAD_BYTES {
        return Ok(None);
    }
    let mut sealed = Vec::new();
    stored
        .in_order(entry, async |bytes| {
            sealed.extend_from_slice(&bytes);
            Ok(())
        })
        .await?;
    if !sealed.starts_with(identity::MAGIC) {
        return Ok(None);
    }
    let path = Path::new(OsStr::from_bytes(&entry.path));
    let plain = identity::open(key, &sealed).ok_or_else(|| wrong_identity(path))?;
    Ok(Some(plain))
}

/// False for a file that only has such a name.
fn open_one(target: &Target, entry: &FileEntry, key: &OpeningKey) -> Result<bool, ComponentError> {
    let Some(path) = opened(&entry.path) else {
        return Ok(false);
    };
    let mut sealed = Vec::new();
    let read = target.read(&entry.path)?.take(entry.size + 1).read_to_end(&mut sealed);
    read.map_err(ComponentError::io("read", &target.show(&entry.path)))?;
    if !sealed.starts_with(identity::MAGIC) {
        return Ok(false);
    }
    let plain = identity::open(key, &sealed).ok_or_else(|| wrong_identity(&target.show(&entry.path)))?;
    let new = aside(path);
    target.remove(&new)?;
    let mut file = target.create(&new, 0)?;
    file.write_all(&plain)
        .map_err(ComponentError::io("write", &target.show(&new)))?;
    let owner = entry
        .attributes
        .as_ref()
        .map(|attributes| Owners::of_system().owner(attributes));
    target.dress(&new, entry, owner)?;
    target.place(path)?;
    target.remove(&entry.path)?;
    Ok(true)
}

fn wrong_identity(path: &Path) -> ComponentError {
    ComponentError::refused(
        format!("\"{}\" does not open with this identity", path.display()),
        "It was sealed to another recipient, or is damaged; the fact \"recipient\" of the backup (`wal-agent list --json`) says to whom.",
    )
}
