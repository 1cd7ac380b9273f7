//! Segments that wait behind the one that PostgreSQL gave: they are verified and encoded on all cores, and stored in the same run, in
//! order. Their own turn is then only to look ([`super::note`]). What fails here fails again in its turn, and is told there.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pg::segment::{SegmentNumber, segment_name};
use pg::timeline::TimelineHistory;
use store::layout::WalRange;
use store::limits::WAL_OBJECT_BYTES_MAX;
use store::repository::Writer;
use store::session::Session;
use store::wal_object::EncodedWal;
use tokio::sync::mpsc::{self, Receiver};
use wal::segment_file::SegmentFile;

use super::archived::timeline_before;
use super::error::PushError;
use super::file::{Candidate, Verified};
use super::{Push, encode, judge};

/// So many are stored in one run: PostgreSQL waits for it, and counts them in their turn only.
const SEGMENTS_MAX: u64 = 8;
/// Threads that verify and encode. Each takes every other segment, so that it uses its memory again.
const WORKERS: usize = 2;

/// A segment that is ready to be stored.
struct Prepared {
    path: PathBuf,
    file: Verified,
    objects: Vec<(WalRange, EncodedWal)>,
}

type Waiting = (PathBuf, SegmentFile);

/// What waits behind a segment, in order.
pub(super) struct Ahead<'a> {
    push: &'a Push,
    history: &'a TimelineHistory,
    /// The workers, the next one first, with what each still owes. A worker that nobody listens to any more ends after its segment.
    workers: VecDeque<(usize, Receiver<Result<Prepared, PushError>>)>,
}

impl<'a> Ahead<'a> {
    /// Begins with the first ones. Of segments that are more than one object each nothing is done ahead: that would be much memory.
    pub(super) fn begin(
        push: &'a Push,
        path: &Path,
        segment: &SegmentFile,
        history: &'a TimelineHistory,
    ) -> Result<Self, PushError> {
        let mut shares: [Vec<Waiting>; WORKERS] = Default::default();
        if segment.size().bytes() <= WAL_OBJECT_BYTES_MAX && push.notes.can_be_written() {
            for (turn, waiting) in waiting(push, path, segment).enumerate() {
                if let Some(share) = shares.get_mut(turn % WORKERS) {
                    share.push(waiting);
                }
            }
        }
        let mut workers = VecDeque::new();
        for share in shares.into_iter().filter(|share| !share.is_empty()) {
            let (sender, receiver) = mpsc::channel(1);
            let owed = share.len();
            let (writer, session, history) = (Arc::clone(&push.writer), push.session()?, history.clone());
            tokio::task::spawn_blocking(move || {
                for waiting in share {
                    let prepared = prepare(&writer, &session, &history, waiting);
                    if sender.blocking_send(prepared).is_err() {
                        break;
                    }
                }
            });
            workers.push_back((owed, receiver));
        }
        Ok(Ahead { push, history, workers })
    }

    /// Stores them one after another: out of order a crash would leave a hole that looks like lost WAL. Returns how many.
    pub(super) async fn store(mut self) -> usize {
        let mut count = 0;
        while let Some((owed, mut worker)) = self.workers.pop_front() {
            let stored = match worker.recv().await {
                Some(Ok(prepared)) => self.store_one(&prepared).await,
                Some(Err(error)) => Err(error),
                None => Err(PushError::Stopped("encode")),
            };
            if let Err(error) = stored {
                tracing::debug!(%error, "what waits is left for its turn");
                break;
            }
            count += 1;
            if owed > 1 {
                self.workers.push_back((owed - 1, worker));
            }
        }
        count
    }

    async fn store_one(&self, prepared: &Prepared) -> Result<(), PushError> {
        let file = &prepared.file;
        let missing = judge(self.push.repository(), file, self.history, &prepared.path).await?;
        for (range, encoded) in &prepared.objects {
            if missing.iter().any(|piece| piece.range == *range) {
                self.push.put(range, encoded).await?;
            }
        }
        tracing::debug!(file = %prepared.path.display(), "archived ahead of its turn");
        self.push.notes.write(&prepared.path, file);
        Ok(())
    }
}

/// Verifies a segment and encodes all of it.
fn prepare(
    writer: &Writer,
    session: &Session,
    history: &TimelineHistory,
    (path, segment): Waiting,
) -> Result<Prepared, PushError> {
    let before = timeline_before(history, &segment);
    let candidate = Candidate::open(&path, segment)?;
    let mut file = candidate.verify(false, before, writer.repository().keys())?;
    let pieces = file.pieces.clone();
    file.pieces.iter_mut().for_each(|piece| piece.bytes = None);
    let encode = |piece| encode(writer, session, &file, piece);
    let objects = pieces.into_iter().map(encode).collect::<Result<_, _>>()?;
    Ok(Prepared { path, file, objects })
}

/// Those that follow without a gap on the same timeline and that PostgreSQL wants archived: `archive_status` in `xlogarchive.c`.
fn waiting(push: &Push, path: &Path, segment: &SegmentFile) -> impl Iterator<Item = Waiting> {
    let (size, timeline) = (segment.size(), segment.timeline());
    let next = segment.number().0.saturating_add(1);
    (next..next.saturating_add(SEGMENTS_MAX)).map_while(move |number| {
        let number = SegmentNumber(number);
        let name = segment_name(timeline, number, size);
        let ready = path.with_file_name("archive_status").join(format!("{name}.ready"));
        let segment = SegmentFile::new(&push.lineage, timeline, number).ok()?;
        ready.exists().then(|| (path.with_file_name(name), segment))
    })
}
