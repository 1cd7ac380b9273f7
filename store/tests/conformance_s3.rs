//! The suite on a real S3 server, over http and over TLS with a private certificate authority, and the mistakes of an operator.

#![cfg(feature = "s3")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod weed;

use std::time::Duration;

use bytes::Bytes;
use store::object::s3::{S3Credentials, S3Options, ServerSideEncryption};
use store::object::{
    ByteRange, ErrorClass, ObjectError, ObjectName, ObjectStore, Outcome, PutNew, Secret, list_all,
    probe::probe_create_only,
};
use store::retry::{RetryPolicy, Retrying};
use store::testing::{bytes_of, conformance};
use weed::{Weed, open};

const SEED: u64 = 20_261_121;

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

/// The server says it is healthy a little before it can write.
async fn warm_up(weed: &Weed) {
    let store = Retrying::new(
        open(weed.http_options()),
        RetryPolicy::bounded(Duration::from_secs(30)),
        SEED,
    );
    assert_eq!(
        store.put_new(&name("warm-up"), Bytes::new()).await.unwrap(),
        PutNew::Created
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn seaweedfs_conforms_over_http_and_over_tls() {
    let weed = Weed::start().await;
    warm_up(&weed).await;
    conformance::run(&open(weed.http_options()), SEED).await;
    let odd = S3Options {
        prefix: "sp ace/\u{e4}+%41/q?x=1&y".into(),
        ..weed.http_options()
    };
    conformance::run(&open(odd), SEED).await;
    let tls = S3Options {
        prefix: "tls".into(),
        ..weed.https_options()
    };
    conformance::run(&open(tls), SEED).await;
    let listed = list_all(&open(weed.http_options()), "").await.unwrap();
    assert_eq!(
        listed.len(),
        1,
        "prefixes keep to themselves, and what is left is the warm-up: {listed:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn options_reach_the_server() {
    let weed = Weed::start().await;
    warm_up(&weed).await;
    let body = bytes_of(SEED, 100_000);
    for (at, (sse, class)) in [
        (Some(ServerSideEncryption::Aes256), None),
        (None, Some("STANDARD")),
        (None, None),
    ]
    .into_iter()
    .enumerate()
    {
        let store = open(S3Options {
            sse,
            storage_class: class.map(str::to_owned),
            ..weed.https_options()
        });
        let name = name(&format!("options/{at}"));
        assert_eq!(store.put_new(&name, body.clone()).await.unwrap(), PutNew::Created);
        assert_eq!(store.get(&name, ByteRange::All).await.unwrap(), body);
        assert_eq!(
            store.get(&name, ByteRange::Last(10)).await.unwrap(),
            body.slice(99_990..)
        );
    }
    let careful = open(S3Options {
        conditional_put: false,
        ..weed.http_options()
    });
    assert!(!careful.capabilities().create_only);
    assert_eq!(
        careful.put_new(&name("careful"), "a".into()).await.unwrap(),
        PutNew::Created
    );
    assert_eq!(
        careful.put_new(&name("careful"), "b".into()).await.unwrap(),
        PutNew::AlreadyExists
    );
    assert_eq!(careful.get(&name("careful"), ByteRange::All).await.unwrap(), "a");
    assert!(probe_create_only(&open(weed.http_options()), "p1").await.unwrap());
}

fn misconfigured<T: std::fmt::Debug>(answer: Result<T, ObjectError>, what: &str) {
    let error = answer.expect_err(what);
    assert_eq!(error.class(), ErrorClass::Misconfigured, "{what}: {error:?}");
    assert_eq!(error.outcome(), Outcome::DidNotHappen, "{what}: {error}");
    assert!(error.hint().is_some(), "{what}: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_gets_wrong_is_told_apart_from_a_missing_object() {
    let weed = Weed::start().await;
    warm_up(&weed).await;
    let wrong_secret = || S3Options {
        secret_access_key: Some(Secret::new("wrong")),
        ..weed.http_options()
    };
    let unknown_key = || S3Options {
        access_key_id: Some("nobody".into()),
        ..weed.http_options()
    };
    let no_bucket = || S3Options {
        bucket: "no-such-bucket".into(),
        ..weed.http_options()
    };
    let untrusted = || S3Options {
        ca_file: None,
        ..weed.https_options()
    };
    let there = name("warm-up");
    for (what, options) in [
        ("wrong secret", wrong_secret()),
        ("unknown key", unknown_key()),
        ("no bucket", no_bucket()),
        ("untrusted certificate", untrusted()),
    ] {
        let store = open(options);
        misconfigured(store.get(&there, ByteRange::All).await, what);
        misconfigured(store.head(&there).await, what);
        misconfigured(store.list_page("", None, 10).await, what);
        if what != "no bucket" {
            // This server makes a bucket for an administrator's put.
            misconfigured(store.put_new(&name("never"), "x".into()).await, what);
        }
    }
    let keys = (Some(weed::READER.into()), Some(Secret::new(weed::READER_SECRET)));
    let reader = open(S3Options {
        access_key_id: keys.0,
        secret_access_key: keys.1,
        ..weed.http_options()
    });
    assert!(reader.get(&there, ByteRange::All).await.is_ok());
    misconfigured(
        reader.put_new(&name("never"), "x".into()).await,
        "a reader cannot write",
    );
    misconfigured(reader.delete(&there).await, "a reader cannot delete");
    let admin = S3Credentials {
        access_key_id: weed::ADMIN.into(),
        secret_access_key: Secret::new(weed::ADMIN_SECRET),
        session_token: None,
    };
    reader.replace_credentials(&admin).unwrap();
    assert!(reader.delete(&there).await.is_ok(), "exchanged keys are used at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_did_not_do_it_and_may_come_back() {
    let mut weed = Weed::start().await;
    warm_up(&weed).await;
    let store = open(weed.http_options());
    weed.stop();
    let error = store.put_new(&name("late"), "x".into()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Transient, "{error:?}");
    // The first request may still find the pooled connection, which breaks under it; the second finds nobody.
    let error = store.put_new(&name("late"), "x".into()).await.unwrap_err();
    assert_eq!(
        (error.class(), error.outcome()),
        (ErrorClass::Transient, Outcome::DidNotHappen),
        "{error:?}"
    );
}
