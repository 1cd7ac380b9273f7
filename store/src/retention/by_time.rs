//! The newest backup of each calendar period, in UTC.

use std::num::NonZeroU32;

use jiff::Timestamp;
use jiff::tz::Offset;

use super::{Backup, BackupId};

/// A calendar period.
#[derive(Debug, Clone, Copy)]
pub(super) enum Period {
    Day,
    Week,
    Month,
    Year,
}

impl Period {
    /// A value that two instants share when they are in the same period.
    fn of(self, instant: Timestamp) -> (i16, i16) {
        let date = Offset::UTC.to_datetime(instant).date();
        match self {
            Period::Day => (date.year(), date.day_of_year()),
            Period::Week => {
                let week = date.iso_week_date();
                (week.year(), i16::from(week.week()))
            }
            Period::Month => (date.year(), i16::from(date.month())),
            Period::Year => (date.year(), 0),
        }
    }
}

/// The newest backup of each of the newest `count` periods that have one. `past` is sorted, newest first.
pub(super) fn newest_of_each(past: &[&Backup], period: Period, count: NonZeroU32) -> Vec<BackupId> {
    let mut newest = Vec::new();
    let mut last = None;
    for backup in past {
        let this = Some(period.of(backup.stored_at));
        if this == last {
            continue;
        }
        if newest.len() >= count.get() as usize {
            break;
        }
        last = this;
        newest.push(backup.id);
    }
    newest
}
