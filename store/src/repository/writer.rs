//! Writing: seal, sign, create. The only way an object comes into being.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::Repository;
use crate::codec::Compressors;
use crate::envelope::{Clear, Finished, Header, Kind, Protection, WalFacts, finish};
use crate::error::StoreError;
use crate::frame;
use crate::id::{BackupId, Digest, LineageId};
use crate::keys::SigningKey;
use crate::limits::WAL_ZSTD_LEVEL;
use crate::object::{ErrorClass, ObjectName, PutNew};
use crate::pack::PackBody;
use crate::records::Proof;
use crate::seal::ObjectKey;
use crate::session::{Session, to_cbor};

/// Result of creating an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is new.
    Created,
    /// The same content was there already (law 3).
    Same,
}

/// What is to be written as a single-frame object.
#[derive(Debug)]
pub struct NewObject<'a> {
    /// Kind.
    pub kind: Kind,
    /// Lineage, where one applies.
    pub lineage: Option<LineageId>,
    /// Timeline, start and end LSN, for WAL.
    pub range: Option<(u32, u64, u64)>,
    /// Facts about the WAL.
    pub wal: Option<WalFacts>,
    /// The content.
    pub plain: &'a [u8],
    /// Session that protects it; none for metadata.
    pub session: Option<&'a Session>,
    /// Now, microseconds since 1970.
    pub now_us: i64,
}

impl<'a> NewObject<'a> {
    /// A metadata object without lineage.
    #[must_use]
    pub fn metadata(kind: Kind, plain: &'a [u8], now_us: i64) -> Self {
        NewObject {
            kind,
            lineage: None,
            range: None,
            wal: None,
            plain,
            session: None,
            now_us,
        }
    }
}

/// Signs and creates objects for one host and epoch. Cheap to share.
#[derive(Debug)]
pub struct Writer {
    repository: Arc<Repository>,
    signing: Arc<SigningKey>,
    epoch: u64,
    previous: Mutex<Digest>,
    compressors: Compressors,
}

impl Writer {
    /// A writer. `epoch` is 0 for backups and control objects.
    #[must_use]
    pub fn new(repository: Arc<Repository>, signing: Arc<SigningKey>, epoch: u64) -> Self {
        Writer {
            repository,
            signing,
            epoch,
            previous: Mutex::default(),
            compressors: Compressors::default(),
        }
    }

    /// The repository it writes to.
    #[must_use]
    pub fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// Refuses when what this host signs does not count any more, as far as is known.
    ///
    /// # Errors
    /// [`StoreError::Untrusted`]
    pub fn refuse_revoked(&self) -> Result<(), StoreError> {
        let id = self.signing.verifying().id();
        if self.repository.trusts_host(id) {
            return Ok(());
        }
        Err(StoreError::Untrusted {
            name: "what this host writes".into(),
            signer: id.to_string(),
            reason: "who was revoked: nothing of it would count",
        })
    }

    /// Its epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    fn finish(
        &self,
        name: &ObjectName,
        clear: &Clear<'_>,
        header: Header,
        room_and_body: Vec<u8>,
    ) -> Result<(Finished, Digest), StoreError> {
        let mut previous = self.previous.lock().unwrap_or_else(PoisonError::into_inner);
        let header = Header {
            previous: *previous,
            ..header
        };
        let (name, keys) = (name.as_str(), self.repository.keys());
        let finished = finish(name, clear, &header, room_and_body, keys, &self.signing)?;
        *previous = finished.head_hash;
        Ok((finished, header.digest))
    }

    fn header(
        &self,
        lineage: Option<LineageId>,
        digest: Digest,
        plain_bytes: u64,
        session: Option<&Session>,
        now_us: i64,
    ) -> Header {
        Header {
            repository: self.repository.id(),
            cluster: self.repository.cluster().to_owned(),
            lineage,
            timeline: None,
            start: None,
            end: None,
            digest,
            previous: Digest::default(),
            plain_bytes,
            session: session.map(Session::id),
            written_us: now_us,
            wal: None,
            period: self.repository.period_number(),
        }
    }

    /// Seals and signs a single-frame object; CPU only. Returns the bytes and the keyed digest.
    ///
    /// # Errors
    /// A limit, or the encoding check.
    pub fn encode(&self, name: &ObjectName, new: NewObject<'_>) -> Result<(Bytes, Digest), StoreError> {
        let keys = self.repository.keys();
        let digest = keys.digest(new.kind.digest_kind(), new.plain);
        let salt = crate::entropy::bytes()?;
        let key = match (new.kind, new.session) {
            (Kind::Keys, _) | (_, None) => ObjectKey::derive(keys.metadata(), &salt, "seawall/1 body")?,
            (_, Some(session)) => ObjectKey::derive(session.key(), &salt, "seawall/1 data")?,
        };
        let protection = if new.kind == Kind::Keys || new.session.is_none() {
            Protection::Metadata
        } else {
            Protection::Session
        };
        let binding = frame::Binding {
            kind: new.kind,
            lineage: new.lineage,
            digest: &digest,
        };
        let room_and_body = self.compressors.with(WAL_ZSTD_LEVEL, |compressor| {
            frame::seal(&key, binding, new.plain, compressor)
        })?;
        let mut header = self.header(new.lineage, digest, new.plain.len() as u64, new.session, new.now_us);
        if let Some((timeline, start, end)) = new.range {
            header.timeline = Some(timeline);
            header.start = Some(start);
            header.end = Some(end);
        }
        header.wal = new.wal;
        let block = new.session.map(|session| session.block().clone()).unwrap_or_default();
        let clear = Clear {
            kind: new.kind,
            protection,
            salt,
            epoch: self.epoch,
            session_block: &block,
        };
        let (finished, digest) = self.finish(name, &clear, header, room_and_body)?;
        Ok((finished.bytes, digest))
    }

    /// Signs a pack; CPU only.
    ///
    /// # Errors
    /// A limit of the envelope.
    pub fn encode_pack(
        &self,
        pack: PackBody,
        session: Option<&Session>,
        now_us: i64,
    ) -> Result<(ObjectName, Bytes), StoreError> {
        let name = self.repository.layout().pack(pack.id)?;
        let (protection, session) = match pack.kind {
            Kind::DataPack => (Protection::Session, session),
            _ => (Protection::Metadata, None),
        };
        let header = self.header(Some(pack.lineage), pack.digest, pack.plain_bytes, session, now_us);
        let block = session.map(|session| session.block().clone()).unwrap_or_default();
        let clear = Clear {
            kind: pack.kind,
            protection,
            salt: pack.salt,
            epoch: self.epoch,
            session_block: &block,
        };
        let (finished, _) = self.finish(&name, &clear, header, pack.room_and_body)?;
        Ok((name, finished.bytes))
    }

    /// Creates an encoded object. Where the name exists already, its keyed digest decides (law 3).
    ///
    /// # Errors
    /// The store failed, or [`StoreError::Conflict`].
    pub async fn create(&self, name: &ObjectName, bytes: Bytes, digest: Digest) -> Result<Put, StoreError> {
        match self.repository.store().put_new(name, bytes).await? {
            PutNew::Created => Ok(Put::Created),
            // All of it: a head that is whole says nothing about the body behind it.
            // And as it lies there, for what makes up for damage is no proof that this was stored.
            PutNew::AlreadyExists => match self.repository.read_at(name, name).await {
                Ok((_, stored)) if stored.header.digest == digest => Ok(Put::Same),
                Ok(_) => Err(StoreError::Conflict { name: name.to_string() }),
                Err(StoreError::Object(error)) if error.class() == ErrorClass::NotFound => Err(StoreError::damaged(
                    name,
                    "it exists for the writer and not for the reader",
                )),
                Err(error) => Err(error),
            },
        }
    }

    /// Notes what was verified, or restored and proven.
    ///
    /// # Errors
    /// As [`Writer::put`].
    pub async fn put_proof(&self, proof: &Proof) -> Result<(), StoreError> {
        let unix_ms = u64::try_from(proof.time_us / 1000).unwrap_or(0);
        let id = BackupId::from_parts(unix_ms, crate::entropy::bytes()?);
        let name = self.repository.layout().proof(id)?;
        let plain = to_cbor(proof)?;
        self.put(&name, NewObject::metadata(Kind::Proof, &plain, proof.time_us))
            .await?;
        Ok(())
    }

    /// Encodes and creates a single-frame object.
    ///
    /// # Errors
    /// As [`Writer::encode`] and [`Writer::create`].
    pub async fn put(&self, name: &ObjectName, new: NewObject<'_>) -> Result<Put, StoreError> {
        let (bytes, digest) = self.encode(name, new)?;
        self.create(name, bytes, digest).await
    }
}
