//! The manifest: the object whose existence makes a backup (FORMAT 8.4).

use std::collections::BTreeMap;

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::chunk::ChunkReference;
use crate::component::ComponentBackup;
use crate::id::{BackupId, LineageId, PackId};

/// A pack that a backup needs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PackNeed {
    /// The pack.
    #[n(0)]
    pub id: PackId,
    /// 1 data, 2 metadata.
    #[n(1)]
    pub kind: u8,
    /// Bytes of its body.
    #[n(2)]
    pub body_bytes: u64,
    /// Stored bytes of the chunks this backup needs.
    #[n(3)]
    pub live_bytes: u64,
}

impl PackNeed {
    /// True for a data pack: its content opens with the restore key only.
    #[must_use]
    pub fn holds_data(&self) -> bool {
        self.kind == 1
    }
}

/// A tablespace.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Tablespace {
    /// Its OID.
    #[n(0)]
    pub oid: u32,
    /// Where it was.
    #[n(1)]
    pub location: ByteVec,
    /// A directory inside `pg_tblspc` (15 and later, developers' option).
    #[n(2)]
    pub in_place: bool,
}

/// Sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Totals {
    /// Bytes of all files.
    #[n(0)]
    pub logical_bytes: u64,
    /// Bytes that this backup added to the repository: packs and index.
    #[n(1)]
    pub new_stored_bytes: u64,
    /// Files.
    #[n(2)]
    pub files: u64,
    /// Pages of relation files.
    #[n(3)]
    pub pages: u64,
    /// Pages that differed from the parent backup.
    #[n(4)]
    pub new_pages: u64,
    /// Data chunks written.
    #[n(5)]
    pub new_chunks: u64,
    /// Stored bytes that a restore of this backup reads.
    #[n(6)]
    pub needed_bytes: u64,
}

/// A page that failed its check and did not change when it was read again.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CorruptPage {
    /// File, relative to the data directory.
    #[n(0)]
    pub path: ByteVec,
    /// Block number within the relation.
    #[n(1)]
    pub block: u32,
    /// Checksum it should have.
    #[n(2)]
    pub expected: u16,
    /// Checksum it has.
    #[n(3)]
    pub found: u16,
    /// In words.
    #[n(4)]
    pub reason: String,
}

/// Paths of configuration files that lie outside the data directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ConfigurationPaths {
    /// `config_file`.
    #[n(0)]
    pub config: Option<ByteVec>,
    /// `hba_file`.
    #[n(1)]
    pub hba: Option<ByteVec>,
    /// `ident_file`.
    #[n(2)]
    pub ident: Option<ByteVec>,
}

/// A query and what the database answered when the backup was taken.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct KnownGood {
    /// The query.
    #[n(0)]
    pub query: String,
    /// Its rows, columns parted by `|`.
    #[n(1)]
    pub rows: Vec<String>,
    /// The server's message, when it failed.
    #[n(2)]
    pub error: Option<String>,
    /// When it was asked, microseconds since 1970.
    #[n(3)]
    pub asked_us: i64,
}

/// A backup.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Manifest {
    /// Its name.
    #[n(0)]
    pub backup: BackupId,
    /// Lineage it was taken in.
    #[n(1)]
    pub lineage: LineageId,
    /// Timeline of `start_lsn` and `end_lsn`.
    #[n(2)]
    pub timeline: u32,
    /// WAL is needed from here.
    #[n(3)]
    pub start_lsn: u64,
    /// Consistent from here.
    #[n(4)]
    pub end_lsn: u64,
    /// Begun, microseconds since 1970, by the writer's clock.
    #[n(5)]
    pub started_us: i64,
    /// Finished.
    #[n(6)]
    pub finished_us: i64,
    /// `server_version_num`.
    #[n(7)]
    pub server_version: u32,
    /// System identifier.
    #[n(8)]
    pub system_identifier: u64,
    /// WAL segment size in bytes.
    #[n(9)]
    pub segment_bytes: u64,
    /// Blocks in one relation file.
    #[n(10)]
    pub relation_segment_blocks: u32,
    /// Data checksum version, 0 for none.
    #[n(11)]
    pub checksum_version: u32,
    /// `backup_label`, byte for byte.
    #[n(12)]
    pub backup_label: ByteVec,
    /// `tablespace_map`, byte for byte.
    #[n(13)]
    pub tablespace_map: ByteVec,
    /// Tablespaces.
    #[n(14)]
    pub tablespaces: Vec<Tablespace>,
    /// Pieces of the file table, in order.
    #[n(15)]
    pub file_table: Vec<ChunkReference>,
    /// Packs it needs.
    #[n(16)]
    pub packs: Vec<PackNeed>,
    /// Sizes.
    #[n(17)]
    pub totals: Totals,
    /// Pages that are corrupt in the database itself.
    #[n(18)]
    pub corrupt_pages: Vec<CorruptPage>,
    /// Settings of the server that a restore must respect.
    #[n(19)]
    pub settings: BTreeMap<String, String>,
    /// Backup that was compared with.
    #[n(20)]
    pub parent: Option<BackupId>,
    /// Owner of the data directory.
    #[n(21)]
    pub owner_user: Option<String>,
    /// Its group.
    #[n(22)]
    pub owner_group: Option<String>,
    /// `local` or `replication`.
    #[n(23)]
    pub source: String,
    /// Taken on a standby.
    #[n(24)]
    pub from_standby: bool,
    /// Configuration outside the data directory.
    #[n(25)]
    pub configuration: ConfigurationPaths,
    /// Relation files that vanished while they were copied.
    #[n(26)]
    #[cbor(default)]
    pub vanished: Vec<ByteVec>,
    /// Operator's label.
    #[n(27)]
    pub label: Option<String>,
    /// What the database answered to the operator's queries.
    #[n(28)]
    #[cbor(default)]
    pub known_good: Vec<KnownGood>,
    /// Microseconds of the store's clock from the intent to this object: where it came later, it does not count. 0: that was not said yet.
    #[n(29)]
    #[cbor(default)]
    pub duration_max_us: u64,
    /// Of a system beside PostgreSQL: then there is no WAL, and what is said of a server above is empty.
    #[n(30)]
    pub component: Option<Box<ComponentBackup>>,
}

impl Manifest {
    /// Of a component, and of nothing yet.
    #[must_use]
    pub fn of_component(backup: BackupId, lineage: LineageId, component: ComponentBackup) -> Self {
        Manifest {
            backup,
            lineage,
            timeline: 0,
            start_lsn: 0,
            end_lsn: 0,
            started_us: 0,
            finished_us: 0,
            server_version: 0,
            system_identifier: 0,
            segment_bytes: 0,
            relation_segment_blocks: 0,
            checksum_version: 0,
            backup_label: Vec::new().into(),
            tablespace_map: Vec::new().into(),
            tablespaces: Vec::new(),
            file_table: Vec::new(),
            packs: Vec::new(),
            totals: Totals::default(),
            corrupt_pages: Vec::new(),
            settings: BTreeMap::new(),
            parent: None,
            owner_user: None,
            owner_group: None,
            source: component.kind.clone(),
            from_standby: false,
            configuration: ConfigurationPaths::default(),
            vanished: Vec::new(),
            label: None,
            known_good: Vec::new(),
            duration_max_us: 0,
            component: Some(Box::new(component)),
        }
    }

    /// The component that it is of; none for a base backup of the cluster.
    #[must_use]
    pub fn component_name(&self) -> Option<&str> {
        self.component.as_ref().map(|component| component.name.as_str())
    }

    /// How long after its intent it counts, in milliseconds of the store's clock.
    #[must_use]
    pub fn duration_max_ms(&self) -> i64 {
        match self.duration_max_us {
            0 => i64::MAX,
            limit_us => i64::try_from(limit_us / 1000).unwrap_or(i64::MAX),
        }
    }
}
