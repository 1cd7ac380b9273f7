//! Every fault on every operation, behind the retry loop; the clock is paused, nothing sleeps.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use store::object::memory::MemoryStore;
use store::object::{
    ByteRange, ErrorClass, ObjectError, ObjectName, ObjectStore, Operation, Outcome, PutNew, list_all,
};
use store::retry::{READ_ATTEMPTS, RetryPolicy, Retrying};
use store::testing::{Fault, RecordingStore, ScriptedStore};
use tokio::time::Instant;

const OPERATIONS: [Operation; 6] = [
    Operation::PutNew,
    Operation::Get,
    Operation::Head,
    Operation::List,
    Operation::Delete,
    Operation::Lock,
];

type Stack = Retrying<ScriptedStore<RecordingStore<MemoryStore>>>;

fn stack(policy: RetryPolicy) -> Stack {
    Retrying::new(ScriptedStore::new(RecordingStore::new(MemoryStore::new())), policy, 1)
}

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

fn memory(store: &Stack) -> &MemoryStore {
    store.inner().inner().inner()
}

fn attempts(store: &Stack) -> u64 {
    store.stats().attempts.load(Ordering::Relaxed)
}

/// Runs one operation and checks that its answer is the true one. `old` exists, `new` does not.
async fn run(store: &Stack, operation: Operation) -> Result<(), ObjectError> {
    memory(store).overwrite(&name("old"), Bytes::from_static(b"content"));
    match operation {
        Operation::PutNew => {
            assert_eq!(
                store.put_new(&name("new"), Bytes::from_static(b"body")).await?,
                PutNew::Created
            );
            assert_eq!(memory(store).snapshot()[&name("new")], "body");
        }
        Operation::Get => assert_eq!(store.get(&name("old"), ByteRange::All).await?, "content"),
        Operation::Head => assert_eq!(store.head(&name("old")).await?.unwrap().size, 7),
        Operation::List => assert_eq!(list_all(store, "").await?.len(), 1),
        Operation::Delete => {
            store.delete(&name("old")).await?;
            assert!(memory(store).snapshot().is_empty());
        }
        Operation::Lock => {
            memory(store).lock_for(1);
            store.keep_locked(&name("old")).await?;
            let refused = memory(store).delete(&name("old")).await;
            assert_eq!(refused.unwrap_err().class(), ErrorClass::Locked);
        }
        Operation::Open => panic!("not a request"),
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn transient_failures_and_lost_answers_are_repaired_on_every_operation() {
    for operation in OPERATIONS {
        for fault in [Fault::FailBefore, Fault::FailAfterItHappened] {
            for times in [1, 2, 5] {
                let store = stack(RetryPolicy::patient());
                for _ in 0..times {
                    store.inner().push(operation, "", fault.clone());
                }
                run(&store, operation).await.unwrap();
                assert_eq!(store.inner().pending(), 0, "{operation} {fault:?}");
                assert_eq!(attempts(&store), times + 1, "{operation} {fault:?}");
                assert_eq!(store.stats().retries.load(Ordering::Relaxed), times);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn held_and_slow_requests_need_no_retry() {
    for operation in OPERATIONS {
        let store = stack(RetryPolicy::patient());
        store
            .inner()
            .push(operation, "", Fault::Slow(Duration::from_secs(3600)));
        run(&store, operation).await.unwrap();
        let hold = store.inner().hold(operation, "");
        let at_gate = async {
            hold.arrived().await;
            let before = memory(&store).snapshot();
            hold.release();
            before
        };
        if operation == Operation::PutNew {
            store.inner().inner().inner().delete(&name("new")).await.unwrap();
        }
        let (answer, before) = tokio::join!(run(&store, operation), at_gate);
        answer.unwrap();
        assert!(
            before.contains_key(&name("old")) && !before.contains_key(&name("new")),
            "{operation} has waited"
        );
        let pages = if operation == Operation::List { 2 } else { 0 };
        assert_eq!(
            (attempts(&store), store.inner().pending()),
            (2.max(pages), 0),
            "{operation}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn errors_that_a_repetition_cannot_cure_are_told_at_once() {
    use ErrorClass::{Corrupt, Full, Misconfigured, NotFound, Permanent};
    for operation in OPERATIONS {
        for class in [NotFound, Permanent, Corrupt, Misconfigured, Full] {
            // Perhaps spoilt on the way: see the next test.
            if operation == Operation::Get && matches!(class, Corrupt | Misconfigured) {
                continue;
            }
            let store = stack(RetryPolicy::patient());
            store.inner().push(operation, "", Fault::FailWith(class));
            let error = run(&store, operation).await.unwrap_err();
            assert_eq!(
                (error.class(), error.operation(), attempts(&store)),
                (class, operation, 1)
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_damaged_or_does_not_fit_is_asked_for_three_times_before_it_is_believed() {
    for class in [ErrorClass::Corrupt, ErrorClass::Misconfigured] {
        for times in 0..5 {
            let store = stack(RetryPolicy::patient());
            for _ in 0..times {
                store.inner().push(Operation::Get, "", Fault::FailWith(class));
            }
            // Other failures in between do not count.
            store.inner().push(Operation::Get, "", Fault::FailBefore);
            let answer = run(&store, Operation::Get).await.map_err(|error| error.class());
            if times < u64::from(READ_ATTEMPTS) {
                assert_eq!((answer, attempts(&store)), (Ok(()), times + 2));
            } else {
                assert_eq!((answer, attempts(&store)), (Err(class), u64::from(READ_ATTEMPTS)));
            }
        }
        let impatient = stack(RetryPolicy::never());
        impatient.inner().push(Operation::Get, "", Fault::FailWith(class));
        assert_eq!(run(&impatient, Operation::Get).await.unwrap_err().class(), class);
    }
}

#[tokio::test(start_paused = true)]
async fn a_bounded_policy_ends_in_time_and_returns_the_last_error() {
    let budget = Duration::from_secs(60);
    for operation in OPERATIONS {
        let store = stack(RetryPolicy::bounded(budget));
        for _ in 0..1000 {
            store.inner().push(operation, "", Fault::FailBefore);
        }
        let start = Instant::now();
        let error = run(&store, operation).await.unwrap_err();
        assert_eq!(
            (error.class(), error.outcome()),
            (ErrorClass::Transient, Outcome::DidNotHappen)
        );
        assert_eq!(
            start.elapsed(),
            budget,
            "the last attempt is made when the budget is used up"
        );
        assert!((8..30).contains(&attempts(&store)), "{} attempts", attempts(&store));
        assert_eq!(store.stats().given_up.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_patient_policy_outlasts_a_day_of_failures() {
    let store = stack(RetryPolicy::patient());
    for _ in 0..10_000 {
        store.inner().push(Operation::PutNew, "", Fault::FailBefore);
    }
    let start = Instant::now();
    run(&store, Operation::PutNew).await.unwrap();
    assert!(start.elapsed() > Duration::from_secs(86_400));
}

#[tokio::test(start_paused = true)]
async fn a_name_taken_by_someone_else_after_a_lost_answer_is_told_from_our_own_object() {
    let ours = Bytes::from_static(b"ours");
    for (theirs, expected) in [("theirs", PutNew::AlreadyExists), ("ours", PutNew::Created)] {
        let store = stack(RetryPolicy::patient());
        memory(&store).overwrite(&name("new"), Bytes::from(theirs));
        store.inner().push(Operation::PutNew, "", Fault::FailAfterItHappened);
        assert_eq!(
            store.put_new(&name("new"), ours.clone()).await.unwrap(),
            expected,
            "{theirs}"
        );
        assert_eq!(store.inner().inner().counts().get, 1, "it was read once to decide");
    }
    let store = stack(RetryPolicy::patient());
    memory(&store).overwrite(&name("new"), ours.clone());
    assert_eq!(
        store.put_new(&name("new"), ours.clone()).await.unwrap(),
        PutNew::AlreadyExists
    );
    store.inner().push(Operation::PutNew, "", Fault::FailBefore);
    assert_eq!(store.put_new(&name("new"), ours).await.unwrap(), PutNew::AlreadyExists);
    assert_eq!(store.inner().inner().counts().get, 0, "without doubt nothing is read");
}

#[tokio::test(start_paused = true)]
async fn the_comparison_after_a_lost_answer_is_repeated_too() {
    let store = stack(RetryPolicy::patient());
    store.inner().push(Operation::PutNew, "new", Fault::FailAfterItHappened);
    store.inner().push(Operation::Get, "new", Fault::FailBefore);
    store
        .inner()
        .push(Operation::Get, "new", Fault::FailWith(ErrorClass::NotFound));
    run(&store, Operation::PutNew).await.unwrap();
    assert_eq!(store.inner().pending(), 0);
    assert_eq!(store.stats().lost_answers.load(Ordering::Relaxed), 1);
    for class in [ErrorClass::Misconfigured, ErrorClass::Corrupt] {
        for times in [1, READ_ATTEMPTS] {
            let denied = stack(RetryPolicy::patient());
            denied
                .inner()
                .push(Operation::PutNew, "new", Fault::FailAfterItHappened);
            for _ in 0..times {
                denied.inner().push(Operation::Get, "new", Fault::FailWith(class));
            }
            let answer = run(&denied, Operation::PutNew).await;
            if times < READ_ATTEMPTS {
                answer.unwrap();
                continue;
            }
            let error = answer.unwrap_err();
            assert_eq!((error.class(), error.outcome()), (class, Outcome::Unknown));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn damage_on_the_way_passes_through_for_the_reader_to_find() {
    let store = stack(RetryPolicy::patient());
    memory(&store).overwrite(&name("old"), Bytes::from_static(b"content"));
    store.inner().push(Operation::Get, "old", Fault::TruncateBody(3));
    store
        .inner()
        .push(Operation::Get, "old", Fault::WrongBytes { offset: 1, xor: 1 });
    assert_eq!(store.get(&name("old"), ByteRange::All).await.unwrap(), "con");
    assert_eq!(store.get(&name("old"), ByteRange::All).await.unwrap(), "cnntent");
    store.inner().push(Operation::PutNew, "new", Fault::TruncateBody(2));
    store
        .put_new(&name("new"), Bytes::from_static(b"body"))
        .await
        .map(|put| assert_eq!(put, PutNew::Created))
        .unwrap();
    assert_eq!(memory(&store).snapshot()[&name("new")], "bo");
    store.inner().push(Operation::List, "", Fault::TruncateBody(1));
    assert_eq!(
        list_all(&store, "").await.unwrap().len(),
        2,
        "a short page is followed by the next"
    );
    assert_eq!(store.inner().inner().counts().list, 2);
}

#[tokio::test(start_paused = true)]
async fn a_put_that_is_dropped_while_it_waits_leaves_nothing_half_done() {
    let store = Arc::new(stack(RetryPolicy::patient()));
    let hold = store.inner().hold(Operation::PutNew, "new");
    let task = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.put_new(&name("new"), Bytes::from_static(b"body")).await }
    });
    hold.arrived().await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    run(&store, Operation::PutNew).await.unwrap();
}
