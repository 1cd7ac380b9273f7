//! Page images: `XLogRecordBlockImageHeader` (`access/xlogrecord.h`) and `RestoreBlockImage` (`xlogreader.c`).

use super::{BLOCK_BYTES, CUT, lz4, pglz};
use crate::page::Fields;
use crate::record::MalformedRecord;

/// `XLOG_PAGE_MAGIC` of PostgreSQL 15 (`access/xlog_internal.h`).
const MAGIC_15: u16 = 0xD110;
/// `BKPIMAGE_HAS_HOLE`.
const HAS_HOLE: u8 = 0x01;

/// How an image is compressed (`wal_compression`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// PostgreSQL's own.
    Pglz,
    /// A block of LZ4.
    Lz4,
    /// A frame of zstd.
    Zstd,
}

/// A whole page out of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageImage<'a> {
    hole_offset: u16,
    hole_bytes: u16,
    /// Replay puts it in place (`BKPIMAGE_APPLY`); else it is there to be compared with.
    pub apply: bool,
    /// How it is compressed.
    pub compression: Compression,
    pub(super) bytes: &'a [u8],
}

/// An image does not become a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the page image cannot be decompressed")]
pub struct ImageError;

/// `bimg_info`: applied, compressed how. The bits moved in PostgreSQL 15.
fn meaning(info: u8, magic: u16) -> Result<(bool, Compression), MalformedRecord> {
    if magic < MAGIC_15 {
        // BKPIMAGE_IS_COMPRESSED, BKPIMAGE_APPLY
        let compression = match info & 0x02 {
            0 => Compression::None,
            _ => Compression::Pglz,
        };
        return Ok((info & 0x04 != 0, compression));
    }
    // BKPIMAGE_APPLY, BKPIMAGE_COMPRESS_PGLZ, _LZ4, _ZSTD
    let compression = match info & 0x1C {
        0x00 => Compression::None,
        0x04 => Compression::Pglz,
        0x08 => Compression::Lz4,
        0x10 => Compression::Zstd,
        _ => return Err(MalformedRecord("a page image is compressed in two ways")),
    };
    Ok((info & 0x02 != 0, compression))
}

impl<'a> PageImage<'a> {
    /// Reads the header; returns the bytes that the image takes, too.
    pub(super) fn header(fields: &mut Fields<'_>, magic: u16) -> Result<(PageImage<'a>, u16), MalformedRecord> {
        let bytes = fields.u16().ok_or(CUT)?;
        let hole_offset = fields.u16().ok_or(CUT)?;
        let info = fields.u8().ok_or(CUT)?;
        let (apply, compression) = meaning(info, magic)?;
        let (has_hole, is_compressed) = (info & HAS_HOLE != 0, compression != Compression::None);
        let hole_bytes = match (is_compressed, has_hole) {
            (true, true) => fields.u16().ok_or(CUT)?,
            (true, false) => 0,
            (false, _) => BLOCK_BYTES.checked_sub(bytes).ok_or(CUT)?,
        };
        let is_right = match has_hole {
            true => hole_offset > 0 && hole_bytes > 0 && bytes < BLOCK_BYTES,
            false => hole_offset == 0 && hole_bytes == 0 && (bytes < BLOCK_BYTES) == is_compressed,
        };
        let fits = hole_offset
            .checked_add(hole_bytes)
            .is_some_and(|end| end <= BLOCK_BYTES);
        if !is_right || !fits || bytes > BLOCK_BYTES {
            return Err(MalformedRecord("a page image and its hole do not make a page"));
        }
        let image = PageImage {
            hole_offset,
            hole_bytes,
            apply,
            compression,
            bytes: &[],
        };
        Ok((image, bytes))
    }

    /// The page.
    pub fn page(&self) -> Result<Vec<u8>, ImageError> {
        let plain_bytes = usize::from(BLOCK_BYTES - self.hole_bytes);
        let plain = match self.compression {
            Compression::None => Some(self.bytes.to_vec()),
            Compression::Pglz => pglz::decompress(self.bytes, plain_bytes),
            Compression::Lz4 => lz4::decompress(self.bytes, plain_bytes),
            Compression::Zstd => store::codec::decode(store::codec::Codec::Zstd, self.bytes, plain_bytes),
        };
        let plain = plain.filter(|plain| plain.len() == plain_bytes).ok_or(ImageError)?;
        let (before, behind) = plain
            .split_at_checked(usize::from(self.hole_offset))
            .ok_or(ImageError)?;
        let mut page = Vec::with_capacity(usize::from(BLOCK_BYTES));
        page.extend_from_slice(before);
        page.resize(before.len() + usize::from(self.hole_bytes), 0);
        page.extend_from_slice(behind);
        Ok(page)
    }
}
