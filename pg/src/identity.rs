//! Which cluster, and which PostgreSQL, we talk to.
//!
//! The system identifier is made by `initdb` and never changes; every WAL page and pg_control
//! carries it. The version decides which formats and commands apply: only majors 13 to 18 are
//! supported, because only their formats were checked.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Major versions whose formats this crate knows.
pub const SUPPORTED_MAJORS: RangeInclusive<u32> = 13..=18;

/// Why an identity could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not a decimal 64-bit number.
    #[error("invalid system identifier \"{text}\"")]
    SystemIdentifier {
        /// The text.
        text: String,
    },
    /// Not a version of PostgreSQL 10 or later.
    #[error("invalid server version \"{text}\"")]
    Version {
        /// The text.
        text: String,
    },
}

/// The number that `initdb` gave the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SystemIdentifier(pub u64);

impl SystemIdentifier {
    /// From the number.
    pub const fn new(identifier: u64) -> Self {
        SystemIdentifier(identifier)
    }

    /// The number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SystemIdentifier {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let parsed = if digits { text.parse().ok() } else { None };
        parsed
            .map(SystemIdentifier)
            .ok_or_else(|| IdentityError::SystemIdentifier { text: text.to_owned() })
    }
}

/// A server version as `server_version_num`: major * 10000 + minor (10 and later).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServerVersion(pub u32);

impl ServerVersion {
    /// The major version, such as 15.
    pub const fn major(self) -> u32 {
        self.0 / 10_000
    }

    /// The minor version, such as 20 in `15.20`.
    pub const fn minor(self) -> u32 {
        self.0 % 10_000
    }

    /// Whether this crate knows the formats of this version.
    pub fn is_supported(self) -> bool {
        SUPPORTED_MAJORS.contains(&self.major())
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

impl FromStr for ServerVersion {
    type Err = IdentityError;

    /// Reads `150018` (`SHOW server_version_num`), or a `server_version` such as
    /// `15.18 (Debian 15.18-0+deb12u1)`, `18beta1`, `19devel`.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        parse_version(text.trim())
            .filter(|version| version.major() >= 10)
            .ok_or_else(|| IdentityError::Version { text: text.to_owned() })
    }
}

fn parse_version(text: &str) -> Option<ServerVersion> {
    let (first, rest) = leading_number(text)?;
    if first >= 100_000 {
        return rest.is_empty().then_some(ServerVersion(first));
    }
    let minor = match rest.strip_prefix('.') {
        Some(after) => leading_number(after)?.0,
        None => 0,
    };
    if minor >= 10_000 {
        return None;
    }
    first.checked_mul(10_000)?.checked_add(minor).map(ServerVersion)
}

fn leading_number(text: &str) -> Option<(u32, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, rest))
}

/// `xlp_magic` of the WAL pages of a major version (`XLOG_PAGE_MAGIC`,
/// src/include/access/xlog_internal.h).
pub const fn wal_page_magic(major: u32) -> Option<u16> {
    match major {
        13 => Some(0xD106),
        14 => Some(0xD10D),
        15 => Some(0xD110),
        16 => Some(0xD113),
        17 => Some(0xD116),
        18 => Some(0xD118),
        _ => None,
    }
}

/// `pg_control_version` of a major version (`PG_CONTROL_VERSION`,
/// src/include/catalog/pg_control.h).
pub const fn control_version(major: u32) -> Option<u32> {
    match major {
        13..=16 => Some(1300),
        17 => Some(1700),
        18 => Some(1800),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_both_settings() {
        for (text, num) in [
            ("150018", 150_018),
            ("15.18 (Debian 15.18-0+deb12u1)", 150_018),
            ("18beta1", 180_000),
            ("19devel", 190_000),
            ("13.0", 130_000),
        ] {
            assert_eq!(text.parse(), Ok(ServerVersion(num)), "{text}");
        }
        for bad in ["", "x", "9.6.24", "15.", "15.99999", "99999999999", "150018x"] {
            assert!(bad.parse::<ServerVersion>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_version_prints_as_people_write_it() {
        assert_eq!(ServerVersion(150_020).to_string(), "15.20");
        assert!(ServerVersion(150_020).is_supported());
        assert!(!ServerVersion(120_020).is_supported() && !ServerVersion(190_000).is_supported());
    }

    #[test]
    fn every_supported_major_has_its_format_numbers() {
        for major in SUPPORTED_MAJORS {
            assert!(wal_page_magic(major).is_some() && control_version(major).is_some());
        }
        assert_eq!(wal_page_magic(12), None);
        assert_eq!(control_version(19), None);
    }

    #[test]
    fn a_system_identifier_is_a_decimal_number() {
        let id = SystemIdentifier(7_123_456_789_012_345_678);
        assert_eq!("7123456789012345678".parse(), Ok(id));
        assert_eq!(id.to_string(), "7123456789012345678");
        for bad in ["", "-1", "+1", "18446744073709551616", "0x1"] {
            assert!(bad.parse::<SystemIdentifier>().is_err(), "{bad}");
        }
    }
}
