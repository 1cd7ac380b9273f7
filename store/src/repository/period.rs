//! `keys/<n>`: whose signatures count and whom sessions are sealed to (FORMAT 6.1).

use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};

use crate::envelope::Kind;
use crate::error::StoreError;
use crate::id::{KeyId, RepositoryId};
use crate::keys::{OpeningKey, Recipient, Role, VerifyingKey, key_id, seal_to};
use crate::seal::Secret32;

/// Public keys of a period.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Period {
    /// Number of the period, from 1. Later ones have higher numbers; some may be left out.
    #[n(0)]
    pub number: u64,
    /// Whom sessions are sealed to.
    #[n(1)]
    pub recipients: Vec<PeriodRecipient>,
    /// Whose signatures count.
    #[n(2)]
    pub signers: Vec<Signer>,
    /// Tells which dedup secret this is.
    #[n(3)]
    pub dedup_fingerprint: KeyId,
    /// Who signs the next period. None in the first repositories of format 1: there is no next one.
    #[n(4)]
    pub root: Option<ByteArray<32>>,
    /// The keys of this period and of those before, for each restorer of now: who comes later opens what is stored already.
    #[n(5)]
    #[cbor(default)]
    pub period_keys: Vec<SealedPeriodKey>,
    /// Backups refer to nothing that was written before this period: 0, or the number of the one that revoked a signer.
    #[n(6)]
    #[cbor(default)]
    pub afresh: u64,
    /// X25519 public key of this period: sessions are sealed to it, too.
    #[n(7)]
    pub key: Option<ByteArray<32>>,
    /// Roots of before: what they have signed can still be told from what was planted.
    #[n(8)]
    #[cbor(default)]
    pub earlier_roots: Vec<ByteArray<32>>,
}

/// A recipient as stored.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PeriodRecipient {
    /// What people call it.
    #[n(0)]
    pub name: String,
    /// What it may open.
    #[n(1)]
    pub role: Role,
    /// X25519 public key.
    #[n(2)]
    pub public: ByteArray<32>,
}

/// What a signer may write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum SignerRole {
    /// Backups, WAL, and all that belongs to them.
    #[default]
    #[n(1)]
    Host,
    /// What decides about deletion.
    #[n(2)]
    Keeper,
}

/// A signer as stored.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Signer {
    /// Key id.
    #[n(0)]
    pub id: KeyId,
    /// Ed25519 public key.
    #[n(1)]
    pub public: ByteArray<32>,
    /// Who holds the key, for people: the name of a host, "keeper".
    #[n(2)]
    pub holder: String,
    /// What the store received later than this, microseconds since 1970 by its clock, does not count.
    #[n(3)]
    pub revoked_us: Option<i64>,
    /// What it may write.
    #[n(4)]
    #[cbor(default)]
    pub role: SignerRole,
}

/// The key of a period, sealed to a restorer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SealedPeriodKey {
    /// Its public half.
    #[n(0)]
    pub public: ByteArray<32>,
    /// Who can open this.
    #[n(1)]
    pub recipient: KeyId,
    /// HPKE's encapsulated key.
    #[n(2)]
    pub encapsulated: ByteArray<32>,
    /// Its secret half, sealed.
    #[n(3)]
    pub ciphertext: ByteVec,
}

impl SignerRole {
    /// True for objects whose signatures count when its holder made them. Periods are signed by the root alone.
    #[must_use]
    pub fn may_write(self, kind: Kind) -> bool {
        match kind {
            Kind::Keys => false,
            Kind::Condemned | Kind::Relocation => self == SignerRole::Keeper,
            Kind::Hole | Kind::Proof | Kind::Ledger | Kind::Pin => true,
            _ => self == SignerRole::Host,
        }
    }
}

impl Signer {
    /// A new one.
    #[must_use]
    pub fn new(key: VerifyingKey, holder: &str, role: SignerRole) -> Self {
        Signer {
            id: key.id(),
            public: key.0.into(),
            holder: holder.to_owned(),
            revoked_us: None,
            role,
        }
    }
}

impl From<&Recipient> for PeriodRecipient {
    fn from(recipient: &Recipient) -> Self {
        PeriodRecipient {
            name: recipient.name.clone(),
            role: recipient.role,
            public: recipient.public.into(),
        }
    }
}

impl Period {
    /// Whom sessions are sealed to: the recipients, and the key of the period.
    #[must_use]
    pub fn seals_to(&self) -> Vec<Recipient> {
        let of = |stored: &PeriodRecipient| Recipient {
            name: stored.name.clone(),
            role: stored.role,
            public: *stored.public,
        };
        let period = self.key.map(|key| Recipient {
            name: "period".into(),
            role: Role::Restore,
            public: *key,
        });
        self.recipients.iter().map(of).chain(period).collect()
    }

    /// Who signs the next period.
    #[must_use]
    pub fn root(&self) -> Option<VerifyingKey> {
        self.root.map(|root| VerifyingKey(*root))
    }

    /// The root changes hands.
    pub fn hand_over(&mut self, root: VerifyingKey) {
        self.earlier_roots.extend(self.root);
        self.root = Some(root.0.into());
    }

    /// Draws the key of this period, and seals it and those of before to each restorer of now.
    ///
    /// # Errors
    /// A public key is invalid, or there is no randomness.
    pub fn draw_key(
        &mut self,
        before: &[OpeningKey],
        repository: RepositoryId,
        cluster: &str,
    ) -> Result<(), StoreError> {
        let fresh = OpeningKey::generate()?;
        self.key = Some(fresh.public().into());
        self.period_keys.clear();
        for recipient in self
            .recipients
            .iter()
            .filter(|recipient| recipient.role == Role::Restore)
        {
            for key in before.iter().chain([&fresh]) {
                let info = period_key_info(repository, cluster, &key.public());
                let (encapsulated, ciphertext) = seal_to(&recipient.public, &info, key.secret().expose())?;
                self.period_keys.push(SealedPeriodKey {
                    public: key.public().into(),
                    recipient: key_id(&recipient.public),
                    encapsulated: encapsulated.into(),
                    ciphertext: ciphertext.into(),
                });
            }
        }
        Ok(())
    }

    /// The keys of periods that this restore key opens. One that does not open is left out: what needs it says so.
    #[must_use]
    pub fn open_keys(&self, key: &OpeningKey, repository: RepositoryId, cluster: &str) -> Vec<OpeningKey> {
        let me = key_id(&key.public());
        let mine = self.period_keys.iter().filter(|sealed| sealed.recipient == me);
        let open = |sealed: &SealedPeriodKey| {
            let info = period_key_info(repository, cluster, &sealed.public);
            let plain = key.open(sealed.encapsulated.as_slice(), &info, &sealed.ciphertext)?;
            let secret: [u8; 32] = plain.as_slice().try_into().ok()?;
            let opened = OpeningKey::from_secret(Secret32::new(secret)).ok()?;
            (opened.public() == *sealed.public).then_some(opened)
        };
        mine.filter_map(open).collect()
    }
}

fn period_key_info(repository: RepositoryId, cluster: &str, public: &[u8; 32]) -> Vec<u8> {
    let mut out = b"seawall/1 period key\0".to_vec();
    out.extend_from_slice(&repository.to_bytes());
    out.extend_from_slice(cluster.as_bytes());
    out.push(0);
    out.extend_from_slice(public);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deciding_about_deletion_and_writing_backups_are_two_roles() {
        let only = |kind, host, keeper| {
            assert_eq!(
                (SignerRole::Host.may_write(kind), SignerRole::Keeper.may_write(kind)),
                (host, keeper),
                "{kind:?}"
            );
        };
        only(Kind::Keys, false, false);
        only(Kind::Condemned, false, true);
        only(Kind::Manifest, true, false);
        only(Kind::Wal, true, false);
        only(Kind::Proof, true, true);
    }

    #[test]
    fn who_was_added_opens_what_was_before_and_who_was_removed_nothing_that_comes() {
        let repository = RepositoryId::from_parts(1, [1; 10]);
        let [first, second, keeper] = [(); 3].map(|()| OpeningKey::generate().unwrap());
        let recipient = |key: &OpeningKey, role| PeriodRecipient {
            name: "r".into(),
            role,
            public: key.public().into(),
        };
        let mut period = Period {
            number: 1,
            recipients: vec![recipient(&first, Role::Restore), recipient(&keeper, Role::Maintenance)],
            signers: Vec::new(),
            dedup_fingerprint: KeyId([0; 16]),
            root: None,
            period_keys: Vec::new(),
            afresh: 0,
            key: None,
            earlier_roots: Vec::new(),
        };
        period.draw_key(&[], repository, "main").unwrap();
        let one = *period.key.unwrap();
        period.recipients.push(recipient(&second, Role::Restore));
        let before = period.open_keys(&first, repository, "main");
        period.draw_key(&before, repository, "main").unwrap();
        let two = *period.key.unwrap();
        let opened = |period: &Period, key: &OpeningKey, cluster| -> Vec<[u8; 32]> {
            let keys = period.open_keys(key, repository, cluster);
            keys.iter().map(OpeningKey::public).collect()
        };
        assert_eq!(opened(&period, &first, "main"), [one, two]);
        assert_eq!(opened(&period, &second, "main"), [one, two]);
        assert_eq!(opened(&period, &second, "another"), [[0; 32]; 0]);
        assert_eq!(opened(&period, &keeper, "main"), [[0; 32]; 0]);
        let before = period.open_keys(&first, repository, "main");
        period.recipients.remove(2);
        period.draw_key(&before, repository, "main").unwrap();
        assert_eq!(opened(&period, &first, "main"), [one, two, *period.key.unwrap()]);
        assert_eq!(opened(&period, &second, "main"), [[0; 32]; 0]);
        assert!(![one, two].contains(&period.key.unwrap()));
        let sealed: Vec<[u8; 32]> = period.seals_to().iter().map(|one| one.public).collect();
        assert_eq!(sealed, [first.public(), keeper.public(), *period.key.unwrap()]);
    }
}
