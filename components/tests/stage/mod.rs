//! A repository in memory, into which any component is captured, and from which it is restored.

// Each test program uses some of it.
#![allow(dead_code)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use components::restore::{RestoreOptions, Restored, restore};
use components::take::{TakeInputs, take};
use components::{Component, ComponentError, Stored};
use store::keys::SigningKey;
use store::manifest::Manifest;
use store::object::memory::MemoryStore;
use store::pipeline::{Clock, Pace, Progress};
use store::repository::{Created, Repository, create};
use store::testing::{NEW_REPOSITORY, RecordingStore};

pub struct Stage {
    pub host: Arc<Repository>,
    pub restorer: Arc<Repository>,
    pub store: Arc<RecordingStore<MemoryStore>>,
    pub directory: tempfile::TempDir,
    created: Created,
}

impl Stage {
    pub async fn new() -> Stage {
        Self::below_directory(&std::env::temp_dir()).await
    }

    /// With its files below another directory than that for temporary ones.
    pub async fn below_directory(above: &Path) -> Stage {
        let store = Arc::new(RecordingStore::new(MemoryStore::new()));
        let (created, host) = create(store.clone(), NEW_REPOSITORY, |_| Ok(())).await.unwrap();
        let restorer = Repository::open_as_restorer(store.clone(), &created.restore)
            .await
            .unwrap();
        let directory = tempfile::tempdir_in(above).unwrap();
        // Servers of another user are below it.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Stage {
            host,
            restorer: Arc::new(restorer),
            store,
            directory,
            created,
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
        Self::clock_after(Duration::ZERO)
    }

    /// As if so much time had passed.
    pub fn clock_after(after: Duration) -> Clock {
        Arc::new(move || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + after;
            i64::try_from(now.as_micros()).unwrap()
        })
    }

    pub async fn take(&self, component: &dyn Component) -> Result<Manifest, ComponentError> {
        self.take_at(component, Pace::default()).await
    }

    pub async fn take_at(&self, component: &dyn Component, pace: Pace) -> Result<Manifest, ComponentError> {
        let inputs = TakeInputs {
            repository: Arc::clone(&self.host),
            signing: Arc::new(SigningKey::from_seed(self.created.host.signing.seed().clone()).unwrap()),
            name: "it".into(),
            jobs: 2,
            uploads_in_flight: 2,
            pace: Arc::new(pace),
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
        self.restore_part(manifest, to, over, &[]).await
    }

    pub async fn restore_part(
        &self,
        manifest: &Manifest,
        to: &Path,
        over: bool,
        only: &[&str],
    ) -> Result<Restored, ComponentError> {
        let options = RestoreOptions {
            to: to.to_owned(),
            only: only.iter().map(|path| path.as_bytes().to_vec()).collect(),
            over,
            owners: rustix::process::geteuid().is_root(),
            ..RestoreOptions::default()
        };
        restore(&self.stored(manifest), self.restorer.keys(), &options, &|_| ()).await
    }

    /// Into a new directory, which is returned.
    pub async fn bring_back(&self, manifest: &Manifest, name: &str) -> PathBuf {
        let to = self.path(name);
        self.restore(manifest, &to, false).await.unwrap();
        to
    }

    /// Nothing is listed.
    pub async fn is_empty(&self) -> bool {
        self.host.component_manifests().await.unwrap().is_empty()
    }
}
