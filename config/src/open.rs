//! From the configuration to open things: the object store, and how to reach PostgreSQL. Shared by both binaries.

use std::sync::Arc;
use std::time::Duration;

use pg::conninfo::{ConnectOptions, ConninfoError};
use store::object::local::LocalStore;
use store::object::mirrored::{Confirm, Mirrored, Place};
use store::object::s3::{S3Options, S3Store};
use store::object::{ObjectError, ObjectStore, Secret};
use store::retry::{RetryPolicy, Retrying};

use crate::checked::{Config, Postgres};
use crate::repository::{Repository, RepositoryUrl};

/// Opens the object store behind the repository's URL, with the one retry layer around it. `jitter_seed` spreads the retries of
/// many hosts.
///
/// # Errors
/// The directory is missing, or the options of S3 are unusable. S3 itself is not asked yet.
pub fn object_store(
    repository: &Repository,
    policy: RetryPolicy,
    jitter_seed: u64,
) -> Result<Arc<dyn ObjectStore>, ObjectError> {
    match &repository.url {
        RepositoryUrl::Local { path } => Ok(Arc::new(Retrying::new(
            LocalStore::open(path.clone())?,
            policy,
            jitter_seed,
        ))),
        RepositoryUrl::S3 { bucket, prefix } => {
            let store = S3Store::open(s3_options(repository, bucket, prefix))?;
            Ok(Arc::new(Retrying::new(store, policy, jitter_seed)))
        }
    }
}

/// The repository and its copies as one store. What must not be missed is retried as `policy` says, what may be is given up soon.
///
/// # Errors
/// As [`object_store`], of any place.
pub fn mirrored(config: &Config, policy: RetryPolicy, jitter_seed: u64) -> Result<Mirrored, ObjectError> {
    let may_miss = RetryPolicy::bounded(COPY_PATIENCE);
    let (first, copies) = match config.confirm {
        Confirm::First => (policy, may_miss),
        Confirm::All => (policy, policy),
        Confirm::Any => (may_miss, may_miss),
    };
    let first = Place::new("repository", object_store(&config.repository, first, jitter_seed)?);
    let copies = config.copies.iter().map(|(name, copy)| {
        let store = create_object_store(copy, copies, jitter_seed)?;
        Ok(Place::new(name, store))
    });
    Ok(Mirrored::new(
        first,
        copies.collect::<Result<_, ObjectError>>()?,
        config.confirm,
    ))
}

/// How long a place that may miss something is tried.
const COPY_PATIENCE: Duration = Duration::from_secs(20);

/// As [`object_store`], but makes a missing local directory first.
///
/// # Errors
/// As [`object_store`], or the directory cannot be made.
pub fn create_object_store(
    repository: &Repository,
    policy: RetryPolicy,
    jitter_seed: u64,
) -> Result<Arc<dyn ObjectStore>, ObjectError> {
    if let RepositoryUrl::Local { path } = &repository.url {
        LocalStore::create(path.clone())?;
    }
    object_store(repository, policy, jitter_seed)
}

fn s3_options(repository: &Repository, bucket: &str, prefix: &str) -> S3Options {
    let s3 = &repository.s3;
    let mut options = S3Options::new(bucket, s3.region.clone());
    options.prefix = prefix.to_owned();
    options.endpoint = s3.endpoint.clone();
    options.path_style = s3.path_style;
    options.conditional_put = s3.conditional_put;
    options.ca_file = s3.ca_file.clone();
    if let Some(credentials) = &s3.credentials {
        options.access_key_id = Some(credentials.access_key_id.clone());
        options.secret_access_key = Some(Secret::new(credentials.secret_access_key.expose()));
        options.session_token = credentials
            .session_token
            .as_ref()
            .map(|token| Secret::new(token.expose()));
    }
    options.storage_class = s3.storage_class.clone();
    options.lock = s3.object_lock;
    options.request_timeout = s3.request_timeout;
    options.connect_timeout = s3.connect_timeout;
    options
}

/// How to reach a cluster's server: libpq keys of the configuration, `PG*` variables, the password file.
///
/// # Errors
/// A value that makes no sense; never with a password in it.
pub fn connect_options(
    postgres: &Postgres,
    env: &dyn Fn(&str) -> Option<String>,
    passfile_text: Option<&str>,
) -> Result<ConnectOptions, ConninfoError> {
    let mut keys = postgres.options.clone();
    if let Some(password) = &postgres.password {
        keys.insert("password".into(), password.expose().to_owned());
    }
    ConnectOptions::from_keys(&keys, env, passfile_text)
}
