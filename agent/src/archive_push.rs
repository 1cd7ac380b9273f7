//! `wal-agent archive-push PATH`: one file of `pg_wal` into the repository, for `archive_command`.
//!
//! The way of those who cannot use a slot: the same objects as the daemon makes, verified the same way, in epoch 0, so that the name of
//! an object is a function of the WAL in it. It takes no lease and makes no connection; everything comes from the file, and a daemon
//! may stream the same cluster meanwhile. Exit code 0 is a promise: PostgreSQL recycles the file. So it is given only when every byte
//! is durable and its header was read again. Nothing is written of a file that is refused.
//!
//! Where several segments wait, one run stores some of those behind its own as well ([`ahead`]).
//!
//! A crash anywhere leaves objects that the next push of the same file finds and does not write again.

mod ahead;
mod archived;
mod error;
mod file;
mod history;
mod note;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ahead::Ahead;
use archived::{Archived, Place, timeline_before};
use bytes::Bytes;
pub(crate) use error::PushError;
use file::{Candidate, Planned, Verified};
use history::History;
use note::Notes;
use pg::lsn::Lsn;
use pg::segment::{SegmentNumber, SegmentSize, WalFileName, segment_name};
use pg::timeline::{TimelineHistory, TimelineId};
use store::crash::{self, CrashPoint};
use store::layout::WalRange;
use store::records::Lineage;
use store::repository::{Repository, Writer};
use store::retry::RetryPolicy;
use store::session::{Purpose, Session};
use store::wal_object::{self, EncodedWal};
use wal::segment_file::{SegmentFile, SegmentFileError, check_splice};

use crate::open::{Context, current_lineage, segment_size};
use crate::{copies, output};

/// How long a request is repeated: the archiver waits for the answer, and offers the file again by itself.
const RETRY_FOR: Duration = Duration::from_secs(60);

/// How long the archiver is kept waiting for copies of one segment.
const COPIES_WAIT: Duration = Duration::from_secs(5);
/// Objects of an `archive_command` are fenced by no epoch.
const EPOCH: u64 = 0;

struct Push {
    writer: Arc<Writer>,
    lineage: Lineage,
    size: SegmentSize,
    notes: Notes,
}

/// Runs the command.
pub async fn run(context: &Context, path: &Path) -> anyhow::Result<()> {
    let keys = context.host_keys()?;
    let (repository, places) = context.writing(RetryPolicy::bounded(RETRY_FOR), &keys).await?;
    let lineage = current_lineage(context, &repository).await?;
    let state_directory = &context.cluster.status.state_directory;
    let push = Push {
        notes: Notes::new(state_directory, &context.cluster.name, &repository),
        writer: Arc::new(Writer::new(repository, Arc::new(keys.signing), EPOCH)),
        size: segment_size(&lineage)?,
        lineage,
    };
    let pushed = push.file(path).await;
    let stored = u32::try_from(*pushed.as_ref().unwrap_or(&1)).unwrap_or(u32::MAX);
    copies::settle(places.as_ref(), COPIES_WAIT * stored.max(1)).await;
    pushed?;
    Ok(())
}

impl Push {
    fn repository(&self) -> &Arc<Repository> {
        self.writer.repository()
    }

    /// Each kind of file that PostgreSQL gives to its `archive_command`; how many files were stored.
    async fn file(&self, path: &Path) -> Result<usize, PushError> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match WalFileName::parse(name, self.size) {
            Some(WalFileName::Segment { timeline, number }) => self.segment(path, timeline, number, false).await,
            Some(WalFileName::Partial { timeline, number }) => self.segment(path, timeline, number, true).await,
            Some(WalFileName::History { timeline }) => self.history(path, timeline).await.map(|()| 1),
            Some(WalFileName::BackupHistory { .. }) => {
                tracing::debug!(file = name, "a backup history file says nothing that a restore needs");
                Ok(0)
            }
            None => Err(PushError::Name { path: path.to_owned() }),
        }
    }

    async fn history(&self, path: &Path, timeline: TimelineId) -> Result<(), PushError> {
        let file = std::fs::read(path).map_err(|source| PushError::Read {
            path: path.to_owned(),
            source,
        })?;
        let history = History::of_file(self.repository(), self.lineage.id, timeline, file).await?;
        history.archive(&self.writer, self.lineage.id).await
    }

    /// A segment, or the valid part of one that its timeline left unfinished.
    async fn segment(
        &self,
        path: &Path,
        timeline: TimelineId,
        number: SegmentNumber,
        is_partial: bool,
    ) -> Result<usize, PushError> {
        let segment = SegmentFile::new(&self.lineage, timeline, number).map_err(refused(path))?;
        if !is_partial && self.notes.hold(self.repository(), &segment, path).await {
            tracing::debug!(file = %path.display(), "it was archived ahead of its turn");
            return Ok(0);
        }
        let examined = examine(self.repository(), segment, path, is_partial).await?;
        let Examined { file, history, missing } = examined;
        history.archive(&self.writer, self.lineage.id).await?;
        let (written, mut files) = (missing.len(), 1);
        if written == 0 || is_partial {
            // Somebody else archives this cluster as well, and what waits.
            self.store(&file, missing).await?;
        } else {
            let ahead = Ahead::begin(self, path, &segment, &history.parsed)?;
            self.store(&file, missing).await?;
            files += ahead.store().await;
        }
        tracing::debug!(file = %path.display(), objects = written, lsn = %file.planned_end(), "archived");
        Ok(files)
    }

    /// Stores pieces one after another, the next one encoded meanwhile: out of order a crash would leave a hole that looks like lost WAL.
    async fn store(&self, file: &Arc<Verified>, missing: Vec<Planned>) -> Result<(), PushError> {
        if missing.is_empty() {
            return Ok(());
        }
        let session = Arc::new(self.session()?);
        let begin = |piece: Planned| {
            let (writer, session, file) = (Arc::clone(&self.writer), Arc::clone(&session), Arc::clone(file));
            tokio::task::spawn_blocking(move || encode(&writer, &session, &file, piece))
        };
        let mut rest = missing.into_iter();
        let mut ahead = rest.next().map(begin);
        while let Some(encoding) = ahead {
            let (range, encoded) = encoding.await.map_err(|_| PushError::Stopped("encode"))??;
            ahead = rest.next().map(begin);
            self.put(&range, &encoded).await?;
        }
        Ok(())
    }

    /// Creates an object and reads its header again.
    async fn put(&self, range: &WalRange, encoded: &EncodedWal) -> Result<(), PushError> {
        let (object, digest) = (encoded.name.to_string(), encoded.digest);
        crash::point(CrashPoint::BeforePut);
        self.writer.create(&encoded.name, encoded.bytes.clone(), digest).await?;
        crash::point(CrashPoint::AfterPut);
        let reason = match self.repository().read_wal_header(range, self.size).await? {
            Some(header) if header.digest == digest => return Ok(()),
            Some(_) => "its header names another content",
            None => "it is not there",
        };
        Err(PushError::ReadBack { object, reason })
    }

    fn session(&self) -> Result<Session, PushError> {
        Ok(self.repository().begin_session(self.lineage.id, Purpose::Wal)?)
    }
}

/// A file that may be archived.
struct Examined {
    file: Arc<Verified>,
    history: History,
    /// What of it is not archived yet.
    missing: Vec<Planned>,
}

/// Verifies a file and holds it against everything that is archived. Writes nothing.
async fn examine(
    repository: &Arc<Repository>,
    segment: SegmentFile,
    path: &Path,
    is_partial: bool,
) -> Result<Examined, PushError> {
    let candidate = Candidate::open(path, segment)?;
    let history = History::of_segment(repository, segment.lineage(), segment.timeline(), path).await?;
    let before = timeline_before(&history.parsed, &segment);
    let keys = Arc::clone(repository);
    let verify = move || candidate.verify(is_partial, before, keys.keys());
    let verified = tokio::task::spawn_blocking(verify).await;
    let file = Arc::new(verified.map_err(|_| PushError::Stopped("verify"))??);
    let missing = judge(repository, &file, &history.parsed, path).await?;
    Ok(Examined { file, history, missing })
}

/// Holds a verified file against everything that is archived; what of it is not.
async fn judge(
    repository: &Arc<Repository>,
    file: &Verified,
    history: &TimelineHistory,
    path: &Path,
) -> Result<Vec<Planned>, PushError> {
    let segment = &file.segment;
    let place = Place {
        repository,
        lineage: segment.lineage(),
        size: segment.size(),
        history,
    };
    let archived = Archived::look(place, segment, file.planned_end()).await?;
    archived.compare(repository, file)?;
    if let Some((end, facts)) = &archived.before {
        check_splice(segment, file.head, &file.surveyed, *end, facts).map_err(refused(path))?;
    }
    Ok(archived.missing(&file.pieces).cloned().collect())
}

/// Insists that a finished segment is archived as the server has it. A server does not remove a file that its archiver has not pushed, so
/// one that is gone is archived.
pub(crate) async fn compare_segment(
    repository: &Arc<Repository>,
    lineage: &Lineage,
    timeline: TimelineId,
    end: Lsn,
    pg_wal: &Path,
) -> Result<(), PushError> {
    let size = SegmentSize::new(lineage.segment_bytes).map_err(|error| refused(pg_wal)(error.into()))?;
    let last = size.segment_of(Lsn::new(end.as_u64().saturating_sub(1)));
    let path = pg_wal.join(segment_name(timeline, last, size));
    let segment = SegmentFile::new(lineage, timeline, last).map_err(refused(&path))?;
    match examine(repository, segment, &path, false).await {
        Ok(_) => Ok(()),
        Err(PushError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn refused(path: &Path) -> impl Fn(SegmentFileError) -> PushError + '_ {
    move |source| PushError::File {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        source,
    }
}

/// Reads a piece from the file again, which must still be what was verified.
fn encode(
    writer: &Writer,
    session: &Session,
    file: &Verified,
    piece: Planned,
) -> Result<(WalRange, EncodedWal), PushError> {
    let Planned {
        range,
        facts,
        digest,
        bytes,
    } = piece;
    crash::point(CrashPoint::BeforeEncode);
    let bytes = bytes.map_or_else(|| file.bytes(range.start, range.end).map(Bytes::from), Ok)?;
    let size = file.segment.size();
    let encoded = wal_object::encode(writer, session, &range, size, facts, &bytes, output::now_us())?;
    if encoded.digest != digest {
        let object = encoded.name.to_string();
        let reason = "the file changed while it was read";
        return Err(PushError::ReadBack { object, reason });
    }
    Ok((range, encoded))
}
