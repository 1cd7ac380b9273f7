//! The threads of one copy and the lanes between them.
//!
//! maps → dispatch → workers (`jobs`) → packer. Every lane is bounded. The first error is kept and stops all stages: each looks at
//! the flag between two items, and a stage whose neighbour is gone ends too.

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, Scope};

use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::runtime::Handle;

use super::careful;
use super::content::{ContentFile, Piece};
use super::foreseen::Foreseen;
use super::job::{FileJob, Listed};
use super::packer::{Message, Packer};
use super::parent::{ChainedMap, Parent, ParentReader, load_maps};
use super::source::Source;
use super::worker::{Common, RelationFile, UNIT_PAGES, Worker};
use crate::chunk::Grain;
use crate::error::StoreError;
use crate::file_table::{EntryClass, FileEntry};
use crate::limits::PAGE_BYTES;
use crate::repository::Repository;

/// Pages whose maps are loaded at once: 2 MiB of digests (1 GiB of relation files).
const BATCH_PAGES: u64 = 128 << 10;
/// Files of one batch.
const BATCH_FILES: usize = 1024;
/// Units that one worker reads one after the other, so that their changed pages can share chunks: 16 MiB.
const STRETCH_UNITS: u32 = 16;
/// Encoded units that may wait for the packer, a worker.
const LANE_UNITS_PER_WORKER: usize = 4;

/// Files with their numbers and their maps in the parent.
type Batch = Vec<(u64, FileJob, ChainedMap)>;

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

pub(super) enum Work {
    /// Units of a relation file, to be read.
    Units(Arc<RelationFile>, Range<u32>),
    /// A unit of a relation file whose bytes are handed over.
    Unit(Arc<RelationFile>, u32, Vec<u8>),
    Content(ContentFile),
}

/// A lane's other end is gone: a neighbour stopped, and it has said why.
pub(super) struct NeighbourStopped;

pub(super) type Staged = Result<(), Result<NeighbourStopped, StoreError>>;

pub(super) fn send<T>(lane: &Sender<T>, item: T) -> Staged {
    lane.send(item).map_err(|_| Ok(NeighbourStopped))
}

fn send_stretches(file: &Arc<RelationFile>, work: &Sender<Work>) -> Staged {
    let units = file.pages.div_ceil(UNIT_PAGES);
    for first in (0..units).step_by(STRETCH_UNITS as usize) {
        let stretch = first..units.min(first + STRETCH_UNITS);
        send(work, Work::Units(Arc::clone(file), stretch))?;
    }
    Ok(())
}

/// One copy.
pub(super) struct Copy<'a> {
    pub(super) threads: usize,
    pub(super) first_number: u64,
    pub(super) repository: &'a Repository,
    pub(super) parent: Option<&'a Parent>,
    pub(super) common: &'a Arc<Common>,
    pub(super) stop: &'a Stop,
    pub(super) runtime: &'a Handle,
}

impl Copy<'_> {
    /// Copies what the source lists into the packer; returns the number of the last file. Blocks; the calling thread packs.
    ///
    /// # Errors
    /// The first that any stage met.
    pub(super) fn run<S>(&self, source: &mut S, packer: &mut Packer) -> Result<u64, StoreError>
    where
        S: Iterator<Item = Result<Listed, StoreError>> + Send,
    {
        let (batches_in, batches) = bounded::<Batch>(1);
        let mut last = self.first_number;
        let number = &mut last;
        self.with_workers(packer, |scope, work, to_packer| {
            let maps_to_packer = to_packer.clone();
            self.spawn(scope, "backup-maps", move || {
                self.load(source, number, &batches_in, &maps_to_packer)
            });
            self.spawn(scope, "backup-open", move || self.dispatch(&batches, &work, &to_packer));
        })?;
        Ok(last)
    }

    /// Runs the workers, what feeds them, and the packer on this thread.
    pub(super) fn with_workers<'env>(
        &'env self,
        packer: &mut Packer,
        feed: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>, Sender<Work>, Sender<Message>),
    ) -> Result<(), StoreError> {
        let (work_in, work) = bounded::<Work>(self.threads * 2);
        let (messages_in, messages) = bounded::<Message>(self.threads * LANE_UNITS_PER_WORKER);
        std::thread::scope(|scope| {
            feed(scope, work_in, messages_in.clone());
            for _ in 0..self.threads {
                let (work, to_packer) = (work.clone(), messages_in.clone());
                self.spawn(scope, "backup-encode", move || self.encode(&work, &to_packer));
            }
            drop((work, messages_in));
            for message in messages {
                if self.stop.is_set() {
                    break;
                }
                if let Err(error) = packer.take(message) {
                    self.stop.fail(error);
                }
            }
        });
        self.stop.result()
    }

    pub(super) fn spawn<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        name: &str,
        stage: impl FnOnce() -> Staged + Send + 'scope,
    ) {
        let run = move || match stage() {
            Ok(()) => {}
            // Nothing is whole then, also when the neighbour meant no harm: it has said why, or will, or nobody does.
            Err(Ok(NeighbourStopped)) => self.stop.stop(),
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
    fn load<S>(&self, source: &mut S, last: &mut u64, batches: &Sender<Batch>, to_packer: &Sender<Message>) -> Staged
    where
        S: Iterator<Item = Result<Listed, StoreError>>,
    {
        let mut reader = self.parent.map(Parent::reader);
        loop {
            let (mut batch, mut pages) = (Vec::new(), 0);
            while batch.len() < BATCH_FILES && pages < BATCH_PAGES {
                let Some(listed) = source.next() else { break };
                *last += 1;
                let listed = listed.map_err(Err)?;
                let is_known = self.is_known(&listed);
                match listed {
                    Listed::Entry(entry) => send(to_packer, Message::Entry(*last, entry))?,
                    Listed::Same(job, stored) | Listed::Kept(job, stored) if is_known => {
                        let (measured, known) = (stored.measured(), stored.content.into_iter().map(Piece::Known));
                        self.common.progress.read(measured.size);
                        send(to_packer, Message::Pieces(*last, known.collect()))?;
                        send(to_packer, Message::ContentDone(*last, job, measured))?;
                    }
                    Listed::File(job) | Listed::Same(job, _) | Listed::Kept(job, _) => {
                        pages += job.size / PAGE_BYTES as u64;
                        batch.push((*last, job));
                    }
                }
            }
            if batch.is_empty() {
                break;
            }
            send(batches, self.with_maps(batch, reader.as_mut(), to_packer)?)?;
        }
        match reader {
            Some(reader) => self.load_gone(reader, to_packer),
            None => Ok(()),
        }
    }

    /// True for a file that need not be read.
    fn is_known(&self, listed: &Listed) -> bool {
        let filter = &self.common.filter;
        match listed {
            Listed::Same(_, stored) => stored.content.iter().all(|at| filter.is_usable(at.pack)),
            Listed::Kept(_, stored) => stored.content.iter().all(|at| filter.exists(at.pack)),
            Listed::File(_) | Listed::Entry(_) => false,
        }
    }

    fn with_maps(
        &self,
        batch: Vec<(u64, FileJob)>,
        mut reader: Option<&mut ParentReader<'_>>,
        to_packer: &Sender<Message>,
    ) -> Result<Batch, Result<NeighbourStopped, StoreError>> {
        let mut entries = Vec::with_capacity(batch.len());
        for (_, job) in &batch {
            entries.push(match reader.as_mut() {
                Some(reader) if job.class == EntryClass::Relation => reader.relation(&job.path).map_err(Err)?,
                _ => None,
            });
        }
        let found: Vec<&FileEntry> = entries.iter().flatten().collect();
        let mut maps = self.maps(&found, to_packer)?.into_iter();
        let with_maps = batch.into_iter().zip(&entries).map(|((number, job), entry)| {
            let map = entry.as_ref().and_then(|_| maps.next()).unwrap_or_default();
            (number, job, map)
        });
        Ok(with_maps.collect())
    }

    pub(super) fn load_gone(&self, mut reader: ParentReader<'_>, to_packer: &Sender<Message>) -> Staged {
        let mut piece = 0;
        while let Some(gone) = reader.not_asked_for(piece).map_err(Err)? {
            let gone: Vec<&FileEntry> = gone.iter().collect();
            for batch in gone.chunks(64) {
                for map in self.maps(batch, to_packer)? {
                    send(to_packer, Message::Gone(map))?;
                }
            }
            piece += 1;
        }
        Ok(())
    }

    pub(super) fn maps(
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

    /// As [`Copy::run`], without reading relation files.
    ///
    /// # Errors
    /// As there; anything but relation files.
    pub(super) fn run_foreseen<S>(
        &self,
        source: &mut S,
        foreseen: &Arc<Foreseen>,
        packer: &mut Packer,
    ) -> Result<u64, StoreError>
    where
        S: Iterator<Item = Result<Listed, StoreError>> + Send,
    {
        let (batches_in, batches) = bounded::<Batch>(1);
        let mut last = self.first_number;
        let number = &mut last;
        self.with_workers(packer, |scope, work, to_packer| {
            self.spawn(scope, "backup-maps", move || {
                self.load(source, number, &batches_in, &to_packer)
            });
            self.spawn(scope, "backup-open", move || {
                self.dispatch_foreseen(&batches, foreseen, &work)
            });
        })?;
        Ok(last)
    }

    fn dispatch_foreseen(&self, batches: &Receiver<Batch>, foreseen: &Arc<Foreseen>, work: &Sender<Work>) -> Staged {
        for (number, job, parent) in batches.iter().flatten() {
            let pages = u32::try_from(job.size / PAGE_BYTES as u64).unwrap_or(0);
            if job.class != EntryClass::Relation || pages == 0 {
                return Err(Err(StoreError::Stage("foreseen")));
            }
            let file = Arc::new(RelationFile {
                foreseen: Some(Arc::clone(foreseen)),
                ..RelationFile::new(number, job, None, pages, parent, self.common)
            });
            send_stretches(&file, work)?;
        }
        Ok(())
    }

    fn dispatch(&self, batches: &Receiver<Batch>, work: &Sender<Work>, to_packer: &Sender<Message>) -> Staged {
        for (number, mut job, parent) in batches.iter().flatten() {
            let opened = match &mut job.attributes {
                Some(attributes) => careful::open(&job.on_disk, attributes),
                None => File::open(&job.on_disk),
            };
            let file = match opened {
                Ok(file) => file,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && job.may_vanish => {
                    send(to_packer, Message::Vanished(number, job, parent))?;
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
                        source: Source::Disk(file),
                        size,
                        grain: Grain::Usual,
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
                send(to_packer, Message::Empty(number, job, parent))?;
                continue;
            }
            let file = RelationFile::new(number, job, Some(file), pages, parent, self.common);
            send_stretches(&Arc::new(file), work)?;
        }
        Ok(())
    }

    fn encode(&self, work: &Receiver<Work>, to_packer: &Sender<Message>) -> Staged {
        let mut worker = Worker::new(Arc::clone(self.common)).map_err(Err)?;
        self.common.pace.begin_thread();
        for work in work {
            if self.stop.is_set() {
                return Err(Ok(NeighbourStopped));
            }
            match work {
                Work::Units(file, units) => {
                    for number in units.clone() {
                        let is_last = number + 1 == units.end;
                        self.encode_unit(&mut worker, &file, number, None, is_last, to_packer)?;
                    }
                }
                Work::Unit(file, number, bytes) => {
                    self.encode_unit(&mut worker, &file, number, Some(bytes), true, to_packer)?;
                }
                Work::Content(mut file) => {
                    let gone = || StoreError::Stage("pack");
                    let number = file.number;
                    let pieces = |pieces| to_packer.send(Message::Pieces(number, pieces)).map_err(|_| gone());
                    let measured = worker.content(&mut file, pieces).map_err(Err)?;
                    if careful::changed_meanwhile(&mut file).map_err(Err)? {
                        send(to_packer, Message::Changed(file.job.path.clone()))?;
                    }
                    send(to_packer, Message::ContentDone(file.number, file.job, measured))?;
                }
            }
        }
        Ok(())
    }

    fn encode_unit(
        &self,
        worker: &mut Worker,
        file: &Arc<RelationFile>,
        number: u32,
        bytes: Option<Vec<u8>>,
        is_last: bool,
        to_packer: &Sender<Message>,
    ) -> Staged {
        if self.stop.is_set() {
            return Err(Ok(NeighbourStopped));
        }
        let begun = self.common.pace.begin();
        let bytes = worker.unit(file, number, bytes).map_err(Err)?;
        let batch = worker.take_batch(is_last).map_err(Err)?;
        self.common.pace.after(bytes, &begun);
        match batch {
            Some(batch) => send(to_packer, Message::Units(batch)),
            None => Ok(()),
        }
    }
}
