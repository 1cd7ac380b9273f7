//! Object lock: what is stored cannot be deleted or changed by anybody until a date (Amazon S3 user guide, "Locking objects with Object
//! Lock"). The bucket keeps versions then, and a delete names the version that it means.

use std::time::Duration;

use super::ObjectName;
use crate::layout::directory_of;

/// Who may still delete a locked object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Nobody, the account's owner included.
    Compliance,
    /// Who has the right to bypass governance.
    Governance,
}

/// Locks that new objects get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectLock {
    /// Who may still delete.
    pub mode: LockMode,
    /// An object stays at least this long after it was last needed by a new backup.
    pub keep: Duration,
}

/// Tails are covered by whole segments soon; prune deletes those that are after its grace of two days.
const TAIL_KEEP_MAX: Duration = Duration::from_secs(2 * 86_400);

/// Beginning of the names of objects that are put to see whether they can be deleted.
pub const LOCK_PROBES: &str = "probes/lock-";
const PROBE_KEEP: Duration = Duration::from_secs(60);

impl ObjectLock {
    /// How long an object of this name is locked at least; none for what has to go soon: leases, lists of what is to be deleted, pins, probes.
    #[must_use]
    pub fn keep_of(&self, name: &ObjectName) -> Option<Duration> {
        match directory_of(name) {
            Some("probes") if name.as_str().starts_with(LOCK_PROBES) => Some(PROBE_KEEP),
            Some("leases" | "condemned" | "pins" | "probes") => None,
            Some("tail") => Some(self.keep.min(TAIL_KEEP_MAX)),
            _ => Some(self.keep),
        }
    }

    /// How long a new lock lasts: a quarter more than it has to, so that what is needed by every backup is not locked anew by each.
    #[must_use]
    pub fn lasts(keep: Duration) -> Duration {
        keep + keep / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_to_go_soon_is_not_locked() {
        let lock = ObjectLock {
            mode: LockMode::Compliance,
            keep: Duration::from_secs(40 * 86_400),
        };
        let keep = |name: &str| lock.keep_of(&ObjectName::new(name).unwrap());
        for name in [
            "seawall.json",
            "clusters/main/packs/ab/abcd",
            "clusters/leases/wal/x",
            "clusters/main/keys/1",
        ] {
            assert_eq!(keep(name), Some(lock.keep), "{name}");
        }
        for name in [
            "probes/x",
            "clusters/main/leases/1",
            "clusters/main/condemned/1",
            "clusters/main/pins/1",
        ] {
            assert_eq!(keep(name), None, "{name}");
        }
        assert_eq!(keep("clusters/main/tail/x"), Some(TAIL_KEEP_MAX));
        assert_eq!(keep("probes/lock-x"), Some(PROBE_KEEP));
        assert_eq!(ObjectLock::lasts(lock.keep), Duration::from_secs(50 * 86_400));
    }
}
