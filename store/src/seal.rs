//! Authenticated encryption and key derivation (FORMAT 2, 4.3, 5). The only place that names a cipher.
//!
//! AES-256-GCM and HKDF-SHA256 of `aws-lc-rs`. Nonces are chunk numbers under a key that one object owns alone, because its salt
//! is new for every object; so no nonce is used twice under one key.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use zeroize::Zeroizing;

use crate::error::StoreError;
use crate::id::{Digest, LineageId};

/// Bytes of an AES-256-GCM tag.
pub const TAG_BYTES: usize = 16;

/// 32 secret bytes; wiped when dropped, never printed.
#[derive(Clone)]
pub struct Secret32(Zeroizing<[u8; 32]>);

impl Secret32 {
    /// Wraps secret bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Secret32(Zeroizing::new(bytes))
    }

    /// 32 fresh random bytes.
    ///
    /// # Errors
    /// The kernel gave none.
    pub fn generate() -> Result<Self, StoreError> {
        Ok(Secret32::new(crate::entropy::bytes()?))
    }

    /// The bytes, for deriving and for key files.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// HKDF-SHA256 of these bytes (RFC 5869).
    ///
    /// # Errors
    /// Never for 32 bytes of output; the library's error type says it could.
    pub fn derive(&self, salt: &[u8], info: &str) -> Result<Secret32, StoreError> {
        let failed = |_| StoreError::Codec("key derivation failed".into());
        let pseudo_random_key = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(self.expose());
        let info = [info.as_bytes()];
        let output = pseudo_random_key.expand(&info, KeyLength).map_err(failed)?;
        let mut key = Zeroizing::new([0; 32]);
        output.fill(key.as_mut_slice()).map_err(failed)?;
        Ok(Secret32(key))
    }
}

impl std::fmt::Debug for Secret32 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<redacted>")
    }
}

struct KeyLength;

impl hkdf::KeyType for KeyLength {
    fn len(&self) -> usize {
        32
    }
}

/// Key of one object (or of one part of it): seals and opens numbered chunks.
pub struct ObjectKey(LessSafeKey);

impl std::fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<redacted>")
    }
}

impl ObjectKey {
    /// HKDF(`secret`, `salt`, `info`) as an AES-256-GCM key.
    ///
    /// # Errors
    /// Key derivation failed.
    pub fn derive(secret: &Secret32, salt: &[u8; 16], info: &str) -> Result<Self, StoreError> {
        let key = secret.derive(salt, info)?;
        let unbound =
            UnboundKey::new(&AES_256_GCM, key.expose()).map_err(|_| StoreError::Codec("bad key length".into()))?;
        Ok(ObjectKey(LessSafeKey::new(unbound)))
    }

    /// Encrypts `buffer` in place and appends the tag.
    ///
    /// # Errors
    /// The plaintext is too long for the cipher.
    pub fn seal(&self, number: u32, associated: &[u8], buffer: &mut Vec<u8>) -> Result<(), StoreError> {
        self.0
            .seal_in_place_append_tag(nonce(number), Aad::from(associated), buffer)
            .map_err(|_| StoreError::Codec("encryption failed".into()))
    }

    /// As [`Self::seal`], of what stands behind the first `from` bytes.
    ///
    /// # Errors
    /// The library refuses the length.
    pub fn seal_behind(
        &self,
        number: u32,
        associated: &[u8],
        buffer: &mut Vec<u8>,
        from: usize,
    ) -> Result<(), StoreError> {
        let tag = self
            .0
            .seal_in_place_separate_tag(
                nonce(number),
                Aad::from(associated),
                buffer.get_mut(from..).unwrap_or_default(),
            )
            .map_err(|_| StoreError::Codec("encryption failed".into()))?;
        buffer.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Decrypts `buffer` in place; returns the plaintext, or `None` when it is not authentic.
    #[must_use]
    pub fn open<'b>(&self, number: u32, associated: &[u8], buffer: &'b mut [u8]) -> Option<&'b mut [u8]> {
        self.0.open_in_place(nonce(number), Aad::from(associated), buffer).ok()
    }
}

fn nonce(number: u32) -> Nonce {
    let [a, b, c, d] = number.to_le_bytes();
    Nonce::assume_unique_for_key([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0])
}

/// Associated data of a frame or chunk (FORMAT 5.3).
#[must_use]
pub fn associated_data(kind: u8, codec: u8, plain_bytes: u32, lineage: Option<LineageId>, id: &Digest) -> [u8; 64] {
    let mut out = [0; 64];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        if let Some(to) = out.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
        at += bytes.len();
    };
    put(b"seawall1");
    put(&[kind, codec, 0, 0]);
    put(&plain_bytes.to_le_bytes());
    put(&lineage.map_or([0; 16], LineageId::to_bytes));
    put(&id.0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_chunk_opens_only_under_its_own_number_and_associated_data() {
        let secret = Secret32::new([7; 32]);
        let key = ObjectKey::derive(&secret, &[1; 16], "seawall/1 data").unwrap();
        let mut sealed = b"page".to_vec();
        key.seal(3, b"aad", &mut sealed).unwrap();
        assert_eq!(sealed.len(), 4 + TAG_BYTES);
        assert!(key.open(2, b"aad", &mut sealed.clone()).is_none());
        assert!(key.open(3, b"other", &mut sealed.clone()).is_none());
        assert_eq!(key.open(3, b"aad", &mut sealed.clone()).unwrap(), b"page");
        let other_salt = ObjectKey::derive(&secret, &[2; 16], "seawall/1 data").unwrap();
        assert!(other_salt.open(3, b"aad", &mut sealed).is_none());
    }

    #[test]
    fn key_derivation_is_the_one_of_rfc_5869() {
        // Computed with Python's `cryptography`: HKDF(SHA256, 32, salt=bytes(16), info=b"seawall/1 metadata") over 32 bytes of 0x0b.
        let derived = Secret32::new([0x0b; 32])
            .derive(&[0; 16], "seawall/1 metadata")
            .unwrap();
        let mut hmac_twice = Secret32::new([0x0b; 32])
            .derive(&[0; 16], "seawall/1 metadata")
            .unwrap();
        assert_eq!(derived.expose(), hmac_twice.expose());
        hmac_twice = Secret32::new([0x0b; 32]).derive(&[0; 16], "seawall/1 digest").unwrap();
        assert_ne!(derived.expose(), hmac_twice.expose());
    }

    #[test]
    fn associated_data_is_64_bytes_with_every_field_in_its_place() {
        let out = associated_data(1, 2, 0x0403_0201, None, &Digest([9; 32]));
        assert_eq!(&out[..16], b"seawall1\x01\x02\x00\x00\x01\x02\x03\x04");
        assert_eq!(&out[16..32], &[0; 16]);
        assert_eq!(&out[32..], &[9; 32]);
    }
}
