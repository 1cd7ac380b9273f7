//! The record that is being read.
//!
//! It keeps a running checksum and at most [`PREFIX_BYTES_MAX`] bytes of the body, and those only of records whose
//! content matters: a record can have hundreds of megabytes. Of one that was asked for whole it keeps [`WHOLE_BYTES_MAX`]. What the content says is not used before the checksum
//! is right.

use super::whole::WHOLE_BYTES_MAX;
use crate::commit::{XactKind, XactScan};
use crate::record::{MalformedRecord, PREFIX_BYTES_MAX, RECORD_HEADER_BYTES, RecordHeader, RecordKind, main_data};

/// The record that is being read: bounded, however long it is.
#[derive(Debug)]
pub(super) struct PartialRecord {
    pub(super) start: u64,
    is_open: bool,
    header: [u8; RECORD_HEADER_BYTES],
    header_bytes: usize,
    /// What the header says, once all of it was taken.
    parsed: RecordHeader,
    body_bytes: u32,
    crc: u32,
    /// Whether the content matters, so that the prefix is kept.
    keep: bool,
    /// Whether all of it was asked for.
    whole: bool,
    prefix: Vec<u8>,
    /// Reads on where a transaction record is longer than the prefix; an error waits for the checksum.
    scan: Option<Result<XactScan, MalformedRecord>>,
    /// Page magic, by which versions are told apart.
    magic: u16,
}

impl PartialRecord {
    pub(super) fn new(magic: u16) -> PartialRecord {
        PartialRecord {
            start: 0,
            is_open: false,
            header: [0; RECORD_HEADER_BYTES],
            header_bytes: 0,
            parsed: RecordHeader::parse(&[0; RECORD_HEADER_BYTES]),
            body_bytes: 0,
            crc: 0,
            keep: false,
            whole: false,
            prefix: Vec::new(),
            scan: None,
            magic,
        }
    }

    /// Starts a record at `start`.
    pub(super) fn open(&mut self, start: u64) {
        self.close();
        self.start = start;
        self.is_open = true;
    }

    /// Forgets the record, complete or not.
    pub(super) fn close(&mut self) {
        self.is_open = false;
        self.header_bytes = 0;
        self.body_bytes = 0;
        self.crc = 0;
        self.keep = false;
        self.whole = false;
        self.prefix.clear();
        self.scan = None;
    }

    /// Whether a part of a record was taken that is not complete.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Takes what `bytes` has of the header, returns how much that was.
    pub(super) fn take_header(&mut self, bytes: &[u8]) -> usize {
        let taken = match bytes.first_chunk() {
            // All of it at once, as nearly always.
            Some(header) if self.header_bytes == 0 => {
                self.header = *header;
                RECORD_HEADER_BYTES
            }
            _ => {
                let room = self.header.get_mut(self.header_bytes..).unwrap_or_default();
                room.iter_mut().zip(bytes).map(|(to, from)| *to = *from).count()
            }
        };
        self.header_bytes += taken;
        if self.header_bytes == RECORD_HEADER_BYTES {
            self.parsed = RecordHeader::parse(&self.header);
            self.keep = !matches!(self.parsed.kind(), RecordKind::Other | RecordKind::Switch);
        }
        taken
    }

    pub(super) fn has_header(&self) -> bool {
        self.header_bytes == RECORD_HEADER_BYTES
    }

    /// What the header says; to be called once all of it was taken.
    pub(super) fn header(&self) -> RecordHeader {
        self.parsed
    }

    /// Keeps all of the body, as far as that is ever done. To be called before the first byte of it.
    pub(super) fn keep_whole(&mut self) {
        self.keep = true;
        self.whole = true;
    }

    /// Whether all of it was asked for.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }

    /// The body of a record that was asked for and is not too long.
    pub(super) fn body(&self) -> Option<&[u8]> {
        (self.whole && self.prefix.len() == self.body_bytes as usize).then_some(self.prefix.as_slice())
    }

    /// Total length as the first four bytes say it. At a page boundary they are always there, because records are
    /// aligned.
    pub(super) fn len(&self) -> u32 {
        let [a, b, c, d, ..] = self.header;
        u32::from_le_bytes([a, b, c, d])
    }

    /// Bytes still to come.
    pub(super) fn missing_bytes(&self) -> u32 {
        self.len()
            .saturating_sub(self.body_bytes)
            .saturating_sub(self.header_bytes as u32)
    }

    /// Takes a piece of the body, at most [`Self::missing_bytes`].
    pub(super) fn take_body(&mut self, bytes: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        if self.keep {
            let most = if self.whole { WHOLE_BYTES_MAX } else { PREFIX_BYTES_MAX };
            let room = most - self.prefix.len().min(most);
            let (kept, beyond) = bytes.split_at(room.min(bytes.len()));
            self.prefix.extend_from_slice(kept);
            if !beyond.is_empty() {
                let at = u64::from(self.body_bytes) + kept.len() as u64;
                self.scan_beyond(at, beyond);
            }
        }
        self.body_bytes += bytes.len() as u32;
    }

    fn scan_beyond(&mut self, at: u64, bytes: &[u8]) {
        if let RecordKind::Xact(kind) = self.header().kind() {
            let scan = self.scan.take().unwrap_or_else(|| self.start_scan(kind));
            self.scan = Some(scan.map(|mut scan| {
                scan.feed(at, bytes);
                scan
            }));
        }
    }

    fn start_scan(&self, kind: XactKind) -> Result<XactScan, MalformedRecord> {
        XactScan::begin(kind, &self.header(), &self.prefix, self.magic)
    }

    /// CRC-32C over the body so far and then the header up to `xl_crc` (`ValidXLogRecord` in `xlogreader.c`).
    pub(super) fn checksum(&self) -> u32 {
        let (before_crc, _) = self.header.split_at(RECORD_HEADER_BYTES - 4);
        crc32c::crc32c_append(self.crc, before_crc)
    }

    /// The scan of a transaction record, once all of it was taken.
    pub(super) fn finish_scan(&mut self, kind: XactKind) -> Result<XactScan, MalformedRecord> {
        self.scan.take().unwrap_or_else(|| self.start_scan(kind))
    }

    /// The start of the main data, as far as it was kept.
    pub(super) fn main_data(&self) -> Result<&[u8], MalformedRecord> {
        let body_bytes = self.len().saturating_sub(RECORD_HEADER_BYTES as u32);
        let main = main_data(&self.prefix, body_bytes, self.magic)?;
        Ok(self.prefix.get(main.offset as usize..).unwrap_or_default())
    }

    /// Memory held, for the test that bounds it.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.prefix.capacity()
    }
}
