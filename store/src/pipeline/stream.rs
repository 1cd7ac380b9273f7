//! Files that a server sends one after the other, in its own order.
//!
//! A little of the stream is gathered, so that the page maps of its files are loaded together; then units of pages go to the workers and
//! bytes of other files to the one that has the file. Nothing can be read twice: a page is judged as it came.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Sender, bounded};
use tokio::sync::mpsc::Receiver;

use super::content::ContentFile;
use super::copy::{Copy, NeighbourStopped, Staged, Work, send};
use super::job::{FileJob, UNKNOWN_SIZE};
use super::packer::{Message, Packer};
use super::parent::{ChainedMap, Parent, ParentReader};
use super::source::Source;
use super::worker::{Common, RelationFile, UNIT_BYTES};
use crate::chunk::Grain;
use crate::error::StoreError;
use crate::file_table::{EntryClass, FileEntry};
use crate::limits::PAGE_BYTES;

/// Bytes and items that are gathered before page maps are loaded.
const GATHER_BYTES: usize = 4 << 20;
const GATHER_ITEMS: usize = 4096;
/// Pieces of a content file that wait for its worker.
const LANE_PIECES: usize = 4;

/// A part of a stream of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Streamed {
    /// A directory or link.
    Entry(FileEntry),
    /// A file begins; its size is what will come.
    File(FileJob),
    /// The next bytes of it.
    Data(Bytes),
    /// It is whole.
    FileEnded,
}

/// A file that is handed over beside others.
#[derive(Debug)]
pub struct Handed {
    /// What it is.
    pub job: FileJob,
    /// Its bytes; closed behind the last. Whoever breaks off must not finish the pipeline.
    pub bytes: Receiver<Bytes>,
    /// How it is cut.
    pub grain: Grain,
}

/// The file that is under way.
struct Current {
    /// Bytes that are to come; none where that was not said.
    left: Option<u64>,
    goes: Goes,
}

/// Where its bytes go.
enum Goes {
    Units {
        file: Arc<RelationFile>,
        unit: Vec<u8>,
        number: u32,
    },
    ToWorker(Sender<Bytes>),
    /// Nowhere: a relation file without a whole page.
    Nowhere,
}

impl Copy<'_> {
    /// Copies a stream into the packer. Blocks; the calling thread packs. A file that is longer or shorter than was said is an error.
    ///
    /// # Errors
    /// The first that any stage met.
    pub(super) fn run_stream(&self, stream: &mut Receiver<Streamed>, packer: &mut Packer) -> Result<u64, StoreError> {
        let mut last = self.first_number;
        let number = &mut last;
        self.with_workers(packer, |scope, work, to_packer| {
            self.spawn(scope, "backup-stream", move || {
                self.dispatch_stream(stream, number, &work, &to_packer)
            });
        })?;
        Ok(last)
    }

    /// Copies files that are handed over side by side into the packer, as many at once as there are workers. Blocks; the calling thread packs.
    ///
    /// # Errors
    /// The first that any stage met.
    pub(super) fn run_handed(&self, files: &mut Receiver<Handed>, packer: &mut Packer) -> Result<u64, StoreError> {
        let mut last = self.first_number;
        let number = &mut last;
        self.with_workers(packer, |scope, work, _| {
            self.spawn(scope, "backup-handed", move || {
                while let Some(Handed { job, bytes, grain }) = files.blocking_recv() {
                    *number += 1;
                    let size = job.size;
                    let source = Source::Handed(bytes, Bytes::new());
                    let file = ContentFile {
                        number: *number,
                        job,
                        source,
                        size,
                        grain,
                    };
                    send(&work, Work::Content(file))?;
                }
                Ok(())
            });
        })?;
        Ok(last)
    }

    fn dispatch_stream(
        &self,
        stream: &mut Receiver<Streamed>,
        number: &mut u64,
        work: &Sender<Work>,
        to_packer: &Sender<Message>,
    ) -> Staged {
        let mut reader = self.parent.map(Parent::reader);
        let mut current = None;
        loop {
            let gathered = gather(stream);
            if gathered.is_empty() {
                break;
            }
            let mut maps = self.maps_of(&gathered, reader.as_mut(), to_packer)?;
            for item in gathered {
                match item {
                    Streamed::Entry(entry) => {
                        *number += 1;
                        send(to_packer, Message::Entry(*number, entry))?;
                    }
                    Streamed::File(_) if current.is_some() => return Err(Err(StoreError::Stage("stream"))),
                    Streamed::File(job) => {
                        *number += 1;
                        let map = maps.pop_front().unwrap_or_default();
                        let left = (job.size != UNKNOWN_SIZE).then_some(job.size);
                        let goes = begin(*number, job, map, self.common, work, to_packer)?;
                        current = Some(Current { left, goes });
                    }
                    Streamed::Data(bytes) => take(current.as_mut(), &bytes, work)?,
                    Streamed::FileEnded => end(current.take(), work)?,
                }
            }
        }
        if current.is_some() {
            return Err(Err(StoreError::Stage("stream")));
        }
        match reader {
            Some(reader) => self.load_gone(reader, to_packer),
            None => Ok(()),
        }
    }

    /// A map for each file that was gathered, in order.
    fn maps_of(
        &self,
        gathered: &[Streamed],
        mut reader: Option<&mut ParentReader<'_>>,
        to_packer: &Sender<Message>,
    ) -> Result<VecDeque<ChainedMap>, Result<NeighbourStopped, StoreError>> {
        let mut entries: Vec<Option<FileEntry>> = Vec::new();
        for item in gathered {
            let Streamed::File(job) = item else { continue };
            entries.push(match reader.as_mut() {
                Some(reader) if job.class == EntryClass::Relation => reader.relation(&job.path).map_err(Err)?,
                _ => None,
            });
        }
        let found: Vec<&FileEntry> = entries.iter().flatten().collect();
        let mut maps = self.maps(&found, to_packer)?.into_iter();
        let of = |entry: &Option<FileEntry>| entry.as_ref().and_then(|_| maps.next()).unwrap_or_default();
        Ok(entries.iter().map(of).collect())
    }
}

/// Some of the stream; nothing at its end.
fn gather(stream: &mut Receiver<Streamed>) -> Vec<Streamed> {
    let (mut gathered, mut bytes) = (Vec::new(), 0);
    while bytes < GATHER_BYTES && gathered.len() < GATHER_ITEMS {
        let Some(item) = stream.blocking_recv() else { break };
        if let Streamed::Data(data) = &item {
            bytes += data.len();
        }
        gathered.push(item);
    }
    gathered
}

fn begin(
    number: u64,
    job: FileJob,
    parent: ChainedMap,
    common: &Common,
    work: &Sender<Work>,
    to_packer: &Sender<Message>,
) -> Result<Goes, Result<NeighbourStopped, StoreError>> {
    if job.class != EntryClass::Relation {
        let (to_worker, lane) = bounded(LANE_PIECES);
        let size = job.size;
        let source = Source::Lane(lane, Bytes::new());
        send(
            work,
            Work::Content(ContentFile {
                number,
                job,
                source,
                size,
                grain: Grain::Usual,
            }),
        )?;
        return Ok(Goes::ToWorker(to_worker));
    }
    let too_long = |_| {
        Err(StoreError::Limit {
            what: "a relation file",
            detail: format!("{} bytes", job.size),
        })
    };
    let pages = u32::try_from(job.size / PAGE_BYTES as u64).map_err(too_long)?;
    if pages == 0 {
        send(to_packer, Message::Empty(number, job, parent))?;
        return Ok(Goes::Nowhere);
    }
    Ok(Goes::Units {
        file: Arc::new(RelationFile::new(number, job, None, pages, parent, common)),
        unit: Vec::new(),
        number: 0,
    })
}

fn take(current: Option<&mut Current>, mut bytes: &[u8], work: &Sender<Work>) -> Staged {
    let other_length = || Err(StoreError::Stage("stream"));
    let current = current.ok_or_else(other_length)?;
    if let Some(left) = &mut current.left {
        *left = left.checked_sub(bytes.len() as u64).ok_or_else(other_length)?;
    }
    match &mut current.goes {
        Goes::ToWorker(lane) => lane
            .send(Bytes::copy_from_slice(bytes))
            .map_err(|_| Ok(NeighbourStopped)),
        Goes::Units { file, unit, number } => {
            while !bytes.is_empty() {
                unit.reserve_exact(UNIT_BYTES - unit.len());
                let (now, later) = bytes.split_at(bytes.len().min(UNIT_BYTES - unit.len()));
                unit.extend_from_slice(now);
                bytes = later;
                if unit.len() == UNIT_BYTES {
                    send(work, Work::Unit(Arc::clone(file), *number, std::mem::take(unit)))?;
                    *number += 1;
                }
            }
            Ok(())
        }
        Goes::Nowhere => Ok(()),
    }
}

fn end(current: Option<Current>, work: &Sender<Work>) -> Staged {
    let whole = current.filter(|current| current.left.is_none_or(|left| left == 0));
    match whole.ok_or(Err(StoreError::Stage("stream")))?.goes {
        Goes::Units { file, unit, number } if unit.len() >= PAGE_BYTES => send(work, Work::Unit(file, number, unit)),
        _ => Ok(()),
    }
}
