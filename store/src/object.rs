//! Objects: the narrow waist between the repository and the places that keep its bytes.
//!
//! Everything above knows five calls ([`ObjectStore`]); everything below ([`local`], [`s3`], [`memory`]) keeps their promises:
//! - an object is created, never overwritten (law 3): [`ObjectStore::put_new`] answers `AlreadyExists` instead;
//! - when `put_new` says `Created`, the object survives a crash of the machine or of the service;
//! - a body that is returned has exactly the length that was asked for, or an error is returned;
//! - "there is no such object" is said only when the repository itself was seen (a missing root or bucket is another error);
//! - every error says whether it happened and of which class it is ([`ObjectError`]).
//!
//! Retries live in [`crate::retry`] and nowhere else. A crash inside any call leaves either the whole object or none
//! (and perhaps a temporary that no listing shows).

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

mod error;
pub mod local;
pub mod lock;
pub mod memory;
pub mod mirrored;
mod name;
pub mod probe;
#[cfg(feature = "s3")]
pub mod s3;
#[cfg(feature = "s3")]
mod s3_error;
mod secret;

pub use error::{ErrorClass, ObjectError, Operation, Outcome};
pub use lock::{LockMode, ObjectLock};
pub use name::{InvalidName, NAME_BYTES_MAX, ObjectName, SEGMENT_BYTES_MAX};
pub use secret::Secret;

/// A reader refuses larger objects: the largest pack, twice.
pub const OBJECT_BYTES_MAX: u64 = 512 << 20;

/// Longest page of a listing that a store is asked for.
pub const LIST_PAGE_MAX: usize = 1000;

/// What a listing or [`ObjectStore::head`] knows of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its name.
    pub name: ObjectName,
    /// Its length in bytes.
    pub size: u64,
    /// When it was written, by the store's clock (never ours), in milliseconds since 1970.
    pub modified_unix_ms: i64,
}

/// Which bytes of an object are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// The whole object.
    All,
    /// Exactly `len` bytes from `start`; it is an error if the object ends earlier.
    Slice {
        /// First byte.
        start: u64,
        /// How many.
        len: u64,
    },
    /// The last bytes, or the whole object if it is shorter.
    Last(u64),
}

impl ByteRange {
    /// The bytes meant, for an object of `size` bytes; `None` if a slice ends after the object.
    #[must_use]
    pub fn resolve(self, size: u64) -> Option<Range<u64>> {
        match self {
            ByteRange::All => Some(0..size),
            ByteRange::Slice { start, len } => {
                let end = start.checked_add(len)?;
                (end <= size).then_some(start..end)
            }
            ByteRange::Last(len) => Some(size.saturating_sub(len)..size),
        }
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ByteRange::All => f.write_str("all bytes"),
            ByteRange::Slice { start, len } => write!(f, "{len} bytes from {start}"),
            ByteRange::Last(len) => write!(f, "the last {len} bytes"),
        }
    }
}

/// Answer of [`ObjectStore::put_new`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum PutNew {
    /// The object is there now, with these bytes, durable.
    Created,
    /// An object of this name was there before, durable; it was not touched.
    AlreadyExists,
}

/// One page of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListPage {
    /// Objects, ordered by name.
    pub objects: Vec<ObjectMeta>,
    /// `Some` if there is more: pass it as `after` to the same store with the same prefix. Opaque.
    pub next: Option<String>,
    /// Things under the prefix that cannot be ours (their names are no object names): left out of `objects`.
    pub foreign: usize,
}

/// What a store can promise beyond the basic calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// `put_new` is atomic among concurrent writers. Without it only features with a single writer are safe.
    pub create_only: bool,
    /// New objects are locked for a time; what old ones a new backup needs is to be locked on ([`ObjectStore::keep_locked`]).
    pub locks: bool,
}

/// A place that keeps objects.
#[async_trait]
pub trait ObjectStore: fmt::Debug + Send + Sync + 'static {
    /// Creates an object; never overwrites. Durable when `Ok`.
    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutNew, ObjectError>;

    /// Reads bytes of an object. A missing object is [`ErrorClass::NotFound`], a slice past the end [`ErrorClass::Corrupt`].
    async fn get(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, ObjectError>;

    /// Size and time of an object, `None` if there is none.
    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>, ObjectError>;

    /// At most `max` objects whose names begin with `prefix` and come after `after` (exclusive: a name, or
    /// [`ListPage::next`] of the page before).
    async fn list_page(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, ObjectError>;

    /// Removes an object, durably. A missing one is a success. One that is locked is [`ErrorClass::Locked`], and stays.
    async fn delete(&self, name: &ObjectName) -> Result<(), ObjectError>;

    /// Sees to it that an object stays locked as long as if it were put now; where nothing is locked, nothing is done.
    async fn keep_locked(&self, name: &ObjectName) -> Result<(), ObjectError>;

    /// Rules by which the place itself deletes our objects or puts them out of reach, in words; `None` where it does not say.
    async fn expiry_rules(&self) -> Result<Option<Vec<String>>, ObjectError> {
        Ok(Some(Vec::new()))
    }

    /// What this store can promise.
    fn capabilities(&self) -> Capabilities;
}

#[async_trait]
impl<S: ObjectStore + ?Sized> ObjectStore for Arc<S> {
    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutNew, ObjectError> {
        (**self).put_new(name, body).await
    }
    async fn get(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, ObjectError> {
        (**self).get(name, range).await
    }
    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>, ObjectError> {
        (**self).head(name).await
    }
    async fn list_page(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, ObjectError> {
        (**self).list_page(prefix, after, max).await
    }
    async fn delete(&self, name: &ObjectName) -> Result<(), ObjectError> {
        (**self).delete(name).await
    }
    async fn keep_locked(&self, name: &ObjectName) -> Result<(), ObjectError> {
        (**self).keep_locked(name).await
    }
    async fn expiry_rules(&self) -> Result<Option<Vec<String>>, ObjectError> {
        (**self).expiry_rules().await
    }
    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }
}

/// Every object under `prefix`, ordered by name. All pages or an error: deletion must never be decided on a part of a listing.
///
/// # Errors
/// Those of the store, and [`ErrorClass::Corrupt`] when the pages make no progress.
pub async fn list_all(store: &dyn ObjectStore, prefix: &str) -> Result<Vec<ObjectMeta>, ObjectError> {
    let mut found = BTreeMap::new();
    let mut after: Option<String> = None;
    let mut foreign = 0;
    let mut idle_pages = 0;
    loop {
        let page = store.list_page(prefix, after.as_deref(), LIST_PAGE_MAX).await?;
        let before = found.len();
        found.extend(page.objects.into_iter().map(|meta| (meta.name.clone(), meta)));
        foreign = foreign.max(page.foreign);
        idle_pages = if found.len() == before && page.foreign == 0 {
            idle_pages + 1
        } else {
            0
        };
        let Some(next) = page.next else { break };
        if after.as_ref() == Some(&next) || idle_pages > IDLE_PAGES_MAX {
            let detail = "the pages of the listing make no progress";
            return Err(ObjectError::new(
                Operation::List,
                prefix,
                Outcome::DidNotHappen,
                ErrorClass::Corrupt,
                detail,
            ));
        }
        after = Some(next);
    }
    if foreign > 0 {
        tracing::warn!(object = prefix, "ignored names in the repository that are not ours");
    }
    Ok(found.into_values().collect())
}

/// S3 may answer with an empty page and "there is more" (after many deletions); not forever.
const IDLE_PAGES_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_resolves_to_bytes_inside_the_object_or_to_nothing() {
        let slice = |start, len| ByteRange::Slice { start, len };
        assert_eq!(ByteRange::All.resolve(0), Some(0..0));
        assert_eq!(slice(0, 10).resolve(10), Some(0..10));
        assert_eq!(slice(10, 0).resolve(10), Some(10..10));
        assert_eq!(slice(10, 1).resolve(10), None);
        assert_eq!(slice(u64::MAX, 2).resolve(10), None);
        assert_eq!(ByteRange::Last(3).resolve(10), Some(7..10));
        assert_eq!(ByteRange::Last(30).resolve(10), Some(0..10));
        assert_eq!(ByteRange::Last(0).resolve(10), Some(10..10));
    }

    #[derive(Debug)]
    struct Circular;

    #[async_trait]
    impl ObjectStore for Circular {
        async fn put_new(&self, _: &ObjectName, _: Bytes) -> Result<PutNew, ObjectError> {
            Ok(PutNew::Created)
        }
        async fn get(&self, _: &ObjectName, _: ByteRange) -> Result<Bytes, ObjectError> {
            Ok(Bytes::new())
        }
        async fn head(&self, _: &ObjectName) -> Result<Option<ObjectMeta>, ObjectError> {
            Ok(None)
        }
        async fn list_page(&self, _: &str, after: Option<&str>, _: usize) -> Result<ListPage, ObjectError> {
            let next = if after == Some("a") { "b" } else { "a" };
            Ok(ListPage {
                next: Some(next.to_owned()),
                ..ListPage::default()
            })
        }
        async fn delete(&self, _: &ObjectName) -> Result<(), ObjectError> {
            Ok(())
        }
        async fn keep_locked(&self, _: &ObjectName) -> Result<(), ObjectError> {
            Ok(())
        }
        fn capabilities(&self) -> Capabilities {
            Capabilities {
                create_only: false,
                locks: false,
            }
        }
    }

    #[tokio::test]
    async fn a_listing_that_goes_in_circles_is_an_error() {
        let error = list_all(&Circular, "").await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Corrupt);
    }
}
