//! From the configuration to open things: the object store, and how to reach PostgreSQL. Shared by both binaries.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pg::conninfo::{ConnectOptions, ConninfoError};
use store::object::local::LocalStore;
use store::object::mirrored::{Confirm, Mirrored, Place};
use store::object::s3::{S3Options, S3Store};
use store::object::{ObjectError, ObjectStore, Secret};
use store::retry::{RetryPolicy, Retrying};

use crate::checked::{Config, Postgres};
use crate::repository::{Repository, RepositoryUrl};

/// How requests are made.
#[derive(Debug, Clone, Copy)]
pub struct Requests {
    /// How long a transient failure is repeated.
    pub policy: RetryPolicy,
    /// Spreads the retries of many hosts.
    pub jitter_seed: u64,
    /// What time it is.
    pub clock: fn() -> SystemTime,
}

/// Opens the object store behind the repository's URL, with the one retry layer around it.
///
/// # Errors
/// The directory is missing, or the options of S3 are unusable. S3 itself is not asked yet.
pub fn object_store(repository: &Repository, requests: Requests) -> Result<Arc<dyn ObjectStore>, ObjectError> {
    match &repository.url {
        RepositoryUrl::Local { path } => Ok(Arc::new(Retrying::new(
            LocalStore::open(path.clone())?,
            requests.policy,
            requests.jitter_seed,
        ))),
        RepositoryUrl::S3 { bucket, prefix } => {
            let options = S3Options {
                clock: requests.clock,
                ..s3_options(repository, bucket, prefix)
            };
            let store = S3Store::open(options)?;
            Ok(Arc::new(Retrying::new(store, requests.policy, requests.jitter_seed)))
        }
    }
}

/// The repository and its copies as one store. What must not be missed is retried as `requests` says, what may be is given up soon. A directory of a copy is not made here:
/// one that is not mounted must not look like one that is empty. Returns the copies that cannot be opened as well; nothing can be waited for there.
///
/// # Errors
/// As [`object_store`], of the repository; or of a copy without which nothing is confirmed, or not known to be.
pub fn mirrored(config: &Config, requests: Requests) -> Result<(Mirrored, Vec<(String, ObjectError)>), ObjectError> {
    let may_miss = Requests {
        policy: RetryPolicy::bounded(COPY_PATIENCE),
        ..requests
    };
    let (first, others) = match config.confirm {
        Confirm::First => (requests, may_miss),
        Confirm::All => (requests, requests),
        Confirm::Any => (may_miss, may_miss),
    };
    let first = Place::new("repository", object_store(&config.repository, first)?);
    let (mut copies, mut away) = (Vec::new(), Vec::new());
    for (name, copy) in &config.copies {
        match object_store(copy, others) {
            Ok(store) => copies.push(Place::new(name, store)),
            Err(error) if config.confirm == Confirm::First => away.push((name.clone(), error)),
            Err(error) => return Err(error),
        }
    }
    Ok((Mirrored::new(first, copies, config.confirm), away))
}

/// How long a place that may miss something is tried.
const COPY_PATIENCE: Duration = Duration::from_secs(20);

/// As [`object_store`], but makes a missing local directory first.
///
/// # Errors
/// As [`object_store`], or the directory cannot be made.
pub fn create_object_store(repository: &Repository, requests: Requests) -> Result<Arc<dyn ObjectStore>, ObjectError> {
    if let RepositoryUrl::Local { path } = &repository.url {
        LocalStore::create(path.clone())?;
    }
    object_store(repository, requests)
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
