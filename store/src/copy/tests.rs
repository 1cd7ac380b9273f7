//! Copies: whole when nothing goes wrong, and with whole backups only when something does.

use super::*;
use crate::envelope::Kind;
use crate::id::LineageId;
use crate::keys::SigningKey;
use crate::manifest::{Manifest, PackNeed};
use crate::object::Operation;
use crate::object::memory::MemoryStore;
use crate::pipeline::commit;
use crate::records::{Condemned, Intent};
use crate::repository::{Created, NewObject, Writer, create};
use crate::session::to_cbor;
use crate::testing::manifest::empty_manifest;
use crate::testing::{Fault, NEW_REPOSITORY, ScriptedStore};

const BACKUPS: u64 = 4;

struct Fixture {
    memory: MemoryStore,
    created: Created,
    repository: Arc<Repository>,
}

fn backup(number: u64) -> BackupId {
    BackupId::from_parts(number, [1; 10])
}

fn pack(number: u64) -> PackId {
    PackId([number as u8; 16])
}

/// Four backups; each has a pack of its own and shares one with the backup before it.
async fn fixture() -> Fixture {
    let memory = MemoryStore::new();
    let (created, _) = create(Arc::new(memory.clone()), NEW_REPOSITORY, |_| Ok(()))
        .await
        .unwrap();
    let opened = Repository::open_as_host(Arc::new(memory.clone()), &created.host).await;
    let repository = Arc::new(opened.unwrap());
    let signing = Arc::new(SigningKey::from_seed(created.host.signing.seed().clone()).unwrap());
    let writer = Writer::new(Arc::clone(&repository), signing, 0);
    for number in 1..=BACKUPS {
        let intent = Intent {
            backup: backup(number),
            host: "h".into(),
            begun_us: 0,
        };
        commit::put_intent(&writer, &intent).await.unwrap();
        let name = repository.layout().pack(pack(number)).unwrap();
        let body = vec![number as u8; 3000];
        writer
            .put(&name, NewObject::metadata(Kind::DataPack, &body, 0))
            .await
            .unwrap();
        let need = |number| PackNeed {
            id: pack(number),
            kind: 1,
            body_bytes: 3000,
            live_bytes: 3000,
        };
        let manifest = Manifest {
            packs: (number.saturating_sub(1).max(1)..=number).map(need).collect(),
            ..empty_manifest(backup(number), LineageId::from_parts(1, [1; 10]))
        };
        commit::put_manifest(&writer, &manifest).await.unwrap();
    }
    Fixture {
        memory,
        created,
        repository,
    }
}

impl Fixture {
    async fn fill(&self, to: &Arc<dyn ObjectStore>) -> Result<Filled, StoreError> {
        fill(&self.repository, to, Depth::Missing, |_| ()).await
    }
}

/// Opens the copy by itself: each of its backups has what it needs, and counts. Returns how many there are.
async fn whole_backups(fixture: &Fixture, copy: &MemoryStore) -> usize {
    let store: Arc<dyn ObjectStore> = Arc::new(copy.clone());
    let Ok(repository) = Repository::open_as_host(store, &fixture.created.host).await else {
        return 0;
    };
    let manifests = repository.manifests().await.unwrap();
    for manifest in &manifests {
        assert!(repository.is_in_time(manifest).await.unwrap());
        for need in &manifest.packs {
            repository
                .read(&repository.layout().pack(need.id).unwrap())
                .await
                .unwrap();
        }
    }
    manifests.len()
}

#[tokio::test]
async fn a_copy_has_everything_and_is_filled_once() {
    let fixture = fixture().await;
    let copy = MemoryStore::new();
    let to: Arc<dyn ObjectStore> = Arc::new(copy.clone());
    let filled = fixture.fill(&to).await.unwrap();
    assert_eq!(copy.snapshot(), fixture.memory.snapshot());
    assert_eq!((filled.backups, filled.is_complete()), (BACKUPS, true));
    assert_eq!(whole_backups(&fixture, &copy).await, BACKUPS as usize);
    assert_eq!(fixture.fill(&to).await.unwrap(), Filled::default());
}

#[tokio::test]
async fn wherever_it_dies_every_backup_there_is_whole_and_the_next_run_goes_on() {
    let fixture = fixture().await;
    let mut died = 0;
    for request in 0.. {
        let copy = MemoryStore::new();
        let scripted = Arc::new(ScriptedStore::new(copy.clone()));
        for _ in 0..request {
            scripted.push(Operation::PutNew, "", Fault::Slow(std::time::Duration::ZERO));
        }
        scripted.push(Operation::PutNew, "", Fault::FailBefore);
        let to: Arc<dyn ObjectStore> = scripted.clone();
        match fixture.fill(&to).await {
            Ok(_) if scripted.pending() > 0 => break,
            filled => assert!(filled.is_err()),
        }
        died += 1;
        assert!(whole_backups(&fixture, &copy).await < BACKUPS as usize);
        fixture.fill(&to).await.unwrap();
        assert_eq!(copy.snapshot(), fixture.memory.snapshot());
    }
    assert!(died > 12, "died only {died} times");
}

#[tokio::test]
async fn what_is_damaged_or_missing_is_not_copied_and_the_backups_without_it_are() {
    let fixture = fixture().await;
    let spoilt = fixture.repository.layout().pack(pack(2)).unwrap();
    let bytes = fixture.memory.snapshot()[&spoilt].clone();
    let mut changed = bytes.to_vec();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    fixture.memory.overwrite(&spoilt, changed.into());
    let copy = MemoryStore::new();
    let to: Arc<dyn ObjectStore> = Arc::new(copy.clone());
    let filled = fixture.fill(&to).await.unwrap();
    assert_eq!((filled.backups, filled.waiting.len()), (2, 2), "{filled:?}");
    assert!(filled.left_out.iter().any(|(name, _)| *name == spoilt));
    assert_eq!(whole_backups(&fixture, &copy).await, 2);
    fixture.memory.delete(&spoilt).await.unwrap();
    let filled = fixture.fill(&to).await.unwrap();
    assert_eq!((filled.backups, filled.waiting.len()), (0, 2), "{filled:?}");
    // Mended, it is copied as if nothing had been.
    let _ = fixture.memory.put_new(&spoilt, bytes).await.unwrap();
    assert_eq!(fixture.fill(&to).await.unwrap().backups, 2);
    assert_eq!(whole_backups(&fixture, &copy).await, BACKUPS as usize);
}

#[tokio::test]
async fn a_pack_that_the_copy_has_lost_comes_back_when_it_is_looked_for() {
    let fixture = fixture().await;
    let copy = MemoryStore::new();
    let to: Arc<dyn ObjectStore> = Arc::new(copy.clone());
    fixture.fill(&to).await.unwrap();
    copy.delete(&fixture.repository.layout().pack(pack(3)).unwrap())
        .await
        .unwrap();
    assert_eq!(fixture.fill(&to).await.unwrap().objects, 0);
    let filled = fill(&fixture.repository, &to, Depth::Needed, |_| ()).await.unwrap();
    assert_eq!((filled.objects, filled.backups), (1, 0));
    assert_eq!(whole_backups(&fixture, &copy).await, BACKUPS as usize);
}

#[tokio::test]
async fn another_repository_or_another_object_under_a_name_is_refused() {
    let (fixture, other) = (fixture().await, fixture().await);
    let to: Arc<dyn ObjectStore> = Arc::new(other.memory.clone());
    let before = other.memory.snapshot();
    assert!(matches!(fixture.fill(&to).await, Err(StoreError::Foreign { .. })));
    assert_eq!(other.memory.snapshot(), before);
    let copy = MemoryStore::new();
    copy.overwrite(
        &fixture.repository.layout().pack(pack(1)).unwrap(),
        bytes::Bytes::from_static(b"x"),
    );
    let to: Arc<dyn ObjectStore> = Arc::new(copy.clone());
    // The first pack, which two backups need, is something else there.
    let filled = fixture.fill(&to).await.unwrap();
    assert_eq!((filled.backups, filled.conflicts.len()), (2, 2), "{filled:?}");
    assert_eq!(whole_backups(&fixture, &copy).await, 2);
}

#[tokio::test]
async fn a_backup_whose_packs_are_about_to_be_deleted_there_waits() {
    let fixture = fixture().await;
    let copy = MemoryStore::new();
    let to: Arc<dyn ObjectStore> = Arc::new(copy.clone());
    fixture.fill(&to).await.unwrap();
    // It was given up there, and its pack written down, just before it comes again.
    let there = fixture.repository.over(Arc::clone(&to));
    let seed = fixture.created.maintenance.signing_seed.clone().unwrap();
    let keeper = Arc::new(SigningKey::from_seed(seed).unwrap());
    let writer = Writer::new(Arc::new(there), keeper, 0);
    let list = Condemned {
        packs: vec![pack(4)],
        ..Condemned::default()
    };
    let name = fixture.repository.layout().condemned(backup(9)).unwrap();
    let plain = to_cbor(&list).unwrap();
    writer
        .put(&name, NewObject::metadata(Kind::Condemned, &plain, 0))
        .await
        .unwrap();
    copy.delete(&fixture.repository.layout().manifest(backup(4)).unwrap())
        .await
        .unwrap();
    let filled = fixture.fill(&to).await.unwrap();
    assert_eq!(
        (filled.backups, filled.waiting.len(), filled.is_complete()),
        (0, 1, false)
    );
    copy.delete(&name).await.unwrap();
    assert_eq!(fixture.fill(&to).await.unwrap().backups, 1);
}

#[tokio::test]
async fn a_pack_that_is_deleted_there_meanwhile_keeps_its_backup_waiting() {
    let fixture = fixture().await;
    let copy = MemoryStore::new();
    let to: Arc<dyn ObjectStore> = Arc::new(copy.clone());
    fixture.fill(&to).await.unwrap();
    let layout = fixture.repository.layout();
    copy.delete(&layout.manifest(backup(4)).unwrap()).await.unwrap();
    // It was compared with its packs, and then a prune deleted one.
    let copying = Copying::begin(&fixture.repository, &to, |_| ()).await.unwrap();
    copy.delete(&layout.pack(pack(3)).unwrap()).await.unwrap();
    let filled = copying.backups(Depth::Missing).await.unwrap();
    assert_eq!((filled.backups, filled.waiting.len()), (0, 1), "{filled:?}");
    assert_eq!(fixture.fill(&to).await.unwrap().backups, 1);
    copy.delete(&layout.manifest(backup(3)).unwrap()).await.unwrap();
    assert_eq!(whole_backups(&fixture, &copy).await, 3);
}
