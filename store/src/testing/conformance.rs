//! What every store must do, as a test that runs on any of them.

#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

use bytes::Bytes;
use futures::future::join_all;

use super::bytes_of;
use crate::object::{
    ByteRange, ErrorClass, ObjectError, ObjectName, ObjectStore, Outcome, PutNew, list_all, probe::probe_create_only,
};

/// Writers that race for one name.
const RACERS: u64 = 16;
/// Names that [`run`] lets them race for: some servers take seconds for one.
const RACE_ROUNDS: u64 = 3;
/// Larger than any part size, buffer or window on the way.
const LARGE_BYTES: usize = 20 << 20;

/// Runs the suite under `conformance/<seed>` and removes what it wrote.
///
/// # Panics
/// The store breaks a promise; the message names it.
pub async fn run(store: &dyn ObjectStore, seed: u64) {
    let base = ObjectName::join(["conformance", &format!("{seed:016x}")]).unwrap();
    create_only(store, &base).await;
    missing_objects(store, &base).await;
    ranges(store, &base, seed).await;
    head_and_times(store, &base).await;
    odd_names(store, &base).await;
    listing(store, &base).await;
    listing_order(store, &base).await;
    deletion(store, &base).await;
    large_object(store, &base, seed).await;
    if store.capabilities().create_only {
        race(store, seed, RACE_ROUNDS).await;
        let probed = probe_create_only(store, &format!("conformance-{seed:016x}")).await;
        assert!(
            probed.expect("the probe runs"),
            "the probe finds that the store is create-only, as it says"
        );
    }
    for meta in list_all(store, base.as_str())
        .await
        .expect("the suite's objects can be listed")
    {
        store
            .delete(&meta.name)
            .await
            .expect("the suite's objects can be deleted");
    }
    assert!(
        list_all(store, base.as_str()).await.unwrap().is_empty(),
        "nothing is left after everything was deleted"
    );
}

async fn create(store: &dyn ObjectStore, name: &ObjectName, body: impl Into<Bytes>) {
    let answer = store
        .put_new(name, body.into())
        .await
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(answer, PutNew::Created, "{name} is new");
}

async fn all(store: &dyn ObjectStore, name: &ObjectName) -> Bytes {
    store
        .get(name, ByteRange::All)
        .await
        .unwrap_or_else(|error| panic!("{}", chain(&error)))
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

async fn create_only(store: &dyn ObjectStore, base: &ObjectName) {
    let name = base.child("once/a").unwrap();
    create(store, &name, "first").await;
    for body in ["second, and longer", "first", ""] {
        let answer = store.put_new(&name, body.into()).await.unwrap();
        assert_eq!(
            answer,
            PutNew::AlreadyExists,
            "a second put is refused, whatever it carries"
        );
    }
    assert_eq!(all(store, &name).await, "first", "a refused put changes nothing");
}

async fn missing_objects(store: &dyn ObjectStore, base: &ObjectName) {
    let present = base.child("missing/there").unwrap();
    create(store, &present, "x").await;
    for name in [
        base.child("missing/not").unwrap(),
        base.child("no/such/directory").unwrap(),
        base.child("missing").unwrap(),
    ] {
        for range in [
            ByteRange::All,
            ByteRange::Slice { start: 0, len: 1 },
            ByteRange::Last(1),
            ByteRange::Last(0),
        ] {
            let error = store
                .get(&name, range)
                .await
                .expect_err("a missing object cannot be read");
            assert_eq!(
                error.class(),
                ErrorClass::NotFound,
                "{name}, {range}: {}",
                chain(&error)
            );
            assert_eq!(error.outcome(), Outcome::DidNotHappen);
        }
        assert_eq!(store.head(&name).await.unwrap(), None, "{name} has no head");
    }
    // The parent of an object is no object, a child of an object neither.
    assert_eq!(store.head(&present.child("below").unwrap()).await.unwrap(), None);
}

async fn ranges(store: &dyn ObjectStore, base: &ObjectName, seed: u64) {
    let name = base.child("ranges/thousand").unwrap();
    let body = bytes_of(seed, 1000);
    create(store, &name, body.clone()).await;
    let empty = base.child("ranges/empty").unwrap();
    create(store, &empty, "").await;
    let slice = |start, len| ByteRange::Slice { start, len };
    for (range, from, to) in [
        (ByteRange::All, 0, 1000),
        (slice(0, 1), 0, 1),
        (slice(0, 1000), 0, 1000),
        (slice(1, 998), 1, 999),
        (slice(999, 1), 999, 1000),
        (slice(500, 0), 500, 500),
        (slice(1000, 0), 1000, 1000),
        (ByteRange::Last(0), 1000, 1000),
        (ByteRange::Last(1), 999, 1000),
        (ByteRange::Last(1000), 0, 1000),
        (ByteRange::Last(5000), 0, 1000),
    ] {
        let got = store
            .get(&name, range)
            .await
            .unwrap_or_else(|error| panic!("{range}: {}", chain(&error)));
        assert_eq!(got, body.slice(from..to), "{range}");
    }
    for range in [
        slice(999, 2),
        slice(1000, 1),
        slice(5000, 1),
        slice(1001, 0),
        slice(u64::MAX, 1),
        slice(1, u64::MAX),
    ] {
        past_end(store.get(&name, range).await, range);
    }
    for range in [ByteRange::All, slice(0, 0), ByteRange::Last(0), ByteRange::Last(10)] {
        let got = store
            .get(&empty, range)
            .await
            .unwrap_or_else(|error| panic!("empty, {range}: {}", chain(&error)));
        assert!(got.is_empty(), "{range} of an empty object");
    }
    past_end(store.get(&empty, slice(0, 1)).await, slice(0, 1));
}

fn past_end(answer: Result<Bytes, ObjectError>, range: ByteRange) {
    let error = answer.expect_err("a slice past the end is an error");
    assert_eq!(error.class(), ErrorClass::Corrupt, "{range}: {}", chain(&error));
}

async fn head_and_times(store: &dyn ObjectStore, base: &ObjectName) {
    let (first, second) = (base.child("head/1").unwrap(), base.child("head/2").unwrap());
    create(store, &first, "12345").await;
    create(store, &second, "").await;
    let one = store.head(&first).await.unwrap().expect("it is there");
    let two = store.head(&second).await.unwrap().expect("it is there");
    assert_eq!((one.name, one.size, two.size), (first, 5, 0));
    // S3 knows whole seconds.
    assert!(
        two.modified_unix_ms + 1000 > one.modified_unix_ms,
        "the store's clock does not go back"
    );
    let listed = list_all(store, &format!("{base}/head/")).await.unwrap();
    assert_eq!(listed.iter().map(|meta| meta.size).collect::<Vec<_>>(), [5, 0]);
    assert!(
        (listed[0].modified_unix_ms - one.modified_unix_ms).abs() < 1000,
        "head and listing agree on the time"
    );
}

async fn odd_names(store: &dyn ObjectStore, base: &ObjectName) {
    let long = "n".repeat(200);
    let names = [
        ".hidden",
        "dots..in...it",
        "a.b-c_d",
        "-dash",
        "_",
        "...",
        "UPPER",
        "upper",
        "0",
        "a/.tmp/b",
        "x/..y",
        &long,
    ];
    for (at, odd) in names.iter().enumerate() {
        create(store, &base.child(format_args!("odd/{odd}")).unwrap(), format!("{at}")).await;
    }
    for (at, odd) in names.iter().enumerate() {
        assert_eq!(
            all(store, &base.child(format_args!("odd/{odd}")).unwrap()).await,
            format!("{at}"),
            "{odd}"
        );
    }
    let mut expected: Vec<String> = names.iter().map(|odd| format!("{base}/odd/{odd}")).collect();
    expected.sort();
    assert_eq!(names_of(store, &format!("{base}/odd/")).await, expected);
}

async fn names_of(store: &dyn ObjectStore, prefix: &str) -> Vec<String> {
    let listed = list_all(store, prefix)
        .await
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    listed.into_iter().map(|meta| meta.name.to_string()).collect()
}

async fn listing(store: &dyn ObjectStore, base: &ObjectName) {
    let names: Vec<String> = (0..23).map(|n| format!("{base}/list/{}/{n:03}", n % 3)).collect();
    join_all(
        names
            .iter()
            .map(async |name| create(store, &ObjectName::new(name.clone()).unwrap(), "x").await),
    )
    .await;
    let mut expected = names;
    expected.sort();
    let prefix = format!("{base}/list/");
    assert_eq!(
        names_of(store, &prefix).await,
        expected,
        "a listing is complete and ordered"
    );
    for max in [1, 2, 7, 23, 24] {
        let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = store.list_page(&prefix, after.as_deref(), max).await.unwrap();
            assert!(page.objects.len() <= max, "a page has at most {max} objects");
            found.extend(page.objects.into_iter().map(|meta| meta.name.to_string()));
            pages += 1;
            let Some(next) = page.next else { break };
            after = Some(next);
        }
        assert_eq!(found, expected, "pages of {max}");
        assert!(pages <= expected.len().div_ceil(max) + 1, "{pages} pages of {max}");
    }
    for (at, name) in expected.iter().enumerate() {
        let page = store.list_page(&prefix, Some(name), 1000).await.unwrap();
        let found: Vec<_> = page.objects.iter().map(|meta| meta.name.to_string()).collect();
        assert_eq!(found, expected[at + 1..], "after {name}");
    }
    assert_eq!(
        names_of(store, &format!("{base}/list/1/00")).await.len(),
        3,
        "a prefix is a text, not a directory"
    );
    assert_eq!(names_of(store, &format!("{base}/list/1")).await.len(), 8);
    assert!(names_of(store, &format!("{base}/nothing/")).await.is_empty());
}

/// Names where the order of a file system (by segment) is not the order of the names.
async fn listing_order(store: &dyn ObjectStore, base: &ObjectName) {
    let mut expected = Vec::new();
    for name in [
        "db/1",
        "db/2",
        "db-standby/1",
        "db-standby/2",
        "db.old/1",
        "db0/1",
        "db/sub/x",
        "db/sub-y",
        "db/sub.z",
    ] {
        let name = base.child(format_args!("order/{name}")).unwrap();
        create(store, &name, "x").await;
        expected.push(name.to_string());
    }
    expected.sort();
    let prefix = format!("{base}/order/");
    assert_eq!(
        names_of(store, &prefix).await,
        expected,
        "the order is that of the names"
    );
    for max in [1, 2, 3] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = store.list_page(&prefix, after.as_deref(), max).await.unwrap();
            found.extend(page.objects.into_iter().map(|meta| meta.name.to_string()));
            let Some(next) = page.next else { break };
            assert!(found.len() <= expected.len(), "the pages come to an end");
            after = Some(next);
        }
        found.sort();
        assert_eq!(found, expected, "pages of {max} lose nothing and repeat nothing");
    }
}

async fn deletion(store: &dyn ObjectStore, base: &ObjectName) {
    let (gone, kept) = (base.child("delete/d/1").unwrap(), base.child("delete/d/2").unwrap());
    create(store, &gone, "x").await;
    create(store, &kept, "y").await;
    store.delete(&gone).await.unwrap();
    store.delete(&gone).await.expect("deleting again is a success");
    store
        .delete(&base.child("delete/never/was").unwrap())
        .await
        .expect("deleting nothing is a success");
    assert_eq!(store.head(&gone).await.unwrap(), None);
    assert_eq!(all(store, &kept).await, "y", "its neighbour is untouched");
    create(store, &gone, "again").await;
    assert_eq!(all(store, &gone).await, "again");
}

async fn large_object(store: &dyn ObjectStore, base: &ObjectName, seed: u64) {
    let name = base.child("large").unwrap();
    let body = bytes_of(seed ^ 1, LARGE_BYTES);
    create(store, &name, body.clone()).await;
    assert!(all(store, &name).await == body, "a large object comes back as it was");
    let range = ByteRange::Slice {
        start: 15 << 20,
        len: 3 << 20,
    };
    assert!(
        store.get(&name, range).await.unwrap() == body.slice(15 << 20..18 << 20),
        "a large slice"
    );
}

/// Lets 16 writers race for each of `rounds` names under `conformance/<seed>/race`: exactly one may win, and its bytes stay.
///
/// # Panics
/// None or several win, or a loser's bytes are stored.
pub async fn race(store: &dyn ObjectStore, seed: u64, rounds: u64) {
    let base = ObjectName::join(["conformance", &format!("{seed:016x}")]).unwrap();
    for round in 0..rounds {
        let name = base.child(format_args!("race/{round}/x")).unwrap();
        let bodies: Vec<Bytes> = (0..RACERS)
            .map(|racer| bytes_of(seed ^ (round << 32 | racer), 4096))
            .collect();
        let answers = join_all(bodies.iter().map(|body| store.put_new(&name, body.clone()))).await;
        let winners: Vec<usize> = answers
            .iter()
            .enumerate()
            .filter(|(_, answer)| matches!(answer, Ok(PutNew::Created)))
            .map(|(racer, _)| racer)
            .collect();
        // A conflict (409) may be answered to a loser instead; then it is transient.
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            assert_eq!(error.class(), ErrorClass::Transient, "round {round}: {}", chain(error));
        }
        assert_eq!(winners.len(), 1, "round {round}: exactly one of {RACERS} writers wins");
        assert_eq!(
            all(store, &name).await,
            bodies[winners[0]],
            "round {round}: what is stored is the winner's"
        );
    }
}
