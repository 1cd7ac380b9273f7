//! Small control objects: lineages, leases, intents and progress, holes, ledger entries (FORMAT 8.6, 9).

use minicbor::{Decode, Encode};

use crate::chunk::ChunkReference;
use crate::file_table::FileEntry;
use crate::id::{BackupId, Digest, LineageId, PackId};

/// One unbroken physical history of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Lineage {
    /// Its id.
    #[n(0)]
    pub id: LineageId,
    /// System identifier of the cluster.
    #[n(1)]
    pub system_identifier: u64,
    /// `server_version_num`.
    #[n(2)]
    pub server_version: u32,
    /// WAL segment size in bytes.
    #[n(3)]
    pub segment_bytes: u64,
    /// The lineage it left, if any.
    #[n(4)]
    pub parent: Option<LineageId>,
    /// Where it left it.
    #[n(5)]
    pub fork_lsn: Option<u64>,
    /// Why it exists.
    #[n(6)]
    pub reason: String,
    /// When, microseconds since 1970.
    #[n(7)]
    pub created_us: i64,
    /// Timeline at its beginning.
    #[n(8)]
    pub timeline: u32,
    /// LSN at its beginning.
    #[n(9)]
    pub begin_lsn: u64,
}

/// A writer epoch.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Lease {
    /// Its number.
    #[n(0)]
    pub epoch: u64,
    /// Who took it.
    #[n(1)]
    pub host: String,
    /// When, microseconds since 1970.
    #[n(2)]
    pub taken_us: i64,
    /// BLAKE3 of the newest WAL object head that was known: chains the epochs.
    #[n(3)]
    pub after: Option<Digest>,
    /// The lineage that its holder archives. Whoever archives another one is not replaced by it.
    #[n(4)]
    pub lineage: Option<LineageId>,
}

/// A backup that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Intent {
    /// Its id.
    #[n(0)]
    pub backup: BackupId,
    /// Who takes it.
    #[n(1)]
    pub host: String,
    /// When, microseconds since 1970.
    #[n(2)]
    pub begun_us: i64,
}

/// How far a backup that is under way has come: what another one may go on from when it never ends.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct BackupProgress {
    /// The backup.
    #[n(0)]
    pub backup: BackupId,
    /// Pieces of its file table so far, in order. Everything that they lead to is durable.
    #[n(1)]
    pub file_table: Vec<ChunkReference>,
    /// Entries behind them, in order.
    #[n(2)]
    pub entries: Vec<FileEntry>,
}

/// What is to be deleted when its grace is over, and what is not (FORMAT 12).
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Condemned {
    /// When it was decided, microseconds since 1970, by the clock of who decided it. The store's counts.
    #[n(0)]
    pub time_us: i64,
    /// On which host.
    #[n(1)]
    pub host: String,
    /// Packs that nobody is to refer to any more.
    #[n(2)]
    pub packs: Vec<PackId>,
    /// Backups that are given up.
    #[n(3)]
    pub retired: Vec<BackupId>,
    /// WAL that stays, of each timeline that was known. None: this list says nothing about WAL.
    #[n(4)]
    pub wal: Option<Vec<KeptWal>>,
    /// When the run began, by the store's clock in milliseconds since 1970, that saw no backup need these packs. None: backups that need them are given up.
    #[n(5)]
    pub looked_ms: Option<i64>,
}

/// WAL of a timeline that stays.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct KeptWal {
    /// Lineage.
    #[n(0)]
    pub lineage: LineageId,
    /// Timeline.
    #[n(1)]
    pub timeline: u32,
    /// What stays of it; nothing when this is empty.
    #[n(2)]
    pub ranges: Vec<KeptRange>,
}

/// A stretch of WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct KeptRange {
    /// First byte.
    #[n(0)]
    pub start: u64,
    /// Byte after the last; none: all that follows.
    #[n(1)]
    pub end: Option<u64>,
}

/// The operator said that a backup stays.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Pin {
    /// The backup.
    #[n(0)]
    pub backup: BackupId,
    /// When, microseconds since 1970.
    #[n(1)]
    pub time_us: i64,
    /// On which host.
    #[n(2)]
    pub host: String,
    /// Why, for people.
    #[n(3)]
    pub reason: String,
}

/// [`LostWal::reason`] of WAL that nobody lost: the keeper deleted it.
pub const GIVEN_UP: &str = "given up by retention";

/// A range of WAL that is known to be lost, or was given up.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LostWal {
    /// Lineage.
    #[n(0)]
    pub lineage: LineageId,
    /// Timeline.
    #[n(1)]
    pub timeline: u32,
    /// First missing byte.
    #[n(2)]
    pub start: u64,
    /// First byte that the server still had.
    #[n(3)]
    pub end: u64,
    /// Why it is lost.
    #[n(4)]
    pub reason: String,
    /// When it was found, microseconds since 1970.
    #[n(5)]
    pub found_us: i64,
    /// Who found it.
    #[n(6)]
    pub host: String,
}

/// Stored objects were read and hashed again.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Proof {
    /// When, microseconds since 1970.
    #[n(0)]
    pub time_us: i64,
    /// On which host.
    #[n(1)]
    pub host: String,
    /// True when content was decrypted and compared, false when stored bytes were compared with what their writers signed.
    #[n(2)]
    pub content: bool,
    /// First place of the share (FORMAT 11).
    #[n(3)]
    pub from: u64,
    /// Its length.
    #[n(4)]
    pub len: u64,
    /// Objects that were read.
    #[n(5)]
    pub objects: u64,
    /// Their bytes.
    #[n(6)]
    pub bytes: u64,
    /// How many of them were damaged.
    #[n(7)]
    pub damaged: u64,
    /// The backup that was restored and proven, as a server that ran; then there is no share.
    #[n(8)]
    pub backup: Option<BackupId>,
}

/// Something that an operator will want to know later: protection was given up or came back.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LedgerEntry {
    /// When, microseconds since 1970.
    #[n(0)]
    pub time_us: i64,
    /// On which host.
    #[n(1)]
    pub host: String,
    /// What happened, one of a documented list of words.
    #[n(2)]
    pub event: String,
    /// The facts, for people.
    #[n(3)]
    pub detail: String,
}
