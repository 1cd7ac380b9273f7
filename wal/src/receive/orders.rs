//! What a session is given, what it is told while it runs, and what it tells.

use std::time::Duration;

use pg::lsn::Lsn;

use crate::lag::LagSummary;

/// How a session is run.
#[derive(Debug, Clone)]
pub struct ReceiveOptions {
    /// Oldest age that unshipped bytes may reach; zero: as soon as the tail before is durable.
    pub ship_interval: Duration,
    /// A tail is cut early, after a quarter of the interval, when this much is waiting.
    pub tail_bytes_max: u64,
    /// Bytes between socket and durable.
    pub memory_bytes_max: u64,
    /// On shutdown, how long to wait for the last pieces.
    pub shutdown_timeout: Duration,
}

/// What others may know about the stream while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamStatus {
    /// Timeline.
    pub timeline: u32,
    /// End of what came in.
    pub received: Lsn,
    /// End of the contiguous durable prefix.
    pub archived: Lsn,
    /// The server's end of WAL as it last said.
    pub server: Lsn,
    /// Age of the oldest unprotected commit, microseconds.
    pub oldest_unarchived_us: u64,
    /// Time of the newest transaction that came in, by the server's clock, microseconds since 1970; 0: none yet.
    pub last_commit_us: i64,
    /// When the server said anything last, by ours; 0: never.
    pub contact_us: i64,
    /// Commit to archived.
    pub lag: LagSummary,
    /// WAL bytes made durable in whole objects by this process.
    pub wal_bytes: u64,
    /// Bytes stored for them and for tails.
    pub stored_bytes: u64,
    /// Whole objects.
    pub objects: u64,
    /// Tails.
    pub tails: u64,
}

/// What the rest of the agent asks of the stream while it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Orders {
    /// Commits wait for us: nothing is held back for an interval.
    pub synchronous: bool,
    /// WAL was lost that only a backup to come makes up for.
    pub loss_is_open: bool,
    /// The server shuts down and waits for us: after `shutdown_timeout` it is let go, unconfirmed.
    pub server_stops: bool,
}

impl Orders {
    /// No commit may be released by us while only a backup to come makes up for lost WAL. Nobody waits: nothing is withheld.
    #[must_use]
    pub fn may_confirm(&self) -> bool {
        !(self.synchronous && self.loss_is_open)
    }
}
