//! Log sequence numbers: byte positions in the WAL.
//!
//! Every other module counts WAL with [`Lsn`]. An LSN is an absolute 64-bit byte position in the
//! WAL of a cluster; it does not name a timeline. Zero is PostgreSQL's `InvalidXLogRecPtr`
//! (src/include/access/xlogdefs.h).

use std::fmt;
use std::str::FromStr;

/// A byte position in WAL, printed `X/X` (PostgreSQL docs, "pg_lsn Type").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Lsn(u64);

/// A text that is not an LSN of the form `X/X`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid LSN \"{text}\"")]
pub struct ParseLsnError {
    /// The text as it was given.
    pub text: String,
}

impl Lsn {
    /// The invalid LSN.
    pub const ZERO: Lsn = Lsn(0);

    /// The LSN at this byte of the WAL.
    pub const fn new(bytes: u64) -> Self {
        Lsn(bytes)
    }

    /// The byte position as a number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Whether this is a real position (PostgreSQL uses zero for "none").
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// Sixteen uppercase hexadecimal digits, which sort like the LSN itself.
    pub fn to_hex16(self) -> String {
        format!("{:016X}", self.0)
    }

    /// Reads what [`Lsn::to_hex16`] writes; anything else (also lowercase) is `None`.
    pub fn from_hex16(text: &str) -> Option<Lsn> {
        parse_upper_hex(text, 16).map(Lsn)
    }

    /// The LSN `bytes` later, unless that is past the end of WAL.
    pub const fn checked_add(self, bytes: u64) -> Option<Lsn> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Lsn(sum)),
            None => None,
        }
    }

    /// The LSN `bytes` later, or the last LSN there is.
    pub const fn saturating_add(self, bytes: u64) -> Lsn {
        Lsn(self.0.saturating_add(bytes))
    }

    /// Bytes from `earlier` to here; zero when `earlier` is not earlier.
    pub const fn distance_from(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Exactly `digits` uppercase hexadecimal digits as a number; the form of PostgreSQL's file names.
pub(crate) fn parse_upper_hex(text: &str, digits: usize) -> Option<u64> {
    let upper = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    if text.len() != digits || !text.bytes().all(upper) {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    /// Reads `X/X` with one to eight hexadecimal digits a side
    /// (src/backend/utils/adt/pg_lsn.c, `pg_lsn_in_internal`).
    fn from_str(text: &str) -> Result<Self, ParseLsnError> {
        let half = |part: &str| -> Option<u64> {
            let digits = part.bytes().all(|b| b.is_ascii_hexdigit());
            if part.is_empty() || part.len() > 8 || !digits {
                return None;
            }
            u64::from_str_radix(part, 16).ok()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| ParseLsnError { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prints_like_postgresql() {
        assert_eq!(Lsn::new(0x16_B374_D848).to_string(), "16/B374D848");
        assert_eq!(Lsn::ZERO.to_string(), "0/0");
        assert_eq!(Lsn::new(0x1_0000_0000).to_string(), "1/0");
    }

    #[test]
    fn refuses_what_is_not_an_lsn() {
        for bad in ["", "/", "0", "0/", "/0", "g/0", "0/123456789", "0/0/0", "+1/0", " 0/0"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }

    #[test]
    fn arithmetic_stops_at_the_ends() {
        assert_eq!(Lsn::new(u64::MAX).checked_add(1), None);
        assert_eq!(Lsn::new(u64::MAX).saturating_add(1), Lsn::new(u64::MAX));
        assert_eq!(Lsn::new(5).distance_from(Lsn::new(7)), 0);
        assert_eq!(Lsn::new(7).distance_from(Lsn::new(5)), 2);
        assert!(!Lsn::ZERO.is_valid() && Lsn::new(1).is_valid());
    }

    #[test]
    fn hex16_takes_only_its_own_form() {
        assert_eq!(Lsn::from_hex16("00000016B374D848"), Some(Lsn::new(0x16_B374_D848)));
        for bad in ["00000016b374d848", "16B374D848", "+0000016B374D848", ""] {
            assert_eq!(Lsn::from_hex16(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn both_texts_come_back(bytes: u64) {
            let lsn = Lsn::new(bytes);
            prop_assert_eq!(lsn.to_string().parse::<Lsn>().ok(), Some(lsn));
            prop_assert_eq!(Lsn::from_hex16(&lsn.to_hex16()), Some(lsn));
        }
    }
}
