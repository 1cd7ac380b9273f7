//! Is our writer epoch still the newest of its lineage? A writer that slept must not write as if nothing had happened.
//!
//! An epoch is taken by creating `leases/<epoch>`, which only one can. Whoever takes a later one for the same lineage has taken over;
//! one for another lineage (a clone of the server that was started with our keys) concerns us no more than its WAL does. The holder
//! looks whether the next lease exists: in the background, and before an object is created when its last look is too old, as after
//! SIGSTOP or a suspended machine. What is on its way at the very moment of a freeze can still arrive; it lies under the old epoch,
//! and its bytes are compared by whoever reads both.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Repository;
use crate::envelope::Kind;
use crate::error::StoreError;
use crate::id::LineageId;
use crate::object::ErrorClass;
use crate::records::Lease;

/// A look that is older than this is made again before anything is written.
pub const LOOK_AGE_MAX: Duration = Duration::from_secs(30);
/// Whom to trust is asked again after this: a key may have been revoked, a recipient removed.
const REFRESH_AGE_MAX: Duration = Duration::from_secs(45);

/// Watches one epoch.
#[derive(Debug)]
pub struct Fence {
    repository: Arc<Repository>,
    epoch: u64,
    lineage: LineageId,
    seen: Mutex<Seen>,
    /// When we last asked whom to trust.
    refreshed: Mutex<Instant>,
    age_max: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    /// When we looked.
    at: Instant,
    /// The first epoch of which no lease existed then.
    next: u64,
}

/// What is known of an epoch.
enum Leased {
    /// Nobody has taken it.
    Not,
    /// Somebody, for this lineage; an older agent does not say for which.
    By(Option<LineageId>),
    /// The answer made no sense: half a lease, or a store that answers nonsense for one that does not exist.
    Unreadable,
}

impl Fence {
    /// For an epoch that was taken just now, for a lineage.
    #[must_use]
    pub fn new(repository: Arc<Repository>, epoch: u64, lineage: LineageId) -> Self {
        Fence {
            repository,
            epoch,
            lineage,
            seen: Mutex::new(Seen {
                at: Instant::now(),
                next: epoch + 1,
            }),
            refreshed: Mutex::new(Instant::now()),
            age_max: LOOK_AGE_MAX,
        }
    }

    fn seen(&self) -> Seen {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refreshed_age(&self) -> Duration {
        self.refreshed.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Looks now.
    ///
    /// # Errors
    /// [`StoreError::TakenOver`], or the store failed: then nothing is known.
    pub async fn look(&self) -> Result<(), StoreError> {
        let at = Instant::now();
        if self.refreshed_age() > REFRESH_AGE_MAX {
            self.repository.refresh().await?;
            *self.refreshed.lock().unwrap_or_else(PoisonError::into_inner) = at;
        }
        let mut next = self.seen().next;
        loop {
            match self.lease(next).await? {
                Leased::Not => break,
                Leased::By(lineage) if lineage.is_none_or(|lineage| lineage == self.lineage) => {
                    return Err(StoreError::TakenOver {
                        epoch: self.epoch,
                        by: next,
                    });
                }
                Leased::By(_) => next += 1,
                // Whoever finds its own lease damaged goes on to the next epoch.
                Leased::Unreadable if matches!(self.lease(next + 1).await?, Leased::Not) => break,
                Leased::Unreadable => next += 1,
            }
        }
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen { at, next };
        Ok(())
    }

    async fn lease(&self, epoch: u64) -> Result<Leased, StoreError> {
        let name = self.repository.layout().lease(epoch)?;
        match self.repository.read_record::<Lease>(&name, Kind::Lease).await {
            Ok(lease) => Ok(Leased::By(lease.lineage)),
            Err(StoreError::Object(error)) if error.class() == ErrorClass::NotFound => Ok(Leased::Not),
            // Of a host that was added since we looked whom to trust.
            Err(StoreError::Untrusted { .. }) => {
                self.repository.refresh().await?;
                match self.repository.read_record::<Lease>(&name, Kind::Lease).await {
                    Ok(lease) => Ok(Leased::By(lease.lineage)),
                    Err(error) if error.damaged_object().is_some() => Ok(Leased::Unreadable),
                    Err(error) => Err(error),
                }
            }
            Err(error) if error.damaged_object().is_some() => Ok(Leased::Unreadable),
            Err(error) => Err(error),
        }
    }

    /// Lets a writer pass: free of cost while the last look is fresh.
    ///
    /// # Errors
    /// As [`Fence::look`].
    pub async fn pass(&self) -> Result<(), StoreError> {
        let age = self.seen().at.elapsed();
        if age <= self.age_max { Ok(()) } else { self.look().await }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    async fn take(writer: &Writer, epoch: u64, lineage: LineageId) {
        let name = writer.repository().layout().lease(epoch).unwrap();
        let lease = Lease {
            epoch,
            host: "h".into(),
            taken_us: 1,
            after: None,
            lineage: Some(lineage),
        };
        let plain = minicbor::to_vec(&lease).unwrap();
        let lease = NewObject::metadata(Kind::Lease, &plain, 1);
        writer.put(&name, lease).await.unwrap();
    }

    fn lineage(number: u64) -> LineageId {
        LineageId::from_parts(number, [0; 10])
    }

    #[tokio::test]
    async fn who_was_taken_over_while_it_slept_does_not_pass() {
        let (_, repository, writer) = fixture().await;
        take(&writer, 1, lineage(1)).await;
        let mut fence = Fence::new(repository, 1, lineage(1));
        fence.look().await.unwrap();
        take(&writer, 2, lineage(1)).await;
        fence.pass().await.expect("its look is fresh");
        fence.age_max = Duration::ZERO;
        let error = fence.pass().await.unwrap_err();
        assert!(matches!(error, StoreError::TakenOver { epoch: 1, by: 2 }), "{error}");
    }

    #[tokio::test]
    async fn who_archives_another_lineage_does_not_take_over() {
        let (_, repository, writer) = fixture().await;
        take(&writer, 1, lineage(1)).await;
        let fence = Fence::new(repository, 1, lineage(1));
        take(&writer, 2, lineage(2)).await;
        fence.look().await.unwrap();
        take(&writer, 3, lineage(2)).await;
        fence.look().await.unwrap();
        take(&writer, 4, lineage(1)).await;
        let error = fence.look().await.unwrap_err();
        assert!(matches!(error, StoreError::TakenOver { epoch: 1, by: 4 }), "{error}");
    }

    #[tokio::test]
    async fn a_lease_that_cannot_be_read_is_nobodys_and_its_writer_took_the_next() {
        let (_, repository, writer) = fixture().await;
        take(&writer, 1, lineage(1)).await;
        let name = repository.layout().lease(2).unwrap();
        let junk = NewObject::metadata(Kind::Lease, b"x", 1);
        writer.put(&name, junk).await.unwrap();
        let fence = Fence::new(repository, 1, lineage(1));
        fence.look().await.unwrap();
        take(&writer, 3, lineage(2)).await;
        fence.look().await.unwrap();
        take(&writer, 4, lineage(1)).await;
        assert!(matches!(fence.look().await, Err(StoreError::TakenOver { by: 4, .. })));
    }

    #[tokio::test]
    async fn nobody_passes_on_an_old_look_when_the_store_cannot_be_asked() {
        let (store, repository, _) = fixture().await;
        let mut fence = Fence::new(repository, 1, lineage(1));
        fence.age_max = Duration::ZERO;
        store.push(Operation::Get, "leases/", Fault::FailWith(ErrorClass::Transient));
        assert!(matches!(fence.pass().await, Err(StoreError::Object(_))));
        fence.pass().await.unwrap();
    }
}
