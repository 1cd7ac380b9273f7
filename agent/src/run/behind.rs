//! How long WAL has waited to be archived, whether it came in or not. Of commits that were never seen the age is not known: where session after
//! session fails before much WAL is through, or where the server has stopped to send.

use wal::receive::StreamStatus;

/// Shorter is what uploads take.
const COUNTS_FROM_US: i64 = 10_000_000;

/// What the server has written, as far as we know, and is not archived.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// Its end, and when that was seen first, microseconds since 1970.
    waits: Option<(u64, i64)>,
    /// The history that it is of.
    timeline: u32,
}

impl Behind {
    /// Looks again; `written` is how far the server's WAL reached, where it was asked lately. Gives how long, in milliseconds: 0 when all is
    /// archived, or is about to be.
    pub(super) fn look(&mut self, status: &StreamStatus, written: Option<u64>, now_us: i64) -> u64 {
        let archived = status.archived.as_u64();
        let known = written.unwrap_or(0).max(status.received.as_u64());
        let is_other = std::mem::replace(&mut self.timeline, status.timeline) != status.timeline;
        // Another server, or one that was rolled back, does not have what this one had.
        let is_gone = |end: u64| written.is_some() && known < end;
        if is_other || self.waits.is_some_and(|(end, _)| archived >= end || is_gone(end)) {
            self.waits = None;
        }
        // A session that begins anew has received less than the one before.
        if self.waits.is_none() && known > archived {
            self.waits = Some((known, now_us));
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
        let look = |behind: &mut Behind, status: &StreamStatus, now_us| behind.look(status, None, now_us);
        assert_eq!(look(&mut behind, &status(1, 500, 100), 0), 0);
        // The next session begins anew, and fails as well.
        assert_eq!(look(&mut behind, &status(1, 100, 100), 5 * second), 0);
        assert_eq!(look(&mut behind, &status(1, 400, 100), 61 * second), 61_000);
        // What came in then is archived.
        assert_eq!(look(&mut behind, &status(1, 600, 500), 62 * second), 0);
        assert_eq!(look(&mut behind, &status(1, 700, 700), 80 * second), 0);
    }

    #[test]
    fn what_the_server_does_not_send_waits_too() {
        let mut behind = Behind::default();
        let silent = status(1, 100, 100);
        assert_eq!(behind.look(&silent, Some(100), 0), 0);
        assert_eq!(behind.look(&silent, Some(300), 30_000_000), 0);
        assert_eq!(behind.look(&silent, Some(400), 95_000_000), 65_000);
        assert_eq!(behind.look(&status(1, 400, 400), Some(400), 96_000_000), 0);
    }

    #[test]
    fn another_history_has_nothing_that_waits() {
        let mut behind = Behind::default();
        behind.look(&status(1, 500, 100), None, 0);
        assert_eq!(behind.look(&status(2, 50, 50), None, 60_000_000), 0);
        behind.look(&status(2, 50, 50), Some(90), 61_000_000);
        assert_eq!(behind.look(&status(2, 60, 60), Some(60), 130_000_000), 0);
    }
}
