//! From the configuration to an open repository, in the role of the restorer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use config::open::Requests;
use config::{Cluster, Config, RepositoryUrl};
use store::keys::{Role, SigningKey};
use store::repository::Repository;
use store::retry::RetryPolicy;

use crate::error::{RestoreError, Result};

/// What every command begins with.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    /// The configuration file, absolute.
    pub(crate) config_path: PathBuf,
    /// The configuration.
    pub(crate) config: Config,
    /// The chosen cluster's part of it.
    pub(crate) cluster: Cluster,
    /// The copy of the repository that is read from; none: the repository itself.
    pub(crate) copy: Option<String>,
    /// The repository.
    pub(crate) repository: Arc<Repository>,
    /// What signs for whoever restores; none in the key of an added recipient, who may only read.
    pub(crate) signing: Option<Arc<SigningKey>>,
}

impl Opened {
    /// The directory of the repository, when it is one.
    pub(crate) fn repository_directory(&self) -> Option<&Path> {
        match &self.config.repository.url {
            RepositoryUrl::Local { path } => Some(path),
            RepositoryUrl::S3 { .. } => None,
        }
    }
}

/// A cluster, in a repository or a copy of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Which<'a> {
    /// The configuration file.
    pub(crate) config: &'a Path,
    /// The cluster, where there are several.
    pub(crate) cluster: Option<&'a str>,
    /// The copy that is read from; none: the repository itself.
    pub(crate) copy: Option<&'a str>,
}

/// Reads the configuration without opening anything.
pub(crate) fn load(which: Which<'_>) -> Result<(PathBuf, Config, Cluster)> {
    let path = which.config;
    let mut config = config::load_for_restore(path, std::env::vars_os())?;
    if let Some(name) = which.copy {
        config.use_copy(name)?;
    }
    let cluster = config.cluster(which.cluster)?.clone();
    let absolute = path.canonicalize().map_err(RestoreError::io("resolve", path))?;
    Ok((absolute, config, cluster))
}

/// Opens the repository; a request is tried again for at most `patience`.
pub(crate) async fn open(which: Which<'_>, patience: Duration) -> Result<Opened> {
    let (config_path, config, cluster) = load(which)?;
    let key = config.keys.opening(Role::Restore)?;
    if key.cluster != cluster.name {
        return Err(RestoreError::Store(store::StoreError::KeyFile {
            path: config.keys.origin(Role::Restore).display().to_string(),
            reason: format!("belongs to cluster \"{}\", not to \"{}\"", key.cluster, cluster.name),
        }));
    }
    let objects =
        config::open::object_store(&config.repository, requests(patience)).map_err(store::StoreError::from)?;
    let repository = Arc::new(Repository::open_as_restorer(objects, &key).await?);
    Ok(Opened {
        config_path,
        config,
        cluster,
        copy: which.copy.map(str::to_owned),
        repository,
        signing: key.signing().ok().map(Arc::new),
    })
}

/// Requests to a store, from this process; one is tried again for at most `patience`.
pub(crate) fn requests(patience: Duration) -> Requests {
    Requests {
        policy: RetryPolicy::bounded(patience),
        jitter_seed: u64::from(std::process::id()),
        clock: std::time::SystemTime::now,
    }
}
