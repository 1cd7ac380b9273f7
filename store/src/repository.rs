//! The repository of one cluster: open or create it, write objects in commit order, read them back checked.
//!
//! Law 1 and law 3 live here. [`Repository`] reads; [`Writer`] signs and creates. A crash between two creates leaves objects that
//! nothing names: they cost space until they are swept, and nothing else.

pub(crate) mod create;
mod fence;
mod maps;
mod packs;
mod parts;
mod period;
mod periods;
mod trust;
mod writer;

pub use create::{Created, Description, NewRepository, create, describe};
pub use fence::{Fence, LOOK_AGE_MAX};
pub use maps::{Maps, WholeMap};
pub use parts::{FetchedPack, OpenPack, PackPart, PartRange};
pub use period::{Period, PeriodRecipient, SealedPeriodKey, Signer, SignerRole};
pub use writer::{NewObject, Put, Writer};

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;

use crate::envelope::{Head, Header, Protection};
use crate::error::StoreError;
use crate::frame;
use crate::id::{KeyId, LineageId, RepositoryId};
use crate::keys::file::{HostKeys, OpeningKeyFile};
use crate::keys::{ClusterKeys, OpeningKey, VerifyingKey};
use crate::layout::Layout;
use crate::limits::ENVELOPE_PEEK_BYTES;
use crate::object::{ByteRange, ErrorClass, ObjectName, ObjectStore};
use crate::seal::Secret32;
use crate::session::{Place, Purpose, Session, open_block};

use trust::Trust;

/// One cluster's part of a repository, open for reading.
#[derive(Debug)]
pub struct Repository {
    store: Arc<dyn ObjectStore>,
    layout: Layout,
    id: RepositoryId,
    cluster: String,
    keys: ClusterKeys,
    trust: RwLock<Arc<Trust>>,
    opening: Option<OpeningKey>,
    metadata_packs: Mutex<packs::RecentPacks>,
}

/// An object that was read and checked.
#[derive(Debug)]
pub struct ReadObject {
    /// Its head.
    pub head: Head,
    /// Its header.
    pub header: Header,
    /// Its body, still sealed.
    pub body: Bytes,
}

impl Repository {
    /// Opens with a host's keys: metadata can be read, data cannot.
    ///
    /// # Errors
    /// No repository there, another repository, or the keys do not fit.
    pub async fn open_as_host(store: Arc<dyn ObjectStore>, keys: &HostKeys) -> Result<Self, StoreError> {
        Self::open(
            store,
            keys.repository,
            &keys.cluster,
            keys.root,
            &Unlock::Host(Box::new(keys.cluster_keys.clone())),
        )
        .await
    }

    /// Opens with the restore key: everything can be read.
    ///
    /// # Errors
    /// As [`Repository::open_as_host`].
    pub async fn open_as_restorer(store: Arc<dyn ObjectStore>, key: &OpeningKeyFile) -> Result<Self, StoreError> {
        let unlock = Unlock::Restorer(key.key.clone());
        Self::open(store, key.repository, &key.cluster, key.root, &unlock).await
    }

    /// Opens with the maintenance key: metadata can be read, data cannot.
    ///
    /// # Errors
    /// As [`Repository::open_as_host`].
    pub async fn open_as_keeper(store: Arc<dyn ObjectStore>, key: &OpeningKeyFile) -> Result<Self, StoreError> {
        let unlock = Unlock::Keeper(key.key.clone());
        Self::open(store, key.repository, &key.cluster, key.root, &unlock).await
    }

    async fn open(
        store: Arc<dyn ObjectStore>,
        expected: RepositoryId,
        cluster: &str,
        root: Option<VerifyingKey>,
        unlock: &Unlock,
    ) -> Result<Self, StoreError> {
        let description = describe(store.as_ref()).await?;
        if description.repository != expected {
            return Err(StoreError::Foreign {
                what: "the repository",
                expected: expected.to_string(),
                found: description.repository.to_string(),
            });
        }
        let layout = Layout::new(cluster)?;
        let candidates = trust::candidates(store.as_ref(), &layout).await?;
        let place = Place {
            repository: expected,
            cluster,
            lineage: None,
        };
        let keys_of = |head: &Head| match unlock {
            Unlock::Host(keys) => Ok((**keys).clone()),
            Unlock::Keeper(key) | Unlock::Restorer(key) => {
                let dedup = open_block(head.name(), head.session_block(), place, [key])?.dedup;
                ClusterKeys::derive(dedup, expected)
            }
        };
        let followed = match root {
            Some(root) => trust::follow(&candidates, root, keys_of),
            None => trust::first(&candidates, keys_of),
        };
        let has_wrong = candidates.wrong.is_some();
        let followed = match (followed, candidates.wrong) {
            // Damage tells more than that nothing is left.
            (Err(_), Some(wrong)) => return Err(wrong),
            (followed, _) => followed?,
        };
        let is_in_doubt = has_wrong || followed.is_in_doubt;
        if let Some(later) = followed.later {
            let what = format!("what was decided later, in \"{}{later}\",", layout.prefix("keys"));
            if !matches!(unlock, Unlock::Restorer(_)) {
                return Err(StoreError::WrongKey { what });
            }
            tracing::warn!(
                "{what} is not for this key: it was replaced by another. What was stored before can be restored with it"
            );
        }
        let opening = match unlock {
            Unlock::Restorer(key) => Some(key.clone()),
            Unlock::Host(_) | Unlock::Keeper(_) => None,
        };
        let trust = Trust {
            is_in_doubt,
            ..Trust::new(followed.period, opening.as_ref(), expected, cluster)
        };
        Ok(Repository {
            store,
            layout,
            id: expected,
            cluster: cluster.to_owned(),
            keys: followed.keys,
            trust: RwLock::new(Arc::new(trust)),
            opening,
            metadata_packs: Mutex::new(packs::RecentPacks::default()),
        })
    }

    /// The same repository in another place: a copy of it, with the same id and keys.
    #[must_use]
    pub fn over(&self, store: Arc<dyn ObjectStore>) -> Self {
        Repository {
            store,
            layout: self.layout.clone(),
            id: self.id,
            cluster: self.cluster.clone(),
            keys: self.keys.clone(),
            trust: RwLock::new(self.trust()),
            opening: self.opening.clone(),
            metadata_packs: Mutex::new(packs::RecentPacks::default()),
        }
    }

    /// The object store below.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Names in this cluster's part.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The repository's id.
    #[must_use]
    pub fn id(&self) -> RepositoryId {
        self.id
    }

    /// The cluster's name.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Ids, digests and the metadata key.
    #[must_use]
    pub fn keys(&self) -> &ClusterKeys {
        &self.keys
    }

    /// True when data can be decrypted.
    #[must_use]
    pub fn can_decrypt(&self) -> bool {
        self.opening.is_some()
    }

    fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.trust.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whose signatures count and whom sessions are sealed to, as it was known when this was opened or last refreshed.
    #[must_use]
    pub fn period(&self) -> Period {
        self.trust().period.clone()
    }

    /// Number of [`Repository::period`].
    #[must_use]
    pub fn period_number(&self) -> u64 {
        self.trust().period.number
    }

    /// Draws the key of a session and seals it to the recipients of now.
    ///
    /// # Errors
    /// As [`Session::begin`].
    pub fn begin_session(&self, lineage: LineageId, purpose: Purpose) -> Result<Session, StoreError> {
        let place = Place {
            repository: self.id,
            cluster: &self.cluster,
            lineage: Some(lineage),
        };
        Session::begin(&self.keys, &self.trust().period.seals_to(), place, purpose)
    }

    /// False for what was written before the last revocation, or by a signer who is revoked: backups do not refer to what it refers to.
    #[must_use]
    pub fn may_be_built_on(&self, read: &ReadObject) -> bool {
        self.trust().may_be_built_on(&read.head, read.header.period)
    }

    /// True when a keeper has signed it.
    pub(crate) fn is_by_keeper(&self, read: &ReadObject) -> bool {
        let trust = self.trust();
        let signer = trust.period.signers.iter().find(|signer| signer.id == read.head.writer);
        signer.is_some_and(|signer| signer.role == SignerRole::Keeper)
    }

    /// True when this key signs for a host, and what it signs counts.
    #[must_use]
    pub fn trusts_host(&self, id: KeyId) -> bool {
        let trust = self.trust();
        let signer = trust.period.signers.iter().find(|signer| signer.id == id);
        signer.is_some_and(|signer| signer.role == SignerRole::Host && signer.revoked_us.is_none())
    }

    /// True when something at `keys/` cannot be read, or was planted behind the newest list that counts: there may be a newer one.
    #[must_use]
    pub fn is_trust_in_doubt(&self) -> bool {
        self.trust().is_in_doubt
    }

    /// Opens head and header; and says until when the signer was one, if he was revoked.
    fn open_head(&self, name: &ObjectName, bytes: &Bytes) -> Result<(Head, Header, Option<i64>), StoreError> {
        let head = Head::parse(name.as_str(), bytes)?;
        let admitted = self.trust().admit(&head)?;
        let header = head.open(&admitted.key, &self.keys)?;
        if header.repository != self.id || header.cluster != self.cluster {
            return Err(StoreError::Foreign {
                what: "the object's cluster",
                expected: format!("{}/{}", self.id, self.cluster),
                found: format!("{}/{}", header.repository, header.cluster),
            });
        }
        Ok((head, header, admitted.until_us))
    }

    /// Reads and checks only the head and header of an object; `None` when it does not exist.
    ///
    /// # Errors
    /// The store failed, or the head is damaged.
    pub async fn read_header(&self, name: &ObjectName) -> Result<Option<(Head, Header)>, StoreError> {
        let Some(meta) = self.store.head(name).await? else {
            return Ok(None);
        };
        let len = ENVELOPE_PEEK_BYTES.min(meta.size);
        let mut peek = self.store.get(name, ByteRange::Slice { start: 0, len }).await?;
        if let Ok(head_bytes) = head_bytes_needed(&peek)
            && head_bytes > len
            && head_bytes <= meta.size
        {
            peek = self
                .store
                .get(
                    name,
                    ByteRange::Slice {
                        start: 0,
                        len: head_bytes,
                    },
                )
                .await?;
        }
        let (head, header, until_us) = self.open_head(name, &peek)?;
        refuse_after(&head, until_us, meta.modified_unix_ms)?;
        if head.object_bytes() != meta.size {
            let reason = format!("{} bytes where {} were written", meta.size, head.object_bytes());
            return Err(StoreError::damaged(name, reason));
        }
        Ok(Some((head, header)))
    }

    /// Reads a whole object and checks name, signature, length and body hash.
    ///
    /// # Errors
    /// The store failed, or the object is damaged or foreign.
    pub async fn read(&self, name: &ObjectName) -> Result<ReadObject, StoreError> {
        let bytes = self.store.get(name, ByteRange::All).await?;
        self.checked(name, &bytes).await
    }

    /// Reads a whole object, checks it as [`Repository::read`] does, and returns it as it is stored; and whether its signer was revoked since.
    ///
    /// # Errors
    /// As [`Repository::read`].
    pub async fn read_checked(&self, name: &ObjectName) -> Result<(Bytes, bool), StoreError> {
        let bytes = self.store.get(name, ByteRange::All).await?;
        let read = self.checked(name, &bytes).await?;
        let is_revoked = self.trust().admit(&read.head)?.until_us.is_some();
        Ok((bytes, is_revoked))
    }

    /// True when both are the same object, sealed twice.
    #[must_use]
    pub fn is_same(&self, name: &ObjectName, one: &Bytes, other: &Bytes) -> bool {
        match (self.open_head(name, one), self.open_head(name, other)) {
            (Ok((head, header, _)), Ok((other_head, other_header, _))) => {
                head.kind == other_head.kind && header.digest == other_header.digest
            }
            _ => false,
        }
    }

    async fn checked(&self, name: &ObjectName, bytes: &Bytes) -> Result<ReadObject, StoreError> {
        let (head, header, until_us) = self.open_head(name, bytes)?;
        if until_us.is_some() {
            let stored = self
                .store
                .head(name)
                .await?
                .map_or(i64::MAX, |meta| meta.modified_unix_ms);
            refuse_after(&head, until_us, stored)?;
        }
        let body = head.body(bytes)?;
        Ok(ReadObject { head, header, body })
    }

    /// Reads a single-frame object whose name may be absent.
    ///
    /// # Errors
    /// As [`Repository::read_plain`], but `None` when there is no such object.
    pub async fn try_read_plain(&self, name: &ObjectName) -> Result<Option<Vec<u8>>, StoreError> {
        match self.read_plain(name).await {
            Ok((_, plain)) => Ok(Some(plain)),
            Err(StoreError::Object(error)) if error.class() == ErrorClass::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a single-frame object and opens its body.
    ///
    /// # Errors
    /// As [`Repository::read`]; or the key at hand does not open it.
    pub async fn read_plain(&self, name: &ObjectName) -> Result<(Header, Vec<u8>), StoreError> {
        let read = self.read(name).await?;
        self.read_plain_of(read)
    }

    pub(crate) fn read_plain_of(&self, read: ReadObject) -> Result<(Header, Vec<u8>), StoreError> {
        let ReadObject { head, header, body } = read;
        let session = self.session_secret(&head, &header)?;
        let plain = frame::open(
            &head,
            header.lineage,
            &header.digest,
            &body,
            session.as_ref(),
            &self.keys,
        )?;
        Ok((header, plain))
    }

    /// The session key of an object, when it needs one and we hold the restore key.
    fn session_secret(&self, head: &Head, header: &Header) -> Result<Option<Secret32>, StoreError> {
        match (&self.opening, head.protection) {
            (_, Protection::Metadata) => Ok(None),
            (None, Protection::Session) => Err(StoreError::KeyMissing { role: "restore" }),
            (Some(key), Protection::Session) => {
                let place = Place {
                    repository: self.id,
                    cluster: &self.cluster,
                    lineage: header.lineage,
                };
                let trust = self.trust();
                let keys = std::iter::once(key).chain(&trust.period_keys);
                Ok(Some(open_block(head.name(), head.session_block(), place, keys)?.key))
            }
        }
    }
}

/// Refuses what the store received after its signer was revoked.
fn refuse_after(head: &Head, until_us: Option<i64>, stored_unix_ms: i64) -> Result<(), StoreError> {
    match until_us {
        Some(until_us) if stored_unix_ms.saturating_mul(1000) > until_us => Err(StoreError::Untrusted {
            name: head.name().into(),
            signer: head.writer.to_string(),
            reason: "who had been revoked before it was stored",
        }),
        _ => Ok(()),
    }
}

enum Unlock {
    Host(Box<ClusterKeys>),
    Keeper(OpeningKey),
    Restorer(OpeningKey),
}

/// Bytes that head and signature of an object take, from its first bytes.
fn head_bytes_needed(peek: &Bytes) -> Result<u64, ()> {
    let field = |at: usize| {
        peek.get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_le_bytes)
            .ok_or(())
    };
    Ok(184 + u64::from(field(56)?) + u64::from(field(60)?))
}
