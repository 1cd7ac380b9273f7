//! A directory that counts its requests, and keeps of data packs only what lies at their ends: head and footer.

use std::fs::{File, create_dir_all};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use store::object::local::LocalStore;
use store::object::{
    ByteRange, Capabilities, ErrorClass, ListPage, ObjectError, ObjectMeta, ObjectName, ObjectStore, Operation,
    Outcome, PutNew,
};

/// Byte 8 of an object is its kind (FORMAT 4); this is that of data packs.
const DATA_PACK: u8 = 1;
/// Enough for head and signature, and for the footer of a pack of 500 chunks.
const END_BYTES: usize = 32 << 10;

/// Requests by kind, and the bytes that went each way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Objects put.
    pub put: u64,
    /// Reads of an object or of a part.
    pub get: u64,
    /// Looks at an object.
    pub head: u64,
    /// Pages of listings.
    pub list: u64,
    /// Bytes put.
    pub put_bytes: u64,
    /// Of these in objects that are no data packs.
    pub put_metadata_bytes: u64,
    /// Data packs put.
    pub data_packs: u64,
    /// Bytes read.
    pub get_bytes: u64,
}

/// The store.
#[derive(Debug)]
pub struct HollowStore {
    inner: LocalStore,
    put: AtomicU64,
    get: AtomicU64,
    head: AtomicU64,
    list: AtomicU64,
    put_bytes: AtomicU64,
    put_metadata_bytes: AtomicU64,
    data_packs: AtomicU64,
    get_bytes: AtomicU64,
}

impl HollowStore {
    /// Over a directory that is there.
    ///
    /// # Errors
    /// It is not.
    pub fn open(root: PathBuf) -> Result<Self, ObjectError> {
        Ok(HollowStore {
            inner: LocalStore::open(root)?,
            put: AtomicU64::default(),
            get: AtomicU64::default(),
            head: AtomicU64::default(),
            list: AtomicU64::default(),
            put_bytes: AtomicU64::default(),
            put_metadata_bytes: AtomicU64::default(),
            data_packs: AtomicU64::default(),
            get_bytes: AtomicU64::default(),
        })
    }

    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            put: of(&self.put),
            get: of(&self.get),
            head: of(&self.head),
            list: of(&self.list),
            put_bytes: of(&self.put_bytes),
            put_metadata_bytes: of(&self.put_metadata_bytes),
            data_packs: of(&self.data_packs),
            get_bytes: of(&self.get_bytes),
        }
    }
}

/// A file of this length that takes no room on the disk.
///
/// # Errors
/// It cannot be made.
pub fn sparse(path: &Path, bytes: u64) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        create_dir_all(parent)?;
    }
    let file = File::create_new(path)?;
    file.set_len(bytes)?;
    Ok(file)
}

/// Where the body of an object ends (FORMAT 4): what follows is padding.
fn body_end(object: &[u8]) -> Option<usize> {
    let number = |at: usize| object.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    Some(184 + number(56)? as usize + number(60)? as usize + number(64)? as usize)
}

fn put_hollow(path: &Path, body: &[u8]) -> io::Result<()> {
    let file = sparse(path, body.len() as u64)?;
    file.write_all_at(body.get(..END_BYTES).unwrap_or(body), 0)?;
    let end = body_end(body).unwrap_or(body.len()).min(body.len());
    let from = end.saturating_sub(END_BYTES);
    file.write_all_at(body.get(from..end).unwrap_or_default(), from as u64)
}

#[async_trait]
impl ObjectStore for HollowStore {
    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutNew, ObjectError> {
        self.put.fetch_add(1, Ordering::Relaxed);
        self.put_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        if body.get(8) != Some(&DATA_PACK) {
            self.put_metadata_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
            return self.inner.put_new(name, body).await;
        }
        self.data_packs.fetch_add(1, Ordering::Relaxed);
        let failed = |error: io::Error| {
            let (outcome, class) = (Outcome::Unknown, ErrorClass::Permanent);
            ObjectError::new(Operation::PutNew, name.as_str(), outcome, class, error.to_string())
        };
        put_hollow(&self.inner.path().join(name.as_str()), &body).map_err(failed)?;
        Ok(PutNew::Created)
    }

    async fn get(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, ObjectError> {
        self.get.fetch_add(1, Ordering::Relaxed);
        let bytes = self.inner.get(name, range).await?;
        self.get_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>, ObjectError> {
        self.head.fetch_add(1, Ordering::Relaxed);
        self.inner.head(name).await
    }

    async fn list_page(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, ObjectError> {
        self.list.fetch_add(1, Ordering::Relaxed);
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
