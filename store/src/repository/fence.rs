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
}

impl Fence {
    /// For an epoch that was taken just now.
    #[must_use]
    pub fn new(repository: Arc<Repository>, epoch: u64) -> Self {
        Fence {
            repository,
            epoch,
            looked: Mutex::new(Instant::now()),
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
        if age <= LOOK_AGE_MAX { Ok(()) } else { self.look().await }
    }
}
