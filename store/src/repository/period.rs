//! `keys/<n>`: whose signatures count and whom sessions are sealed to (FORMAT 6.1).

use bytes::Bytes;
use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};

use crate::envelope::Head;
use crate::error::StoreError;
use crate::frame;
use crate::id::KeyId;
use crate::keys::{ClusterKeys, Recipient, Role, VerifyingKey};
use crate::layout::Layout;
use crate::object::{ByteRange, ObjectName, ObjectStore, list_all};

/// Public keys of a period.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Period {
    /// Number of the period, from 1.
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
    /// Host that holds the key.
    #[n(2)]
    pub host: String,
    /// When it was revoked, microseconds since 1970.
    #[n(3)]
    pub revoked_us: Option<i64>,
}

impl Period {
    /// Signers that are not revoked.
    #[must_use]
    pub fn valid_signers(&self) -> Vec<VerifyingKey> {
        self.signers
            .iter()
            .filter(|signer| signer.revoked_us.is_none())
            .map(|signer| VerifyingKey(*signer.public))
            .collect()
    }

    /// A recipient in stored form.
    #[must_use]
    pub fn recipient(recipient: &Recipient) -> PeriodRecipient {
        PeriodRecipient {
            name: recipient.name.clone(),
            role: recipient.role,
            public: recipient.public.into(),
        }
    }
}

/// The newest `keys/<n>`: name and bytes.
pub(super) async fn newest(store: &dyn ObjectStore, layout: &Layout) -> Result<(ObjectName, Bytes), StoreError> {
    let prefix = layout.prefix("keys");
    let listed = list_all(store, &prefix).await?;
    let newest = listed
        .into_iter()
        .filter_map(|meta| {
            meta.name
                .as_str()
                .strip_prefix(&prefix)?
                .parse::<u64>()
                .ok()
                .map(|number| (number, meta.name))
        })
        .max_by_key(|(number, _)| *number);
    let Some((_, name)) = newest else {
        return Err(StoreError::NoRepository {
            url: format!("{prefix} (the repository has no such cluster)"),
        });
    };
    let bytes = store.get(&name, ByteRange::All).await?;
    Ok((name, bytes))
}

/// Opens a period with the cluster's keys.
pub(super) fn read(head: &Head, bytes: &Bytes, keys: &ClusterKeys) -> Result<Period, StoreError> {
    let unsigned = head.open_unsigned(keys)?;
    let body = head.body(bytes)?;
    let plain = frame::open(head, None, &unsigned.digest, &body, None, keys)?;
    let period: Period = minicbor::decode(&plain).map_err(|error| StoreError::damaged(head.name(), error))?;
    if period.dedup_fingerprint != keys.fingerprint() {
        return Err(StoreError::WrongKey {
            what: format!("\"{}\"", head.name()),
        });
    }
    let signer = period.signers.iter().find(|signer| signer.id == head.writer);
    let signer = signer.ok_or_else(|| StoreError::UnknownSigner {
        name: head.name().into(),
        signer: head.writer.to_string(),
    })?;
    head.open(&VerifyingKey(*signer.public), keys)?;
    Ok(period)
}
