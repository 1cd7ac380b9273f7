//! What one place was told. Pure, but for its file.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::message::Event;
use crate::health::board::Open;

/// What was said, and when.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Told {
    alarms: Vec<(Open, i64)>,
}

impl Told {
    pub fn load(path: &Path) -> Self {
        let kept = std::fs::read(path).ok();
        let told = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        told.unwrap_or_default()
    }

    pub fn keep(&self, path: &Path) -> std::io::Result<()> {
        store::durable::atomic_write(path, &serde_json::to_vec_pretty(self)?)
    }

    /// What is to be said next: first what is new, worst first; then what is over; then what lasts.
    pub fn next(&self, open: &[Open], repeat: Duration, now_us: i64) -> Option<(Event, Open)> {
        let was_told = |open: &Open| self.alarms.iter().any(|(told, _)| told.alarm.key() == open.alarm.key());
        if let Some(new) = open.iter().find(|open| !was_told(open)) {
            return Some((Event::Raised, new.clone()));
        }
        let now = |told: &Open| open.iter().find(|open| open.alarm.key() == told.alarm.key());
        if let Some((over, _)) = self.alarms.iter().find(|(told, _)| now(told).is_none()) {
            return Some((Event::Cleared, over.clone()));
        }
        let repeat_us = i64::try_from(repeat.as_micros()).unwrap_or(i64::MAX);
        let is_due = |said_us: i64| now_us.saturating_sub(said_us) >= repeat_us;
        let lasts = self.alarms.iter().find(|(_, said_us)| is_due(*said_us));
        lasts.and_then(|(told, _)| Some((Event::Repeated, now(told)?.clone())))
    }

    /// That was said.
    pub fn note(&mut self, event: Event, open: Open, now_us: i64) {
        self.alarms.retain(|(told, _)| told.alarm.key() != open.alarm.key());
        if event != Event::Cleared {
            self.alarms.push((open, now_us));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Alarm, Kind};

    const HOUR: Duration = Duration::from_secs(3600);
    const HOUR_US: i64 = 3_600_000_000;

    fn open(kind: Kind) -> Open {
        Open {
            alarm: Alarm::new(kind, "text", "hint"),
            severity: kind.severity(),
            since_us: 0,
            is_raised: true,
            gone_us: None,
        }
    }

    /// Says everything that is to be said.
    fn say(told: &mut Told, now: &[Open], now_us: i64) -> Vec<(Event, Kind)> {
        let mut said = Vec::new();
        while let Some((event, open)) = told.next(now, HOUR, now_us) {
            said.push((event, open.alarm.kind));
            told.note(event, open, now_us);
        }
        said
    }

    #[test]
    fn each_alarm_is_told_once_then_again_as_long_as_it_lasts_then_that_it_is_over() {
        let mut told = Told::default();
        let both = [open(Kind::RpoBroken), open(Kind::DiskHigh)];
        assert_eq!(
            say(&mut told, &both, 0),
            [(Event::Raised, Kind::RpoBroken), (Event::Raised, Kind::DiskHigh)]
        );
        assert_eq!(say(&mut told, &both, HOUR_US - 1), []);
        assert_eq!(say(&mut told, &both, HOUR_US).len(), 2);
        assert_eq!(
            say(&mut told, &both[..1], HOUR_US + 1),
            [(Event::Cleared, Kind::DiskHigh)]
        );
        assert_eq!(say(&mut told, &[], HOUR_US + 2), [(Event::Cleared, Kind::RpoBroken)]);
        assert_eq!(say(&mut told, &[], 9 * HOUR_US), []);
    }

    #[test]
    fn what_came_and_went_while_nobody_could_be_told_is_never_told() {
        let told = Told::default();
        assert!(told.next(&[open(Kind::RpoBroken)], HOUR, 0).is_some());
        assert!(told.next(&[], HOUR, 1).is_none());
    }

    #[test]
    fn it_is_known_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("told.json");
        let mut told = Told::load(&file);
        told.note(Event::Raised, open(Kind::WalHole), 0);
        told.keep(&file).unwrap();
        let again = Told::load(&file);
        assert!(again.next(&[open(Kind::WalHole)], HOUR, 1).is_none());
        assert!(matches!(again.next(&[], HOUR, 1), Some((Event::Cleared, _))));
    }
}
