//! A repository in memory, into which any component is captured, and from which it is restored.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use components::restore::{RestoreOptions, Restored, restore};
use components::take::{TakeInputs, take};
use components::{Component, ComponentError, Stored};
use store::keys::SigningKey;
use store::manifest::Manifest;
use store::object::memory::MemoryStore;
use store::pipeline::{Clock, Pace, PaceLimits, Progress};
use store::repository::{Created, Repository, create};
use store::testing::NEW_REPOSITORY;

pub struct Stage {
    pub host: Arc<Repository>,
    pub restorer: Arc<Repository>,
    created: Created,
    directory: tempfile::TempDir,
}

impl Stage {
    pub async fn new() -> Stage {
        Self::below_directory(&std::env::temp_dir()).await
    }

    /// With its files below another directory than that for temporary ones.
    pub async fn below_directory(above: &Path) -> Stage {
        let store = Arc::new(MemoryStore::new());
        let (created, host) = create(store.clone(), NEW_REPOSITORY, |_| Ok(())).await.unwrap();
        let restorer = Repository::open_as_restorer(store, &created.restore).await.unwrap();
        Stage {
            host,
            restorer: Arc::new(restorer),
            created,
            directory: tempfile::tempdir_in(above).unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where a path of this host comes back below a directory.
    pub fn below(&self, to: &Path, path: &Path) -> PathBuf {
        to.join(path.strip_prefix("/").unwrap())
    }

    pub fn clock() -> Clock {
        Arc::new(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            i64::try_from(now.as_micros()).unwrap()
        })
    }

    pub async fn take(&self, component: &dyn Component) -> Result<Manifest, ComponentError> {
        self.take_at(component, None).await
    }

    /// At so many bytes a second.
    pub async fn take_at(
        &self,
        component: &dyn Component,
        bytes_per_second: Option<u64>,
    ) -> Result<Manifest, ComponentError> {
        let inputs = TakeInputs {
            repository: Arc::clone(&self.host),
            signing: Arc::new(SigningKey::from_seed(self.created.host.signing.seed().clone()).unwrap()),
            name: "code".into(),
            jobs: 2,
            uploads_in_flight: 2,
            pace: Arc::new(Pace::new(PaceLimits {
                bytes_per_second,
                ..PaceLimits::default()
            })),
            duration_max: Duration::from_secs(600),
            progress: Arc::new(Progress::default()),
            label: None,
            point: None,
            host_name: "h".into(),
            now_us: Self::clock(),
        };
        take(component, inputs).await
    }

    pub fn stored(&self, manifest: &Manifest) -> Stored {
        Stored::new(Arc::clone(&self.restorer), manifest.clone())
    }

    pub async fn restore(&self, manifest: &Manifest, to: &Path, over: bool) -> Result<Restored, ComponentError> {
        let options = RestoreOptions {
            to: to.to_owned(),
            over,
            owners: rustix::process::geteuid().is_root(),
            ..RestoreOptions::default()
        };
        restore(&self.stored(manifest), self.restorer.keys(), &options, &|_| ()).await
    }
}
