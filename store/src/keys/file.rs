//! Key files: small JSON texts, mode 0600, one a role.
//!
//! `host.key` stays on the database host; `maintenance.key` belongs to the keeper; `restore.key` is copied away by the
//! operator and may then be removed from the host.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{ClusterKeys, OpeningKey, Role, SigningKey, VerifyingKey};
use crate::error::StoreError;
use crate::id::{RepositoryId, hex, unhex};
use crate::seal::Secret32;

/// File names in the keys directory.
pub const HOST_KEY: &str = "host.key";
/// The restorer's key file.
pub const RESTORE_KEY: &str = "restore.key";
/// The keeper's key file.
pub const MAINTENANCE_KEY: &str = "maintenance.key";

/// What a database host holds.
#[derive(Debug)]
pub struct HostKeys {
    /// The repository these keys belong to.
    pub repository: RepositoryId,
    /// The cluster they belong to.
    pub cluster: String,
    /// Ids, digests and the metadata key.
    pub cluster_keys: ClusterKeys,
    /// Signs what this host writes.
    pub signing: SigningKey,
    /// Who says whose signatures count. None in the first files of format 1: then `keys/1` alone counts.
    pub root: Option<VerifyingKey>,
}

/// The key of a keeper or of a restorer, with what it belongs to.
#[derive(Debug, Clone)]
pub struct OpeningKeyFile {
    /// The repository this key belongs to.
    pub repository: RepositoryId,
    /// The cluster it belongs to.
    pub cluster: String,
    /// The pair.
    pub key: OpeningKey,
    /// Who says whose signatures count, as in [`HostKeys`].
    pub root: Option<VerifyingKey>,
    /// Seed of what its holder signs with: the root key for the first restorer, the keeper's own for a keeper. Further restorers only read.
    pub signing_seed: Option<Secret32>,
}

impl OpeningKeyFile {
    /// What its holder signs with.
    ///
    /// # Errors
    /// [`StoreError::KeyMissing`]: this one only reads.
    pub fn signing(&self) -> Result<SigningKey, StoreError> {
        let seed = self.signing_seed.clone();
        SigningKey::from_seed(seed.ok_or(StoreError::KeyMissing { role: "signing" })?)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostText {
    seawall_key: String,
    version: u32,
    repository: String,
    cluster: String,
    dedup_secret: String,
    signing_seed: String,
    root: Option<String>,
    /// In the first files of format 1; they stand in `keys/<n>`.
    #[serde(default, skip_serializing, rename = "recipients")]
    _recipients: Option<serde::de::IgnoredAny>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OpeningText {
    seawall_key: String,
    version: u32,
    repository: String,
    cluster: String,
    secret: String,
    public: String,
    root: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signing_seed: Option<String>,
}

/// Writes `host.key`; refuses to overwrite.
///
/// # Errors
/// The file exists or cannot be written.
pub fn write_host(path: &Path, keys: &HostKeys) -> Result<(), StoreError> {
    let text = HostText {
        seawall_key: "host".into(),
        version: 1,
        repository: keys.repository.to_string(),
        cluster: keys.cluster.clone(),
        dedup_secret: hex(keys.cluster_keys.dedup().expose()),
        signing_seed: hex(keys.signing.seed().expose()),
        root: keys.root.map(|root| hex(&root.0)),
        _recipients: None,
    };
    write_private(path, &text)
}

/// Writes `restore.key` or `maintenance.key`; refuses to overwrite.
///
/// # Errors
/// The file exists or cannot be written.
pub fn write_opening(path: &Path, role: Role, file: &OpeningKeyFile) -> Result<(), StoreError> {
    let text = OpeningText {
        seawall_key: role_text(role).into(),
        version: 1,
        repository: file.repository.to_string(),
        cluster: file.cluster.clone(),
        secret: hex(file.key.secret().expose()),
        public: hex(&file.key.public()),
        root: file.root.map(|root| hex(&root.0)),
        signing_seed: file.signing_seed.as_ref().map(|seed| hex(seed.expose())),
    };
    write_private(path, &text)
}

/// Reads `host.key`.
///
/// # Errors
/// Missing, readable by others, or not a host key.
pub fn read_host(path: &Path) -> Result<HostKeys, StoreError> {
    let text: HostText = parse(path, &read_private(path, "host")?)?;
    let bad = |reason: &str| key_file(path, reason);
    if text.seawall_key != "host" || text.version != 1 {
        return Err(bad("not a host key of version 1"));
    }
    let repository = text.repository.parse().map_err(|_| bad("bad repository id"))?;
    let dedup = Secret32::new(unhex(&text.dedup_secret).ok_or_else(|| bad("bad dedup secret"))?);
    let seed = Secret32::new(unhex(&text.signing_seed).ok_or_else(|| bad("bad signing seed"))?);
    let root = root_of(path, text.root.as_deref())?;
    Ok(HostKeys {
        repository,
        cluster: text.cluster,
        cluster_keys: ClusterKeys::derive(dedup, repository)?,
        signing: SigningKey::from_seed(seed)?,
        root,
    })
}

/// Reads `restore.key` or `maintenance.key`.
///
/// # Errors
/// Missing, readable by others, another role's key, or damaged (the public half does not fit the secret one).
pub fn read_opening(path: &Path, role: Role) -> Result<OpeningKeyFile, StoreError> {
    opening_of(path, &read_private(path, role_text(role))?, role)
}

/// The key in the text of such a file, wherever it came from: `path` stands in messages.
///
/// # Errors
/// As [`read_opening`].
pub fn opening_of(path: &Path, text: &[u8], role: Role) -> Result<OpeningKeyFile, StoreError> {
    let text: OpeningText = parse(path, text)?;
    let bad = |reason: &str| key_file(path, reason);
    if text.seawall_key != role_text(role) || text.version != 1 {
        return Err(bad(&format!("not a {} key of version 1", role_text(role))));
    }
    let secret = Secret32::new(unhex(&text.secret).ok_or_else(|| bad("bad secret"))?);
    let key = OpeningKey::from_secret(secret)?;
    if hex(&key.public()) != text.public {
        return Err(bad(
            "the public part does not fit the secret part: the file was mistyped or damaged",
        ));
    }
    let repository = text.repository.parse().map_err(|_| bad("bad repository id"))?;
    let root = root_of(path, text.root.as_deref())?;
    let seed = text.signing_seed.as_deref().map(|seed| unhex(seed).map(Secret32::new));
    let signing_seed = seed
        .map(|seed| seed.ok_or_else(|| bad("bad signing seed")))
        .transpose()?;
    Ok(OpeningKeyFile {
        repository,
        cluster: text.cluster,
        key,
        root,
        signing_seed,
    })
}

fn root_of(path: &Path, text: Option<&str>) -> Result<Option<VerifyingKey>, StoreError> {
    let root = text.map(|text| unhex(text).map(VerifyingKey));
    root.map(|root| root.ok_or_else(|| key_file(path, "bad root key")))
        .transpose()
}

/// As key files and people write it.
#[must_use]
pub fn role_text(role: Role) -> &'static str {
    match role {
        Role::Restore => "restore",
        Role::Maintenance => "maintenance",
    }
}

pub(super) fn key_file(path: &Path, reason: &str) -> StoreError {
    StoreError::KeyFile {
        path: path.display().to_string(),
        reason: reason.into(),
    }
}

pub(super) fn write_private<T: Serialize>(path: &Path, text: &T) -> Result<(), StoreError> {
    let json = Zeroizing::new(serde_json::to_vec_pretty(text).map_err(|error| key_file(path, &error.to_string()))?);
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => key_file(path, "exists already; it is never overwritten"),
        _ => key_file(path, &error.to_string()),
    };
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    std::io::Write::write_all(&mut file, &json).map_err(failed)?;
    std::io::Write::write_all(&mut file, b"\n").map_err(failed)?;
    file.sync_all().map_err(failed)?;
    if let Some(parent) = path.parent() {
        crate::durable::fsync_dir(parent).map_err(failed)?;
    }
    Ok(())
}

pub(super) fn read_private(path: &Path, role: &'static str) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let away = |reason| StoreError::KeyAway {
        role,
        path: path.display().to_string(),
        reason,
    };
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => away("does not exist"),
        std::io::ErrorKind::PermissionDenied => away("may not be read by this user"),
        _ => key_file(path, &error.to_string()),
    };
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o027 != 0 {
        return Err(key_file(
            path,
            &format!("mode {:04o} lets others in; make it 0600 (or 0640)", mode & 0o7777),
        ));
    }
    Ok(Zeroizing::new(std::fs::read(path).map_err(failed)?))
}

pub(super) fn parse<T: for<'de> Deserialize<'de>>(path: &Path, json: &[u8]) -> Result<T, StoreError> {
    // The parser's message could quote a secret; only the place is told.
    serde_json::from_slice(json).map_err(|error| {
        key_file(
            path,
            &format!("not a key file (line {}, column {})", error.line(), error.column()),
        )
    })
}
