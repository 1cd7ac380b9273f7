//! The LSN ladder of law 2: what was received, what is archived, and that only the latter is ever confirmed.
//!
//! `Received` and `Archived` are different types. A status for PostgreSQL can be made from an `Archived` only, and an `Archived`
//! comes into being only here, as the end of the contiguous durable prefix.

use std::collections::BTreeMap;

use pg::lsn::Lsn;
use pg::replication::StandbyStatus;

/// End of what came over the wire. Says nothing about durability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Received(pub Lsn);

/// End of the contiguous prefix that is durable in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Archived(Lsn);

impl Archived {
    /// The LSN.
    #[must_use]
    pub fn lsn(self) -> Lsn {
        self.0
    }

    /// What PostgreSQL is told: write = flush = archived, apply unknown. (Write may not run ahead either: `remote_write` waits for
    /// it alone; walsender.c, `ProcessStandbyReplyMessage`.)
    #[must_use]
    pub fn status(self) -> StandbyStatus {
        StandbyStatus {
            write: self.0,
            flush: self.0,
            apply: Lsn::ZERO,
            reply_requested: false,
        }
    }

    /// A sign of life that confirms nothing: PostgreSQL neither moves the slot nor releases a commit for it (walsender.c,
    /// `ProcessStandbyReplyMessage`; syncrep.c, `SyncRepReleaseWaiters`).
    #[must_use]
    pub fn withheld() -> StandbyStatus {
        StandbyStatus {
            write: Lsn::ZERO,
            flush: Lsn::ZERO,
            apply: Lsn::ZERO,
            reply_requested: false,
        }
    }
}

/// Tracks which ranges have become durable, in any order.
#[derive(Debug)]
pub struct Progress {
    received: Lsn,
    archived: Lsn,
    floor: Lsn,
    confirmed: Lsn,
    durable: BTreeMap<Lsn, Lsn>,
}

impl Progress {
    /// Begins at `start`, the first byte that will be streamed. `floor` is the end of what was archived before. `confirmed` is what the
    /// slot knows: no status goes below it, because a lower flush would move its restart_lsn backwards.
    #[must_use]
    pub fn new(start: Lsn, floor: Lsn, confirmed: Lsn) -> Self {
        Progress {
            received: start,
            archived: start,
            floor,
            confirmed,
            durable: BTreeMap::new(),
        }
    }

    /// Bytes up to `end` came in.
    pub fn receive(&mut self, end: Lsn) {
        self.received = self.received.max(end);
    }

    /// `[start, end)` is durable.
    pub fn make_durable(&mut self, start: Lsn, end: Lsn) {
        let known = self.durable.entry(start).or_insert(end);
        *known = (*known).max(end);
        while let Some((start, end)) = self.durable.first_key_value().map(|(start, end)| (*start, *end)) {
            if start > self.archived {
                break;
            }
            self.durable.remove(&start);
            self.archived = self.archived.max(end);
        }
    }

    /// End of what came in.
    #[must_use]
    pub fn received(&self) -> Received {
        Received(self.received)
    }

    /// End of the contiguous durable prefix.
    #[must_use]
    pub fn archived(&self) -> Archived {
        Archived(self.archived.max(self.floor))
    }

    /// What PostgreSQL may be told now: nothing while we have yet to reach what it was told before. Then the repository shows less
    /// than was confirmed: its listing is late, or the slot was made again, or somebody else has moved it.
    #[must_use]
    pub fn status(&self) -> StandbyStatus {
        let archived = self.archived();
        if archived.lsn() < self.confirmed {
            Archived::withheld()
        } else {
            archived.status()
        }
    }

    /// True when everything that came in is durable.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.archived >= self.received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_contiguous_prefix_counts_as_archived() {
        let mut progress = Progress::new(Lsn::new(100), Lsn::ZERO, Lsn::ZERO);
        progress.receive(Lsn::new(400));
        progress.make_durable(Lsn::new(200), Lsn::new(300));
        assert_eq!(progress.archived().lsn(), Lsn::new(100));
        progress.make_durable(Lsn::new(100), Lsn::new(200));
        assert_eq!(progress.archived().lsn(), Lsn::new(300));
        assert!(!progress.is_settled());
        progress.make_durable(Lsn::new(150), Lsn::new(400));
        assert!(progress.is_settled());
    }

    #[test]
    fn what_was_confirmed_once_is_never_taken_back() {
        let mut progress = Progress::new(Lsn::new(100), Lsn::new(250), Lsn::ZERO);
        assert_eq!(progress.archived().lsn(), Lsn::new(250));
        progress.make_durable(Lsn::new(100), Lsn::new(200));
        assert_eq!(progress.archived().lsn(), Lsn::new(250));
        progress.make_durable(Lsn::new(200), Lsn::new(260));
        assert_eq!(progress.archived().status().flush, Lsn::new(260));
        assert_eq!(progress.archived().status().apply, Lsn::ZERO);
    }

    #[test]
    fn a_slot_that_knows_more_than_the_repository_shows_is_not_moved_back() {
        let mut progress = Progress::new(Lsn::new(100), Lsn::new(150), Lsn::new(300));
        assert_eq!(progress.status().flush, Lsn::ZERO);
        progress.make_durable(Lsn::new(100), Lsn::new(299));
        assert_eq!(progress.archived().lsn(), Lsn::new(299));
        assert_eq!(progress.status().flush, Lsn::ZERO);
        progress.make_durable(Lsn::new(299), Lsn::new(310));
        assert_eq!(progress.status().flush, Lsn::new(310));
    }
}
