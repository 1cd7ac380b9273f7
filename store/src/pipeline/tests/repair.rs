//! Damage and what makes up for it: from the live cluster, from a copy, from what is left.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;

use super::fixture::{Files, Fixture, NOW_US};
use super::generations::{first_files, page};
use crate::chunk::{ChunkKind, EncodedChunk};
use crate::codec::Codec;
use crate::envelope::{Head, Kind};
use crate::id::{BackupId, PackId};
use crate::inventory::{Inventory, Named};
use crate::limits::PAGE_BYTES;
use crate::manifest::PackNeed;
use crate::object::memory::MemoryStore;
use crate::object::{ByteRange, ObjectName, ObjectStore as _, PutNew};
use crate::pack::PackWriter;
use crate::repair::{Rebuilt, add_spare, bring_back, places_of, rebuild_index, rebuild_pack, whole_in};
use crate::repository::{MadeUp, NewObject, Repository};
use crate::retry::SplitMix;
use crate::session::Purpose;
use crate::testing::manifest::empty_manifest;
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
            Damage::Cut => bytes.truncate((bytes.len() / 2).max(body + 1)),
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

    /// Puts a spare, as anybody can who may put objects.
    async fn plant(&self, name: &ObjectName, bytes: Bytes) {
        let id = BackupId::from_parts(0, crate::entropy::bytes().unwrap());
        let spare = self.fixture.host.layout().spare(name, id).unwrap();
        assert_eq!(self.memory.put_new(&spare, bytes).await.unwrap(), PutNew::Created);
    }

    async fn severity(&self, name: &ObjectName) -> Severity {
        let mut findings = [Finding {
            object: name.to_string(),
            severity: Severity::Damage,
            reason: "damaged".into(),
            is_its_own: true,
            is_planted: false,
        }];
        excuse(&self.fixture.restorer, &mut findings).await.unwrap();
        findings[0].severity
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_are_made_anew_from_the_live_cluster() {
    for damage in [Damage::Byte, Damage::Cut, Damage::Gone] {
        let mut case = Case::new(3).await;
        for pack in case.packs(Kind::DataPack) {
            let name = case.name(pack);
            case.damage(&name, damage).await;
            case.reopen().await;
            assert_eq!(case.severity(&name).await, Severity::Damage, "{damage:?}");
            let rebuilt = case.rebuild(pack).await.unwrap();
            assert_eq!(rebuilt.held, rebuilt.chunks, "{damage:?}");
            let chunks = rebuilt.chunks;
            let spare = add_spare(&case.fixture.host, &name, rebuilt.bytes, NOW_US)
                .await
                .unwrap()
                .unwrap();
            case.reopen().await;
            assert_eq!(
                case.fixture.host.layout().original_of(spare.as_str()),
                Some(name.clone())
            );
            // Of a pack of which nothing is left nobody knows all that it had.
            let wanted = match damage {
                Damage::Gone => (Severity::Damage, MadeUp::Chunks(chunks, chunks)),
                _ => (Severity::Notice, MadeUp::Wholly),
            };
            let made_up = case.fixture.restorer.made_up(&name).await.unwrap();
            assert_eq!((case.severity(&name).await, made_up), wanted, "{damage:?}");
            // Who cannot look into it does not take it for whole.
            assert_eq!(
                case.fixture.host.made_up(&name).await.unwrap(),
                MadeUp::Chunks(chunks, chunks)
            );
        }
        assert!(case.fixture.read_back(case.backup).await == case.files, "{damage:?}");
        // And the next one builds on it.
        let inputs = case.fixture.inputs(Some(case.backup)).await;
        let jobs = case.fixture.jobs(&case.files);
        let (next, outcome) = case.fixture.backup(inputs, jobs).await.unwrap();
        assert_eq!(outcome.totals.new_pages, 0);
        assert!(case.fixture.read_back(next).await == case.files, "{damage:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_lost_its_head_is_made_up_for_by_nobodys_word() {
    let mut case = Case::new(10).await;
    let pack = case.packs(Kind::DataPack)[0];
    let name = case.name(pack);
    let whole = case.memory.get(&name, ByteRange::All).await.unwrap();
    case.damage(&name, Damage::Head).await;
    case.reopen().await;
    let rebuilt = case.rebuild(pack).await.unwrap();
    for bytes in [whole, rebuilt.bytes] {
        assert_eq!(
            add_spare(&case.fixture.host, &name, bytes.clone(), NOW_US)
                .await
                .unwrap(),
            None
        );
        case.plant(&name, bytes).await;
    }
    case.reopen().await;
    assert_eq!(case.severity(&name).await, Severity::Damage);
    assert!(case.fixture.restorer.fetch_pack(pack).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_changed_meanwhile_comes_from_what_is_left() {
    for (damage, is_made_up) in [(Damage::Byte, true), (Damage::Cut, false), (Damage::Gone, false)] {
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
        assert!(
            add_spare(&case.fixture.host, &name, rebuilt.bytes, NOW_US)
                .await
                .unwrap()
                .is_some()
        );
        case.reopen().await;
        let wanted = if is_made_up { Severity::Notice } else { Severity::Damage };
        assert_eq!(case.severity(&name).await, wanted, "{damage:?}");
        if is_made_up {
            assert!(case.fixture.read_back(case.backup).await == case.files);
        }
        // What a part of a pack stands in for is no pack that a copy could have.
        assert!(case.fixture.restorer.read_checked(&name).await.is_err(), "{damage:?}");
        // The next backup refers to nothing that is not there.
        drop(case.fixture.jobs(&case.files));
        let mut inputs = case.fixture.inputs(None).await;
        let earlier = crate::pipeline::earlier::load(&case.fixture.host, None).await.unwrap();
        (inputs.parent, inputs.index, inputs.filter) = (earlier.parent, earlier.index, earlier.filter);
        let jobs = case.fixture.jobs(&case.files);
        let (next, _) = case.fixture.backup(inputs, jobs).await.unwrap();
        assert!(case.fixture.read_back(next).await == case.files, "{damage:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_makes_up_for_anything_that_has_kept_its_head() {
    for damage in [Damage::Byte, Damage::Cut, Damage::Gone] {
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
            let lies_at = bring_back(&case.fixture.host, &meta.name, bytes, NOW_US)
                .await
                .unwrap()
                .unwrap();
            assert_eq!(lies_at == meta.name, damage == Damage::Gone);
            seen += 1;
        }
        assert!(seen >= 4, "{seen}");
        case.reopen().await;
        for (named, meta) in &inventory.objects {
            let is_whole = object(&case.fixture.restorer, *named, meta).await.unwrap().is_ok();
            let is_key = matches!(named, Named::Keys(_));
            assert_eq!(is_whole, is_key || damage == Damage::Gone, "{} {damage:?}", meta.name);
            if !is_key {
                // Such a one can be copied on.
                let (bytes, _) = case.fixture.restorer.read_checked(&meta.name).await.unwrap();
                assert_eq!(Some(&bytes), copy.snapshot().get(&meta.name));
            }
        }
        assert!(case.fixture.read_back(case.backup).await == case.files, "{damage:?}");
        // What the manifest leads to is another matter.
        let mut follows = [Finding {
            object: case.fixture.host.layout().manifest(case.backup).unwrap().to_string(),
            severity: Severity::Damage,
            reason: "the WAL that makes it consistent is missing".into(),
            is_its_own: false,
            is_planted: false,
        }];
        excuse(&case.fixture.restorer, &mut follows).await.unwrap();
        assert_eq!(follows[0].severity, Severity::Damage);
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
    assert!(host.chunk_index().await.unwrap().is_empty());
    let made = rebuild_index(&case.fixture.writer(), &manifest, false, NOW_US)
        .await
        .unwrap();
    assert!(made.is_some() && !before.is_empty());
    case.reopen().await;
    assert_eq!(host.chunk_index().await.unwrap().encode(), before.encode());
    assert_eq!(case.severity(&name).await, Severity::Notice);
    let again = rebuild_index(&case.fixture.writer(), &manifest, false, NOW_US)
        .await
        .unwrap();
    assert_eq!(again, None);
}

/// Whatever a thief plants who has the host's key: what is whole is read as it is, and what is damaged is not what he says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_spares_spoil_nothing() {
    let mut case = Case::new(7).await;
    let other = Case::new(8).await;
    let inventory = Inventory::of(&case.fixture.restorer).await.unwrap();
    let mut planted = 0;
    for (named, meta) in &inventory.objects {
        let (writer, name) = (case.fixture.writer(), &meta.name);
        let own = case.memory.get(name, ByteRange::All).await.unwrap();
        let another = other.memory.snapshot().into_values().next().unwrap();
        let header = |kind, plain: &'static [u8]| NewObject::metadata(kind, plain, NOW_US);
        let mut forged = vec![
            Bytes::from_static(b"x"),
            own.slice(..own.len() / 2),
            another,
            writer.encode(name, header(Kind::Wal, b"another kind")).unwrap().0,
        ];
        match named {
            Named::Keys(_) => continue,
            Named::Manifest(_) => {
                let empty = empty_manifest(case.backup, case.fixture.lineage);
                let plain = crate::session::to_cbor(&empty).unwrap();
                forged.push(
                    writer
                        .encode(name, NewObject::metadata(Kind::Manifest, &plain, NOW_US))
                        .unwrap()
                        .0,
                );
            }
            Named::Pack(id) => {
                // With more chunks than the pack itself has.
                let session = case
                    .fixture
                    .host
                    .begin_session(case.fixture.lineage, Purpose::Backup)
                    .unwrap();
                let mut pack = PackWriter::spare(*id, session.key(), case.fixture.lineage, Vec::new()).unwrap();
                for number in 0..3000u32 {
                    let plain = number.to_le_bytes().to_vec();
                    pack.append(EncodedChunk {
                        kind: ChunkKind::Content,
                        id: case.fixture.host.keys().content_chunk_id(&plain),
                        plain_bytes: 4,
                        codec: Codec::Stored,
                        payload: plain,
                    })
                    .unwrap();
                }
                let pack = pack.finish(case.fixture.host.keys()).unwrap();
                forged.push(writer.encode_pack(pack, Some(&session), NOW_US).unwrap().1);
            }
            _ => {}
        }
        for bytes in forged {
            case.plant(name, bytes).await;
            planted += 1;
        }
    }
    assert!(planted > 16);
    case.reopen().await;
    assert!(case.fixture.read_back(case.backup).await == case.files);
    // They are named, each of them.
    let now = Inventory::of(&case.fixture.restorer).await.unwrap();
    let spares: Vec<_> = now.objects.iter().filter(|(named, _)| *named == Named::Spare).collect();
    assert_eq!(spares.len(), planted);
    for (named, meta) in spares {
        let found = object(&case.fixture.restorer, *named, meta).await.unwrap().unwrap_err();
        assert_eq!(found.object, meta.name.to_string());
    }
    for (named, meta) in &inventory.objects {
        if !matches!(named, Named::Keys(_)) {
            case.damage(&meta.name, Damage::Byte).await;
            let is_index = matches!(named, Named::Index(_));
            assert_eq!(
                case.severity(&meta.name).await == Severity::Damage,
                !is_index,
                "{}",
                meta.name
            );
            assert!(case.fixture.restorer.read(&meta.name).await.is_err(), "{}", meta.name);
        }
    }
    // What is gone is gone, whatever lies beside it: a backup that was given up does not come back.
    let manifest = case.fixture.host.layout().manifest(case.backup).unwrap();
    case.memory.delete(&manifest).await.unwrap();
    assert!(case.fixture.restorer.read(&manifest).await.unwrap_err().is_not_found());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_is_read_without_its_padding() {
    let mut case = Case::new(11).await;
    for need in case.packs.clone() {
        let name = case.name(need.id);
        let bytes = case.memory.get(&name, ByteRange::All).await.unwrap();
        let padding = Head::parse(name.as_str(), &bytes).unwrap().padding_bytes as usize;
        assert!(padding > 1);
        case.memory.overwrite(&name, bytes.slice(..bytes.len() - padding + 1));
        let longer = [&bytes[..], b"0"].concat();
        let host = &case.fixture.host;
        assert!(!Head::parse(name.as_str(), &bytes).unwrap().fits(longer.len() as u64));
        assert!(host.read(&name).await.is_ok());
    }
    case.reopen().await;
    assert!(case.fixture.read_back(case.backup).await == case.files);
}
