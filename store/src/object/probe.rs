//! Does the store keep its promise not to overwrite? Some servers accept `If-None-Match: *` and ignore it.

use bytes::Bytes;

use super::{ByteRange, ErrorClass, ObjectError, ObjectName, ObjectStore, Operation, Outcome, PutNew};

/// Writes `probes/<suffix>` twice with different content and reads it back: `true` only if the second was refused and the
/// first is still there. `suffix` must be fresh and random. The probe object is deleted if that is permitted.
///
/// # Errors
/// The store failed, the suffix is no name, or the probe's name is taken.
pub async fn probe_create_only(store: &dyn ObjectStore, suffix: &str) -> Result<bool, ObjectError> {
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
    if let Err(error) = store.delete(&name).await {
        // A host has no right to delete; prune removes old probes.
        tracing::debug!(object = %name, %error, "probe object stays");
    }
    Ok(answer == PutNew::AlreadyExists && kept)
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
        fn capabilities(&self) -> Capabilities {
            Capabilities { create_only: true }
        }
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
