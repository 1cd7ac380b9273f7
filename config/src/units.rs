//! Durations and sizes as people write them.

use std::fmt;
use std::time::Duration;

const DURATION_HINT: &str = "Write a whole number with its unit: ms, s, m, h or d, as in \"30s\".";
const SIZE_HINT: &str = "Write a whole number with its unit: KiB, MiB, GiB, kB, MB or GB, as in \"64MiB\".";

const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

// The largest factor first: printing takes the first that divides.
const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1000),
    ("B", 1),
];

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// This many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self.0, &SIZE_UNITS, "B"))
    }
}

/// Reads "500ms", "1s", "5m", "1h", "7d"; the error is a hint.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    parse(text, &DURATION_UNITS)
        .map(Duration::from_millis)
        .ok_or(DURATION_HINT)
}

/// Reads "64KiB", "1MiB", "16MB"; the error is a hint.
pub(crate) fn parse_size(text: &str) -> Result<ByteSize, &'static str> {
    parse(text, &SIZE_UNITS).map(ByteSize).ok_or(SIZE_HINT)
}

/// The shortest text that would be read as this duration: "90s", "4h".
#[must_use]
pub fn print_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    print(millis, &DURATION_UNITS, "s")
}

/// What to say about a number without a unit.
pub(crate) fn hint_duration() -> &'static str {
    DURATION_HINT
}

/// What to say about a number without a unit.
pub(crate) fn hint_size() -> &'static str {
    SIZE_HINT
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn print(amount: u64, units: &[(&str, u64)], zero: &str) -> String {
    if amount == 0 {
        return format!("0{zero}");
    }
    units
        .iter()
        .find(|(_, factor)| amount.is_multiple_of(*factor))
        .map_or_else(String::new, |(unit, factor)| format!("{}{unit}", amount / factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, millis) in [
            ("0s", 0),
            ("500ms", 500),
            ("1s", 1000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration.as_millis(), millis, "{text}");
            assert_eq!(print_duration(duration), text);
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("0B", 0),
            ("64KiB", 65_536),
            ("1MiB", 1_048_576),
            ("16MB", 16_000_000),
            ("2GiB", 2_147_483_648),
        ] {
            let size = parse_size(text).unwrap();
            assert_eq!(size.bytes(), bytes, "{text}");
            assert_eq!(size.to_string(), text);
        }
    }

    #[test]
    fn a_number_alone_or_a_wrong_unit_is_refused() {
        for text in [
            "",
            "5",
            "0",
            "s",
            "-1s",
            "1.5s",
            "1S",
            "1 week",
            "99999999999999999999s",
            "ü",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for text in ["", "5", "MiB", "1mib", "1m", "99999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
