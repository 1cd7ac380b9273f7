//! The next period: keys are added, replaced, revoked. The root key is needed for each.

use std::sync::{Arc, PoisonError};

use super::trust::{self, Trust};
use super::{NewObject, Period, Put, Repository, Writer};
use crate::envelope::Kind;
use crate::error::StoreError;
use crate::keys::SigningKey;
use crate::session::{Place, Purpose, Session, to_cbor};

impl Repository {
    /// Looks for a newer period, for what puts it in doubt, and for spares. A period that was believed is never exchanged for an older one.
    ///
    /// # Errors
    /// The store failed; or a newer one is damaged, or not for the key at hand.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        self.refresh_spares().await?;
        let candidates = trust::candidates(self.store.as_ref(), &self.layout).await?;
        let known = self.period();
        let Some(root) = known.root() else { return Ok(()) };
        let followed = match trust::follow(&candidates, root, |_| Ok(self.keys.clone())) {
            Ok(followed) => followed,
            // The root has changed hands, and the new one has signed nothing yet.
            Err(StoreError::Untrusted { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let is_in_doubt = candidates.wrong.is_some() || followed.is_in_doubt;
        let is_newer = followed.period.number > known.number;
        if is_newer || is_in_doubt != self.is_trust_in_doubt() {
            if is_newer {
                tracing::info!(period = followed.period.number, "the keys of the cluster have changed");
            }
            let period = if is_newer { followed.period } else { known };
            let mut trust = Trust::new(period, self.opening.as_ref(), self.id, &self.cluster);
            trust.is_in_doubt = is_in_doubt;
            *self.trust.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(trust);
        }
        Ok(())
    }

    /// Stores the period that comes after the newest one, with the changes that were made to it and a key of its own. Gives its number.
    ///
    /// # Errors
    /// The store failed; [`StoreError::KeyMissing`]: this was not opened with a restore key; [`StoreError::WrongKey`]: that is not the root key of now; [`StoreError::Conflict`]: somebody else was faster.
    pub async fn next_period(
        self: &Arc<Self>,
        mut period: Period,
        root: SigningKey,
        now_us: i64,
    ) -> Result<u64, StoreError> {
        self.refresh().await?;
        let known = self.period();
        if Some(root.verifying()) != known.root() {
            return Err(StoreError::WrongKey {
                what: "the cluster's list of keys".into(),
            });
        }
        let candidates = trust::candidates(self.store.as_ref(), &self.layout).await?;
        if known.number != period.number || candidates.has_later(known.number, &root.verifying()) {
            return Err(StoreError::Conflict {
                name: self.layout.keys(period.number + 1)?.to_string(),
            });
        }
        period.number = candidates.free_after(known.number);
        if !self.can_decrypt() {
            return Err(StoreError::KeyMissing { role: "restore" });
        }
        period.draw_key(&self.trust().period_keys, self.id, &self.cluster)?;
        self.put_period(&period, root, now_us).await?;
        self.refresh().await?;
        if self.period().number == period.number {
            return Ok(period.number);
        }
        Err(StoreError::Conflict {
            name: self.layout.keys(period.number)?.to_string(),
        })
    }

    pub(super) async fn put_period(
        self: &Arc<Self>,
        period: &Period,
        root: SigningKey,
        now_us: i64,
    ) -> Result<(), StoreError> {
        let place = Place {
            repository: self.id,
            cluster: &self.cluster,
            lineage: None,
        };
        let session = Session::begin(&self.keys, &period.seals_to(), place, Purpose::Keys)?;
        let plain = to_cbor(period)?;
        let object = NewObject {
            session: Some(&session),
            ..NewObject::metadata(Kind::Keys, &plain, now_us)
        };
        let name = self.layout.keys(period.number)?;
        let writer = Writer::new(Arc::clone(self), Arc::new(root), 0);
        match writer.put(&name, object).await? {
            Put::Created | Put::Same => Ok(()),
        }
    }
}
