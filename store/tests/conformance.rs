//! The suite on the stores that need no server.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use store::object::ObjectStore;
use store::object::local::{LocalOptions, LocalStore};
use store::object::memory::MemoryStore;
use store::retry::{RetryPolicy, Retrying};
use store::testing::{RecordingStore, ScriptedStore, conformance};

const SEED: u64 = 20_261_121;

#[tokio::test]
async fn the_memory_store_conforms() {
    conformance::run(&MemoryStore::new(), SEED).await;
    conformance::race(&MemoryStore::new(), SEED, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_store_conforms() {
    for group_read in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::create_with(dir.path().join("repository"), LocalOptions { group_read }).unwrap();
        conformance::run(&store, SEED).await;
        conformance::race(&store, SEED, 100).await;
    }
}

#[tokio::test]
async fn wrappers_change_nothing_when_nothing_fails() {
    let wrapped: Arc<dyn ObjectStore> = Arc::new(ScriptedStore::new(RecordingStore::new(MemoryStore::new())));
    conformance::run(&Retrying::new(wrapped, RetryPolicy::patient(), SEED), SEED).await;
}
