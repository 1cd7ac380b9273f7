//! Other ways to a server: sentinels, TLS; and servers with settings that are seldom.

use std::sync::Arc;
use std::time::Duration;

use components::Component as _;
use components::redis::{Address, Plain, Redis, Sentinels, Servers, Tls};

use crate::faults::{refused, said};
use crate::server::{Server, program};
use crate::stage::Stage;
use crate::{scripted, settings};

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_in_step_is_preferred_and_the_master_is_taken_without_one() {
    let stage = Stage::new().await;
    let server = program("redis7");
    let master = Server::start(&server, &stage.path("master"), &settings("redis7"));
    master.client().ask("SET a b");
    let replica = format!("{}replicaof 127.0.0.1 {}\n", settings("redis7"), master.port);
    let replica = Server::start(&server, &stage.path("replica"), &replica);
    let sentinel = format!(
        "sentinel monitor mine 127.0.0.1 {} 1\nsentinel down-after-milliseconds mine 1000\nsentinel failover-timeout mine 600000\n",
        master.port
    );
    let port = crate::ports::free_port();
    let sentinel = Server::start_as(&server, &stage.path("sentinel"), &sentinel, &["--sentinel"], port);
    let in_step = || {
        let replicas = sentinel.client().ask("SENTINEL REPLICAS mine");
        let text = format!("{replicas:?}");
        text.contains("\"master-link-status\", \"ok\"")
    };
    wait_until("a replica in step", &in_step).await;

    let sentinels = Sentinels {
        // The first one is away.
        addresses: vec![
            Address::Tcp("127.0.0.1".into(), crate::ports::free_port()),
            sentinel.address(),
        ],
        master: "mine".into(),
        login: None,
    };
    let redis = Redis {
        servers: Servers::Sentinels(sentinels.clone()),
        ..stage.redis(master.address(), None)
    };
    let looked = redis.look().await.unwrap();
    assert_eq!(looked.notes[0], format!("127.0.0.1:{} is a replica", replica.port));
    let taken = stage.take(&redis).await.unwrap().component.unwrap();
    assert_eq!(
        (taken.facts["role"].as_str(), taken.facts["keys"].as_str()),
        ("slave", "1")
    );

    // It is gone: sentinels do not know yet, or know. Either way the master is left.
    drop(replica);
    let taken = stage.take(&redis).await.unwrap().component.unwrap();
    assert_eq!(taken.facts["role"], "master");
    wait_until("the replica is away", &|| {
        !in_step() || format!("{:?}", sentinel.client().ask("SENTINEL REPLICAS mine")).contains("s_down")
    })
    .await;
    let taken = stage.take(&redis).await.unwrap().component.unwrap();
    assert_eq!(taken.facts["role"], "master");

    let unknown = Redis {
        servers: Servers::Sentinels(Sentinels {
            master: "theirs".into(),
            ..sentinels
        }),
        ..redis
    };
    let error = unknown.look().await.unwrap_err();
    assert!(said(&error).contains("knows no master \"theirs\""), "{error}");
}

async fn wait_until(what: &str, is_so: &dyn Fn() -> bool) {
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(std::time::Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_checksums_is_captured_and_that_is_written_down() {
    let stage = Stage::new().await;
    let settings = format!("{}rdbchecksum no\n", settings("redis7"));
    let server = program("redis7");
    let source = Server::start(&server, &stage.path("source"), &settings);
    source.client().ask("SET a b");
    let redis = stage.redis(source.address(), Some(&server));
    let taken = stage.take(&redis).await.unwrap();
    let to = stage.bring_back(&taken, "to").await;
    let facts = taken.component.unwrap().facts;
    assert_eq!(facts["checksum"], "none");
    assert_eq!(redis.compare(&facts, &to).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_with_a_server_whose_certificate_is_believed() {
    let stage = Stage::new().await;
    let (key, certificate) = (stage.path("key.pem"), stage.path("certificate.pem"));
    let made = std::process::Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=redis".split(' '))
        .args([
            "-addext",
            "subjectAltName=DNS:redis.test",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ])
        .args([
            "-keyout".as_ref(),
            key.as_os_str(),
            "-out".as_ref(),
            certificate.as_os_str(),
        ])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let port = crate::ports::free_port();
    let settings = format!(
        "{}tls-port {port}\ntls-auth-clients no\ntls-key-file {}\ntls-cert-file {}\ntls-ca-cert-file {}\n",
        settings("redis7"),
        key.display(),
        certificate.display(),
        certificate.display()
    );
    let source = Server::start(&program("redis7"), &stage.path("source"), &settings);
    source.client().ask("SET a b");
    let tls = |server_name: &str| Tls {
        config: scripted::believing(&certificate),
        server_name: Some(server_name.into()),
    };
    let redis = Redis {
        dial: Arc::new(tls("redis.test")),
        ..stage.redis(Address::Tcp("127.0.0.1".into(), port), None)
    };
    redis.look().await.unwrap();
    let other = Stage::new().await;
    assert_eq!(other.take(&redis).await.unwrap().component.unwrap().facts["keys"], "1");
    let wrong_name = Redis {
        dial: Arc::new(tls("other.test")),
        ..redis.clone()
    };
    refused(&stage, &wrong_name, &["certificate"]).await;
    let plain = Redis {
        dial: Arc::new(Plain),
        ..redis.clone()
    };
    refused(&stage, &plain, &["redis at 127.0.0.1"]).await;
}
