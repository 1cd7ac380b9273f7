//! Named places where a test ends the process as `kill -9` would: between two steps that a crash must be able to part.
//!
//! Only a binary that was built with the feature `crash-points` and armed by its `main` ever ends here; in every other build
//! [`point`] is empty. What each place leaves behind is said with its name.

/// Where a process can be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CrashPoint {
    /// A writer epoch is taken; nothing was streamed in it.
    AfterLease,
    /// A timeline's history is archived; none of its WAL is.
    AfterHistory,
    /// A new lineage is recorded; none of its WAL is archived.
    AfterLineage,
    /// The stream is open; no byte was taken from it.
    AfterStreamStart,
    /// A piece of WAL is cut, not yet encoded.
    BeforeEncode,
    /// An object is encoded and signed; the store has not seen it.
    BeforePut,
    /// A local object is written to its temporary file and not yet in its place.
    BeforeLink,
    /// An object is durable; nobody was told.
    AfterPut,
    /// The contiguous prefix has grown; PostgreSQL was not told.
    BeforeStatus,
    /// PostgreSQL was told; nothing else happened since.
    AfterStatus,
    /// The slot was created again; nothing was streamed from it.
    AfterSlot,
    /// A hole is declared; the stream has not gone on behind it.
    AfterHole,
    /// On shutdown, the last piece is durable; the server was not told.
    BeforeLastStatus,
}

impl CrashPoint {
    /// All of them.
    pub const ALL: [CrashPoint; 13] = [
        CrashPoint::AfterLease,
        CrashPoint::AfterHistory,
        CrashPoint::AfterLineage,
        CrashPoint::AfterStreamStart,
        CrashPoint::BeforeEncode,
        CrashPoint::BeforePut,
        CrashPoint::BeforeLink,
        CrashPoint::AfterPut,
        CrashPoint::BeforeStatus,
        CrashPoint::AfterStatus,
        CrashPoint::AfterSlot,
        CrashPoint::AfterHole,
        CrashPoint::BeforeLastStatus,
    ];

    /// Its name, as it is armed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            CrashPoint::AfterLease => "after-lease",
            CrashPoint::AfterHistory => "after-history",
            CrashPoint::AfterLineage => "after-lineage",
            CrashPoint::AfterStreamStart => "after-stream-start",
            CrashPoint::BeforeEncode => "before-encode",
            CrashPoint::BeforePut => "before-put",
            CrashPoint::BeforeLink => "before-link",
            CrashPoint::AfterPut => "after-put",
            CrashPoint::BeforeStatus => "before-status",
            CrashPoint::AfterStatus => "after-status",
            CrashPoint::AfterSlot => "after-slot",
            CrashPoint::AfterHole => "after-hole",
            CrashPoint::BeforeLastStatus => "before-last-status",
        }
    }
}

/// Variable that arms a point: its name, or `name:n` for the n-th time that it is passed.
pub const VARIABLE: &str = "SEAWALL_CRASH_AT";

#[cfg(feature = "crash-points")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::CrashPoint;

    static ARMED: OnceLock<(CrashPoint, AtomicU64)> = OnceLock::new();

    /// Arms one point for this process; the first call counts. False when `text` names none.
    #[must_use]
    pub fn arm(text: &str) -> bool {
        let (name, passes) = text.split_once(':').unwrap_or((text, "1"));
        let point = CrashPoint::ALL.into_iter().find(|point| point.name() == name);
        match (point, passes.parse()) {
            (Some(point), Ok(passes)) => ARMED.set((point, AtomicU64::new(passes))).is_ok(),
            _ => false,
        }
    }

    /// Ends the process if this point is armed and its time has come.
    pub fn point(here: CrashPoint) {
        if let Some((armed, left)) = ARMED.get()
            && *armed == here
            && left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            tracing::info!(point = here.name(), "crash point");
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}

#[cfg(feature = "crash-points")]
pub use armed::{arm, point};

/// Nothing, in this build.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub fn point(_here: CrashPoint) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = CrashPoint::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), CrashPoint::ALL.len());
    }
}
