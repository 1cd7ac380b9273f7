//! Answers that no healthy server gives: a scripted HTTP server sends them byte by byte.

#![cfg(feature = "s3")]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use store::object::s3::{S3Options, S3Store};
use store::object::{ByteRange, ErrorClass, ObjectError, ObjectName, ObjectStore, Outcome, PutNew, Secret, list_all};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Answers one request a connection with the next text of the script, then closes; the last text is repeated.
struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

/// Takes the request and never answers.
const SILENCE: &str = "";

async fn serve(script: &[&str]) -> Server {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let script: Vec<String> = script.iter().map(|&text| text.to_owned()).collect();
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        let mut silent = Vec::new();
        for at in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let request = read_request(&mut stream).await;
            seen.lock().unwrap().push(request);
            match script[at.min(script.len() - 1)].as_str() {
                SILENCE => silent.push(stream),
                answer => {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    let _ = stream.shutdown().await;
                }
            }
        }
    });
    Server { port, requests }
}

/// Head and body of a request.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        if stream.read_buf(&mut bytes).await.unwrap() == 0 {
            return text;
        }
    }
}

impl Server {
    fn store(&self) -> S3Store {
        let keys = (Some("id".to_owned()), Some(Secret::new("secret")));
        S3Store::open(S3Options {
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            path_style: true,
            access_key_id: keys.0,
            secret_access_key: keys.1,
            request_timeout: Duration::from_millis(500),
            ..S3Options::new("bucket", "us-east-1")
        })
        .unwrap()
    }

    fn requests(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

fn name() -> ObjectName {
    ObjectName::new("a/b").unwrap()
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}")
}

fn refusal(status: &str, code: &str) -> String {
    answer(
        status,
        "",
        &format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>"),
    )
}

async fn put(script: &[&str]) -> Result<PutNew, ObjectError> {
    serve(script)
        .await
        .store()
        .put_new(&name(), Bytes::from_static(b"body"))
        .await
}

async fn get(script: &[&str], range: ByteRange) -> Result<Bytes, ObjectError> {
    serve(script).await.store().get(&name(), range).await
}

#[tokio::test]
async fn a_put_is_one_conditional_request_with_a_checksum_and_a_plain_length() {
    let server = serve(&[&answer("200 OK", "ETag: \"x\"\r\n", "")]).await;
    assert_eq!(
        server
            .store()
            .put_new(&name(), Bytes::from_static(b"body"))
            .await
            .unwrap(),
        PutNew::Created
    );
    let requests = server.requests.lock().unwrap().clone();
    let [request] = requests.as_slice() else {
        panic!("{requests:?}")
    };
    assert!(request.starts_with("put /bucket/a/b"), "{request}");
    for header in [
        "if-none-match: *",
        "content-length: 4",
        "x-amz-checksum-crc32: ",
        "x-amz-content-sha256: 230d8358",
    ] {
        assert!(request.contains(header), "{header} in {request}");
    }
    assert!(
        !request.contains("aws-chunked") && !request.contains("transfer-encoding"),
        "{request}"
    );
}

#[tokio::test]
async fn answers_to_a_put_say_whether_it_happened() {
    use ErrorClass::{Full, Misconfigured, Transient};
    use Outcome::{DidNotHappen, Unknown};
    let error_page = answer("200 OK", "", "<Error><Code>InternalError</Code></Error>");
    let empty = answer("200 OK", "", "");
    for (script, outcome, class) in [
        (error_page.as_str(), Unknown, Transient),
        (&empty, Unknown, Transient),
        (SILENCE, Unknown, Transient),
        ("HTTP/1.1 200 OK\r\nETag: \"x\"\r\nConte", Unknown, Transient),
        ("garbage\r\n\r\n", Unknown, Transient),
        (
            &refusal("500 Internal Server Error", "InternalError"),
            Unknown,
            Transient,
        ),
        (&answer("502 Bad Gateway", "", "<html>"), Unknown, Transient),
        (&refusal("503 Slow Down", "SlowDown"), DidNotHappen, Transient),
        (
            &refusal("409 Conflict", "ConditionalRequestConflict"),
            DidNotHappen,
            Transient,
        ),
        (&refusal("403 Forbidden", "AccessDenied"), DidNotHappen, Misconfigured),
        (&refusal("404 Not Found", "NoSuchBucket"), DidNotHappen, Misconfigured),
        (&refusal("403 Forbidden", "QuotaExceeded"), DidNotHappen, Full),
        (&refusal("400 Bad Request", "ExpiredToken"), DidNotHappen, Transient),
    ] {
        let error = put(&[script]).await.unwrap_err();
        assert_eq!(
            (error.outcome(), error.class()),
            (outcome, class),
            "{script}: {error:?}"
        );
        assert!(!error.to_string().contains('\n'));
    }
    assert_eq!(
        put(&[&refusal("412 Precondition Failed", "PreconditionFailed")])
            .await
            .unwrap(),
        PutNew::AlreadyExists
    );
    assert_eq!(
        put(&[&answer("412 Precondition Failed", "", "")]).await.unwrap(),
        PutNew::AlreadyExists
    );
}

#[tokio::test]
async fn the_sdk_does_not_retry_behind_our_back() {
    let server = serve(&[&refusal("503 Slow Down", "SlowDown")]).await;
    assert!(server.store().put_new(&name(), Bytes::new()).await.is_err());
    assert!(server.store().get(&name(), ByteRange::All).await.is_err());
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn a_body_that_is_cut_short_or_late_is_never_returned() {
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n12345";
    let part = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/100\r\nContent-Length: 10\r\nConnection: close\r\n\r\n12345";
    for (script, range) in [
        (cut, ByteRange::All),
        (part, ByteRange::Slice { start: 0, len: 10 }),
        (SILENCE, ByteRange::All),
    ] {
        let error = get(&[script], range).await.unwrap_err();
        assert_eq!(
            (error.class(), error.outcome()),
            (ErrorClass::Transient, Outcome::DidNotHappen),
            "{error:?}"
        );
    }
    let damaged = answer("200 OK", "x-amz-checksum-crc32: AAAAAA==\r\n", "12345");
    assert_eq!(
        get(&[&damaged], ByteRange::All).await.unwrap_err().class(),
        ErrorClass::Corrupt
    );
}

#[tokio::test]
async fn an_answer_to_another_question_is_refused() {
    let whole = answer("200 OK", "", "0123456789");
    let error = get(&[&whole], ByteRange::Slice { start: 2, len: 3 }).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Misconfigured, "a server that ignores ranges");
    let shifted = answer("206 Partial Content", "Content-Range: bytes 3-5/10\r\n", "345");
    assert_eq!(
        get(&[&shifted], ByteRange::Slice { start: 2, len: 3 })
            .await
            .unwrap_err()
            .class(),
        ErrorClass::Misconfigured
    );
    let short = answer("206 Partial Content", "Content-Range: bytes 2-3/4\r\n", "23");
    assert_eq!(
        get(&[&short], ByteRange::Slice { start: 2, len: 3 })
            .await
            .unwrap_err()
            .class(),
        ErrorClass::Corrupt
    );
    let endless = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n0123456789";
    assert_eq!(
        get(&[endless], ByteRange::All).await.unwrap_err().class(),
        ErrorClass::Misconfigured
    );
    let huge = "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\nConnection: close\r\n\r\n0";
    assert_eq!(
        get(&[huge], ByteRange::All).await.unwrap_err().class(),
        ErrorClass::Corrupt,
        "no memory is taken for it"
    );
}

#[tokio::test]
async fn only_the_service_itself_can_say_that_an_object_does_not_exist() {
    let missing = refusal("404 Not Found", "NoSuchKey");
    let page = answer(
        "404 Not Found",
        "Content-Type: text/html\r\n",
        "<html>no such page</html>",
    );
    assert_eq!(
        get(&[&missing], ByteRange::All).await.unwrap_err().class(),
        ErrorClass::NotFound
    );
    assert_eq!(
        get(&[&page], ByteRange::All).await.unwrap_err().class(),
        ErrorClass::Misconfigured
    );
    let head = "HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n";
    assert_eq!(
        serve(&[head, &missing]).await.store().head(&name()).await.unwrap(),
        None
    );
    let no_bucket = refusal("404 Not Found", "NoSuchBucket");
    for second in [&no_bucket, &page] {
        let error = serve(&[head, second]).await.store().head(&name()).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Misconfigured, "{error:?}");
    }
    let error = serve(&[&page]).await.store().delete(&name()).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Misconfigured);
}

#[tokio::test]
async fn what_a_head_refuses_without_a_word_is_asked_for_with_a_get() {
    use ErrorClass::{Misconfigured, Transient};
    let silent = |status: &str| format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n");
    for (status, code, class) in [
        ("403 Forbidden", "RequestTimeTooSkewed", Transient),
        ("403 Forbidden", "AccessDenied", Misconfigured),
        ("400 Bad Request", "ExpiredToken", Transient),
    ] {
        let server = serve(&[&silent(status), &refusal(status, code)]).await;
        let error = server.store().head(&name()).await.unwrap_err();
        assert_eq!((error.class(), server.requests()), (class, 2), "{code}: {error:?}");
        assert!(error.to_string().contains(code), "{error}");
    }
    // A status that says enough costs no second request.
    let server = serve(&[&silent("503 Service Unavailable")]).await;
    assert_eq!(server.store().head(&name()).await.unwrap_err().class(), Transient);
    assert_eq!(server.requests(), 1);
    let there = answer("206 Partial Content", "Content-Range: bytes 0-0/10\r\n", "0");
    let server = serve(&[&silent("403 Forbidden"), &there]).await;
    assert_eq!(server.store().head(&name()).await.unwrap_err().class(), Transient);
}

#[tokio::test]
async fn a_listing_that_is_empty_cut_or_endless_is_an_error() {
    let page = |rest: &str| {
        let object = "<Contents><Key>a</Key><LastModified>2026-11-21T05:24:00Z</LastModified><Size>1</Size></Contents>";
        answer(
            "200 OK",
            "",
            &format!("<?xml version=\"1.0\"?><ListBucketResult>{object}{rest}</ListBucketResult>"),
        )
    };
    let whole = page("<IsTruncated>false</IsTruncated>");
    assert_eq!(list_all(&serve(&[&whole]).await.store(), "").await.unwrap().len(), 1);
    let more = page("<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>");
    for script in [
        answer("200 OK", "", ""),
        answer("200 OK", "", "<Error><Code>InternalError</Code></Error>"),
        answer(
            "200 OK",
            "",
            "<?xml version=\"1.0\"?><ListBucketResult><Contents><Key>a</K",
        ),
        page(""),
        page("<IsTruncated>true</IsTruncated>"),
        more,
    ] {
        let answer = list_all(&serve(&[&script]).await.store(), "").await;
        assert!(answer.is_err(), "{script}: {answer:?}");
    }
}
