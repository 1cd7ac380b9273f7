//! Files to packs: read → check → digest → compare → compress → seal → upload, in parallel and in bounded memory.
//!
//! Place in the path: a backup calls [`Pipeline::start`], [`Pipeline::copy`] for the files, [`Pipeline::add_content`] for what it read
//! itself (`pg_control`, last), and [`Pipeline::finish`]; then [`commit`] writes index and manifest. No policy lives here: which
//! files, which parent and which page is believed is the caller's matter ([`FileJob`], [`Parent`], [`PageCheck`]).
//!
//! Stages: one thread loads page maps of the parent, one opens files, `jobs` workers read and encode units of 1 MiB, one packs, tokio
//! tasks upload. Relation files are compared page by page by keyed digest; everything else is cut by content and looked up by id.
//!
//! Memory: (`uploads_in_flight` + 1) packs of 16 MiB that are sent or signed, 2 that are filled, 5 MiB a worker for its buffers and
//! what it has in the lane, and three batches of page maps (8 MiB of digests each, for 4 GiB of relation files). The file table
//! is written as the files are finished, the parent's is kept compressed.
//!
//! Law 4: a file that cannot be read fails the copy, unless it went away and may. Law 5: `Compressor` and `PackWriter` check what
//! they produce. A crash leaves packs that nothing names; dropping a [`Pipeline`] stops its threads.

mod account;
mod assemble;
mod batch;
mod bits;
mod careful;
pub mod commit;
mod content;
mod copy;
pub mod earlier;
mod fetch;
mod foreseen;
mod job;
mod milestone;
mod pace;
mod packer;
mod parent;
mod progress;
mod rooms;
mod source;
mod stale;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod upload;
mod worker;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use minicbor::bytes::ByteVec;
use tokio::runtime::Handle;

pub use foreseen::Foreseen;
use job::Measured;
pub use job::{BelieveAll, FileJob, Listed, PackFilter, PageCheck, Reread, Stored, UNKNOWN_SIZE};
pub use pace::{Pace, PaceLimits};
pub use parent::Parent;
pub use progress::{Progress, ProgressNow};
pub use source::read_up_to;
pub use stream::{Handed, Streamed};

use crate::chunk::{ChunkReference, ContentReference};
use crate::error::StoreError;
use crate::file_table::FileEntry;
use crate::id::{BackupId, LineageId};
use crate::index::ChunkIndex;
use crate::manifest::{CorruptPage, PackNeed, Totals};
use crate::repository::Writer;
use crate::session::Session;
use copy::{Copy, Stop};
use milestone::Milestones;
use packer::Packer;
use stale::RewriteBudget;
use upload::Uploads;
pub(crate) use worker::encode;
use worker::{Common, Worker};

/// Microseconds since 1970, from whoever owns a clock.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// What a pipeline needs to know.
pub struct PipelineInputs {
    /// The backup that is taken.
    pub backup: BackupId,
    /// Signs and creates packs.
    pub writer: Arc<Writer>,
    /// Session that protects the data packs.
    pub session: Session,
    /// Lineage of the backup.
    pub lineage: LineageId,
    /// Backup to compare with.
    pub parent: Option<Parent>,
    /// Content chunks of earlier backups.
    pub index: ChunkIndex,
    /// Which packs may be referenced again.
    pub filter: PackFilter,
    /// Judges pages.
    pub check: Arc<dyn PageCheck>,
    /// Workers that read and encode.
    pub jobs: usize,
    /// Packs that are uploaded at the same time.
    pub uploads_in_flight: usize,
    /// How often it is noted how far the backup has come.
    pub milestones_every: Duration,
    /// How fast it may be.
    pub pace: Arc<Pace>,
    /// Counters for people.
    pub progress: Arc<Progress>,
    /// Time of writing, for headers.
    pub now_us: Clock,
}

impl Debug for PipelineInputs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PipelineInputs")
            .field("lineage", &self.lineage)
            .field("jobs", &self.jobs)
            .finish_non_exhaustive()
    }
}

/// A backup's packs, being written.
pub struct Pipeline {
    state: Option<State>,
    common: Arc<Common>,
    parent: Option<Arc<Parent>>,
    writer: Arc<Writer>,
    jobs: usize,
    stop: Arc<Stop>,
}

/// What the blocking stages own while they run.
struct State {
    packer: Packer,
    worker: Worker,
    next_number: u64,
}

impl Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("jobs", &self.jobs)
            .finish_non_exhaustive()
    }
}

/// What a finished pipeline wrote. Every pack that it names is durable.
#[derive(Debug)]
pub struct Outcome {
    /// Pieces of the file table, for the manifest.
    pub file_table: Vec<ChunkReference>,
    /// Packs that the backup needs, with the stored bytes that it needs of each.
    pub packs: Vec<PackNeed>,
    /// Sizes; the caller adds the bytes of the index.
    pub totals: Totals,
    /// Content chunks that are new.
    pub index: ChunkIndex,
    /// Pages that the check reported.
    pub corrupt_pages: Vec<CorruptPage>,
    /// Files that went away before they were opened.
    pub vanished: Vec<ByteVec>,
    /// Files of a component that changed while they were read.
    pub changed: Vec<ByteVec>,
}

impl Pipeline {
    /// Prepares a pipeline. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// A compressor cannot be made.
    pub fn start(inputs: PipelineInputs) -> Result<Self, StoreError> {
        let PipelineInputs {
            backup,
            writer,
            session,
            lineage,
            parent,
            index,
            filter,
            check,
            jobs,
            uploads_in_flight,
            milestones_every,
            pace,
            progress,
            now_us,
        } = inputs;
        let common = Arc::new(Common {
            keys: writer.repository().keys().clone(),
            check,
            budget: RewriteBudget::new(filter.rewrite_bytes),
            filter,
            index,
            pace,
            progress: Arc::clone(&progress),
        });
        let uploads = Uploads::new(
            Arc::clone(&writer),
            session,
            Handle::current(),
            uploads_in_flight,
            Arc::clone(&progress),
        );
        let milestones = Milestones::new(backup, milestones_every);
        let mut packer = Packer::new(uploads, lineage, now_us, milestones, progress)?;
        if let Some(parent) = &parent {
            packer.accounts.parent_needs_all(&parent.needs);
            if parent.is_mixed() {
                packer.accounts.distrust_parent();
            }
            let usable = parent
                .known_metadata
                .iter()
                .filter(|(_, at)| common.filter.is_usable(at.pack));
            packer.known_metadata.extend(usable.map(|(id, at)| (*id, *at)));
        }
        let state = State {
            packer,
            worker: Worker::new(Arc::clone(&common))?,
            next_number: 0,
        };
        Ok(Pipeline {
            state: Some(state),
            common,
            parent: parent.map(Arc::new),
            writer,
            jobs: jobs.max(1),
            stop: Arc::default(),
        })
    }

    /// True when content of an earlier backup may be referred to as [`Listed::Kept`].
    #[must_use]
    pub fn may_refer_to(&self, content: &[ContentReference]) -> bool {
        content.iter().all(|at| self.common.filter.exists(at.pack))
    }

    /// Copies the files that a source lists, in the order of their paths, and gives the source back. What it expects to list was told
    /// to [`Progress::expect`]. After an error the pipeline is of no more use.
    ///
    /// # Errors
    /// One of the source's, a file cannot be read, a path that is not behind the one before, a limit, the encoding check, or the store
    /// failed.
    pub async fn copy<S>(&mut self, mut source: S) -> Result<S, StoreError>
    where
        S: Iterator<Item = Result<Listed, StoreError>> + Send + 'static,
    {
        self.copying(move |copy, packer| {
            let last = copy.run(&mut source, packer)?;
            Ok((last, source))
        })
        .await
    }

    /// Copies files that are handed over, in any order, until the lane is closed. A lane that is closed within a file is an error, and so
    /// is one whose files are not all that there are: whoever closes it early must not call [`Pipeline::finish`].
    ///
    /// # Errors
    /// As [`Pipeline::copy`].
    pub async fn copy_stream(&mut self, mut stream: tokio::sync::mpsc::Receiver<Streamed>) -> Result<(), StoreError> {
        self.copying(move |copy, packer| {
            packer.table.take_in_any_order();
            Ok((copy.run_stream(&mut stream, packer)?, ()))
        })
        .await
    }

    /// Copies files without pages that are handed over side by side, in any order, until the lane is closed. Whoever breaks a file off must not
    /// call [`Pipeline::finish`].
    ///
    /// # Errors
    /// As [`Pipeline::copy`].
    pub async fn copy_handed(&mut self, mut files: tokio::sync::mpsc::Receiver<Handed>) -> Result<(), StoreError> {
        self.copying(move |copy, packer| {
            packer.table.take_in_any_order();
            Ok((copy.run_handed(&mut files, packer)?, ()))
        })
        .await
    }

    /// Goes the way of [`Pipeline::copy`] without reading a relation file, to measure what a backup of any size takes: see [`Foreseen`].
    /// What it stores is a backup of nothing.
    ///
    /// # Errors
    /// As [`Pipeline::copy`]; anything but relation files with pages.
    pub async fn copy_foreseen<S>(&mut self, mut source: S, foreseen: Foreseen) -> Result<(), StoreError>
    where
        S: Iterator<Item = Result<Listed, StoreError>> + Send + 'static,
    {
        self.copying(move |copy, packer| Ok((copy.run_foreseen(&mut source, &Arc::new(foreseen), packer)?, ())))
            .await
    }

    /// Adds a file whose bytes the caller has read. It stands behind those of [`Pipeline::copy`] in the table.
    ///
    /// # Errors
    /// As [`Pipeline::copy`].
    pub async fn add_content(&mut self, job: FileJob, bytes: Vec<u8>) -> Result<(), StoreError> {
        self.common.progress.expect(1, bytes.len() as u64);
        self.common.progress.read(bytes.len() as u64);
        self.blocking(move |state| {
            let pieces = state.worker.content_of(&bytes)?;
            state.packer.take_pieces(0, pieces)?;
            let content = state.packer.take_content(0);
            let entry = job.entry(Measured::default().and(&bytes));
            state.packer.add_late(FileEntry { content, ..entry });
            Ok(())
        })
        .await
    }

    /// Writes the file table, waits until every pack is durable, and counts what is needed of which pack.
    ///
    /// # Errors
    /// As [`Pipeline::copy`]; a pack of an earlier backup that is referenced is missing.
    pub async fn finish(mut self) -> Result<Outcome, StoreError> {
        let parent = self.parent.clone();
        let file_table = self
            .blocking(move |state| {
                let pieces = state.packer.write_table()?;
                state.packer.close_all()?;
                Ok(pieces)
            })
            .await?;
        let mut packer = self.state.take().ok_or(StoreError::Stage("copy"))?.packer;
        packer.uploads.drain().await?;
        let manifest = parent.as_deref().and_then(Parent::manifest);
        let packs = packer.accounts.settle(self.writer.repository(), manifest).await?;
        let mut totals = packer.totals;
        totals.needed_bytes = packs.iter().map(|need| need.live_bytes).sum();
        packer
            .corrupt
            .sort_unstable_by(|a, b| (&a.path, a.block).cmp(&(&b.path, b.block)));
        packer.vanished.sort_unstable();
        packer.changed.sort_unstable();
        Ok(Outcome {
            file_table,
            packs,
            totals,
            index: packer.index,
            corrupt_pages: packer.corrupt,
            vanished: packer.vanished,
            changed: packer.changed,
        })
    }

    /// Runs a copy, which returns the number of its last file.
    async fn copying<T: Send + 'static>(
        &mut self,
        run: impl FnOnce(&Copy<'_>, &mut Packer) -> Result<(u64, T), StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (parent, writer, common) = (self.parent.clone(), Arc::clone(&self.writer), Arc::clone(&self.common));
        let (stop, threads, runtime) = (Arc::clone(&self.stop), self.jobs, Handle::current());
        self.blocking(move |state| {
            let copy = Copy {
                first_number: state.next_number,
                threads,
                repository: writer.repository(),
                parent: parent.as_deref(),
                common: &common,
                stop: &stop,
                runtime: &runtime,
            };
            let (last, done) = run(&copy, &mut state.packer)?;
            state.next_number = last;
            Ok(done)
        })
        .await
    }

    /// Runs a blocking stage on a thread that may block, and takes the state back.
    async fn blocking<T: Send + 'static>(
        &mut self,
        stage: impl FnOnce(&mut State) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut state = self.state.take().ok_or(StoreError::Stage("copy"))?;
        let run = move || {
            let result = stage(&mut state);
            (state, result)
        };
        let (state, result) = tokio::task::spawn_blocking(run)
            .await
            .map_err(|_| StoreError::Stage("copy"))?;
        self.state = result.is_ok().then_some(state);
        result
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.stop.stop();
    }
}
