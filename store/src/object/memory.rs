//! Objects in memory, for tests: a `BTreeMap` with a clock that the test moves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{ByteRange, Capabilities, ListPage, ObjectError, ObjectMeta, ObjectName, ObjectStore, Operation, PutNew};

/// A store in memory. Clones share the objects and the clock.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<ObjectName, (Bytes, i64)>,
    now_unix_ms: i64,
    /// How long new objects are locked, whatever their names.
    lock_ms: Option<i64>,
    locks: BTreeMap<ObjectName, i64>,
}

impl MemoryStore {
    /// An empty store whose clock stands at 1970.
    #[must_use]
    pub fn new() -> Self {
        MemoryStore::default()
    }

    /// Sets the clock that stamps new objects.
    pub fn set_now(&self, unix_ms: i64) {
        self.lock().now_unix_ms = unix_ms;
    }

    /// Locks new objects for so long.
    pub fn lock_for(&self, ms: i64) {
        self.lock().lock_ms = Some(ms);
    }

    /// Moves the clock.
    pub fn advance(&self, ms: i64) {
        let mut state = self.lock();
        state.now_unix_ms = state.now_unix_ms.saturating_add(ms);
    }

    /// What the clock says.
    #[must_use]
    pub fn now_unix_ms(&self) -> i64 {
        self.lock().now_unix_ms
    }

    /// Everything that is stored.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<ObjectName, Bytes> {
        self.lock()
            .objects
            .iter()
            .map(|(name, (body, _))| (name.clone(), body.clone()))
            .collect()
    }

    /// Names that begin with `prefix`.
    #[must_use]
    pub fn names(&self, prefix: &str) -> Vec<ObjectName> {
        let is_below = |name: &&ObjectName| name.as_str().starts_with(prefix);
        self.lock().objects.keys().filter(is_below).cloned().collect()
    }

    /// True when there is such an object.
    #[must_use]
    pub fn contains(&self, name: &ObjectName) -> bool {
        self.lock().objects.contains_key(name)
    }

    /// Nothing is stored any more but these; the clock stands at 1970 again.
    pub fn reset(&self, objects: &[(ObjectName, Bytes)]) {
        let mut state = self.lock();
        state.now_unix_ms = 0;
        let fresh = objects.iter().map(|(name, body)| (name.clone(), (body.clone(), 0)));
        state.objects = fresh.collect();
    }

    /// Puts bytes in place whatever was there, as damage or an intruder would. Keeps the time of an existing object.
    pub fn overwrite(&self, name: &ObjectName, body: Bytes) {
        let mut state = self.lock();
        let now = state.now_unix_ms;
        state.objects.entry(name.clone()).or_insert((Bytes::new(), now)).0 = body;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of a test thread cannot leave the map half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutNew, ObjectError> {
        let mut state = self.lock();
        if state.objects.contains_key(name) {
            return Ok(PutNew::AlreadyExists);
        }
        let now = state.now_unix_ms;
        if let Some(lock_ms) = state.lock_ms {
            state.locks.insert(name.clone(), now.saturating_add(lock_ms));
        }
        state.objects.insert(name.clone(), (body, now));
        Ok(PutNew::Created)
    }

    async fn get(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, ObjectError> {
        let body = self.lock().objects.get(name).map(|(body, _)| body.clone());
        let body = body.ok_or_else(|| ObjectError::not_found(Operation::Get, name))?;
        let size = body.len() as u64;
        let bytes = range
            .resolve(size)
            .ok_or_else(|| ObjectError::past_end(name, range, size))?;
        Ok(body.slice(bytes.start as usize..bytes.end as usize))
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>, ObjectError> {
        let state = self.lock();
        Ok(state
            .objects
            .get(name)
            .map(|(body, modified)| meta(name, body, *modified)))
    }

    async fn list_page(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, ObjectError> {
        let max = max.max(1);
        let state = self.lock();
        let mut objects: Vec<_> = state
            .objects
            .iter()
            .filter(|(name, _)| name.as_str().starts_with(prefix) && after.is_none_or(|after| name.as_str() > after))
            .take(max + 1)
            .map(|(name, (body, modified))| meta(name, body, *modified))
            .collect();
        let more = objects.len() > max;
        objects.truncate(max);
        let next = objects.last().filter(|_| more).map(|last| last.name.to_string());
        Ok(ListPage {
            objects,
            next,
            foreign: 0,
        })
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), ObjectError> {
        let mut state = self.lock();
        let now = state.now_unix_ms;
        if state.locks.get(name).is_some_and(|until| *until > now) {
            return Err(ObjectError::locked(name));
        }
        state.objects.remove(name);
        Ok(())
    }

    async fn keep_locked(&self, name: &ObjectName) -> Result<(), ObjectError> {
        let mut state = self.lock();
        if let Some(lock_ms) = state.lock_ms {
            let until = state.now_unix_ms.saturating_add(lock_ms);
            let lock = state.locks.entry(name.clone()).or_default();
            *lock = until.max(*lock);
        }
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            create_only: true,
            locks: self.lock().lock_ms.is_some(),
        }
    }
}

fn meta(name: &ObjectName, body: &Bytes, modified_unix_ms: i64) -> ObjectMeta {
    ObjectMeta {
        name: name.clone(),
        size: body.len() as u64,
        modified_unix_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn objects_carry_the_time_of_the_clock_at_their_creation() {
        let store = MemoryStore::new();
        store.set_now(5_000);
        let name = ObjectName::new("a").unwrap();
        assert_eq!(
            store.put_new(&name, Bytes::from_static(b"x")).await.unwrap(),
            PutNew::Created
        );
        store.advance(1);
        store.overwrite(&name, Bytes::from_static(b"yy"));
        let meta = store.head(&name).await.unwrap().unwrap();
        assert_eq!(
            (meta.size, meta.modified_unix_ms, store.now_unix_ms()),
            (2, 5_000, 5_001)
        );
    }
}
