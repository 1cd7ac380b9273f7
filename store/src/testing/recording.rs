//! A store that counts, for assertions on the number of requests.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::object::{
    ByteRange, Capabilities, ListPage, ObjectError, ObjectMeta, ObjectName, ObjectStore, Operation, PutNew,
};

/// Requests by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// `put_new` calls.
    pub put_new: u64,
    /// `get` calls.
    pub get: u64,
    /// `head` calls.
    pub head: u64,
    /// `list_page` calls.
    pub list: u64,
    /// `delete` calls.
    pub delete: u64,
    /// `keep_locked` calls.
    pub lock: u64,
    /// Bytes of all bodies handed to `put_new`.
    pub bytes_put: u64,
    /// Bytes of all bodies returned by `get`.
    pub bytes_got: u64,
}

impl Counts {
    /// All calls.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.put_new + self.get + self.head + self.list + self.delete + self.lock
    }
}

/// Counts the calls to the store behind it, failed ones too.
#[derive(Debug)]
pub struct RecordingStore<S> {
    inner: S,
    state: Mutex<(Counts, Vec<(Operation, String)>)>,
}

impl<S: ObjectStore> RecordingStore<S> {
    /// Wraps `inner`.
    pub fn new(inner: S) -> Self {
        RecordingStore {
            inner,
            state: Mutex::default(),
        }
    }

    /// The store behind.
    #[must_use]
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Calls since the beginning or the last [`RecordingStore::take`].
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.lock().0
    }

    /// The calls in order, with object name or listed prefix.
    #[must_use]
    pub fn calls(&self) -> Vec<(Operation, String)> {
        self.lock().1.clone()
    }

    /// The counts, which begin again from zero.
    pub fn take(&self) -> Counts {
        let mut state = self.lock();
        state.1.clear();
        std::mem::take(&mut state.0)
    }

    fn record(&self, operation: Operation, name: &str, count: impl FnOnce(&mut Counts)) {
        let mut state = self.lock();
        count(&mut state.0);
        state.1.push((operation, name.to_owned()));
    }

    fn lock(&self) -> MutexGuard<'_, (Counts, Vec<(Operation, String)>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for RecordingStore<S> {
    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutNew, ObjectError> {
        self.record(Operation::PutNew, name.as_str(), |counts| {
            counts.put_new += 1;
            counts.bytes_put += body.len() as u64;
        });
        self.inner.put_new(name, body).await
    }

    async fn get(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, ObjectError> {
        self.record(Operation::Get, name.as_str(), |counts| counts.get += 1);
        let body = self.inner.get(name, range).await?;
        self.lock().0.bytes_got += body.len() as u64;
        Ok(body)
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>, ObjectError> {
        self.record(Operation::Head, name.as_str(), |counts| counts.head += 1);
        self.inner.head(name).await
    }

    async fn list_page(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, ObjectError> {
        self.record(Operation::List, prefix, |counts| counts.list += 1);
        self.inner.list_page(prefix, after, max).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), ObjectError> {
        self.record(Operation::Delete, name.as_str(), |counts| counts.delete += 1);
        self.inner.delete(name).await
    }

    async fn keep_locked(&self, name: &ObjectName) -> Result<(), ObjectError> {
        self.record(Operation::Lock, name.as_str(), |counts| counts.lock += 1);
        self.inner.keep_locked(name).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}
