//! A store that takes packs and WAL and forgets them, so that nothing but our own work is measured.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use store::object::memory::MemoryStore;
use store::object::{ByteRange, Capabilities, ListPage, ObjectError, ObjectMeta, ObjectName, ObjectStore, PutNew};

/// Keeps what is small; packs only while it is told to, WAL never.
#[derive(Debug, Default)]
pub struct NullStore {
    kept: MemoryStore,
    keeps_packs: AtomicBool,
    pack_bytes: AtomicU64,
}

impl NullStore {
    /// Whether packs are kept from now on: a parent must be readable.
    pub fn keep_packs(&self, keep: bool) {
        self.keeps_packs.store(keep, Ordering::Relaxed);
    }

    /// Bytes of packs since the last call.
    pub fn take_pack_bytes(&self) -> u64 {
        self.pack_bytes.swap(0, Ordering::Relaxed)
    }
}

#[async_trait]
impl ObjectStore for NullStore {
    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutNew, ObjectError> {
        if name.as_str().contains("/packs/") {
            self.pack_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
            if !self.keeps_packs.load(Ordering::Relaxed) {
                return Ok(PutNew::Created);
            }
        }
        if name.as_str().contains("/wal/") {
            return Ok(PutNew::Created);
        }
        self.kept.put_new(name, body).await
    }
    async fn get(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, ObjectError> {
        self.kept.get(name, range).await
    }
    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>, ObjectError> {
        self.kept.head(name).await
    }
    async fn list_page(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, ObjectError> {
        self.kept.list_page(prefix, after, max).await
    }
    async fn delete(&self, name: &ObjectName) -> Result<(), ObjectError> {
        self.kept.delete(name).await
    }
    async fn keep_locked(&self, name: &ObjectName) -> Result<(), ObjectError> {
        self.kept.keep_locked(name).await
    }
    fn capabilities(&self) -> Capabilities {
        self.kept.capabilities()
    }
}
