//! Where a component puts what it captures: into a pipeline, as files on a disk or as bytes that are handed over.

use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use store::StoreError;
use store::chunk::Grain;
use store::file_table::{EntryClass, FileEntry};
use store::pipeline::{FileJob, Handed, Listed, Outcome, Pipeline, UNKNOWN_SIZE};
use tokio::sync::mpsc;

use crate::{ComponentError, Stored};

/// Parts of a file that wait for the pipeline.
const LANE_PARTS: usize = 4;

/// The way of a backup into the repository.
#[derive(Debug)]
pub struct Sink {
    pipeline: Pipeline,
    before: Option<Stored>,
}

impl Sink {
    pub(crate) fn new(pipeline: Pipeline, before: Option<Stored>) -> Self {
        Sink { pipeline, before }
    }

    /// The backup of before, to be compared with; once.
    pub fn take_before(&mut self) -> Option<Stored> {
        self.before.take()
    }

    /// True for a file of an earlier backup whose content may be referred to. Otherwise it must be stored anew.
    #[must_use]
    pub fn may_keep(&self, entry: &FileEntry) -> bool {
        entry.crc32c.is_some() && self.pipeline.may_refer_to(&entry.content)
    }

    /// Copies files that lie on a disk, in the order of their paths. Gives the source back.
    ///
    /// # Errors
    /// The source's own, a file that cannot be read, or the repository failed.
    pub async fn copy<S>(&mut self, source: S) -> Result<S, ComponentError>
    where
        S: Iterator<Item = Result<Listed, StoreError>> + Send + 'static,
    {
        Ok(self.pipeline.copy(source).await?)
    }

    /// Copies what `produce` hands over, several files at once if it likes. All is lost when it fails, or leaves a file without its end.
    ///
    /// # Errors
    /// What `produce` returns, or the repository failed.
    pub async fn hand<T, P, F>(&mut self, produce: P) -> Result<T, ComponentError>
    where
        P: FnOnce(Lanes) -> F + Send,
        F: Future<Output = Result<T, ComponentError>> + Send,
    {
        let (files, incoming) = mpsc::channel(1);
        let is_broken = Arc::new(AtomicBool::new(false));
        let lanes = Lanes {
            files,
            is_broken: Arc::clone(&is_broken),
        };
        let (copied, produced) = tokio::join!(self.pipeline.copy_handed(incoming), produce(lanes));
        match (produced, copied) {
            (Ok(produced), Ok(())) if !is_broken.load(Ordering::Acquire) => Ok(produced),
            (Ok(_), Ok(())) => Err(ComponentError::Stopped),
            (Ok(_) | Err(ComponentError::Stopped), Err(error)) => Err(error.into()),
            (Err(error), _) => Err(error),
        }
    }

    pub(crate) async fn finish(self) -> Result<Outcome, ComponentError> {
        Ok(self.pipeline.finish().await?)
    }
}

/// Opens files in a backup.
#[derive(Clone, Debug)]
pub struct Lanes {
    files: mpsc::Sender<Handed>,
    is_broken: Arc<AtomicBool>,
}

impl Lanes {
    /// Begins a file.
    ///
    /// # Errors
    /// [`ComponentError::Stopped`]: the pipeline has failed, and says why itself.
    pub async fn open(&self, path: &str) -> Result<Lane, ComponentError> {
        self.open_cut(path, Grain::Usual).await
    }

    /// The same, cut as is said.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_cut(&self, path: &str, grain: Grain) -> Result<Lane, ComponentError> {
        self.open_file(plain(path.as_bytes()), grain).await
    }

    /// Begins a file with a path of any bytes.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_at(&self, path: &[u8]) -> Result<Lane, ComponentError> {
        self.open_file(plain(path), Grain::Usual).await
    }

    /// Begins a file with a mode and attributes.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_file(&self, job: FileJob, grain: Grain) -> Result<Lane, ComponentError> {
        let (to, bytes) = mpsc::channel(LANE_PARTS);
        let handed = self.files.send(Handed { job, bytes, grain }).await;
        handed.map_err(|_| ComponentError::Stopped)?;
        Ok(Lane {
            to,
            is_broken: Arc::clone(&self.is_broken),
            is_whole: false,
            bytes: 0,
        })
    }
}

/// A file that is being handed over. Dropped without [`Lane::finish`], it breaks the backup off.
#[derive(Debug)]
pub struct Lane {
    to: mpsc::Sender<Bytes>,
    is_broken: Arc<AtomicBool>,
    is_whole: bool,
    bytes: u64,
}

impl Lane {
    /// The next bytes. Waits while the pipeline has enough.
    ///
    /// # Errors
    /// [`ComponentError::Stopped`]: the pipeline has failed, and says why itself.
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), ComponentError> {
        self.bytes += bytes.len() as u64;
        self.to.send(bytes).await.map_err(|_| ComponentError::Stopped)
    }

    /// The file is whole; returns its bytes.
    pub fn finish(mut self) -> u64 {
        self.is_whole = true;
        self.bytes
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if !self.is_whole {
            self.is_broken.store(true, Ordering::Release);
        }
    }
}

/// A file that is for its owner alone.
fn plain(path: &[u8]) -> FileJob {
    FileJob {
        path: path.to_vec(),
        on_disk: PathBuf::from(OsStr::from_bytes(path)),
        mode: 0o600,
        size: UNKNOWN_SIZE,
        class: EntryClass::Content,
        first_block: 0,
        is_judged: false,
        may_vanish: false,
        attributes: None,
    }
}
