//! What an object is and what its header says (FORMAT 4.1, 4.2).

use minicbor::{Decode, Encode};

use crate::id::{Digest, LineageId, RepositoryId, SessionId};

/// What an object is (FORMAT 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)] // the names are the documentation; the format text has the list
pub enum Kind {
    DataPack = 1,
    MetadataPack = 2,
    Index = 3,
    Manifest = 4,
    Intent = 5,
    Progress = 6,
    Lineage = 7,
    Lease = 8,
    Keys = 9,
    Wal = 10,
    Tail = 11,
    History = 12,
    Hole = 13,
    Pin = 14,
    Proof = 15,
    Condemned = 16,
    Relocation = 17,
    Ledger = 18,
    Session = 19,
}

impl Kind {
    const ALL: [Kind; 19] = [
        Kind::DataPack,
        Kind::MetadataPack,
        Kind::Index,
        Kind::Manifest,
        Kind::Intent,
        Kind::Progress,
        Kind::Lineage,
        Kind::Lease,
        Kind::Keys,
        Kind::Wal,
        Kind::Tail,
        Kind::History,
        Kind::Hole,
        Kind::Pin,
        Kind::Proof,
        Kind::Condemned,
        Kind::Relocation,
        Kind::Ledger,
        Kind::Session,
    ];

    pub(super) fn from_byte(byte: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// The kind byte that keyed digests use: a tail digests like WAL.
    #[must_use]
    pub fn digest_kind(self) -> u8 {
        if self == Kind::Tail {
            Kind::Wal as u8
        } else {
            self as u8
        }
    }
}

/// Which key family opens the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// The session key: only the restore key leads to it.
    Session,
    /// The cluster metadata key.
    Metadata,
}

/// What every host of the cluster can read about an object (FORMAT 4.2).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Header {
    /// The repository.
    #[n(0)]
    pub repository: RepositoryId,
    /// The cluster's name.
    #[n(1)]
    pub cluster: String,
    /// The lineage, where one applies.
    #[n(2)]
    pub lineage: Option<LineageId>,
    /// Timeline.
    #[n(3)]
    pub timeline: Option<u32>,
    /// First LSN.
    #[n(4)]
    pub start: Option<u64>,
    /// LSN after the last.
    #[n(5)]
    pub end: Option<u64>,
    /// Keyed digest of the plaintext.
    #[n(6)]
    pub digest: Digest,
    /// BLAKE3 of the writer's previous object's head in this epoch.
    #[n(7)]
    pub previous: Digest,
    /// Plaintext bytes.
    #[n(8)]
    pub plain_bytes: u64,
    /// The session, if there is one.
    #[n(9)]
    pub session: Option<SessionId>,
    /// When it was written, by the writer's clock, in microseconds since 1970.
    #[n(10)]
    pub written_us: i64,
    /// Facts about a WAL range.
    #[n(11)]
    pub wal: Option<WalFacts>,
    /// Number of the newest period of keys that its writer knew.
    #[n(12)]
    #[cbor(default)]
    pub period: u64,
}

/// What the header of a WAL object says about the records in it (FORMAT 4.2, key 11).
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct WalFacts {
    /// Start of the first record that begins in the range.
    #[n(0)]
    pub first_record: Option<u64>,
    /// Start of the last record that ends in the range.
    #[n(1)]
    pub last_record: Option<u64>,
    /// End of that record.
    #[n(2)]
    pub last_record_end: Option<u64>,
    /// Lowest time of a commit, abort or restore point, microseconds since 1970.
    #[n(3)]
    pub time_lowest_us: Option<i64>,
    /// Highest such time.
    #[n(4)]
    pub time_highest_us: Option<i64>,
    /// Named restore points.
    #[n(5)]
    #[cbor(default)]
    pub restore_points: Vec<RestorePoint>,
    /// End of the contiguous archived WAL of this timeline when this was sealed: all before it was durable, and may have been confirmed.
    #[n(6)]
    pub archived: Option<u64>,
}

/// A named restore point (`pg_create_restore_point`).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RestorePoint {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// When, microseconds since 1970.
    #[n(1)]
    pub time_us: i64,
    /// Start of its record.
    #[n(2)]
    pub record: u64,
}
