//! WAL that the server keeps for us fills its disk when the repository is away: warn, raise an alarm, and only where the operator
//! chose it let go. PostgreSQL stays up in every case, and nobody is told that what was let go is archived.

use std::time::{Duration, Instant};

use config::Retained;

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Below every threshold.
    Fine,
    /// Above `retained_warn`.
    Warn,
    /// Above `retained_page`.
    Page,
    /// Above `retained_drop`: the slot goes.
    Drop,
}

/// Which threshold these bytes have passed.
pub fn level(bytes: u64, limits: &Retained) -> Level {
    match limits.drop {
        Some(drop) if bytes >= drop.bytes() => Level::Drop,
        _ if bytes >= limits.page.bytes() => Level::Page,
        _ if bytes >= limits.warn.bytes() => Level::Warn,
        _ => Level::Fine,
    }
}

/// Says it once, when a threshold is passed in either direction.
pub fn say(before: Level, now: Level, bytes: u64, full_in: Option<Duration>) {
    let full_in_s = full_in.map(|left| left.as_secs());
    match (before < now, now) {
        (true, Level::Warn) => {
            tracing::warn!(
                bytes,
                full_in_s,
                "the server keeps much WAL for us: the repository is late"
            );
        }
        (true, Level::Page | Level::Drop) => {
            tracing::error!(
                bytes,
                full_in_s,
                "the server keeps very much WAL for us: its disk will fill"
            );
        }
        (false, Level::Fine) if before > Level::Fine => {
            tracing::info!(bytes, "the server keeps little WAL for us again");
        }
        _ => {}
    }
}

/// Estimates when a disk that WAL flows into is full.
#[derive(Debug, Default)]
pub struct Fill {
    last: Option<(Instant, u64)>,
    bytes_per_second: f64,
}

/// Weight of the newest measurement.
const NEWEST: f64 = 0.3;

impl Fill {
    /// Takes the end of WAL at `now`; with `free` bytes on the disk, how long it lasts at the present rate.
    pub fn full_in(&mut self, now: Instant, flush: u64, free: Option<u64>) -> Option<Duration> {
        if let Some((then, before)) = self.last {
            let seconds = now.saturating_duration_since(then).as_secs_f64().max(0.001);
            let rate = flush.saturating_sub(before) as f64 / seconds;
            self.bytes_per_second += NEWEST * (rate - self.bytes_per_second);
        }
        self.last = Some((now, flush));
        let seconds = free? as f64 / self.bytes_per_second;
        (seconds.is_finite() && seconds < 1e9).then(|| Duration::from_secs_f64(seconds))
    }
}

#[cfg(test)]
mod tests {
    use config::ByteSize;

    use super::*;

    #[test]
    fn nothing_is_dropped_unless_the_operator_said_so() {
        let mut limits = Retained {
            warn: ByteSize::new(10),
            page: ByteSize::new(20),
            drop: None,
        };
        let levels = |limits: &Retained| [0, 10, 20, u64::MAX].map(|bytes| level(bytes, limits));
        assert_eq!(levels(&limits), [Level::Fine, Level::Warn, Level::Page, Level::Page]);
        limits.drop = Some(ByteSize::new(30));
        assert_eq!(levels(&limits), [Level::Fine, Level::Warn, Level::Page, Level::Drop]);
    }

    #[test]
    fn the_time_to_full_follows_from_rate_and_room() {
        let mut fill = Fill::default();
        let begun = Instant::now();
        assert_eq!(fill.full_in(begun, 0, Some(1000)), None, "no rate yet");
        for second in 1..60 {
            fill.full_in(begun + Duration::from_secs(second), second * 10, None);
        }
        let left = fill.full_in(begun + Duration::from_secs(60), 600, Some(1000)).unwrap();
        assert!((90..=110).contains(&left.as_secs()), "{left:?}");
    }
}
