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
//! stays in memory (some 200 bytes a file) until it is written.
//!
//! Law 4: a file that cannot be read fails the copy, unless it went away and may. Law 5: `Compressor` and `PackWriter` check what
//! they produce. A crash leaves packs that nothing names; dropping a [`Pipeline`] stops its threads.

mod account;
mod assemble;
pub mod commit;
mod content;
mod copy;
mod fetch;
mod job;
mod packer;
mod parent;
mod progress;
mod table;
#[cfg(test)]
mod tests;
mod upload;
mod worker;

use std::fmt::Debug;
use std::sync::Arc;

use minicbor::bytes::ByteVec;
use tokio::runtime::Handle;

pub use job::{BelieveAll, FileJob, PackFilter, PageCheck, Reread};
pub use parent::Parent;
pub use progress::{Progress, ProgressNow};

use crate::chunk::{ChunkReference, ContentReference};
use crate::error::StoreError;
use crate::file_table::FileEntry;
use crate::id::LineageId;
use crate::index::ChunkIndex;
use crate::manifest::{CorruptPage, PackNeed, Totals};
use crate::repository::Writer;
use crate::session::Session;
use copy::{Copy, Stop};
use packer::Packer;
use upload::Uploads;
use worker::{Common, Worker};

/// Microseconds since 1970, from whoever owns a clock.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// What a pipeline needs to know.
pub struct PipelineInputs {
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
    /// The entries in it.
    pub entries: Vec<FileEntry>,
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
}

impl Pipeline {
    /// Prepares a pipeline. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// A compressor cannot be made.
    pub fn start(inputs: PipelineInputs) -> Result<Self, StoreError> {
        let PipelineInputs {
            writer,
            session,
            lineage,
            parent,
            index,
            filter,
            check,
            jobs,
            uploads_in_flight,
            progress,
            now_us,
        } = inputs;
        let common = Arc::new(Common {
            keys: writer.repository().keys().clone(),
            check,
            filter,
            index,
            progress: Arc::clone(&progress),
        });
        let uploads = Uploads::new(
            Arc::clone(&writer),
            session,
            Handle::current(),
            uploads_in_flight,
            Arc::clone(&progress),
        );
        let mut packer = Packer::new(uploads, lineage, now_us, progress)?;
        if let Some(parent) = &parent {
            for entry in parent.entries.values() {
                for at in &entry.content {
                    packer.accounts.parent_needs(ChunkReference {
                        pack: at.pack,
                        number: at.number,
                    });
                }
                entry
                    .content_list
                    .iter()
                    .for_each(|at| packer.accounts.parent_needs(*at));
            }
            parent
                .manifest
                .file_table
                .iter()
                .for_each(|at| packer.accounts.parent_needs(*at));
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

    /// Copies files. May be called more than once; after an error the pipeline is of no more use.
    ///
    /// # Errors
    /// A file cannot be read, a limit, the encoding check, or the store failed.
    pub async fn copy(&mut self, jobs: Vec<FileJob>) -> Result<(), StoreError> {
        self.common
            .progress
            .expect(jobs.len() as u64, jobs.iter().map(|job| job.size).sum());
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
                jobs,
            };
            state.next_number += copy.jobs.len() as u64;
            copy.run(&mut state.packer)
        })
        .await
    }

    /// Adds a file whose bytes the caller has read.
    ///
    /// # Errors
    /// As [`Pipeline::copy`].
    pub async fn add_content(&mut self, job: FileJob, bytes: Vec<u8>) -> Result<(), StoreError> {
        self.common.progress.expect(1, bytes.len() as u64);
        self.common.progress.read(bytes.len() as u64);
        self.blocking(move |state| {
            state.next_number += 1;
            let pieces = state.worker.content_of(&bytes)?;
            state.packer.take_pieces(state.next_number, pieces)?;
            let content: Vec<ContentReference> = state.packer.take_content(state.next_number);
            state.packer.add_entry(FileEntry {
                content,
                ..job.entry(bytes.len() as u64)
            });
            Ok(())
        })
        .await
    }

    /// Adds directories and links.
    ///
    /// # Errors
    /// The pipeline failed before.
    pub fn add_entries(&mut self, entries: impl IntoIterator<Item = FileEntry>) -> Result<(), StoreError> {
        let state = self.state.as_mut().ok_or(StoreError::Stage("copy"))?;
        entries.into_iter().for_each(|entry| state.packer.add_entry(entry));
        Ok(())
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
        let manifest = parent.as_deref().map(Parent::manifest);
        let packs = packer.accounts.settle(self.writer.repository(), manifest).await?;
        let mut totals = packer.totals;
        totals.needed_bytes = packs.iter().map(|need| need.live_bytes).sum();
        packer
            .corrupt
            .sort_unstable_by(|a, b| (&a.path, a.block).cmp(&(&b.path, b.block)));
        packer.vanished.sort_unstable();
        Ok(Outcome {
            file_table,
            entries: packer.entries,
            packs,
            totals,
            index: packer.index,
            corrupt_pages: packer.corrupt,
            vanished: packer.vanished,
        })
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
