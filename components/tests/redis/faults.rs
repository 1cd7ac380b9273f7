//! What goes wrong is named, and never listed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use components::redis::{Address, FILE, Login, Redis};
use components::{Component as _, ComponentError};
use rustix::process::{Pid, Signal, kill_process};
use store::object::Secret;

use crate::faulty::{Fault, Faulty};
use crate::server::{Server, program};
use crate::stage::Stage;
use crate::{scripted, settings};

/// What it says, with its hint.
pub fn said(error: &ComponentError) -> String {
    format!("{error} HINT: {}", error.hint().unwrap_or_default())
}

pub async fn refused(stage: &Stage, redis: &Redis, words: &[&str]) {
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
async fn nobody_there_is_named() {
    let stage = Stage::new().await;
    let nobody = stage.redis(Address::Tcp("127.0.0.1".into(), crate::ports::free_port()), None);
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
    let to = stage.bring_back(&taken, "to").await;
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
