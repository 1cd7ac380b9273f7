//! The end of the pipeline: full packs become objects, a bounded number at a time.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::progress::Progress;
use crate::error::StoreError;
use crate::pack::PackBody;
use crate::repository::Writer;
use crate::session::Session;

/// Uploads in flight. A permit is held from before a pack is signed until it is durable, so `in_flight` packs and no more are in
/// memory here.
#[derive(Debug)]
pub(super) struct Uploads {
    writer: Arc<Writer>,
    session: Session,
    runtime: Handle,
    permits: Arc<Semaphore>,
    running: JoinSet<Result<(), StoreError>>,
    progress: Arc<Progress>,
}

impl Uploads {
    pub(super) fn new(
        writer: Arc<Writer>,
        session: Session,
        runtime: Handle,
        in_flight: usize,
        progress: Arc<Progress>,
    ) -> Self {
        Uploads {
            writer,
            session,
            runtime,
            permits: Arc::new(Semaphore::new(in_flight.max(1))),
            running: JoinSet::new(),
            progress,
        }
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    pub(super) fn writer(&self) -> &Arc<Writer> {
        &self.writer
    }

    /// Waits for a free place, signs the pack and starts its upload; returns the bytes of the object. Blocks: never call it from
    /// async code.
    ///
    /// # Errors
    /// The pack cannot be signed, or an earlier upload failed.
    pub(super) fn start(&mut self, pack: PackBody, now_us: i64) -> Result<u64, StoreError> {
        let closed = |_| StoreError::Stage("upload");
        let permit = self
            .runtime
            .block_on(Arc::clone(&self.permits).acquire_owned())
            .map_err(closed)?;
        while let Some(done) = self.running.try_join_next() {
            done.map_err(|_| StoreError::Stage("upload"))??;
        }
        let (name, bytes) = self.writer.encode_pack(&pack, Some(&self.session), now_us)?;
        let digest = pack.digest;
        drop(pack);
        let stored = bytes.len() as u64;
        let (writer, progress) = (Arc::clone(&self.writer), Arc::clone(&self.progress));
        let upload = async move {
            let result = writer
                .create(&name, bytes, digest)
                .await
                .map(|_| progress.stored(stored));
            drop(permit);
            result
        };
        self.running.spawn_on(upload, &self.runtime);
        Ok(stored)
    }

    /// Waits until every pack is durable.
    ///
    /// # Errors
    /// One of them is not.
    pub(super) async fn drain(&mut self) -> Result<(), StoreError> {
        while let Some(done) = self.running.join_next().await {
            done.map_err(|_| StoreError::Stage("upload"))??;
        }
        Ok(())
    }
}
