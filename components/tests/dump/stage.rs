//! A repository in memory, and databases that are captured into it and restored from it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use components::dump::load::{Database, LoadOptions, Source, Target};
use components::dump::{self, Dump, Places, Selection, Trials, counts_of, dump_of, parse_counts};
use components::restore::{RestoreOptions, restore};
use components::take::{TakeInputs, take};
use components::{ComponentError, Stored};
use store::file_table::FileEntry;
use store::keys::SigningKey;
use store::manifest::Manifest;
use store::object::memory::MemoryStore;
use store::pipeline::{Pace, Progress};
use store::repository::{Created, Repository, create};
use store::testing::{NEW_REPOSITORY, RecordingStore};

use crate::server::{Server, bin, user};

pub struct Stage {
    pub host: Arc<Repository>,
    restorer: Arc<Repository>,
    created: Created,
    pub store: Arc<RecordingStore<MemoryStore>>,
    pub directory: tempfile::TempDir,
}

impl Stage {
    pub async fn new() -> Stage {
        let store = Arc::new(RecordingStore::new(MemoryStore::new()));
        let (created, host) = create(store.clone(), NEW_REPOSITORY, |_| Ok(())).await.unwrap();
        let restorer = Repository::open_as_restorer(store.clone(), &created.restore)
            .await
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        // Servers of another user are below it.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Stage {
            host,
            restorer: Arc::new(restorer),
            created,
            store,
            directory,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// All databases, by the programs of the server's version.
    pub fn dump(&self, server: &Server) -> Dump {
        Dump {
            server: server.by_socket(),
            database: None,
            selection: Selection::default(),
            globals: true,
            role_passwords: true,
            counts_rows: true,
            jobs: 2,
            places: Places {
                directory: Some(bin(server.major)),
                path: Vec::new(),
            },
            trials: Some(Trials {
                programs: None,
                scratch: self.directory.path().to_owned(),
                user: user(),
            }),
            now_us: Arc::new(|| {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                i64::try_from(now.as_micros()).unwrap()
            }),
        }
    }

    pub async fn take(&self, dump: &Dump) -> Result<Manifest, ComponentError> {
        self.take_at(dump, Pace::default()).await
    }

    pub async fn take_at(&self, dump: &Dump, pace: Pace) -> Result<Manifest, ComponentError> {
        let inputs = TakeInputs {
            repository: Arc::clone(&self.host),
            signing: Arc::new(SigningKey::from_seed(self.created.host.signing.seed().clone()).unwrap()),
            name: "dumps".into(),
            jobs: 2,
            uploads_in_flight: 2,
            pace: Arc::new(pace),
            duration_max: Duration::from_secs(120),
            progress: Arc::new(Progress::default()),
            label: None,
            point: None,
            host_name: "h".into(),
            now_us: dump.now_us.clone(),
        };
        take(dump, inputs).await
    }

    pub fn stored(&self, manifest: &Manifest) -> Stored {
        Stored::new(Arc::clone(&self.restorer), manifest.clone())
    }

    /// Into a new directory.
    pub async fn restore(&self, manifest: &Manifest, name: &str) -> PathBuf {
        let options = RestoreOptions {
            to: self.path(name),
            ..RestoreOptions::default()
        };
        let stored = self.stored(manifest);
        restore(&stored, self.restorer.keys(), &options, &|_| ()).await.unwrap();
        options.to
    }

    /// A file of a backup, and its bytes.
    pub async fn file(&self, manifest: &Manifest, path: &str) -> (FileEntry, Vec<u8>) {
        let mut stored = self.stored(manifest);
        while let Some(piece) = stored.next_piece().await.unwrap() {
            let Some(entry) = piece.into_iter().find(|entry| entry.path.as_slice() == path.as_bytes()) else {
                continue;
            };
            let mut bytes = Vec::new();
            let read = stored.in_order(&entry, async |part| {
                bytes.extend_from_slice(&part);
                Ok(())
            });
            read.await.unwrap();
            return (entry, bytes);
        }
        panic!("{path} is not in the backup");
    }

    /// The dump of a database, to be loaded from the repository.
    pub async fn database(&self, manifest: &Manifest, name: &str) -> Database {
        let (entry, _) = self.file(manifest, &dump_of(name)).await;
        let (_, counts) = self.file(manifest, &counts_of(name)).await;
        Database {
            source: Source::Stored(self.stored(manifest), Box::new(entry)),
            counts: parse_counts(name, &counts).unwrap(),
        }
    }

    pub async fn globals(&self, manifest: &Manifest) -> Source {
        let (entry, _) = self.file(manifest, dump::GLOBALS).await;
        Source::Stored(self.stored(manifest), Box::new(entry))
    }

    /// Where a server's programs load into it.
    pub async fn target(&self, server: &Server, database: &str) -> Target {
        let places = Places {
            directory: Some(bin(server.major)),
            path: Vec::new(),
        };
        Target {
            server: dump::Server {
                conninfo: format!("dbname={database}"),
                ..server.by_socket()
            },
            programs: places.for_major(server.major).await.unwrap(),
        }
    }

    pub fn options(&self) -> LoadOptions {
        LoadOptions {
            scratch: self.directory.path().to_owned(),
            ..LoadOptions::default()
        }
    }

    /// Nothing is listed.
    pub async fn is_empty(&self) -> bool {
        self.host.component_manifests().await.unwrap().is_empty()
    }
}
