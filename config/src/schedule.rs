//! When something that comes again is due: by a cron expression in the time zone of the host, or so long after the last time.

use std::fmt;
use std::time::Duration;

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions, parse_crontab_with};

use crate::units;

/// Shorter makes no sense for anything that has a schedule.
const INTERVAL_MIN: Duration = Duration::from_secs(60);

/// When something is to be done.
#[derive(Debug, Clone)]
pub enum Schedule {
    /// So long after the beginning of the last time.
    Every(Duration),
    /// At these times.
    Cron {
        /// As it was typed.
        text: String,
        /// Read; in the time zone of this host where the text names none.
        crontab: Box<Crontab>,
    },
}

impl Schedule {
    /// Reads `30 2 * * *` or `24h`; the error is a hint.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        const HINT: &str = "Write minute, hour, day, month and day of the week (\"30 2 * * *\", a time zone may follow), or an interval (\"24h\").";
        if let Ok(interval) = units::parse_duration(text) {
            return match interval >= INTERVAL_MIN {
                true => Ok(Schedule::Every(interval)),
                false => Err("Use an interval of a minute or more.".to_owned()),
            };
        }
        let mut options = ParseOptions::default();
        options.fallback_timezone_option = FallbackTimezoneOption::System;
        let crontab = parse_crontab_with(text, options).map_err(|_| HINT.to_owned())?;
        let schedule = Schedule::Cron {
            text: text.to_owned(),
            crontab: Box::new(crontab),
        };
        match schedule.due_us(None, 0) {
            i64::MAX => Err("There is no such date.".to_owned()),
            _ => Ok(schedule),
        }
    }

    /// When it is due next, microseconds since 1970: `last_us` is when it began last, `since_us` since when the schedule is in force.
    /// What was missed while nobody looked is due at once. [`i64::MAX`] when never again.
    #[must_use]
    pub fn due_us(&self, last_us: Option<i64>, since_us: i64) -> i64 {
        match (self, last_us) {
            (Schedule::Every(_), None) => since_us,
            (Schedule::Every(interval), Some(last_us)) => {
                last_us.saturating_add(i64::try_from(interval.as_micros()).unwrap_or(i64::MAX))
            }
            (Schedule::Cron { crontab, .. }, _) => {
                let after = MakeTimestamp::from_microsecond(last_us.unwrap_or(since_us));
                let next = after.and_then(|after| crontab.find_next(after));
                next.map_or(i64::MAX, |next| next.timestamp().as_microsecond())
            }
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Schedule::Every(interval) => f.write_str(&units::print_duration(*interval)),
            Schedule::Cron { text, .. } => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;

    #[test]
    fn an_interval_is_due_at_once_and_then_so_long_after_the_last_time() {
        let daily = Schedule::parse("24h").unwrap();
        assert_eq!(daily.due_us(None, 5), 5);
        assert_eq!(daily.due_us(Some(5), 7), 24 * HOUR_US + 5);
    }

    #[test]
    fn a_cron_expression_is_due_at_its_next_time() {
        let nightly = Schedule::parse("30 2 * * * UTC").unwrap();
        let first = nightly.due_us(None, 0);
        assert_eq!(first, 2 * HOUR_US + HOUR_US / 2);
        // Missed for three days: due at once, and once only.
        assert_eq!(nightly.due_us(Some(first), 99 * HOUR_US), first + 24 * HOUR_US);
        let east = Schedule::parse("30 2 * * * Asia/Tokyo").unwrap();
        assert_eq!(east.due_us(None, 0), 17 * HOUR_US + HOUR_US / 2);
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_a_hint() {
        for text in ["", "often", "61 * * * *", "0 0 30 2 *", "* * *", "@daily"] {
            let hint = Schedule::parse(text).unwrap_err();
            assert!(
                hint.starts_with("Write") || hint.starts_with("There is no"),
                "{text}: {hint}"
            );
        }
        assert!(Schedule::parse("1s").unwrap_err().starts_with("Use an interval"));
        for text in ["0 */6 * * 1-5", "90m", "0 3 * * SUN Europe/Berlin"] {
            let schedule = Schedule::parse(text).unwrap();
            assert_eq!(
                Schedule::parse(&schedule.to_string()).unwrap().to_string(),
                schedule.to_string()
            );
        }
    }
}
