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
mod read;
mod spares;
mod trust;
mod writer;

pub use create::{Created, Description, NewRepository, create, describe};
pub use fence::{Fence, LOOK_AGE_MAX};
pub use maps::{Maps, WholeMap};
pub use parts::{FetchedPack, OpenPack, PackPart, PartRange};
pub use period::{Period, PeriodRecipient, SealedPeriodKey, Signer, SignerRole};
pub(crate) use read::REVOKED;
pub use read::ReadObject;
pub use spares::MadeUp;
pub use writer::{NewObject, Put, Writer};

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::envelope::Head;
use crate::error::StoreError;
use crate::id::{KeyId, LineageId, RepositoryId};
use crate::keys::file::{HostKeys, OpeningKeyFile};
use crate::keys::{ClusterKeys, OpeningKey, VerifyingKey};
use crate::layout::Layout;
use crate::object::ObjectStore;
use crate::session::{Place, Purpose, Session, open_block};

use spares::Spares;
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
    spares: RwLock<Arc<Spares>>,
    opening: Option<OpeningKey>,
    metadata_packs: Mutex<packs::RecentPacks>,
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
        let (candidates, spares) = futures::future::try_join(
            trust::candidates(store.as_ref(), &layout),
            Spares::list(store.as_ref(), &layout),
        )
        .await?;
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
            spares: RwLock::new(Arc::new(spares)),
            opening,
            metadata_packs: Mutex::new(packs::RecentPacks::default()),
        })
    }

    /// The same repository in another place: a copy of it, with the same id and keys. What damage there is there is not made up for.
    #[must_use]
    pub fn over(&self, store: Arc<dyn ObjectStore>) -> Self {
        Repository {
            store,
            layout: self.layout.clone(),
            id: self.id,
            cluster: self.cluster.clone(),
            keys: self.keys.clone(),
            trust: RwLock::new(self.trust()),
            spares: RwLock::default(),
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

    /// True when the root key of now has signed it, which only the restore key's owner has.
    pub(crate) fn is_by_restorer(&self, read: &ReadObject) -> bool {
        let root = self.trust().period.root();
        root.is_some_and(|root| root.id() == read.head.writer)
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
}

enum Unlock {
    Host(Box<ClusterKeys>),
    Keeper(OpeningKey),
    Restorer(OpeningKey),
}
