//! Who may connect, and to whom: passwords, certificates, hosts.

use std::time::Duration;

use pg::conninfo::{ConnectOptions, Host, RootCert, Server, SslMode};
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
    let mut silent = cluster.by_tcp("scram", "");
    silent.servers[0].password = None;
    assert!(matches!(
        refused(&silent).await,
        ReplicationError::Authentication { .. }
    ));

    let tls = |host: &str, sslmode, ca: Option<&str>| ConnectOptions {
        servers: vec![cluster.at(host, "secret")],
        sslmode,
        sslrootcert: ca.map(|name| RootCert::File(cluster.directory.path().join(name))),
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
        servers: cluster.by_tcp("tls", "wrong").servers,
        ..tls("127.0.0.1", SslMode::Require, None)
    };
    assert_eq!(refused(&wrong).await.sqlstate(), Some("28P01"));
}

#[tokio::test]
async fn hosts_are_tried_in_order_and_a_silent_one_times_out() {
    let cluster = Cluster::start();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut closed = cluster.by_socket();
    closed
        .servers
        .insert(0, Server::new(Host::Unix("/nonexistent".into()), 5432));
    assert!(ReplicationSession::connect(&closed).await.is_ok());
    // One that refuses us leads to the next as well.
    closed.servers[0] = cluster.at("127.0.0.1", "");
    assert!(ReplicationSession::connect(&closed).await.is_ok());
    closed.servers.pop();
    closed
        .servers
        .push(Server::new(Host::Unix("/nonexistent".into()), 5432));
    let error = refused(&closed).await;
    assert!(
        matches!(&error, ReplicationError::NoServer { failures } if failures.len() == 2),
        "{error}"
    );
    let opts = ConnectOptions {
        servers: vec![Server::new(
            Host::Tcp("127.0.0.1".to_owned()),
            silent.local_addr().unwrap().port(),
        )],
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
