//! Secrets under a recipient of their own: what is sealed to it, the restore key does not open (FORMAT 14.2).
//!
//! The pair is made where restores are run and kept apart from the other keys. The host has its public half in the configuration, as a text
//! with a checksum: what is sealed to a mistyped key nobody ever opens.

use std::path::Path;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::file::{key_file, parse, read_private, write_private};
use super::{OpeningKey, key_id, seal_to};
use crate::error::StoreError;
use crate::id::{hex, unhex};
use crate::seal::{Secret32, TAG_BYTES};

/// What a sealed secret begins with.
pub const MAGIC: &[u8; 8] = b"SWSECR1\n";
/// Bytes that a sealed secret has more than the secret.
pub const OVERHEAD_BYTES: u64 = (MAGIC.len() + 32 + TAG_BYTES) as u64;
/// HPKE info.
const INFO: &[u8] = b"seawall/1 secret\0";
/// What the text of a recipient begins with.
const PREFIX: &str = "seawall-secrets-";
/// Bytes of the key id that a text has as its checksum.
const CHECK_BYTES: usize = 4;

/// To whom secrets are sealed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretsRecipient([u8; 32]);

impl SecretsRecipient {
    /// From the text that [`Self::fmt`] makes; none: mistyped, or something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX)?;
        let public: [u8; 32] = unhex(rest.get(..64)?)?;
        let recipient = SecretsRecipient(public);
        (recipient.to_string() == text).then_some(recipient)
    }

    /// Of a pair.
    #[must_use]
    pub fn of(key: &OpeningKey) -> Self {
        SecretsRecipient(key.public())
    }

    /// Seals a secret: [`MAGIC`], the encapsulated key, the ciphertext.
    ///
    /// # Errors
    /// The public key is no such key, or there is no randomness.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, StoreError> {
        let (encapsulated, ciphertext) = seal_to(&self.0, INFO, plain)?;
        Ok([MAGIC.as_slice(), &encapsulated, &ciphertext].concat())
    }
}

impl std::fmt::Display for SecretsRecipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let id = key_id(&self.0).0;
        let check = id.get(..CHECK_BYTES).unwrap_or_default();
        write!(f, "{PREFIX}{}{}", hex(&self.0), hex(check))
    }
}

impl std::fmt::Debug for SecretsRecipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Opens a sealed secret; none: it is none, it was sealed to another, or it is damaged.
#[must_use]
pub fn open(key: &OpeningKey, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (encapsulated, ciphertext) = sealed.strip_prefix(MAGIC)?.split_at_checked(32)?;
    key.open(encapsulated, INFO, ciphertext)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityText {
    seawall_key: String,
    version: u32,
    secret: String,
    recipient: String,
}

/// Makes a pair, and writes it; refuses to overwrite.
///
/// # Errors
/// The file exists or cannot be written, or there is no randomness.
pub fn create(path: &Path) -> Result<SecretsRecipient, StoreError> {
    let key = OpeningKey::generate()?;
    let recipient = SecretsRecipient::of(&key);
    let text = IdentityText {
        seawall_key: "secrets".into(),
        version: 1,
        secret: hex(key.secret().expose()),
        recipient: recipient.to_string(),
    };
    write_private(path, &text)?;
    Ok(recipient)
}

/// Reads a pair.
///
/// # Errors
/// Missing, readable by others, something else, or damaged.
pub fn read(path: &Path) -> Result<OpeningKey, StoreError> {
    let text: IdentityText = parse(path, &read_private(path, "secrets")?)?;
    if text.seawall_key != "secrets" || text.version != 1 {
        return Err(key_file(path, "not an identity for secrets of version 1"));
    }
    let secret = unhex(&text.secret).ok_or_else(|| key_file(path, "bad secret"))?;
    let key = OpeningKey::from_secret(Secret32::new(secret))?;
    match SecretsRecipient::of(&key).to_string() == text.recipient {
        true => Ok(key),
        false => Err(key_file(
            path,
            "the recipient does not fit the secret part: the file was mistyped or damaged",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_with_its_identity_and_with_no_other_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secrets.key");
        let recipient = create(&path).unwrap();
        assert!(create(&path).is_err());
        let key = read(&path).unwrap();
        for plain in [b"".as_slice(), b"password", &[7; 100_000]] {
            let sealed = recipient.seal(plain).unwrap();
            assert_eq!(sealed.len() as u64, plain.len() as u64 + OVERHEAD_BYTES);
            assert_eq!(open(&key, &sealed).unwrap().as_slice(), plain);
            assert!(open(&OpeningKey::generate().unwrap(), &sealed).is_none());
            for at in [0, 9, sealed.len() - 1] {
                let mut damaged = sealed.clone();
                damaged[at] ^= 1;
                assert!(open(&key, &damaged).is_none());
            }
            assert!(open(&key, &sealed[..20]).is_none());
        }
    }

    #[test]
    fn a_mistyped_recipient_is_none() {
        let text = SecretsRecipient::of(&OpeningKey::generate().unwrap()).to_string();
        assert_eq!(SecretsRecipient::parse(&text).unwrap().to_string(), text);
        for at in PREFIX.len()..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'0' { b'1' } else { b'0' };
            assert!(
                SecretsRecipient::parse(std::str::from_utf8(&other).unwrap()).is_none(),
                "{at}"
            );
        }
        for bad in ["", PREFIX, &text[..40], &format!("{text}0"), &text.to_uppercase()] {
            assert!(SecretsRecipient::parse(bad).is_none(), "{bad}");
        }
    }
}
