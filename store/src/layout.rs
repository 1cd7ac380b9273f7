//! Object names (FORMAT 3): where everything lies, and what a WAL object's name says.

use pg::lsn::Lsn;
use pg::segment::{SegmentSize, segment_name};
use pg::timeline::TimelineId;

use crate::error::StoreError;
use crate::id::{BackupId, LineageId, PackId, unhex};
use crate::inventory::Named;
use crate::object::ObjectName;
use crate::records::LostWal;

/// Name of the one clear object.
pub const DESCRIPTION: &str = "seawall.json";

/// Names under one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: String,
}

/// The directory of an object below its cluster, or at the top; none for what lies at the top itself.
#[must_use]
pub fn directory_of(name: &ObjectName) -> Option<&str> {
    let mut segments = name.as_str().split('/');
    let directory = match segments.next() {
        Some("clusters") => segments.nth(1),
        top => top,
    };
    directory.filter(|_| segments.next().is_some())
}

/// True for names that can stand in object names: `[a-z0-9][a-z0-9_-]{0,62}`.
#[must_use]
pub fn is_cluster_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(|byte| allowed(*byte))
        && bytes
            .iter()
            .all(|byte| allowed(*byte) || *byte == b'_' || *byte == b'-')
}

impl Layout {
    /// The layout of a cluster.
    ///
    /// # Errors
    /// The name is not a cluster name.
    pub fn new(cluster: &str) -> Result<Self, StoreError> {
        if !is_cluster_name(cluster) {
            return Err(StoreError::Limit {
                what: "the cluster name",
                detail: format!("\"{cluster}\" is not [a-z0-9][a-z0-9_-]{{0,62}}"),
            });
        }
        Ok(Layout {
            root: format!("clusters/{cluster}"),
        })
    }

    fn name(&self, rest: &str) -> Result<ObjectName, StoreError> {
        ObjectName::new(format!("{}/{rest}", self.root)).map_err(|error| StoreError::Limit {
            what: "an object name",
            detail: error.to_string(),
        })
    }

    /// Public keys of a period.
    ///
    /// # Errors
    /// Never in practice; names are checked when they are made.
    pub fn keys(&self, period: u64) -> Result<ObjectName, StoreError> {
        self.name(&format!("keys/{period}"))
    }

    /// A lineage.
    ///
    /// # Errors
    /// As [`Layout::keys`].
    pub fn lineage(&self, lineage: LineageId) -> Result<ObjectName, StoreError> {
        self.name(&format!("lineages/{lineage}"))
    }

    /// A lease of a writer epoch.
    ///
    /// # Errors
    /// As [`Layout::keys`].
    pub fn lease(&self, epoch: u64) -> Result<ObjectName, StoreError> {
        self.name(&format!("leases/{epoch:08x}"))
    }

    /// The intent of a backup.
    ///
    /// # Errors
    /// As [`Layout::keys`].
    pub fn intent(&self, backup: BackupId) -> Result<ObjectName, StoreError> {
        self.name(&format!("intents/{backup}/start"))
    }

    /// How far a backup has come, for the `number`th time.
    ///
    /// # Errors
    /// As [`Layout::keys`].
    pub fn progress(&self, backup: BackupId, number: u32) -> Result<ObjectName, StoreError> {
        self.name(&format!("intents/{backup}/{number:08x}"))
    }

    /// A pack.
    ///
    /// # Errors
    /// As [`Layout::keys`].
    pub fn pack(&self, pack: PackId) -> Result<ObjectName, StoreError> {
        let hex = pack.to_string();
        self.name(&format!("packs/{}/{hex}", hex.get(..2).unwrap_or_default()))
    }

    /// The index a backup added.
    ///
    /// # Errors
    /// As [`Layout::keys`].
    pub fn index(&self, backup: BackupId) -> Result<ObjectName, StoreError> {
        self.name(&format!("index/{backup}"))
    }

    /// A backup's manifest.
    ///
    /// # Errors
    /// As [`Layout::keys`].
    pub fn manifest(&self, backup: BackupId) -> Result<ObjectName, StoreError> {
        self.name(&format!("backups/{backup}"))
    }

    /// A WAL object or tail.
    ///
    /// # Errors
    /// As [`Layout::keys`].
    pub fn wal(&self, range: &WalRange, size: SegmentSize) -> Result<ObjectName, StoreError> {
        let segment = segment_name(range.timeline, size.segment_of(range.start), size);
        let lane = if range.tail { "tail" } else { "wal" };
        self.name(&format!(
            "{lane}/{}/{}/{segment}/{}-{}.{:08x}",
            range.lineage,
            range.timeline.hex8(),
            range.start.to_hex16(),
            range.end.to_hex16(),
            range.epoch
        ))
    }

    /// The history of a timeline.
    ///
    /// # Errors
    /// As [`Layout::keys`].
    pub fn history(&self, lineage: LineageId, timeline: TimelineId, epoch: u64) -> Result<ObjectName, StoreError> {
        self.name(&format!("wal/{lineage}/{}/history.{epoch:08x}", timeline.hex8()))
    }

    /// A declared hole.
    ///
    /// # Errors
    /// As [`Layout::keys`].
    pub fn hole(&self, lost: &LostWal, epoch: u64) -> Result<ObjectName, StoreError> {
        self.name(&format!(
            "holes/{}/{:08X}/{}-{}.{epoch:08x}",
            lost.lineage,
            lost.timeline,
            Lsn::new(lost.start).to_hex16(),
            Lsn::new(lost.end).to_hex16(),
        ))
    }

    /// An entry of the ledger; `id` is a ULID, so that names sort by time.
    ///
    /// # Errors
    /// As [`Layout::keys`].
    pub fn ledger(&self, id: impl std::fmt::Display) -> Result<ObjectName, StoreError> {
        self.name(&format!("ledger/{id}"))
    }

    /// What was verified, and when; `id` is a ULID, so that names sort by time.
    ///
    /// # Errors
    /// As [`Layout::keys`].
    pub fn proof(&self, id: impl std::fmt::Display) -> Result<ObjectName, StoreError> {
        self.name(&format!("proofs/{id}"))
    }

    /// A list of what is to be deleted; `id` is a ULID, so that names sort by time.
    ///
    /// # Errors
    /// As [`Layout::keys`].
    pub fn condemned(&self, id: impl std::fmt::Display) -> Result<ObjectName, StoreError> {
        self.name(&format!("condemned/{id}"))
    }

    /// A backup that stays; `id` is a ULID.
    ///
    /// # Errors
    /// As [`Layout::keys`].
    pub fn pin(&self, backup: BackupId, id: impl std::fmt::Display) -> Result<ObjectName, StoreError> {
        self.name(&format!("pins/{backup}/{id}"))
    }

    /// What stands in for a damaged object; `id` is a ULID, so that names sort by time.
    ///
    /// # Errors
    /// As [`Layout::keys`]; or there can be no spare of such an object.
    pub fn spare(&self, original: &ObjectName, id: impl std::fmt::Display) -> Result<ObjectName, StoreError> {
        let rest = self
            .rest(original.as_str())
            .filter(|_| self.may_have_spares(original.as_str()));
        let rest = rest.ok_or_else(|| StoreError::Limit {
            what: "a spare",
            detail: format!("there can be none of \"{original}\""),
        })?;
        self.name(&format!("spares/{rest}/{id}"))
    }

    /// The object that a spare stands in for; `None` for any other name.
    #[must_use]
    pub fn original_of(&self, spare: &str) -> Option<ObjectName> {
        let (rest, id) = self.rest(spare)?.strip_prefix("spares/")?.rsplit_once('/')?;
        id.parse::<BackupId>().ok()?;
        let original = self.name(rest).ok()?;
        self.may_have_spares(original.as_str()).then_some(original)
    }

    /// What backups and WAL are made of. Neither who is trusted, nor who writes, nor what goes or stays is ever said by a spare.
    fn may_have_spares(&self, original: &str) -> bool {
        match self.parse(original) {
            Some(Named::Wal(range)) => !range.tail,
            Some(named) => matches!(
                named,
                Named::Pack(_) | Named::Index(_) | Named::Manifest(_) | Named::History(..) | Named::Lineage(_)
            ),
            None => false,
        }
    }

    fn rest<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_prefix(&self.root)?.strip_prefix('/')
    }

    /// Prefix for listing: `directory` is one of the format's, such as `backups`.
    #[must_use]
    pub fn prefix(&self, directory: &str) -> String {
        format!("{}/{directory}/", self.root)
    }

    /// Prefix for listing everything of the cluster.
    #[must_use]
    pub fn prefix_of_all(&self) -> String {
        format!("{}/", self.root)
    }

    /// What an object of the cluster is; `None` for a name that this format does not make.
    #[must_use]
    pub fn parse(&self, name: &str) -> Option<Named> {
        let named = self.parse_loosely(name)?;
        // One name for one thing: who plants another one for it must not be taken for it.
        let canonical = match named {
            Named::Keys(period) => self.keys(period),
            Named::Lineage(id) => self.lineage(id),
            Named::Lease(epoch) => self.lease(epoch),
            Named::Intent(backup) => self.intent(backup),
            Named::Progress(backup, number) => self.progress(backup, number),
            Named::Pack(id) => self.pack(id),
            Named::Index(backup) => self.index(backup),
            Named::Manifest(backup) => self.manifest(backup),
            _ => return Some(named),
        };
        canonical
            .is_ok_and(|canonical| canonical.as_str() == name)
            .then_some(named)
    }

    fn parse_loosely(&self, name: &str) -> Option<Named> {
        let (directory, rest) = self.rest(name)?.split_once('/')?;
        let named = match directory {
            "keys" => Named::Keys(rest.parse().ok()?),
            "lineages" => Named::Lineage(rest.parse().ok()?),
            "leases" => Named::Lease(u64::from_str_radix(rest, 16).ok()?),
            "intents" => match rest.split_once('/')? {
                (backup, "start") => Named::Intent(backup.parse().ok()?),
                (backup, number) => Named::Progress(backup.parse().ok()?, u32::from_str_radix(number, 16).ok()?),
            },
            "packs" => Named::Pack(PackId(unhex(rest.split_once('/')?.1)?)),
            "index" => Named::Index(rest.parse().ok()?),
            "backups" => Named::Manifest(rest.parse().ok()?),
            "wal" | "tail" => match self.parse_wal(name)? {
                WalName::Range(range) => Named::Wal(range),
                WalName::History { lineage, timeline, .. } => Named::History(lineage, timeline),
            },
            "holes" => Named::Hole,
            "ledger" => Named::Ledger,
            "proofs" => Named::Proof,
            "condemned" => Named::Condemned,
            "pins" => Named::Pin(rest.split_once('/')?.0.parse().ok()?),
            "spares" => self.original_of(name).map(|_| Named::Spare)?,
            _ => return None,
        };
        Some(named)
    }

    /// Prefix of a lineage's WAL objects or tails.
    #[must_use]
    pub fn wal_prefix(&self, lane: Lane, lineage: LineageId) -> String {
        format!("{}/{}/{lineage}/", self.root, lane.text())
    }

    /// Prefix of one segment's WAL objects or tails.
    #[must_use]
    pub fn segment_prefix(&self, lane: Lane, lineage: LineageId, timeline: TimelineId, segment: &str) -> String {
        format!("{}{}/{segment}/", self.wal_prefix(lane, lineage), timeline.hex8())
    }

    /// What the name of a WAL object, tail or history says; `None` for any other name.
    #[must_use]
    pub fn parse_wal(&self, name: &str) -> Option<WalName> {
        let mut parts = self.rest(name)?.split('/');
        let tail = match parts.next()? {
            "wal" => false,
            "tail" => true,
            _ => return None,
        };
        let lineage = parts.next()?.parse().ok()?;
        let timeline = TimelineId::from_hex8(parts.next()?)?;
        let third = parts.next()?;
        let Some(last) = parts.next() else {
            let epoch = u64::from_str_radix(third.strip_prefix("history.")?, 16).ok()?;
            return (!tail).then_some(WalName::History {
                lineage,
                timeline,
                epoch,
            });
        };
        let (range, epoch) = last.split_once('.')?;
        let (start, end) = range.split_once('-')?;
        let (start, end) = (Lsn::from_hex16(start)?, Lsn::from_hex16(end)?);
        let epoch = u64::from_str_radix(epoch, 16).ok()?;
        (parts.next().is_none() && start < end).then_some(WalName::Range(WalRange {
            lineage,
            timeline,
            start,
            end,
            epoch,
            tail,
        }))
    }
}

/// The two lanes of WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Whole ranges.
    Wal,
    /// Tails of open segments.
    Tail,
}

impl Lane {
    fn text(self) -> &'static str {
        match self {
            Lane::Wal => "wal",
            Lane::Tail => "tail",
        }
    }
}

/// What a name under `wal/` or `tail/` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalName {
    /// A WAL object or tail.
    Range(WalRange),
    /// A timeline history.
    History {
        /// Lineage.
        lineage: LineageId,
        /// Timeline whose history it is.
        timeline: TimelineId,
        /// Writer epoch.
        epoch: u64,
    },
}

/// A range of WAL that an object holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRange {
    /// Lineage.
    pub lineage: LineageId,
    /// Timeline.
    pub timeline: TimelineId,
    /// First byte.
    pub start: Lsn,
    /// Byte after the last.
    pub end: Lsn,
    /// Writer epoch.
    pub epoch: u64,
    /// True for a tail.
    pub tail: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wal_name_says_what_was_put_into_it() {
        let layout = Layout::new("main").unwrap();
        let size = SegmentSize::new(16 << 20).unwrap();
        let range = WalRange {
            lineage: LineageId::from_parts(1, [1; 10]),
            timeline: TimelineId::new(0x1A).unwrap(),
            start: Lsn::new(0x1_0000_0000),
            end: Lsn::new(0x1_0000_2000),
            epoch: 3,
            tail: true,
        };
        let name = layout.wal(&range, size).unwrap();
        assert!(
            name.as_str()
                .ends_with("/0000001A/0000001A0000000100000000/0000000100000000-0000000100002000.00000003"),
            "{name}"
        );
        assert_eq!(layout.parse_wal(name.as_str()), Some(WalName::Range(range)));
        let history = layout.history(range.lineage, range.timeline, 9).unwrap();
        assert_eq!(
            layout.parse_wal(history.as_str()),
            Some(WalName::History {
                lineage: range.lineage,
                timeline: range.timeline,
                epoch: 9
            })
        );
        assert_eq!(layout.parse_wal("clusters/other/wal/x"), None);
    }

    #[test]
    fn a_spare_names_what_it_stands_in_for_and_never_keys() {
        let layout = Layout::new("main").unwrap();
        let id = BackupId::from_parts(7, [3; 10]);
        for original in [
            layout.pack(PackId([5; 16])).unwrap(),
            layout.manifest(id).unwrap(),
            layout.index(id).unwrap(),
        ] {
            let spare = layout.spare(&original, id).unwrap();
            assert_eq!(layout.parse(spare.as_str()), Some(Named::Spare));
            assert_eq!(layout.original_of(spare.as_str()), Some(original.clone()));
            assert!(layout.spare(&spare, id).is_err());
            for bad in [
                format!("{spare}x"),
                spare.as_str().to_lowercase(),
                format!("{spare}/{id}"),
            ] {
                assert_eq!(layout.parse(&bad), None, "{bad}");
            }
        }
        for original in [
            layout.keys(1).unwrap(),
            layout.lease(1).unwrap(),
            layout.condemned(id).unwrap(),
            layout.intent(id).unwrap(),
        ] {
            assert!(layout.spare(&original, id).is_err(), "{original}");
        }
        assert_eq!(layout.parse(&format!("clusters/main/spares/keys/1/{id}")), None);
    }

    #[test]
    fn cluster_names_that_could_leave_their_prefix_are_refused() {
        for bad in ["", "-a", "A", "a/b", "..", "a.b"] {
            assert!(Layout::new(bad).is_err(), "{bad}");
        }
    }
}
