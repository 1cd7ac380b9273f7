//! Keys and roles (FORMAT 5, 6): who can do what with the cluster's secrets.
//!
//! *Host*: dedup secret and signing key: adds objects and reads metadata, decrypts no data. *Keeper*: maintenance key.
//! *Restorer*: restore key: decrypts everything. Key files are `keys::file`.

pub mod file;
pub mod identity;
pub mod paper;
pub mod signing;

use hpke::{Deserializable, Kem, Serializable, aead::AesGcm256, kdf::HkdfSha256, kem::X25519HkdfSha256};
use minicbor::{Decode, Encode};
use zeroize::Zeroizing;

use crate::error::StoreError;
use crate::id::{Digest, KeyId, PageDigest, RepositoryId};
use crate::seal::Secret32;

pub use signing::{SigningKey, VerifyingKey};

/// Key id of a public key: the first 16 bytes of its BLAKE3.
#[must_use]
pub fn key_id(public: &[u8; 32]) -> KeyId {
    let mut id = [0; 16];
    for (to, from) in id.iter_mut().zip(blake3::hash(public).as_bytes()) {
        *to = *from;
    }
    KeyId(id)
}

/// What a recipient may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Role {
    /// Data, WAL and metadata.
    #[n(1)]
    Restore,
    /// Metadata.
    #[n(2)]
    Maintenance,
}

/// Public part of a recipient's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// What people call it.
    pub name: String,
    /// What it may open.
    pub role: Role,
    /// X25519 public key.
    pub public: [u8; 32],
}

/// An X25519 pair that opens what was sealed to it.
#[derive(Clone, Debug)]
pub struct OpeningKey {
    secret: Secret32,
    public: [u8; 32],
}

impl OpeningKey {
    /// A new pair.
    ///
    /// # Errors
    /// No randomness.
    pub fn generate() -> Result<Self, StoreError> {
        let (secret, _) = X25519HkdfSha256::derive_keypair(&entropy32()?[..]);
        OpeningKey::from_secret(Secret32::new(secret.to_bytes().into()))
    }

    /// From the secret half.
    ///
    /// # Errors
    /// Not a valid X25519 secret.
    pub fn from_secret(secret: Secret32) -> Result<Self, StoreError> {
        let parsed =
            <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(secret.expose()).map_err(|_| StoreError::WrongKey {
                what: "the X25519 secret".into(),
            })?;
        let public = X25519HkdfSha256::sk_to_pk(&parsed).to_bytes().into();
        Ok(OpeningKey { secret, public })
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.public
    }

    /// The secret half, for key files.
    #[must_use]
    pub fn secret(&self) -> &Secret32 {
        &self.secret
    }

    /// Opens an HPKE ciphertext of 64 plaintext bytes sealed to this key. `None`: not sealed to it, or not authentic.
    #[must_use]
    pub fn open(&self, encapsulated: &[u8], info: &[u8], ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let secret = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(self.secret.expose()).ok()?;
        let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated).ok()?;
        hpke::single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &hpke::OpModeR::Base,
            &secret,
            &encapsulated,
            info,
            ciphertext,
            &[],
        )
        .ok()
        .map(Zeroizing::new)
    }
}

fn entropy32() -> Result<Zeroizing<[u8; 32]>, StoreError> {
    Ok(Zeroizing::new(crate::entropy::bytes()?))
}

/// Seals `plain` to a public key (HPKE base mode): encapsulated key and ciphertext.
///
/// # Errors
/// The public key is invalid (a low-order point, for example) or there is no randomness.
pub fn seal_to(public: &[u8; 32], info: &[u8], plain: &[u8]) -> Result<([u8; 32], Vec<u8>), StoreError> {
    let refused = |_| StoreError::WrongKey {
        what: "a recipient's public key".into(),
    };
    let public = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(public).map_err(refused)?;
    let mut random = crate::entropy::OneUse::new()?;
    let (encapsulated, ciphertext) = hpke::single_shot_seal::<AesGcm256, HkdfSha256, X25519HkdfSha256, _>(
        &hpke::OpModeS::Base,
        &public,
        info,
        plain,
        &[],
        &mut random,
    )
    .map_err(refused)?;
    Ok((encapsulated.to_bytes().into(), ciphertext))
}

/// Everything that is derived from a cluster's dedup secret: ids, digests and the metadata key.
#[derive(Clone, Debug)]
pub struct ClusterKeys {
    dedup: Secret32,
    metadata: Secret32,
    digest: Secret32,
    page: Secret32,
    relation: Secret32,
    content: Secret32,
    metadata_chunk: Secret32,
}

impl ClusterKeys {
    /// Derives the keys (FORMAT 5.1).
    ///
    /// # Errors
    /// Key derivation failed.
    pub fn derive(dedup: Secret32, repository: RepositoryId) -> Result<Self, StoreError> {
        let salt = repository.to_bytes();
        Ok(ClusterKeys {
            metadata: dedup.derive(&salt, "seawall/1 metadata")?,
            digest: dedup.derive(&salt, "seawall/1 digest")?,
            page: dedup.derive(&salt, "seawall/1 page")?,
            relation: dedup.derive(&salt, "seawall/1 chunk relation")?,
            content: dedup.derive(&salt, "seawall/1 chunk content")?,
            metadata_chunk: dedup.derive(&salt, "seawall/1 chunk metadata")?,
            dedup,
        })
    }

    /// The dedup secret, to seal it into sessions and key files.
    #[must_use]
    pub fn dedup(&self) -> &Secret32 {
        &self.dedup
    }

    /// Opens headers, manifests, indexes, page maps.
    #[must_use]
    pub fn metadata(&self) -> &Secret32 {
        &self.metadata
    }

    /// First 16 bytes of BLAKE3(dedup secret): tells two secrets apart.
    #[must_use]
    pub fn fingerprint(&self) -> KeyId {
        key_id(self.dedup.expose())
    }

    /// Keyed digest of an object's plaintext.
    #[must_use]
    pub fn digest(&self, kind: u8, plain: &[u8]) -> Digest {
        keyed(&self.digest, &[kind], plain)
    }

    /// Keyed digest of one page.
    #[must_use]
    pub fn page_digest(&self, page: &[u8]) -> PageDigest {
        let hash = blake3::keyed_hash(self.page.expose(), page);
        let mut out = [0; 16];
        for (to, from) in out.iter_mut().zip(hash.as_bytes()) {
            *to = *from;
        }
        PageDigest(out)
    }

    /// Id of a relation chunk: over the digests of its pages.
    #[must_use]
    pub fn relation_chunk_id(&self, digests: &[PageDigest]) -> Digest {
        let mut hasher = blake3::Hasher::new_keyed(self.relation.expose());
        for digest in digests {
            hasher.update(&digest.0);
        }
        Digest(hasher.finalize().into())
    }

    /// Id of a content-defined chunk.
    #[must_use]
    pub fn content_chunk_id(&self, plain: &[u8]) -> Digest {
        keyed(&self.content, &[], plain)
    }

    /// What the lineage of a component is made of.
    #[must_use]
    pub fn component_digest(&self, name: &str) -> Digest {
        keyed(&self.digest, b"component\0", name.as_bytes())
    }

    /// Id of a metadata chunk.
    #[must_use]
    pub fn metadata_chunk_id(&self, kind: u8, plain: &[u8]) -> Digest {
        keyed(&self.metadata_chunk, &[kind], plain)
    }
}

fn keyed(key: &Secret32, prefix: &[u8], plain: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new_keyed(key.expose());
    hasher.update(prefix).update(plain);
    Digest(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_to_a_key_opens_with_it_and_with_no_other() {
        let mine = OpeningKey::generate().unwrap();
        let other = OpeningKey::generate().unwrap();
        let (encapsulated, sealed) = seal_to(&mine.public(), b"info", &[5; 64]).unwrap();
        assert_eq!(sealed.len(), 80);
        assert_eq!(mine.open(&encapsulated, b"info", &sealed).unwrap().as_slice(), [5; 64]);
        assert!(mine.open(&encapsulated, b"else", &sealed).is_none());
        assert!(other.open(&encapsulated, b"info", &sealed).is_none());
    }

    #[test]
    fn low_order_public_keys_are_refused() {
        assert!(seal_to(&[0; 32], b"info", &[5; 64]).is_err());
        let mut one = [0; 32];
        one[0] = 1;
        assert!(seal_to(&one, b"info", &[5; 64]).is_err());
    }

    #[test]
    fn two_repositories_never_share_derived_keys() {
        let dedup = Secret32::new([1; 32]);
        let a = ClusterKeys::derive(dedup.clone(), RepositoryId::from_parts(1, [1; 10])).unwrap();
        let b = ClusterKeys::derive(dedup, RepositoryId::from_parts(2, [1; 10])).unwrap();
        assert_ne!(a.metadata().expose(), b.metadata().expose());
        assert_ne!(a.content_chunk_id(b"x"), b.content_chunk_id(b"x"));
        assert_ne!(a.digest(1, b"x"), a.digest(2, b"x"));
    }
}
