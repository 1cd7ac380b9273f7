//! Whole records for who asks for them. Nobody else pays: the other way through the reader is compiled without this.

use super::WalItem;
use crate::record::{RecordHeader, RecordInfo};

/// Longest body that is kept whole. A record about one table has some page images, at most 32 of 8 KiB
/// (`XLR_MAX_BLOCK_ID`, `access/xlogrecord.h`), or the subtransactions of a commit.
pub const WHOLE_BYTES_MAX: usize = 1 << 20;

/// Takes what a [`super::WalReader`] reads.
pub trait RecordSink {
    /// Every item, in the order of WAL.
    fn item(&mut self, item: WalItem);
    /// Is this record wanted whole? Its checksum is not known yet.
    fn wants(&self, header: &RecordHeader) -> bool;
    /// A record that was wanted, behind its items, once its checksum was right: its body without page headers, `None`
    /// where that is longer than [`WHOLE_BYTES_MAX`].
    fn whole(&mut self, record: &RecordInfo, body: Option<&[u8]>);
}

/// A sink of items alone.
pub(super) struct Items<'a, F>(pub(super) &'a mut F);

impl<F: FnMut(WalItem)> RecordSink for Items<'_, F> {
    fn item(&mut self, item: WalItem) {
        (self.0)(item);
    }

    fn wants(&self, _: &RecordHeader) -> bool {
        false
    }

    fn whole(&mut self, _: &RecordInfo, _: Option<&[u8]>) {}
}

#[cfg(test)]
mod tests {
    use super::super::tests::build::{Random, Wal};
    use super::*;

    #[derive(Default)]
    struct Heap {
        items: usize,
        bodies: Vec<(u64, Option<Vec<u8>>)>,
    }

    impl RecordSink for Heap {
        fn item(&mut self, _: WalItem) {
            self.items += 1;
        }

        fn wants(&self, header: &RecordHeader) -> bool {
            header.rmid == 10 || header.rmid == 1
        }

        fn whole(&mut self, record: &RecordInfo, body: Option<&[u8]>) {
            self.bodies.push((record.start.as_u64(), body.map(<[u8]>::to_vec)));
        }
    }

    fn heap_of(wal: &Wal, mut piece: impl FnMut() -> usize) -> Heap {
        let (mut reader, mut heap, mut at) = (wal.reader(), Heap::default(), 0);
        while at < wal.bytes.len() {
            let taken = piece().clamp(1, wal.bytes.len() - at);
            let lsn = pg::lsn::Lsn::new(wal.start + at as u64);
            reader
                .push_to(lsn, &wal.bytes[at..at + taken], &mut heap)
                .expect("right WAL");
            at += taken;
        }
        heap
    }

    #[test]
    fn whole_records_come_in_any_split_and_others_stay_out() {
        let mut wal = Wal::new(0);
        let long: Vec<u8> = (0..30_000).map(|i| (i * 5) as u8).collect();
        let first = wal.record(10, 0, 5, &long);
        wal.record(11, 0, 5, &long);
        let empty = wal.record(10, 0, 5, &[]);
        let commit = wal.commit(5, 1);
        wal.filler(8);
        let expected = heap_of(&wal, || usize::MAX);
        assert_eq!(expected.items, wal.items().len());
        let bodies = &expected.bodies;
        assert_eq!(bodies.len(), 4);
        assert_eq!(bodies[0], (first, Some(long)));
        assert_eq!(bodies[1], (empty, Some(Vec::new())));
        assert_eq!(bodies[2].0, commit);
        let mut random = Random(7);
        for most in [1, 7, 100, 9000] {
            assert_eq!(heap_of(&wal, || random.below(most)).bodies, expected.bodies);
        }
    }

    #[test]
    fn a_record_beyond_the_limit_is_told_without_its_body() {
        let mut wal = Wal::new(0);
        let most = wal.record(10, 0, 5, &vec![1; WHOLE_BYTES_MAX]);
        let more = wal.record(10, 0, 5, &vec![1; WHOLE_BYTES_MAX + 1]);
        wal.filler(8);
        let heap = heap_of(&wal, || 1 << 16);
        let lens: Vec<_> = heap
            .bodies
            .iter()
            .map(|(at, body)| (*at, body.as_ref().map(Vec::len)))
            .collect();
        assert_eq!(lens[..2], [(most, Some(WHOLE_BYTES_MAX)), (more, None)]);
    }
}
