//! Creating a repository and a cluster in it (FORMAT 3.1, 6.1).

use std::sync::{Arc, RwLock};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::trust::{self, Trust};
use super::{Period, Repository, Signer, SignerRole};
use crate::error::StoreError;
use crate::id::RepositoryId;
use crate::keys::file::{HostKeys, OpeningKeyFile};
use crate::keys::{ClusterKeys, OpeningKey, Recipient, Role, SigningKey};
use crate::layout::{DESCRIPTION, Layout};
use crate::object::{ByteRange, ErrorClass, ObjectName, ObjectStore, PutNew};
use crate::seal::Secret32;

/// `seawall.json`.
#[derive(Debug, Clone)]
pub struct Description {
    /// Format version.
    pub format: u32,
    /// The repository's id.
    pub repository: RepositoryId,
}

#[derive(Serialize, Deserialize)]
struct DescriptionText {
    format: u32,
    repository: String,
    #[serde(default)]
    required_features: u64,
    created: String,
    creator: String,
}

/// Reads `seawall.json`.
///
/// # Errors
/// [`StoreError::NoRepository`] when there is none; too new; damaged.
pub async fn describe(store: &dyn ObjectStore) -> Result<Description, StoreError> {
    let name = description_name()?;
    let bytes = match store.get(&name, ByteRange::All).await {
        Ok(bytes) => bytes,
        Err(error) if error.class() == ErrorClass::NotFound => {
            return Err(StoreError::NoRepository {
                url: format!("this place: it has no \"{DESCRIPTION}\""),
            });
        }
        Err(error) => return Err(error.into()),
    };
    let text: DescriptionText =
        serde_json::from_slice(&bytes).map_err(|error| StoreError::damaged(DESCRIPTION, error))?;
    if text.format != 1 || text.required_features != 0 {
        return Err(StoreError::TooNew {
            name: DESCRIPTION.into(),
            reason: format!("format {}", text.format),
        });
    }
    let repository = text
        .repository
        .parse()
        .map_err(|_| StoreError::damaged(DESCRIPTION, "bad repository id"))?;
    Ok(Description {
        format: text.format,
        repository,
    })
}

pub(crate) fn description_name() -> Result<ObjectName, StoreError> {
    ObjectName::new(DESCRIPTION).map_err(|error| StoreError::Limit {
        what: "an object name",
        detail: error.to_string(),
    })
}

/// What [`create`] needs to know.
#[derive(Debug)]
pub struct NewRepository<'a> {
    /// Cluster to add.
    pub cluster: &'a str,
    /// Name of this host.
    pub host: &'a str,
    /// Now, microseconds since 1970.
    pub now_us: i64,
    /// The same as RFC 3339 text.
    pub now_text: &'a str,
    /// `seawall <version>`.
    pub creator: &'a str,
}

/// Keys of a new cluster, to be written to key files before anything depends on them.
#[derive(Debug)]
pub struct Created {
    /// For the host.
    pub host: HostKeys,
    /// For the operator's safe.
    pub restore: OpeningKeyFile,
    /// For the keeper.
    pub maintenance: OpeningKeyFile,
    /// False when `seawall.json` was there already.
    pub is_new_repository: bool,
}

/// Makes (or adopts) the repository and makes keys for a cluster that it does not have yet. `keep` stores the keys durably; it is
/// called before the first object that they protect is created, so that nothing is ever sealed to a key that was lost.
///
/// # Errors
/// The cluster exists already, the store failed, or `keep` did.
pub async fn create(
    store: Arc<dyn ObjectStore>,
    new: NewRepository<'_>,
    keep: impl FnOnce(&Created) -> Result<(), StoreError>,
) -> Result<(Created, Arc<Repository>), StoreError> {
    let layout = Layout::new(new.cluster)?;
    let (repository, is_new_repository) = make_description(store.as_ref(), &new).await?;
    // Where objects are to be locked, it is seen here whether they are.
    store.keep_locked(&description_name()?).await?;
    match trust::candidates(store.as_ref(), &layout).await {
        Err(StoreError::NoRepository { .. }) => {}
        Err(error) => return Err(error),
        Ok(_) => {
            return Err(StoreError::Conflict {
                name: layout.prefix("keys"),
            });
        }
    }
    let root_seed = Secret32::generate()?;
    let root = SigningKey::from_seed(root_seed.clone())?.verifying();
    let opening = |key: OpeningKey, signing_seed: Secret32| OpeningKeyFile {
        repository,
        cluster: new.cluster.to_owned(),
        key,
        root: Some(root),
        signing_seed: Some(signing_seed),
    };
    let restore = opening(OpeningKey::generate()?, root_seed);
    let maintenance = opening(OpeningKey::generate()?, Secret32::generate()?);
    let recipient = |name: &str, role, file: &OpeningKeyFile| Recipient {
        name: name.into(),
        role,
        public: file.key.public(),
    };
    let host = HostKeys {
        repository,
        cluster: new.cluster.to_owned(),
        cluster_keys: ClusterKeys::derive(Secret32::generate()?, repository)?,
        signing: SigningKey::from_seed(Secret32::generate()?)?,
        root: Some(root),
    };
    let recipients = [
        recipient("restore", Role::Restore, &restore),
        recipient("maintenance", Role::Maintenance, &maintenance),
    ];
    let created = Created {
        host,
        restore,
        maintenance,
        is_new_repository,
    };
    keep(&created)?;
    let mut period = Period {
        number: 1,
        recipients: recipients.iter().map(Into::into).collect(),
        signers: vec![
            Signer::new(created.host.signing.verifying(), new.host, SignerRole::Host),
            Signer::new(created.maintenance.signing()?.verifying(), "keeper", SignerRole::Keeper),
        ],
        dedup_fingerprint: created.host.cluster_keys.fingerprint(),
        root: Some(root.0.into()),
        period_keys: Vec::new(),
        afresh: 0,
        key: None,
        earlier_roots: Vec::new(),
    };
    period.draw_key(&[], repository, new.cluster)?;
    let bootstrap = Arc::new(Repository {
        store: Arc::clone(&store),
        layout,
        id: repository,
        cluster: new.cluster.to_owned(),
        keys: created.host.cluster_keys.clone(),
        trust: RwLock::new(Arc::new(Trust::new(period.clone(), None, repository, new.cluster))),
        spares: RwLock::default(),
        opening: None,
        metadata_packs: std::sync::Mutex::default(),
    });
    bootstrap
        .put_period(&period, created.restore.signing()?, new.now_us)
        .await?;
    let opened = Arc::new(Repository::open_as_host(store, &created.host).await?);
    Ok((created, opened))
}

async fn make_description(
    store: &dyn ObjectStore,
    new: &NewRepository<'_>,
) -> Result<(RepositoryId, bool), StoreError> {
    match describe(store).await {
        Ok(found) => return Ok((found.repository, false)),
        Err(StoreError::NoRepository { .. }) => {}
        Err(error) => return Err(error),
    }
    let unix_ms = u64::try_from(new.now_us / 1000).unwrap_or(0);
    let repository = RepositoryId::from_parts(unix_ms, crate::entropy::bytes()?);
    let text = DescriptionText {
        format: 1,
        repository: repository.to_string(),
        required_features: 0,
        created: new.now_text.into(),
        creator: new.creator.into(),
    };
    let json = serde_json::to_vec_pretty(&text).map_err(|error| StoreError::Codec(error.to_string()))?;
    match store.put_new(&description_name()?, Bytes::from(json)).await? {
        PutNew::Created => Ok((repository, true)),
        PutNew::AlreadyExists => Ok((describe(store).await?.repository, false)),
    }
}
