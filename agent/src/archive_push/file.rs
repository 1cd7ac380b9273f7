//! Reads a segment's file: once to verify it and to plan its pieces, then piece by piece to store it. Never more than one range in memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pg::lsn::Lsn;
use pg::segment::segment_name;
use pg::timeline::TimelineId;
use store::envelope::{Kind, WalFacts};
use store::id::Digest;
use store::keys::ClusterKeys;
use store::layout::WalRange;
use wal::assemble::Piece;
use wal::segment_file::{Cutter, HEAD_BYTES, Head, SegmentFile, SegmentFileError, Survey, Surveyed};

use super::error::PushError;

/// Read at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// A piece that is to be in the repository, without its bytes.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    /// Which WAL.
    pub(super) range: WalRange,
    /// What its header says.
    pub(super) facts: WalFacts,
    /// Keyed digest of its bytes.
    pub(super) digest: Digest,
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
}

impl Opened {
    fn open(path: &Path, start: Lsn) -> Result<Self, PushError> {
        let file = File::open(path).map_err(read_error(path))?;
        let bytes = file.metadata().map_err(read_error(path))?.len();
        let path = path.to_owned();
        Ok(Opened {
            path,
            file,
            start,
            bytes,
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

    /// Gives all bytes in blocks, until the end or until `take` wants no more.
    fn each_block(&self, take: &mut dyn FnMut(&[u8]) -> Result<bool, PushError>) -> Result<(), PushError> {
        let mut at = 0;
        while at < self.bytes {
            let block = self.read(at, BLOCK_BYTES)?;
            at += block.len() as u64;
            if !take(&block)? {
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
        let mut before = head
            .continues
            .then(|| find_before(&file.path, &segment, before))
            .flatten();
        let mut surveyed = survey(&segment, before.as_ref(), &file)?;
        if surveyed.is_none() && before.take().is_some() {
            // That file is damaged before it comes to ours, which says nothing about ours.
            surveyed = survey(&segment, None, &file)?;
        }
        let surveyed = surveyed.ok_or(PushError::Stopped("verify"))?;
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

/// The file of the segment before, in the same directory; `None` when it is not there any more or is something else.
fn find_before(path: &Path, segment: &SegmentFile, timeline: TimelineId) -> Option<Opened> {
    let size = segment.size();
    let number = segment.previous()?;
    let before = path.with_file_name(segment_name(timeline, number, size));
    let opened = Opened::open(&before, size.start_of(number)).ok()?;
    (opened.bytes == size.bytes()).then_some(opened)
}

/// `None` when reading ended in the segment before.
fn survey(segment: &SegmentFile, before: Option<&Opened>, file: &Opened) -> Result<Option<Surveyed>, PushError> {
    let from = before.map_or(segment.start(), |before| before.start);
    let mut survey = Survey::new(segment, from).map_err(|error| file.refused(error))?;
    for opened in before.into_iter().chain([file]) {
        opened.each_block(&mut |block| Ok(survey.push(block)))?;
    }
    Ok(survey.has_reached_segment().then(|| survey.finish()))
}

fn plan(
    segment: &SegmentFile,
    before: Option<&Opened>,
    file: &Opened,
    until: Lsn,
    keys: &ClusterKeys,
) -> Result<Vec<Planned>, PushError> {
    let from = before.map_or(segment.start(), |before| before.start);
    let refused = |error| file.refused(error);
    let mut cutter = Cutter::new(segment, from, until).map_err(refused)?;
    let (mut planned, mut pieces) = (Vec::new(), Vec::new());
    let planned_of = |piece: Piece| Planned {
        digest: digest(keys, &piece.bytes),
        range: piece.range,
        facts: piece.facts,
    };
    for opened in before.into_iter().chain([file]) {
        opened.each_block(&mut |block| {
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
