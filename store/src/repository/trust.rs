//! Whose word counts: from the root key in one's own key file along the `keys/<n>` to the newest (FORMAT 6.1).
//!
//! Whoever may put objects could put a `keys/<n>` of his own. So a period counts only when the root that the one before it names has signed
//! it; the first link is the root in the reader's key file. What is not signed so is passed over, loudly.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::period::Period;
use crate::envelope::{Head, Kind};
use crate::error::StoreError;
use crate::frame;
use crate::id::RepositoryId;
use crate::inventory::Named;
use crate::keys::{ClusterKeys, OpeningKey, VerifyingKey};
use crate::layout::Layout;
use crate::limits::CONTROL_OBJECT_BYTES_MAX;
use crate::object::{ByteRange, ErrorClass, ObjectStore, list_all};

/// Periods that are read at once.
const READS_IN_FLIGHT: usize = 8;

/// What is believed.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) period: Period,
    /// Keys of periods that our restore key opens.
    pub(super) period_keys: Vec<OpeningKey>,
    /// There may be a newer period that could not be read.
    pub(super) is_in_doubt: bool,
}

/// Who signed an object, and what of that counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admitted {
    pub(super) key: VerifyingKey,
    /// What the store received later does not count.
    pub(super) until_us: Option<i64>,
}

impl Trust {
    pub(super) fn new(period: Period, opening: Option<&OpeningKey>, repository: RepositoryId, cluster: &str) -> Self {
        let opened = opening.map(|key| period.open_keys(key, repository, cluster));
        Trust {
            period,
            period_keys: opened.unwrap_or_default(),
            is_in_doubt: false,
        }
    }

    /// The signer of an object, when he may write such an object.
    pub(super) fn admit(&self, head: &Head) -> Result<Admitted, StoreError> {
        let refused = |reason| StoreError::Untrusted {
            name: head.name().into(),
            signer: head.writer.to_string(),
            reason,
        };
        let before = self.period.earlier_roots.iter().map(|root| VerifyingKey(**root));
        let root = before.chain(self.period.root()).find(|root| root.id() == head.writer);
        if let Some(key) = root {
            return match head.kind {
                Kind::Keys | Kind::Proof | Kind::Ledger | Kind::Pin => Ok(Admitted { key, until_us: None }),
                _ => Err(refused("who may not write such objects")),
            };
        }
        let signer = self.period.signers.iter().find(|signer| signer.id == head.writer);
        let signer = signer.ok_or_else(|| refused("who is not a signer of this cluster"))?;
        // In the first repositories of format 1 a host signed them.
        let is_first = head.kind == Kind::Keys && self.period.root().is_none();
        if !is_first && !signer.role.may_write(head.kind) {
            return Err(refused("who may not write such objects"));
        }
        Ok(Admitted {
            key: VerifyingKey(*signer.public),
            until_us: signer.revoked_us,
        })
    }

    /// False for what was written before the last revocation, or by a signer who is revoked: backups do not refer to it.
    pub(super) fn may_be_built_on(&self, head: &Head, period: u64) -> bool {
        let is_revoked = self.admit(head).is_ok_and(|admitted| admitted.until_us.is_some());
        period >= self.period.afresh && !is_revoked
    }
}

/// What lies at `keys/<n>`, before anything of it is believed.
#[derive(Debug)]
pub(super) struct Candidate {
    number: u64,
    head: Head,
    bytes: Bytes,
}

/// What lies at `keys/`.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// Those that look like objects, by number.
    found: Vec<Candidate>,
    /// All numbers that are taken.
    numbers: BTreeSet<u64>,
    /// What is wrong with the last of those that do not.
    pub(super) wrong: Option<StoreError>,
}

impl Candidates {
    /// True when this root has signed a later one.
    pub(super) fn has_later(&self, number: u64, root: &VerifyingKey) -> bool {
        let mut later = self.found.iter().filter(|candidate| candidate.number > number);
        later.any(|candidate| candidate.head.is_signed_by(root))
    }

    /// The first number behind this one that nobody has taken.
    pub(super) fn free_after(&self, number: u64) -> u64 {
        let taken = (number + 1..).take_while(|next| self.numbers.contains(next)).count();
        number + 1 + taken as u64
    }
}

/// Reads all `keys/<n>`.
pub(super) async fn candidates(store: &dyn ObjectStore, layout: &Layout) -> Result<Candidates, StoreError> {
    let prefix = layout.prefix("keys");
    let listed = list_all(store, &prefix).await?;
    let numbered = listed
        .into_iter()
        .filter_map(|meta| match layout.parse(meta.name.as_str())? {
            Named::Keys(number) if number > 0 => Some((number, meta)),
            _ => None,
        });
    let read = numbered.map(async |(number, meta)| {
        let name = &meta.name;
        // Nobody who only puts things there must be able to stop everything.
        if meta.size > CONTROL_OBJECT_BYTES_MAX as u64 {
            let error = StoreError::damaged(name, "longer than any list of keys");
            return Ok((number, Err(error), Bytes::new()));
        }
        match store.get(name, ByteRange::All).await {
            Ok(bytes) => Ok((number, Head::parse(name.as_str(), &bytes), bytes)),
            Err(error) if matches!(error.class(), ErrorClass::Transient | ErrorClass::Misconfigured) => {
                Err(StoreError::from(error))
            }
            Err(error) => Ok((number, Err(StoreError::from(error)), Bytes::new())),
        }
    });
    let read: Vec<(u64, Result<Head, StoreError>, Bytes)> =
        stream::iter(read).buffered(READS_IN_FLIGHT).try_collect().await?;
    if read.is_empty() {
        return Err(StoreError::NoRepository {
            url: format!("{prefix} (the repository has no such cluster)"),
        });
    }
    let mut candidates = Candidates::default();
    for (number, head, bytes) in read {
        candidates.numbers.insert(number);
        match head {
            Ok(head) => candidates.found.push(Candidate { number, head, bytes }),
            Err(error) => {
                tracing::error!(%error, "one of the objects that say whose signatures count cannot be read; it is passed over");
                candidates.wrong = Some(error);
            }
        }
    }
    candidates.found.sort_by_key(|candidate| candidate.number);
    Ok(candidates)
}

/// The newest period that the root leads to.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) period: Period,
    pub(super) keys: ClusterKeys,
    /// A later one that is genuine, and not for the key at hand.
    pub(super) later: Option<u64>,
    /// There may be a later one that could not be read.
    pub(super) is_in_doubt: bool,
}

/// Follows the periods from a root. `keys_of` gives the keys that open one.
///
/// # Errors
/// None counts; or the newest that does is damaged.
pub(super) fn follow(
    candidates: &Candidates,
    mut root: VerifyingKey,
    keys_of: impl Fn(&Head) -> Result<ClusterKeys, StoreError>,
) -> Result<Followed, StoreError> {
    let (mut followed, mut planted, mut wrong): (Option<Followed>, Vec<&str>, Option<StoreError>) =
        (None, Vec::new(), None);
    let mut is_in_doubt = false;
    for candidate in &candidates.found {
        if !candidate.head.is_signed_by(&root) {
            planted.push(candidate.head.name());
            continue;
        }
        let read = keys_of(&candidate.head).and_then(|keys| Ok((read(candidate, &keys)?, keys)));
        match read {
            Ok((period, keys)) => {
                root = period.root().unwrap_or(root);
                followed = Some(Followed {
                    period,
                    keys,
                    later: None,
                    is_in_doubt: false,
                });
            }
            // One from before the key at hand was a recipient, or after.
            Err(error @ StoreError::WrongKey { .. }) => {
                if let Some(followed) = &mut followed {
                    followed.later = Some(candidate.number);
                }
                wrong = Some(error);
            }
            // A whole one of a later number says more.
            Err(error) => {
                tracing::error!(%error, "a list of the cluster's keys cannot be read");
                is_in_doubt = true;
                wrong = Some(error);
            }
        }
    }
    let nothing = || match (wrong, planted.first()) {
        (Some(error), _) => error,
        (None, Some(name)) => StoreError::Untrusted {
            name: (*name).to_owned(),
            signer: "somebody else".into(),
            reason: "not by the root key that this key file names",
        },
        (None, None) => StoreError::damaged("keys/", "nothing of it can be read"),
    };
    let mut followed = followed.ok_or_else(nothing)?;
    // Those before the first that counts are of roots before ours.
    let after_ours = planted
        .iter()
        .filter(|name| number_in(name) > followed.period.number)
        .count();
    if after_ours > 0 {
        tracing::error!(
            objects = after_ours,
            "objects at keys/ are not signed by the root key of this cluster: they are passed over; see who can write to the repository"
        );
    }
    followed.is_in_doubt = is_in_doubt || after_ours > 0;
    Ok(followed)
}

/// The first period, for key files from before there was a root: a signer that it lists has signed it. Its name exists once, so whoever came
/// later could not put another one in its place.
///
/// # Errors
/// It is missing, damaged, or of another key.
pub(super) fn first(
    candidates: &Candidates,
    keys_of: impl Fn(&Head) -> Result<ClusterKeys, StoreError>,
) -> Result<Followed, StoreError> {
    let first = candidates.found.iter().find(|candidate| candidate.number == 1);
    let first = first.ok_or_else(|| StoreError::damaged("keys/1", "is missing"))?;
    let keys = keys_of(&first.head)?;
    let period = read(first, &keys)?;
    let signer = period.signers.iter().find(|signer| signer.id == first.head.writer);
    let is_signed = signer.is_some_and(|signer| first.head.is_signed_by(&VerifyingKey(*signer.public)));
    if !is_signed {
        return Err(StoreError::Untrusted {
            name: first.head.name().into(),
            signer: first.head.writer.to_string(),
            reason: "who is not a signer that it lists",
        });
    }
    Ok(Followed {
        period,
        keys,
        later: None,
        is_in_doubt: false,
    })
}

fn number_in(name: &str) -> u64 {
    let number = name.rsplit('/').next().and_then(|number| number.parse().ok());
    number.unwrap_or(0)
}

fn read(candidate: &Candidate, keys: &ClusterKeys) -> Result<Period, StoreError> {
    let Candidate { number, head, bytes } = candidate;
    let header = head.open_unsigned(keys)?;
    let body = head.body(bytes)?;
    let plain = frame::open(head, None, &header.digest, &body, None, keys)?;
    let period: Period = minicbor::decode(&plain).map_err(|error| StoreError::damaged(head.name(), error))?;
    if period.number != *number {
        return Err(StoreError::damaged(head.name(), "speaks of another period"));
    }
    if period.dedup_fingerprint != keys.fingerprint() {
        return Err(StoreError::WrongKey {
            what: format!("\"{}\"", head.name()),
        });
    }
    Ok(period)
}

#[cfg(test)]
mod tests;
