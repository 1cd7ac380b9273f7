//! What can fail in the repository, by what failed.

use crate::object::{ErrorClass, ObjectError};

/// Errors of the repository. `Display` prints this error only; the chain is printed once, by the binary.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The object store failed or refused.
    #[error("the object store failed")]
    Object(#[from] ObjectError),
    /// Stored bytes are not what was written: named object, what is wrong.
    #[error("object \"{name}\" is damaged: {reason}")]
    Damaged {
        /// Full name of the object.
        name: String,
        /// What does not hold.
        reason: String,
    },
    /// An object with this name and other content exists.
    #[error("object \"{name}\" exists with other content")]
    Conflict {
        /// Full name of the object.
        name: String,
    },
    /// Written by a later version.
    #[error("object \"{name}\" needs a newer seawall: {reason}")]
    TooNew {
        /// Full name of the object.
        name: String,
        /// Which version or feature.
        reason: String,
    },
    /// The signature of an object does not count.
    #[error("object \"{name}\" is signed by {signer}, {reason}")]
    Untrusted {
        /// Full name of the object.
        name: String,
        /// Key id of the signer.
        signer: String,
        /// Why it does not count.
        reason: &'static str,
    },
    /// The key at hand does not open this.
    #[error("{what} cannot be opened with the key at hand")]
    WrongKey {
        /// What was to be opened.
        what: String,
    },
    /// A role's key is needed and missing.
    #[error("the {role} key is needed for this")]
    KeyMissing {
        /// The role.
        role: &'static str,
    },
    /// The key file of a role is not on this machine, or not for this user.
    #[error("this needs the {role} key, and \"{path}\" {reason}")]
    KeyAway {
        /// The role.
        role: &'static str,
        /// Path of the key file.
        path: String,
        /// Why it is not here.
        reason: &'static str,
    },
    /// A key file cannot be read or makes no sense.
    #[error("key file \"{path}\": {reason}")]
    KeyFile {
        /// Path of the key file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// No repository where one was expected.
    #[error("no seawall repository at {url}")]
    NoRepository {
        /// Where it was looked for.
        url: String,
    },
    /// The repository belongs to something else.
    #[error("{what} does not belong here: expected {expected}, found {found}")]
    Foreign {
        /// What was compared.
        what: &'static str,
        /// Expected value.
        expected: String,
        /// Found value.
        found: String,
    },
    /// A value is outside the format's limits.
    #[error("{what} is over its limit: {detail}")]
    Limit {
        /// The thing that is limited.
        what: &'static str,
        /// Figures.
        detail: String,
    },
    /// The decoded bytes differ from the encoded ones: nothing was sent.
    #[error("encoding check failed for {what}: the stored form does not decode to what was read")]
    EncodingCheck {
        /// What was encoded.
        what: String,
    },
    /// Encryption or compression failed.
    #[error("cannot encode or decode: {0}")]
    Codec(String),
    /// The kernel gave no random bits.
    #[error("no random bits from the operating system")]
    Entropy(#[source] std::io::Error),
    /// File I/O outside the object store (key files, local caches).
    #[error("cannot {action} \"{path}\"")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A later writer epoch exists: whoever took it writes now, and we must not.
    #[error("writer epoch {epoch} was taken over: epoch {by} exists")]
    TakenOver {
        /// Ours.
        epoch: u64,
        /// The other's.
        by: u64,
    },
    /// A worker of the pipeline stopped without an error of its own.
    #[error("the {0} stage of the pipeline stopped early")]
    Stage(&'static str),
}

impl StoreError {
    /// A [`StoreError::Damaged`].
    pub fn damaged(name: impl ToString, reason: impl ToString) -> Self {
        StoreError::Damaged {
            name: name.to_string(),
            reason: reason.to_string(),
        }
    }

    /// True when the stored bytes are not what was written, as far as we can tell; false when the store or the key is at fault.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            StoreError::Damaged { .. } => true,
            StoreError::Object(error) => error.class() == ErrorClass::Corrupt,
            _ => false,
        }
    }

    /// True when there is no such object: deleted since it was listed, for who has a listing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, StoreError::Object(error) if error.is_not_found())
    }

    /// True when the object is damaged or planted: whoever can do without it passes it over, loudly.
    #[must_use]
    pub fn is_untrusted(&self) -> bool {
        self.is_damage() || matches!(self, StoreError::Untrusted { .. })
    }

    /// The object that cannot be used as it is: damaged, or planted, or of a later version, which damage can look like.
    #[must_use]
    pub fn damaged_object(&self) -> Option<&str> {
        match self {
            StoreError::Damaged { name, .. } | StoreError::Untrusted { name, .. } | StoreError::TooNew { name, .. } => {
                Some(name)
            }
            StoreError::Object(error) if self.is_damage() || error.is_unreadable() => Some(error.name()),
            _ => None,
        }
    }

    /// What the operator should do, if there is something general to say.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            StoreError::Object(error) => return error.hint().map(str::to_owned),
            StoreError::Damaged { .. } => {
                "The stored bytes were changed or lost after they were written. Keep the repository as it is. `wal-agent repair` \
                 makes up for it from a copy of the repository or from the live cluster; `--copy NAME` restores from a copy; an older backup does not \
                 need this object unless both share it."
                    .into()
            }
            StoreError::Conflict { .. } => {
                "Two writers wrote different content under one name. Check that only one agent runs for this cluster and that nobody copied its keys."
                    .into()
            }
            StoreError::TooNew { .. } => "Upgrade seawall on this host.".into(),
            StoreError::Untrusted { .. } => {
                "The object was not written by anybody of this cluster who may write it. Treat it as planted; check who can write to the repository.".into()
            }
            StoreError::WrongKey { .. } => {
                "Use the key files that `wal-agent init` made for this cluster and this repository.".into()
            }
            StoreError::KeyAway { role, .. } => format!(
                "{} Or let this user read the file, or name its path under [keys]. `wal-agent init` made the key files \
                 (host.key, restore.key, maintenance.key) once: new ones open nothing that is stored.",
                where_it_belongs(role)
            ),
            StoreError::KeyFile { .. } => "Let this user read it; or, where it is missing, copy it from where it is kept, or name its path under [keys]. \
                 `wal-agent init` made the key files (host.key, restore.key, maintenance.key) once: new ones open nothing that is stored. Where \
                 there is no repository yet, run `wal-agent init` first."
                .into(),
            StoreError::KeyMissing { role } => format!(
                "Copy the {role} key file back into the keys directory, or name it in the config under [keys]."
            ),
            StoreError::TakenOver { .. } => {
                "Another agent of this cluster has started. Run one agent for a cluster: stop the one that should not run, then start the other again."
                    .into()
            }
            StoreError::NoRepository { .. } => {
                "Check the repository url, or create the repository with `wal-agent init`.".into()
            }
            StoreError::Foreign { .. } => {
                "Each cluster has a repository entry and keys of its own. Check [repository] and the cluster name in the config.".into()
            }
            _ => return None,
        })
    }
}

/// What a role does, and where.
fn where_it_belongs(role: &str) -> &'static str {
    match role {
        "host" => {
            "It is a database host that does this: run it there. Where the restore key is, `wal-agent key add-host` makes a key for another host."
        }
        "maintenance" => {
            "Whoever looks after the repository does this: run it on the machine that has the maintenance key, which is no database host."
        }
        _ => {
            "Whoever restores does this, and says who is trusted: bring the restore key here from where it is kept (`wal-agent key import` reads it from paper)."
        }
    }
}
