//! From a stream of bytes to the ranges that become objects: whole ranges of at most 16 MiB, and tails of the open one.
//!
//! Everything passes the [`WalReader`] first, so what is archived is known to be WAL of this cluster. Pure: no I/O, no clock.

use bytes::Bytes;
use pg::lsn::Lsn;
use pg::segment::SegmentSize;
use store::envelope::{RestorePoint, WalFacts};
use store::id::LineageId;
use store::layout::WalRange;
use store::limits::WAL_OBJECT_BYTES_MAX;

use crate::reader::{WalError, WalItem, WalReader, WalReaderConfig};

/// Tails of one range, at least, before one of them covers the range from its start again, so that readers meet few of them. It comes
/// only when it carries as much that is new as it carries again: all of them together cost no more than the range twice.
const TAILS_UNTIL_JOINED: u32 = 128;

/// A range on its way into the repository.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Which WAL; `epoch` is filled in by the writer.
    pub range: WalRange,
    /// Its bytes.
    pub bytes: Bytes,
    /// What its header will say about the records.
    pub facts: WalFacts,
    /// Other pieces have carried all of it: nobody waits for it.
    pub joined: bool,
}

/// The end of a transaction, for lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitSeen {
    /// The commit is protected once this is archived.
    pub end: Lsn,
    /// Its time, microseconds since 1970, by the server's clock.
    pub time_us: i64,
}

/// Cuts a contiguous stream of one timeline into pieces.
#[derive(Debug)]
pub struct Assembler {
    lineage: LineageId,
    config: WalReaderConfig,
    reader: WalReader,
    range_start: Lsn,
    tail_start: Lsn,
    buffer: Vec<u8>,
    whole: WalFacts,
    tail: WalFacts,
    /// Since the last joined one.
    tails: u32,
    /// Bytes that the last joined tail carried.
    joined: u64,
    /// Room for a range is made at once.
    is_all_at_hand: bool,
}

impl Assembler {
    /// Begins at `config.start`, the start of a segment. `previous` is the record that ends right there, if it is known.
    ///
    /// # Errors
    /// The start is not a page boundary.
    pub fn new(lineage: LineageId, config: WalReaderConfig, previous: Option<Lsn>) -> Result<Self, WalError> {
        let mut reader = WalReader::new(config)?;
        if let Some(previous) = previous {
            reader.expect_prev(previous);
        }
        let start = config.start;
        Ok(Assembler {
            lineage,
            config,
            reader,
            range_start: start,
            tail_start: start,
            buffer: Vec::new(),
            whole: WalFacts::default(),
            tail: WalFacts::default(),
            tails: 0,
            joined: 0,
            is_all_at_hand: false,
        })
    }

    /// The bytes are at hand and every range will be whole: room for one is made at once, without moving what is there.
    #[must_use]
    pub fn with_all_at_hand(mut self) -> Self {
        self.is_all_at_hand = true;
        self
    }

    /// End of what came in.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.range_start.saturating_add(self.buffer.len() as u64)
    }

    /// Bytes that no piece has carried yet.
    #[must_use]
    pub fn unshipped_bytes(&self) -> u64 {
        self.position().distance_from(self.tail_start)
    }

    /// Bytes of the open range that are held.
    #[must_use]
    pub fn buffered_bytes(&self) -> u64 {
        self.buffer.len() as u64
    }

    fn range_end(&self) -> Lsn {
        let size = self.config.segment_size;
        let segment_end = size.end_of(size.segment_of(self.range_start));
        segment_end.min(self.range_start.saturating_add(WAL_OBJECT_BYTES_MAX))
    }

    /// Takes bytes in; pushes a piece for each range that they complete and an entry for each transaction that they end.
    ///
    /// # Errors
    /// The bytes are not contiguous or not WAL of this cluster; nothing of them was taken.
    pub fn push(
        &mut self,
        lsn: Lsn,
        mut bytes: &[u8],
        pieces: &mut Vec<Piece>,
        commits: &mut Vec<CommitSeen>,
    ) -> Result<(), WalError> {
        let mut lsn = lsn;
        while !bytes.is_empty() {
            let room = usize::try_from(self.range_end().distance_from(self.position())).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            let (whole, tail) = (&mut self.whole, &mut self.tail);
            self.reader
                .push(lsn, now, &mut |item| note(&item, whole, tail, commits))?;
            self.make_room(now.len(), room);
            self.buffer.extend_from_slice(now);
            lsn = lsn.saturating_add(now.len() as u64);
            bytes = rest;
            if self.position() == self.range_end() {
                pieces.push(self.complete_range());
            }
        }
        Ok(())
    }

    /// Twice as much each time, as vectors do, and never more than the open range can need.
    fn make_room(&mut self, bytes: usize, bytes_max: usize) {
        let (held, room) = (self.buffer.len(), self.buffer.capacity() - self.buffer.len());
        if room < bytes && self.is_all_at_hand {
            self.buffer.reserve_exact(bytes_max);
        } else if room < bytes {
            self.buffer.reserve_exact(bytes.max(held).min(bytes_max.max(bytes)));
        }
    }

    fn complete_range(&mut self) -> Piece {
        let end = self.position();
        let bytes = Bytes::from(std::mem::take(&mut self.buffer));
        let facts = std::mem::take(&mut self.whole);
        let piece = self.piece(self.range_start, end, bytes, facts, false);
        self.range_start = end;
        self.tail_start = end;
        self.tail = WalFacts::default();
        self.tails = 0;
        self.joined = 0;
        piece
    }

    /// A tail of what no piece has carried yet; `None` when there is nothing.
    #[must_use]
    pub fn cut_tail(&mut self) -> Option<Piece> {
        let end = self.position();
        if end == self.tail_start {
            return None;
        }
        self.tails += 1;
        let from = usize::try_from(self.tail_start.distance_from(self.range_start)).unwrap_or(usize::MAX);
        let bytes = Bytes::copy_from_slice(self.buffer.get(from..).unwrap_or_default());
        let facts = std::mem::take(&mut self.tail);
        let piece = self.piece(self.tail_start, end, bytes, facts, true);
        self.tail_start = end;
        Some(piece)
    }

    /// The open range has many tails by now, and one in place of them would carry as much that is new as it carries again.
    #[must_use]
    pub fn has_many_tails(&self) -> bool {
        let unjoined = self.buffered_bytes().saturating_sub(self.joined);
        self.tails >= TAILS_UNTIL_JOINED && self.joined <= unjoined
    }

    /// One tail in place of the many that the open range has by now, when there are many; nobody need wait for it.
    #[must_use]
    pub fn join_tails(&mut self) -> Option<Piece> {
        if !self.has_many_tails() {
            return None;
        }
        self.tails = 0;
        self.joined = self.buffered_bytes();
        let bytes = Bytes::copy_from_slice(&self.buffer);
        let piece = self.piece(self.range_start, self.position(), bytes, self.whole.clone(), true);
        Some(Piece { joined: true, ..piece })
    }

    fn piece(&self, start: Lsn, end: Lsn, bytes: Bytes, mut facts: WalFacts, tail: bool) -> Piece {
        // A record's end is aligned; its padding may not have come yet.
        facts.last_record_end = facts.last_record_end.map(|record_end| record_end.min(end.as_u64()));
        let range = WalRange {
            lineage: self.lineage,
            timeline: self.config.timeline,
            start,
            end,
            epoch: 0,
            tail,
        };
        Piece {
            range,
            bytes,
            facts,
            joined: false,
        }
    }

    /// Segment size of the stream.
    #[must_use]
    pub fn segment_size(&self) -> SegmentSize {
        self.config.segment_size
    }
}

fn note(item: &WalItem, whole: &mut WalFacts, tail: &mut WalFacts, commits: &mut Vec<CommitSeen>) {
    match item {
        WalItem::Record(record) => {
            for facts in [whole, tail] {
                facts.first_record.get_or_insert(record.start.as_u64());
                facts.last_record = Some(record.start.as_u64());
                facts.last_record_end = Some(record.end.as_u64());
            }
        }
        WalItem::Xact(event) if event.kind.counts_for_target_time() => {
            let time_us = event.time.to_unix_micros();
            note_time(whole, time_us);
            note_time(tail, time_us);
            commits.push(CommitSeen {
                end: event.lsn_end,
                time_us,
            });
        }
        WalItem::RestorePoint(point) => {
            for facts in [whole, tail] {
                note_time(facts, point.time.to_unix_micros());
                facts.restore_points.push(RestorePoint {
                    name: point.name_lossy().into_owned(),
                    time_us: point.time.to_unix_micros(),
                    record: point.lsn_start.as_u64(),
                });
            }
        }
        _ => {}
    }
}

fn note_time(facts: &mut WalFacts, time_us: i64) {
    facts.time_lowest_us = Some(facts.time_lowest_us.map_or(time_us, |lowest| lowest.min(time_us)));
    facts.time_highest_us = Some(facts.time_highest_us.map_or(time_us, |highest| highest.max(time_us)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::tests::build::{MAGIC, SEGMENT, Wal};
    use pg::identity::SystemIdentifier;
    use pg::timeline::TimelineId;

    fn config() -> WalReaderConfig {
        WalReaderConfig {
            magic: MAGIC,
            system_identifier: SystemIdentifier(7),
            segment_size: SegmentSize::new(SEGMENT).unwrap(),
            timeline: TimelineId::FIRST,
            start: Lsn::new(SEGMENT),
        }
    }

    /// Cuts a tail after each of so many equal parts of a segment; returns what the tails and the joined ones carry.
    fn cut(parts: usize) -> (Vec<Piece>, Vec<Piece>) {
        let mut wal = Wal::new(SEGMENT);
        while wal.end() < 2 * SEGMENT {
            wal.filler(100);
        }
        let mut assembler = Assembler::new(LineageId::default(), config(), None).unwrap();
        let (mut tails, mut joined) = (Vec::new(), Vec::new());
        let step = SEGMENT as usize / parts;
        for part in wal.bytes[..step * (parts - 1)].chunks(step) {
            let at = assembler.position();
            assembler.push(at, part, &mut Vec::new(), &mut Vec::new()).unwrap();
            tails.extend(assembler.cut_tail());
            joined.extend(assembler.join_tails());
        }
        (tails, joined)
    }

    #[test]
    fn tails_are_contiguous_and_joined_ones_carry_no_more_than_the_range_twice() {
        let (tails, joined) = cut(1024);
        assert_eq!(tails.len(), 1023);
        assert!(tails.windows(2).all(|two| two[0].range.end == two[1].range.start));
        assert!(!joined.is_empty());
        assert!(
            joined
                .iter()
                .all(|piece| piece.joined && piece.range.start == Lsn::new(SEGMENT))
        );
        let carried: usize = joined.iter().map(|piece| piece.bytes.len()).sum();
        assert!(carried as u64 <= 2 * SEGMENT, "{carried}");
        // A reader never meets more than two runs of them behind a joined one.
        let behind = tails
            .iter()
            .filter(|tail| tail.range.start >= joined.last().unwrap().range.end);
        assert!(behind.count() <= 512);
    }

    #[test]
    fn a_range_never_holds_more_memory_than_it_has_bytes() {
        let mut wal = Wal::new(SEGMENT);
        while wal.end() < 3 * SEGMENT {
            wal.filler(100);
        }
        for message in [8192, 100_001, 300_000] {
            let mut assembler = Assembler::new(LineageId::default(), config(), None).unwrap();
            let mut pieces = Vec::new();
            for part in wal.bytes.chunks(message) {
                let at = assembler.position();
                assembler.push(at, part, &mut pieces, &mut Vec::new()).unwrap();
                assert!(assembler.buffer.capacity() as u64 <= SEGMENT);
            }
            assert!(pieces.len() >= 2);
            for piece in pieces {
                let held = piece.bytes.try_into_mut().unwrap();
                assert!(held.capacity() as u64 <= SEGMENT, "{}", held.capacity());
            }
        }
    }

    #[test]
    fn a_few_tails_are_left_as_they_are() {
        let (tails, joined) = cut(64);
        assert_eq!((tails.len(), joined.len()), (63, 0));
    }
}
