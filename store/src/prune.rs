//! Giving up backups and WAL, and deleting what nobody needs any more.
//!
//! The keeper looks ([`Looked`]), plans ([`plan`]: [`crate::retention`] says what goes, [`crate::sweep`] which packs may be deleted), and
//! carries out ([`carry_out`]), in an order in which dying anywhere leaves a repository in which everything that counts is whole:
//! delete what was written down long enough ago → remove lists that are done with → write the new list → delete manifests. The next run
//! goes on from what is there.
//!
//! All times are the store's (decision 0020). Nobody is locked out: hosts write and restores read meanwhile.

mod carry_out;
mod look;
mod orphans;
mod plan;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use carry_out::{Done, carry_out};
pub use look::{BackupSeen, Looked, mark_time, pinned};
pub use plan::{Plan, Verdict, plan};

use std::collections::BTreeMap;

use crate::object::{ObjectMeta, ObjectName};
use crate::records::Condemned;
use crate::retention::Rules;
use crate::sweep::Times;

/// What to keep, and how long what is given up stays.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What to keep.
    pub rules: Rules,
    /// The same of each component. Of one that is not named here everything is kept.
    pub components: BTreeMap<String, Rules>,
    /// From being written down to being deleted.
    pub grace: Duration,
    /// This is a copy of the repository: what came here long after it had ended was copied, and is judged by when it ended.
    pub is_copy: bool,
}

impl Policy {
    /// A backup may take three quarters of the grace: a quarter is for stamps of whole seconds, for requests that hang, and for the run
    /// itself.
    #[must_use]
    pub fn times(&self) -> Times {
        let grace_ms = i64::try_from(self.grace.as_millis()).unwrap_or(i64::MAX);
        Times {
            duration_max_ms: grace_ms / 4 * 3,
            grace_ms,
        }
    }

    /// The longest that a backup may take under this grace.
    #[must_use]
    pub fn duration_max(&self) -> Duration {
        self.grace / 4 * 3
    }
}

/// A list of what is to be deleted, as it lies there.
#[derive(Clone, Debug)]
pub struct ListSeen {
    /// Where, and when it was stored.
    pub meta: ObjectMeta,
    /// What stands in it.
    pub list: Condemned,
}

/// An object that goes, and its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Going {
    /// Which.
    pub name: ObjectName,
    /// Bytes.
    pub bytes: u64,
}

impl From<&ObjectMeta> for Going {
    fn from(meta: &ObjectMeta) -> Self {
        Going {
            name: meta.name.clone(),
            bytes: meta.size,
        }
    }
}

/// Bytes of some of them.
#[must_use]
pub fn bytes_of(going: &[Going]) -> u64 {
    going.iter().map(|one| one.bytes).sum()
}
