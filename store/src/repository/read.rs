//! Reading objects, checked: name, signature, length, hash. What is damaged is read from a spare, where there is one.

use bytes::Bytes;

use super::Repository;
use crate::envelope::{Head, Header, Protection};
use crate::error::StoreError;
use crate::frame;
use crate::limits::ENVELOPE_PEEK_BYTES;
use crate::object::{ByteRange, ErrorClass, ObjectName};
use crate::seal::Secret32;
use crate::session::{Place, open_block};
use crate::verify::is_wrong;

/// An object that was read and checked.
#[derive(Debug)]
pub struct ReadObject {
    /// Its head.
    pub head: Head,
    /// Its header.
    pub header: Header,
    /// Its body, still sealed.
    pub body: Bytes,
}

impl Repository {
    /// Opens head and header; and says until when the signer was one, if he was revoked.
    fn open_head(&self, name: &ObjectName, bytes: &Bytes) -> Result<(Head, Header, Option<i64>), StoreError> {
        let head = Head::parse(name.as_str(), bytes)?;
        let admitted = self.trust().admit(&head)?;
        let header = head.open(&admitted.key, &self.keys)?;
        if header.repository != self.id || header.cluster != self.cluster {
            return Err(StoreError::Foreign {
                what: "the object's cluster",
                expected: format!("{}/{}", self.id, self.cluster),
                found: format!("{}/{}", header.repository, header.cluster),
            });
        }
        Ok((head, header, admitted.until_us))
    }

    /// Head and header of an object that is in memory.
    pub(super) fn head_of(&self, name: &ObjectName, bytes: &Bytes) -> Result<(Head, Header), StoreError> {
        let (head, header, _) = self.open_head(name, bytes)?;
        Ok((head, header))
    }

    /// Reads and checks only the head and header of an object, or of a spare where it was cut short; `None` when it does not exist.
    ///
    /// # Errors
    /// The store failed, or the head is damaged.
    pub async fn read_header(&self, name: &ObjectName) -> Result<Option<(Head, Header)>, StoreError> {
        let error = match self.read_header_at(name, name).await {
            Err(error) if is_wrong(&error) => error,
            read => return read,
        };
        for spare in self.copies_of(name).await? {
            match self.read_header_at(name, &spare).await {
                Err(error) if is_wrong(&error) => {}
                read => return read,
            }
        }
        Err(error)
    }

    /// Sees that an object could be decrypted with the key that is here, without reading its body. What is not there or damaged says nothing.
    ///
    /// # Errors
    /// The store failed, or the key does not open it.
    pub async fn opens(&self, name: &ObjectName) -> Result<(), StoreError> {
        match self.read_header(name).await {
            Ok(Some((head, header))) => self.session_secret(&head, &header).map(|_| ()),
            Ok(None) => Ok(()),
            Err(error) if is_wrong(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// As [`Repository::read_header`], from exactly this place.
    pub(crate) async fn read_header_at(
        &self,
        name: &ObjectName,
        at: &ObjectName,
    ) -> Result<Option<(Head, Header)>, StoreError> {
        let Some((head, header, size)) = self.head_at(name, at).await? else {
            return Ok(None);
        };
        if !head.fits(size) {
            let reason = format!("{size} bytes where {} were written", head.object_bytes());
            return Err(StoreError::damaged(name, reason));
        }
        Ok(Some((head, header)))
    }

    /// Head and header as they are in this place, and how long the object is there, whatever has become of its body.
    pub(super) async fn head_at(
        &self,
        name: &ObjectName,
        at: &ObjectName,
    ) -> Result<Option<(Head, Header, u64)>, StoreError> {
        let Some(meta) = self.store.head(at).await? else {
            return Ok(None);
        };
        let slice = |len: u64| ByteRange::Slice { start: 0, len };
        let len = ENVELOPE_PEEK_BYTES.min(meta.size);
        let mut peek = self.store.get(at, slice(len)).await?;
        if let Ok(head_bytes) = head_bytes_needed(&peek)
            && head_bytes > len
            && head_bytes <= meta.size
        {
            peek = self.store.get(at, slice(head_bytes)).await?;
        }
        let (head, header, until_us) = self.open_head(name, &peek)?;
        refuse_after(&head, until_us, meta.modified_unix_ms)?;
        Ok(Some((head, header, meta.size)))
    }

    /// Reads a whole object and checks name, signature, length and body hash; where it is damaged, the same object from a spare.
    ///
    /// # Errors
    /// The store failed, or the object is damaged or foreign.
    pub async fn read(&self, name: &ObjectName) -> Result<ReadObject, StoreError> {
        Ok(self.read_with_bytes(name).await?.1)
    }

    /// Reads a whole object, checks it as [`Repository::read`] does, and returns it as it is stored; and whether its signer was revoked since.
    ///
    /// # Errors
    /// As [`Repository::read`].
    pub async fn read_checked(&self, name: &ObjectName) -> Result<(Bytes, bool), StoreError> {
        let (bytes, read) = self.read_with_bytes(name).await?;
        let is_revoked = self.trust().admit(&read.head)?.until_us.is_some();
        Ok((bytes, is_revoked))
    }

    /// True when the signer of an object that counts was revoked after it was stored. Reads its head, where anybody was ever revoked.
    ///
    /// # Errors
    /// As [`Repository::read_header`].
    pub async fn was_revoked_since(&self, name: &ObjectName) -> Result<bool, StoreError> {
        if self.period().signers.iter().all(|signer| signer.revoked_us.is_none()) {
            return Ok(false);
        }
        match self.read_header(name).await? {
            Some((head, _)) => Ok(self.trust().admit(&head)?.until_us.is_some()),
            None => Ok(false),
        }
    }

    async fn read_with_bytes(&self, name: &ObjectName) -> Result<(Bytes, ReadObject), StoreError> {
        let error = match self.read_at(name, name).await {
            Err(error) if is_wrong(&error) => error,
            read => return read,
        };
        for spare in self.copies_of(name).await? {
            match self.read_at(name, &spare).await {
                Ok(read) => {
                    tracing::warn!(%name, %spare, %error, "an object is damaged; a spare of it is read");
                    return Ok(read);
                }
                Err(error) if is_wrong(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Err(error)
    }

    /// Reads the object of this name from exactly this place: its own, or one of its spares.
    ///
    /// # Errors
    /// As [`Repository::read`].
    pub(crate) async fn read_at(&self, name: &ObjectName, at: &ObjectName) -> Result<(Bytes, ReadObject), StoreError> {
        let bytes = self.store.get(at, ByteRange::All).await?;
        let read = self.checked(name, at, &bytes).await?;
        Ok((bytes, read))
    }

    /// True when both are the same object, sealed twice.
    #[must_use]
    pub fn is_same(&self, name: &ObjectName, one: &Bytes, other: &Bytes) -> bool {
        match (self.open_head(name, one), self.open_head(name, other)) {
            (Ok((head, header, _)), Ok((other_head, other_header, _))) => {
                head.kind == other_head.kind && header.digest == other_header.digest
            }
            _ => false,
        }
    }

    async fn checked(&self, name: &ObjectName, at: &ObjectName, bytes: &Bytes) -> Result<ReadObject, StoreError> {
        let (head, header, until_us) = self.open_head(name, bytes)?;
        if until_us.is_some() {
            let stored = self
                .store
                .head(at)
                .await?
                .map_or(i64::MAX, |meta| meta.modified_unix_ms);
            refuse_after(&head, until_us, stored)?;
        }
        let body = head.body(bytes)?;
        Ok(ReadObject { head, header, body })
    }

    /// Reads a single-frame object whose name may be absent.
    ///
    /// # Errors
    /// As [`Repository::read_plain`], but `None` when there is no such object.
    pub async fn try_read_plain(&self, name: &ObjectName) -> Result<Option<Vec<u8>>, StoreError> {
        match self.read_plain(name).await {
            Ok((_, plain)) => Ok(Some(plain)),
            Err(StoreError::Object(error)) if error.class() == ErrorClass::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a single-frame object and opens its body.
    ///
    /// # Errors
    /// As [`Repository::read`]; or the key at hand does not open it.
    pub async fn read_plain(&self, name: &ObjectName) -> Result<(Header, Vec<u8>), StoreError> {
        let read = self.read(name).await?;
        self.read_plain_of(read)
    }

    pub(crate) fn read_plain_of(&self, read: ReadObject) -> Result<(Header, Vec<u8>), StoreError> {
        let ReadObject { head, header, body } = read;
        let session = self.session_secret(&head, &header)?;
        let plain = frame::open(
            &head,
            header.lineage,
            &header.digest,
            &body,
            session.as_ref(),
            &self.keys,
        )?;
        Ok((header, plain))
    }

    /// The session key of an object, when it needs one and we hold the restore key.
    pub(super) fn session_secret(&self, head: &Head, header: &Header) -> Result<Option<Secret32>, StoreError> {
        match (&self.opening, head.protection) {
            (_, Protection::Metadata) => Ok(None),
            (None, Protection::Session) => Err(StoreError::KeyMissing { role: "restore" }),
            (Some(key), Protection::Session) => {
                let place = Place {
                    repository: self.id,
                    cluster: &self.cluster,
                    lineage: header.lineage,
                };
                let trust = self.trust();
                let keys = std::iter::once(key).chain(&trust.period_keys);
                Ok(Some(open_block(head.name(), head.session_block(), place, keys)?.key))
            }
        }
    }
}

/// Why something does not count that a signer of once has signed.
pub(crate) const REVOKED: &str = "who had been revoked before it was stored";

/// Refuses what the store received after its signer was revoked.
fn refuse_after(head: &Head, until_us: Option<i64>, stored_unix_ms: i64) -> Result<(), StoreError> {
    match until_us {
        Some(until_us) if stored_unix_ms.saturating_mul(1000) > until_us => Err(StoreError::Untrusted {
            name: head.name().into(),
            signer: head.writer.to_string(),
            reason: REVOKED,
        }),
        _ => Ok(()),
    }
}

/// Bytes that head and signature of an object take, from its first bytes.
fn head_bytes_needed(peek: &Bytes) -> Result<u64, ()> {
    let field = |at: usize| {
        peek.get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_le_bytes)
            .ok_or(())
    };
    Ok(184 + u64::from(field(56)?) + u64::from(field(60)?))
}
