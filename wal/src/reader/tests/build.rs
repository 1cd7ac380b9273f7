//! WAL by hand, as a server would write it.

use super::*;

pub(crate) const SEGMENT: u64 = 1 << 20;
pub(crate) const MAGIC: u16 = 0xD110;
pub(crate) const PAGE: usize = PAGE_BYTES as usize;

/// A stretch of WAL that grows at its end.
#[derive(Clone)]
pub(crate) struct Wal {
    pub(crate) start: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) prev: u64,
    pub(crate) timeline: u32,
}

impl Wal {
    pub(crate) fn new(start: u64) -> Wal {
        Wal {
            start,
            bytes: Vec::new(),
            prev: start.saturating_sub(64),
            timeline: 1,
        }
    }

    pub(crate) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    pub(crate) fn page_rest(&self) -> u64 {
        PAGE_BYTES - self.end() % PAGE_BYTES
    }

    pub(crate) fn page_header(&mut self, flags: u16, remaining: u32) {
        let page = self.end();
        let is_first = page.is_multiple_of(SEGMENT);
        let flags = flags | if is_first { crate::page::LONG_HEADER } else { 0 };
        self.bytes.extend(MAGIC.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(page.to_le_bytes());
        self.bytes.extend(remaining.to_le_bytes());
        self.bytes.extend([0; 4]);
        if is_first {
            self.bytes.extend(7u64.to_le_bytes());
            self.bytes.extend((SEGMENT as u32).to_le_bytes());
            self.bytes.extend((PAGE_BYTES as u32).to_le_bytes());
        }
    }

    /// Moves on to where the next record starts.
    pub(crate) fn align(&mut self) -> u64 {
        while !self.bytes.len().is_multiple_of(8) {
            self.bytes.push(0);
        }
        if self.end().is_multiple_of(PAGE_BYTES) {
            self.page_header(0, 0);
        }
        self.end()
    }

    /// Writes bytes of a record, with page headers where they are due.
    pub(crate) fn put(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.end().is_multiple_of(PAGE_BYTES) {
                self.page_header(crate::page::FIRST_IS_CONTRECORD, data.len() as u32);
            }
            let (now, rest) = data.split_at(data.len().min(self.page_rest() as usize));
            self.bytes.extend(now);
            data = rest;
        }
    }

    pub(crate) fn record(&mut self, rmid: u8, info: u8, xid: u32, body: &[u8]) -> u64 {
        let start = self.align();
        self.put(&record_bytes(self.prev, rmid, info, xid, body));
        self.prev = start;
        start
    }

    /// A record of a resource manager that means nothing to us.
    pub(crate) fn filler(&mut self, body_bytes: usize) -> u64 {
        let body: Vec<u8> = (0..body_bytes).map(|i| (i * 7 + 3) as u8).collect();
        self.record(10, 0, 5, &body)
    }

    /// Fillers until the next record starts `left` bytes before the end of the page.
    pub(crate) fn fill_page_to(&mut self, left: u64) {
        self.align();
        if self.page_rest() < left + 32 {
            self.filler(self.page_rest() as usize);
            self.align();
        }
        let body = self.page_rest() - left - RECORD_HEADER_BYTES as u64;
        self.filler(body as usize);
        assert_eq!(self.page_rest() % PAGE_BYTES, left % PAGE_BYTES);
    }

    pub(crate) fn switch(&mut self) -> u64 {
        let start = self.record(0, 0x40, 0, &[]);
        while !self.end().is_multiple_of(SEGMENT) {
            self.bytes.push(0);
        }
        start
    }

    pub(crate) fn commit(&mut self, xid: u32, time: i64) -> u64 {
        self.record(1, 0, xid, &main(&time.to_le_bytes()))
    }

    /// A record that a crash cut off at the end of the `pages`th page; returns its start.
    pub(crate) fn lost(&mut self, pages: u64) -> u64 {
        let start = self.align();
        let data = record_bytes(self.prev, 10, 0, 5, &[9; 40_000]);
        self.put(&data);
        let end = (start / PAGE_BYTES + pages) * PAGE_BYTES;
        self.bytes.truncate((end - self.start) as usize);
        start
    }

    /// How the server goes on after it lost the record at `lost`.
    pub(crate) fn overwrite(&mut self, lost: u64) -> u64 {
        self.page_header(crate::page::FIRST_IS_OVERWRITE_CONTRECORD, 0);
        let mut data = lost.to_le_bytes().to_vec();
        data.extend(4711i64.to_le_bytes());
        self.record(0, 0xD0, 0, &main(&data))
    }

    pub(crate) fn reader(&self) -> WalReader {
        WalReader::new(WalReaderConfig {
            magic: MAGIC,
            system_identifier: SystemIdentifier::new(7),
            segment_size: SegmentSize::new(SEGMENT).expect("a valid size"),
            timeline: TimelineId::new(self.timeline).expect("not zero"),
            start: Lsn::new(self.start),
        })
        .expect("a page boundary")
    }

    pub(crate) fn read(&self) -> (Vec<WalItem>, Result<(), WalError>) {
        self.read_split(|_| usize::MAX)
    }

    /// Reads all, in pieces of the sizes that `piece` gives.
    pub(crate) fn read_split(&self, mut piece: impl FnMut(usize) -> usize) -> (Vec<WalItem>, Result<(), WalError>) {
        let (mut reader, mut items, mut at) = (self.reader(), Vec::new(), 0);
        while at < self.bytes.len() {
            let taken = piece(at).clamp(1, self.bytes.len() - at);
            let lsn = Lsn::new(self.start + at as u64);
            let pushed = reader.push(lsn, &self.bytes[at..at + taken], &mut |item| items.push(item));
            if pushed.is_err() {
                return (items, pushed);
            }
            at += taken;
        }
        (items, Ok(()))
    }

    pub(crate) fn items(&self) -> Vec<WalItem> {
        let (items, result) = self.read();
        assert_eq!(result, Ok(()));
        items
    }
}

pub(crate) fn record_bytes(prev: u64, rmid: u8, info: u8, xid: u32, body: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    data.extend((body.len() as u32 + 24).to_le_bytes());
    data.extend(xid.to_le_bytes());
    data.extend(prev.to_le_bytes());
    data.extend([info, rmid, 0, 0]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(body), &data);
    data.extend(crc.to_le_bytes());
    data.extend(body);
    data
}

/// A body with this main data and nothing else.
pub(crate) fn main(data: &[u8]) -> Vec<u8> {
    let mut body = match u8::try_from(data.len()) {
        Ok(len) => vec![255, len],
        Err(_) => [&[254], &(data.len() as u32).to_le_bytes()[..]].concat(),
    };
    body.extend(data);
    body
}

/// Small deterministic random numbers (xorshift).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }
}
