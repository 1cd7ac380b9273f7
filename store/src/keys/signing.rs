//! Ed25519 signatures of a host over what it writes (RFC 8032).

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::error::StoreError;
use crate::id::KeyId;
use crate::seal::Secret32;

/// A host's signing key.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    seed: Secret32,
    verifying: VerifyingKey,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey")
            .field("public", &self.verifying.id())
            .finish_non_exhaustive()
    }
}

impl SigningKey {
    /// From the 32-byte seed.
    ///
    /// # Errors
    /// The seed is not usable.
    pub fn from_seed(seed: Secret32) -> Result<Self, StoreError> {
        let unusable = || StoreError::WrongKey {
            what: "the signing key's seed".into(),
        };
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose()).map_err(|_| unusable())?;
        let public: [u8; 32] = pair.public_key().as_ref().try_into().map_err(|_| unusable())?;
        Ok(SigningKey {
            pair,
            seed,
            verifying: VerifyingKey(public),
        })
    }

    /// The seed, for key files.
    #[must_use]
    pub fn seed(&self) -> &Secret32 {
        &self.seed
    }

    /// The public half.
    #[must_use]
    pub fn verifying(&self) -> VerifyingKey {
        self.verifying
    }

    /// Signs a message.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.pair.sign(message);
        let mut out = [0; 64];
        for (to, from) in out.iter_mut().zip(signature.as_ref()) {
            *to = *from;
        }
        out
    }
}

/// Public half of a signing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyingKey(pub [u8; 32]);

impl VerifyingKey {
    /// Its id, as objects name their writer.
    #[must_use]
    pub fn id(&self) -> KeyId {
        super::key_id(&self.0)
    }

    /// True when `signature` is this key's over `message`.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(message, signature)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_message_only() {
        let key = SigningKey::from_seed(Secret32::new([3; 32])).unwrap();
        let signature = key.sign(b"message");
        assert!(key.verifying().verify(b"message", &signature));
        assert!(!key.verifying().verify(b"massage", &signature));
        let other = SigningKey::from_seed(Secret32::new([4; 32])).unwrap();
        assert!(!other.verifying().verify(b"message", &signature));
    }
}
