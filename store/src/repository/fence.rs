//! Is our writer epoch still the newest? A writer that slept must not write as if nothing had happened.
//!
//! An epoch is taken by creating `leases/<epoch>`, which only one can. Whoever takes the next one has taken over. The holder looks
//! whether the next lease exists: in the background, and before an object is created when its last look is too old, as after SIGSTOP
//! or a suspended machine. What is on its way at the very moment of a freeze can still arrive; it lies under the old epoch, and its
//! bytes are compared by whoever reads both.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Repository;
use crate::error::StoreError;

/// A look that is older than this is made again before anything is written.
pub const LOOK_AGE_MAX: Duration = Duration::from_secs(30);

/// Watches one epoch.
#[derive(Debug)]
pub struct Fence {
    repository: Arc<Repository>,
    epoch: u64,
    looked: Mutex<Instant>,
    age_max: Duration,
}

impl Fence {
    /// For an epoch that was taken just now.
    #[must_use]
    pub fn new(repository: Arc<Repository>, epoch: u64) -> Self {
        Fence {
            repository,
            epoch,
            looked: Mutex::new(Instant::now()),
            age_max: LOOK_AGE_MAX,
        }
    }

    /// Looks now.
    ///
    /// # Errors
    /// [`StoreError::TakenOver`], or the store failed: then nothing is known.
    pub async fn look(&self) -> Result<(), StoreError> {
        let begun = Instant::now();
        let next = self.repository.layout().lease(self.epoch + 1)?;
        if self.repository.store().head(&next).await?.is_some() {
            return Err(StoreError::TakenOver {
                epoch: self.epoch,
                by: self.epoch + 1,
            });
        }
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = begun;
        Ok(())
    }

    /// Lets a writer pass: free of cost while the last look is fresh.
    ///
    /// # Errors
    /// As [`Fence::look`].
    pub async fn pass(&self) -> Result<(), StoreError> {
        let age = self.looked.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        if age <= self.age_max { Ok(()) } else { self.look().await }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Kind;
    use crate::keys::SigningKey;
    use crate::object::memory::MemoryStore;
    use crate::object::{ErrorClass, Operation};
    use crate::repository::{NewObject, NewRepository, Writer, create};
    use crate::testing::{Fault, ScriptedStore};

    async fn fixture() -> (Arc<ScriptedStore<MemoryStore>>, Arc<Repository>, Writer) {
        let store = Arc::new(ScriptedStore::new(MemoryStore::default()));
        let new = NewRepository {
            cluster: "main",
            host: "h",
            now_us: 1,
            now_text: "2026-09-21T00:00:00Z",
            creator: "test",
        };
        let (created, repository) = create(Arc::clone(&store) as _, new, |_| Ok(())).await.unwrap();
        let signing = SigningKey::from_seed(created.host.signing.seed().clone()).unwrap();
        let writer = Writer::new(Arc::clone(&repository), Arc::new(signing), 0);
        (store, repository, writer)
    }

    async fn take(writer: &Writer, epoch: u64) {
        let name = writer.repository().layout().lease(epoch).unwrap();
        writer
            .put(&name, NewObject::metadata(Kind::Lease, b"x", 1))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn who_was_taken_over_while_it_slept_does_not_pass() {
        let (_, repository, writer) = fixture().await;
        take(&writer, 1).await;
        let mut fence = Fence::new(repository, 1);
        fence.look().await.unwrap();
        take(&writer, 2).await;
        fence.pass().await.expect("its look is fresh");
        fence.age_max = Duration::ZERO;
        let error = fence.pass().await.unwrap_err();
        assert!(matches!(error, StoreError::TakenOver { epoch: 1, by: 2 }), "{error}");
    }

    #[tokio::test]
    async fn nobody_passes_on_an_old_look_when_the_store_cannot_be_asked() {
        let (store, repository, _) = fixture().await;
        let mut fence = Fence::new(repository, 1);
        fence.age_max = Duration::ZERO;
        store.push(Operation::Head, "leases/", Fault::FailWith(ErrorClass::Transient));
        assert!(matches!(fence.pass().await, Err(StoreError::Object(_))));
        fence.pass().await.unwrap();
    }
}
