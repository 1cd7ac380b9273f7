//! Places that fail: what is confirmed lies where the rule says, and nothing is confirmed that does not.

use std::time::Duration;

use super::*;
use crate::object::memory::MemoryStore;
use crate::testing::{Fault, Hold, ScriptedStore};

type Scripted = Arc<ScriptedStore<MemoryStore>>;

fn name(text: &str) -> ObjectName {
    ObjectName::new(format!("clusters/main/{text}")).unwrap()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// A repository and two copies; the copies are whole.
fn three(confirm: Confirm) -> (Vec<Scripted>, Mirrored) {
    let stores: Vec<Scripted> = (0..3)
        .map(|_| Arc::new(ScriptedStore::new(MemoryStore::new())))
        .collect();
    let place = |at: usize| Place::new(["repository", "east", "west"][at], stores[at].clone());
    let mirrored = Mirrored::new(place(0), vec![place(1), place(2)], confirm);
    for place in &mirrored.places()[1..] {
        assert!(mirrored.found_whole(place, place.misses()));
    }
    (stores, mirrored)
}

fn has(store: &Scripted, at: &ObjectName) -> bool {
    store.inner().contains(at)
}

fn standings(mirrored: &Mirrored) -> Vec<Standing> {
    mirrored.places().iter().map(|place| place.standing()).collect()
}

async fn put(mirrored: &Mirrored, at: &ObjectName) -> Result<PutNew, ObjectError> {
    mirrored.put_new(at, bytes("body")).await
}

#[tokio::test]
async fn every_place_gets_everything() {
    for confirm in [Confirm::First, Confirm::Any, Confirm::All] {
        let (stores, mirrored) = three(confirm);
        for at in ["wal/1", "packs/aa/1", "leases/1", "backups/1"].map(name) {
            assert_eq!(put(&mirrored, &at).await.unwrap(), PutNew::Created);
            mirrored.settled().await;
            // A manifest is put without being counted: it comes a moment later.
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(stores.iter().all(|store| has(store, &at)), "{confirm:?} {at}");
        }
        assert_eq!(standings(&mirrored), [Standing::Whole; 3]);
    }
}

#[tokio::test]
async fn by_first_a_copy_that_fails_falls_behind_and_gets_no_manifest_until_it_is_filled() {
    let (stores, mirrored) = three(Confirm::First);
    stores[1].push(Operation::PutNew, "packs", Fault::FailBefore);
    let _ = put(&mirrored, &name("packs/aa/1")).await.unwrap();
    mirrored.settled().await;
    tokio::task::yield_now().await;
    assert_eq!(
        standings(&mirrored),
        [Standing::Whole, Standing::Behind, Standing::Whole]
    );
    let _ = put(&mirrored, &name("backups/1")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!has(&stores[1], &name("backups/1")) && has(&stores[2], &name("backups/1")));
    // WAL goes there all the same.
    let _ = put(&mirrored, &name("wal/1")).await.unwrap();
    mirrored.settled().await;
    assert!(has(&stores[1], &name("wal/1")));
    let place = &mirrored.places()[1];
    assert!(
        !mirrored.found_whole(place, place.misses() - 1),
        "it has missed something since"
    );
    assert!(mirrored.found_whole(place, place.misses()));
}

#[tokio::test]
async fn by_first_nothing_is_confirmed_that_the_repository_has_not() {
    let (stores, mirrored) = three(Confirm::First);
    stores[0].push(Operation::PutNew, "wal", Fault::FailBefore);
    assert!(put(&mirrored, &name("wal/1")).await.is_err());
    assert_eq!(mirrored.places()[0].standing(), Standing::Whole);
    // A slow copy keeps nobody waiting.
    let hold = Hold::new();
    stores[2].push(Operation::PutNew, "wal", Fault::Hold(hold.clone()));
    let _ = put(&mirrored, &name("wal/2")).await.unwrap();
    hold.release();
}

#[tokio::test]
async fn by_any_the_repository_itself_may_fail_and_is_not_read_from_then() {
    let (stores, mirrored) = three(Confirm::Any);
    let hold = Hold::new();
    stores[1].push(Operation::PutNew, "wal", Fault::Hold(hold.clone()));
    stores[0].push(Operation::PutNew, "wal", Fault::FailBefore);
    let _ = put(&mirrored, &name("wal/1")).await.unwrap();
    assert_eq!(mirrored.source().name, "east");
    hold.release();
    mirrored.settled().await;
    assert_eq!(
        mirrored.get(&name("wal/1"), ByteRange::All).await.unwrap(),
        bytes("body")
    );
    assert!(!has(&stores[0], &name("wal/1")));
    // Nobody has it: nothing is confirmed, and whoever was whole is so still.
    for store in &stores[1..] {
        store.push(Operation::PutNew, "wal", Fault::FailBefore);
    }
    assert!(put(&mirrored, &name("wal/2")).await.is_err());
    assert_eq!(standings(&mirrored)[1..], [Standing::Whole; 2]);
}

#[tokio::test]
async fn by_any_it_does_not_count_that_a_place_has_it_which_lacks_something_else() {
    let (stores, mirrored) = three(Confirm::Any);
    mirrored.found_behind(&mirrored.places()[2]);
    for store in &stores[..2] {
        store.push(Operation::PutNew, "wal", Fault::FailBefore);
    }
    assert!(put(&mirrored, &name("wal/1")).await.is_err());
}

#[tokio::test]
async fn by_all_a_place_that_may_be_whole_holds_everything_up() {
    let (stores, mirrored) = three(Confirm::All);
    stores[2].push(Operation::PutNew, "wal", Fault::FailBefore);
    assert!(put(&mirrored, &name("wal/1")).await.is_err());
    assert_eq!(standings(&mirrored), [Standing::Whole; 3]);
    // One that is known to lack something is filled by somebody else.
    mirrored.found_behind(&mirrored.places()[2]);
    stores[2].push(Operation::PutNew, "wal", Fault::FailBefore);
    let _ = put(&mirrored, &name("wal/2")).await.unwrap();
}

#[tokio::test]
async fn what_must_be_unique_is_decided_by_one_place() {
    let (stores, mirrored) = three(Confirm::Any);
    stores[0].inner().overwrite(&name("leases/1"), bytes("another's"));
    assert_eq!(put(&mirrored, &name("leases/1")).await.unwrap(), PutNew::AlreadyExists);
    assert!(!has(&stores[1], &name("leases/1")));
    // A copy that has something else under a name does not fit any more.
    stores[1].inner().overwrite(&name("leases/2"), bytes("something else"));
    assert_eq!(put(&mirrored, &name("leases/2")).await.unwrap(), PutNew::Created);
    mirrored.settled().await;
    tokio::task::yield_now().await;
    assert_eq!(mirrored.places()[1].standing(), Standing::Behind);
}

#[tokio::test]
async fn a_manifest_comes_after_what_is_on_its_way() {
    let (stores, mirrored) = three(Confirm::First);
    let hold = Hold::new();
    stores[1].push(Operation::PutNew, "packs", Fault::Hold(hold.clone()));
    let _ = put(&mirrored, &name("packs/aa/1")).await.unwrap();
    hold.arrived().await;
    let _ = put(&mirrored, &name("backups/1")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(has(&stores[2], &name("backups/1")) && !has(&stores[1], &name("backups/1")));
    hold.release();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(has(&stores[1], &name("backups/1")));
}

#[tokio::test]
async fn a_listing_is_not_continued_elsewhere() {
    let (_, mirrored) = three(Confirm::Any);
    for number in 0..5 {
        let _ = put(&mirrored, &name(&format!("wal/{number}"))).await.unwrap();
    }
    mirrored.settled().await;
    let page = mirrored.list_page("clusters/", None, 2).await.unwrap();
    let next = page.next.unwrap();
    assert_eq!(
        mirrored
            .list_page("clusters/", Some(&next), 2)
            .await
            .unwrap()
            .objects
            .len(),
        2
    );
    mirrored.found_behind(&mirrored.places()[0]);
    assert!(mirrored.list_page("clusters/", Some(&next), 2).await.is_err());
    let all = crate::object::list_all(&mirrored, "clusters/").await.unwrap();
    assert_eq!(all.len(), 5);
}
