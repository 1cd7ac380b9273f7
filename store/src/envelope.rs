//! The envelope around every object (FORMAT 4): clear part, session block, sealed header, signature, body.
//!
//! Pure bytes in, bytes out. A parsed envelope has been checked against its name, its signer and its own lengths; its body
//! against the BLAKE3 in the signed clear part.

mod fields;
mod header;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use crate::error::StoreError;
use crate::id::{Digest, KeyId};
use crate::keys::{ClusterKeys, SigningKey, VerifyingKey};
use crate::limits::ENVELOPE_PART_BYTES_MAX;
use crate::seal::{ObjectKey, Secret32, TAG_BYTES};

pub(crate) use fields::Fields;
pub use header::{Header, Kind, Protection, RestorePoint, WalFacts};

const MAGIC: &[u8; 8] = b"SEAWALL\x01";
const CLEAR_BYTES: usize = 120;
const SIGNATURE_BYTES: usize = 64;
/// Room that is left before a body which should not be copied: enough for a head with two dozen recipients.
pub(crate) const HEAD_ROOM_BYTES: usize = 4096;
/// No object is shorter: clear part and signature.
pub(crate) const OBJECT_BYTES_MIN: u64 = (CLEAR_BYTES + SIGNATURE_BYTES) as u64;
const SIGNATURE_DOMAIN: &[u8] = b"seawall/1 object\0";

/// What the writer decides about the clear part.
#[derive(Debug)]
pub struct Clear<'a> {
    /// Kind of object.
    pub kind: Kind,
    /// Which key opens the body.
    pub protection: Protection,
    /// The object's salt; the body was sealed under keys derived with it.
    pub salt: [u8; 16],
    /// Writer epoch, 0 for none.
    pub epoch: u64,
    /// Session block, empty for none.
    pub session_block: &'a [u8],
}

/// A finished object, ready to be stored.
#[derive(Debug, Clone)]
pub struct Finished {
    /// All bytes.
    pub bytes: Bytes,
    /// BLAKE3 of the head: what the writer's next object names as its previous one.
    pub head_hash: Digest,
}

/// Puts the envelope around a sealed body, which stands behind [`HEAD_ROOM_BYTES`] of room and is not copied, and signs it for its name.
///
/// # Errors
/// A part is over its limit or encryption failed.
pub fn finish(
    name: &str,
    clear: &Clear<'_>,
    header: &Header,
    mut room_and_body: Vec<u8>,
    keys: &ClusterKeys,
    signing: &SigningKey,
) -> Result<Finished, StoreError> {
    let body = room_and_body.get(HEAD_ROOM_BYTES..).unwrap_or_default();
    let (head, head_hash) = head(name, clear, header, body, keys, signing)?;
    let padding = padding_bytes(clear.kind, head.len() + body.len());
    let Some(begin) = HEAD_ROOM_BYTES.checked_sub(head.len()) else {
        // More recipients than fit: then it is copied after all.
        let bytes = [&head, body, &vec![0; padding]].concat().into();
        return Ok(Finished { bytes, head_hash });
    };
    room_and_body.resize(room_and_body.len() + padding, 0);
    if let Some(room) = room_and_body.get_mut(begin..HEAD_ROOM_BYTES) {
        room.copy_from_slice(&head);
    }
    Ok(Finished {
        bytes: Bytes::from(room_and_body).slice(begin..),
        head_hash,
    })
}

/// Everything before the body, and its hash.
fn head(
    name: &str,
    clear: &Clear<'_>,
    header: &Header,
    body: &[u8],
    keys: &ClusterKeys,
    signing: &SigningKey,
) -> Result<(Vec<u8>, Digest), StoreError> {
    let plain_header = crate::session::to_cbor(header)?;
    let sealed_bytes = plain_header.len() + TAG_BYTES;
    if sealed_bytes > ENVELOPE_PART_BYTES_MAX || clear.session_block.len() > ENVELOPE_PART_BYTES_MAX {
        return Err(StoreError::Limit {
            what: "the header",
            detail: format!("{sealed_bytes} bytes, session block {}", clear.session_block.len()),
        });
    }
    let mut out = Vec::with_capacity(CLEAR_BYTES + clear.session_block.len() + sealed_bytes + SIGNATURE_BYTES);
    out.extend_from_slice(MAGIC);
    out.push(clear.kind as u8);
    out.push(match clear.protection {
        Protection::Session => 1,
        Protection::Metadata => 2,
    });
    out.extend_from_slice(&1u16.to_le_bytes());
    out.extend_from_slice(&0u32.to_le_bytes());
    out.extend_from_slice(&clear.salt);
    out.extend_from_slice(&signing.verifying().id().0);
    out.extend_from_slice(&clear.epoch.to_le_bytes());
    out.extend_from_slice(&length(clear.session_block.len())?.to_le_bytes());
    out.extend_from_slice(&length(sealed_bytes)?.to_le_bytes());
    out.extend_from_slice(&(body.len() as u64).to_le_bytes());
    out.extend_from_slice(blake3::hash(body).as_bytes());
    let head_bytes = CLEAR_BYTES + clear.session_block.len() + sealed_bytes + SIGNATURE_BYTES;
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&length(padding_bytes(clear.kind, head_bytes + body.len()))?.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(clear.session_block);
    let mut sealed = plain_header;
    ObjectKey::derive(keys.metadata(), &clear.salt, "seawall/1 header")?.seal(0, &out, &mut sealed)?;
    out.extend_from_slice(&sealed);
    let head_hash = Digest(blake3::hash(&out).into());
    let signature = signing.sign(&signed_message(name, &out));
    out.extend_from_slice(&signature);
    Ok((out, head_hash))
}

/// Packs are padded, so that their length says little of what is in them: up to the next of the lengths that have few significant bits
/// (Padmé, in "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", PoPETs 2019). At most an eighth, mostly far less.
fn padding_bytes(kind: Kind, bytes: usize) -> usize {
    if !matches!(kind, Kind::DataPack | Kind::MetadataPack) || bytes < 2 {
        return 0;
    }
    let exponent = bytes.ilog2();
    let free_bits = exponent - (exponent.ilog2() + 1).min(exponent);
    bytes.next_multiple_of(1 << free_bits) - bytes
}

fn length(bytes: usize) -> Result<u32, StoreError> {
    u32::try_from(bytes).map_err(|_| StoreError::Limit {
        what: "a length",
        detail: bytes.to_string(),
    })
}

fn signed_message(name: &str, head: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(SIGNATURE_DOMAIN.len() + name.len() + 1 + head.len());
    message.extend_from_slice(SIGNATURE_DOMAIN);
    message.extend_from_slice(name.as_bytes());
    message.push(0);
    message.extend_from_slice(head);
    message
}

/// The head of an object: everything before the body, checked for form only.
#[derive(Debug, Clone)]
pub struct Head {
    name: String,
    bytes: Bytes,
    /// Kind of object.
    pub kind: Kind,
    /// Which key opens the body.
    pub protection: Protection,
    /// The object's salt.
    pub salt: [u8; 16],
    /// Who signed it.
    pub writer: KeyId,
    /// Writer epoch, 0 for none.
    pub epoch: u64,
    session_bytes: usize,
    /// Bytes of the body.
    pub body_bytes: u64,
    body_hash: [u8; 32],
    /// Padding after the body.
    pub padding_bytes: u32,
    signature: [u8; 64],
}

impl Head {
    /// Reads the head from the first bytes of an object.
    ///
    /// # Errors
    /// Damaged, or written by a newer version.
    pub fn parse(name: &str, object: &Bytes) -> Result<Self, StoreError> {
        let damaged = |reason: &str| StoreError::damaged(name, reason);
        let mut fields = Fields { bytes: object, at: 0 };
        let short = || damaged("shorter than its envelope");
        if fields.take(8).ok_or_else(short)? != MAGIC {
            return Err(damaged("not a seawall object"));
        }
        let kind = fields.u8().ok_or_else(short)?;
        let protection = fields.u8().ok_or_else(short)?;
        let version = fields.u16().ok_or_else(short)?;
        let features = fields.u32().ok_or_else(short)?;
        if version != 1 || features != 0 {
            return Err(StoreError::TooNew {
                name: name.into(),
                reason: format!("envelope version {version}, features {features:#x}"),
            });
        }
        let kind = Kind::from_byte(kind).ok_or_else(|| StoreError::TooNew {
            name: name.into(),
            reason: format!("kind {kind}"),
        })?;
        let protection = match protection {
            1 => Protection::Session,
            2 => Protection::Metadata,
            _ => return Err(damaged("unknown protection")),
        };
        let salt = fields.array().ok_or_else(short)?;
        let writer = KeyId(fields.array().ok_or_else(short)?);
        let epoch = fields.u64().ok_or_else(short)?;
        let session_bytes = fields.u32().ok_or_else(short)? as usize;
        let header_bytes = fields.u32().ok_or_else(short)? as usize;
        let body_bytes = fields.u64().ok_or_else(short)?;
        let body_hash = fields.array().ok_or_else(short)?;
        let _retain_until = fields.u64().ok_or_else(short)?;
        let padding_bytes = fields.u32().ok_or_else(short)?;
        let _reserved = fields.u32().ok_or_else(short)?;
        if session_bytes > ENVELOPE_PART_BYTES_MAX || header_bytes > ENVELOPE_PART_BYTES_MAX {
            return Err(damaged("the head claims impossible lengths"));
        }
        let head_bytes = CLEAR_BYTES + session_bytes + header_bytes;
        fields.at = head_bytes;
        let signature = fields.array().ok_or_else(short)?;
        let bytes = object.slice(..head_bytes);
        Ok(Head {
            name: name.into(),
            bytes,
            kind,
            protection,
            salt,
            writer,
            epoch,
            session_bytes,
            body_bytes,
            body_hash,
            padding_bytes,
            signature,
        })
    }

    /// Where the body begins.
    #[must_use]
    pub fn body_start(&self) -> u64 {
        (self.bytes.len() + SIGNATURE_BYTES) as u64
    }

    /// Whole length the object must have.
    #[must_use]
    pub fn object_bytes(&self) -> u64 {
        self.body_start()
            .saturating_add(self.body_bytes)
            .saturating_add(u64::from(self.padding_bytes))
    }

    /// True when an object of this length has all of its body, and nothing behind its padding. That padding is missing is no loss.
    #[must_use]
    pub fn fits(&self, object_bytes: u64) -> bool {
        let needed = self.body_start().saturating_add(self.body_bytes);
        (needed..=self.object_bytes()).contains(&object_bytes)
    }

    /// The session block; empty if there is none.
    #[must_use]
    pub fn session_block(&self) -> &[u8] {
        self.bytes
            .get(CLEAR_BYTES..CLEAR_BYTES + self.session_bytes)
            .unwrap_or_default()
    }

    /// BLAKE3 of the head.
    #[must_use]
    pub fn hash(&self) -> Digest {
        Digest(blake3::hash(&self.bytes).into())
    }

    /// Checks the signature, then opens the header.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] for a bad signature, [`StoreError::WrongKey`] when the metadata key does not open the header.
    pub fn open(&self, signer: &VerifyingKey, keys: &ClusterKeys) -> Result<Header, StoreError> {
        if !self.is_signed_by(signer) {
            return Err(StoreError::damaged(
                &self.name,
                "the signature does not hold for this name and head",
            ));
        }
        self.open_unsigned(keys)
    }

    /// True when this signer has signed this head for this name.
    #[must_use]
    pub fn is_signed_by(&self, signer: &VerifyingKey) -> bool {
        signer.id() == self.writer && signer.verify(&signed_message(&self.name, &self.bytes), &self.signature)
    }

    /// Opens the header without looking at the signature; only for `keys/<n>`, which brings the signers.
    ///
    /// # Errors
    /// [`StoreError::WrongKey`] when the metadata key does not open it.
    pub fn open_unsigned(&self, keys: &ClusterKeys) -> Result<Header, StoreError> {
        let (associated, sealed) = self.bytes.split_at(CLEAR_BYTES + self.session_bytes);
        let mut buffer = sealed.to_vec();
        let plain = ObjectKey::derive(keys.metadata(), &self.salt, "seawall/1 header")?
            .open(0, associated, &mut buffer)
            .ok_or_else(|| StoreError::WrongKey {
                what: format!("the header of \"{}\"", self.name),
            })?;
        minicbor::decode(plain).map_err(|error| StoreError::damaged(&self.name, format!("header: {error}")))
    }

    /// The body of the whole object, checked for length and BLAKE3.
    ///
    /// # Errors
    /// Truncated, too long, or changed.
    pub fn body(&self, object: &Bytes) -> Result<Bytes, StoreError> {
        if !self.fits(object.len() as u64) {
            let reason = format!("{} bytes where {} were written", object.len(), self.object_bytes());
            return Err(StoreError::damaged(&self.name, reason));
        }
        let start = self.bytes.len() + SIGNATURE_BYTES;
        let end = usize::try_from(self.body_bytes)
            .unwrap_or(usize::MAX)
            .saturating_add(start);
        let body = object.slice(start..end.min(object.len()));
        if blake3::hash(&body).as_bytes() != &self.body_hash {
            return Err(StoreError::damaged(
                &self.name,
                "the body's BLAKE3 differs from the signed one",
            ));
        }
        Ok(body)
    }

    /// The padding of the whole object.
    #[must_use]
    pub fn padding_of<'o>(&self, object: &'o Bytes) -> &'o [u8] {
        let end = usize::try_from(self.body_start().saturating_add(self.body_bytes)).unwrap_or(usize::MAX);
        object.get(end..).unwrap_or_default()
    }

    /// The name it was read under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The secret that the body's keys are derived from, if we have it.
    pub(crate) fn body_secret<'k>(
        &self,
        session: Option<&'k Secret32>,
        keys: &'k ClusterKeys,
    ) -> Result<(&'k Secret32, &'static str), StoreError> {
        match self.protection {
            Protection::Metadata => Ok((keys.metadata(), "seawall/1 body")),
            Protection::Session => Ok((
                session.ok_or(StoreError::KeyMissing { role: "restore" })?,
                "seawall/1 data",
            )),
        }
    }
}
