//! Places that fail: what is confirmed lies where the rule says, and nothing is confirmed that does not.

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
fn three(confirm: Confirm) -> (Vec<Scripted>, Arc<Mirrored>) {
    let stores: Vec<Scripted> = (0..3)
        .map(|_| Arc::new(ScriptedStore::new(MemoryStore::new())))
        .collect();
    let place = |at: usize| Place::new(["repository", "east", "west"][at], stores[at].clone());
    let mirrored = Mirrored::new(place(0), vec![place(1), place(2)], confirm);
    for place in &mirrored.places()[1..] {
        assert!(mirrored.found_whole(place, place.misses()));
    }
    (stores, Arc::new(mirrored))
}

fn has(store: &Scripted, at: &ObjectName) -> bool {
    store.inner().contains(at)
}

fn standings(mirrored: &Mirrored) -> Vec<Standing> {
    mirrored.places().iter().map(|place| place.standing()).collect()
}

async fn put(mirrored: &Mirrored, at: &str) -> Result<PutNew, ObjectError> {
    mirrored.put_new(&name(at), bytes("body")).await
}

async fn created(mirrored: &Mirrored, at: &str) {
    assert_eq!(put(mirrored, at).await.unwrap(), PutNew::Created);
}

#[tokio::test]
async fn every_place_gets_everything_but_what_makes_a_backup() {
    for confirm in [Confirm::First, Confirm::Any, Confirm::All] {
        let (stores, mirrored) = three(confirm);
        for at in ["wal/1", "tail/1", "packs/aa/1", "leases/1", "keys/1"] {
            created(&mirrored, at).await;
            mirrored.settled().await;
            assert!(stores.iter().all(|store| has(store, &name(at))), "{confirm:?} {at}");
        }
        for at in ["intents/1/start", "index/1", "backups/1"] {
            created(&mirrored, at).await;
            mirrored.settled().await;
            let where_it_is: Vec<bool> = stores.iter().map(|store| has(store, &name(at))).collect();
            assert_eq!(where_it_is, [true, false, false], "{confirm:?} {at}");
        }
        assert_eq!(standings(&mirrored), [Standing::Whole; 3]);
    }
}

#[tokio::test]
async fn by_first_a_copy_that_fails_falls_behind_until_it_is_filled() {
    let (stores, mirrored) = three(Confirm::First);
    stores[1].push(Operation::PutNew, "packs", Fault::FailBefore);
    created(&mirrored, "packs/aa/1").await;
    mirrored.settled().await;
    assert_eq!(
        standings(&mirrored),
        [Standing::Whole, Standing::Behind, Standing::Whole]
    );
    // WAL goes there all the same.
    created(&mirrored, "wal/1").await;
    mirrored.settled().await;
    assert!(has(&stores[1], &name("wal/1")));
    let place = &mirrored.places()[1];
    assert!(
        !mirrored.found_whole(place, place.misses() - 1),
        "it has missed something since"
    );
    assert_eq!(place.standing(), Standing::Behind);
    assert!(mirrored.found_whole(place, place.misses()));
}

#[tokio::test]
async fn by_first_nothing_is_confirmed_that_the_repository_has_not() {
    let (stores, mirrored) = three(Confirm::First);
    stores[0].push(Operation::PutNew, "wal", Fault::FailBefore);
    assert!(put(&mirrored, "wal/1").await.is_err());
    assert_eq!(mirrored.source().name, "repository");
    // A slow copy keeps nobody waiting.
    let hold = stores[2].hold(Operation::PutNew, "wal");
    created(&mirrored, "wal/2").await;
    hold.release();
}

#[tokio::test]
async fn a_copy_that_was_looked_at_before_the_repository_had_it_is_not_taken_for_whole() {
    let (stores, mirrored) = three(Confirm::First);
    let hold = stores[0].hold(Operation::PutNew, "wal");
    stores[1].push(Operation::PutNew, "wal", Fault::FailBefore);
    let putting = tokio::spawn({
        let mirrored = Arc::clone(&mirrored);
        async move { put(&mirrored, "wal/1").await }
    });
    hold.arrived().await;
    let east = Arc::clone(&mirrored.places()[1]);
    while east.misses() == 0 {
        tokio::task::yield_now().await;
    }
    // Whoever looks now sees it nowhere, and nothing missing.
    assert!(mirrored.found_whole(&east, east.misses()));
    hold.release();
    assert_eq!(putting.await.unwrap().unwrap(), PutNew::Created);
    assert_eq!(east.standing(), Standing::Behind);
}

#[tokio::test]
async fn a_put_that_was_given_up_leaves_no_copy_that_is_taken_for_whole() {
    let (stores, mirrored) = three(Confirm::First);
    let hold = stores[0].hold(Operation::PutNew, "wal");
    let putting = tokio::spawn({
        let mirrored = Arc::clone(&mirrored);
        async move { put(&mirrored, "wal/1").await }
    });
    hold.arrived().await;
    putting.abort();
    assert!(putting.await.is_err());
    assert_eq!(standings(&mirrored)[1..], [Standing::Behind; 2]);
}

#[tokio::test]
async fn by_any_a_copy_leads_when_the_repository_fails_and_has_everything_that_was_confirmed() {
    let (stores, mirrored) = three(Confirm::Any);
    // The last thing that was confirmed is still on its way to the copy that will lead.
    let hold = stores[1].hold(Operation::PutNew, "wal/1");
    created(&mirrored, "wal/1").await;
    stores[0].push(Operation::PutNew, "wal/2", Fault::FailBefore);
    let putting = tokio::spawn({
        let mirrored = Arc::clone(&mirrored);
        async move { put(&mirrored, "wal/2").await }
    });
    hold.arrived().await;
    tokio::task::yield_now().await;
    assert!(!putting.is_finished());
    hold.release();
    assert_eq!(putting.await.unwrap().unwrap(), PutNew::AlreadyExists);
    assert_eq!(mirrored.source().name, "east");
    assert!(has(&stores[1], &name("wal/1")) && has(&stores[1], &name("wal/2")));
    assert_eq!(mirrored.places()[0].standing(), Standing::Behind);
    assert_eq!(
        mirrored.get(&name("wal/1"), ByteRange::All).await.unwrap(),
        bytes("body")
    );
}

#[tokio::test]
async fn by_any_a_copy_leads_whatever_it_is_that_the_repository_fails_at() {
    for at in ["leases/1", "ledger/1", "intents/1/start", "tail/1"] {
        let (stores, mirrored) = three(Confirm::Any);
        stores[0].push(Operation::PutNew, at, Fault::FailBefore);
        put(&mirrored, at).await.map(drop).unwrap();
        assert_eq!(mirrored.source().name, "east", "{at}");
        assert!(has(&stores[1], &name(at)), "{at}");
    }
}

#[tokio::test]
async fn by_any_nobody_leads_who_lacks_something() {
    let (stores, mirrored) = three(Confirm::Any);
    for store in &stores[1..] {
        store.push(Operation::PutNew, "wal/1", Fault::FailBefore);
    }
    created(&mirrored, "wal/1").await;
    mirrored.settled().await;
    stores[0].push(Operation::PutNew, "wal/2", Fault::FailBefore);
    assert!(put(&mirrored, "wal/2").await.is_err());
    assert_eq!(mirrored.source().name, "repository");
}

#[tokio::test]
async fn by_all_nothing_is_in_the_repository_that_a_copy_lacks() {
    let (stores, mirrored) = three(Confirm::All);
    stores[2].push(Operation::PutNew, "wal", Fault::FailBefore);
    assert!(put(&mirrored, "wal/1").await.is_err());
    // Who comes again, with the same or another connection, sees that it is not stored.
    assert!(!has(&stores[0], &name("wal/1")));
    assert_eq!(standings(&mirrored), [Standing::Whole; 3]);
    created(&mirrored, "wal/1").await;
    assert!(stores.iter().all(|store| has(store, &name("wal/1"))));
}

#[tokio::test]
async fn what_must_be_unique_is_decided_by_the_one_that_leads() {
    for confirm in [Confirm::First, Confirm::Any, Confirm::All] {
        let (stores, mirrored) = three(confirm);
        stores[0].inner().overwrite(&name("leases/1"), bytes("another's"));
        assert_eq!(put(&mirrored, "leases/1").await.unwrap(), PutNew::AlreadyExists);
        mirrored.settled().await;
        for copy in &stores[1..] {
            assert_eq!(copy.inner().snapshot()[&name("leases/1")], bytes("another's"));
        }
    }
    // A copy that has something else under a name does not fit any more.
    let (stores, mirrored) = three(Confirm::First);
    stores[1].inner().overwrite(&name("leases/2"), bytes("something else"));
    created(&mirrored, "leases/2").await;
    mirrored.settled().await;
    assert_eq!(mirrored.places()[1].standing(), Standing::Behind);
}

#[tokio::test]
async fn what_was_sealed_twice_is_the_same_to_who_has_the_keys() {
    let (stores, mirrored) = three(Confirm::All);
    stores[1].inner().overwrite(&name("wal/1"), bytes("sealed before"));
    assert!(put(&mirrored, "wal/1").await.is_err());
    mirrored.judge_by(Box::new(|_, ours, theirs| {
        ours == &bytes("body") && theirs == &bytes("sealed before")
    }));
    created(&mirrored, "wal/1").await;
}

#[tokio::test]
async fn a_listing_is_not_continued_elsewhere() {
    let (stores, mirrored) = three(Confirm::Any);
    for number in 0..5 {
        created(&mirrored, &format!("wal/{number}")).await;
    }
    let page = mirrored.list_page("clusters/", None, 2).await.unwrap();
    let next = page.next.unwrap();
    let second = mirrored.list_page("clusters/", Some(&next), 2).await.unwrap();
    assert_eq!(second.objects.len(), 2);
    stores[0].push(Operation::PutNew, "wal", Fault::FailBefore);
    let _ = put(&mirrored, "wal/5").await.unwrap();
    assert!(mirrored.list_page("clusters/", Some(&next), 2).await.is_err());
    let all = crate::object::list_all(mirrored.as_ref(), "clusters/").await.unwrap();
    assert_eq!(all.len(), 6);
}

#[tokio::test]
async fn what_is_on_its_way_to_a_copy_has_a_limit() {
    let (stores, mirrored) = three(Confirm::First);
    let holds: Vec<Hold> = (0..4).map(|_| stores[1].hold(Operation::PutNew, "wal")).collect();
    let body = Bytes::from(vec![0; ROOM_BYTES / 3]);
    for number in 0..4 {
        let put = mirrored.put_new(&name(&format!("wal/{number}")), body.clone()).await;
        assert_eq!(put.unwrap(), PutNew::Created);
    }
    assert_eq!(mirrored.places()[1].standing(), Standing::Behind);
    for hold in holds {
        hold.release();
    }
}
