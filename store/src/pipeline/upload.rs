//! The end of the pipeline: full packs become objects, a bounded number at a time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::progress::Progress;
use super::rooms::Rooms;
use crate::error::StoreError;
use crate::id::Digest;
use crate::limits::PACK_BYTES;
use crate::object::ObjectName;
use crate::pack::{PackBody, room_bytes};
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
    rooms: Rooms,
    /// Packs that were started.
    started: u64,
    waiting: Arc<Mutex<Waiting>>,
}

/// What is not durable yet, and what may be written when it is.
#[derive(Debug, Default)]
struct Waiting {
    /// Numbers of packs.
    packs: BTreeSet<u64>,
    note: Option<Note>,
}

impl Waiting {
    /// The note, when nothing that it waits for is left.
    fn due(&mut self) -> Option<Note> {
        let oldest = self.packs.first().copied();
        self.note
            .take_if(|note| oldest.is_none_or(|oldest| oldest > note.behind))
    }
}

/// An object that may be written when all packs up to a number are durable. What it is for is worth no failure.
#[derive(Debug)]
struct Note {
    behind: u64,
    name: ObjectName,
    bytes: Bytes,
    digest: Digest,
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
            rooms: Rooms::new(room_bytes(PACK_BYTES)),
            started: 0,
            waiting: Arc::default(),
        }
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    pub(super) fn writer(&self) -> &Arc<Writer> {
        &self.writer
    }

    /// Memory for a data pack.
    pub(super) fn room(&self) -> Vec<u8> {
        self.rooms.take()
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
        let digest = pack.digest;
        let (name, bytes) = self.writer.encode_pack(pack, Some(&self.session), now_us)?;
        let stored = bytes.len() as u64;
        self.started += 1;
        let number = self.started;
        lock(&self.waiting).packs.insert(number);
        let (writer, progress) = (Arc::clone(&self.writer), Arc::clone(&self.progress));
        let waiting = Arc::clone(&self.waiting);
        let rooms = self.rooms.clone();
        let upload = async move {
            writer.create(&name, bytes.clone(), digest).await?;
            rooms.give(bytes);
            progress.stored(stored);
            let due = {
                let mut waiting = lock(&waiting);
                waiting.packs.remove(&number);
                waiting.due()
            };
            if let Some(note) = due {
                write(&writer, note).await;
            }
            // Not before: another pack that fails would end this task, and the note with it.
            drop(permit);
            Ok(())
        };
        self.running.spawn_on(upload, &self.runtime);
        Ok(stored)
    }

    /// Writes an object when every pack that was started until now is durable; one that still waits is dropped for it.
    pub(super) fn note(&mut self, name: ObjectName, bytes: Bytes, digest: Digest) {
        let due = {
            let mut waiting = lock(&self.waiting);
            waiting.note = Some(Note {
                behind: self.started,
                name,
                bytes,
                digest,
            });
            waiting.due()
        };
        if let Some(note) = due {
            let writer = Arc::clone(&self.writer);
            let write = async move {
                write(&writer, note).await;
                Ok(())
            };
            self.running.spawn_on(write, &self.runtime);
        }
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

/// Without it nothing is lost but time, should this backup not come to its end.
async fn write(writer: &Writer, note: Note) {
    if let Err(error) = writer.create(&note.name, note.bytes, note.digest).await {
        tracing::warn!(%error, "cannot note how far the backup has come; were it to end now, another would begin earlier");
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
