//! WAL segments: their size, their numbers, their names.
//!
//! A segment is one file of `pg_wal`; its size is fixed by `initdb --wal-segsize` and must be asked
//! of the server. Names: src/include/access/xlog_internal.h (`XLogFileName`, `IsXLogFileName`,
//! `BackupHistoryFileName`). The 24 hexadecimal digits are timeline, "xlogid" and segment within
//! the xlogid; an xlogid spans 4 GiB, so it holds `0x1_0000_0000 / segment size` segments.

use std::fmt;

use crate::lsn::{Lsn, parse_upper_hex};
use crate::timeline::TimelineId;

const XLOGID_BYTES: u64 = 0x1_0000_0000;
const MIB: u64 = 1024 * 1024;

/// Size of a WAL segment: a power of two from 1 MiB to 1 GiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentSize(u64);

/// Number of a segment: its start LSN divided by the segment size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentNumber(pub u64);

/// Why a segment size was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentSizeError {
    /// Not a power of two from 1 MiB to 1 GiB.
    #[error("invalid WAL segment size of {bytes} bytes")]
    OutOfRange {
        /// The size.
        bytes: u64,
    },
    /// Not the text of a size.
    #[error("invalid WAL segment size \"{text}\"")]
    Text {
        /// The text.
        text: String,
    },
}

impl SegmentSize {
    /// 16 MiB, what `initdb` chooses when nothing is said.
    pub const DEFAULT: SegmentSize = SegmentSize(16 * MIB);

    /// A segment size in bytes (`IsValidWalSegSize`).
    ///
    /// # Errors
    /// [`SegmentSizeError::OutOfRange`].
    pub const fn new(bytes: u64) -> Result<Self, SegmentSizeError> {
        if bytes.is_power_of_two() && bytes >= MIB && bytes <= 1024 * MIB {
            Ok(SegmentSize(bytes))
        } else {
            Err(SegmentSizeError::OutOfRange { bytes })
        }
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The segment that holds the byte at `lsn`.
    pub const fn segment_of(self, lsn: Lsn) -> SegmentNumber {
        SegmentNumber(lsn.as_u64() / self.0)
    }

    /// First LSN of a segment (the last LSN there is, for a number that is out of range).
    pub const fn start_of(self, segment: SegmentNumber) -> Lsn {
        Lsn::new(segment.0.saturating_mul(self.0))
    }

    /// First LSN after a segment.
    pub const fn end_of(self, segment: SegmentNumber) -> Lsn {
        self.start_of(segment).saturating_add(self.0)
    }

    /// First LSN of the segment that holds `lsn`.
    pub const fn start_containing(self, lsn: Lsn) -> Lsn {
        Lsn::new(lsn.as_u64() & !(self.0 - 1))
    }

    const fn per_xlogid(self) -> u64 {
        XLOGID_BYTES / self.0
    }
}

impl fmt::Display for SegmentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}MB", self.0 / MIB)
    }
}

/// Reads the answer to `SHOW wal_segment_size`, such as `16MB` or `1GB` (units of
/// src/backend/utils/misc/guc.c; a plain number is bytes).
///
/// # Errors
/// [`SegmentSizeError`] when it is not a size, or not a permitted one.
pub fn parse_segment_size(text: &str) -> Result<SegmentSize, SegmentSizeError> {
    let refuse = || SegmentSizeError::Text { text: text.to_owned() };
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = trimmed.split_at_checked(digits).ok_or_else(refuse)?;
    let factor = match unit {
        "" | "B" => 1,
        "kB" => 1024,
        "MB" => MIB,
        "GB" => 1024 * MIB,
        _ => return Err(refuse()),
    };
    let number: u64 = number.parse().map_err(|_| refuse())?;
    SegmentSize::new(number.checked_mul(factor).ok_or_else(refuse)?)
}

/// Name of a segment's file in `pg_wal`: 24 uppercase hexadecimal digits.
pub fn segment_name(timeline: TimelineId, segment: SegmentNumber, size: SegmentSize) -> String {
    let per = size.per_xlogid();
    format!("{}{:08X}{:08X}", timeline.hex8(), segment.0 / per, segment.0 % per)
}

/// What a file name in `pg_wal` or in a WAL archive means.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WalFileName {
    /// A segment.
    Segment {
        /// Its timeline.
        timeline: TimelineId,
        /// Its number.
        number: SegmentNumber,
    },
    /// The last segment of a timeline that ended inside it (`.partial`).
    Partial {
        /// Its timeline.
        timeline: TimelineId,
        /// Its number.
        number: SegmentNumber,
    },
    /// A timeline history file.
    History {
        /// The timeline whose history it is.
        timeline: TimelineId,
    },
    /// A backup history file (`.backup`).
    BackupHistory {
        /// Timeline of the segment where the backup started.
        timeline: TimelineId,
        /// Segment where the backup started.
        number: SegmentNumber,
        /// Bytes from the start of that segment to the backup's start LSN.
        start_offset: u32,
    },
}

impl WalFileName {
    /// Reads a file name; `None` for anything PostgreSQL would not write with this segment size.
    pub fn parse(name: &str, size: SegmentSize) -> Option<Self> {
        let Some((stem, rest)) = name.split_once('.') else {
            let (timeline, number) = parse_segment_name(name, size)?;
            return Some(WalFileName::Segment { timeline, number });
        };
        match rest {
            "history" => Some(WalFileName::History {
                timeline: TimelineId::from_hex8(stem)?,
            }),
            "partial" => {
                let (timeline, number) = parse_segment_name(stem, size)?;
                Some(WalFileName::Partial { timeline, number })
            }
            _ => {
                let (timeline, number) = parse_segment_name(stem, size)?;
                let hex = rest.strip_suffix(".backup")?;
                let start_offset = u32::try_from(parse_upper_hex(hex, 8)?).ok()?;
                let inside = u64::from(start_offset) < size.bytes();
                inside.then_some(WalFileName::BackupHistory {
                    timeline,
                    number,
                    start_offset,
                })
            }
        }
    }
}

fn parse_segment_name(name: &str, size: SegmentSize) -> Option<(TimelineId, SegmentNumber)> {
    if name.len() != 24 {
        return None;
    }
    let timeline = TimelineId::from_hex8(name.get(..8)?)?;
    let xlogid = parse_upper_hex(name.get(8..16)?, 8)?;
    let within = parse_upper_hex(name.get(16..)?, 8)?;
    let per = size.per_xlogid();
    (within < per).then_some((timeline, SegmentNumber(xlogid * per + within)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tli(id: u32) -> TimelineId {
        TimelineId::new(id).unwrap()
    }

    fn size(mib: u64) -> SegmentSize {
        SegmentSize::new(mib * MIB).unwrap()
    }

    #[test]
    fn sizes_are_powers_of_two_between_the_limits() {
        for bad in [0, 1, MIB - 1, MIB / 2, 3 * MIB, 2048 * MIB, u64::MAX] {
            assert_eq!(SegmentSize::new(bad), Err(SegmentSizeError::OutOfRange { bytes: bad }));
        }
        assert_eq!(parse_segment_size("16MB"), Ok(size(16)));
        assert_eq!(parse_segment_size("1GB"), Ok(size(1024)));
        assert_eq!(parse_segment_size("1024kB"), Ok(size(1)));
        for bad in ["", "MB", "16 MB", "16TB", "99999999999999999GB", "3MB", "-16MB"] {
            assert!(parse_segment_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_follow_the_segment_size() {
        let lsn = Lsn::new(0x1_FF00_0028);
        let name = |mib| segment_name(tli(1), size(mib).segment_of(lsn), size(mib));
        assert_eq!(name(16), "0000000100000001000000FF");
        assert_eq!(name(1), "000000010000000100000FF0");
        assert_eq!(name(1024), "000000010000000100000003");
    }

    #[test]
    fn all_kinds_of_file_name_are_told_apart() {
        let parse = |name: &str| WalFileName::parse(name, size(16));
        let (timeline, number) = (tli(2), SegmentNumber(0x1FF));
        let stem = "0000000200000001000000FF";
        assert_eq!(parse(stem), Some(WalFileName::Segment { timeline, number }));
        assert_eq!(
            parse(&format!("{stem}.partial")),
            Some(WalFileName::Partial { timeline, number })
        );
        assert_eq!(parse("00000002.history"), Some(WalFileName::History { timeline }));
        assert_eq!(
            parse(&format!("{stem}.00000028.backup")),
            Some(WalFileName::BackupHistory {
                timeline,
                number,
                start_offset: 0x28
            })
        );
        for bad in [
            "000000020000000100000100",
            "0000000200000001000000ff",
            "0000000000000001000000FF",
            "0000000200000001000000FF.",
            "0000000200000001000000FF.01000000.backup",
            "2.history",
            "archive_status",
            "äöüäöüäöüäöü",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_name_comes_back(id in 1u32.., lsn: u64, shift in 20u32..=30) {
            let size = SegmentSize::new(1 << shift).unwrap();
            let number = size.segment_of(Lsn::new(lsn));
            let name = segment_name(tli(id), number, size);
            let expected = WalFileName::Segment { timeline: tli(id), number };
            prop_assert_eq!(WalFileName::parse(&name, size), Some(expected));
            prop_assert!(size.start_of(number) <= Lsn::new(lsn));
            prop_assert_eq!(size.start_of(number), size.start_containing(Lsn::new(lsn)));
            prop_assert_eq!(size.end_of(number).distance_from(size.start_of(number)), if number.0 == u64::MAX >> shift { size.bytes() - 1 } else { size.bytes() });
        }
    }
}
