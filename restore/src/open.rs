//! From the configuration to an open repository, in the role of the restorer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use config::{Cluster, Config, RepositoryUrl};
use store::keys::Role;
use store::keys::file::read_opening;
use store::object::local::LocalStore;
use store::object::s3::{S3Credentials, S3Options, S3Store};
use store::object::{ObjectStore, Secret};
use store::repository::Repository;
use store::retry::{RetryPolicy, Retrying};

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
    /// The repository.
    pub(crate) repository: Arc<Repository>,
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

/// Reads the configuration without opening anything.
pub(crate) fn load(path: &Path, cluster: Option<&str>) -> Result<(PathBuf, Config, Cluster)> {
    let config = config::load_for_restore(path, std::env::vars_os())?;
    let cluster = config.cluster(cluster)?.clone();
    let absolute = path.canonicalize().map_err(RestoreError::io("resolve", path))?;
    Ok((absolute, config, cluster))
}

/// Opens the repository; a request is tried again for at most `patience`.
pub(crate) async fn open(path: &Path, cluster: Option<&str>, patience: Duration) -> Result<Opened> {
    let (config_path, config, cluster) = load(path, cluster)?;
    let key = read_opening(&config.keys.restore_key, Role::Restore)?;
    if key.cluster != cluster.name {
        return Err(RestoreError::Store(store::StoreError::KeyFile {
            path: config.keys.restore_key.display().to_string(),
            reason: format!("belongs to cluster \"{}\", not to \"{}\"", key.cluster, cluster.name),
        }));
    }
    let policy = RetryPolicy::bounded(patience);
    let seed = u64::from(std::process::id());
    let objects: Arc<dyn ObjectStore> = match &config.repository.url {
        RepositoryUrl::Local { path } => Arc::new(Retrying::new(
            LocalStore::open(path.clone()).map_err(store::StoreError::from)?,
            policy,
            seed,
        )),
        RepositoryUrl::S3 { bucket, prefix } => {
            let store = S3Store::open(s3_options(&config, bucket, prefix)).map_err(store::StoreError::from)?;
            Arc::new(Retrying::new(store, policy, seed))
        }
    };
    let repository = Arc::new(Repository::open_as_restorer(objects, &key).await?);
    Ok(Opened {
        config_path,
        config,
        cluster,
        repository,
    })
}

fn s3_options(config: &Config, bucket: &str, prefix: &str) -> S3Options {
    let s3 = &config.repository.s3;
    let credentials = s3.credentials.as_ref().map(|credentials| S3Credentials {
        access_key_id: credentials.access_key_id.clone(),
        secret_access_key: Secret::new(credentials.secret_access_key.expose()),
        session_token: credentials
            .session_token
            .as_ref()
            .map(|token| Secret::new(token.expose())),
    });
    S3Options {
        prefix: prefix.to_owned(),
        endpoint: s3.endpoint.clone(),
        path_style: s3.path_style,
        ca_file: s3.ca_file.clone(),
        fallback_credentials: credentials,
        storage_class: s3.storage_class.clone(),
        request_timeout: s3.request_timeout,
        connect_timeout: s3.connect_timeout,
        ..S3Options::new(bucket, s3.region.clone())
    }
}
