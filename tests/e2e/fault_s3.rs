//! The fault store itself: without faults it is a store like any other, and each fault looks to our client like what it is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use store::object::s3::{S3Options, S3Store};
use store::object::{ByteRange, ErrorClass, ObjectName, ObjectStore, Outcome, PutNew, Secret, list_all};
use store::retry::{RetryPolicy, Retrying};
use store::testing::{bytes_of, conformance};
use tests::fault_s3::{End, Fault, Method, Rule};
use tests::seed::seed;
use tests::wait::{DEADLINE, within};
use tests::{FaultS3, S3Server, case, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

async fn start() -> Result<(FaultS3, S3Store)> {
    let server = FaultS3::start().await?;
    server.create_bucket("bucket").await?;
    let store = S3Store::open(options(&server))?;
    Ok((server, store))
}

fn options(server: &FaultS3) -> S3Options {
    S3Options {
        prefix: "p".into(),
        endpoint: Some(server.endpoint()),
        path_style: true,
        access_key_id: Some(server.access_key_id().to_owned()),
        secret_access_key: Some(Secret::new(server.secret_access_key())),
        // What is swallowed is given up soon.
        request_timeout: Duration::from_secs(1),
        ..S3Options::new("bucket", "us-east-1")
    }
}

#[test]
fn without_faults_it_keeps_every_promise_of_a_store() {
    case("fault_s3_conformance", async |_| {
        let (server, _) = start().await?;
        let patient = S3Options {
            request_timeout: DEADLINE,
            ..options(&server)
        };
        let store = S3Store::open(patient.clone())?;
        conformance::run(&store, seed()).await;
        conformance::race(&store, seed(), 20).await;
        let odd = S3Options {
            prefix: "sp ace/\u{e4}+%41/q?x=1&y".into(),
            ..patient
        };
        conformance::run(&S3Store::open(odd)?, seed()).await;
        assert_eq!(server.faults().total(), 0);
        assert!(!server.log().entries().iter().any(|entry| entry.overwrote));
        Ok(())
    });
}

#[test]
fn each_fault_of_a_put_looks_to_the_client_like_what_it_is() {
    use ErrorClass::{Misconfigured, Transient};
    use Outcome::{DidNotHappen, Unknown};
    case("fault_s3_put", async |_| {
        let (server, store) = start().await?;
        let faults = [
            (Fault::DropBefore, Err((Unknown, Transient)), false),
            (Fault::DropAfter, Err((Unknown, Transient)), true),
            (Fault::InternalError, Err((Unknown, Transient)), false),
            (Fault::ErrorAfter, Err((Unknown, Transient)), true),
            (Fault::SlowDown, Err((DidNotHappen, Transient)), false),
            (Fault::AccessDenied, Err((DidNotHappen, Misconfigured)), false),
            (Fault::TimeTooSkewed, Err((DidNotHappen, Transient)), false),
            (Fault::ExpiredToken, Err((DidNotHappen, Transient)), false),
            (Fault::Conflict, Err((DidNotHappen, Transient)), false),
            (Fault::EchoOfItself, Ok(PutNew::AlreadyExists), true),
            (Fault::ErrorInSuccess, Err((Unknown, Transient)), false),
            (Fault::EmptySuccess, Err((Unknown, Transient)), false),
            (Fault::DamagedOnTheWay, Err((DidNotHappen, Transient)), false),
            (Fault::StoredFlipped, Ok(PutNew::Created), true),
            (Fault::StoredShort, Ok(PutNew::Created), true),
            (Fault::CutOff, Err((Unknown, Transient)), true),
            (Fault::Garbled, Err((Unknown, Transient)), true),
            (Fault::BlackHole, Err((Unknown, Transient)), false),
            (Fault::Delay(Duration::from_millis(100)), Ok(PutNew::Created), true),
        ];
        for (fault, expected, happened) in faults {
            let name = name(fault.name());
            server.faults().add(Rule::new(fault).on(Method::Put).times(1));
            let begun = Instant::now();
            let answer = store.put_new(&name, Bytes::from("0123456789")).await;
            let answer = answer.map_err(|error| (error.outcome(), error.class()));
            assert_eq!(answer, expected, "{fault:?}");
            let stored = server.objects().get("bucket", &format!("p/{name}"));
            assert_eq!(stored.is_some(), happened, "{fault:?}");
            let entry = server.log().entries().pop().unwrap();
            assert_eq!((entry.fault, entry.durable.is_some()), (Some(fault), happened));
            assert!(entry.begun >= begun && entry.durable.is_none_or(|at| at >= entry.begun && at <= Instant::now()));
            assert_eq!(server.faults().count(fault), 1);
        }
        assert_eq!(server.objects().get("bucket", "p/stored_short").unwrap().bytes, "01234");
        assert_ne!(
            server.objects().get("bucket", "p/stored_flipped").unwrap().bytes,
            "0123456789"
        );
        assert_eq!(server.faults().total(), 19);
        Ok(())
    });
}

#[test]
fn each_fault_of_a_get_is_noticed_by_the_client() {
    use ErrorClass::{Corrupt, Misconfigured, Transient};
    case("fault_s3_get", async |_| {
        let (server, store) = start().await?;
        let (object, body) = (name("object"), bytes_of(seed(), 100_000));
        assert_eq!(store.put_new(&object, body.clone()).await?, PutNew::Created);
        let slice = ByteRange::Slice { start: 10, len: 50_000 };
        let faults = [
            (Fault::DropBefore, ByteRange::All, Transient),
            (Fault::BodyBreaksOff, ByteRange::All, Transient),
            (Fault::BodyBreaksOff, slice, Transient),
            (Fault::BodyTooShort, ByteRange::All, Corrupt),
            (Fault::BodyTooShort, slice, Misconfigured),
            (Fault::BodyFlipped, ByteRange::All, Corrupt),
            (Fault::InternalError, slice, Transient),
            (Fault::SlowDown, slice, Transient),
            (Fault::ErrorInSuccess, slice, Corrupt),
            (Fault::BlackHole, slice, Transient),
        ];
        for (fault, range, class) in faults {
            server.faults().add(Rule::new(fault).on(Method::Get).times(1));
            let error = store.get(&object, range).await.expect_err(fault.name());
            assert_eq!(error.class(), class, "{fault:?} {range}: {error}");
        }
        // A part has no checksum of its own: who reads it must check what is in it.
        server.faults().add(Rule::new(Fault::BodyFlipped).times(1));
        assert_ne!(store.get(&object, slice).await?, body.slice(10..50_010));
        assert_eq!(store.get(&object, ByteRange::All).await?, body);
        Ok(())
    });
}

#[test]
fn a_listing_can_be_stale_and_come_in_small_pages() {
    case("fault_s3_list", async |_| {
        let (server, store) = start().await?;
        let put = async |number: usize| store.put_new(&name(&format!("list/{number:02}")), Bytes::new()).await;
        for number in 0..10 {
            assert_eq!(put(number).await?, PutNew::Created);
        }
        let then = Instant::now();
        for number in 10..20 {
            assert_eq!(put(number).await?, PutNew::Created);
        }
        server.faults().limit_pages(Some(3));
        let before = server.log().count(Method::List, "list/");
        assert_eq!(list_all(&store, "list/").await?.len(), 20);
        assert_eq!(server.log().count(Method::List, "list/") - before, 7);
        server.faults().add(Rule::new(Fault::ListAsOf(then)));
        assert_eq!(list_all(&store, "list/").await?.len(), 10);
        assert_eq!(put(19).await?, PutNew::AlreadyExists, "only the listing is stale");
        server.faults().heal();
        assert_eq!(list_all(&store, "list/").await?.len(), 20);
        Ok(())
    });
}

#[test]
fn what_is_held_happens_when_it_is_released_even_if_nobody_waits_any_more() {
    case("fault_s3_hold", async |_| {
        let (server, store) = start().await?;
        server.faults().add(Rule::new(Fault::Hold).key("held").times(2));
        let (first, second) = (name("held/1"), name("held/2"));
        let error = store.put_new(&first, Bytes::from("1")).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::Unknown, "given up at the deadline");
        let put = store.put_new(&second, Bytes::from("2"));
        let release = async {
            let held = wait_until("both to be held", DEADLINE, async || server.faults().held() == 2).await;
            assert!(server.objects().keys("held").is_empty());
            server.faults().release();
            held
        };
        let (put, held) = tokio::join!(put, release);
        held?;
        assert_eq!(put?, PutNew::Created);
        let key = "p/held/1".to_owned();
        wait_until("the late one", DEADLINE, async || {
            server.objects().keys("held").contains(&key)
        })
        .await?;
        let log = server.log();
        assert_eq!(log.completed_puts().len(), 2);
        assert_eq!(log.faults_at(Instant::now()), Vec::<String>::new());
        Ok(())
    });
}

#[test]
fn a_lost_answer_ends_as_created_and_an_ignored_condition_as_an_overwritten_object() {
    case("fault_s3_condition", async |_| {
        let (server, store) = start().await?;
        let retrying = Retrying::new(store, RetryPolicy::bounded(DEADLINE), seed());
        for fault in [Fault::DropAfter, Fault::ErrorAfter] {
            server.faults().add(Rule::new(fault).times(1));
            let created = retrying.put_new(&name(fault.name()), Bytes::from("x")).await?;
            assert_eq!(created, PutNew::Created);
        }
        assert_eq!(
            retrying.stats().lost_answers.load(std::sync::atomic::Ordering::Relaxed),
            2
        );
        let object = name("twice");
        assert_eq!(retrying.put_new(&object, Bytes::from("first")).await?, PutNew::Created);
        assert_eq!(
            retrying.put_new(&object, Bytes::from("second")).await?,
            PutNew::AlreadyExists
        );
        server.faults().add(Rule::new(Fault::ConditionIgnored).times(1));
        assert_eq!(retrying.put_new(&object, Bytes::from("third")).await?, PutNew::Created);
        assert_eq!(retrying.get(&object, ByteRange::All).await?, "third");
        assert!(server.log().entries().iter().any(|entry| entry.overwrote));
        Ok(())
    });
}

#[test]
fn a_dead_store_refuses_connections_and_comes_back_with_what_it_had() {
    case("fault_s3_dead", async |_| {
        let (mut server, store) = start().await?;
        assert_eq!(store.put_new(&name("a"), Bytes::from("x")).await?, PutNew::Created);
        server.die().await?;
        // The first may go out on a connection of which nobody has heard yet that it is broken.
        wait_until("a refused connection", DEADLINE, async || {
            let error = store.get(&name("a"), ByteRange::All).await.unwrap_err();
            assert_eq!(error.class(), ErrorClass::Transient, "{error}");
            error.to_string().contains("refused")
        })
        .await?;
        server.revive().await?;
        assert_eq!(store.get(&name("a"), ByteRange::All).await?, "x");
        // A request that was swallowed ends when its connection does.
        server.faults().add(Rule::new(Fault::BlackHole).times(1));
        let object = name("a");
        let swallowed = store.get(&object, ByteRange::All);
        let broken = async {
            wait_until("a swallowed request", DEADLINE, async || server.faults().total() == 1).await?;
            server.break_connections().await;
            anyhow::Ok(())
        };
        let (answer, broken) = within("the end of the connection", DEADLINE, async {
            tokio::join!(swallowed, broken)
        })
        .await?;
        broken?;
        assert_eq!(answer.unwrap_err().class(), ErrorClass::Transient);
        Ok(())
    });
}

#[test]
fn an_unsigned_request_and_an_unknown_bucket_are_refused() {
    case("fault_s3_refusals", async |_| {
        let (server, _) = start().await?;
        let mut stream = TcpStream::connect(server.endpoint().replace("http://", "")).await?;
        let request = "GET /bucket/p/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        within("an answer", DEADLINE, stream.read_to_string(&mut answer)).await??;
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("AccessDenied"),
            "{answer}"
        );

        let elsewhere = S3Options {
            bucket: "elsewhere".into(),
            ..options(&server)
        };
        let unknown_key = S3Options {
            access_key_id: Some("somebody".into()),
            ..options(&server)
        };
        for options in [elsewhere, unknown_key] {
            let store = S3Store::open(options)?;
            for error in [
                store.put_new(&name("a"), Bytes::new()).await.unwrap_err(),
                store.get(&name("a"), ByteRange::All).await.unwrap_err(),
                store.head(&name("a")).await.unwrap_err(),
                list_all(&store, "").await.unwrap_err(),
            ] {
                assert_eq!(error.class(), ErrorClass::Misconfigured, "{error}");
            }
        }
        assert!(server.log().entries().iter().all(|entry| entry.end != End::Status(200)));
        Ok(())
    });
}
