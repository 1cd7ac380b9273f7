//! Session keys: one a backup, one a day (or 64 GiB) of WAL, sealed to every recipient (FORMAT 6.2).
//!
//! The sealed session block is repeated in each object that uses the key, so no single object can lose it; it also carries the
//! dedup secret, so any one object and the restore key open everything.

use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};
use zeroize::Zeroizing;

use crate::error::StoreError;
use crate::id::{KeyId, LineageId, RepositoryId, SessionId};
use crate::keys::{ClusterKeys, OpeningKey, Recipient, Role, key_id, seal_to};
use crate::seal::Secret32;

/// What a session is for; bound into its sealing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Data packs of one backup.
    Backup,
    /// WAL objects and tails of a period.
    Wal,
    /// The dedup secret only.
    Keys,
}

impl Purpose {
    fn text(self) -> &'static str {
        match self {
            Purpose::Backup => "backup",
            Purpose::Wal => "wal",
            Purpose::Keys => "keys",
        }
    }
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Block {
    #[n(0)]
    session: SessionId,
    #[n(1)]
    purpose: String,
    #[n(2)]
    sealed: Vec<SealedKey>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct SealedKey {
    #[n(0)]
    recipient: KeyId,
    #[n(1)]
    encapsulated: ByteArray<32>,
    #[n(2)]
    ciphertext: ByteVec,
}

/// Where a session belongs: part of its HPKE info, so that a block moved elsewhere does not open.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The repository.
    pub repository: RepositoryId,
    /// The cluster's name.
    pub cluster: &'a str,
    /// The lineage, where one applies.
    pub lineage: Option<LineageId>,
}

/// A session that this process may write with.
#[derive(Clone, Debug)]
pub struct Session {
    id: SessionId,
    key: Secret32,
    block: bytes::Bytes,
}

impl Session {
    /// Draws a session key and seals it (with the dedup secret) to the recipients: restore keys, and for [`Purpose::Keys`]
    /// maintenance keys as well.
    ///
    /// # Errors
    /// No recipient for it, an invalid public key, or no randomness.
    pub fn begin(
        keys: &ClusterKeys,
        recipients: &[Recipient],
        place: Place<'_>,
        purpose: Purpose,
    ) -> Result<Self, StoreError> {
        let id = SessionId(crate::entropy::bytes()?);
        let key = Secret32::generate()?;
        let mut payload = Zeroizing::new(Vec::with_capacity(64));
        payload.extend_from_slice(key.expose());
        payload.extend_from_slice(keys.dedup().expose());
        let info = info(place, id, purpose.text());
        let sealed = recipients
            .iter()
            .filter(|recipient| recipient.role == Role::Restore || purpose == Purpose::Keys)
            .map(|recipient| {
                let (encapsulated, ciphertext) = seal_to(&recipient.public, &info, &payload)?;
                Ok(SealedKey {
                    recipient: key_id(&recipient.public),
                    encapsulated: encapsulated.into(),
                    ciphertext: ciphertext.into(),
                })
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        if sealed.is_empty() {
            return Err(StoreError::KeyMissing { role: "public restore" });
        }
        let block = Block {
            session: id,
            purpose: purpose.text().into(),
            sealed,
        };
        Ok(Session {
            id,
            key,
            block: to_cbor(&block)?.into(),
        })
    }

    /// Identifies the session.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The session key.
    #[must_use]
    pub fn key(&self) -> &Secret32 {
        &self.key
    }

    /// The sealed block that goes into every object of the session.
    #[must_use]
    pub fn block(&self) -> &bytes::Bytes {
        &self.block
    }
}

/// What a session block gives to its recipient.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The session key.
    pub key: Secret32,
    /// The cluster's dedup secret.
    pub dedup: Secret32,
}

/// Opens a session block, with the first of the keys that it is sealed to.
///
/// # Errors
/// [`StoreError::WrongKey`] when it is sealed to none of them or does not open; [`StoreError::Damaged`] when the block
/// makes no sense.
pub fn open_block<'k>(
    name: &str,
    block: &[u8],
    place: Place<'_>,
    keys: impl IntoIterator<Item = &'k OpeningKey>,
) -> Result<Opened, StoreError> {
    let parsed: Block =
        minicbor::decode(block).map_err(|error| StoreError::damaged(name, format!("session block: {error}")))?;
    let wrong_key = || StoreError::WrongKey {
        what: format!("the session of \"{name}\""),
    };
    let sealed_to = |key: &'k OpeningKey| {
        let me = key_id(&key.public());
        let sealed = parsed.sealed.iter().find(|sealed| sealed.recipient == me)?;
        Some((key, sealed))
    };
    let (key, sealed) = keys.into_iter().find_map(sealed_to).ok_or_else(wrong_key)?;
    let info = info(place, parsed.session, &parsed.purpose);
    let payload = key
        .open(sealed.encapsulated.as_slice(), &info, &sealed.ciphertext)
        .ok_or_else(wrong_key)?;
    let (session, dedup) = payload.split_at_checked(32).ok_or_else(wrong_key)?;
    let array = |bytes: &[u8]| bytes.try_into().map(Secret32::new).map_err(|_| wrong_key());
    Ok(Opened {
        key: array(session)?,
        dedup: array(dedup)?,
    })
}

/// Session id of a block.
///
/// # Errors
/// The block makes no sense.
pub fn block_id(name: &str, block: &[u8]) -> Result<SessionId, StoreError> {
    let parsed: Block =
        minicbor::decode(block).map_err(|error| StoreError::damaged(name, format!("session block: {error}")))?;
    Ok(parsed.session)
}

fn info(place: Place<'_>, session: SessionId, purpose: &str) -> Vec<u8> {
    let mut out = b"seawall/1 session\0".to_vec();
    out.extend_from_slice(&place.repository.to_bytes());
    out.extend_from_slice(&place.lineage.map_or([0; 16], LineageId::to_bytes));
    out.extend_from_slice(&session.0);
    out.extend_from_slice(place.cluster.as_bytes());
    out.push(0);
    out.extend_from_slice(purpose.as_bytes());
    out
}

/// CBOR bytes of a value.
///
/// # Errors
/// Never for the types of this format; the library's error type says it could.
pub(crate) fn to_cbor<T: Encode<()>>(value: &T) -> Result<Vec<u8>, StoreError> {
    minicbor::to_vec(value).map_err(|error| StoreError::Codec(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_opens_in_its_own_place_only() {
        let repository = RepositoryId::from_parts(1, [1; 10]);
        let keys = ClusterKeys::derive(Secret32::new([1; 32]), repository).unwrap();
        let restore = OpeningKey::generate().unwrap();
        let maintenance = OpeningKey::generate().unwrap();
        let recipients = [
            Recipient {
                name: "r".into(),
                role: Role::Restore,
                public: restore.public(),
            },
            Recipient {
                name: "m".into(),
                role: Role::Maintenance,
                public: maintenance.public(),
            },
        ];
        let place = Place {
            repository,
            cluster: "main",
            lineage: None,
        };
        let session = Session::begin(&keys, &recipients, place, Purpose::Wal).unwrap();
        let opened = open_block("x", session.block(), place, [&restore]).unwrap();
        assert_eq!(opened.key.expose(), session.key().expose());
        assert_eq!(opened.dedup.expose(), keys.dedup().expose());
        assert!(
            open_block(
                "x",
                session.block(),
                Place {
                    cluster: "other",
                    ..place
                },
                [&restore]
            )
            .is_err()
        );
        assert!(open_block("x", session.block(), place, [&maintenance]).is_err());
        let period = Session::begin(&keys, &recipients, place, Purpose::Keys).unwrap();
        assert!(open_block("x", period.block(), place, [&restore, &maintenance]).is_ok());
    }
}
