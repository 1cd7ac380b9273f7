//! A store whose every request gives the others a turn, before it and after it: what is polled once has come one request further at the most.

use std::task::Poll;

use async_trait::async_trait;
use bytes::Bytes;

use crate::object::memory::MemoryStore;
use crate::object::{ByteRange, Capabilities, ListPage, ObjectError, ObjectMeta, ObjectName, ObjectStore, PutNew};

#[derive(Debug, Clone)]
pub(super) struct Scheduled(pub(super) MemoryStore);

/// Pending once.
async fn turn() {
    let mut is_over = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut is_over, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[async_trait]
impl ObjectStore for Scheduled {
    async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<PutNew, ObjectError> {
        turn().await;
        let put = self.0.put_new(name, body).await;
        turn().await;
        put
    }

    async fn get(&self, name: &ObjectName, range: ByteRange) -> Result<Bytes, ObjectError> {
        turn().await;
        self.0.get(name, range).await
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>, ObjectError> {
        turn().await;
        self.0.head(name).await
    }

    async fn list_page(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<ListPage, ObjectError> {
        turn().await;
        self.0.list_page(prefix, after, max).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), ObjectError> {
        turn().await;
        self.0.delete(name).await?;
        turn().await;
        Ok(())
    }

    async fn keep_locked(&self, name: &ObjectName) -> Result<(), ObjectError> {
        turn().await;
        self.0.keep_locked(name).await
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
}
