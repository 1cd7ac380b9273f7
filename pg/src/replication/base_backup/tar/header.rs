//! One header block of a tar archive.
//!
//! Format: POSIX.1-2008, pax, "ustar Interchange Format"; src/port/tar.c (`tarCreateHeader`,
//! `print_tar_number`), src/include/pgtar.h (offsets).

use super::{ArchiveEntry, ArchiveError, EntryKind};

/// Size of a block; a header is one, and content is filled up to a multiple of it.
pub(super) const BLOCK_BYTES: usize = 512;

/// A block.
pub(super) type Block = [u8; BLOCK_BYTES];

const NAME: (usize, usize) = (0, 100);
const MODE: (usize, usize) = (100, 8);
const SIZE: (usize, usize) = (124, 12);
const MTIME: (usize, usize) = (136, 12);
const CHECKSUM: (usize, usize) = (148, 8);
const TYPE_FLAG: (usize, usize) = (156, 1);
const LINK_TARGET: (usize, usize) = (157, 100);
const MAGIC: (usize, usize) = (257, 8);
const PREFIX: (usize, usize) = (345, 155);

/// Magic and version.
const USTAR: &[u8] = b"ustar\x0000";

/// First byte of a number in base 256 (src/port/tar.c; an extension of GNU tar).
const BASE_256: u8 = 0x80;

/// Reads a header.
pub(super) fn parse(block: &Block) -> Result<ArchiveEntry, ArchiveError> {
    if number(block, CHECKSUM, "checksum")? != checksum(block) {
        return Err(ArchiveError::Checksum);
    }
    if field(block, MAGIC) != USTAR {
        return Err(ArchiveError::NotUstar);
    }
    let size = number(block, SIZE, "size")?;
    if i64::try_from(size).is_err() {
        return Err(ArchiveError::Number { field: "size" });
    }
    let mode = number(block, MODE, "mode")?;
    let mode = u32::try_from(mode).ok().filter(|mode| *mode <= 0o7777);
    let type_flag = field(block, TYPE_FLAG).first().copied().unwrap_or_default();
    let kind = match type_flag {
        b'0' => EntryKind::File { size },
        b'5' => EntryKind::Directory,
        b'2' => EntryKind::Symlink {
            target: text(block, LINK_TARGET).to_vec(),
        },
        type_flag => return Err(ArchiveError::UnknownType { type_flag }),
    };
    let is_file = matches!(kind, EntryKind::File { .. });
    if !is_file && size != 0 {
        return Err(ArchiveError::UnexpectedContent);
    }
    Ok(ArchiveEntry {
        path: path(block, is_file)?,
        kind,
        mode: mode.ok_or(ArchiveError::Number { field: "mode" })?,
        // The server casts a time before 1970 to an unsigned number of 64 bits.
        mtime_s: number(block, MTIME, "time of the last change")?.cast_signed(),
    })
}

/// The path without what the server puts around some: `/` behind a directory and behind a link
/// (src/port/tar.c), `./` before the directories in `pg_wal` (basebackup.c, `sendDir`).
fn path(block: &Block, is_file: bool) -> Result<Vec<u8>, ArchiveError> {
    let (prefix, name) = (text(block, PREFIX), text(block, NAME));
    let whole = match prefix {
        b"" => name.to_vec(),
        prefix => [prefix, b"/", name].concat(),
    };
    let path = whole.strip_prefix(b"./").unwrap_or(&whole);
    let path = if is_file {
        path
    } else {
        path.strip_suffix(b"/").unwrap_or(path)
    };
    let is_unsafe = |part: &[u8]| matches!(part, b"" | b"." | b"..");
    if path.split(|byte| *byte == b'/').any(is_unsafe) {
        let path = String::from_utf8_lossy(&whole).escape_default().to_string();
        return Err(ArchiveError::UnsafePath { path });
    }
    Ok(path.to_vec())
}

fn field(block: &Block, (start, length): (usize, usize)) -> &[u8] {
    block.get(start..start + length).unwrap_or_default()
}

/// A field up to its zero byte, or all of it (the name of a directory may fill it).
fn text(block: &Block, place: (usize, usize)) -> &[u8] {
    let field = field(block, place);
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number in octal digits with blanks or zero bytes behind them, or in base 256.
fn number(block: &Block, place: (usize, usize), name: &'static str) -> Result<u64, ArchiveError> {
    let number = match field(block, place) {
        [BASE_256, digits @ ..] => digits.iter().try_fold(0_u64, |number, digit| {
            number.checked_mul(256).map(|number| number | u64::from(*digit))
        }),
        digits => octal(digits),
    };
    number.ok_or(ArchiveError::Number { field: name })
}

fn octal(field: &[u8]) -> Option<u64> {
    let end = field.iter().position(|byte| matches!(byte, b' ' | 0));
    let (digits, rest) = field.split_at_checked(end.unwrap_or(field.len()))?;
    if digits.is_empty() || rest.iter().any(|byte| !matches!(byte, b' ' | 0)) {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| match digit {
        b'0'..=b'7' => number.checked_mul(8).map(|number| number | u64::from(digit - b'0')),
        _ => None,
    })
}

/// Sum of all bytes, where those of the checksum itself count as blanks.
pub(super) fn checksum(block: &Block) -> u64 {
    let (start, length) = CHECKSUM;
    let own = start..start + length;
    let byte = |(at, byte): (usize, &u8)| if own.contains(&at) { b' ' } else { *byte };
    block.iter().enumerate().map(|at| u64::from(byte(at))).sum()
}
