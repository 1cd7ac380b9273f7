//! The text side of S3: percent-encoding, XML, dates, and the CRC32 that a client sends with a body.

use std::time::SystemTime;

/// `a%2Fb` as `a/b`; `None` if it is no percent-encoded UTF-8.
pub(super) fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let digits = std::str::from_utf8(after.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).ok()
}

pub(super) fn xml_escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(pair).collect()
}

/// Base 64 of a checksum's bytes, most significant first.
pub(super) fn base64(bytes: [u8; 4]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // Padded to six bytes, which are eight digits; the last two stand for the padding.
    let bits = u64::from(u32::from_be_bytes(bytes)) << 16;
    let digit = |at: u64| DIGITS[(bits >> (42 - 6 * at) & 63) as usize] as char;
    (0..6).map(digit).chain("==".chars()).collect()
}

/// The CRC32 of zip, as S3 checks it.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = crc32_table();
    let step = |crc: u32, byte: &u8| TABLE[((crc ^ u32::from(*byte)) & 0xFF) as usize] ^ (crc >> 8);
    !bytes.iter().fold(u32::MAX, step)
}

const fn crc32_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                0xEDB8_8320 ^ (crc >> 1)
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

/// Day of the week (0 is Monday), year, month, day, hour, minute, second and millisecond, in UTC.
struct Moment {
    weekday: usize,
    year: u64,
    month: usize,
    day: u64,
    time: [u64; 3],
    ms: u64,
}

impl Moment {
    fn of(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        // Years that begin in March have their odd day at the end (Hinnant, "chrono-compatible low-level date algorithms").
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 {
            from_march + 3
        } else {
            from_march - 9
        };
        Self {
            weekday: ((days + 3) % 7) as usize,
            year: year_of_era + era * 400 + u64::from(month <= 2),
            month: month as usize,
            day: day_of_year - (153 * from_march + 2) / 5 + 1,
            time: [seconds / 3600, seconds / 60 % 60, seconds % 60],
            ms: u64::from(since.subsec_millis()),
        }
    }
}

/// `Sat, 21 Nov 2026 05:24:00 GMT`, for headers.
pub(super) fn http_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let at = Moment::of(time);
    let ([hour, minute, second], month) = (at.time, MONTHS[at.month - 1]);
    format!(
        "{}, {:02} {month} {} {hour:02}:{minute:02}:{second:02} GMT",
        DAYS[at.weekday], at.day, at.year
    )
}

/// `2026-11-21T05:24:00.000Z`, for listings.
pub(super) fn iso_date(time: SystemTime) -> String {
    let at = Moment::of(time);
    let [hour, minute, second] = at.time;
    format!(
        "{}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        at.year, at.month, at.day, at.ms
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(base64(crc32(b"123456789").to_be_bytes()), "y/Q5Jg==");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, http, iso) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT", "1970-01-01T00:00:00.000Z"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT", "2000-02-28T23:59:59.000Z"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT", "2000-02-29T00:00:00.000Z"),
            (
                1_795_238_640,
                "Sat, 21 Nov 2026 05:24:00 GMT",
                "2026-11-21T05:24:00.000Z",
            ),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!((http_date(time).as_str(), iso_date(time).as_str()), (http, iso));
        }
    }

    #[test]
    fn odd_characters_come_back() {
        assert_eq!(
            percent_decoded("sp%20ace/%C3%A4+%2541").as_deref(),
            Some("sp ace/\u{e4}+%41")
        );
        assert_eq!(percent_decoded("%4"), None);
        assert_eq!(percent_decoded("%FF"), None);
        assert_eq!(unhex(&hex(b"a/\x00\xff")), Some(b"a/\x00\xff".to_vec()));
        assert_eq!(xml_escaped("a<b>&\"c"), "a&lt;b&gt;&amp;&quot;c");
    }
}
