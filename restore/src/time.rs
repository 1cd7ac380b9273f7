//! Times: what a user types, and how they are printed. Always UTC on the way out.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::error::{RestoreError, Result};

const HINT: &str = "Write it with an offset or a zone, for example '2026-11-21 05:24:00+00', '2026-11-21T05:24:00Z' or \
                    '2026-11-21 05:24:00 Europe/Berlin'.";

/// A point in time as microseconds since 1970.
pub(crate) fn parse(text: &str) -> Result<i64> {
    parse_option("--target-time", text)
}

/// The same, for an option of another name.
pub(crate) fn parse_option(option: &str, text: &str) -> Result<i64> {
    let bad =
        |reason: &str| RestoreError::usage(format!("invalid {option} \"{}\": {reason}", text.escape_debug()), HINT);
    let trimmed = text.trim();
    if let Ok(timestamp) = trimmed.parse::<Timestamp>() {
        return Ok(timestamp.as_microsecond());
    }
    if let Ok(zoned) = trimmed.parse::<Zoned>() {
        return Ok(zoned.timestamp().as_microsecond());
    }
    let (civil, zone) = split_zone(trimmed).ok_or_else(|| bad("it is no time"))?;
    if zone.starts_with(['+', '-']) {
        let timestamp: Timestamp = format!("{civil}{zone}").parse().map_err(|_| bad("it is no time"))?;
        return Ok(timestamp.as_microsecond());
    }
    let civil: DateTime = civil.parse().map_err(|_| bad("it is no time"))?;
    if zone.is_empty() {
        return Err(bad("it has no offset and no zone"));
    }
    let zone = match zone {
        "Z" | "z" | "UTC" | "utc" | "GMT" => TimeZone::UTC,
        name => TimeZone::get(name).map_err(|_| bad("its zone is not known here"))?,
    };
    let ambiguous = zone.to_ambiguous_zoned(civil);
    if ambiguous.is_ambiguous() {
        return Err(bad(
            "it comes twice, or never, in its zone because the clocks change; write it with an offset",
        ));
    }
    let zoned = ambiguous.compatible().map_err(|_| bad("it is out of range"))?;
    Ok(zoned.timestamp().as_microsecond())
}

/// `DATE TIME [ZONE]` into the civil part and the zone; `None` when there is no time of day.
fn split_zone(text: &str) -> Option<(String, &str)> {
    let (date, rest) = text.split_once([' ', 'T', 't'])?;
    let rest = rest.trim_start();
    let end = rest
        .find(|c: char| !(c.is_ascii_digit() || c == ':' || c == '.'))
        .unwrap_or(rest.len());
    let (time, zone) = rest.split_at_checked(end)?;
    Some((format!("{date}T{time}"), zone.trim()))
}

/// `2026-11-21 05:24:00.000001 UTC`.
pub(crate) fn show(us: i64) -> String {
    match Timestamp::from_microsecond(us) {
        Ok(timestamp) => timestamp.strftime("%Y-%m-%d %H:%M:%S%.f UTC").to_string(),
        Err(_) => format!("{us} us since 1970"),
    }
}

/// As PostgreSQL's `backup_manifest` has it; full seconds.
pub(crate) fn show_gmt(us: i64) -> String {
    let timestamp = Timestamp::from_microsecond(us).unwrap_or(Timestamp::UNIX_EPOCH);
    timestamp.strftime("%Y-%m-%d %H:%M:%S GMT").to_string()
}

/// RFC 3339, for JSON.
pub(crate) fn rfc3339(us: i64) -> String {
    Timestamp::from_microsecond(us).map_or_else(|_| us.to_string(), |timestamp| timestamp.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_with_an_offset_or_a_zone_is_understood() {
        let us = 1_795_238_640_000_000;
        for text in [
            "2026-11-21 05:24:00+00",
            "2026-11-21 05:24:00 +00",
            "2026-11-21T05:24:00Z",
            "2026-11-21 05:24:00Z",
            "2026-11-21 11:09:00+05:45",
            "2026-11-21 05:24:00 UTC",
            "2026-11-21 00:24:00-05",
            " 2026-11-21 05:24:00.000000+00 ",
        ] {
            assert_eq!(parse(text).unwrap(), us, "{text}");
        }
        assert_eq!(show(us), "2026-11-21 05:24:00 UTC");
        assert_eq!(parse("2026-11-21 05:24:00.25+00").unwrap(), us + 250_000);
    }

    #[test]
    fn a_time_without_a_zone_is_refused_with_a_hint() {
        for text in [
            "2026-11-21 05:24:00",
            "2026-11-21",
            "yesterday",
            "infinity",
            "",
            "2026-11-21 05:24:00 Nowhere/Land",
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.exit_code(), crate::exit::USAGE, "{text}");
            assert!(error.hint().unwrap().contains("offset"), "{text}");
        }
    }
}
