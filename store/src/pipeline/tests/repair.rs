//! Damage and what makes up for it: from the live cluster, from a copy, from what is left.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;

use super::fixture::{Files, Fixture, NOW_US};
use super::generations::{first_files, page};
use crate::envelope::{Head, Kind};
use crate::id::{BackupId, PackId};
use crate::inventory::{Inventory, Named};
use crate::limits::PAGE_BYTES;
use crate::manifest::PackNeed;
use crate::object::memory::MemoryStore;
use crate::object::{ByteRange, ObjectName, ObjectStore as _};
use crate::repair::{Rebuilt, add_spare, bring_back, places_of, rebuild_index, rebuild_pack, whole_in};
use crate::repository::{MadeUp, Repository};
use crate::retry::SplitMix;
use crate::verify::{Finding, Severity, excuse, object};

/// A backup, and the store it lies in.
struct Case {
    memory: MemoryStore,
    fixture: Fixture,
    files: Files,
    backup: BackupId,
    packs: Vec<PackNeed>,
}

/// How a pack is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// A byte of its first chunk.
    Byte,
    /// Its head.
    Head,
    /// Its end, with the footer.
    Cut,
    /// All of it.
    Gone,
}

impl Case {
    async fn new(seed: u64) -> Self {
        let memory = MemoryStore::new();
        let mut fixture = Fixture::new(Arc::new(memory.clone())).await;
        let files = first_files(&SplitMix::new(seed));
        let inputs = fixture.inputs(None).await;
        let jobs = fixture.jobs(&files);
        let (backup, outcome) = fixture.backup(inputs, jobs).await.unwrap();
        Case {
            memory,
            fixture,
            files,
            backup,
            packs: outcome.packs,
        }
    }

    fn name(&self, pack: PackId) -> ObjectName {
        self.fixture.host.layout().pack(pack).unwrap()
    }

    fn packs(&self, kind: Kind) -> Vec<PackId> {
        let of_kind = self.packs.iter().filter(|need| need.kind == kind as u8);
        of_kind.map(|need| need.id).collect()
    }

    async fn damage(&self, name: &ObjectName, damage: Damage) {
        let mut bytes = self.memory.get(name, ByteRange::All).await.unwrap().to_vec();
        let body = usize::try_from(
            Head::parse(name.as_str(), &Bytes::from(bytes.clone()))
                .unwrap()
                .body_start(),
        )
        .unwrap();
        match damage {
            Damage::Byte => bytes[body + 5] ^= 1,
            Damage::Head => bytes[20] ^= 1,
            Damage::Cut => bytes.truncate(bytes.len() / 2),
            Damage::Gone => return self.memory.delete(name).await.unwrap(),
        }
        self.memory.overwrite(name, bytes.into());
    }

    /// As somebody finds it who opens it now.
    async fn reopen(&mut self) {
        let opened = Repository::open_as_restorer(Arc::new(self.memory.clone()), &self.fixture.created.restore);
        self.fixture.restorer = opened.await.unwrap();
        self.fixture.host.refresh().await.unwrap();
    }

    async fn rebuild(&self, pack: PackId) -> Option<Rebuilt> {
        let host = &self.fixture.host;
        let manifests = vec![host.manifest(self.backup).await.unwrap()];
        let places = places_of(host, &manifests, &BTreeSet::from([pack])).await.unwrap();
        let read = |path: &[u8], at: u64, len: usize| {
            let path = String::from_utf8(path.to_vec()).unwrap().replace('/', "_");
            let file = std::fs::File::open(self.fixture.directory.path().join(path)).ok()?;
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, at).ok()?;
            Some(bytes)
        };
        let lineage = self.fixture.lineage;
        rebuild_pack(&self.fixture.writer(), (pack, lineage), &places, read, NOW_US)
            .await
            .unwrap()
    }

    async fn severity(&self, name: &ObjectName) -> Severity {
        let mut findings = [Finding {
            object: name.to_string(),
            severity: Severity::Damage,
            reason: "damaged".into(),
        }];
        excuse(&self.fixture.restorer, &mut findings).await.unwrap();
        findings[0].severity
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_are_made_anew_from_the_live_cluster() {
    for damage in [Damage::Byte, Damage::Head, Damage::Cut, Damage::Gone] {
        let mut case = Case::new(3).await;
        for pack in case.packs(Kind::DataPack) {
            let name = case.name(pack);
            case.damage(&name, damage).await;
            case.reopen().await;
            assert_eq!(case.severity(&name).await, Severity::Damage, "{damage:?}");
            let rebuilt = case.rebuild(pack).await.unwrap();
            assert_eq!(rebuilt.held, rebuilt.chunks, "{damage:?}");
            let spare = add_spare(&case.fixture.host, &name, rebuilt.bytes, NOW_US)
                .await
                .unwrap();
            assert_eq!(
                case.fixture.host.layout().original_of(spare.as_str()),
                Some(name.clone())
            );
            case.reopen().await;
            assert_eq!(case.severity(&name).await, Severity::Notice, "{damage:?}");
            assert_eq!(case.fixture.host.made_up(&name).await.unwrap(), MadeUp::Wholly);
        }
        assert!(case.fixture.read_back(case.backup).await == case.files, "{damage:?}");
        // And the next one builds on it.
        let inputs = case.fixture.inputs(Some(case.backup)).await;
        let jobs = case.fixture.jobs(&case.files);
        let (next, _) = case.fixture.backup(inputs, jobs).await.unwrap();
        assert!(case.fixture.read_back(next).await == case.files, "{damage:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_changed_meanwhile_comes_from_what_is_left() {
    for (damage, is_made_up) in [(Damage::Byte, true), (Damage::Cut, false)] {
        let mut case = Case::new(4).await;
        let pack = case.packs(Kind::DataPack)[0];
        let name = case.name(pack);
        case.damage(&name, damage).await;
        // Not the first chunk of the pack: that is what one byte has destroyed.
        let mut live = case.files.clone();
        let (_, bytes) = live.get_mut("base/5/1").unwrap();
        bytes[600 * PAGE_BYTES..601 * PAGE_BYTES].copy_from_slice(&page(&SplitMix::new(99)));
        drop(case.fixture.jobs(&live));
        let rebuilt = case.rebuild(pack).await.unwrap();
        assert_eq!(rebuilt.held + 1, rebuilt.chunks, "{damage:?}");
        add_spare(&case.fixture.host, &name, rebuilt.bytes, NOW_US)
            .await
            .unwrap();
        case.reopen().await;
        let wanted = if is_made_up { Severity::Notice } else { Severity::Damage };
        assert_eq!(case.severity(&name).await, wanted, "{damage:?}");
        if is_made_up {
            assert!(case.fixture.read_back(case.backup).await == case.files);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_makes_up_for_anything() {
    for damage in [Damage::Byte, Damage::Head, Damage::Cut, Damage::Gone] {
        let mut case = Case::new(5).await;
        let copy = MemoryStore::new();
        copy.reset(&case.memory.snapshot().into_iter().collect::<Vec<_>>());
        let inventory = Inventory::of(&case.fixture.restorer).await.unwrap();
        let mut seen = 0;
        for (named, meta) in &inventory.objects {
            if matches!(named, Named::Keys(_)) {
                continue;
            }
            case.damage(&meta.name, damage).await;
            let there = case.fixture.restorer.over(Arc::new(copy.clone()));
            let bytes = whole_in(&there, &meta.name).await.unwrap().unwrap();
            let lies_at = bring_back(&case.fixture.host, &meta.name, bytes, NOW_US).await.unwrap();
            assert_eq!(lies_at == meta.name, damage == Damage::Gone);
            seen += 1;
        }
        assert!(seen >= 4, "{seen}");
        case.reopen().await;
        for (named, meta) in &inventory.objects {
            let is_whole = object(&case.fixture.restorer, *named, meta).await.unwrap().is_ok();
            let is_key = matches!(named, Named::Keys(_));
            assert_eq!(is_whole, is_key || damage == Damage::Gone, "{} {damage:?}", meta.name);
        }
        assert!(case.fixture.read_back(case.backup).await == case.files, "{damage:?}");
        // Nothing is believed that was damaged in the copy as well.
        let name = case.name(case.packs[0].id);
        copy.overwrite(&name, Bytes::from_static(b"SEAWALL"));
        let there = case.fixture.restorer.over(Arc::new(copy.clone()));
        assert!(whole_in(&there, &name).await.unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_is_made_anew_from_footers() {
    let mut case = Case::new(6).await;
    let host = Arc::clone(&case.fixture.host);
    let name = host.layout().index(case.backup).unwrap();
    let before = host.chunk_index().await.unwrap();
    case.damage(&name, Damage::Byte).await;
    let manifest = host.manifest(case.backup).await.unwrap();
    let bytes = rebuild_index(&case.fixture.writer(), &manifest, NOW_US)
        .await
        .unwrap()
        .unwrap();
    assert!(host.chunk_index().await.unwrap().is_empty());
    add_spare(&host, &name, bytes, NOW_US).await.unwrap();
    case.reopen().await;
    assert!(!before.is_empty());
    assert_eq!(host.chunk_index().await.unwrap().encode(), before.encode());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_spares_spoil_nothing() {
    let mut case = Case::new(7).await;
    let other = Case::new(8).await;
    let inventory = Inventory::of(&case.fixture.restorer).await.unwrap();
    for (number, (named, meta)) in (0..).zip(&inventory.objects) {
        if matches!(named, Named::Keys(_)) {
            continue;
        }
        let layout = case.fixture.host.layout();
        let own = case.memory.get(&meta.name, ByteRange::All).await.unwrap();
        let another = other.memory.snapshot().into_values().next().unwrap();
        let planted = [Bytes::from_static(b"x"), own.slice(..own.len() / 2), another];
        for (at, bytes) in (0..).zip(planted) {
            let id = BackupId::from_parts(number, [at; 10]);
            drop(case.memory.put_new(&layout.spare(&meta.name, id).unwrap(), bytes).await);
        }
    }
    case.reopen().await;
    assert!(case.fixture.read_back(case.backup).await == case.files);
    // They are named, each of them.
    let now = Inventory::of(&case.fixture.restorer).await.unwrap();
    let spares: Vec<_> = now.objects.iter().filter(|(named, _)| *named == Named::Spare).collect();
    assert_eq!(spares.len(), 3 * (inventory.objects.len() - 1));
    for (named, meta) in spares {
        let found = object(&case.fixture.restorer, *named, meta).await.unwrap().unwrap_err();
        assert_eq!(found.object, meta.name.to_string());
    }
    let pack = case.name(case.packs[0].id);
    case.damage(&pack, Damage::Byte).await;
    assert_eq!(case.severity(&pack).await, Severity::Damage);
}
