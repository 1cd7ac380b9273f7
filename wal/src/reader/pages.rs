//! The reader at a page boundary: the header, and whether the page goes on where the one before it ended.

use pg::lsn::Lsn;

use super::{Overwrite, Phase, WalError, WalReader};
use crate::page::{LONG_HEADER_BYTES, PAGE_BYTES, PageExpectation, PageHeader, SHORT_HEADER_BYTES, WalPageError};
use crate::record::RECORD_BYTES_MAX;

impl WalReader {
    pub(super) fn page_header_bytes(&self) -> usize {
        let is_first = self.position & (self.config.segment_size.bytes() - 1) < PAGE_BYTES;
        if is_first {
            LONG_HEADER_BYTES
        } else {
            SHORT_HEADER_BYTES
        }
    }

    pub(super) fn read_page_header(&mut self, have: usize, needed: usize, bytes: &[u8]) -> Result<usize, WalError> {
        let room = self.page_header.get_mut(have..needed).unwrap_or_default();
        let taken = room.len().min(bytes.len());
        for (to, from) in room.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.position += taken as u64;
        if have + taken == needed {
            let page = Lsn::new(self.position - needed as u64);
            self.start_page(page, needed)?;
        }
        Ok(taken)
    }

    fn start_page(&mut self, page: Lsn, header_bytes: usize) -> Result<(), WalError> {
        let in_page = |source: WalPageError| WalError::Page { lsn: page, source };
        let header = PageHeader::parse(self.page_header.get(..header_bytes).unwrap_or_default()).map_err(in_page)?;
        header
            .check(&PageExpectation {
                magic: self.config.magic,
                system_identifier: self.config.system_identifier,
                segment_size: self.config.segment_size,
                timeline: self.config.timeline,
                page_lsn: page,
            })
            .map_err(in_page)?;
        if header.timeline < self.page_timeline {
            return Err(WalError::TimelineBackwards {
                page,
                before: self.page_timeline,
                found: header.timeline,
            });
        }
        self.page_timeline = header.timeline;
        if header.overwrites() {
            return self.drop_partial_record(page);
        }
        self.check_continuation(page, header.remaining_bytes)
    }

    /// Whether the page goes on where the one before it ended (`XLogDecodeNextRecord` in `xlogreader.c`).
    fn check_continuation(&mut self, page: Lsn, found: u32) -> Result<(), WalError> {
        let expected = match self.phase {
            Phase::Skip(left) => left,
            _ if self.record.is_open() => {
                self.check_length()?;
                self.record.missing_bytes()
            }
            _ if page == self.config.start => {
                if found > RECORD_BYTES_MAX {
                    return Err(WalError::Continuation {
                        page,
                        expected: RECORD_BYTES_MAX,
                        found,
                    });
                }
                if found > 0 {
                    self.phase = Phase::Skip(found);
                }
                found
            }
            _ => 0,
        };
        if found == expected {
            Ok(())
        } else {
            Err(WalError::Continuation { page, expected, found })
        }
    }

    /// The record that should go on here was given up after a crash: the page begins with the record that says so,
    /// whose predecessor is the last complete record (`XLogDecodeNextRecord` in `xlogreader.c`,
    /// `CreateOverwriteContrecordRecord` in `xlog.c`).
    fn drop_partial_record(&mut self, page: Lsn) -> Result<(), WalError> {
        let dropped = self.record.is_open().then_some(self.record.start);
        if dropped.is_none() && !matches!(self.phase, Phase::Skip(_)) && page != self.config.start {
            return Err(WalError::Overwrite {
                lsn: page,
                what: "no record was incomplete before this page",
            });
        }
        self.record.close();
        self.overwrite = Some(Overwrite { dropped });
        self.phase = Phase::Header;
        Ok(())
    }
}
