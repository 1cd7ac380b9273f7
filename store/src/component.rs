//! What the manifest of a component's backup says beside sizes and packs (FORMAT 14). A *component* is a system beside PostgreSQL: a Redis server,
//! a directory of files, the dumps of a database.
//!
//! A component's backup is a backup like any other for who copies, verifies, prunes and locks; it has no WAL. Its chunks lie in a lineage that
//! is derived from its name, so that two hosts that take the same component share it.

use std::collections::BTreeMap;

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::id::{BackupId, LineageId};
use crate::keys::ClusterKeys;

/// What was captured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ComponentBackup {
    /// Name of the component, unique in the cluster.
    #[n(0)]
    pub name: String,
    /// What it is: `files`, `redis`, ...
    #[n(1)]
    pub kind: String,
    /// Version of the system, as it says itself; empty where there is none.
    #[n(2)]
    pub version: String,
    /// What was counted when it was captured, to be compared after a restore.
    #[n(3)]
    pub facts: BTreeMap<String, String>,
    /// The moment that it holds, microseconds since 1970 by the clock of the host. Changes after it are not in it, changes before it are.
    #[n(4)]
    pub as_of_us: i64,
    /// Files that changed while they were read.
    #[n(5)]
    #[cbor(default)]
    pub changed: Vec<ByteVec>,
    /// The point that it was captured for together with others.
    #[n(6)]
    pub point: Option<GroupPoint>,
}

/// A recovery point of several systems: a place in the WAL of the cluster, and the backups of components that were begun right after it. What a
/// row committed before that place speaks of was there when they were captured.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct GroupPoint {
    /// The same in all backups of the point.
    #[n(0)]
    pub id: BackupId,
    /// Name of the group.
    #[n(1)]
    pub group: String,
    /// All components that belong to it: where one of them has no such backup, the point is not whole.
    #[n(2)]
    pub components: Vec<String>,
    /// History of the cluster that the WAL belongs to.
    #[n(3)]
    pub lineage: LineageId,
    /// Its timeline.
    #[n(4)]
    pub timeline: u32,
    /// Where recovery stops: behind the first record that begins here or later.
    #[n(5)]
    pub lsn: u64,
    /// The server's clock then, microseconds since 1970.
    #[n(6)]
    pub at_us: i64,
}

/// How exactly a system may say what moment it holds: Redis says whole seconds.
const SAID_WITHIN_US: i64 = 2_000_000;

impl GroupPoint {
    /// True for a capture that the point can be restored with: one of its components, and not from before it. What is older may lack what a
    /// row speaks of.
    #[must_use]
    pub fn holds(&self, captured: &ComponentBackup) -> bool {
        self.components.contains(&captured.name) && captured.as_of_us >= self.at_us.saturating_sub(SAID_WITHIN_US)
    }
}

/// True for what may be the name of a component: as a cluster's.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let is_first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_next = |byte: u8| is_first(byte) || byte == b'_' || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().next().is_some_and(is_first) && name.bytes().all(is_next)
}

/// The lineage of a component's chunks.
#[must_use]
pub fn lineage_of(keys: &ClusterKeys, name: &str) -> LineageId {
    let digest = keys.component_digest(name);
    let bytes = digest.0.first_chunk().copied().unwrap_or_default();
    LineageId::from_number(u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RepositoryId;
    use crate::seal::Secret32;

    #[test]
    fn names_are_short_and_plain() {
        assert!(
            ["a", "cache", "0-1_x", &"a".repeat(63)]
                .iter()
                .all(|name| is_name(name))
        );
        assert!(
            ["", "-a", "A", "a b", "a/b", "ä", "..", &"a".repeat(64)]
                .iter()
                .all(|name| !is_name(name))
        );
    }

    #[test]
    fn a_point_holds_what_it_knows_and_what_is_not_older() {
        let point = GroupPoint {
            id: BackupId::from_number(1),
            group: "shop".into(),
            components: vec!["cache".into()],
            lineage: LineageId::from_number(1),
            timeline: 1,
            lsn: 1,
            at_us: 10_000_000,
        };
        let of = |name: &str, as_of_us| ComponentBackup {
            name: name.into(),
            as_of_us,
            ..ComponentBackup::default()
        };
        assert!(point.holds(&of("cache", 10_000_000)) && point.holds(&of("cache", 8_000_000)));
        assert!(!point.holds(&of("cache", 7_999_999)) && !point.holds(&of("/etc", 10_000_000)));
    }

    #[test]
    fn each_name_has_a_lineage_of_its_own_in_each_repository() {
        let keys = |number| {
            let secret = Secret32::new([number; 32]);
            ClusterKeys::derive(secret, RepositoryId::default()).unwrap()
        };
        let of = |number, name| lineage_of(&keys(number), name);
        assert_eq!(of(1, "cache"), of(1, "cache"));
        assert_ne!(of(1, "cache"), of(1, "cachf"));
        assert_ne!(of(1, "cache"), of(2, "cache"));
    }
}
