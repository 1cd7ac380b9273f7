//! Every byte of a small repository is changed, one at a time; every object is cut at many lengths, taken away, swapped with its like.
//! Verifying notices each of them, or a reader sees what it saw before.
//!
//! `SEAWALL_MUTATIONS=all` changes every byte in three ways, over a million mutations; without it every 23rd.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use pg::lsn::Lsn;
use pg::timeline::TimelineId;
use store::inventory::Inventory;
use store::keys::Role;
use store::keys::file::{OpeningKeyFile, read_opening};
use store::object::memory::MemoryStore;
use store::object::{ObjectMeta, ObjectName, ObjectStore};
use store::repository::Repository;
use store::verify::{Severity, Watermark, object, structure};

const WAYS: [u8; 3] = [0x01, 0x80, 0xFF];

/// Every so-manieth byte is changed.
fn step() -> usize {
    match std::env::var("SEAWALL_MUTATIONS").as_deref() {
        Ok("all") => 1,
        _ => 23,
    }
}

type Objects = BTreeMap<ObjectName, Bytes>;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden-1-root")
}

fn load(directory: &Path, prefix: &str, objects: &mut Objects) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            load(&entry.path(), &format!("{name}/"), objects);
        } else {
            let bytes = std::fs::read(entry.path()).unwrap();
            objects.insert(ObjectName::new(name).unwrap(), bytes.into());
        }
    }
}

fn objects() -> Objects {
    let mut objects = Objects::new();
    load(&golden().join("repository"), "", &mut objects);
    objects
}

fn key() -> OpeningKeyFile {
    use std::os::unix::fs::PermissionsExt;
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("restore.key");
    std::fs::copy(golden().join("keys/restore.key"), &path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    read_opening(&path, Role::Restore).unwrap()
}

fn store_of(objects: &Objects) -> MemoryStore {
    let store = MemoryStore::new();
    for (name, bytes) in objects {
        store.overwrite(name, bytes.clone());
    }
    store
}

/// Where the archive ended when it was healthy.
fn watermark(repository: &Repository, objects: &Objects) -> Watermark {
    let names = objects
        .keys()
        .filter_map(|name| repository.layout().parse_wal(name.as_str()));
    let mut newest = None;
    for name in names {
        if let store::layout::WalName::Range(range) = name {
            newest = newest.max(Some((range.end, range.lineage)));
        }
    }
    let (archived, lineage): (Lsn, _) = newest.unwrap();
    Watermark {
        lineage,
        timeline: TimelineId::new(1).unwrap(),
        archived,
        may_lag: false,
    }
}

/// What the whole verification says; `None` when not even the repository opens.
async fn verify(objects: &Objects, key: &OpeningKeyFile, healthy: Watermark) -> Option<Vec<store::verify::Finding>> {
    let repository = Repository::open_as_restorer(Arc::new(store_of(objects)), key)
        .await
        .ok()?;
    let Ok(structure) = structure(&repository, Some(healthy)).await else {
        return None;
    };
    let mut findings = structure.findings;
    for (named, meta) in &structure.inventory.objects {
        match object(&repository, *named, meta).await {
            Ok(Ok(_)) => {}
            Ok(Err(finding)) => findings.push(finding),
            Err(_) => return None,
        }
    }
    Some(findings)
}

async fn open(objects: &Objects) -> (MemoryStore, Repository) {
    let store = store_of(objects);
    let repository = Repository::open_as_restorer(Arc::new(store.clone()), &key())
        .await
        .unwrap();
    (store, repository)
}

#[tokio::test]
async fn a_healthy_repository_has_no_findings() {
    let objects = objects();
    let (_, repository) = open(&objects).await;
    let watermark = watermark(&repository, &objects);
    assert_eq!(verify(&objects, &key(), watermark).await, Some(Vec::new()));
}

/// An object, how many changes were made to it, and which of them nobody noticed.
type Flipped = (ObjectName, u64, Vec<(usize, u8)>);

/// Changes bytes of one object in place; returns how many were changed and which of them nobody noticed.
async fn flip(objects: &Objects, name: &ObjectName, step: usize) -> (u64, Vec<(usize, u8)>) {
    let (store, repository) = open(objects).await;
    let inventory = Inventory::of(&repository).await.unwrap();
    let named = inventory.objects.iter().find(|(_, meta)| meta.name == *name);
    let healthy = objects.get(name).unwrap();
    let (mut count, mut unnoticed) = (0, Vec::new());
    for at in (0..healthy.len()).step_by(step) {
        for way in WAYS {
            let mut changed = healthy.to_vec();
            changed[at] ^= way;
            store.overwrite(name, changed.into());
            count += 1;
            let is_noticed = match named {
                Some((named, meta)) => {
                    let meta: &ObjectMeta = meta;
                    // The period of keys is read when the repository is opened, and nothing else is believed before.
                    object(&repository, *named, meta).await.unwrap().is_err()
                }
                None => Repository::open_as_restorer(Arc::new(store.clone()), &key())
                    .await
                    .is_err(),
            };
            if !is_noticed {
                unnoticed.push((at, way));
            }
        }
    }
    (count, unnoticed)
}

#[test]
fn no_byte_can_be_changed_without_being_noticed() {
    let step = step();
    let objects = objects();
    let names: Vec<ObjectName> = objects.keys().cloned().collect();
    let results: Vec<Flipped> = std::thread::scope(|scope| {
        let threads: Vec<_> = names
            .into_iter()
            .map(|name| {
                let objects = &objects;
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    let (count, unnoticed) = runtime.block_on(flip(objects, &name, step));
                    (name, count, unnoticed)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let count: u64 = results.iter().map(|(_, count, _)| count).sum();
    let mut harmless = 0;
    for (name, _, unnoticed) in &results {
        if name.as_str() == "seawall.json" {
            // Clear text for people: what a reader takes from it is format, id and features, and those were noticed.
            let text = objects.get(name).unwrap();
            for (at, way) in unnoticed {
                let mut changed = text.to_vec();
                changed[*at] ^= *way;
                assert_eq!(facts(&changed), facts(text), "byte {at} of {name}");
            }
            harmless += unnoticed.len();
        } else {
            assert!(unnoticed.is_empty(), "{name}: {unnoticed:?}");
        }
    }
    println!("{count} changed bytes: all noticed but {harmless}, which no reader looks at");
    assert!(count > 50_000);
}

/// What a reader takes from `seawall.json`.
fn facts(text: &[u8]) -> Option<(u64, String, u64)> {
    let json: serde_json::Value = serde_json::from_slice(text).ok()?;
    let features = json
        .get("required_features")
        .map_or(Some(0), serde_json::Value::as_u64)?;
    Some((
        json["format"].as_u64()?,
        json["repository"].as_str()?.to_owned(),
        features,
    ))
}

#[tokio::test]
async fn what_is_cut_swapped_or_taken_away_is_noticed() {
    let objects = objects();
    let key = key();
    let (_, repository) = open(&objects).await;
    let healthy = watermark(&repository, &objects);
    let mut count = 0;
    let mut check = async |mutant: Objects, what: String, at_least: Severity| {
        count += 1;
        let found = verify(&mutant, &key, healthy).await;
        let worst = found.map_or(Some(Severity::Damage), |findings| {
            findings.iter().map(|finding| finding.severity).max()
        });
        assert!(worst >= Some(at_least), "{what}: {worst:?}");
    };
    for (name, bytes) in &objects {
        let mut without = objects.clone();
        without.remove(name);
        // The intent of a backup that has ended, and its index, which can be made again, are nothing that a restore needs; a manifest that is not there is
        // what a backup that died looks like.
        let directory = name.as_str().split('/').nth(2).unwrap_or_default();
        let at_least = match directory {
            "intents" | "backups" => Severity::Notice,
            "index" => Severity::Notice,
            _ => Severity::Damage,
        };
        if directory != "index" {
            check(without, format!("{name} is missing"), at_least).await;
        }
        let lengths = (0..400)
            .chain((400..bytes.len()).step_by(4096))
            .chain(bytes.len().checked_sub(1));
        for length in lengths.filter(|length| *length < bytes.len()) {
            let mut cut = objects.clone();
            cut.insert(name.clone(), bytes.slice(..length));
            check(cut, format!("{name} is cut at {length}"), Severity::Damage).await;
        }
        let mut longer = objects.clone();
        longer.insert(name.clone(), [&bytes[..], b"x"].concat().into());
        check(longer, format!("{name} is longer"), Severity::Damage).await;
        for (other, others) in objects.iter().filter(|(other, _)| *other > name) {
            let mut swapped = objects.clone();
            swapped.insert(name.clone(), others.clone());
            swapped.insert(other.clone(), bytes.clone());
            check(swapped, format!("{name} and {other} are swapped"), Severity::Damage).await;
        }
    }
    println!("{count} repositories with an object cut, swapped or taken away: all noticed");
}

#[tokio::test]
async fn what_the_keys_at_hand_cannot_open_is_compared_with_its_signature() {
    let objects = objects();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("maintenance.key");
    std::fs::copy(golden().join("keys/maintenance.key"), &path).unwrap();
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let key = read_opening(&path, Role::Maintenance).unwrap();
    let store = store_of(&objects);
    let repository = Repository::open_as_keeper(Arc::new(store.clone()), &key).await.unwrap();
    assert!(!repository.can_decrypt());
    let inventory = Inventory::of(&repository).await.unwrap();
    for (named, meta) in &inventory.objects {
        let verdict = object(&repository, *named, meta).await.unwrap().unwrap();
        let is_data = meta.name.as_str().contains("/wal/") || meta.name.as_str().contains("/tail/");
        assert!(!is_data || verdict == store::verify::Depth::Stored, "{}", meta.name);
        let mut bytes = objects.get(&meta.name).unwrap().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        store.overwrite(&meta.name, bytes.into());
        assert!(
            object(&repository, *named, meta).await.unwrap().is_err(),
            "{}",
            meta.name
        );
    }
    assert!(
        store
            .head(&ObjectName::new("nothing").unwrap())
            .await
            .unwrap()
            .is_none()
    );
}
