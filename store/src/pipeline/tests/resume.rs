//! A backup that dies at any pack is gone on from, and what the next one says is right whatever changed in between.

use std::sync::Arc;
use std::time::Duration;

use super::super::*;
use super::fixture::{Files, Fixture};
use crate::file_table::EntryClass;
use crate::limits::PAGE_BYTES;
use crate::object::Operation;
use crate::object::memory::MemoryStore;
use crate::testing::{Fault, ScriptedStore, bytes_of};

const FILES: usize = 24;
const FILE_PAGES: usize = 700;

/// Some 130 MB that do not compress: seven packs.
fn files(seed: u64) -> Files {
    let file = |number: usize| {
        let bytes = bytes_of(seed * 1000 + number as u64, FILE_PAGES * PAGE_BYTES).to_vec();
        (format!("base/5/{}", 10_000 + number), (EntryClass::Relation, bytes))
    };
    (0..FILES).map(file).collect()
}

async fn inputs(fixture: &Fixture, parent: Option<BackupId>) -> PipelineInputs {
    let unfinished = fixture.host.unfinished(parent).await.unwrap();
    let manifest = match parent {
        Some(id) => Some(fixture.host.manifest(id).await.unwrap()),
        None => None,
    };
    let loaded = Parent::load(&fixture.host, manifest, unfinished.as_ref())
        .await
        .unwrap();
    PipelineInputs {
        parent: Some(loaded),
        milestones_every: Duration::ZERO,
        // One after the other, so that how much is noted does not depend on which thread is quicker.
        jobs: 1,
        uploads_in_flight: 1,
        ..fixture.inputs(None).await
    }
}

/// Lets a backup die behind its `at`th pack (data and metadata in turn); gives how many pages the next one had to store, and has.
async fn die_and_go_on(at: usize, with_parent: bool) -> (u64, u64) {
    let store = Arc::new(ScriptedStore::new(MemoryStore::new()));
    let mut fixture = Fixture::new(store.clone()).await;
    let mut now = files(1);
    let mut parent = None;
    if with_parent {
        let jobs = fixture.jobs(&now);
        let first = inputs(&fixture, None).await;
        parent = Some(fixture.backup(first, jobs).await.unwrap().0);
        now = files(2);
    }
    for _ in 0..at {
        store.push(Operation::PutNew, "/packs/", Fault::Slow(Duration::ZERO));
    }
    store.push(Operation::PutNew, "/packs/", Fault::FailBefore);
    let jobs = fixture.jobs(&now);
    let dies = inputs(&fixture, parent).await;
    assert!(matches!(fixture.backup(dies, jobs).await, Err(StoreError::Object(_))));
    assert_eq!(fixture.host.backup_ids().await.unwrap().len(), usize::from(with_parent));

    // Meanwhile a page of every third file changes, one file goes away and one is new; dates and sizes say nothing.
    for (number, (_, bytes)) in now.values_mut().enumerate() {
        if number % 3 == 0 {
            bytes[(number * 20) * PAGE_BYTES] ^= 0xFF;
        }
    }
    now.remove("base/5/10001");
    now.insert(
        "base/5/10002.1".into(),
        (EntryClass::Relation, bytes_of(77, 3 * PAGE_BYTES).to_vec()),
    );
    let jobs = fixture.jobs(&now);
    let goes_on = inputs(&fixture, parent).await;
    let (id, outcome) = fixture.backup(goes_on, jobs).await.unwrap();
    assert!(fixture.read_back(id).await == now, "died at pack {at}");
    // What goes on from the second is a backup like any other.
    let jobs = fixture.jobs(&now);
    let (again, same) = {
        let inputs = inputs(&fixture, Some(id)).await;
        fixture.backup(inputs, jobs).await.unwrap()
    };
    assert_eq!(same.totals.new_stored_bytes, 0);
    assert!(fixture.read_back(again).await == now);
    (outcome.totals.new_pages, outcome.totals.pages)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_died_is_gone_on_from_by_what_its_pages_are() {
    let mut new_pages = Vec::new();
    for at in [0, 5, 10] {
        let (new, all) = die_and_go_on(at, false).await;
        assert!(new <= all);
        new_pages.push(new);
    }
    let [none, half, most] = new_pages[..] else { panic!() };
    let all = (FILES * FILE_PAGES) as u64;
    assert!(none > all * 9 / 10, "nothing was there: {none}");
    assert!(half < none * 8 / 10 && most < half * 6 / 10, "{new_pages:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_backup_had_not_come_to_is_compared_with_the_one_before() {
    let (new, all) = die_and_go_on(7, true).await;
    assert!(new < all * 7 / 10, "{new} of {all}");
}
