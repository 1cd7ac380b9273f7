//! From a complete record to the items it stands for: checksum first, then meaning.

use pg::lsn::Lsn;

use super::{Phase, RecordSink, WalError, WalReader};
use crate::commit::{PgTimestamp, RestorePoint, XactEvent};
use crate::page::Fields;
use crate::record::{MalformedRecord, RECORD_ALIGNMENT, RecordInfo, RecordKind};

/// What the reader found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalItem {
    /// A complete record. The other items follow the one of the record they were read from.
    Record(RecordInfo),
    /// The record ends or prepares a transaction.
    Xact(XactEvent),
    /// The record is a restore point.
    RestorePoint(RestorePoint),
    /// The record is an `XLOG_SWITCH`.
    Switch {
        /// Its first byte.
        start: Lsn,
        /// Where its bytes end.
        end: Lsn,
        /// Where the zeros behind it end and the next record begins.
        segment_end: Lsn,
    },
    /// The record is an `XLOG_OVERWRITE_CONTRECORD`: the record before it was lost in a crash and never counted.
    Overwritten {
        /// Start of the lost record, `overwritten_lsn`.
        lost: Lsn,
        /// Start of the record that says so.
        start: Lsn,
        /// `overwrite_time`.
        time: PgTimestamp,
    },
}

impl WalReader {
    pub(super) fn finish_record(&mut self, sink: &mut impl RecordSink) -> Result<(), WalError> {
        let start = Lsn::new(self.record.start);
        let header = self.record.header();
        let computed = self.record.checksum();
        if computed != header.crc {
            return Err(WalError::RecordCrc {
                lsn: start,
                stored: header.crc,
                computed,
            });
        }
        let record = RecordInfo {
            start,
            end: Lsn::new(self.position.next_multiple_of(RECORD_ALIGNMENT)),
            prev: header.prev,
            xid: header.xid,
            rmid: header.rmid,
            info: header.info,
            len: header.len,
        };
        self.phase = Phase::Header;
        let detail = self.interpret(&record)?;
        self.expected_prev = Some(start);
        self.first.get_or_insert(record);
        self.last = Some(record);
        sink.item(WalItem::Record(record));
        if let Some(detail) = detail {
            sink.item(detail);
        }
        if self.record.is_whole() {
            sink.whole(&record, self.record.body());
        }
        self.record.close();
        Ok(())
    }

    fn interpret(&mut self, record: &RecordInfo) -> Result<Option<WalItem>, WalError> {
        let (start, end) = (record.start, record.end);
        let malformed = |source: MalformedRecord| WalError::Malformed { lsn: start, source };
        let kind = record.kind();
        if kind != RecordKind::OverwriteContrecord && self.overwrite.is_some() {
            return Err(WalError::Overwrite {
                lsn: start,
                what: "the record that must begin this page is another",
            });
        }
        Ok(match kind {
            RecordKind::Other => None,
            RecordKind::Switch => Some(self.start_zeros(start, end)),
            RecordKind::RestorePoint => {
                let main = self.record.main_data().map_err(malformed)?;
                Some(WalItem::RestorePoint(
                    RestorePoint::parse(main, start, end).map_err(malformed)?,
                ))
            }
            RecordKind::Xact(kind) => {
                let scan = self.record.finish_scan(kind).map_err(malformed)?;
                Some(WalItem::Xact(scan.finish(start, end).map_err(malformed)?))
            }
            RecordKind::OverwriteContrecord => Some(self.verify_overwrite(start)?),
        })
    }

    fn start_zeros(&mut self, start: Lsn, end: Lsn) -> WalItem {
        let segment_end = end.as_u64().next_multiple_of(self.config.segment_size.bytes());
        if segment_end != self.position {
            self.phase = Phase::Zeros(segment_end);
        }
        WalItem::Switch {
            start,
            end,
            segment_end: Lsn::new(segment_end),
        }
    }

    /// `VerifyOverwriteContrecord` in `xlogrecovery.c`.
    fn verify_overwrite(&mut self, start: Lsn) -> Result<WalItem, WalError> {
        let malformed = |source: MalformedRecord| WalError::Malformed { lsn: start, source };
        let mut fields = Fields::new(self.record.main_data().map_err(malformed)?);
        let (Some(lost), Some(time)) = (fields.u64(), fields.u64()) else {
            return Err(malformed(MalformedRecord("it is too short for an overwrite record")));
        };
        let Some(overwrite) = self.overwrite.take() else {
            return Err(WalError::Overwrite {
                lsn: start,
                what: "its page has no overwrite flag",
            });
        };
        if overwrite.dropped.is_some_and(|dropped| dropped != lost) {
            return Err(WalError::Overwrite {
                lsn: start,
                what: "it names another record than the one that was lost",
            });
        }
        Ok(WalItem::Overwritten {
            lost: Lsn::new(lost),
            start,
            time: PgTimestamp(time.cast_signed()),
        })
    }
}
