//! Real servers into a repository and back: every type of key, exactly; and what goes wrong is never listed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "redis/client.rs"]
mod client;
#[path = "redis/content.rs"]
mod content;
#[path = "redis/scripted.rs"]
mod scripted;
#[path = "redis/server.rs"]
mod server;
#[path = "redis/stage.rs"]
mod stage;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use components::redis::{Address, FILE, Login, Plain, Redis, Sentinels, Servers, Tls};
use components::{Component as _, ComponentError};
use content::{Has, change, fill, look};
use rustix::process::{Pid, Signal, kill_process};
use server::{Server, program};
use stage::{Fault, Faulty, Stage};
use store::object::Secret;

/// Settings that a version has.
fn settings(name: &str) -> String {
    let digest = match name {
        "redis6" => "",
        _ => "enable-debug-command local\n",
    };
    format!("{digest}save \"\"\nappendonly no\nrepl-diskless-sync-delay 0\n")
}

fn has(name: &str) -> Has {
    Has {
        functions: name != "redis6",
        field_expiry: matches!(name, "redis8" | "valkey9"),
    }
}

async fn there_and_back(name: &str, more: &str) {
    let stage = Stage::new().await;
    let program = program(name);
    let settings = settings(name);
    let source = Server::start(&program, &stage.path("source"), &format!("{settings}{more}"));
    let mut client = source.client();
    let redis = stage.redis(source.address(), Some(&program));

    fill(&mut client, has(name));
    // Expires before it is restored.
    client.ask("SET soon v PX 1500");
    let mut seen = vec![look(&mut client)];
    let looked = redis.look().await.unwrap();
    assert!(looked.notes[0].ends_with("is a master"), "{looked:?}");
    let mut taken = vec![stage.take(&redis).await.unwrap()];
    change(&mut client);
    // The other way of sending, from here on.
    let is_diskless = client.ask("CONFIG GET repl-diskless-sync").items()[1].text() == "yes";
    client.ask(&format!(
        "CONFIG SET repl-diskless-sync {}",
        if is_diskless { "no" } else { "yes" }
    ));
    seen.push(look(&mut client));
    taken.push(stage.take(&redis).await.unwrap());
    assert_eq!(taken[1].parent, Some(taken[0].backup));
    // Looking and capturing left nothing behind.
    assert!(stage.host.component_manifests().await.unwrap().len() == 2);

    while client.ask("EXISTS soon").number() == 1 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (number, (manifest, seen)) in taken.iter().zip(&mut seen).enumerate() {
        seen.remove(&(3, b"soon".to_vec()));
        let to = stage.restore(manifest, &format!("to{number}")).await;
        let component = manifest.component.as_ref().unwrap();
        assert_eq!(component.facts["checksum"], "verified");
        assert!(name != "valkey9" || component.facts["rdb_version"] == "80");
        assert!(component.facts["keys"].parse::<u64>().unwrap() >= seen.len() as u64 - 1);
        assert_eq!(component.version, looked.version);
        let as_of = component.as_of_us;
        assert!(as_of <= manifest.finished_us && as_of > manifest.started_us - 2_000_000);
        assert_eq!(
            redis.compare(&component.facts, &to).await.unwrap(),
            Vec::<String>::new()
        );
        let restored = Server::start(&program, &to, &settings);
        let now = look(&mut restored.client());
        for (key, then) in &*seen {
            assert_eq!(now.get(key), Some(then), "{} {}", key.0, key.1.escape_ascii());
        }
        assert_eq!(now.len(), seen.len());
    }
    // The facts of one do not fit the file of the other.
    let facts = &taken[0].component.as_ref().unwrap().facts;
    let differs = redis.compare(facts, &stage.path("to1")).await.unwrap();
    assert!(differs.iter().any(|line| line.starts_with("db0_keys:")), "{differs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_6_comes_back_exactly() {
    there_and_back("redis6", "maxmemory 2gb\nmaxmemory-policy allkeys-lfu").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_7_comes_back_exactly() {
    there_and_back("redis7", "maxmemory 2gb\nmaxmemory-policy allkeys-lru").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_8_comes_back_exactly() {
    there_and_back("redis8", "maxmemory 2gb\nmaxmemory-policy allkeys-lfu").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn valkey_8_comes_back_exactly() {
    there_and_back("valkey8", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn valkey_9_comes_back_exactly() {
    there_and_back("valkey9", "repl-diskless-sync no").await;
}

/// What it says, with its hint.
fn said(error: &ComponentError) -> String {
    format!("{error} HINT: {}", error.hint().unwrap_or_default())
}

async fn refused(stage: &Stage, redis: &Redis, words: &[&str]) {
    for error in [
        redis.look().await.unwrap_err(),
        stage.take(redis).await.map(|_| ()).unwrap_err(),
    ] {
        let said = said(&error);
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    assert!(stage.is_empty().await);
}

fn login(user: Option<&str>, password: &str) -> Option<Login> {
    Some(Login {
        user: user.map(str::to_owned),
        password: Secret::new(password),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_a_missing_right_are_named_and_the_least_rights_suffice() {
    let stage = Stage::new().await;
    for (name, rdb_only) in [("redis6", "redis6"), ("redis7", "redis7")] {
        let settings = format!("{}requirepass secret\n", settings(name));
        let source = Server::start(&program(name), &stage.path(rdb_only), &settings);
        let mut client = source.client();
        client.ask("AUTH secret");
        client.ask("SET a b");
        client.ask("ACL SETUSER backup on >mine resetkeys -@all +psync +replconf +ping +info");
        let rights = ["psync", "replconf", "ping", "info"];
        for right in rights {
            let all = rights.iter().filter(|other| **other != right);
            let all = all.map(|right| format!("+{right}")).collect::<Vec<_>>().join(" ");
            client.ask(&format!("ACL SETUSER no-{right} on >mine resetkeys -@all {all}"));
        }
        let redis = stage.redis(source.address(), None);
        refused(&stage, &redis, &["NOAUTH", "wants a password"]).await;
        let with = |login| Redis { login, ..redis.clone() };
        refused(&stage, &with(login(None, "wrong")), &["WRONGPASS", "password"]).await;
        refused(
            &stage,
            &with(login(Some("backup"), "wrong")),
            &["WRONGPASS", "password"],
        )
        .await;
        for right in ["psync", "replconf", "info"] {
            let without = with(login(Some(&format!("no-{right}")), "mine"));
            refused(&stage, &without, &["NOPERM", "+psync +replconf +ping +info"]).await;
        }
        let error = with(login(Some("no-ping"), "mine")).look().await.unwrap_err();
        assert!(said(&error).contains("+ping"));
        // Looking has begun no transfer.
        let mut info = client.ask("INFO stats").text();
        assert!(info.contains("sync_full:0"), "{info}");
        let least = Redis {
            login: login(Some("backup"), "mine"),
            ..redis.clone()
        };
        least.look().await.unwrap();
        info = client.ask("INFO stats").text();
        assert!(info.contains("sync_full:0"), "{info}");
        let other = Stage::new().await;
        assert_eq!(other.take(&least).await.unwrap().component.unwrap().facts["keys"], "1");
        // Nobody is told of a password that is not there.
        client.ask("CONFIG SET requirepass ");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_and_protected_mode_are_named() {
    let stage = Stage::new().await;
    let nobody = stage.redis(Address::Tcp("127.0.0.1".into(), server::free_port()), None);
    refused(&stage, &nobody, &["connecting", "Is the server running"]).await;
    let no_socket = stage.redis(Address::Unix(stage.path("none")), None);
    refused(&stage, &no_socket, &["no such socket"]).await;
}

/// A server with more in it than fits between it and us.
fn large(stage: &Stage) -> Server {
    let source = Server::start(&program("redis7"), &stage.path("source"), &settings("redis7"));
    let mut client = source.client();
    // Texts that compression would make small are kept as they are.
    client.ask("CONFIG SET rdbcompression no");
    client.ask("DEBUG POPULATE 100000 key 1000");
    source
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_in_the_middle_leaves_no_backup() {
    for diskless in ["yes", "no"] {
        let stage = Stage::new().await;
        let source = large(&stage);
        source
            .client()
            .ask(&format!("CONFIG SET repl-diskless-sync {diskless}"));
        let id = Pid::from_raw(i32::try_from(source.id()).unwrap()).unwrap();
        let kill = move || kill_process(id, Signal::KILL).unwrap();
        let redis = Redis {
            dial: Arc::new(Faulty {
                behind: 20_000_000,
                fault: Fault::Calls(Arc::new(Mutex::new(Some(Box::new(kill))))),
            }),
            ..stage.redis(source.address(), None)
        };
        let error = stage.take(&redis).await.unwrap_err();
        assert!(matches!(error, ComponentError::System { .. }), "{error}");
        assert!(stage.is_empty().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_hangs_or_lies_leaves_no_backup() {
    let stage = Stage::new().await;
    let source = large(&stage);
    for diskless in ["yes", "no"] {
        source
            .client()
            .ask(&format!("CONFIG SET repl-diskless-sync {diskless}"));
        for (behind, fault, word) in [
            (20, Fault::Ends, "closed the connection"),
            (6_000, Fault::Ends, "closed the connection"),
            (10_000, Fault::Ends, "closed the connection"),
            (60_000_000, Fault::Ends, "closed the connection"),
            (60_000_000, Fault::Hangs, "nothing came"),
            (60_000_000, Fault::Flips, "redis at"),
        ] {
            let mut redis = stage.redis(source.address(), None);
            redis.waits.silence_max = Duration::from_secs(3);
            redis.dial = Arc::new(Faulty { behind, fault });
            let error = stage.take(&redis).await.unwrap_err();
            assert!(error.to_string().contains(word), "{behind} {error}");
            assert!(stage.is_empty().await);
        }
    }
    // The server is none the worse for it.
    let taken = stage.take(&stage.redis(source.address(), None)).await.unwrap();
    assert_eq!(taken.component.unwrap().facts["keys"], "100000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_server_cannot_load_is_told() {
    let stage = Stage::new().await;
    let source = Server::start(&program("redis8"), &stage.path("source"), &settings("redis8"));
    source.client().ask("SET a b");
    // An older server does not know the format.
    let redis = stage.redis(source.address(), Some(&program("redis6")));
    let taken = stage.take(&redis).await.unwrap();
    let to = stage.restore(&taken, "to").await;
    let facts = taken.component.unwrap().facts;
    let error = redis.compare(&facts, &to).await.unwrap_err();
    assert!(said(&error).contains("same version"), "{error}");
    std::fs::write(to.join(FILE), b"REDIS0012").unwrap();
    assert!(
        redis
            .compare(&facts, &to)
            .await
            .unwrap_err()
            .to_string()
            .contains("in the middle")
    );
    // Nothing of the trials is left.
    let left = std::fs::read_dir(stage.directory.path()).unwrap();
    assert!(
        left.flatten()
            .all(|entry| !entry.file_name().to_string_lossy().starts_with("seawall-redis"))
    );
}

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
    let port = server::free_port();
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
            Address::Tcp("127.0.0.1".into(), server::free_port()),
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
    let to = stage.restore(&taken, "to").await;
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
    let port = server::free_port();
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

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_instead_of_a_file_is_told() {
    for (script, words) in scripted::REFUSALS {
        let stage = Stage::new().await;
        let redis = stage.redis(scripted::server(script).await, None);
        let error = stage.take(&redis).await.unwrap_err();
        let said = said(&error);
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert!(stage.is_empty().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_is_not_known_is_captured_without_a_count() {
    let stage = Stage::new().await;
    let redis = stage.redis(scripted::server(scripted::UNKNOWN_TYPE).await, None);
    let facts = stage.take(&redis).await.unwrap().component.unwrap().facts;
    assert_eq!(
        (facts["unknown_type"].as_str(), facts["db0_keys_about"].as_str()),
        ("99", "7")
    );
    assert!(!facts.contains_key("keys") && facts["checksum"] == "verified");
}
