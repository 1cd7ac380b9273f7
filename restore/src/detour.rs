//! A damaged WAL object is no loss where others hold the same WAL: tails, or the object of another epoch. One that a revoked key has signed, and
//! that came later than that, is as if it were not there: else whoever has stolen a key could stop every restore. Of other strangers' objects
//! nobody knows: the list of keys that says who they are may be what is missing.
//!
//! Law 5 holds: nothing is taken unchecked. What cannot be replaced stays an error.

use store::StoreError;
use store::catalog::Coverage;
use store::layout::{WalName, WalRange};
use store::repository::{Repository, Signer};

use crate::error::RestoreError;

/// A key that is known, and known not to count any more.
fn is_revoked(repository: &Repository, signer: &str) -> bool {
    let is_it = |known: &Signer| known.id.to_string() == signer && known.revoked_us.is_some();
    !repository.is_trust_in_doubt() && repository.period().signers.iter().any(is_it)
}

/// Objects that a run does without.
#[derive(Debug, Default)]
pub(crate) struct Detours(Vec<WalRange>);

impl Detours {
    /// Takes what is known to be damaged out of a fresh listing.
    pub(crate) fn apply(&self, coverage: &mut Coverage) {
        self.0.iter().for_each(|damaged| coverage.remove(damaged));
    }

    /// Notes the object that an error speaks of, when `coverage` can do without it; then it is worth trying again.
    pub(crate) fn around(&mut self, repository: &Repository, coverage: &Coverage, error: &RestoreError) -> bool {
        let RestoreError::Store(error) = error else {
            return false;
        };
        if let StoreError::Untrusted { name, signer, .. } = error
            && is_revoked(repository, signer)
            && let Some(WalName::Range(range)) = repository.layout().parse_wal(name)
            && !self.0.contains(&range)
        {
            tracing::warn!(%error, "it does not count, and is passed over");
            self.0.push(range);
            return true;
        }
        let name = error.damaged_object();
        let Some(WalName::Range(range)) = name.and_then(|name| repository.layout().parse_wal(name)) else {
            return false;
        };
        if !coverage.can_do_without(&range) {
            return false;
        }
        tracing::warn!(%error, "the same WAL is read from other objects");
        self.0.push(range);
        true
    }
}
