//! Packs: many sealed chunks and a footer in one object (FORMAT 7).
//!
//! A writer seals chunk by chunk and checks each sealed chunk before it counts (law 5). A reader is given a parsed footer and
//! hands out single chunks, each checked against its id by whoever knows how the id is made.

use bytes::Bytes;

use crate::chunk::{ChunkKind, EncodedChunk};
use crate::codec::{Codec, decode};
use crate::envelope::{Fields, HEAD_ROOM_BYTES, Head, Header, Kind};
use crate::error::StoreError;
use crate::id::{Digest, LineageId, PackId};
use crate::keys::ClusterKeys;
use crate::limits::{PACK_BYTES_MAX, PACK_CHUNKS_MAX};
use crate::seal::{ObjectKey, Secret32, TAG_BYTES, associated_data};

const TRAILER: &[u8; 4] = b"SWPF";
const ENTRY_BYTES: usize = 48;

/// One chunk in a footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FooterEntry {
    /// Chunk id.
    pub id: Digest,
    /// Where its sealed bytes begin in the body.
    pub at: u32,
    /// Sealed bytes, tag included.
    pub stored_bytes: u32,
    /// Plaintext bytes.
    pub plain_bytes: u32,
    /// What it holds.
    pub kind: ChunkKind,
    /// How it is encoded.
    pub codec: Codec,
}

impl FooterEntry {
    /// False in a spare for a chunk that could not be brought back: no bytes of it are there.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.stored_bytes > 0
    }
}

/// The chunks of a pack, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// By chunk number.
    pub entries: Vec<FooterEntry>,
}

/// A pack that is being filled.
#[derive(Debug)]
pub struct PackWriter {
    id: PackId,
    kind: Kind,
    salt: [u8; 16],
    lineage: LineageId,
    key: ObjectKey,
    /// Room for the envelope's head, then the body.
    body: Vec<u8>,
    check: Vec<u8>,
    entries: Vec<FooterEntry>,
}

/// A full pack, before the envelope.
#[derive(Debug)]
pub struct PackBody {
    /// Its name.
    pub id: PackId,
    /// Data or metadata pack.
    pub kind: Kind,
    /// Salt under which it was sealed.
    pub salt: [u8; 16],
    /// Lineage it was written in.
    pub lineage: LineageId,
    /// Room for the envelope's head, then chunks, footer and trailer.
    pub(crate) room_and_body: Vec<u8>,
    /// The footer.
    pub footer: Footer,
    /// Keyed digest of its chunk ids.
    pub digest: Digest,
    /// Bytes of its chunks before encoding.
    pub plain_bytes: u64,
}

impl PackBody {
    /// Chunks, footer and trailer.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.room_and_body.get(HEAD_ROOM_BYTES..).unwrap_or_default()
    }
}

/// Memory for a pack whose body has at most so many bytes.
#[must_use]
pub fn room_bytes(capacity_bytes: usize) -> usize {
    HEAD_ROOM_BYTES + capacity_bytes
}

impl PackWriter {
    /// A pack of data chunks, under a session key, in this memory ([`room_bytes`]); what was in it is gone.
    ///
    /// # Errors
    /// No randomness.
    pub fn data(session: &Secret32, lineage: LineageId, room: Vec<u8>) -> Result<Self, StoreError> {
        Self::begin(Kind::DataPack, session, "seawall/1 data", lineage, room)
    }

    /// A spare of a data pack, with as many chunks and the same name.
    ///
    /// # Errors
    /// No randomness.
    pub fn spare(id: PackId, session: &Secret32, lineage: LineageId, room: Vec<u8>) -> Result<Self, StoreError> {
        Ok(PackWriter {
            id,
            ..Self::data(session, lineage, room)?
        })
    }

    /// Keeps the number of a chunk that could not be brought back: no bytes of it are there.
    pub fn append_absent(&mut self, entry: &FooterEntry) {
        self.entries.push(FooterEntry {
            at: 0,
            stored_bytes: 0,
            ..*entry
        });
    }

    /// A pack of metadata chunks, under the cluster's metadata key.
    ///
    /// # Errors
    /// No randomness.
    pub fn metadata(keys: &ClusterKeys, lineage: LineageId, capacity_bytes: usize) -> Result<Self, StoreError> {
        let room = Vec::with_capacity(room_bytes(capacity_bytes));
        Self::begin(Kind::MetadataPack, keys.metadata(), "seawall/1 body", lineage, room)
    }

    fn begin(kind: Kind, secret: &Secret32, info: &str, lineage: LineageId, room: Vec<u8>) -> Result<Self, StoreError> {
        let salt = crate::entropy::bytes()?;
        let mut body = room;
        body.clear();
        body.resize(HEAD_ROOM_BYTES, 0);
        Ok(PackWriter {
            id: PackId(crate::entropy::bytes()?),
            kind,
            salt,
            lineage,
            key: ObjectKey::derive(secret, &salt, info)?,
            body,
            check: Vec::new(),
            entries: Vec::new(),
        })
    }

    /// Name of the pack.
    #[must_use]
    pub fn id(&self) -> PackId {
        self.id
    }

    /// Body bytes so far.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.body.len() - HEAD_ROOM_BYTES
    }

    /// Bytes of the object with one more chunk, padding aside.
    #[must_use]
    pub fn object_bytes_with(&self, payload_bytes: usize) -> usize {
        let footer_bytes = 8 + (self.entries.len() + 1) * ENTRY_BYTES + TAG_BYTES + 8;
        HEAD_ROOM_BYTES + self.body_bytes() + payload_bytes + TAG_BYTES + footer_bytes
    }

    /// True before the first chunk.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Seals a chunk into the pack; returns its number.
    ///
    /// # Errors
    /// The pack is full beyond the format's limit, or the sealed bytes do not open again.
    pub fn append(&mut self, chunk: EncodedChunk) -> Result<u32, StoreError> {
        let EncodedChunk {
            kind,
            id,
            plain_bytes,
            codec,
            mut payload,
        } = chunk;
        let full = || StoreError::Limit {
            what: "a pack",
            detail: "too many chunks or bytes".into(),
        };
        let number = u32::try_from(self.entries.len()).map_err(|_| full())?;
        if (self.body_bytes() + payload.len() + TAG_BYTES) as u64 > PACK_BYTES_MAX
            || self.entries.len() >= PACK_CHUNKS_MAX
        {
            return Err(full());
        }
        let associated = associated_data(kind as u8, codec as u8, plain_bytes, Some(self.lineage), &id);
        self.check.clear();
        self.check.extend_from_slice(&payload);
        self.key.seal(number, &associated, &mut payload)?;
        let at = self.body_bytes();
        self.body.extend_from_slice(&payload);
        let opened = self.key.open(number, &associated, &mut payload);
        if opened.is_none_or(|opened| *opened != *self.check) {
            return Err(StoreError::EncodingCheck {
                what: format!("chunk {id}"),
            });
        }
        let stored_bytes = u32::try_from(self.body_bytes() - at).map_err(|_| full())?;
        let at = u32::try_from(at).map_err(|_| full())?;
        self.entries.push(FooterEntry {
            id,
            at,
            stored_bytes,
            plain_bytes,
            kind,
            codec,
        });
        Ok(number)
    }

    /// Seals the footer.
    ///
    /// # Errors
    /// Encryption failed.
    pub fn finish(self, keys: &ClusterKeys) -> Result<PackBody, StoreError> {
        let mut footer = Vec::with_capacity(8 + self.entries.len() * ENTRY_BYTES + TAG_BYTES);
        footer.extend_from_slice(&u32::try_from(self.entries.len()).unwrap_or(u32::MAX).to_le_bytes());
        footer.extend_from_slice(&[0; 4]);
        let mut ids = Vec::with_capacity(self.entries.len() * 32);
        for entry in &self.entries {
            footer.extend_from_slice(&entry.id.0);
            footer.extend_from_slice(&entry.at.to_le_bytes());
            footer.extend_from_slice(&entry.stored_bytes.to_le_bytes());
            footer.extend_from_slice(&entry.plain_bytes.to_le_bytes());
            footer.extend_from_slice(&[entry.kind as u8, entry.codec as u8, 0, 0]);
            ids.extend_from_slice(&entry.id.0);
        }
        ObjectKey::derive(keys.metadata(), &self.salt, "seawall/1 footer")?.seal(0, &[], &mut footer)?;
        let mut body = self.body;
        body.extend_from_slice(&footer);
        body.extend_from_slice(&u32::try_from(footer.len()).unwrap_or(u32::MAX).to_le_bytes());
        body.extend_from_slice(TRAILER);
        Ok(PackBody {
            id: self.id,
            kind: self.kind,
            salt: self.salt,
            lineage: self.lineage,
            room_and_body: body,
            plain_bytes: self.entries.iter().map(|entry| u64::from(entry.plain_bytes)).sum(),
            digest: keys.digest(self.kind as u8, &ids),
            footer: Footer { entries: self.entries },
        })
    }
}

/// Length of the sealed footer, from the last 8 bytes of a body.
///
/// # Errors
/// No trailer there.
pub fn footer_bytes(name: &str, trailer: &[u8]) -> Result<usize, StoreError> {
    let mut fields = Fields { bytes: trailer, at: 0 };
    match (fields.u32(), fields.take(4)) {
        (Some(length), Some(mark)) if mark == TRAILER => Ok(length as usize),
        _ => Err(StoreError::damaged(name, "no footer at the end of the pack")),
    }
}

impl Footer {
    /// Opens a sealed footer.
    ///
    /// # Errors
    /// It does not open, or makes no sense. The head of the pack was authenticated with the same keys, so the key is not at fault.
    pub fn open(head: &Head, sealed: &[u8], keys: &ClusterKeys) -> Result<Self, StoreError> {
        let mut buffer = sealed.to_vec();
        let plain = ObjectKey::derive(keys.metadata(), &head.salt, "seawall/1 footer")?
            .open(0, &[], &mut buffer)
            .ok_or_else(|| StoreError::damaged(head.name(), "the footer does not open"))?;
        let damaged = || StoreError::damaged(head.name(), "the footer makes no sense");
        let mut fields = Fields { bytes: plain, at: 0 };
        let count = fields.u32().ok_or_else(damaged)? as usize;
        let _ = fields.u32().ok_or_else(damaged)?;
        if count > PACK_CHUNKS_MAX || plain.len() != 8 + count * ENTRY_BYTES {
            return Err(damaged());
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let id = Digest(fields.array().ok_or_else(damaged)?);
            let at = fields.u32().ok_or_else(damaged)?;
            let stored_bytes = fields.u32().ok_or_else(damaged)?;
            let plain_bytes = fields.u32().ok_or_else(damaged)?;
            let kind = fields.u8().and_then(ChunkKind::from_byte).ok_or_else(damaged)?;
            let codec = fields.u8().and_then(Codec::from_byte).ok_or_else(damaged)?;
            let _ = fields.u16().ok_or_else(damaged)?;
            if plain_bytes as usize > kind.plain_bytes_max()
                || u64::from(at) + u64::from(stored_bytes) > head.body_bytes
            {
                return Err(damaged());
            }
            entries.push(FooterEntry {
                id,
                at,
                stored_bytes,
                plain_bytes,
                kind,
                codec,
            });
        }
        Ok(Footer { entries })
    }

    /// Compares with the header, which is signed.
    ///
    /// # Errors
    /// It names other chunks than its header.
    pub fn check_digest(&self, head: &Head, header: &Header, keys: &ClusterKeys) -> Result<(), StoreError> {
        let ids: Vec<u8> = self.entries.iter().flat_map(|entry| entry.id.0).collect();
        match keys.digest(head.kind as u8, &ids) == header.digest {
            true => Ok(()),
            false => Err(StoreError::damaged(
                head.name(),
                "its footer names other chunks than its header",
            )),
        }
    }

    /// Footer of a whole body.
    ///
    /// # Errors
    /// As [`Footer::open`].
    pub fn of_body(head: &Head, body: &Bytes, keys: &ClusterKeys) -> Result<Self, StoreError> {
        let short = || StoreError::damaged(head.name(), "shorter than its footer");
        let (rest, trailer) = body.split_at_checked(body.len().wrapping_sub(8)).ok_or_else(short)?;
        let length = footer_bytes(head.name(), trailer)?;
        let at = rest.len().checked_sub(length).ok_or_else(short)?;
        Self::open(head, rest.get(at..).unwrap_or_default(), keys)
    }
}

/// Opens chunks of one pack.
#[derive(Debug)]
pub struct ChunkOpener {
    name: String,
    key: ObjectKey,
    lineage: Option<LineageId>,
}

impl ChunkOpener {
    /// For the pack with this head; `session` is its session key where it has one.
    ///
    /// # Errors
    /// The key is missing.
    pub fn new(
        head: &Head,
        lineage: Option<LineageId>,
        session: Option<&Secret32>,
        keys: &ClusterKeys,
    ) -> Result<Self, StoreError> {
        let (secret, info) = head.body_secret(session, keys)?;
        Ok(ChunkOpener {
            name: head.name().to_owned(),
            key: ObjectKey::derive(secret, &head.salt, info)?,
            lineage,
        })
    }

    /// Plaintext of chunk `number`. Its id is authenticated as associated data; the caller checks the plaintext against it.
    ///
    /// # Errors
    /// Damaged.
    pub fn open(&self, number: u32, entry: &FooterEntry, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let damaged = |reason: &str| StoreError::damaged(&self.name, format!("chunk {number}: {reason}"));
        let associated = associated_data(
            entry.kind as u8,
            entry.codec as u8,
            entry.plain_bytes,
            self.lineage,
            &entry.id,
        );
        let mut buffer = sealed.to_vec();
        let compressed = self
            .key
            .open(number, &associated, &mut buffer)
            .ok_or_else(|| damaged("not authentic"))?;
        decode(entry.codec, compressed, entry.plain_bytes as usize)
            .ok_or_else(|| damaged("does not decompress to its length"))
    }
}

/// Checks a chunk's plaintext against its id; for relation chunks returns nothing more than that.
///
/// # Errors
/// The content differs from its id.
pub fn check_id(name: &str, entry: &FooterEntry, plain: &[u8], keys: &ClusterKeys) -> Result<(), StoreError> {
    let id = match entry.kind {
        ChunkKind::Relation => {
            let digests: Vec<_> = plain
                .chunks(crate::limits::PAGE_BYTES)
                .map(|page| keys.page_digest(page))
                .collect();
            keys.relation_chunk_id(&digests)
        }
        ChunkKind::Content => keys.content_chunk_id(plain),
        kind => keys.metadata_chunk_id(kind as u8, plain),
    };
    if id == entry.id {
        Ok(())
    } else {
        Err(StoreError::damaged(
            name,
            format!("chunk {} has other content than its id", entry.id),
        ))
    }
}
