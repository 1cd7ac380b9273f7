//! A repository in memory, and a component that is captured into it and restored from it.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use components::redis::{Address, Dial, Plain, Redis, Servers, Stream, Waits};
use components::restore::{RestoreOptions, restore};
use components::take::{TakeInputs, take};
use components::{ComponentError, Stored};
use store::keys::SigningKey;
use store::manifest::Manifest;
use store::object::memory::MemoryStore;
use store::pipeline::{Pace, Progress};
use store::repository::{Created, Repository, create};
use store::testing::NEW_REPOSITORY;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub struct Stage {
    pub host: Arc<Repository>,
    restorer: Arc<Repository>,
    created: Created,
    pub directory: tempfile::TempDir,
}

impl Stage {
    pub async fn new() -> Stage {
        let store = Arc::new(MemoryStore::new());
        let (created, host) = create(store.clone(), NEW_REPOSITORY, |_| Ok(())).await.unwrap();
        let restorer = Repository::open_as_restorer(store, &created.restore).await.unwrap();
        Stage {
            host,
            restorer: Arc::new(restorer),
            created,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Without a password, and with a server that loads what is restored.
    pub fn redis(&self, server: Address, program: Option<&Path>) -> Redis {
        Redis {
            servers: Servers::One(server),
            login: None,
            dial: Arc::new(Plain),
            waits: Waits {
                answer_max: Duration::from_secs(20),
                silence_max: Duration::from_secs(30),
                load_max: Duration::from_secs(60),
            },
            spares_master: true,
            program: program.map(Path::to_owned),
            scratch: self.directory.path().to_owned(),
            now_us: Arc::new(|| {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                i64::try_from(now.as_micros()).unwrap()
            }),
        }
    }

    pub async fn take(&self, redis: &Redis) -> Result<Manifest, ComponentError> {
        let inputs = TakeInputs {
            repository: Arc::clone(&self.host),
            signing: Arc::new(SigningKey::from_seed(self.created.host.signing.seed().clone()).unwrap()),
            name: "cache".into(),
            jobs: 2,
            uploads_in_flight: 2,
            pace: Arc::new(Pace::default()),
            duration_max: Duration::from_secs(120),
            progress: Arc::new(Progress::default()),
            label: None,
            point: None,
            host_name: "h".into(),
            now_us: redis.now_us.clone(),
        };
        take(redis, inputs).await
    }

    /// Into a new directory.
    pub async fn restore(&self, manifest: &Manifest, name: &str) -> PathBuf {
        let options = RestoreOptions {
            to: self.path(name),
            ..RestoreOptions::default()
        };
        let stored = Stored::new(Arc::clone(&self.restorer), manifest.clone());
        restore(&stored, self.restorer.keys(), &options, &|_| ()).await.unwrap();
        options.to
    }

    /// Nothing is listed.
    pub async fn is_empty(&self) -> bool {
        self.host.component_manifests().await.unwrap().is_empty()
    }
}

/// Something that is done once.
pub type Call = Box<dyn FnOnce() + Send>;

/// What happens to a stream behind so many bytes.
#[derive(Clone)]
pub enum Fault {
    /// It ends as if the server had closed it.
    Ends,
    /// Nothing comes any more.
    Hangs,
    /// A byte is another.
    Flips,
    /// Something happens, once.
    Calls(Arc<Mutex<Option<Call>>>),
}

/// Streams with a fault in what is read.
#[derive(Clone)]
pub struct Faulty {
    pub behind: u64,
    pub fault: Fault,
}

impl std::fmt::Debug for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faulty")
            .field("behind", &self.behind)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Dial for Faulty {
    async fn dial(&self, to: &Address) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(FaultyStream {
            stream: Plain.dial(to).await?,
            read: 0,
            faulty: self.clone(),
        }))
    }
}

struct FaultyStream {
    stream: Box<dyn Stream>,
    read: u64,
    faulty: Faulty,
}

impl AsyncRead for FaultyStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.faulty.behind.saturating_sub(self.read);
        match (&self.faulty.fault, left) {
            (Fault::Ends, 0) => return Poll::Ready(Ok(())),
            (Fault::Hangs, 0) => return Poll::Pending,
            (Fault::Calls(call), 0) => {
                if let Some(call) = call.lock().unwrap().take() {
                    call();
                }
            }
            _ => {}
        }
        let most = match left {
            0 => buffer.remaining(),
            left => buffer.remaining().min(usize::try_from(left).unwrap()),
        };
        let mut part = vec![0; most];
        let mut part = ReadBuf::new(&mut part);
        match Pin::new(&mut self.stream).poll_read(context, &mut part) {
            Poll::Ready(Ok(())) => {
                let bytes = part.filled_mut();
                if matches!(self.faulty.fault, Fault::Flips)
                    && left == bytes.len() as u64
                    && let Some(last) = bytes.last_mut()
                {
                    *last ^= 0x10;
                }
                self.read += bytes.len() as u64;
                buffer.put_slice(bytes);
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

impl AsyncWrite for FaultyStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
