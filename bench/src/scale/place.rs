//! Where one of these repositories lies, with its keys and a configuration for the real programs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use store::StoreError;
use store::id::LineageId;
use store::keys::file::{read_host, read_opening, write_host, write_opening};
use store::keys::{Role, SigningKey};
use store::object::local::LocalStore;
use store::repository::{NewRepository, Repository, Writer, create};

use super::hollow::HollowStore;

/// The cluster.
pub const CLUSTER: &str = "main";
/// Its system identifier.
pub const SYSTEM: u64 = 7_000_000_000_000_000_001;
/// PostgreSQL 17.
pub const SERVER_VERSION: u32 = 170_000;

/// Why a measurement did not come to its end.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A directory with `repo`, `keys` and `seawall.toml`.
#[derive(Clone, Debug)]
pub struct Place(pub PathBuf);

impl Place {
    /// The repository.
    #[must_use]
    pub fn repo(&self) -> PathBuf {
        self.0.join("repo")
    }

    fn key(&self, name: &str) -> PathBuf {
        self.0.join("keys").join(name)
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.0.join("seawall.toml")
    }

    /// The lineage of all backups.
    #[must_use]
    pub fn lineage(&self) -> LineageId {
        LineageId::from_parts(1, [1; 10])
    }

    /// Makes the repository.
    ///
    /// # Errors
    /// It cannot be made, or is there.
    pub async fn create(&self, now_us: i64) -> Result<(), Failed> {
        std::fs::create_dir(self.0.join("keys"))?;
        let store = Arc::new(LocalStore::create(self.repo())?);
        let new = NewRepository {
            cluster: CLUSTER,
            host: "bench",
            now_us,
            now_text: "2026-01-01T00:00:00Z",
            creator: "bench",
        };
        let (created, _) = create(store, new, |_| Ok(())).await?;
        write_host(&self.key("host.key"), &created.host)?;
        write_opening(&self.key("restore.key"), Role::Restore, &created.restore)?;
        write_opening(&self.key("maintenance.key"), Role::Maintenance, &created.maintenance)?;
        let text = format!(
            "[repository]\nurl = \"file://{}\"\n\n[keys]\ndirectory = \"{}\"\n\n[cluster.{CLUSTER}.postgres]\nhost = \"/tmp\"\n",
            self.repo().display(),
            self.0.join("keys").display()
        );
        Ok(std::fs::write(self.config(), text)?)
    }

    /// The store below, which counts.
    ///
    /// # Errors
    /// It is not there.
    pub fn store(&self) -> Result<Arc<HollowStore>, Failed> {
        Ok(Arc::new(HollowStore::open(self.repo())?))
    }

    /// Opens it as a host does.
    ///
    /// # Errors
    /// As [`Repository::open_as_host`].
    pub async fn as_host(&self, store: Arc<HollowStore>) -> Result<Arc<Writer>, Failed> {
        let keys = read_host(&self.key("host.key"))?;
        let repository = Arc::new(Repository::open_as_host(store, &keys).await?);
        Ok(Arc::new(Writer::new(repository, Arc::new(keys.signing), 0)))
    }

    /// Opens it as a keeper does.
    ///
    /// # Errors
    /// As [`Repository::open_as_keeper`].
    pub async fn as_keeper(&self, store: Arc<HollowStore>) -> Result<Writer, Failed> {
        let keys = read_opening(&self.key("maintenance.key"), Role::Maintenance)?;
        let repository = Arc::new(Repository::open_as_keeper(store, &keys).await?);
        let signing: SigningKey = keys.signing()?;
        Ok(Writer::new(repository, Arc::new(signing), 0))
    }

    /// Opens it as a restorer does.
    ///
    /// # Errors
    /// As [`Repository::open_as_restorer`].
    pub async fn as_restorer(&self, store: Arc<HollowStore>) -> Result<Arc<Repository>, Failed> {
        let keys = read_opening(&self.key("restore.key"), Role::Restore)?;
        Ok(Arc::new(Repository::open_as_restorer(store, &keys).await?))
    }
}

/// Bytes of the files below a directory, as long as they say.
///
/// # Errors
/// It cannot be read.
pub fn bytes_below(directory: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        sum += match entry.file_type()?.is_dir() {
            true => bytes_below(&entry.path())?,
            false => entry.metadata()?.len(),
        };
    }
    Ok(sum)
}

/// An error of the store as that of a measurement.
#[must_use]
pub fn failed(error: StoreError) -> Failed {
    error.into()
}
