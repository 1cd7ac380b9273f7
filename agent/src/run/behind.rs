//! How long WAL that came in has waited to be archived, over sessions that fail one after the other: a commit at the end of much WAL never comes in
//! then, and the age of the commits that were seen says nothing.

use wal::receive::StreamStatus;

/// Shorter is what uploads take.
const COUNTS_FROM_US: i64 = 10_000_000;

/// What came in, and is not archived.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// Its end, and when that was seen first, microseconds since 1970.
    waits: Option<(u64, i64)>,
    /// The history that it is of.
    timeline: u32,
}

impl Behind {
    /// Looks again; gives how long, in milliseconds: 0 when all that came in is archived, or is about to be.
    pub(super) fn look(&mut self, status: &StreamStatus, now_us: i64) -> u64 {
        let (received, archived) = (status.received.as_u64(), status.archived.as_u64());
        let is_other = std::mem::replace(&mut self.timeline, status.timeline) != status.timeline;
        if is_other || self.waits.is_some_and(|(end, _)| archived >= end) {
            self.waits = None;
        }
        // A session that begins anew has received less than the one before.
        if self.waits.is_none() && received > archived {
            self.waits = Some((received, now_us));
        }
        let waited_us = self.waits.map_or(0, |(_, since_us)| now_us - since_us);
        match waited_us >= COUNTS_FROM_US {
            true => u64::try_from(waited_us / 1000).unwrap_or(0),
            false => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use pg::lsn::Lsn;

    use super::*;

    fn status(timeline: u32, received: u64, archived: u64) -> StreamStatus {
        StreamStatus {
            timeline,
            received: Lsn::new(received),
            archived: Lsn::new(archived),
            ..StreamStatus::default()
        }
    }

    #[test]
    fn sessions_that_fail_do_not_hide_what_waits() {
        let second = 1_000_000;
        let mut behind = Behind::default();
        assert_eq!(behind.look(&status(1, 500, 100), 0), 0);
        // The next session begins anew, and fails as well.
        assert_eq!(behind.look(&status(1, 100, 100), 5 * second), 0);
        assert_eq!(behind.look(&status(1, 400, 100), 61 * second), 61_000);
        // What came in then is archived.
        assert_eq!(behind.look(&status(1, 600, 500), 62 * second), 0);
        assert_eq!(behind.look(&status(1, 700, 700), 80 * second), 0);
    }

    #[test]
    fn another_history_has_nothing_that_waits() {
        let mut behind = Behind::default();
        behind.look(&status(1, 500, 100), 0);
        assert_eq!(behind.look(&status(2, 50, 50), 60_000_000), 0);
    }
}
