//! Records out of pieces of WAL: the part of a scan that does no I/O.

use pg::identity::{ServerVersion, SystemIdentifier, wal_page_magic};
use pg::lsn::Lsn;
use pg::segment::SegmentSize;
use pg::timeline::TimelineId;
use store::manifest::Manifest;
use wal::reader::{WalItem, WalReader, WalReaderConfig};

use crate::error::{RestoreError, Result};
use crate::route::Piece;

/// Bytes of a WAL page.
pub(crate) const PAGE_BYTES: u64 = 8192;

/// A record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its first byte.
    pub(crate) start: Lsn,
    /// Where it ends.
    pub(crate) end: Lsn,
    /// Its time, when it is one that recovery to a time looks at: microseconds since 1970.
    pub(crate) time_us: Option<i64>,
    /// Time of the last such record before it, where that was seen.
    pub(crate) commit_before_us: Option<i64>,
}

/// A record that may be the one that is looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    /// Where it is.
    pub(crate) found: Found,
    /// The transaction that it ends.
    pub(crate) xid: Option<u32>,
    /// The name of the restore point that it sets.
    pub(crate) restore_point: Option<&'a [u8]>,
}

/// Is this the record?
pub(crate) type Wanted = dyn Fn(&Candidate<'_>) -> bool + Sync;

/// What a search saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The first record that was wanted.
    pub(crate) found: Option<Found>,
    /// The last complete record before it, or at all.
    pub(crate) last: Option<Found>,
    /// The newest time before it.
    pub(crate) last_commit_us: Option<i64>,
}

impl Seen {
    /// Takes one item of WAL; records before `from` do not count.
    fn note(&mut self, item: &WalItem, from: Lsn, wanted: &Wanted) {
        if self.found.is_some() {
            return;
        }
        let (mut xid, mut restore_point) = (None, None);
        let (start, end, time_us) = match item {
            WalItem::Record(record) => (record.start, record.end, None),
            WalItem::Xact(event) if event.kind.counts_for_target_time() => {
                xid = Some(event.xid);
                (event.lsn_start, event.lsn_end, Some(event.time.to_unix_micros()))
            }
            WalItem::RestorePoint(point) => {
                restore_point = Some(point.name.as_slice());
                (point.lsn_start, point.lsn_end, Some(point.time.to_unix_micros()))
            }
            _ => return,
        };
        if start < from {
            return;
        }
        let found = Found {
            start,
            end,
            time_us,
            commit_before_us: self.last_commit_us,
        };
        let candidate = Candidate {
            found,
            xid,
            restore_point,
        };
        if wanted(&candidate) {
            self.found = Some(found);
            return;
        }
        if time_us.is_some() {
            self.last_commit_us = self.last_commit_us.max(time_us);
        }
        self.last = Some(Found {
            commit_before_us: self.last_commit_us,
            ..found
        });
    }
}

/// What the WAL of a backup's cluster must look like.
pub(crate) fn config(
    manifest: &Manifest,
    timeline: TimelineId,
    size: SegmentSize,
    start: Lsn,
) -> Result<WalReaderConfig> {
    let major = ServerVersion(manifest.server_version).major();
    let magic = wal_page_magic(major).ok_or_else(|| {
        RestoreError::refused(
            format!("PostgreSQL {major} is not supported"),
            "Upgrade seawall on this host.",
        )
    })?;
    Ok(WalReaderConfig {
        magic,
        system_identifier: SystemIdentifier(manifest.system_identifier),
        segment_size: size,
        timeline,
        start,
    })
}

/// The bytes of a piece out of those of its object.
pub(crate) fn part_of<'a>(piece: &Piece, object: &'a [u8]) -> Result<&'a [u8]> {
    let at = |lsn: Lsn| usize::try_from(lsn.distance_from(piece.range.start)).unwrap_or(usize::MAX);
    object.get(at(piece.from)..at(piece.to)).ok_or_else(|| {
        RestoreError::damaged(
            format!("{}-{}", piece.range.start, piece.range.end),
            "shorter than its range",
        )
    })
}

/// A search over contiguous pieces.
pub(crate) struct Search<'a> {
    reader: WalReader,
    from: Lsn,
    wanted: &'a Wanted,
    seen: Seen,
}

impl<'a> Search<'a> {
    /// Begins at `config.start`; records before `from` do not count.
    pub(crate) fn new(config: WalReaderConfig, from: Lsn, wanted: &'a Wanted) -> Result<Self> {
        Ok(Search {
            reader: WalReader::new(config)?,
            from,
            wanted,
            seen: Seen::default(),
        })
    }

    /// Reads a piece out of its object's bytes; true when the search is over.
    pub(crate) fn push(&mut self, piece: &Piece, object: &[u8]) -> Result<bool> {
        let bytes = part_of(piece, object)?;
        let (seen, from, wanted) = (&mut self.seen, self.from, self.wanted);
        self.reader
            .push(piece.from, bytes, &mut |item| seen.note(&item, from, wanted))?;
        Ok(self.seen.found.is_some())
    }

    /// What was seen.
    pub(crate) fn finish(self) -> Seen {
        self.seen
    }
}

/// Searches items that are at hand.
#[cfg(test)]
pub(crate) fn search(items: &[WalItem], from: Lsn, wanted: &Wanted) -> (Option<Found>, Option<Found>) {
    let mut seen = Seen::default();
    for item in items {
        seen.note(item, from, wanted);
    }
    (seen.found, seen.last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wal::commit::{PgTimestamp, XactEvent, XactKind};
    use wal::record::RecordInfo;

    fn record(start: u64, end: u64) -> WalItem {
        WalItem::Record(RecordInfo {
            start: Lsn::new(start),
            end: Lsn::new(end),
            prev: Lsn::ZERO,
            xid: 0,
            rmid: 0,
            info: 0,
            len: 24,
        })
    }

    fn xact(kind: XactKind, start: u64, end: u64, us: i64) -> Vec<WalItem> {
        let event = XactEvent {
            kind,
            lsn_start: Lsn::new(start),
            lsn_end: Lsn::new(end),
            xid: 1,
            time: PgTimestamp::from_unix_micros(us),
        };
        vec![record(start, end), WalItem::Xact(event)]
    }

    fn wal() -> Vec<WalItem> {
        [
            xact(XactKind::Commit, 100, 140, 5),
            vec![record(140, 180)],
            xact(XactKind::Prepare, 180, 220, 99),
            xact(XactKind::Abort, 220, 260, 10),
            xact(XactKind::Commit, 260, 300, 10),
            xact(XactKind::CommitPrepared, 300, 340, 20),
        ]
        .concat()
    }

    #[test]
    fn the_stop_record_is_the_first_transaction_past_the_time() {
        let after = |us: i64| {
            search(&wal(), Lsn::new(0), &move |record: &Candidate<'_>| {
                record.found.time_us.is_some_and(|time| time > us)
            })
            .0
        };
        assert_eq!(after(4).unwrap().start, Lsn::new(100));
        assert_eq!(after(5).unwrap().start, Lsn::new(220));
        assert_eq!(after(10).unwrap().start, Lsn::new(300));
        assert_eq!(after(10).unwrap().commit_before_us, Some(10));
        assert_eq!(after(20), None);
        let not_before = |us: i64| {
            search(&wal(), Lsn::new(0), &move |record: &Candidate<'_>| {
                record.found.time_us.is_some_and(|time| time >= us)
            })
            .0
        };
        assert_eq!(not_before(10).unwrap().start, Lsn::new(220));
    }

    #[test]
    fn a_transaction_and_a_restore_point_are_found_by_their_names() {
        let point = wal::commit::RestorePoint {
            name: b"before".to_vec(),
            time: PgTimestamp::from_unix_micros(30),
            lsn_start: Lsn::new(340),
            lsn_end: Lsn::new(380),
        };
        let mut items = wal();
        items.push(record(340, 380));
        items.push(WalItem::RestorePoint(point));
        let by_xid = |xid| move |record: &Candidate<'_>| record.xid == Some(xid);
        let first = search(&items, Lsn::new(0), &by_xid(1)).0;
        assert_eq!(first.unwrap().start, Lsn::new(100));
        assert_eq!(search(&items, Lsn::new(0), &by_xid(2)).0, None);
        let by_name = |name: &'static [u8]| move |record: &Candidate<'_>| record.restore_point == Some(name);
        assert_eq!(
            search(&items, Lsn::new(0), &by_name(b"before")).0.unwrap().start,
            Lsn::new(340)
        );
        assert_eq!(search(&items, Lsn::new(0), &by_name(b"befor")).0, None);
    }

    #[test]
    fn records_before_the_backup_do_not_count() {
        let after = search(&wal(), Lsn::new(150), &|record: &Candidate<'_>| {
            record.found.time_us.is_some_and(|time| time > 4)
        })
        .0;
        assert_eq!(after.unwrap().start, Lsn::new(220));
    }

    #[test]
    fn an_lsn_finds_the_first_record_at_or_behind_it_and_the_end_is_known() {
        let at = |lsn: u64| {
            search(&wal(), Lsn::new(0), &move |record: &Candidate<'_>| {
                record.found.start >= Lsn::new(lsn)
            })
        };
        assert_eq!(at(141).0.unwrap().start, Lsn::new(180));
        assert_eq!(at(140).0.unwrap().start, Lsn::new(140));
        let (none, last) = at(301);
        assert_eq!(none, None);
        assert_eq!(last.unwrap().start, Lsn::new(300));
    }
}
