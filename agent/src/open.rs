//! From the command line to open things: configuration, log, object store, keys, repository, server.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use config::open::Requests;
use config::{Cluster, Config, LogFormat};
use pg::conninfo::ConnectOptions;
use pg::segment::SegmentSize;
use store::StoreError;
use store::id::LineageId;
use store::keys::file::{HostKeys, OpeningKeyFile, read_host, read_opening};
use store::keys::{Role, SigningKey};
use store::object::ObjectStore;
use store::object::mirrored::Mirrored;
use store::records::Lineage;
use store::repository::{Period, Repository, Signer, SignerRole};
use store::retry::RetryPolicy;

use crate::cli::Global;
use crate::exit::{Failure, OTHER_SERVER_HINT};

/// Everything a command starts from.
pub struct Context {
    /// The whole configuration.
    pub config: Config,
    /// The chosen cluster.
    pub cluster: Cluster,
    /// The repository is a copy of the one in the configuration.
    pub is_copy: bool,
    /// Where the configuration was read.
    pub path: PathBuf,
    /// Other places that hold the same repository: its copies, and itself when a copy is looked at.
    pub elsewhere: Vec<(String, config::Repository)>,
}

/// The places besides one of them.
fn elsewhere(config: &Config, copy: Option<&str>) -> Vec<(String, config::Repository)> {
    let itself = copy.map(|_| ("the repository".to_owned(), config.repository.clone()));
    let copies = config.copies.iter().filter(|(name, _)| Some(name.as_str()) != copy);
    itself
        .into_iter()
        .chain(copies.map(|(name, place)| (name.clone(), place.clone())))
        .collect()
}

impl Context {
    /// Loads the configuration and starts the log.
    pub fn load(global: &Global) -> anyhow::Result<Self> {
        let context = Self::read(global)?;
        start_log(&context.config);
        Ok(context)
    }

    /// For `archive_command`: a mistake in a table that has nothing to do with WAL must not hold WAL up. It is said, each time.
    pub fn load_to_archive(global: &Global) -> anyhow::Result<Self> {
        let config = config::load_for_restore(&config_path(global), std::env::vars_os())?;
        start_log(&config);
        for mistake in &config.passed_over {
            tracing::warn!(%mistake, "a mistake in the configuration is passed over: what it is about does not work");
        }
        Self::of(config, global)
    }

    /// Each cluster of the configuration, or the one that is asked for, for a command that must work when all else is away: where the secrets
    /// that the file names cannot be read it goes without them. Gives the reason then, too.
    pub fn load_each(global: &Global) -> anyhow::Result<(Vec<Self>, Option<String>)> {
        let path = config_path(global);
        let (config, unread) = match load_config(global) {
            Ok(config) => (config, None),
            Err(error) => match config::load_for_restore(&path, std::env::vars_os()) {
                Ok(config) => (config, Some(error.to_string())),
                Err(_) => return Err(error),
            },
        };
        start_log(&config);
        let clusters = match (&global.cluster, config.clusters.is_empty()) {
            (None, false) => config.clusters.values().cloned().collect(),
            (name, _) => vec![config.cluster(name.as_deref())?.clone()],
        };
        let context = |cluster| Context {
            elsewhere: elsewhere(&config, None),
            config: config.clone(),
            cluster,
            is_copy: false,
            path: path.clone(),
        };
        Ok((clusters.into_iter().map(context).collect(), unread))
    }

    /// Reads the configuration again.
    ///
    /// # Errors
    /// It is wrong, or it says what only a start can do.
    pub async fn reload(&self) -> anyhow::Result<Self> {
        let read = Self::read(&Global {
            config: Some(self.path.clone()),
            cluster: Some(self.cluster.name.clone()),
            copy: None,
        })?;
        if read.cluster.status.state_directory != self.cluster.status.state_directory {
            return Err(Failure {
                code: crate::exit::USAGE,
                message: "state_directory cannot be changed while the agent runs".into(),
                hint: Some("Restart it.".into()),
            }
            .into());
        }
        // What a start needs: else the one that works would end for one that does not begin.
        let keys = read.host_keys()?;
        read.connect_options()?;
        Box::pin(read.writing(command_policy(), &keys)).await?;
        Ok(read)
    }

    /// The same program for another command, with this configuration and cluster.
    pub fn arguments(&self, command: &[&str]) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["--config".into(), self.path.clone().into()];
        arguments.extend(["--cluster".into(), self.cluster.name.clone().into()]);
        arguments.extend(command.iter().map(OsString::from));
        arguments
    }

    fn read(global: &Global) -> anyhow::Result<Self> {
        Self::of(load_config(global)?, global)
    }

    fn of(mut config: Config, global: &Global) -> anyhow::Result<Self> {
        let elsewhere = elsewhere(&config, global.copy.as_deref());
        if let Some(name) = &global.copy {
            config.use_copy(name)?;
        }
        let cluster = config.cluster(global.cluster.as_deref())?.clone();
        Ok(Context {
            config,
            cluster,
            is_copy: global.copy.is_some(),
            path: config_path(global),
            elsewhere,
        })
    }

    /// Files that root makes in the repository of another user cannot be read by the agent any more.
    ///
    /// # Errors
    /// This is root, and the repository or a copy is somebody else's directory.
    pub fn refuse_root(&self) -> anyhow::Result<()> {
        use std::os::unix::fs::MetadataExt as _;
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let places = self.elsewhere.iter().map(|(_, place)| place);
        for place in places.chain([&self.config.repository]) {
            let config::RepositoryUrl::Local { path } = &place.url else {
                continue;
            };
            let owner = std::fs::metadata(path).map_or(0, |found| found.uid());
            if owner != 0 {
                return Err(Failure::refused(
                    format!("this runs as root, and \"{}\" belongs to the user with id {owner}, who could not read what root puts there", path.display()),
                    "Run it as that user: `runuser -u postgres -- wal-agent …`.",
                )
                .into());
            }
        }
        Ok(())
    }

    /// The same, with a copy in the place of the repository.
    pub fn at_copy(&self, name: &str) -> anyhow::Result<Self> {
        let mut config = self.config.clone();
        let elsewhere = elsewhere(&config, Some(name));
        config.use_copy(name)?;
        Ok(Context {
            config,
            cluster: self.cluster.clone(),
            is_copy: true,
            path: self.path.clone(),
            elsewhere,
        })
    }

    /// The object store; a transient failure is retried for as long as the policy says.
    pub fn object_store(&self, policy: RetryPolicy) -> anyhow::Result<Arc<dyn ObjectStore>> {
        config::open::object_store(&self.config.repository, requests(policy))
            .with_context(|| format!("cannot open the repository at {}", self.config.repository.url))
    }

    /// This host's keys.
    pub fn host_keys(&self) -> anyhow::Result<HostKeys> {
        let keys = read_host(&self.config.keys.host_key)?;
        if keys.cluster != self.cluster.name {
            return Err(StoreError::Foreign {
                what: "the host key's cluster",
                expected: self.cluster.name.clone(),
                found: keys.cluster,
            }
            .into());
        }
        Ok(keys)
    }

    /// The restore or maintenance key of the chosen cluster, from its file or its command.
    pub fn opening_key(&self, role: Role) -> anyhow::Result<OpeningKeyFile> {
        self.of_this_cluster(self.config.keys.opening(role)?)
    }

    /// The key of the chosen cluster in this file.
    pub fn opening_key_in(&self, path: &Path, role: Role) -> anyhow::Result<OpeningKeyFile> {
        self.of_this_cluster(read_opening(path, role)?)
    }

    fn of_this_cluster(&self, key: OpeningKeyFile) -> anyhow::Result<OpeningKeyFile> {
        if key.cluster == self.cluster.name {
            return Ok(key);
        }
        Err(StoreError::Foreign {
            what: "the key's cluster",
            expected: self.cluster.name.clone(),
            found: key.cluster,
        }
        .into())
    }

    /// The repository, opened as its keeper, and what signs for him. He alone decides about deletion.
    pub async fn keeper(&self, policy: RetryPolicy) -> anyhow::Result<(Arc<Repository>, SigningKey)> {
        let path = self.config.keys.origin(Role::Maintenance);
        let file = self.opening_key(Role::Maintenance)?;
        let signing = file.signing()?;
        let opened = Repository::open_as_keeper(self.object_store(policy)?, &file).await;
        let repository =
            opened.with_context(|| format!("cannot open the repository at {}", self.config.repository.url))?;
        let id = signing.verifying().id();
        let period = repository.period();
        let counts =
            |signer: &Signer| signer.id == id && signer.role == SignerRole::Keeper && signer.revoked_us.is_none();
        if !period.signers.iter().any(counts) {
            return Err(Failure {
                code: crate::exit::KEY,
                message: format!("the key in \"{}\" may not decide about deletion", path.display()),
                hint: Some("Where the restore key is, `wal-agent key rotate maintenance` makes one that may.".into()),
            }
            .into());
        }
        Ok((Arc::new(repository), signing))
    }

    /// The repository, opened as a host.
    pub async fn repository(&self, policy: RetryPolicy, keys: &HostKeys) -> anyhow::Result<Arc<Repository>> {
        self.repository_on(self.object_store(policy)?, keys).await
    }

    /// The repository, opened with whichever key is here: names, periods and records can be read with each of them.
    pub async fn repository_to_look_at(&self, policy: RetryPolicy) -> anyhow::Result<Arc<Repository>> {
        let keys = &self.config.keys;
        let opened = if keys.host_key.exists() {
            return self.repository(policy, &self.host_keys()?).await;
        } else if keys.has(Role::Maintenance) {
            let file = self.opening_key(Role::Maintenance)?;
            Repository::open_as_keeper(self.object_store(policy)?, &file).await
        } else if keys.has(Role::Restore) {
            let file = self.opening_key(Role::Restore)?;
            Repository::open_as_restorer(self.object_store(policy)?, &file).await
        } else {
            return self.repository(policy, &self.host_keys()?).await;
        };
        let cannot = || format!("cannot open the repository at {}", self.config.repository.url);
        Ok(Arc::new(opened.with_context(cannot)?))
    }

    /// The same for who writes: with all of its copies, where there are any.
    pub async fn writing(
        &self,
        policy: RetryPolicy,
        keys: &HostKeys,
    ) -> anyhow::Result<(Arc<Repository>, Option<Arc<Mirrored>>)> {
        if self.config.copies.is_empty() {
            return Ok((self.repository(policy, keys).await?, None));
        }
        let opened = config::open::mirrored(&self.config, requests(policy));
        let (places, away) = opened.context("cannot open the repository and its copies; `wal-agent copy` makes one")?;
        for (copy, error) in away {
            tracing::error!(%copy, %error, "a copy of the repository cannot be opened: it gets nothing until this is started again");
        }
        let places = Arc::new(places);
        let repository = self.repository_on(places.clone(), keys).await?;
        let judging = Arc::new(repository.over(Arc::clone(places.source().store())));
        places.judge_by(Box::new(move |name, one, other| judging.is_same(name, one, other)));
        Ok((repository, Some(places)))
    }

    async fn repository_on(&self, store: Arc<dyn ObjectStore>, keys: &HostKeys) -> anyhow::Result<Arc<Repository>> {
        let opened = Repository::open_as_host(store, keys).await;
        let repository =
            opened.with_context(|| format!("cannot open the repository at {}", self.config.repository.url))?;
        refuse_revoked(&repository.period(), keys)?;
        Ok(Arc::new(repository))
    }

    /// True when the configuration names more than one server.
    pub fn has_other_servers(&self) -> bool {
        self.connect_options().is_ok_and(|options| options.servers.len() > 1)
    }

    /// How to reach the servers; [`crate::sql::choose`] chooses one of them.
    pub fn connect_options(&self) -> anyhow::Result<ConnectOptions> {
        let postgres = &self.cluster.postgres;
        let env = |key: &str| std::env::var(key).ok();
        let path = postgres
            .passfile
            .clone()
            .or_else(|| env("PGPASSFILE").map(Into::into))
            .or_else(|| env("HOME").map(|home| Path::new(&home).join(".pgpass")));
        let text = path.and_then(|path| std::fs::read_to_string(path).ok());
        let mut options = config::open::connect_options(postgres, &env, text.as_deref()).map_err(|error| Failure {
            code: crate::exit::USAGE,
            message: error.to_string(),
            hint: Some(error.hint().into()),
        })?;
        options.application_name = "seawall".into();
        Ok(options)
    }
}

/// What a host signs must count: else it would be stored in vain.
fn refuse_revoked(period: &Period, keys: &HostKeys) -> anyhow::Result<()> {
    let id = keys.signing.verifying().id();
    let signer = period.signers.iter().find(|signer| signer.id == id);
    let message = match signer {
        Some(signer) if signer.role == SignerRole::Host && signer.revoked_us.is_none() => return Ok(()),
        Some(signer) if signer.revoked_us.is_some() => {
            format!("this host's signing key {id} was revoked: nothing that it writes counts")
        }
        _ => format!("this host's signing key {id} is not one of the cluster's"),
    };
    Err(Failure {
        code: crate::exit::KEY,
        message,
        hint: Some(
            "Where the restore key is, `wal-agent key rotate host` (or `key add-host`) makes a host key that counts."
                .into(),
        ),
    }
    .into())
}

/// The lineage that is being archived: the one that this host's daemon has found its server to belong to, else the newest. A clone with
/// our keys may have begun a newer one. Who acts on it compares the history first.
pub async fn current_lineage(context: &Context, repository: &Repository) -> anyhow::Result<Lineage> {
    let lineages = repository.lineages().await?;
    let archived = crate::status::archived_lineage(context);
    let known = lineages.iter().find(|lineage| Some(lineage.id) == archived).cloned();
    let newest = lineages.into_iter().max_by_key(|lineage| lineage.id);
    known.or(newest).ok_or_else(|| {
        Failure::refused("the repository has no lineage of this cluster", "Run `wal-agent init`.").into()
    })
}

/// A lineage by its id.
pub async fn lineage_of(repository: &Repository, id: LineageId) -> anyhow::Result<Lineage> {
    let mut lineages = repository.lineages().await?.into_iter();
    lineages
        .find(|lineage| lineage.id == id)
        .ok_or_else(|| anyhow::anyhow!("lineage {id} is not in the repository"))
}

/// The segment size of a lineage.
pub fn segment_size(lineage: &Lineage) -> anyhow::Result<SegmentSize> {
    SegmentSize::new(lineage.segment_bytes).context("the lineage's segment size makes no sense")
}

/// Loads the configuration only.
pub fn load_config(global: &Global) -> anyhow::Result<Config> {
    Ok(config::load(&config_path(global), std::env::vars_os())?)
}

fn config_path(global: &Global) -> PathBuf {
    let named = global.config.clone();
    named.unwrap_or_else(|| config::default_path(std::env::vars_os()))
}

/// Retries of commands that a person waits for.
pub fn command_policy() -> RetryPolicy {
    RetryPolicy::bounded(Duration::from_secs(15))
}

/// Retries of a backup: a short outage of the store must not cost hours of copying.
pub fn backup_policy() -> RetryPolicy {
    RetryPolicy::bounded(Duration::from_secs(600))
}

/// Requests to a store, from this process.
pub fn requests(policy: RetryPolicy) -> Requests {
    Requests {
        policy,
        jitter_seed: store::entropy::bytes().map_or(1, u64::from_le_bytes),
        clock: std::time::SystemTime::now,
    }
}

fn start_log(config: &Config) {
    let filter =
        tracing_subscriber::EnvFilter::new(format!("{},hyper=warn,aws=warn,rustls=warn", config.log.level.as_str()));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    // A second start (tests within one process) keeps the first log.
    let _ = match config.log.format {
        LogFormat::Json => log.json().try_init(),
        LogFormat::Text => log.with_ansi(false).try_init(),
    };
}

/// Name of this host, for people.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Refuses a server that is not the one of the lineage.
pub fn refuse_other_cluster(found: u64, lineage: &Lineage) -> anyhow::Result<()> {
    let expected = lineage.system_identifier;
    if found == expected {
        return Ok(());
    }
    Err(Failure::refused(
        format!("the server is of another cluster than the repository's lineage: expected {expected}, found {found}"),
        OTHER_SERVER_HINT,
    )
    .into())
}
