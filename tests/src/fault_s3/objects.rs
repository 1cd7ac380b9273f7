//! Buckets and objects, in memory. What is stored is durable at once: the process that holds it is the test itself.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

use bytes::Bytes;

use super::text::crc32;

/// A stored object.
#[derive(Debug, Clone)]
pub struct Object {
    pub bytes: Bytes,
    pub modified: SystemTime,
    pub durable: Instant,
    /// Name and value of the checksum header that it was sent with.
    pub(super) checksum: Option<(String, String)>,
}

impl Object {
    pub(super) fn etag(&self) -> String {
        format!("\"{:08x}{:08x}\"", crc32(&self.bytes), self.bytes.len())
    }
}

/// What came of a PUT.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stored {
    Created(Instant),
    Replaced(Instant),
    /// There was one already, and it was asked for a new one.
    Exists,
    NoBucket,
}

/// One page of a listing.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub objects: Vec<(String, Object)>,
    pub is_truncated: bool,
}

/// All buckets of one server.
#[derive(Debug, Default)]
pub struct Objects {
    buckets: Mutex<BTreeMap<String, BTreeMap<String, Object>>>,
}

impl Objects {
    pub fn create_bucket(&self, name: &str) {
        self.buckets.lock().unwrap().entry(name.to_owned()).or_default();
    }

    /// Keys with this in them, over all buckets.
    pub fn keys(&self, part: &str) -> Vec<String> {
        let buckets = self.buckets.lock().unwrap();
        let keys = buckets.values().flat_map(BTreeMap::keys);
        keys.filter(|key| key.contains(part)).cloned().collect()
    }

    pub fn get(&self, bucket: &str, key: &str) -> Option<Object> {
        self.buckets.lock().unwrap().get(bucket)?.get(key).cloned()
    }

    /// Takes an object away, as bit rot or a hand does.
    pub fn remove(&self, key: &str) {
        for bucket in self.buckets.lock().unwrap().values_mut() {
            bucket.remove(key);
        }
    }

    pub(super) fn has_bucket(&self, bucket: &str) -> bool {
        self.buckets.lock().unwrap().contains_key(bucket)
    }

    pub(super) fn put(
        &self,
        bucket: &str,
        key: &str,
        bytes: Bytes,
        checksum: Option<(String, String)>,
        only_new: bool,
    ) -> Stored {
        let mut buckets = self.buckets.lock().unwrap();
        let Some(objects) = buckets.get_mut(bucket) else {
            return Stored::NoBucket;
        };
        if only_new && objects.contains_key(key) {
            return Stored::Exists;
        }
        let durable = Instant::now();
        let object = Object {
            bytes,
            modified: SystemTime::now(),
            durable,
            checksum,
        };
        match objects.insert(key.to_owned(), object) {
            None => Stored::Created(durable),
            Some(_) => Stored::Replaced(durable),
        }
    }

    pub(super) fn delete(&self, bucket: &str, key: &str) {
        if let Some(objects) = self.buckets.lock().unwrap().get_mut(bucket) {
            objects.remove(key);
        }
    }

    /// At most `max` objects below `prefix` and behind `after`; with `as_of`, only those that were there then.
    pub(super) fn list(&self, bucket: &str, prefix: &str, after: &str, max: usize, as_of: Option<Instant>) -> Page {
        let buckets = self.buckets.lock().unwrap();
        let Some(objects) = buckets.get(bucket) else {
            return Page::default();
        };
        let from = if after < prefix {
            Bound::Included(prefix.to_owned())
        } else {
            Bound::Excluded(after.to_owned())
        };
        let mut found = objects
            .range((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(_, object)| as_of.is_none_or(|as_of| object.durable <= as_of))
            .map(|(key, object)| (key.clone(), object.clone()));
        let objects = found.by_ref().take(max).collect();
        Page {
            objects,
            is_truncated: found.next().is_some(),
        }
    }
}
