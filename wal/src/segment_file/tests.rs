//! Segment files made by hand: what is taken, what is refused, and that the pieces are those of a stream.

use store::envelope::WalFacts;

use super::*;
use crate::reader::tests::build::{Random, SEGMENT, Wal};

const SYSTEM: u64 = 7;

fn lineage() -> Lineage {
    Lineage {
        id: LineageId::from_parts(1, [1; 10]),
        system_identifier: SYSTEM,
        server_version: 150_004,
        segment_bytes: SEGMENT,
        parent: None,
        fork_lsn: None,
        reason: "test".into(),
        created_us: 0,
        timeline: 1,
        begin_lsn: 0,
    }
}

fn timeline(id: u32) -> TimelineId {
    TimelineId::new(id).unwrap()
}

fn file(number: u64) -> SegmentFile {
    SegmentFile::new(&lineage(), timeline(1), SegmentNumber(number)).unwrap()
}

/// Three segments that records cross, with commits; the last one ends with a switch.
fn history(seed: u64) -> Wal {
    let mut wal = Wal::new(SEGMENT);
    let mut random = Random(seed);
    while wal.end() < 3 * SEGMENT + SEGMENT / 2 {
        if random.below(5) == 0 {
            wal.commit(9, random.below(1_000_000) as i64);
        } else {
            wal.filler(random.below(5_000));
        }
    }
    wal.switch();
    wal
}

/// An older segment, whole in itself: what stands in a file before it is used again.
fn recycled() -> Wal {
    let mut wal = Wal::new(SEGMENT);
    let mut random = Random(31);
    while wal.end() < 2 * SEGMENT {
        let body: Vec<u8> = (0..random.below(5_000)).map(|_| random.below(256) as u8).collect();
        wal.record(10, 0, 6, &body);
    }
    wal
}

fn segment(wal: &Wal, number: u64) -> Vec<u8> {
    let at = (number * SEGMENT - wal.start) as usize;
    wal.bytes[at..at + SEGMENT as usize].to_vec()
}

fn survey(file: &SegmentFile, before: Option<&[u8]>, bytes: &[u8]) -> Surveyed {
    let from = before.map_or(file.start(), |before| {
        Lsn::new(file.start().as_u64() - before.len() as u64)
    });
    let mut survey = Survey::new(file, from).unwrap();
    for block in before.into_iter().chain([bytes]).flat_map(|all| all.chunks(10_000)) {
        survey.push(block);
    }
    survey.finish()
}

fn cut(file: &SegmentFile, before: Option<&[u8]>, bytes: &[u8], until: Lsn) -> Vec<Piece> {
    let from = before.map_or(file.start(), |before| {
        Lsn::new(file.start().as_u64() - before.len() as u64)
    });
    let (mut cutter, mut pieces) = (Cutter::new(file, from, until).unwrap(), Vec::new());
    for block in before.into_iter().chain([bytes]).flat_map(|all| all.chunks(10_000)) {
        cutter.push(block, &mut pieces).unwrap();
    }
    pieces.extend(cutter.finish());
    pieces
}

/// The facts of the last piece of a segment, as its object's header would have them.
fn facts(wal: &Wal, number: u64) -> WalFacts {
    let (file, bytes) = (file(number), segment(wal, number));
    cut(&file, None, &bytes, file.end()).last().unwrap().facts.clone()
}

#[test]
fn the_pieces_of_a_file_are_those_of_a_stream() {
    let wal = history(4711);
    let config = WalReaderConfig {
        start: Lsn::new(SEGMENT),
        ..file(1).config
    };
    let (mut streamed, mut commits) = (Vec::new(), Vec::new());
    let mut assembler = Assembler::new(lineage().id, config, None).unwrap();
    assembler
        .push(Lsn::new(SEGMENT), &wal.bytes, &mut streamed, &mut commits)
        .unwrap();
    assert_eq!(streamed.len(), 3);
    for (number, expected) in (1..).zip(streamed) {
        let (file, bytes) = (file(number), segment(&wal, number));
        let before = (number > 1).then(|| segment(&wal, number - 1));
        let surveyed = survey(&file, before.as_deref(), &bytes);
        assert_eq!(surveyed.whole(), Ok(()));
        assert_eq!(
            surveyed.valid_end == file.end(),
            number == 3,
            "only the switch ends there"
        );
        let pieces = cut(&file, before.as_deref(), &bytes, file.end());
        let [piece] = pieces.as_slice() else {
            panic!("{} pieces", pieces.len())
        };
        assert_eq!(piece.range, expected.range);
        assert!(piece.bytes == expected.bytes);
        assert_eq!(piece.facts, expected.facts);
    }
}

#[test]
fn a_file_of_another_length_cluster_size_or_place_is_refused() {
    let wal = history(1);
    let bytes = segment(&wal, 2);
    let check = |file: &SegmentFile, len: usize| file.check_head(len as u64, &bytes[..HEAD_BYTES]);
    assert!(check(&file(2), bytes.len()).is_ok());
    for len in [0, 8192, bytes.len() - 1, bytes.len() + 1] {
        assert!(matches!(check(&file(2), len), Err(SegmentFileError::Length { .. })));
    }
    assert!(matches!(
        check(&file(3), bytes.len()),
        Err(SegmentFileError::Head(WalPageError::Address { .. }))
    ));
    let other = Lineage {
        system_identifier: 8,
        ..lineage()
    };
    let other = SegmentFile::new(&other, timeline(1), SegmentNumber(2)).unwrap();
    assert_eq!(
        check(&other, bytes.len()),
        Err(SegmentFileError::OtherCluster { expected: 8, found: 7 })
    );
    let newer = Lineage {
        server_version: 170_001,
        ..lineage()
    };
    let newer = SegmentFile::new(&newer, timeline(1), SegmentNumber(2)).unwrap();
    assert!(matches!(
        check(&newer, bytes.len()),
        Err(SegmentFileError::Head(WalPageError::Magic { .. }))
    ));
    let none = file(2).check_head(SEGMENT, &[]);
    assert!(matches!(
        none,
        Err(SegmentFileError::Head(WalPageError::Truncated { .. }))
    ));
}

#[test]
fn a_changed_byte_is_found_in_every_record_of_the_segment() {
    let wal = history(23);
    let (file, before, whole) = (file(2), segment(&wal, 1), segment(&wal, 2));
    assert!(survey(&file, None, &whole).error.is_none());
    let mut random = Random(99);
    // Behind the rest of the record that began before, and before the one that goes on behind.
    let first = survey(&file, None, &whole).first.unwrap().start.as_u64() - 2 * SEGMENT;
    for _ in 0..200 {
        let at = first as usize + random.below(whole.len() - 16_000 - first as usize);
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << random.below(8);
        let is_padding = flipped[at] != whole[at] && survey(&file, None, &flipped).error.is_none();
        // Alignment between records is the only place without a checksum; it is zero in a real file and means nothing.
        assert!(!is_padding || whole[at] == 0, "byte {at}");
    }
    // In the rest of a record that began in the segment before only with that one at hand.
    let mut flipped = whole.clone();
    let at = HEAD_BYTES + 1;
    assert!((at as u64) < first, "the segment begins within a record");
    flipped[at] ^= 1;
    assert_eq!(survey(&file, None, &flipped).whole(), Ok(()));
    assert!(matches!(
        survey(&file, Some(&before), &flipped).whole(),
        Err(SegmentFileError::Damaged(WalError::RecordCrc { .. }))
    ));
    assert_eq!(survey(&file, Some(&before), &whole).whole(), Ok(()));
}

#[test]
fn of_a_segment_that_was_left_only_complete_records_are_taken() {
    let wal = history(5);
    let (file, before, whole) = (file(2), segment(&wal, 1), segment(&wal, 2));
    let stale = segment(&recycled(), 1);
    // WAL is flushed and sent up to the aligned end of a record, or to a page boundary.
    for cut_at in [100_000, 300_008, 8192 * 20, 8192 * 20 + 8, 48] {
        // What a recycled file has behind the end of WAL, or a fresh one.
        for rest in [stale.clone(), vec![0; whole.len()]] {
            let mut bytes = whole.clone();
            bytes[cut_at..].copy_from_slice(&rest[cut_at..]);
            let surveyed = survey(&file, Some(&before), &bytes);
            let end = surveyed.valid_end.distance_from(file.start()) as usize;
            assert!(end <= cut_at, "{end} of {cut_at}");
            assert!(cut_at - end < 5_100, "{end} of {cut_at}: a record has at most 5 kB");
            assert!(surveyed.error.is_some());
            let pieces = cut(&file, Some(&before), &bytes, surveyed.valid_end);
            if end == 0 {
                assert!(pieces.is_empty());
                continue;
            }
            let [tail] = pieces.as_slice() else {
                panic!("{} pieces", pieces.len())
            };
            assert!(tail.range.tail);
            assert_eq!((tail.range.start, tail.range.end), (file.start(), surveyed.valid_end));
            assert!(tail.bytes == whole[..end]);
            assert_eq!(tail.facts.last_record_end, Some(surveyed.valid_end.as_u64()));
        }
    }
}

#[test]
fn a_segment_that_goes_on_where_the_archive_ends_is_taken() {
    for seed in 1..40 {
        let wal = history(seed * 7_919);
        for number in 2..=3 {
            let (file, bytes) = (file(number), segment(&wal, number));
            let head = file.check_head(SEGMENT, &bytes[..HEAD_BYTES]).unwrap();
            let archived = facts(&wal, number - 1);
            for before in [None, Some(segment(&wal, number - 1))] {
                let surveyed = survey(&file, before.as_deref(), &bytes);
                let splice = check_splice(&file, head, &surveyed, file.start(), &archived);
                assert_eq!(splice, Ok(()), "seed {seed}, segment {number}");
                let older = check_splice(&file, head, &surveyed, Lsn::new(SEGMENT + 8192), &archived);
                assert_eq!(older, Ok(()), "a hole tells nothing");
            }
        }
    }
}

/// A segment 1 whose last record ends `left` bytes before its end (0: with it), or crosses it, and the first record behind it.
fn boundary(left: u64, crosses: bool, more: usize) -> Wal {
    let mut wal = Wal::new(SEGMENT);
    wal.filler(more);
    while wal.end() < 2 * SEGMENT - 8192 {
        let rest = 2 * SEGMENT - 8192 - wal.end();
        wal.filler((rest as usize).min(4_000));
        wal.align();
    }
    wal.fill_page_to(left);
    if crosses {
        wal.filler(500);
    }
    wal.filler(10);
    while wal.end() < 3 * SEGMENT {
        wal.filler(4_000);
    }
    wal
}

#[test]
fn a_segment_of_another_history_is_told_by_its_first_record() {
    let cases = [(0, false), (24, true), (64, true), (480, true)];
    for (left, crosses) in cases {
        let ours = boundary(left, crosses, 100);
        let archived = facts(&ours, 1);
        let (file, bytes) = (file(2), segment(&ours, 2));
        let head = file.check_head(SEGMENT, &bytes[..HEAD_BYTES]).unwrap();
        assert_eq!(head.continues, crosses);
        let surveyed = survey(&file, None, &bytes);
        assert_eq!(check_splice(&file, head, &surveyed, file.start(), &archived), Ok(()));

        // Another history whose records lie elsewhere.
        for (other_left, other_crosses) in [(0, false), (32, true), (128, true), (1_000, true)] {
            let theirs = boundary(other_left, other_crosses, 140);
            let bytes = segment(&theirs, 2);
            let head = file.check_head(SEGMENT, &bytes[..HEAD_BYTES]).unwrap();
            let last_is_same = facts(&theirs, 1).last_record == archived.last_record;
            for before in [None, Some(segment(&theirs, 1))] {
                let surveyed = survey(&file, before.as_deref(), &bytes);
                let splice = check_splice(&file, head, &surveyed, file.start(), &archived);
                let expected = last_is_same && other_crosses == crosses && other_left == left;
                assert_eq!(
                    splice.is_ok(),
                    expected,
                    "{left} {crosses} {other_left} {other_crosses}"
                );
            }
        }
    }
}

#[test]
fn a_hole_before_the_segment_still_shows_a_history_that_lies_behind() {
    let wal = history(3);
    let (file, bytes) = (file(2), segment(&wal, 2));
    let head = file.check_head(SEGMENT, &bytes[..HEAD_BYTES]).unwrap();
    let surveyed = survey(&file, None, &bytes);
    let named = surveyed.first.unwrap().prev;
    let archived = |last: u64| WalFacts {
        last_record: Some(last),
        last_record_end: Some(last + 40),
        ..WalFacts::default()
    };
    let gap_end = Lsn::new(file.start().as_u64() - 8192);
    let check = |last: u64| check_splice(&file, head, &surveyed, gap_end, &archived(last));
    assert_eq!(check(named.as_u64() - 8), Ok(()));
    assert!(matches!(check(named.as_u64() + 8), Err(SegmentFileError::Splice(_))));
    assert_eq!(
        check_splice(&file, head, &surveyed, file.start(), &WalFacts::default()),
        Ok(()),
        "an object in which no record ends tells nothing"
    );
}

#[test]
fn a_new_timeline_begins_with_pages_of_the_old_one() {
    let mut wal = Wal::new(SEGMENT);
    while wal.end() < 2 * SEGMENT + 100_000 {
        wal.filler(3_000);
    }
    wal.timeline = 2;
    while wal.end() < 3 * SEGMENT {
        wal.filler(3_000);
    }
    let bytes = segment(&wal, 2);
    let new = SegmentFile::new(&lineage(), timeline(2), SegmentNumber(2)).unwrap();
    assert!(new.check_head(SEGMENT, &bytes[..HEAD_BYTES]).is_ok());
    assert_eq!(survey(&new, Some(&segment(&wal, 1)), &bytes).whole(), Ok(()));
    // Under the old timeline's name these bytes are refused.
    assert!(matches!(
        survey(&file(2), None, &bytes).whole(),
        Err(SegmentFileError::Damaged(WalError::Page { .. }))
    ));
}
