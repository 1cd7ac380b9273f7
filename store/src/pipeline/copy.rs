//! The threads of one copy and the lanes between them.
//!
//! maps → dispatch → workers (`jobs`) → packer. Every lane is bounded. The first error is kept and stops all stages: each looks at
//! the flag between two items, and a stage whose neighbour is gone ends too.

use std::collections::HashSet;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, Scope};

use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::runtime::Handle;

use super::content::ContentFile;
use super::job::FileJob;
use super::packer::{Message, Packer};
use super::parent::{ChainedMap, Parent, load_maps};
use super::worker::{Common, RelationFile, UNIT_PAGES, Worker};
use crate::error::StoreError;
use crate::file_table::{EntryClass, FileEntry};
use crate::limits::PAGE_BYTES;
use crate::repository::Repository;

/// Pages whose maps are loaded at once: 8 MiB of digests (4 GiB of relation files).
const BATCH_PAGES: u64 = 512 << 10;
/// Files of one batch.
const BATCH_FILES: usize = 1024;
/// Encoded units that may wait for the packer, a worker.
const LANE_UNITS_PER_WORKER: usize = 4;

/// Stops a copy from outside, and keeps the first error from inside.
#[derive(Debug, Default)]
pub(super) struct Stop {
    flag: AtomicBool,
    error: Mutex<Option<StoreError>>,
}

impl Stop {
    pub(super) fn stop(&self) {
        self.flag.store(true, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    fn fail(&self, error: StoreError) {
        self.error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
        self.stop();
    }

    fn result(&self) -> Result<(), StoreError> {
        match self.error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None if self.is_set() => Err(StoreError::Stage("copy")),
            None => Ok(()),
        }
    }
}

enum Work {
    Unit(Arc<RelationFile>, u32),
    Content(ContentFile),
}

/// A lane's other end is gone: a neighbour stopped, and it has said why.
struct NeighbourStopped;

type Staged = Result<(), Result<NeighbourStopped, StoreError>>;

fn send<T>(lane: &Sender<T>, item: T) -> Staged {
    lane.send(item).map_err(|_| Ok(NeighbourStopped))
}

/// One copy.
pub(super) struct Copy<'a> {
    pub(super) jobs: Vec<FileJob>,
    pub(super) threads: usize,
    pub(super) first_number: u64,
    pub(super) repository: &'a Repository,
    pub(super) parent: Option<&'a Parent>,
    pub(super) common: &'a Arc<Common>,
    pub(super) stop: &'a Stop,
    pub(super) runtime: &'a Handle,
}

impl Copy<'_> {
    /// Copies all jobs into the packer. Blocks; the calling thread packs.
    ///
    /// # Errors
    /// The first that any stage met.
    pub(super) fn run(mut self, packer: &mut Packer) -> Result<(), StoreError> {
        let jobs = std::mem::take(&mut self.jobs);
        let (batches_in, batches) = bounded::<Vec<(FileJob, ChainedMap)>>(1);
        let (work_in, work) = bounded::<Work>(self.threads * 2);
        let (messages_in, messages) = bounded::<Message>(self.threads * LANE_UNITS_PER_WORKER);
        let this = &self;
        std::thread::scope(|scope| {
            let to_packer = messages_in.clone();
            this.spawn(scope, "backup-maps", move || this.load(jobs, &batches_in, &to_packer));
            let to_packer = messages_in.clone();
            this.spawn(scope, "backup-open", move || {
                this.dispatch(&batches, &work_in, &to_packer)
            });
            for _ in 0..this.threads {
                let (work, to_packer) = (work.clone(), messages_in.clone());
                this.spawn(scope, "backup-encode", move || this.encode(&work, &to_packer));
            }
            drop((work, messages_in));
            for message in messages {
                if this.stop.is_set() {
                    break;
                }
                if let Err(error) = packer.take(message) {
                    this.stop.fail(error);
                }
            }
        });
        self.stop.result()
    }

    fn spawn<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        name: &str,
        stage: impl FnOnce() -> Staged + Send + 'scope,
    ) {
        let run = move || match stage() {
            Ok(()) | Err(Ok(NeighbourStopped)) => {}
            Err(Err(error)) => self.stop.fail(error),
        };
        if let Err(source) = Builder::new().name(name.into()).spawn_scoped(scope, run) {
            self.stop.fail(StoreError::Io {
                action: "start the thread",
                path: name.into(),
                source,
            });
        }
    }

    /// Loads the page maps of the parent for the relation files, a batch ahead of their use; at the end those of files that are gone.
    fn load(
        &self,
        jobs: Vec<FileJob>,
        batches: &Sender<Vec<(FileJob, ChainedMap)>>,
        to_packer: &Sender<Message>,
    ) -> Staged {
        let mut seen = HashSet::new();
        let mut jobs = jobs.into_iter().peekable();
        while jobs.peek().is_some() {
            let mut batch = Vec::new();
            let mut pages = 0;
            while let Some(job) = jobs.next_if(|_| batch.len() < BATCH_FILES && pages < BATCH_PAGES) {
                pages += job.size / PAGE_BYTES as u64;
                batch.push(job);
            }
            let entries: Vec<Option<&FileEntry>> = batch.iter().map(|job| self.in_parent(job)).collect();
            let mut maps = self
                .maps(&entries.iter().copied().flatten().collect::<Vec<_>>(), to_packer)?
                .into_iter();
            let with_maps = batch.into_iter().zip(entries).map(|(job, entry)| {
                let map = entry.and_then(|_| maps.next()).unwrap_or_default();
                seen.extend(entry.map(|entry| entry.path.to_vec()));
                (job, map)
            });
            send(batches, with_maps.collect())?;
        }
        self.load_gone(&seen, to_packer)
    }

    fn load_gone(&self, seen: &HashSet<Vec<u8>>, to_packer: &Sender<Message>) -> Staged {
        let Some(parent) = self.parent else { return Ok(()) };
        let gone: Vec<&FileEntry> = parent
            .entries
            .iter()
            .filter(|(path, entry)| entry.extents.is_some() && !seen.contains(*path))
            .map(|(_, entry)| entry)
            .collect();
        for batch in gone.chunks(64) {
            for map in self.maps(batch, to_packer)? {
                send(to_packer, Message::Gone(map))?;
            }
        }
        Ok(())
    }

    fn in_parent(&self, job: &FileJob) -> Option<&FileEntry> {
        self.parent
            .filter(|_| job.class == EntryClass::Relation)?
            .relation(&job.path)
    }

    fn maps(
        &self,
        entries: &[&FileEntry],
        to_packer: &Sender<Message>,
    ) -> Result<Vec<ChainedMap>, Result<NeighbourStopped, StoreError>> {
        if self.stop.is_set() {
            return Err(Ok(NeighbourStopped));
        }
        let loaded = self
            .runtime
            .block_on(load_maps(self.repository, entries))
            .map_err(Err)?;
        let mut out = Vec::with_capacity(loaded.len());
        for map in loaded {
            if map.is_none() {
                send(to_packer, Message::Unreadable)?;
            }
            let mut map = map.unwrap_or_default();
            map.restrict(&self.common.filter);
            out.push(map);
        }
        Ok(out)
    }

    fn dispatch(
        &self,
        batches: &Receiver<Vec<(FileJob, ChainedMap)>>,
        work: &Sender<Work>,
        to_packer: &Sender<Message>,
    ) -> Staged {
        for (number, (job, parent)) in (self.first_number + 1..).zip(batches.iter().flatten()) {
            let file = match File::open(&job.on_disk) {
                Ok(file) => file,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && job.may_vanish => {
                    send(to_packer, Message::Vanished(job, parent))?;
                    continue;
                }
                Err(error) => return Err(Err(job.io_error("open", error))),
            };
            let size = file
                .metadata()
                .map_err(|error| Err(job.io_error("look at", error)))?
                .len();
            if job.class != EntryClass::Relation {
                send(
                    work,
                    Work::Content(ContentFile {
                        number,
                        job,
                        file,
                        size,
                    }),
                )?;
                continue;
            }
            let too_long = |_| {
                Err(StoreError::Limit {
                    what: "a relation file",
                    detail: format!("{size} bytes"),
                })
            };
            let pages = u32::try_from(size / PAGE_BYTES as u64).map_err(too_long)?;
            if pages == 0 {
                send(to_packer, Message::Empty(job, parent))?;
                continue;
            }
            let file = Arc::new(RelationFile {
                number,
                job,
                file,
                pages,
                parent,
            });
            for unit in 0..pages.div_ceil(UNIT_PAGES) {
                send(work, Work::Unit(Arc::clone(&file), unit))?;
            }
        }
        Ok(())
    }

    fn encode(&self, work: &Receiver<Work>, to_packer: &Sender<Message>) -> Staged {
        let mut worker = Worker::new(Arc::clone(self.common)).map_err(Err)?;
        for work in work {
            if self.stop.is_set() {
                return Err(Ok(NeighbourStopped));
            }
            match work {
                Work::Unit(file, number) => send(to_packer, Message::Unit(worker.unit(&file, number).map_err(Err)?))?,
                Work::Content(file) => {
                    let gone = || StoreError::Stage("pack");
                    let pieces = |pieces| to_packer.send(Message::Pieces(file.number, pieces)).map_err(|_| gone());
                    let size = worker.content(&file, pieces).map_err(Err)?;
                    send(to_packer, Message::ContentDone(file.number, file.job, size))?;
                }
            }
        }
        Ok(())
    }
}
