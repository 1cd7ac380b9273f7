//! Real servers into a repository and back: every type of key, exactly; and what goes wrong is never listed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "redis/client.rs"]
mod client;
#[path = "redis/content.rs"]
mod content;
#[path = "redis/faults.rs"]
mod faults;
#[path = "redis/faulty.rs"]
mod faulty;
#[path = "ports/mod.rs"]
mod ports;
#[path = "redis/scripted.rs"]
mod scripted;
#[path = "redis/server.rs"]
mod server;
mod stage;
#[path = "redis/ways.rs"]
mod ways;

use std::time::Duration;

use components::Component as _;
use content::{Has, change, fill, look};
use server::{Server, program};
use stage::Stage;

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
        let to = stage.bring_back(manifest, &format!("to{number}")).await;
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
