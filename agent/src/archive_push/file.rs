//! Reads a segment's file: once to verify it and to plan its pieces, then piece by piece to store it. Never more than one range in memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pg::lsn::Lsn;
use pg::segment::segment_name;
use pg::timeline::TimelineId;
use store::buffer::PageBuffer;
use store::envelope::{Kind, WalFacts};
use store::id::Digest;
use store::keys::ClusterKeys;
use store::layout::WalRange;
use wal::assemble::Piece;
use wal::segment_file::{Cutter, HEAD_BYTES, Head, SegmentFile, SegmentFileError, Survey, Surveyed, first_record_page};

use super::error::PushError;
use super::note::FileFacts;

/// Read at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// So much of the segment before is looked at first: the record that crosses the boundary and the one before it are rarely longer.
const BEFORE_BYTES: u64 = 64 << 10;

/// A piece that is to be in the repository.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    /// Which WAL.
    pub(super) range: WalRange,
    /// What its header says.
    pub(super) facts: WalFacts,
    /// Keyed digest of its bytes.
    pub(super) digest: Digest,
    /// Its bytes, where it is all of the segment: what more there is would be much memory.
    pub(super) bytes: Option<Bytes>,
}

/// A file that was verified.
#[derive(Debug)]
pub(super) struct Verified {
    /// Which segment it is.
    pub(super) segment: SegmentFile,
    /// What its first page says.
    pub(super) head: Head,
    /// What its records say.
    pub(super) surveyed: Surveyed,
    /// What is to be stored of it, in order.
    pub(super) pieces: Vec<Planned>,
    file: Opened,
}

/// An open file of a segment.
#[derive(Debug)]
struct Opened {
    path: PathBuf,
    file: File,
    start: Lsn,
    bytes: u64,
    facts: FileFacts,
}

impl Opened {
    fn open(path: &Path, start: Lsn) -> Result<Self, PushError> {
        let file = File::open(path).map_err(read_error(path))?;
        let found = file.metadata().map_err(read_error(path))?;
        Ok(Opened {
            path: path.to_owned(),
            file,
            start,
            bytes: found.len(),
            facts: FileFacts::from(&found),
        })
    }

    /// Bytes from `at` on, at most so many; fewer only at the end of the file.
    fn read(&self, at: u64, bytes: usize) -> Result<Vec<u8>, PushError> {
        let left = usize::try_from(self.bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut buffer = vec![0; bytes.min(left)];
        self.file
            .read_exact_at(&mut buffer, at)
            .map_err(read_error(&self.path))?;
        Ok(buffer)
    }

    fn refused(&self, source: SegmentFileError) -> PushError {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        PushError::File { name, source }
    }

    /// Gives all bytes from `from` on in blocks, until the end or until `take` wants no more.
    fn each_block(&self, from: Lsn, take: &mut dyn FnMut(&[u8]) -> Result<bool, PushError>) -> Result<(), PushError> {
        let mut at = from.distance_from(self.start);
        let mut buffer = PageBuffer::new(BLOCK_BYTES);
        while at < self.bytes {
            let left = usize::try_from(self.bytes - at).unwrap_or(usize::MAX);
            let room = buffer.len().min(left);
            let block = buffer.get_mut(..room).unwrap_or_default();
            self.file.read_exact_at(block, at).map_err(read_error(&self.path))?;
            at += block.len() as u64;
            if !take(block)? {
                break;
            }
        }
        Ok(())
    }
}

fn read_error(path: &Path) -> impl Fn(std::io::Error) -> PushError + '_ {
    move |source| PushError::Read {
        path: path.to_owned(),
        source,
    }
}

/// A file whose length and first page are those of its segment.
#[derive(Debug)]
pub(super) struct Candidate {
    segment: SegmentFile,
    head: Head,
    file: Opened,
}

impl Candidate {
    /// Opens a file and looks at its first page.
    pub(super) fn open(path: &Path, segment: SegmentFile) -> Result<Self, PushError> {
        let file = Opened::open(path, segment.start())?;
        let head = segment
            .check_head(file.bytes, &file.read(0, HEAD_BYTES)?)
            .map_err(|error| file.refused(error))?;
        Ok(Candidate { segment, head, file })
    }

    /// Verifies it and plans its pieces. `before` is the timeline of the segment before, which is read from the same directory if it is
    /// still there. Of a partial file only what is valid is planned.
    pub(super) fn verify(
        self,
        is_partial: bool,
        before: TimelineId,
        keys: &ClusterKeys,
    ) -> Result<Verified, PushError> {
        let Candidate { segment, head, file } = self;
        // Only a record that crosses the boundary needs the segment before.
        let before = head
            .continues
            .then(|| Before::find(&file.path, &segment, before))
            .flatten();
        let (before, surveyed) = survey_from_before(&segment, before, &file)?;
        let until = if is_partial {
            surveyed.valid_end
        } else {
            surveyed.whole().map_err(|error| file.refused(error))?;
            segment.end()
        };
        let pieces = plan(&segment, before.as_ref(), &file, until, keys)?;
        Ok(Verified {
            segment,
            head,
            surveyed,
            pieces,
            file,
        })
    }
}

/// The file of the segment before, and where in it reading begins.
#[derive(Debug)]
struct Before {
    file: Opened,
    from: Lsn,
}

impl Before {
    /// In the same directory, read from near its end; `None` when it is not there any more or is something else.
    fn find(path: &Path, segment: &SegmentFile, timeline: TimelineId) -> Option<Before> {
        let size = segment.size();
        let number = segment.previous()?;
        let before = path.with_file_name(segment_name(timeline, number, size));
        let file = Opened::open(&before, size.start_of(number)).ok()?;
        if file.bytes != size.bytes() {
            return None;
        }
        let tail_bytes = usize::try_from(BEFORE_BYTES.min(file.bytes)).unwrap_or(usize::MAX);
        let tail_start = segment.start().as_u64().saturating_sub(tail_bytes as u64);
        let tail = file
            .read(file.bytes.saturating_sub(tail_bytes as u64), tail_bytes)
            .ok()?;
        let from = first_record_page(&tail, Lsn::new(tail_start)).unwrap_or(file.start);
        Some(Before { file, from })
    }

    fn is_whole(&self) -> bool {
        self.from == self.file.start
    }

    /// Read from its start.
    fn whole(self) -> Before {
        let from = self.file.start;
        Before { from, ..self }
    }
}

/// Reads from the segment before as far as that helps: one that is damaged before reading comes to ours says nothing about ours.
fn survey_from_before(
    segment: &SegmentFile,
    mut before: Option<Before>,
    file: &Opened,
) -> Result<(Option<Before>, Surveyed), PushError> {
    loop {
        let surveyed = survey(segment, before.as_ref(), file)?;
        match (surveyed, before) {
            // The last record that ends before the segment is looked for, too.
            (Some(surveyed), Some(near)) if surveyed.before.is_none() && !near.is_whole() => {
                before = Some(near.whole());
            }
            (Some(surveyed), before) => return Ok((before, surveyed)),
            (None, Some(near)) => before = (!near.is_whole()).then(|| near.whole()),
            (None, None) => return Err(PushError::Stopped("verify")),
        }
    }
}

/// `None` when reading ended in the segment before.
fn survey(segment: &SegmentFile, before: Option<&Before>, file: &Opened) -> Result<Option<Surveyed>, PushError> {
    let from = before.map_or(segment.start(), |before| before.from);
    let mut survey = Survey::new(segment, from).map_err(|error| file.refused(error))?;
    for (opened, from) in with_before(before, file) {
        opened.each_block(from, &mut |block| Ok(survey.push(block)))?;
    }
    Ok(survey.has_reached_segment().then(|| survey.finish()))
}

/// What is read, in order, and from where.
fn with_before<'a>(before: Option<&'a Before>, file: &'a Opened) -> impl Iterator<Item = (&'a Opened, Lsn)> {
    let before = before.map(|before| (&before.file, before.from));
    before.into_iter().chain([(file, file.start)])
}

fn plan(
    segment: &SegmentFile,
    before: Option<&Before>,
    file: &Opened,
    until: Lsn,
    keys: &ClusterKeys,
) -> Result<Vec<Planned>, PushError> {
    let from = before.map_or(segment.start(), |before| before.from);
    let refused = |error| file.refused(error);
    let mut cutter = Cutter::new(segment, from, until).map_err(refused)?;
    let (mut planned, mut pieces) = (Vec::new(), Vec::new());
    let planned_of = |piece: Piece| Planned {
        digest: digest(keys, &piece.bytes),
        range: piece.range,
        facts: piece.facts,
        bytes: (piece.bytes.len() as u64 == segment.size().bytes()).then_some(piece.bytes),
    };
    for (opened, from) in with_before(before, file) {
        opened.each_block(from, &mut |block| {
            cutter.push(block, &mut pieces).map_err(refused)?;
            planned.extend(pieces.drain(..).map(planned_of));
            Ok(true)
        })?;
    }
    planned.extend(cutter.finish().map(planned_of));
    Ok(planned)
}

/// The digest that an object of these bytes has in its header.
pub(super) fn digest(keys: &ClusterKeys, bytes: &[u8]) -> Digest {
    keys.digest(Kind::Wal.digest_kind(), bytes)
}

impl Verified {
    /// The bytes of a range of the segment.
    pub(super) fn bytes(&self, start: Lsn, end: Lsn) -> Result<Vec<u8>, PushError> {
        let bytes = usize::try_from(end.distance_from(start)).unwrap_or(usize::MAX);
        self.file.read(start.distance_from(self.file.start), bytes)
    }

    /// Which file this is, from before it was read.
    pub(super) fn facts(&self) -> FileFacts {
        self.file.facts
    }

    /// Where what is planned ends.
    pub(super) fn planned_end(&self) -> Lsn {
        self.pieces.last().map_or(self.segment.start(), |piece| piece.range.end)
    }

    /// The digest of a range of the segment.
    pub(super) fn digest(&self, keys: &ClusterKeys, range: &WalRange) -> Result<Digest, PushError> {
        let planned = self
            .pieces
            .iter()
            .find(|piece| (piece.range.start, piece.range.end) == (range.start, range.end));
        match planned {
            Some(piece) => Ok(piece.digest),
            None => Ok(digest(keys, &self.bytes(range.start, range.end)?)),
        }
    }
}
