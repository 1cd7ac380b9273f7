//! Does the store keep its promise not to overwrite? Some servers accept `If-None-Match: *` and ignore it.

use bytes::Bytes;

use super::lock::LOCK_PROBES;
use super::{ByteRange, ErrorClass, ObjectError, ObjectName, ObjectStore, Operation, Outcome, PutNew};

/// What a store has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probed {
    /// The second object of a name was refused, and the first is still there.
    pub create_only: bool,
    /// We may delete.
    pub may_delete: bool,
    /// When it was written, by the store's clock, in milliseconds since 1970.
    pub stored_unix_ms: i64,
}

/// As [`probe`], for who only asks whether nothing is overwritten.
///
/// # Errors
/// As [`probe`].
pub async fn probe_create_only(store: &dyn ObjectStore, suffix: &str) -> Result<bool, ObjectError> {
    Ok(probe(store, suffix).await?.create_only)
}

/// Writes `probes/<suffix>` twice with different content, reads it back, and tries to delete it. `suffix` must be fresh and random.
///
/// # Errors
/// The store failed, the suffix is no name, or the probe's name is taken.
pub async fn probe(store: &dyn ObjectStore, suffix: &str) -> Result<Probed, ObjectError> {
    let broken = |class, detail: String| {
        ObjectError::new(
            Operation::PutNew,
            format_args!("probes/{suffix}"),
            Outcome::DidNotHappen,
            class,
            detail,
        )
    };
    let name =
        ObjectName::join(["probes", suffix]).map_err(|error| broken(ErrorClass::Permanent, error.to_string()))?;
    let first = Bytes::from(format!("first {suffix}"));
    let second = Bytes::from(format!("second {suffix}"));
    if store.put_new(&name, first.clone()).await? == PutNew::AlreadyExists {
        return Err(broken(
            ErrorClass::Permanent,
            "the probe's name was taken before it was written".to_owned(),
        ));
    }
    let answer = store.put_new(&name, second).await?;
    let kept = store.get(&name, ByteRange::All).await? == first;
    let stored_unix_ms = store.head(&name).await?.map_or(0, |meta| meta.modified_unix_ms);
    let deleted = store.delete(&name).await;
    if let Err(error) = &deleted {
        // A host has no right to delete; prune removes old probes.
        tracing::debug!(object = %name, %error, "probe object stays");
    }
    Ok(Probed {
        create_only: answer == PutNew::AlreadyExists && kept,
        may_delete: deleted.is_ok(),
        stored_unix_ms,
    })
}

/// Puts a locked object and tries to delete it: `false` if that works. A service can take locks, give them back, and not keep to them. Whoever may
/// not delete at all learns nothing, and is told `true`. The object stays for some minutes. `suffix` must be fresh and random.
///
/// # Errors
/// The store failed, or refuses to lock.
pub async fn probe_lock(store: &dyn ObjectStore, suffix: &str) -> Result<bool, ObjectError> {
    let name = ObjectName::new(format!("{LOCK_PROBES}{suffix}")).map_err(|error| {
        let detail = error.to_string();
        ObjectError::new(
            Operation::Lock,
            suffix,
            Outcome::DidNotHappen,
            ErrorClass::Permanent,
            detail,
        )
    })?;
    let _ = store.put_new(&name, Bytes::from_static(b"locked")).await?;
    match store.delete(&name).await {
        Ok(()) => Ok(false),
        Err(error) if matches!(error.class(), ErrorClass::Locked | ErrorClass::Misconfigured) => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::super::memory::MemoryStore;
    use super::super::{Capabilities, ListPage, ObjectMeta};
    use super::*;

    /// Accepts every write: `lies` says whether it also pretends to have refused.
    #[derive(Debug)]
    struct Overwriting {
        inner: MemoryStore,
        lies: bool,
    }

    #[async_trait]
    impl ObjectStore for Overwriting {
        async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutNew, ObjectError> {
            let there = self.inner.head(name).await?.is_some();
            self.inner.overwrite(name, body);
            Ok(if there && self.lies {
                PutNew::AlreadyExists
            } else {
                PutNew::Created
            })
        }
        async fn get(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, ObjectError> {
            self.inner.get(name, range).await
        }
        async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>, ObjectError> {
            self.inner.head(name).await
        }
        async fn list_page(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, ObjectError> {
            self.inner.list_page(prefix, after, max).await
        }
        async fn delete(&self, name: &ObjectName) -> Result<(), ObjectError> {
            self.inner.delete(name).await
        }
        async fn keep_locked(&self, name: &ObjectName) -> Result<(), ObjectError> {
            self.inner.keep_locked(name).await
        }
        fn capabilities(&self) -> Capabilities {
            self.inner.capabilities()
        }
    }

    #[tokio::test]
    async fn a_lock_counts_when_it_is_kept_to() {
        let store = MemoryStore::new();
        assert!(!probe_lock(&store, "a").await.unwrap());
        store.lock_for(1000);
        assert!(probe_lock(&store, "b").await.unwrap());
    }

    #[tokio::test]
    async fn a_store_that_refuses_passes_and_is_left_clean() {
        let store = MemoryStore::new();
        assert!(probe_create_only(&store, "p1").await.unwrap());
        assert!(store.snapshot().is_empty());
    }

    #[tokio::test]
    async fn a_store_that_overwrites_fails_whatever_it_answers() {
        for lies in [false, true] {
            let store = Overwriting {
                inner: MemoryStore::new(),
                lies,
            };
            assert!(!probe_create_only(&store, "p1").await.unwrap(), "lies: {lies}");
        }
    }

    #[tokio::test]
    async fn a_taken_name_or_a_bad_suffix_is_an_error_not_an_answer() {
        let store = MemoryStore::new();
        store.overwrite(&ObjectName::new("probes/p1").unwrap(), Bytes::new());
        assert!(probe_create_only(&store, "p1").await.is_err());
        assert!(probe_create_only(&store, "../p1").await.is_err());
    }
}
