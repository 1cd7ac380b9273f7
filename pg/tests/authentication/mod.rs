//! Who may connect, and to whom: passwords, certificates, hosts.

use std::time::Duration;

use pg::conninfo::{ConnectOptions, Host, SslMode};
use pg::replication::{ReplicationError, ReplicationSession};

use super::LIMIT;
use super::cluster::Cluster;

async fn refused(opts: &ConnectOptions) -> ReplicationError {
    ReplicationSession::connect(opts).await.expect_err("a refusal")
}

#[tokio::test]
async fn passwords_and_certificates_are_checked() {
    let cluster = Cluster::start();
    for user in ["scram", "md5", "clear"] {
        let mut session = ReplicationSession::connect(&cluster.by_tcp(user, "secret"))
            .await
            .unwrap();
        session.identify_system().await.unwrap();
        let error = refused(&cluster.by_tcp(user, "wrong")).await;
        assert_eq!(error.sqlstate(), Some("28P01"), "{user}: {error}");
        assert!(matches!(error, ReplicationError::Authentication { .. }) && !error.is_transient());
    }
    let silent = ConnectOptions {
        password: None,
        ..cluster.by_tcp("scram", "")
    };
    assert!(matches!(
        refused(&silent).await,
        ReplicationError::Authentication { .. }
    ));

    let tls = |host: &str, sslmode, ca: Option<&str>| ConnectOptions {
        host: vec![Host::Tcp(host.to_owned())],
        sslmode,
        sslrootcert: ca.map(|name| cluster.directory.path().join(name)),
        ..cluster.by_tcp("tls", "secret")
    };
    let plain = refused(&tls("127.0.0.1", SslMode::Disable, None)).await;
    assert_eq!(plain.sqlstate(), Some("28000"));
    for opts in [
        tls("127.0.0.1", SslMode::Prefer, None),
        tls("127.0.0.1", SslMode::Require, None),
        tls("127.0.0.1", SslMode::Require, Some("ca.crt")),
        tls("127.0.0.1", SslMode::VerifyCa, Some("ca.crt")),
        tls("localhost", SslMode::VerifyFull, Some("ca.crt")),
        tls("localhost", SslMode::VerifyFull, Some("data/server.crt")),
    ] {
        let mut session = ReplicationSession::connect(&opts).await.unwrap();
        session.identify_system().await.unwrap();
    }
    for opts in [
        tls("127.0.0.1", SslMode::VerifyFull, Some("ca.crt")),
        tls("localhost", SslMode::VerifyFull, Some("other.crt")),
        tls("127.0.0.1", SslMode::VerifyCa, Some("other.crt")),
        tls("127.0.0.1", SslMode::Require, Some("other.crt")),
    ] {
        let error = refused(&opts).await;
        assert!(matches!(error, ReplicationError::TlsHandshake { .. }), "{error:?}");
        assert!(!error.is_transient());
    }
    let wrong = ConnectOptions {
        password: cluster.by_tcp("tls", "wrong").password,
        ..tls("127.0.0.1", SslMode::Require, None)
    };
    assert_eq!(refused(&wrong).await.sqlstate(), Some("28P01"));
}

#[tokio::test]
async fn hosts_are_tried_in_order_and_a_silent_one_times_out() {
    let cluster = Cluster::start();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = ConnectOptions {
        host: vec![Host::Unix("/nonexistent".into()), cluster.by_socket().host.remove(0)],
        ..cluster.by_socket()
    };
    assert!(ReplicationSession::connect(&closed).await.is_ok());
    let opts = ConnectOptions {
        port: silent.local_addr().unwrap().port(),
        connect_timeout: Duration::from_millis(200),
        sslmode: SslMode::Require,
        ..cluster.by_tcp("scram", "secret")
    };
    assert!(matches!(refused(&opts).await, ReplicationError::Timeout { .. }));
    let answer = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        loop {
            let (mut stream, _) = silent.accept().await.unwrap();
            let mut request = [0; 8];
            // The first connection is the one that was given up; its request is still there.
            if stream.read_exact(&mut request).await.is_ok() && stream.write_all(b"N").await.is_ok() {
                let _ = stream.read(&mut request).await;
            }
        }
    };
    let patient = ConnectOptions {
        connect_timeout: LIMIT,
        ..opts
    };
    tokio::select! {
        error = refused(&patient) => {
            assert!(matches!(error, ReplicationError::TlsNotOffered { .. }), "{error:?}");
        }
        () = answer => {}
    }
}
